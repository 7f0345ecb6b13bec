//! The loss curve as an SVG: training loss, held-out loss, the base's loss and the learning rate over steps, with axes and a legend.
//!
//! Refuses to know: where the numbers come from, and where the picture goes.

use std::fmt::Write;

use super::svg::{Pen, escape, file, ticks_of};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The corners of the plot.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 72.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = HEIGHT - 56.0;

/// Colours on paper and on a dark screen. `mean` is drawn through `step`, the losses of single steps.
const STYLE: &str = "<style>svg{--paper:#fff;--ink:#222;--pale:#e4e4e4;--step:#b9bcf5;--mean:#4b52d9;--held:#d62020;--base:#777;--rate:#2a9d5c}\
@media(prefers-color-scheme:dark){svg{--paper:#16181d;--ink:#ddd;--pale:#33363d;--step:#4b4f8f;--mean:#9ea3ff;--held:#ff7b72;--base:#999;--rate:#56d38a}}\
text{fill:var(--ink)}path,circle{fill:none}</style>\n";

const STEPS: Pen = Pen { name: "training, a step", color: "step", width: 1.0, dashes: "" };
const MEAN: Pen = Pen { name: "training, mean", color: "mean", width: 2.0, dashes: "" };
const HELD_OUT: Pen = Pen { name: "held out", color: "held", width: 2.0, dashes: "" };
const BASE: Pen = Pen { name: "held out, base", color: "base", width: 1.5, dashes: "6 4" };
const RATE: Pen = Pen { name: "learning rate", color: "rate", width: 1.0, dashes: "2 3" };

/// What is drawn; (step, value).
#[derive(Debug, Clone, Copy, Default)]
pub struct Curve<'a> {
    /// Nats per trained token of each step.
    pub train: &'a [(usize, f64)],
    /// Nats per trained token of each evaluation.
    pub heldout: &'a [(usize, f64)],
    /// The same of the base alone.
    pub base: Option<f64>,
    /// Learning rates.
    pub rates: &'a [(usize, f64)],
}

/// The curve as an SVG. The losses fill the height, between round numbers; where they begin is written on the axis.
/// `None` when there are fewer than two points to draw or none of them is a number.
pub fn svg(title: &str, curve: &Curve) -> Option<String> {
    let Curve { train, heldout, base, rates } = *curve;
    let values = || train.iter().chain(heldout).map(|p| p.1).chain(base).filter(|v| v.is_finite());
    let last = train.iter().chain(heldout).map(|p| p.0).max()?;
    let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if train.len() < 2 || !train.iter().chain(heldout).any(|p| p.1.is_finite()) {
        return None;
    }
    let plot = Plot { last: last.max(1) as f64, losses: Range::round(low, high) };
    let mut inner = format!("{STYLE}<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n", escape(title));
    inner += &plot.axes();
    let mean = smoothed(train);
    let across: Vec<(usize, f64)> = base.filter(|v| v.is_finite()).map_or(Vec::new(), |v| vec![(0, v), (last, v)]);
    let series = [(STEPS, train), (MEAN, &mean), (BASE, &across), (HELD_OUT, heldout)];
    let mut pens = Vec::new();
    let most = rates.iter().map(|p| p.1).filter(|v| v.is_finite()).fold(0.0, f64::max);
    if most > 0.0 {
        let scale = Range { low: 0.0, high: most };
        inner += &plot.line(&RATE, rates, &scale);
        let _ = writeln!(
            inner,
            "<text x=\"{:.1}\" y=\"{:.1}\">{most:.1e}</text><text x=\"{:.1}\" y=\"{BOTTOM}\">0</text>",
            RIGHT + 8.0,
            TOP + 4.0,
            RIGHT + 8.0
        );
        pens.push(RATE);
    }
    for (pen, points) in series.into_iter().filter(|(_, points)| !points.is_empty()) {
        inner += &plot.line(&pen, points, &plot.losses);
        pens.push(pen);
    }
    heldout.iter().filter(|p| p.1.is_finite()).for_each(|p| inner += &plot.dot(&HELD_OUT, *p));
    pens.rotate_left(usize::from(most > 0.0));
    inner += &legend(&pens);
    Some(file(WIDTH, HEIGHT, &format!("{title}: loss over steps"), &inner))
}

