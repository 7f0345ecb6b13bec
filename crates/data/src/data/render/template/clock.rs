//! The date that a template may ask for (`strftime_now`).
//!
//! A rendering is a function of the recipe, so the date is a value, not the clock on the wall: unless told otherwise
//! it is 26 July 2024, the date that Llama 3's own templates fall back to. Refuses to know: time zones.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};

/// A moment, in seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock(pub i64);

impl Default for Clock {
    fn default() -> Clock {
        Clock(1_721_952_000)
    }
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl Clock {
    /// The moment that `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS` or an RFC 3339 text says. An offset is read and does not
    /// count: a template is told the time as it is written, as a clock on the wall there shows it.
    ///
    /// # Errors
    /// What is wrong with `text`, and the forms that are read.
    pub fn parse(text: &str) -> Result<Clock, String> {
        let wrong = || format!("\"{text}\" is no moment; write 2025-07-10, \"2025-07-10 12:00:00\" or 2025-07-10T12:00:00Z");
        #[allow(clippy::unwrap_used, reason = "the pattern is a constant and parses")]
        let form =
            regex::Regex::new(r"^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?$").unwrap();
        let parts = form.captures(text).ok_or_else(wrong)?;
        let number = |i: usize| parts.get(i).map_or(0, |m| m.as_str().parse::<i16>().unwrap_or(0));
        let date = Date::new(number(1), number(2) as i8, number(3) as i8).map_err(|_| wrong())?;
        let [hour, minute, second] = [4, 5, 6].map(|i| i64::from(number(i)));
        if hour > 23 || minute > 59 || second > 60 {
            return Err(wrong());
        }
        Ok(Clock(date.duration_since(EPOCH.date()).as_secs() + hour * 3600 + minute * 60 + second))
    }

    /// Python's `strftime` for the codes that templates use; an unknown code stays as it is.
    pub(super) fn strftime(self, format: &str) -> String {
        let at = EPOCH.saturating_add(SignedDuration::from_secs(self.0));
        let (mut codes, mut chars) = (String::new(), format.chars().peekable());
        while let Some(c) = chars.next() {
            if c != '%' {
                codes.push(c);
                continue;
            }
            let plain = chars.next_if_eq(&'-').is_some();
            codes += &chars.next().map_or("%%".into(), |code| jiffs(code, plain));
        }
        // The date and the time are there for every code that `jiffs` lets through, so this cannot fail.
        at.strftime(&codes).to_string()
    }
}

/// What jiff is asked for where Python's `strftime` has `%code`, or `%-code` when `plain`.
fn jiffs(code: char, plain: bool) -> String {
    match code {
        // glibc does not fill a year up to four digits.
        'Y' => "%-Y".into(),
        'F' => "%-Y-%m-%d".into(),
        'c' => "%a %b %e %H:%M:%S %-Y".into(),
        'x' => "%D".into(),
        'X' => "%T".into(),
        // A moment of Python's `datetime.now()` has no zone.
        'Z' | 'z' => String::new(),
        'y' | 'm' | 'd' | 'H' | 'I' | 'M' | 'S' | 'j' => format!("%{}{code}", if plain { "-" } else { "" }),
        'e' | 'B' | 'b' | 'h' | 'A' | 'a' | 'p' | 'w' | 'u' | 'D' | 'T' | 'R' | '%' => format!("%{code}"),
        unknown => format!("%%{unknown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strftime_writes_what_python_writes() {
        // python3 -c "import datetime as d; print(d.datetime.fromtimestamp(T, d.UTC).strftime(F))"
        assert_eq!(Clock::default().strftime("%d %b %Y"), "26 Jul 2024");
        assert_eq!(Clock(1_752_148_800).strftime("%A, %-d %B %Y %H:%M:%S %I %p %y"), "Thursday, 10 July 2025 12:00:00 12 PM 25");
        assert_eq!(Clock(951_782_400).strftime("%a %e %F %T %%"), "Tue 29 2000-02-29 00:00:00 %");
        assert_eq!(Clock(-1).strftime("%Y-%m-%d %H:%M"), "1969-12-31 23:59");
        assert_eq!(Clock(-30_641_760_000).strftime("%Y %F %j %Z%z|"), "999 999-01-01 001 |");
        assert_eq!(Clock(0).strftime("%Q %é %-"), "%Q %é %");
    }

    #[test]
    fn a_moment_is_read_as_it_is_written() {
        assert_eq!(Clock::parse("2025-07-10"), Ok(Clock(1_752_105_600)));
        for text in ["2025-07-10 12:00:00", "2025-07-10T12:00:00Z", "2025-07-10T12:00:00.5+02:00"] {
            assert_eq!(Clock::parse(text), Ok(Clock(1_752_148_800)), "{text}");
        }
        for text in ["2025-02-30", "2025-13-01", "10.7.2025", "2025-07-10T25:00:00Z", ""] {
            assert!(Clock::parse(text).unwrap_err().contains("is no moment"), "{text}");
        }
        for day in (-354_000..2_932_000).step_by(3_007) {
            let moment = Clock(day * 86_400);
            assert_eq!(Clock::parse(&moment.strftime("%F")), Ok(moment));
        }
    }
}
