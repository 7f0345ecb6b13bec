//! The date that a template may ask for (`strftime_now`).
//!
//! A rendering is a function of the recipe, so the date is a value, not the clock on the wall: unless told otherwise
//! it is 26 July 2024, the date that Llama 3's own templates fall back to.

/// A moment, in seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock(pub i64);

impl Default for Clock {
    fn default() -> Clock {
        Clock(1_721_952_000)
    }
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

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
        let number = |i: usize| parts.get(i).map_or(0, |m| m.as_str().parse::<i64>().unwrap_or(0));
        let days = days(number(1), number(2), number(3));
        let (hour, minute, second) = (number(4), number(5), number(6));
        if civil(days) != (number(1), number(2), number(3)) || hour > 23 || minute > 59 || second > 60 {
            return Err(wrong());
        }
        Ok(Clock(days * 86_400 + hour * 3600 + minute * 60 + second))
    }

    /// Python's `strftime` for the codes that templates use; an unknown code stays as it is.
    pub(super) fn strftime(self, format: &str) -> String {
        let (days, seconds) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let weekday = (days + 4).rem_euclid(7) as usize;
        let month_name = MONTHS[month as usize - 1];
        let (mut out, mut chars) = (String::new(), format.chars().peekable());
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let plain = chars.next_if_eq(&'-').is_some();
            let number = |n: i64| if plain { n.to_string() } else { format!("{n:02}") };
            let piece = match chars.next() {
                Some('Y') => year.to_string(),
                Some('y') => number(year.rem_euclid(100)),
                Some('m') => number(month),
                Some('d') => number(day),
                Some('e') => format!("{day:2}"),
                Some('B') => month_name.to_string(),
                Some('b' | 'h') => month_name[..3].to_string(),
                Some('A') => DAYS[weekday].to_string(),
                Some('a') => DAYS[weekday][..3].to_string(),
                Some('H') => number(hour),
                Some('I') => number((hour + 11) % 12 + 1),
                Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
                Some('M') => number(minute),
                Some('S') => number(second),
                Some('F') => format!("{year}-{month:02}-{day:02}"),
                Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
                // The day of the year.
                Some('j') => {
                    let n = days - self::days(year, 1, 1) + 1;
                    if plain { n.to_string() } else { format!("{n:03}") }
                }
                Some('w') => weekday.to_string(),
                Some('u') => ((weekday + 6) % 7 + 1).to_string(),
                Some('D' | 'x') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('X') => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('R') => format!("{hour:02}:{minute:02}"),
                Some('c') => self.strftime("%a %b %e %H:%M:%S %Y"),
                // A moment of Python's `datetime.now()` has no zone.
                Some('Z' | 'z') => String::new(),
                Some('%') => "%".to_string(),
                other => other.map_or("%".to_string(), |c| format!("%{c}")),
            };
            out.push_str(&piece);
        }
        out
    }
}

/// Year, month and day of a day counted from 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// The day counted from 1970-01-01 of a year, month and day (the inverse of [`civil`]).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
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
        for day in (-800_000..800_000).step_by(97) {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
