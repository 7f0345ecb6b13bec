//! The verdict as text: a table of both with the interval of the difference, and a line a task. Refuses to know how it
//! was measured.

use super::SideBySide;
use crate::artifact::card::Sample;
use crate::eval::{Compared, Measure, Metric, Over};

/// One set's tables; without a name they are of the held-out rows.
pub(super) fn of(name: Option<&str>, side_by_side: &SideBySide) -> String {
    let (base, adapter) = (&side_by_side.base, &side_by_side.adapter);
    if base.rows == 0 {
        return "  no row is held out: nothing was measured\n".to_string();
    }
    let dropped = if side_by_side.dropped > 0 { format!(" ({} dropped)", side_by_side.dropped) } else { String::new() };
    let title = match name {
        Some(name) => format!("{name}: {} rows{dropped}", base.rows),
        None => format!("{} held-out rows", base.rows),
    };
    let mut out = row(&title, "base", "adapter", "difference, 95 % interval");
    let over = |over: Over| side_by_side.comparison.metrics.iter().filter(move |c| c.over == over);
    for compared in over(Over::Rows) {
        out += &line(compared);
        if compared.metric == Metric::Loss {
            out += &row("perplexity", &perplexity(base), &perplexity(adapter), "");
        }
    }
    for (i, compared) in over(Over::Tasks).enumerate() {
        if i == 0 {
            let tasks = side_by_side.comparison.tasks.len();
            out += &row(&format!("mean over {tasks} tasks"), "", "", "tasks drawn anew");
        }
        out += &line(compared);
    }
    out + &tasks(side_by_side)
}

/// What one model reached on a set.
pub(super) fn alone(name: Option<&str>, measure: &Measure) -> String {
    let title = name.map_or_else(|| format!("{} held-out rows", measure.rows), |name| format!("{name}: {} rows", measure.rows));
    let mut out = row(&title, "base", "", "");
    for (metric, found) in Metric::ALL.into_iter().filter_map(|metric| Some((metric, metric.over(&measure.each)?))) {
        out += &row(metric.name(), &value(metric, found), "", "");
        if metric == Metric::Loss {
            out += &row("perplexity", &perplexity(measure), "", "");
        }
    }
    out
}

/// What the card says about a set.
pub(super) fn notes(name: Option<&str>, side_by_side: &SideBySide) -> Vec<String> {
    let set = name.map_or(String::new(), |name| format!("{name} ({} rows), ", side_by_side.base.rows));
    let note = |c: &Compared| {
        let over = match c.over {
            Over::Rows => "",
            Over::Tasks => ", mean over tasks",
        };
        let (base, adapter) = (value(c.metric, c.base), value(c.metric, c.adapter));
        format!("{set}{}{over}: {base} → {adapter}, difference {}", c.metric.name(), difference(c))
    };
    side_by_side.comparison.metrics.iter().map(note).collect()
}

/// The samples as text, for people.
pub fn before_and_after(samples: &[Sample]) -> String {
    let indent = |s: &str| s.trim().replace('\n', "\n    ");
    let mut out = String::new();
    for s in samples {
        out += &format!("\n  prompt\n    {}\n  reference\n    {}\n", indent(&s.prompt), indent(&s.reference));
        out += &format!("  base answers\n    {}\n  with the adapter\n    {}\n", indent(&s.base), indent(&s.adapter));
    }
    out
}

fn row(name: &str, base: &str, adapter: &str, difference: &str) -> String {
    let line = format!("  {name:<28}{base:>12}{adapter:>12}    {difference}");
    format!("{}\n", line.trim_end())
}

fn line(c: &Compared) -> String {
    row(c.metric.name(), &value(c.metric, c.base), &value(c.metric, c.adapter), &difference(c))
}

fn perplexity(m: &Measure) -> String {
    format!("{:.3}", m.perplexity)
}

fn value(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Loss => format!("{value:.4}"),
        Metric::ExactMatch | Metric::Acc | Metric::AccNorm | Metric::AccBytes => format!("{:.1} %", value * 100.0),
        Metric::RougeL => format!("{:.1}", value * 100.0),
    }
}

fn difference(c: &Compared) -> String {
    let (scale, digits) = if c.metric == Metric::Loss { (1.0, 4) } else { (100.0, 1) };
    let number = |x: f64| format!("{:+.digits$}", x * scale);
    format!("{} [{}, {}]", number(c.difference), number(c.low), number(c.high))
}

/// A line a task, below its cluster.
fn tasks(side_by_side: &SideBySide) -> String {
    let (tasks, clusters) = (&side_by_side.comparison.tasks, &side_by_side.comparison.clusters);
    if tasks.is_empty() {
        return String::new();
    }
    let generated: Vec<Metric> = Metric::ALL.into_iter().filter(|m| has(side_by_side, *m)).collect();
    let cells = |values: &[(Metric, f64, f64)]| -> String {
        let cell = |metric: &Metric| {
            let found = values.iter().find(|(m, _, _)| m == metric);
            let text = found.map(|(m, base, adapter)| format!("{} → {}", short(*m, *base), short(*m, *adapter)));
            format!("{:>18}", text.unwrap_or_else(|| "–".into()))
        };
        generated.iter().map(cell).collect()
    };
    let head: String = generated.iter().map(|m| format!("{:>18}", m.name().split(',').next().unwrap_or_default())).collect();
    let mut out = format!("  {:<46}{:>6}{head}\n", "by task", "rows");
    let mut last = None;
    for task in tasks {
        let cluster = &task.label.cluster;
        let mut indent = "";
        if let Some(cluster) = cluster {
            indent = "  ";
            let result = clusters.iter().find(|c| c.cluster == *cluster).filter(|_| last != Some(cluster));
            if let Some(result) = result {
                let mean = if result.tasks > 1 { cells(&result.values) } else { String::new() };
                let rows = if result.tasks > 1 { result.rows.to_string() } else { String::new() };
                out += &trimmed(format!("  {:<46}{rows:>6}{mean}", cut(cluster, 44)));
            }
        }
        last = cluster.as_ref();
        let name = format!("{indent}{}", task.label.task.as_deref().unwrap_or_default());
        out += &trimmed(format!("  {:<46}{:>6}{}", cut(&name, 45), task.rows, cells(&task.values)));
    }
    out
}

fn trimmed(line: String) -> String {
    format!("{}\n", line.trim_end())
}

fn has(side_by_side: &SideBySide, metric: Metric) -> bool {
    side_by_side.comparison.tasks.iter().any(|t| t.values.iter().any(|(m, _, _)| *m == metric))
}

fn short(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Loss => format!("{value:.3}"),
        _ => format!("{:.1}", value * 100.0),
    }
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_string(),
    }
}
