//! A load run in words: its progress, and its figures as a table.
//!
//! Refuses to know how anything was measured.

use std::fmt::Write;

use crate::bench::serve::{Api, CountedBy, Figures, Load, LoadProgress, LoadReport, Quantiles};
use crate::cli::progress::{ProgressDisplay, Unit};

/// Progress of one load point after the other.
pub(super) struct Measuring {
    points: usize,
    /// The load point that is drawn, with its display.
    shown: Option<(usize, ProgressDisplay)>,
}

impl Measuring {
    pub(super) fn new(points: usize) -> Measuring {
        Measuring { points, shown: None }
    }

    /// Draws how far it is.
    pub(super) fn show(&mut self, p: LoadProgress) {
        if self.shown.as_ref().is_none_or(|(point, _)| *point != p.point) {
            let what = if p.point == 0 { "warm-up".into() } else { format!("load {} of {}", p.point, self.points) };
            // The former display ends before the next one is drawn.
            self.shown = None;
            self.shown = Some((p.point, ProgressDisplay::new(&what, p.total.unwrap_or(0) as u64, Unit::Items)));
        }
        let rate = p.tokens as f64 / p.seconds.max(1e-3);
        let mut note = format!("{} under way, {rate:.0} tokens/s", p.in_flight);
        for (count, what) in [(p.refused, "refused"), (p.failed, "failed")] {
            if count > 0 {
                let _ = write!(note, ", {count} {what}");
            }
        }
        if let Some((_, display)) = &mut self.shown {
            display.set(p.ended as u64, &note);
        }
    }
}

/// The figures of every load point, those of each model below where there are several, then what the table has no room for.
pub(super) fn lines(report: &LoadReport) -> String {
    let api = if report.api == Api::Chat { "chat" } else { "completions" };
    let mut out = format!("{}, {api}, at most {} tokens an answer\n", report.url, report.max_tokens);
    let _ = writeln!(
        out,
        "{:<22}{:>8}{:>8}{:>7}{:>8}{:>10}{:>10}{:>21}{:>18}{:>19}",
        "", "answered", "refused", "failed", "req/s", "tokens/s", "prompt/s", "TTFT ms 50/90/99 %", "ITL ms", "end s"
    );
    for point in &report.points {
        let name = match point.load {
            Load::Closed { concurrency } => format!("{concurrency} at once"),
            Load::Open { rate } => format!("{rate} arriving/s"),
        };
        out += &row(&name, &point.all);
        if point.models.len() > 1 {
            point.models.iter().for_each(|m| out += &row(&format!("  {}", m.model), &m.figures));
        }
    }
    for point in &report.points {
        out += &remarks(&point.all);
    }
    out
}

fn row(name: &str, f: &Figures) -> String {
    let times = |q: Option<Quantiles>, scale: f64, digits: usize| match q {
        Some(q) => [q.p50, q.p90, q.p99].map(|v| format!("{:.digits$}", v * scale)).join("/"),
        None => "-".into(),
    };
    let prompt = f.prompt_tokens_per_s.map_or("-".into(), |rate| format!("{rate:.0}"));
    let (first, gap, end) = (times(f.ttft_s, 1e3, 0), times(f.itl_s, 1e3, 1), times(f.e2e_s, 1.0, 2));
    format!(
        "{name:<22}{:>8}{:>8}{:>7}{:>8.2}{:>10.1}{prompt:>10}{first:>21}{gap:>18}{end:>19}\n",
        f.answered, f.refused, f.failed, f.requests_per_s, f.tokens_per_s
    )
}

/// Errors by kind, refusals, and what one has to know to read the figures.
fn remarks(f: &Figures) -> String {
    let mut out = String::new();
    for error in &f.errors {
        let _ = writeln!(out, "{} failed: {}: {}", error.count, error.kind, error.first);
    }
    if let Some(q) = f.refusal_s {
        let _ = writeln!(out, "{} refused (429) after {:.1} ms, 99 % within {:.1} ms", f.refused, q.p50 * 1e3, q.p99 * 1e3);
    }
    if f.unfinished > 0 {
        let _ = writeln!(out, "{} under way at the stop, in no figure", f.unfinished);
    }
    match f.counted_by {
        CountedBy::Chunks => out += "tokens are pieces of text: the server sent no usage\n",
        CountedBy::Both => out += "tokens are pieces of text where the server sent no usage\n",
        CountedBy::Usage | CountedBy::Nothing => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::serve::{ErrorCount, ModelFigures, PointReport};

    #[test]
    fn a_table_has_every_load_and_every_model() {
        let q = Quantiles { count: 3, mean: 0.2, p50: 0.1, p90: 0.2, p99: 0.3, max: 0.4 };
        let errors = vec![ErrorCount { kind: "status 500".into(), count: 2, first: "no memory".into() }];
        let all = Figures {
            answered: 3,
            refused: 1,
            failed: 2,
            unfinished: 4,
            requests_per_s: 1.5,
            tokens_per_s: 15.25,
            prompt_tokens_per_s: None,
            tokens: 30,
            prompt_tokens: None,
            counted_by: CountedBy::Chunks,
            ttft_s: Some(q),
            itl_s: None,
            tpot_s: None,
            e2e_s: Some(q),
            refusal_s: Some(q),
            delay_s: None,
            errors,
        };
        let models = ["a", "b"].map(|name| ModelFigures { model: name.into(), figures: all.clone() }).to_vec();
        let point = PointReport { load: Load::Open { rate: 2.5 }, seconds: 2.0, all, models };
        let (url, api) = ("http://h/v1/completions".into(), Api::Completions);
        let said = lines(&LoadReport { url, api, max_tokens: 9, seed: 0, stopped: true, points: vec![point] });
        let words: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[2], ["2.5", "arriving/s", "3", "1", "2", "1.50", "15.2", "-", "100/200/300", "-", "0.10/0.20/0.30"]);
        assert_eq!((words[3][0], words[4][0], words[3][1..] == words[2][2..]), ("a", "b", true));
        for phrase in ["2 failed: status 500: no memory", "1 refused (429) after 100.0 ms", "4 under way at the stop", "no usage"]
        {
            assert!(said.contains(phrase), "{phrase} in {said}");
        }
    }
}
