//! The instructions so far, and the most similar of them to a new one.
//!
//! ROUGE-L of every pair would be a thousand million comparisons at 50 000 instructions. Two bounds leave out, exactly, what
//! cannot reach the threshold θ: with n and m words and c of them in common order, F = 2c / (n + m), so c ≥ θ(n + m) / 2 is
//! needed; because c ≤ m, also m ≥ nθ / (2 − θ). So c ≥ t, the smallest count that any m allows, and of every n − t + 1
//! words of the text one at least is shared (prefix filtering: Chaudhuri, Ganti & Kaushik 2006): the rarest are looked up.
//!
//! Refuses to know where texts come from.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::rouge::{LcsPattern, WordIds};

/// Keeps what rounding could decide; F-measures are far coarser.
const SLACK: f64 = 1e-9;
/// From this many candidates on, the comparison is worth several threads.
const PARALLEL: usize = 512;

/// Texts with their names.
pub struct InstructionPool {
    words: WordIds,
    entries: Vec<PoolEntry>,
    /// Word → the entries that it stands in, ascending.
    places: HashMap<u32, Vec<u32>>,
    threshold: f64,
}

struct PoolEntry {
    id: String,
    words: Vec<u32>,
}

/// The most similar text of a pool.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Similar {
    pub id: String,
    pub rouge_l: f64,
}

impl InstructionPool {
    /// An empty pool in which texts are alike from an F-measure of `threshold` (0 < θ ≤ 1) on. Words are compared
    /// unstemmed, as in Self-Instruct's `bootstrap_instructions.py`.
    pub fn new(threshold: f64) -> InstructionPool {
        InstructionPool { words: WordIds::new(false), entries: Vec::new(), places: HashMap::new(), threshold }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a text.
    pub fn push(&mut self, id: &str, text: &str) {
        let words = self.words.of(text);
        let number = self.entries.len() as u32;
        let mut distinct = words.clone();
        distinct.sort_unstable();
        distinct.dedup();
        distinct.into_iter().for_each(|word| self.places.entry(word).or_default().push(number));
        self.entries.push(PoolEntry { id: id.to_string(), words });
    }

    /// The entry most similar to `text`, if one reaches the threshold; the earliest of equals.
    pub fn similar(&mut self, text: &str) -> Option<Similar> {
        let words = self.words.of(text);
        let (entry, rouge_l) = self.nearest(&words)?;
        Some(Similar { id: self.entries[entry].id.clone(), rouge_l })
    }

    fn nearest(&self, words: &[u32]) -> Option<(usize, f64)> {
        let candidates = self.candidates(words);
        let pattern = LcsPattern::new(words);
        let score = |entry: &u32| {
            let entry = *entry as usize;
            let f = pattern.score(&self.entries[entry].words).f;
            (f >= self.threshold).then_some((entry, f))
        };
        let better = |a: (usize, f64), b: (usize, f64)| if b.1 > a.1 || (b.1 == a.1 && b.0 < a.0) { b } else { a };
        if candidates.len() < PARALLEL {
            return candidates.iter().filter_map(score).reduce(better);
        }
        candidates.par_iter().filter_map(score).reduce_with(better)
    }

    /// Every entry that may reach the threshold, ascending.
    fn candidates(&self, words: &[u32]) -> Vec<u32> {
        let (n, theta) = (words.len() as f64, self.threshold - SLACK);
        let needed = (n * theta / (2.0 - theta)).ceil().max(1.0) as usize;
        let mut rarest: Vec<u32> = words.to_vec();
        rarest.sort_by_key(|word| (self.places.get(word).map_or(0, Vec::len), *word));
        rarest.truncate((words.len() + 1).saturating_sub(needed));
        rarest.dedup();
        let mut found: Vec<u32> = rarest.iter().filter_map(|word| self.places.get(word)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        let possible = |entry: &u32| {
            let m = self.entries[*entry as usize].words.len() as f64;
            2.0 * n.min(m) / (n + m) >= theta
        };
        found.retain(possible);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Texts of few words, many of them alike: near copies, parts, shuffled ones.
    fn texts(n: usize) -> Vec<String> {
        let mut rng = crate::random::stream(5, "texts", &[]);
        let mut texts: Vec<Vec<String>> = Vec::new();
        for _ in 0..n {
            let fresh = |rng: &mut rand_chacha::ChaCha8Rng| {
                let len = rng.random_range(0..14);
                // Common words and rare ones.
                (0..len).map(|_| format!("w{}", (rng.random::<f64>().powi(3) * 60.0) as usize)).collect::<Vec<_>>()
            };
            let text = if texts.is_empty() || rng.random_bool(0.4) {
                fresh(&mut rng)
            } else {
                let mut copy = texts[rng.random_range(0..texts.len())].clone();
                for _ in 0..rng.random_range(0..4) {
                    match (rng.random_range(0..3), copy.len()) {
                        (0, 1..) => _ = copy.remove(rng.random_range(0..copy.len())),
                        (1, 2..) => {
                            let at = rng.random_range(1..copy.len());
                            copy.swap(at - 1, at);
                        }
                        _ => copy.insert(rng.random_range(0..=copy.len()), format!("w{}", rng.random_range(0..60))),
                    }
                }
                copy
            };
            texts.push(text);
        }
        texts.into_iter().map(|words| words.join(" ")).collect()
    }

    fn brute(before: &[String], text: &str, threshold: f64) -> Option<(usize, f64)> {
        let scores = before.iter().map(|t| crate::rouge::score(text, t, false).f).enumerate();
        scores.filter(|(_, f)| *f >= threshold).fold(None, |best, (i, f)| match best {
            Some((_, b)) if b >= f => best,
            _ => Some((i, f)),
        })
    }

    #[test]
    fn the_bounds_decide_what_brute_force_decides() {
        for threshold in [0.3, 0.5, 0.7, 0.9, 1.0] {
            let (texts, mut pool) = (texts(700), InstructionPool::new(threshold));
            let mut alike = 0;
            for (i, text) in texts.iter().enumerate() {
                let found = pool.similar(text).map(|s| (s.id.parse().unwrap(), s.rouge_l));
                let expected = brute(&texts[..i], text, threshold);
                assert_eq!(found, expected, "{threshold}: {text:?}");
                alike += usize::from(found.is_some());
                pool.push(&i.to_string(), text);
            }
            assert!(alike > 50 && alike < 690, "{threshold}: {alike}");
        }
    }

    #[test]
    fn several_threads_decide_the_same() {
        let (mut pool, texts) = (InstructionPool::new(0.3), texts(6000));
        texts.iter().enumerate().for_each(|(i, t)| pool.push(&i.to_string(), t));
        let mut many = 0;
        for text in &texts[..40] {
            let words = pool.words.of(text);
            many += usize::from(pool.candidates(&words).len() >= PARALLEL);
            assert_eq!(pool.nearest(&words), brute(&texts, text, 0.3), "{text:?}");
        }
        assert!(many > 10, "{many} comparisons were large enough");
    }

    #[test]
    fn most_of_a_pool_is_never_compared() {
        let texts: Vec<String> =
            (0..2000).map(|i| format!("write a short story about the number {i} and its {}", i * 7)).collect();
        let mut pool = InstructionPool::new(0.95);
        texts.iter().for_each(|t| pool.push(t, t));
        let words = pool.words.of(&texts[77]);
        assert_eq!(pool.nearest(&words), Some((77, 1.0)));
        assert!(pool.candidates(&words).len() < 20, "{}", pool.candidates(&words).len());
    }
}
