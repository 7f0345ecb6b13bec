//! Throughput and latencies over load as an SVG: tokens a second above, quantiles of times below, on a logarithmic scale.
//!
//! Refuses to know where the picture goes.

use std::fmt::Write;

use super::quantiles::Quantiles;
use super::report::PointReport;
use super::schedule::Load;
use crate::artifact::svg::{Pen, escape, file, ticks_of};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 32.0;
/// Upper and lower edge of the rates, and of the times.
const RATES: (f64, f64) = (62.0, 260.0);
const TIMES: (f64, f64) = (330.0, HEIGHT - 56.0);

/// Colours on paper and on a dark screen.
const STYLE: &str = "<style>svg{--paper:#fff;--ink:#222;--pale:#e4e4e4;--out:#4b52d9;--first:#d62020;--gap:#2a9d5c;--end:#777}\
@media(prefers-color-scheme:dark){svg{--paper:#16181d;--ink:#ddd;--pale:#33363d;--out:#9ea3ff;--first:#ff7b72;--gap:#56d38a;--end:#999}}\
text{fill:var(--ink)}path,circle{fill:none}</style>\n";

const TOKENS: Pen = Pen { name: "tokens/s of answers", color: "out", width: 2.0, dashes: "" };

/// A figure of a load point, if it has it.
type Figure = fn(&PointReport) -> Option<f64>;

/// The lines of the times.
const LATENCIES: [(Pen, Figure); 6] = [
    (solid("TTFT p50", "first"), |p| of(p.all.ttft_s, |q| q.p50)),
    (dashed("TTFT p99", "first"), |p| of(p.all.ttft_s, |q| q.p99)),
    (solid("ITL p50", "gap"), |p| of(p.all.itl_s, |q| q.p50)),
    (dashed("ITL p99", "gap"), |p| of(p.all.itl_s, |q| q.p99)),
    (solid("end p50", "end"), |p| of(p.all.e2e_s, |q| q.p50)),
    (dashed("end p99", "end"), |p| of(p.all.e2e_s, |q| q.p99)),
];

const fn solid(name: &'static str, color: &'static str) -> Pen {
    Pen { name, color, width: 2.0, dashes: "" }
}

const fn dashed(name: &'static str, color: &'static str) -> Pen {
    Pen { name, color, width: 1.5, dashes: "6 4" }
}

fn of(quantiles: Option<Quantiles>, figure: fn(&Quantiles) -> f64) -> Option<f64> {
    quantiles.as_ref().map(figure)
}

