//! SVG as text: safe text, lines and ticks, and the frame round a drawing, inside a page or as a file of its own.
//!
//! Refuses to know what is drawn; a drawing is the elements that its caller writes.

/// Text made safe for HTML, for SVG and for attributes in double quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // Control characters are not allowed in a page; what they were is still seen.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A drawing that stands inside a page and takes its style from there. `label` is what a screen reader says.
pub fn inline(width: f64, height: f64, label: &str, inner: &str) -> String {
    let label = escape(label);
    format!("<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\" aria-label=\"{label}\">{inner}</svg>")
}

/// A drawing that is a file of its own; its paper is `--paper`, where the drawing defines that, else white. `label` is what a screen reader says.
pub fn file(width: f64, height: f64, label: &str, inner: &str) -> String {
    let label = escape(label);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"{label}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width:.0}\" height=\"{height:.0}\" style=\"fill:var(--paper,#fff)\"/>\n{inner}</svg>\n"
    )
}

/// How a series is drawn, and what the legend calls it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pen {
    pub name: &'static str,
    /// A variable of the drawing's style, without the dashes before it.
    pub color: &'static str,
    pub width: f64,
    /// As `stroke-dasharray`; empty: none.
    pub dashes: &'static str,
}

impl Pen {
    /// The attributes of a line.
    pub fn stroke(&self) -> String {
        let Pen { color, width, dashes, .. } = self;
        let dashes = if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
        format!("stroke=\"var(--{color})\" stroke-width=\"{width}\"{dashes}")
    }
}

/// Round numbers from `start` to `end`, at most eleven and no closer than `least`, each with its name.
pub fn ticks_of(start: f64, end: f64, least: f64) -> Vec<(f64, String)> {
    let span = end - start;
    let power = 10f64.powf((span / 10.0).log10().floor());
    let step = [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|step| span / step <= 10.0).unwrap_or(10.0 * power).max(least);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let (first, last) = ((start / step).ceil() as i64, (end / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).map(|at| (at, format!("{at:.decimals$}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let names = |start, end, least| ticks_of(start, end, least).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(0.0, 4.05, 0.0), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]);
        assert_eq!(names(1.913, 2.041, 0.0), ["1.92", "1.94", "1.96", "1.98", "2.00", "2.02", "2.04"]);
        assert_eq!(names(0.0, 375.0, 1.0), ["0", "50", "100", "150", "200", "250", "300", "350"]);
        assert_eq!(names(0.0, 3.0, 1.0), ["0", "1", "2", "3"]);
        assert_eq!(names(0.0, 0.0021, 0.0).last().unwrap(), "0.0020");
        for end in (1..2000).map(|i| f64::from(i) * 0.037) {
            assert!((3..=11).contains(&ticks_of(0.0, end, 0.0).len()), "{end}");
        }
    }

    #[test]
    fn texts_cannot_become_marks() {
        assert_eq!(escape("<b a=\"x\" c='y'>&\u{1}"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;\u{fffd}");
        assert!(file(1.0, 1.0, "\"><script>", "").contains("aria-label=\"&quot;&gt;&lt;script&gt;\""));
    }
}