/// The mean over the steps around each, a twentieth of the run wide; nothing where that is a single step.
fn smoothed(points: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let half = points.len() / 40;
    if half == 0 {
        return Vec::new();
    }
    let around = |i: usize| {
        let near = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        let finite: Vec<f64> = near.iter().map(|p| p.1).filter(|v| v.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    points.iter().enumerate().map(|(i, (step, _))| (*step, around(i))).collect()
}

/// Values from the lower to the upper edge of the plot.
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// With some room around `low` and `high`, not below 0 where they are not.
    fn round(low: f64, high: f64) -> Range {
        let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
        Range { low: if low >= 0.0 { (low - room).max(0.0) } else { low - room }, high: high + room }
    }
}

/// The part of the plane that is shown: steps 0 to `last`, losses of the range.
struct Plot {
    last: f64,
    losses: Range,
}

impl Plot {
    fn x(&self, step: f64) -> f64 {
        LEFT + step / self.last * (RIGHT - LEFT)
    }

    fn y(value: f64, range: &Range) -> f64 {
        BOTTOM - (value - range.low) / (range.high - range.low) * (BOTTOM - TOP)
    }

    /// The axes with their ticks, a pale line across the plot at each, and what the axes are.
    fn axes(&self) -> String {
        let (mut pale, mut ticks, mut labels) = (String::new(), String::new(), String::new());
        for (step, name) in ticks_of(0.0, self.last, 1.0) {
            let x = self.x(step);
            let _ = write!(pale, "M{x:.1} {TOP}V{BOTTOM}");
            let _ = write!(ticks, "M{x:.1} {BOTTOM}v5");
            let _ = writeln!(labels, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>", BOTTOM + 19.0);
        }
        for (loss, name) in ticks_of(self.losses.low, self.losses.high, 0.0) {
            let y = Self::y(loss, &self.losses);
            let _ = write!(pale, "M{LEFT} {y:.1}H{RIGHT}");
            let _ = write!(ticks, "M{LEFT} {y:.1}h-5");
            let _ = writeln!(labels, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 9.0, y + 4.0);
        }
        let (across, down) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        format!(
            "<path d=\"{pale}\" stroke=\"var(--pale)\"/>\n<path d=\"{ticks}M{LEFT} {TOP}V{BOTTOM}H{RIGHT}V{TOP}\" \
             stroke=\"var(--ink)\"/>\n\
             {labels}<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\n\
             <text transform=\"translate(22 {down:.1}) rotate(-90)\" text-anchor=\"middle\">loss, nats per trained token</text>\n",
            HEIGHT - 12.0,
        )
    }

    /// A line through the points; it breaks where a value is no number.
    fn line(&self, pen: &Pen, points: &[(usize, f64)], range: &Range) -> String {
        let mut path = String::new();
        for run in points.split(|(_, value)| !value.is_finite()) {
            for (i, (step, value)) in run.iter().enumerate() {
                let (x, y) = (self.x(*step as f64), Self::y(*value, range));
                let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
            }
        }
        format!("<path d=\"{path}\" {} stroke-linejoin=\"round\"/>\n", pen.stroke())
    }

    /// A point that is seen where no line is.
    fn dot(&self, pen: &Pen, (step, value): (usize, f64)) -> String {
        let (x, y) = (self.x(step as f64), Self::y(value, &self.losses));
        format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" {}/>\n", pen.stroke())
    }
}

/// Names and lines of the series, side by side above the plot.
fn legend(pens: &[Pen]) -> String {
    let mut out = String::new();
    let width = (RIGHT - LEFT) / 5.0;
    for (i, pen) in pens.iter().enumerate() {
        let x = LEFT + i as f64 * width;
        let _ =
            writeln!(out, "<path d=\"M{x:.1} 44h20\" {}/><text x=\"{:.1}\" y=\"48\">{}</text>", pen.stroke(), x + 25.0, pen.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(train: &[(usize, f64)], heldout: &[(usize, f64)]) -> Option<String> {
        svg("a & b", &Curve { train, heldout, ..Curve::default() })
    }

    #[test]
    fn losses_fill_the_height_and_a_missing_one_breaks_the_line() {
        let train = [(1, 4.0), (2, 2.5), (3, f64::NAN), (4, 2.0), (5, 2.0)];
        let drawn = drawn(&train, &[(5, 2.2)]).unwrap();
        let line = drawn.lines().find(|line| line.contains("d=\"M") && line.contains("var(--step)")).unwrap();
        assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 2));
        let heights: Vec<f64> =
            line.split(['M', 'L']).filter_map(|p| p.split_once(' ')?.1.split(['"', ' ']).next()?.parse().ok()).collect();
        assert_eq!(heights.len(), 4, "{line}");
        assert!(heights[0] < TOP + 30.0 && heights[3] > BOTTOM - 30.0, "{heights:?}");
        for text in [">a &amp; b<", ">training, a step<", ">held out<", ">step<", ">loss, nats per trained token<"] {
            assert!(drawn.contains(text), "{text}");
        }
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }

    #[test]
    fn base_and_rate_are_drawn_where_they_are_known() {
        let (train, rates) = ([(1, 2.0), (2, 1.0)], [(1, 1e-3), (2, 0.0)]);
        let all = Curve { train: &train, heldout: &[(2, 1.0)], base: Some(3.0), rates: &rates };
        let drawn = svg("a", &all).unwrap();
        assert!(drawn.contains(">held out, base<") && drawn.contains(">learning rate<") && drawn.contains(">1.0e-3<"), "{drawn}");
        let none = svg("a", &Curve { base: None, rates: &[], ..all }).unwrap();
        assert!(!none.contains(">held out, base<") && !none.contains(">learning rate<"));
    }

    #[test]
    fn many_steps_have_a_mean_drawn_through_them() {
        let train: Vec<(usize, f64)> = (1..=80).map(|i| (i, if i % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let mean = smoothed(&train);
        assert!(mean[10..70].iter().all(|(_, v)| (1.5..2.5).contains(v)), "{mean:?}");
        assert!(smoothed(&train[..30]).is_empty());
    }

    #[test]
    fn two_losses_are_the_least() {
        assert!(!drawn(&[(1, 0.0), (1, 0.0)], &[]).unwrap().contains("held out"));
        assert_eq!(drawn(&[(1, 1.0)], &[(1, 1.0)]), None);
        assert_eq!(drawn(&[(1, f64::NAN), (2, f64::INFINITY)], &[]), None);
    }
}