/// The load points of one kind as an SVG, over their concurrency or rate; `None` when none of them has an answer.
pub fn svg(title: &str, points: &[PointReport]) -> Option<String> {
    let mut points: Vec<&PointReport> = points.iter().filter(|p| p.all.answered > 0).collect();
    points.sort_by(|a, b| load(a).total_cmp(&load(b)));
    let across = match points.first()?.load {
        Load::Closed { .. } => "requests at once",
        Load::Open { .. } => "requests a second, arriving",
    };
    let most = points.iter().map(|p| load(p)).fold(0.0, f64::max);
    let rate = |p: &PointReport| Some(p.all.tokens_per_s);
    let above = Panel::new(most, RATES, false, &points, &[rate]);
    let below = Panel::new(most, TIMES, true, &points, &LATENCIES.map(|(_, figure)| figure));
    let mut inner = format!("{STYLE}<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n", escape(title));
    inner += &(above.axes("tokens/s") + &below.axes("seconds"));
    inner += &(above.line(&TOKENS, &points, rate) + &legend(&[TOKENS], RATES.0 - 14.0));
    for (pen, figure) in &LATENCIES {
        inner += &below.line(pen, &points, *figure);
    }
    inner += &legend(&LATENCIES.map(|(pen, _)| pen), TIMES.0 - 14.0);
    let (x, y) = ((LEFT + RIGHT) / 2.0, HEIGHT - 12.0);
    let _ = writeln!(inner, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{across}</text>");
    Some(file(WIDTH, HEIGHT, &format!("{title}: throughput and latency over load"), &inner))
}

fn load(point: &PointReport) -> f64 {
    match point.load {
        Load::Closed { concurrency } => concurrency as f64,
        Load::Open { rate } => rate,
    }
}

/// A plot: loads from 0 to `most`, values from `low` to `high`, logarithms of them where `logarithmic`.
struct Panel {
    most: f64,
    edges: (f64, f64),
    logarithmic: bool,
    low: f64,
    high: f64,
}

impl Panel {
    /// That holds all `figures` of the points: from 0, or between powers of ten.
    fn new(most: f64, edges: (f64, f64), logarithmic: bool, points: &[&PointReport], figures: &[Figure]) -> Panel {
        let values = points.iter().flat_map(|p| figures.iter().filter_map(|figure| figure(p))).filter(|v| *v > 0.0);
        let (least, greatest) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        let (low, high) = match logarithmic {
            _ if greatest == 0.0 => (0.0, 1.0),
            true => (least.log10().floor(), greatest.log10().ceil().max(least.log10().floor() + 1.0)),
            false => (0.0, greatest * 1.05),
        };
        Panel { most, edges, logarithmic, low, high }
    }

    fn x(&self, load: f64) -> f64 {
        LEFT + load / self.most * (RIGHT - LEFT)
    }

    /// `None` of what a logarithmic scale does not hold.
    fn y(&self, value: f64) -> Option<f64> {
        let value = if self.logarithmic { value.log10() } else { value };
        let (top, bottom) = self.edges;
        value.is_finite().then_some(bottom - (value - self.low) / (self.high - self.low) * (bottom - top))
    }

    /// The axes with their ticks, and a pale line across the plot at each.
    fn axes(&self, what: &str) -> String {
        let (top, bottom) = self.edges;
        let (mut pale, mut labels) = (String::new(), String::new());
        for (load, name) in ticks_of(0.0, self.most, 0.0) {
            let x = self.x(load);
            let _ = write!(pale, "M{x:.1} {top}V{bottom}");
            let _ = writeln!(labels, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>", bottom + 19.0);
        }
        let heights = match self.logarithmic {
            true => (self.low as i32..=self.high as i32).map(|power| (10f64.powi(power), power_name(power))).collect(),
            false => ticks_of(self.low, self.high, 0.0),
        };
        for (value, name) in heights {
            let Some(y) = self.y(value) else { continue };
            let _ = write!(pale, "M{LEFT} {y:.1}H{RIGHT}");
            let _ = writeln!(labels, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 9.0, y + 4.0);
        }
        let down = (top + bottom) / 2.0;
        format!(
            "<path d=\"{pale}\" stroke=\"var(--pale)\"/>\n<path d=\"M{LEFT} {top}V{bottom}H{RIGHT}\" stroke=\"var(--ink)\"/>\n\
             {labels}<text transform=\"translate(22 {down:.1}) rotate(-90)\" text-anchor=\"middle\">{what}</text>\n"
        )
    }

    /// A line through the figure of the points, and a dot at each; points without it are left out.
    fn line(&self, pen: &Pen, points: &[&PointReport], figure: Figure) -> String {
        let (mut path, mut dots) = (String::new(), String::new());
        for point in points {
            let Some(y) = figure(point).and_then(|value| self.y(value)) else { continue };
            let x = self.x(load(point));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
            let _ = writeln!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" stroke=\"var(--{})\"/>", pen.color);
        }
        if path.is_empty() { path } else { format!("<path d=\"{path}\" {} stroke-linejoin=\"round\"/>\n{dots}", pen.stroke()) }
    }
}

/// A power of ten seconds in the unit that suits it.
fn power_name(power: i32) -> String {
    match power {
        ..=-4 => format!("{} µs", 10f64.powi(power + 6)),
        -3..=-1 => format!("{} ms", 10f64.powi(power + 3).round()),
        _ => format!("{} s", 10f64.powi(power)),
    }
}

/// Names and lines of the series, side by side at height `y`.
fn legend(pens: &[Pen], y: f64) -> String {
    let width = (RIGHT - LEFT) / LATENCIES.len() as f64;
    let entry = |(i, pen): (usize, &Pen)| {
        let x = LEFT + i as f64 * width;
        format!(
            "<path d=\"M{x:.1} {:.1}h20\" {}/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>\n",
            y - 4.0,
            pen.stroke(),
            x + 25.0,
            pen.name
        )
    };
    pens.iter().enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::serve::exchange::{Answer, Exchange, Outcome};
    use crate::bench::serve::report::Measured;

    /// Of answers that take `seconds` to their first text and five times as long to their end.
    fn point(concurrency: usize, seconds: &[f64]) -> PointReport {
        let answer = |t: f64| Answer { first: Some(t), end: 5.0 * t, gaps: vec![t / 10.0], chunks: 2, usage: None };
        let exchange = |t: &f64| Exchange { model: 0, delay: 0.0, ended: 5.0 * t, outcome: Outcome::Answered(answer(*t)) };
        let measured = Measured { exchanges: seconds.iter().map(exchange).collect(), ..Measured::default() };
        measured.report(Load::Closed { concurrency }, &["m".into()])
    }

    #[test]
    fn every_point_is_drawn_in_every_line_in_the_order_of_loads() {
        let drawn = svg("a & b", &[point(4, &[0.2]), point(1, &[0.1, 0.3]), point(2, &[])]).unwrap();
        assert_eq!(drawn.matches("<circle").count(), 2 * 7, "two points have answers");
        let lines: Vec<&str> = drawn.lines().filter(|l| l.contains("stroke-linejoin")).collect();
        assert_eq!(lines.len(), 7);
        for line in lines {
            let x = |part: &str| part.split(' ').next().unwrap().parse::<f64>().unwrap();
            let path = line.split('"').nth(1).unwrap().trim_start_matches('M');
            let (first, second) = path.split_once('L').unwrap();
            assert!(x(first) < x(second) && (x(second) - RIGHT).abs() < 0.1, "{line}");
        }
        for text in [">a &amp; b<", ">TTFT p50<", ">end p99<", ">requests at once<", ">100 ms<", ">tokens/s<"] {
            assert!(drawn.contains(text), "{text} in {drawn}");
        }
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }

    #[test]
    fn a_single_point_is_seen_and_none_is_no_picture() {
        let one = svg("a", &[point(1, &[0.1])]).unwrap();
        assert!(one.matches("<circle").count() == 7 && !one.contains("NaN"));
        assert_eq!(svg("a", &[point(1, &[])]), None);
    }
}
