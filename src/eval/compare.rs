//! Two measures of the same rows side by side, with 95 % intervals of the difference from a paired bootstrap (Efron 1979;
//! Koehn 2004, "Statistical significance tests for machine translation evaluation").
//!
//! Two questions, two intervals. *Over rows*: rows are drawn anew within each task, the tasks stay: how sure is the
//! difference on these tasks? *Over tasks*: whole tasks are drawn anew (Davison & Hinkley 1997, §3.8, strategy 1), each
//! counting the same: how sure is it on tasks like these? Both take base and adapter of a drawn row together. An interval
//! is from the 2.5th to the 97.5th percentile. Refuses to know models.

use std::collections::BTreeMap;

use rand::Rng;

use super::RowScore;
use crate::random;

/// Samples drawn for an interval.
pub const RESAMPLES: usize = 2000;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Nats per trained token.
    Loss,
    ExactMatch,
    RougeL,
    /// Share of multiple-choice questions whose right choice is the likeliest, as lm-eval's `acc`.
    Acc,
    /// The same by log-probability per character of a choice, as lm-eval's `acc_norm`.
    AccNorm,
    /// The same by log-probability per byte, as lm-eval's `acc_bytes`.
    AccBytes,
}

impl Metric {
    pub const ALL: [Metric; 6] =
        [Metric::Loss, Metric::ExactMatch, Metric::RougeL, Metric::Acc, Metric::AccNorm, Metric::AccBytes];
    /// Those of multiple-choice questions.
    pub const CHOICE: [Metric; 3] = [Metric::Acc, Metric::AccNorm, Metric::AccBytes];

    /// The name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss, nats per token",
            Metric::ExactMatch => "exact match",
            Metric::RougeL => "ROUGE-L",
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::AccBytes => "acc_bytes",
        }
    }

    /// The mean over rows (of the loss: over tokens); `None` where no row has it.
    pub fn over<'s>(self, rows: impl IntoIterator<Item = &'s RowScore>) -> Option<f64> {
        let (sum, weight) = rows.into_iter().map(|row| self.share(row)).fold((0.0, 0.0), |(s, w), (a, b)| (s + a, w + b));
        (weight > 0.0).then(|| sum / weight)
    }

    /// A row's part of the mean: sum and weight.
    fn share(self, row: &RowScore) -> (f64, f64) {
        let one = |value: Option<f64>| value.map_or((0.0, 0.0), |v| (v, 1.0));
        match self {
            Metric::Loss => (row.nats, row.tokens as f64),
            Metric::ExactMatch => one(row.exact_match),
            Metric::RougeL => one(row.rouge_l),
            Metric::Acc => one(row.acc),
            Metric::AccNorm => one(row.acc_norm),
            Metric::AccBytes => one(row.acc_bytes),
        }
    }
}

/// The task of a row and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Label {
    pub cluster: Option<String>,
    pub task: Option<String>,
}

/// Which mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// Every row counts the same (of the loss: every token).
    Rows,
    /// Every task counts the same.
    Tasks,
}

/// A metric of both, and how sure their difference is.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Compared {
    pub metric: Metric,
    pub over: Over,
    pub base: f64,
    pub adapter: f64,
    /// Adapter less base.
    pub difference: f64,
    /// The 95 % interval of the difference.
    pub low: f64,
    pub high: f64,
}

/// Both on the rows of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    pub label: Label,
    pub rows: usize,
    /// Metric, base, adapter.
    pub values: Vec<(Metric, f64, f64)>,
}

/// Both on the tasks of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterResult {
    pub cluster: String,
    pub tasks: usize,
    pub rows: usize,
    /// Metric, base, adapter: means over the tasks, each counting the same.
    pub values: Vec<(Metric, f64, f64)>,
}

/// Base and adapter on the same rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// Over rows, then (of two tasks and more) over tasks.
    pub metrics: Vec<Compared>,
    /// By cluster, then by name; empty where rows belong to no task.
    pub tasks: Vec<TaskResult>,
    /// By name.
    pub clusters: Vec<ClusterResult>,
}

/// Compares two measures row by row; the intervals are a function of `seed`.
pub fn compare(labels: &[Label], base: &[RowScore], adapter: &[RowScore], seed: u64) -> Comparison {
    let mut groups: BTreeMap<&Label, Vec<usize>> = BTreeMap::new();
    for (i, label) in labels.iter().enumerate().take(base.len().min(adapter.len())) {
        groups.entry(label).or_default().push(i);
    }
    let named = groups.iter().filter(|(label, _)| label.task.is_some());
    let tasks: Vec<TaskResult> = named.map(|(label, rows)| task(label, rows, base, adapter)).collect();
    let groups: Vec<Vec<usize>> = groups.into_values().collect();
    let pairs = |metric| base.iter().zip(adapter).map(|(b, a)| PairedSums::of(metric, b, a)).collect::<Vec<_>>();
    let mut metrics: Vec<Compared> =
        Metric::ALL.into_iter().filter_map(|metric| over_rows(metric, &pairs(metric), &groups, seed)).collect();
    if !tasks.is_empty() && groups.len() > 1 {
        metrics.extend(Metric::ALL.into_iter().filter_map(|metric| over_tasks(metric, &pairs(metric), &groups, seed)));
    }
    Comparison { metrics, clusters: clusters(&tasks), tasks }
}

