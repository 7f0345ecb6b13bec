//! How many rows of each source an epoch has, and which: every draw is a function of plan, seed and epoch.
//!
//! A part of the mixture is drawn from without replacement, pass after pass, each in its own order. Within an epoch the
//! parts are spread evenly: after any number of draws each part has its share, but for about one row. What an epoch
//! leaves over of a fraction of a row, the next one gets. Refuses to know what is in a row.

use crate::data::Examples;
use crate::error::{Error, Result};
use crate::random;
use crate::recipe;
use crate::recipe::{MixtureUnit, Source, Strategy};

/// The plan of a run's epochs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mixture {
    /// Sources in the order of the recipe, replay last.
    pub parts: Vec<Part>,
    /// Number of examples, where an epoch is each of them once: the parts then do not matter.
    plain: Option<usize>,
}

/// Sources that have one share together.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    /// Trained along against forgetting.
    pub replay: bool,
    /// Its examples, by index.
    examples: Vec<u32>,
    /// Tokens of all its examples.
    pub tokens: usize,
    /// Rows drawn from it in an epoch; need not be whole.
    pub quota: f64,
}

/// What a plan says of a part, or what came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Share {
    pub name: String,
    pub replay: bool,
    /// Rows that the part has.
    pub rows: usize,
    /// Rows drawn.
    pub drawn: f64,
    /// Of all rows drawn, 0 to 1.
    pub of_rows: f64,
    /// Of all tokens drawn, 0 to 1.
    pub of_tokens: f64,
    /// Times that each row is seen.
    pub times: f64,
}

impl Mixture {
    /// Every one of `examples` once an epoch.
    pub fn plain(examples: usize) -> Mixture {
        Mixture { parts: Vec::new(), plain: Some(examples) }
    }

    /// The plan of `data` for its training examples.
    ///
    /// # Errors
    /// When a source that was given a share, or replay, has no example left.
    pub fn plan(data: &recipe::Data, examples: &Examples) -> Result<Mixture> {
        // Sources of held-out rows lie behind those of training rows, or have none of these.
        Mixture::plan_of(data, (0..examples.len()).map(|i| (examples.source(i), examples.length(i))))
    }

    /// As [`Mixture::plan`], of examples given as (index of their source: `train` first, then replay; tokens).
    ///
    /// # Errors
    /// As [`Mixture::plan`].
    pub fn plan_of(data: &recipe::Data, examples: impl Iterator<Item = (usize, usize)>) -> Result<Mixture> {
        let mut count = 0;
        let (mut parts, place) = layout(data);
        for (index, (source, tokens)) in examples.enumerate() {
            let part = &mut parts[place[source]];
            part.examples.push(index as u32);
            part.tokens += tokens;
            count += 1;
        }
        let first = |part: usize| place.iter().position(|p| *p == part).and_then(|source| source_of(data, source));
        let shares: Vec<Asked> = (0..parts.len()).map(|part| first(part).map(Asked::of).unwrap_or_default()).collect();
        for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.examples.is_empty()) {
            if shares[index].is_explicit() || part.replay {
                let why = format!("no row of it is left to train on{}", if part.replay { " (replay)" } else { "" });
                let help = "`lorakit data show RECIPE` says what was dropped; remove the source, or its share";
                return Err(Error::usage(part.name.clone(), why, help));
            }
        }
        quotas(&data.mixture, &mut parts, &shares);
        if let Some(replay) = &data.replay {
            replay_quotas(replay.fraction, &mut parts, &shares);
        }
        let plain = parts.iter().all(|part| !part.replay && part.quota == part.rows() as f64).then_some(count);
        Ok(Mixture { parts, plain })
    }

    /// Whether an epoch is simply every example once.
    pub fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Rows of epoch `epoch`, before any packing.
    pub fn rows(&self, epoch: usize) -> usize {
        self.plain.unwrap_or_else(|| self.parts.iter().map(|part| part.due(epoch).len()).sum())
    }

    /// The examples of an epoch, in the order in which they are drawn.
    pub fn draws(&self, seed: u64, epoch: usize) -> Vec<usize> {
        if let Some(examples) = self.plain {
            return random::order(examples, seed, "order", &[epoch as u64]);
        }
        let mut placed: Vec<(f64, u32)> = Vec::with_capacity(self.rows(epoch));
        for (index, part) in self.parts.iter().enumerate() {
            part.place(seed, index as u64, epoch, &mut placed);
        }
        // Stable: parts at the very same place keep their order.
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        placed.into_iter().map(|(_, example)| example as usize).collect()
    }

    /// What an epoch is planned to be.
    pub fn planned(&self) -> Vec<Share> {
        let drawn = |part: &Part| (part.quota, part.quota * part.mean_tokens());
        self.shares(self.parts.iter().map(drawn).collect())
    }

    /// What came of the plan, from the examples that were drawn and how many tokens each has.
    pub fn drawn(&self, drawn: impl Iterator<Item = usize>, tokens: impl Fn(usize) -> usize) -> Vec<Share> {
        let count = self.parts.iter().flat_map(|p| p.examples.iter().map(|e| *e as usize + 1)).max().unwrap_or(0);
        let mut part_of = vec![0u32; count];
        for (index, part) in self.parts.iter().enumerate() {
            part.examples.iter().for_each(|e| part_of[*e as usize] = index as u32);
        }
        let mut sums = vec![(0.0, 0.0); self.parts.len()];
        for example in drawn {
            let sum = &mut sums[part_of[example] as usize];
            *sum = (sum.0 + 1.0, sum.1 + tokens(example) as f64);
        }
        self.shares(sums)
    }

    fn shares(&self, drawn: Vec<(f64, f64)>) -> Vec<Share> {
        let (rows, tokens) = drawn.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        let share = |(part, drawn): (&Part, (f64, f64))| Share {
            name: part.name.clone(),
            replay: part.replay,
            rows: part.rows(),
            drawn: drawn.0,
            of_rows: drawn.0 / f64::max(rows, 1.0),
            of_tokens: drawn.1 / f64::max(tokens, 1.0),
            times: drawn.0 / f64::max(part.rows() as f64, 1.0),
        };
        self.parts.iter().zip(drawn).map(share).collect()
    }
}

