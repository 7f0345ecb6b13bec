//! ROUGE-L (Lin 2004, "ROUGE: A package for automatic evaluation of summaries", equations 2–4 with β = 1): how much of two
//! texts is one common subsequence of words. The numbers are those of Python's `rouge-score` (`rouge_scorer.py`,
//! `tokenize.py`): words are runs of `a-z0-9` of the lower-cased text; stemmed, those above three characters go through
//! Porter's algorithm in NLTK's form.
//!
//! Refuses to know rows and models.

mod porter;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

/// Words as numbers: equal words have equal numbers, so that texts are compared without looking at letters.
#[derive(Debug, Clone, Default)]
pub struct WordIds {
    stemmed: bool,
    ids: HashMap<String, u32>,
}

/// Precision, recall and their harmonic mean.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct RougeScore {
    pub precision: f64,
    pub recall: f64,
    pub f: f64,
}

impl WordIds {
    /// `stemmed`: as `use_stemmer=True` (Super-NaturalInstructions' evaluation; Self-Instruct compares words as they are).
    pub fn new(stemmed: bool) -> WordIds {
        WordIds { stemmed, ids: HashMap::new() }
    }

    /// The words of a text.
    pub fn of(&mut self, text: &str) -> Vec<u32> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit())).filter(|w| !w.is_empty());
        words.map(|word| self.id(word)).collect()
    }

    fn id(&mut self, word: &str) -> u32 {
        let word = if self.stemmed && word.len() > 3 { porter::stem(word) } else { word.to_string() };
        let next = self.ids.len() as u32;
        *self.ids.entry(word).or_insert(next)
    }
}

/// ROUGE-L of two texts. The F-measure does not change when they are swapped.
pub fn score(reference: &str, answer: &str, stemmed: bool) -> RougeScore {
    let mut words = WordIds::new(stemmed);
    let reference = words.of(reference);
    LcsPattern::new(&reference).score(&words.of(answer))
}

/// The F-measure against the most similar reference; 0 without one (`metric_max_over_ground_truths` of
/// Super-NaturalInstructions' `compute_metrics.py`).
pub fn best<'a>(references: impl IntoIterator<Item = &'a str>, answer: &str, stemmed: bool) -> f64 {
    references.into_iter().map(|reference| score(reference, answer, stemmed).f).fold(0.0, f64::max)
}

/// A text to be compared with many others.
#[derive(Debug, Clone)]
pub struct LcsPattern {
    words: usize,
    /// Bit `i` of the blocks of a word: it stands at place `i`.
    places: HashMap<u32, Vec<u64>>,
}

impl LcsPattern {
    /// The pattern of a text's [`WordIds::of`].
    pub fn new(text: &[u32]) -> LcsPattern {
        let mut places: HashMap<u32, Vec<u64>> = HashMap::new();
        for (i, word) in text.iter().enumerate() {
            places.entry(*word).or_insert_with(|| vec![0; text.len().div_ceil(64)])[i / 64] |= 1 << (i % 64);
        }
        LcsPattern { words: text.len(), places }
    }

    /// Length of the longest common subsequence, 64 places at a time (Hyyrö 2004, "Bit-parallel LCS-length computation
    /// revisited", figure 3).
    pub fn common(&self, other: &[u32]) -> usize {
        let mut open = vec![u64::MAX; self.words.div_ceil(64)];
        for places in other.iter().filter_map(|word| self.places.get(word)) {
            let mut carry = false;
            for (open, places) in open.iter_mut().zip(places) {
                let hit = *open & places;
                let (sum, first) = open.overflowing_add(hit);
                let (sum, second) = sum.overflowing_add(u64::from(carry));
                carry = first || second;
                *open = sum | (*open & !places);
            }
        }
        let beyond = self.words.div_ceil(64) * 64 - self.words;
        let closed: usize = open.iter().map(|o| o.count_zeros() as usize).sum();
        // Places beyond the text never close, but for a carry that runs through them, which closes none either.
        debug_assert!(closed <= self.words && beyond < 64);
        closed
    }

    /// ROUGE-L of `answer` against this text; 0 where one of them has no words.
    pub fn score(&self, answer: &[u32]) -> RougeScore {
        if self.words == 0 || answer.is_empty() {
            return RougeScore::default();
        }
        let common = self.common(answer) as f64;
        let (precision, recall) = (common / answer.len() as f64, common / self.words as f64);
        let f = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        RougeScore { precision, recall, f }
    }

    /// The most that [`LcsPattern::score`]'s F-measure can be for a text of `words` words, whatever they are
    /// (up to rounding).
    pub fn bound(&self, words: usize) -> f64 {
        let common = self.words.min(words) as f64;
        if common == 0.0 { 0.0 } else { 2.0 * common / (self.words + words) as f64 }
    }
}
