//! The loss curve as an SVG: training loss and held-out loss over steps, with axes and a legend.
//!
//! Refuses to know: where the losses come from, and where the picture goes.

use std::fmt::Write;

use super::svg::{escape, file};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The corners of the plot.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 42.0;
const BOTTOM: f64 = HEIGHT - 56.0;

const TRAINING: Pen = Pen { name: "training", color: "#7f84f5", width: 1.0 };
const HELD_OUT: Pen = Pen { name: "held out", color: "#d62020", width: 2.0 };

/// How a series is drawn, and what the legend calls it.
struct Pen {
    name: &'static str,
    color: &'static str,
    width: f64,
}

/// An SVG of training loss and held-out loss over steps. `train` and `heldout` are (step, nats per token).
/// `None` when there are fewer than two points to draw or none of them is a number.
pub fn svg(title: &str, train: &[(usize, f64)], heldout: &[(usize, f64)]) -> Option<String> {
    let values = || train.iter().chain(heldout).map(|p| p.1).filter(|v| v.is_finite());
    let last = train.iter().chain(heldout).map(|p| p.0).max()?;
    let top = values().fold(f64::NEG_INFINITY, f64::max);
    if train.len() < 2 || !top.is_finite() {
        return None;
    }
    let plot = Plot { last: last.max(1) as f64, top: if top > 0.0 { top * 1.05 } else { 1.0 } };
    let mut inner = format!(
        "<text x=\"{:.1}\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">{}</text>\n",
        (LEFT + RIGHT) / 2.0,
        escape(title)
    );
    inner += &plot.axes();
    let series: Vec<_> = [(TRAINING, train), (HELD_OUT, heldout)].into_iter().filter(|(_, points)| !points.is_empty()).collect();
    series.iter().for_each(|(pen, points)| inner += &plot.line(pen, points));
    inner += &legend(series.iter().map(|(pen, _)| pen));
    Some(file(WIDTH, HEIGHT, &format!("{title}: loss over steps"), &inner))
}

/// The part of the plane that is shown: steps 0 to `last`, losses 0 to `top`.
struct Plot {
    last: f64,
    top: f64,
}

impl Plot {
    fn x(&self, step: f64) -> f64 {
        LEFT + step / self.last * (RIGHT - LEFT)
    }

    fn y(&self, loss: f64) -> f64 {
        BOTTOM - loss / self.top * (BOTTOM - TOP)
    }

    /// Both axes with their ticks, a pale line across the plot at each, and what the axes are.
    fn axes(&self) -> String {
        let (mut pale, mut ticks, mut labels) = (String::new(), String::new(), String::new());
        for (step, name) in ticks_to(self.last, 1.0) {
            let x = self.x(step);
            let _ = write!(pale, "M{x:.1} {TOP}V{BOTTOM}");
            let _ = write!(ticks, "M{x:.1} {BOTTOM}v5");
            let _ = writeln!(labels, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>", BOTTOM + 19.0);
        }
        for (loss, name) in ticks_to(self.top, 0.0) {
            let y = self.y(loss);
            let _ = write!(pale, "M{LEFT} {y:.1}H{RIGHT}");
            let _ = write!(ticks, "M{LEFT} {y:.1}h-5");
            let _ = writeln!(labels, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 9.0, y + 4.0);
        }
        let (across, down) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        format!(
            "<path d=\"{pale}\" stroke=\"#ddd\"/>\n<path d=\"{ticks}M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#000\"/>\n\
             {labels}<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\n\
             <text transform=\"translate(22 {down:.1}) rotate(-90)\" text-anchor=\"middle\">loss, nats per trained token</text>\n",
            HEIGHT - 12.0,
        )
    }

    /// A line through the points; it breaks where a loss is no number.
    fn line(&self, pen: &Pen, points: &[(usize, f64)]) -> String {
        let mut path = String::new();
        for run in points.split(|(_, loss)| !loss.is_finite()) {
            for (i, (step, loss)) in run.iter().enumerate() {
                let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, self.x(*step as f64), self.y(*loss));
            }
        }
        let Pen { color, width, .. } = pen;
        format!("<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>\n")
    }
}

/// Names and colours of the series in the upper right corner, where a falling loss leaves room.
fn legend<'a>(pens: impl ExactSizeIterator<Item = &'a Pen>) -> String {
    let (left, width, row) = (RIGHT - 108.0, 100.0, 18.0);
    let mut out = format!(
        "<rect x=\"{left}\" y=\"{}\" width=\"{width}\" height=\"{}\" fill=\"#fff\" stroke=\"#bbb\"/>\n",
        TOP + 8.0,
        pens.len() as f64 * row + 8.0
    );
    for (i, Pen { name, color, width }) in pens.enumerate() {
        let y = TOP + 21.0 + i as f64 * row;
        let _ = writeln!(
            out,
            "<path d=\"M{} {y}h20\" stroke=\"{color}\" stroke-width=\"{width}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            left + 10.0,
            left + 40.0,
            y + 4.0
        );
    }
    out
}

/// Round numbers from 0 to `end`, at most eleven and no closer than `least`, each with its name.
fn ticks_to(end: f64, least: f64) -> Vec<(f64, String)> {
    let power = 10f64.powf((end / 10.0).log10().floor());
    let step = [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|step| end / step <= 10.0).unwrap_or(10.0 * power).max(least);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    (0..=(end / step) as usize).map(|i| i as f64 * step).map(|at| (at, format!("{at:.decimals$}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(end: f64, least: f64) -> Vec<String> {
        ticks_to(end, least).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(names(4.05, 0.0), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]);
        assert_eq!(names(375.0, 1.0), ["0", "50", "100", "150", "200", "250", "300", "350"]);
        assert_eq!(names(3.0, 1.0), ["0", "1", "2", "3"]);
        assert_eq!(names(0.0021, 0.0).last().unwrap(), "0.0020");
        for end in (1..2000).map(|i| f64::from(i) * 0.037) {
            assert!((3..=11).contains(&ticks_to(end, 0.0).len()), "{end}");
        }
    }

    #[test]
    fn every_point_is_on_the_plot_and_a_missing_loss_breaks_the_line() {
        let train = [(1, 4.0), (2, 2.0), (3, f64::NAN), (4, 1.0), (5, 0.0)];
        let drawn = svg("a & b", &train, &[(5, 0.5)]).unwrap();
        let line = drawn.lines().find(|line| line.contains(TRAINING.color)).unwrap();
        assert_eq!(line.matches('M').count(), 2);
        assert_eq!(line.matches('L').count(), 2);
        assert!(line.contains(&format!("L{RIGHT:.1} {BOTTOM:.1}")), "{line}");
        for text in [">a &amp; b<", ">training<", ">held out<", ">step<", ">loss, nats per trained token<"] {
            assert!(drawn.contains(text), "{text}");
        }
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }

    #[test]
    fn two_losses_are_the_least() {
        assert!(!svg("a", &[(1, 0.0), (1, 0.0)], &[]).unwrap().contains("held out"));
        assert_eq!(svg("a", &[(1, 1.0)], &[(1, 1.0)]), None);
        assert_eq!(svg("a", &[(1, f64::NAN), (2, f64::INFINITY)], &[]), None);
    }
}