impl Part {
    /// Rows that it has.
    pub fn rows(&self) -> usize {
        self.examples.len()
    }

    fn mean_tokens(&self) -> f64 {
        self.tokens as f64 / (self.rows() as f64).max(1.0)
    }

    /// Its draws in an epoch, counted from the beginning of the run.
    fn due(&self, epoch: usize) -> std::ops::Range<usize> {
        let until = |epoch: usize| (self.quota * epoch as f64).round() as usize;
        if self.examples.is_empty() { 0..0 } else { until(epoch)..until(epoch + 1) }
    }

    /// Its draws of an epoch with their places in it: draw k of n lies in the k-th n-th of the epoch, at random.
    fn place(&self, seed: u64, part: u64, epoch: usize, placed: &mut Vec<(f64, u32)>) {
        let due = self.due(epoch);
        let (count, rows) = (due.len() as f64, self.rows());
        let key = random::number(seed, "mixture place", &[part, epoch as u64]);
        let mut pass = (usize::MAX, Vec::new());
        for (k, draw) in due.enumerate() {
            if pass.0 != draw / rows {
                pass = (draw / rows, random::order(rows, seed, "mixture", &[part, (draw / rows) as u64]));
            }
            let within = (random::indexed(key, k as u64) >> 11) as f64 / (1u64 << 53) as f64;
            placed.push(((k as f64 + within) / count, self.examples[pass.1[draw % rows]]));
        }
    }
}

/// What a source says of its share.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    weight: Option<f64>,
    rows: Option<usize>,
    epochs: Option<f64>,
}

impl Asked {
    fn of(source: &Source) -> Asked {
        Asked { weight: source.weight, rows: source.rows, epochs: source.epochs }
    }

    fn is_explicit(&self) -> bool {
        self.weight.is_some() || self.rows.is_some() || self.epochs.is_some()
    }
}

fn source_of(data: &recipe::Data, index: usize) -> Option<&Source> {
    data.train.iter().chain(data.replayed()).nth(index)
}

/// The parts, still empty, and the part of each source.
fn layout(data: &recipe::Data) -> (Vec<Part>, Vec<usize>) {
    let (mut parts, mut place): (Vec<Part>, Vec<usize>) = (Vec::new(), Vec::new());
    let train = data.train.iter().map(|s| (s, false));
    for (source, replay) in train.chain(data.replayed().iter().map(|s| (s, true))) {
        let known = source.name.as_ref().and_then(|name| parts.iter().position(|p| p.name == *name && p.replay == replay));
        place.push(known.unwrap_or(parts.len()));
        if known.is_none() {
            let file = || source.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let name = source.name.clone().unwrap_or_else(file);
            parts.push(Part { name, replay, examples: Vec::new(), tokens: 0, quota: 0.0 });
        }
    }
    (parts, place)
}

fn quotas(mixture: &recipe::Mixture, parts: &mut [Part], asked: &[Asked]) {
    let own: Vec<usize> = (0..parts.len()).filter(|i| !parts[*i].replay).collect();
    let capped = |part: &Part| mixture.cap.map_or(part.rows(), |cap| cap.min(part.rows())) as f64;
    let share = |i: &usize| -> f64 {
        let (part, asked) = (&parts[*i], &asked[*i]);
        match mixture.strategy {
            Strategy::All => asked.rows.map_or(asked.epochs.unwrap_or(1.0) * part.rows() as f64, |rows| rows as f64),
            Strategy::Proportional => capped(part).powf(1.0 / mixture.temperature),
            Strategy::Weights if part.rows() == 0 => 0.0,
            Strategy::Weights => match mixture.unit {
                MixtureUnit::Rows => asked.weight.unwrap_or(1.0),
                MixtureUnit::Tokens => asked.weight.unwrap_or(1.0) / part.mean_tokens(),
            },
        }
    };
    let shares: Vec<f64> = own.iter().map(share).collect();
    let available: f64 = own.iter().map(|i| capped(&parts[*i])).sum();
    let scale = match mixture.strategy {
        Strategy::All => 1.0,
        _ => mixture.rows.map_or(available, |rows| rows as f64) / shares.iter().sum::<f64>().max(f64::MIN_POSITIVE),
    };
    own.into_iter().zip(shares).for_each(|(i, share)| parts[i].quota = share * scale);
}

/// Replay gets as many tokens that they are `fraction` of all; its parts share them by weight, else by their tokens.
fn replay_quotas(fraction: f64, parts: &mut [Part], asked: &[Asked]) {
    let own: f64 = parts.iter().map(|part| part.quota * part.mean_tokens()).sum();
    let tokens = own * fraction / (1.0 - fraction);
    let replay: Vec<usize> = (0..parts.len()).filter(|i| parts[*i].replay).collect();
    let weighted = replay.iter().any(|i| asked[*i].weight.is_some());
    let share = |i: &usize| if weighted { asked[*i].weight.unwrap_or(1.0) } else { parts[*i].tokens as f64 };
    let shares: Vec<f64> = replay.iter().map(share).collect();
    let all: f64 = shares.iter().sum();
    for (i, share) in replay.into_iter().zip(shares) {
        parts[i].quota = tokens * share / all / parts[i].mean_tokens();
    }
}

#[cfg(test)]
#[path = "mixture_tests.rs"]
mod tests;