fn task(label: &Label, rows: &[usize], base: &[RowScore], adapter: &[RowScore]) -> TaskResult {
    let mean = |metric: Metric, of: &[RowScore]| metric.over(rows.iter().map(|i| &of[*i]));
    let both = |metric: Metric| Some((metric, mean(metric, base)?, mean(metric, adapter)?));
    TaskResult { label: label.clone(), rows: rows.len(), values: Metric::ALL.into_iter().filter_map(both).collect() }
}

fn clusters(tasks: &[TaskResult]) -> Vec<ClusterResult> {
    let mut groups: BTreeMap<&String, Vec<&TaskResult>> = BTreeMap::new();
    for task in tasks {
        if let Some(cluster) = &task.label.cluster {
            groups.entry(cluster).or_default().push(task);
        }
    }
    let result = |(cluster, tasks): (&String, Vec<&TaskResult>)| {
        let mean = |metric: Metric| {
            let values = tasks.iter().flat_map(|t| &t.values).filter(|(m, _, _)| *m == metric);
            let pairs = values.map(|(_, base, adapter)| PairedSums { base: *base, adapter: *adapter, weight: 1.0 });
            PairedSums::sum(pairs).means().map(|(base, adapter)| (metric, base, adapter))
        };
        ClusterResult {
            cluster: cluster.clone(),
            tasks: tasks.len(),
            rows: tasks.iter().map(|t| t.rows).sum(),
            values: Metric::ALL.into_iter().filter_map(mean).collect(),
        }
    };
    groups.into_iter().map(result).collect()
}

/// Sums of both over the same rows, and their weight.
#[derive(Debug, Clone, Copy, Default)]
struct PairedSums {
    base: f64,
    adapter: f64,
    weight: f64,
}

impl PairedSums {
    fn of(metric: Metric, base: &RowScore, adapter: &RowScore) -> PairedSums {
        let ((base, weight), (adapter, _)) = (metric.share(base), metric.share(adapter));
        PairedSums { base, adapter, weight }
    }

    fn sum(pairs: impl Iterator<Item = PairedSums>) -> PairedSums {
        pairs.fold(PairedSums::default(), |s, p| PairedSums {
            base: s.base + p.base,
            adapter: s.adapter + p.adapter,
            weight: s.weight + p.weight,
        })
    }

    /// Means of base and adapter.
    fn means(self) -> Option<(f64, f64)> {
        (self.weight > 0.0).then(|| (self.base / self.weight, self.adapter / self.weight))
    }
}

fn over_rows(metric: Metric, pairs: &[PairedSums], groups: &[Vec<usize>], seed: u64) -> Option<Compared> {
    let (base, adapter) = PairedSums::sum(pairs.iter().copied()).means()?;
    let drawn = (0..RESAMPLES).filter_map(|sample| {
        // The same rows for every metric.
        let mut rng = random::stream(seed, "bootstrap over rows", &[sample as u64]);
        let mut again = |group: &Vec<usize>| {
            let rows = (0..group.len()).map(|_| pairs[group[rng.random_range(0..group.len())]]);
            PairedSums::sum(rows)
        };
        let (base, adapter) = PairedSums::sum(groups.iter().map(&mut again)).means()?;
        Some(adapter - base)
    });
    Some(compared(metric, Over::Rows, base, adapter, drawn.collect()))
}

fn over_tasks(metric: Metric, pairs: &[PairedSums], groups: &[Vec<usize>], seed: u64) -> Option<Compared> {
    let means = groups.iter().filter_map(|rows| PairedSums::sum(rows.iter().map(|i| pairs[*i])).means());
    let tasks: Vec<PairedSums> = means.map(|(base, adapter)| PairedSums { base, adapter, weight: 1.0 }).collect();
    let (base, adapter) = PairedSums::sum(tasks.iter().copied()).means()?;
    let drawn = (0..RESAMPLES).filter_map(|sample| {
        let mut rng = random::stream(seed, "bootstrap over tasks", &[sample as u64]);
        let again = (0..tasks.len()).map(|_| tasks[rng.random_range(0..tasks.len())]);
        let (base, adapter) = PairedSums::sum(again).means()?;
        Some(adapter - base)
    });
    Some(compared(metric, Over::Tasks, base, adapter, drawn.collect()))
}

fn compared(metric: Metric, over: Over, base: f64, adapter: f64, mut drawn: Vec<f64>) -> Compared {
    drawn.sort_by(f64::total_cmp);
    let (low, high) = (percentile(&drawn, 0.025), percentile(&drawn, 0.975));
    Compared { metric, over, base, adapter, difference: adapter - base, low, high }
}

/// Of sorted values, interpolated between neighbours (NumPy's default).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let below = at.floor() as usize;
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(a), Some(b)) => a + (b - a) * (at - below as f64),
        (Some(a), None) => *a,
        (None, _) => f64::NAN,
    }
}
