//! Choosing the next token from its logits.
//!
//! The order is that of transformers' `GenerationMixin._get_logits_processor`: repetition penalty → temperature → top-k →
//! top-p. Random numbers are counter-based, so that a token's choice depends on seed, row and position only.

use std::collections::HashSet;

use rand::Rng;

use crate::error::{Error, Result};
use crate::random;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token every time.
    pub temperature: f64,
    /// Only the `k` most likely tokens.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together reach this probability (Holtzman et al. 2020).
    pub top_p: Option<f64>,
    /// Positive logits of tokens already in the text are divided by it, negative ones multiplied (Keskar et al. 2019);
    /// 1 = off.
    pub repetition_penalty: f64,
    pub seed: u64,
}

impl Sampling {
    /// The most likely token every time.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: None, repetition_penalty: 1.0, seed: 0 };

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
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return fail("repetition penalty", self.repetition_penalty.to_string(), "give 1 (off) or a little more, e.g. 1.1");
        }
        Ok(())
    }

    /// The token that follows `text` (prompt and answer so far), given its `logits`, which are changed on the way.
    /// `row` names the random stream.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when no logit is a finite number.
    pub(super) fn choose(&self, logits: &mut [f32], text: &[u32], row: u64) -> Result<u32> {
        self.penalise(logits, text);
        let best = argmax(logits).ok_or_else(|| Error::NonFinite {
            step: text.len(),
            why: "the logits of the next token are not numbers".into(),
            help: "check the adapter with `lorakit adapter inspect DIR`; try --compute f32".into(),
        })?;
        if self.temperature == 0.0 {
            return Ok(best);
        }
        let candidates = self.candidates(logits);
        let mut rng = random::stream(self.seed, "sample", &[row, text.len() as u64]);
        Ok(draw(&candidates, rng.random::<f64>()).unwrap_or(best))
    }

    fn penalise(&self, logits: &mut [f32], text: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        for id in text.iter().collect::<HashSet<_>>() {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
    }

    /// Tokens that may be drawn with their unnormalised probabilities, the most likely first where any are left out.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f32)> =
            logits.iter().enumerate().filter(|(_, x)| !x.is_nan()).map(|(id, x)| (id as u32, *x)).collect();
        let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.filter(|k| *k < all.len()) {
            all.select_nth_unstable_by(k - 1, likelier);
            all.truncate(k);
        }
        if self.top_k.is_some() || self.top_p.is_some() {
            all.sort_unstable_by(likelier);
        }
        let max = all.iter().fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
        let weight = |x: f32| (f64::from(x - max) / self.temperature).exp();
        let mut all: Vec<(u32, f64)> = all.into_iter().map(|(id, x)| (id, weight(x))).collect();
        if let Some(p) = self.top_p {
            all.truncate(nucleus(&all, p));
        }
        all
    }
}

/// How many of the most likely tokens are kept: those before which less than `p` has been reached; always one.
fn nucleus(sorted: &[(u32, f64)], p: f64) -> usize {
    let total: f64 = sorted.iter().map(|(_, w)| w).sum();
    let mut before = 0.0;
    let beyond = sorted.iter().position(|(_, w)| {
        let enough = before >= p * total;
        before += w;
        enough
    });
    beyond.unwrap_or(sorted.len()).max(1)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(temperature: f64) -> Sampling {
        Sampling { temperature, ..Sampling::GREEDY }
    }

    /// Ids that can be drawn.
    fn kept(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = sampling.candidates(logits).into_iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn top_k_keeps_the_k_most_likely() {
        let logits = [0.0, 3.0, 1.0, 3.0, -1.0];
        assert_eq!(kept(Sampling { top_k: Some(1), ..at(1.0) }, &logits), [1]);
        assert_eq!(kept(Sampling { top_k: Some(3), ..at(1.0) }, &logits), [1, 2, 3]);
        assert_eq!(kept(Sampling { top_k: Some(9), ..at(1.0) }, &logits), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_p_after_the_temperature() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let keep = |p, t| kept(Sampling { top_p: Some(p), ..at(t) }, &logits);
        assert_eq!(keep(0.4, 1.0), [0]);
        assert_eq!(keep(0.6, 1.0), [0, 1]);
        assert_eq!(keep(0.94, 1.0), [0, 1, 2]);
        assert_eq!(keep(1.0, 1.0), [0, 1, 2, 3]);
        // Squared probabilities at temperature 1/2: 0.68, 0.25, 0.06, 0.01.
        assert_eq!(keep(0.6, 0.5), [0]);
        assert_eq!(keep(1e-9, 1.0), [0]);
    }

    #[test]
    fn top_k_comes_before_top_p() {
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        // Of the first two alone, 0.4 / 0.7 = 0.57 is reached by the first.
        assert_eq!(kept(Sampling { top_k: Some(2), top_p: Some(0.5), ..at(1.0) }, &logits), [0]);
        assert_eq!(kept(Sampling { top_p: Some(0.5), ..at(1.0) }, &logits), [0, 1]);
    }

    #[test]
    fn the_penalty_moves_both_signs_away_and_counts_a_token_once() {
        let sampling = Sampling { repetition_penalty: 2.0, ..at(0.0) };
        let mut logits = [4.0, -1.0, 3.0, 0.5];
        assert_eq!(sampling.choose(&mut logits, &[0, 0, 1, 99], 0).unwrap(), 2);
        assert_eq!(logits, [2.0, -2.0, 3.0, 0.5]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let draws = |seed: u64, row: u64| -> Vec<u32> {
            let sampling = Sampling { seed, ..at(1.0) };
            let text = [0u32; 3000];
            (0..3000).map(|n| sampling.choose(&mut logits.clone(), &text[..n], row).unwrap()).collect()
        };
        let first = draws(7, 0);
        assert_eq!(first, draws(7, 0));
        assert_ne!(first, draws(8, 0));
        assert_ne!(first, draws(7, 1));
        for (id, share) in [0.5, 0.3, 0.2].into_iter().enumerate() {
            let found = first.iter().filter(|x| **x as usize == id).count() as f64 / 3000.0;
            assert!((found - share).abs() < 0.03, "token {id}: {found} of {share}");
        }
    }

    #[test]
    fn impossible_settings_and_logits_are_refused() {
        let bad = [
            at(-1.0),
            at(f64::NAN),
            Sampling { top_k: Some(0), ..at(1.0) },
            Sampling { top_p: Some(0.0), ..at(1.0) },
            Sampling { top_p: Some(1.5), ..at(1.0) },
            Sampling { repetition_penalty: 0.0, ..at(1.0) },
        ];
        for sampling in bad {
            assert_eq!(sampling.check().unwrap_err().exit_code(), 2, "{sampling:?}");
        }
        Sampling { top_k: Some(5), top_p: Some(1.0), ..at(0.7) }.check().unwrap();
        assert!(matches!(at(0.0).choose(&mut [f32::NAN; 4], &[], 0), Err(Error::NonFinite { .. })));
        assert_eq!(at(0.0).choose(&mut [f32::NAN, 1.0, 1.0], &[], 0).unwrap(), 1);
    }
}
