//! Plots as SVG that stands inside a page: bars, columns, and the two rings of verbs and objects.
//!
//! Every mark says its number when it is pointed at. Refuses to know what is plotted, and loads nothing from elsewhere.

use std::f64::consts::TAU;
use std::fmt::Write;
use std::ops::Range;

use crate::artifact::svg::{escape, inline as svg};

/// A bar a name, in the order given.
pub(super) fn bars(label: &str, items: &[(String, usize)]) -> String {
    let (row, left, long) = (22.0, 150.0, 380.0);
    let most = items.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let mut inner = String::new();
    for (i, (name, n)) in items.iter().enumerate() {
        let (y, length) = (i as f64 * row, *n as f64 / most * long);
        let name = escape(name);
        let _ = write!(
            inner,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text><rect x=\"{left}\" y=\"{:.0}\" width=\"{length:.1}\" \
             height=\"16\"><title>{name}: {n}</title></rect><text x=\"{:.1}\" y=\"{:.0}\">{n}</text>",
            left - 8.0,
            y + 15.0,
            y + 3.0,
            left + length + 6.0,
            y + 15.0,
        );
    }
    svg(left + long + 80.0, items.len() as f64 * row + 4.0, label, &inner)
}

/// Columns side by side; the name of a column stands below it.
pub(super) fn columns(label: &str, items: &[(String, usize)]) -> String {
    let (tall, above) = (150.0, 18.0);
    let wide = (600.0 / items.len().max(1) as f64).clamp(18.0, 60.0);
    let most = items.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let mut inner = String::new();
    for (i, (name, n)) in items.iter().enumerate() {
        let (x, height) = (i as f64 * wide, *n as f64 / most * tall);
        let (top, name) = (above + tall - height, escape(name));
        let middle = x + wide / 2.0;
        let _ = write!(
            inner,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{name}: {n}</title></rect>\
             <text class=\"small\" x=\"{middle:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{name}</text>",
            x + 1.0,
            wide - 2.0,
            above + tall + 14.0,
        );
        if *n > 0 {
            let _ =
                write!(inner, "<text class=\"small\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{n}</text>", top - 3.0);
        }
    }
    svg(wide * items.len() as f64, above + tall + 20.0, label, &inner)
}

/// A slice of the inner ring, and those of the outer one that belong to it (they may fill less than it).
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) n: usize,
    pub(super) parts: Vec<(String, usize)>,
}

/// Two rings: the inner one of slices, the outer one of their parts (Self-Instruct's figure 2).
pub(super) fn rings(label: &str, slices: &[Slice]) -> String {
    const SIDE: f64 = 640.0;
    let all = slices.iter().map(|s| s.n).sum::<usize>().max(1) as f64;
    let (mut inner, mut from) = (String::new(), 0.0);
    for (i, slice) in slices.iter().enumerate() {
        let hue = i * 360 / slices.len().max(1);
        let to = from + slice.n as f64 / all;
        inner += &arc(from..to, 70.0..180.0, &format!("hsl({hue} 55% 62%)"), &slice.name, slice.n);
        let mut begin = from;
        for (part, n) in &slice.parts {
            let end = (begin + *n as f64 / all).min(to);
            inner += &arc(begin..end, 182.0..300.0, &format!("hsl({hue} 55% 80%)"), part, *n);
            begin = end;
        }
        from = to;
    }
    let half = SIDE / 2.0;
    svg(SIDE, SIDE, label, &format!("<g class=\"rings\" transform=\"translate({half} {half})\">{inner}</g>"))
}

/// A piece of a ring between two shares of the circle, with its name when there is room for it.
fn arc(share: Range<f64>, radius: Range<f64>, fill: &str, name: &str, n: usize) -> String {
    let (from, near, far) = (share.start, radius.start, radius.end);
    // A whole circle has no two ends to draw between.
    let to = share.end.min(from + 0.9999);
    let at = |share: f64, radius: f64| {
        let angle = TAU * (share - 0.25);
        (radius * angle.cos(), radius * angle.sin())
    };
    let large = u8::from(to - from > 0.5);
    let ((a, b), (c, d), (e, f), (g, h)) = (at(from, far), at(to, far), at(to, near), at(from, near));
    let name = escape(name);
    let mut out = format!(
        "<path fill=\"{fill}\" d=\"M{a:.1} {b:.1}A{far} {far} 0 {large} 1 {c:.1} {d:.1}L{e:.1} {f:.1}A{near} {near} 0 {large} 0 \
         {g:.1} {h:.1}Z\"><title>{name}: {n}</title></path>"
    );
    if to - from > 0.011 {
        let middle = (from + to) / 2.0;
        let ((x, y), degrees) = (at(middle, (near + far) / 2.0), 360.0 * middle - 90.0);
        let turn = if middle > 0.5 { degrees + 180.0 } else { degrees };
        let _ = write!(
            out,
            "<text class=\"small\" transform=\"translate({x:.1} {y:.1}) rotate({turn:.1})\" text-anchor=\"middle\" dy=\"0.35em\">{name}</text>"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_become_marks() {
        let plot = bars("l", &[("<script>".into(), 3)]);
        assert!(!plot.contains("<script>") && plot.contains("&lt;script&gt;: 3"));
    }

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let plot = bars("l", &[("a".into(), 10), ("b".into(), 5), ("c".into(), 0)]);
        assert!(plot.contains("width=\"380.0\"") && plot.contains("width=\"190.0\"") && plot.contains("width=\"0.0\""), "{plot}");
    }

    #[test]
    fn a_single_slice_is_a_whole_ring() {
        let slices = [Slice { name: "write".into(), n: 4, parts: vec![("poem".into(), 3)] }];
        let plot = rings("l", &slices);
        assert_eq!(plot.matches("<path").count(), 2);
        assert!(!plot.contains("NaN") && plot.contains("write: 4") && plot.contains("poem: 3"), "{plot}");
        assert_eq!(rings("l", &[]).matches("<path").count(), 0);
    }
}
