//! SVG as text: safe text, and the frame round a drawing, inside a page or as a file of its own.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_become_marks() {
        assert_eq!(escape("<b a=\"x\" c='y'>&\u{1}"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;\u{fffd}");
        assert!(file(1.0, 1.0, "\"><script>", "").contains("aria-label=\"&quot;&gt;&lt;script&gt;\""));
    }
}
