//! Choosing the next token from its logits.
//!
//! The order is that of transformers' `GenerationMixin._get_logits_processor`: bias → penalties → temperature → top-k →
//! top-p → min-p. Random numbers are counter-based, so that a token's choice depends on seed, stream and position only.

use std::collections::HashMap;

use rand::Rng;

use crate::error::{Error, Result};
use crate::random;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token every time.
    pub temperature: f64,
    /// Only the `k` most likely tokens.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together reach this probability (Holtzman et al. 2020).
    pub top_p: Option<f64>,
    /// Only tokens at least this likely relative to the most likely one, after the temperature (Nguyen et al. 2024).
    pub min_p: Option<f64>,
    /// Positive logits of tokens already in the text are divided by it, negative ones multiplied (Keskar et al. 2019);
    /// 1 = off.
    pub repetition_penalty: f64,
    /// Subtracted from the logit of every token already in the answer (OpenAI), -2 to 2; 0 = off.
    pub presence_penalty: f64,
    /// Subtracted from the logit of a token for each time it is in the answer (OpenAI), -2 to 2; 0 = off.
    pub frequency_penalty: f64,
    /// Added to the logits of single tokens (OpenAI's `logit_bias`), -100 to 100; -100 bans a token. Ids beyond the
    /// vocabulary change nothing.
    pub bias: Vec<(u32, f32)>,
    pub seed: u64,
}

/// The bias that bans a token.
const BAN: f32 = -100.0;

impl Sampling {
    /// The most likely token every time.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        bias: Vec::new(),
        seed: 0,
    };

    /// # Errors
    /// [`Error::Usage`] naming the value that is impossible.
    pub fn check(&self) -> Result<()> {
        let fail = |what: &str, value: String, help: &str| Err(Error::usage(what, format!("{value} is not possible"), help));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return fail("temperature", self.temperature.to_string(), "give 0 (always the most likely token) or more, e.g. 0.7");
        }
        if self.top_k == Some(0) {
            return fail("top-k", "0".into(), "give at least 1, or leave it out to keep all tokens");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return fail("top-p", p.to_string(), "give a probability above 0 and up to 1, e.g. 0.9");
        }
        if let Some(p) = self.min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return fail(
                "min-p",
                p.to_string(),
                "give a share from 0 (off) to 1 of the most likely token's probability, e.g. 0.05",
            );
        }
        // Beyond these, logits would no longer be finite.
        if !(1e-3..=1e3).contains(&self.repetition_penalty) {
            return fail("repetition penalty", self.repetition_penalty.to_string(), "give 1 (off) or a little more, e.g. 1.1");
        }
        for (what, penalty) in [("presence penalty", self.presence_penalty), ("frequency penalty", self.frequency_penalty)] {
            if !(-2.0..=2.0).contains(&penalty) {
                return fail(what, penalty.to_string(), "give a number from -2 to 2, e.g. 0.5; 0 is off");
            }
        }
        if let Some((id, bias)) = self.bias.iter().find(|(_, bias)| !(BAN..=-BAN).contains(bias)) {
            let what = format!("logit bias of token {id}");
            return fail(&what, bias.to_string(), "give a number from -100 (never) to 100 (whenever it may be)");
        }
        Ok(())
    }

    /// Whether it matters which tokens the text has.
    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Tokens that may be drawn with their probabilities relative to the most likely one; in order of likelihood with top-k
    /// or top-p, of ids without.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let max = finite(logits).fold(f32::NEG_INFINITY, |m, (_, x)| m.max(x));
        let weight = |(id, x): (u32, f32)| (id, (f64::from(x - max) / self.temperature).exp());
        let mut kept: Vec<(u32, f64)> = match (self.top_k, self.top_p) {
            (None, None) => finite(logits).map(weight).collect(),
            (Some(k), p) => {
                let mut likeliest: Vec<(u32, f64)> = likeliest(logits, k).into_iter().map(weight).collect();
                let total: f64 = likeliest.iter().map(|(_, w)| w).sum();
                likeliest.truncate(p.map_or(k, |p| nucleus(&likeliest, p * total)));
                likeliest
            }
            (None, Some(p)) => nucleus_of_all(logits, p, weight),
        };
        if let Some(p) = self.min_p {
            kept.retain(|(_, w)| *w >= p);
        }
        kept
    }
}

/// Chooses the tokens of one text, one after another.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    sampling: Sampling,
    stream: u64,
    /// Tokens of prompt and answer so far.
    len: usize,
    /// How often each token of the text is in the answer; empty where no penalty asks for it.
    counts: HashMap<u32, u32>,
}

impl Sampler {
    /// For an answer to `prompt`. `stream` names the stream of random numbers, beside the sampling's seed.
    pub(super) fn new(sampling: Sampling, stream: u64, prompt: &[u32]) -> Sampler {
        let read = if sampling.penalises() { prompt } else { &[] };
        Sampler { counts: read.iter().map(|id| (*id, 0)).collect(), sampling, stream, len: prompt.len() }
    }

    /// The next token, given its `logits`, which are changed on the way. `banned` may not come; of a grammar's `allowed`, bit
    /// `id % 32` of word `id / 32` says whether a token may (llguidance's `SimpleVob`), and those beyond its end may not.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when no logit is a finite number, [`Error::Usage`] when no token may come.
    pub(super) fn choose(&self, logits: &mut [f32], banned: &[u32], allowed: Option<&[u32]>) -> Result<u32> {
        if !logits.iter().any(|x| x.is_finite()) {
            return Err(Error::NonFinite {
                step: self.len,
                why: "the logits of the next token are not numbers".into(),
                help: "check the adapter with `lorakit adapter inspect DIR`; try --compute f32".into(),
            });
        }
        self.penalise(logits);
        forbid(logits, banned, allowed);
        let best = argmax(logits).ok_or_else(|| {
            let why = "none may come: what the grammar permits is banned, or has no probability";
            Error::usage("next token", why, "ban fewer tokens (a logit bias of -100 is a ban), or permit more in the grammar")
        })?;
        if self.sampling.temperature == 0.0 {
            return Ok(best);
        }
        let candidates = self.sampling.candidates(logits);
        let mut rng = random::stream(self.sampling.seed, "sample", &[self.stream, self.len as u64]);
        Ok(draw(&candidates, rng.random::<f64>()).unwrap_or(best))
    }

    /// Adds a token to the answer.
    pub(super) fn accept(&mut self, id: u32) {
        self.len += 1;
        if self.sampling.penalises() {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, bias, .. } = &self.sampling;
        for (id, bias) in bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = if *bias == BAN { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
        let repetition = *repetition_penalty as f32;
        for (id, count) in &self.counts {
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            *logit = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
            if *count > 0 {
                *logit -= (presence_penalty + frequency_penalty * f64::from(*count)) as f32;
            }
        }
    }
}

/// Takes the chance from tokens that may not come.
fn forbid(logits: &mut [f32], banned: &[u32], allowed: Option<&[u32]>) {
    for id in banned {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let Some(allowed) = allowed else { return };
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(u32::BITS as usize).zip(words).filter(|(_, word)| *word != u32::MAX) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// Tokens with finite logits, by id.
fn finite(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    logits.iter().enumerate().filter(|(_, x)| x.is_finite()).map(|(id, x)| (id as u32, *x))
}

/// The `n` tokens with the largest finite logits, the largest first, of equals the first id.
fn likeliest(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut kept = Vec::with_capacity(2 * n);
    // The n-th largest when last looked at: what equals it comes after it.
    let mut least = f32::NEG_INFINITY;
    for (id, x) in finite(logits) {
        if x.total_cmp(&least).is_le() {
            continue;
        }
        kept.push((id, x));
        if kept.len() == 2 * n {
            kept.select_nth_unstable_by(n - 1, order);
            kept.truncate(n);
            least = kept[n - 1].1;
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(n);
    kept
}

/// How many of the most likely tokens are kept: those before which less than `enough` has been reached; always one.
fn nucleus(sorted: &[(u32, f64)], enough: f64) -> usize {
    let mut before = 0.0;
    let beyond = sorted.iter().position(|(_, w)| {
        let reached = before >= enough;
        before += w;
        reached
    });
    beyond.unwrap_or(sorted.len()).max(1)
}

/// The most likely tokens that together reach `p`, without sorting more of the others than need be.
fn nucleus_of_all(logits: &[f32], p: f64, weight: impl Fn((u32, f32)) -> (u32, f64)) -> Vec<(u32, f64)> {
    let total: f64 = finite(logits).map(|token| weight(token).1).sum();
    // Nothing is left out at 1, however sums are rounded.
    let (mut n, enough) = if p < 1.0 { (FIRST_SORTED, p * total) } else { (logits.len(), f64::INFINITY) };
    loop {
        let mut sorted: Vec<(u32, f64)> = likeliest(logits, n).into_iter().map(&weight).collect();
        let kept = nucleus(&sorted, enough);
        if kept < sorted.len() || n >= logits.len() {
            sorted.truncate(kept);
            return sorted;
        }
        n *= 8;
    }
}

/// Tokens among which the nucleus is looked for first.
const FIRST_SORTED: usize = 64;

/// The largest finite logit's id, the first of equals.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, x) in logits.iter().enumerate() {
        if x.is_finite() && best.is_none_or(|(_, top)| *x > top) {
            best = Some((id, *x));
        }
    }
    best.map(|(id, _)| id as u32)
}

/// The token at share `u` (in `[0, 1)`) of the summed weights.
fn draw(candidates: &[(u32, f64)], u: f64) -> Option<u32> {
    let mut left = u * candidates.iter().map(|(_, w)| w).sum::<f64>();
    for (id, weight) in candidates {
        left -= weight;
        if left < 0.0 {
            return Some(*id);
        }
    }
    candidates.last().map(|(id, _)| *id)
}

/// `ln Σ exp` of the logits.
fn logsumexp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

/// [`logp_of`] of a token and [`top_logps`] together, with one sum over the vocabulary.
pub(super) fn scored(logits: &[f32], id: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let all = logsumexp(logits);
    (logp(logits, id, all), top(logits, n, all))
}

fn logp(logits: &[f32], id: u32, all: f64) -> f32 {
    logits.get(id as usize).map_or(f32::NEG_INFINITY, |x| (f64::from(*x) - all) as f32)
}

fn top(logits: &[f32], n: usize, all: f64) -> Vec<(u32, f32)> {
    likeliest(logits, n).into_iter().map(|(id, x)| (id, (f64::from(x) - all) as f32)).collect()
}

/// The log-probability of token `id` in nats, by these logits alone; minus infinity beyond the vocabulary.
pub fn logp_of(logits: &[f32], id: u32) -> f32 {
    logp(logits, id, logsumexp(logits))
}

/// The `n` most likely tokens with their log-probabilities in nats, by these logits alone: the most likely first, of equally
/// likely ones the lower id. Fewer where fewer logits are finite.
pub fn top_logps(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    top(logits, n, logsumexp(logits))
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
