//! How alike two rows are, and signatures that are alike when the rows are.
//!
//! The similarity is the weighted Jaccard index of the words of both and, with less weight, their pairs of neighbouring words: the
//! weight that both have over the weight that either has. A word weighs the logarithm of how rare it is, between [`LIGHT`]
//! and [`HEAVY`]: rows that a template made share its words, which are common, and differ in facts, which are rare; a copy with
//! a few words changed shares what is rare. (Unweighted 5-grams do not tell the two apart; docs/decisions.md has the figures.)
//!
//! Signatures are MinHash (Broder 1997) with weights: the smallest `hash / weight` over the words is the same word in both
//! rows with a probability that is their weighted Jaccard index. Refuses to know rows, and which pairs are compared.

use super::words::{Word, mix};

/// The least and the most that a word weighs.
const LIGHT: f64 = 1.0;
const HEAVY: f64 = 6.0;
/// What a pair of neighbours weighs beside the mean of its words: word order counts, an edit does not count thrice.
const PAIR: f32 = 0.15;
/// Values of a signature.
pub(super) const HASHES: usize = 128;
/// Words of a row that count; what follows does not.
pub(super) const LONGEST: usize = 8192;
/// Below this similarity, rows that each have a number which the other has not are different rows.
const SAME_BUT_NUMBERS: f32 = 0.97;

/// In how many rows each word stands, counted by hash: rare words may share a place, which makes them less rare.
pub(super) struct Frequencies {
    counts: Vec<u32>,
    rows: u32,
}

impl Frequencies {
    pub(super) fn new() -> Frequencies {
        Frequencies { counts: vec![0; 1 << 21], rows: 0 }
    }

    fn place(word: Word) -> usize {
        (mix(u64::from(word.0)) >> 43) as usize
    }

    /// Counts a row.
    pub(super) fn add(&mut self, words: &[Word]) {
        self.rows += 1;
        for word in distinct(words) {
            let count = &mut self.counts[Frequencies::place(word)];
            *count = count.saturating_add(1);
        }
    }

    /// ln((rows + 1) / rows with the word), bounded.
    pub(super) fn weight(&self, word: Word) -> f32 {
        let with = self.counts[Frequencies::place(word)].max(1);
        ((f64::from(self.rows) + 1.0) / f64::from(with)).ln().clamp(LIGHT, HEAVY) as f32
    }
}

/// The words that count, each once, in the order of their hashes.
pub(super) fn distinct(words: &[Word]) -> Vec<Word> {
    let mut distinct: Vec<Word> = words.iter().take(LONGEST).copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// What a row is compared by: words and pairs with their weights, ascending.
pub(super) struct Bag {
    items: Vec<(u64, f32)>,
    total: f32,
}

/// Set for pairs, so that a pair is never a word.
const IS_PAIR: u64 = 1 << 63;

fn pair(a: Word, b: Word) -> u64 {
    mix((u64::from(a.0) << 32) | u64::from(b.0)) | IS_PAIR
}

impl Bag {
    pub(super) fn of(words: &[Word], frequencies: &Frequencies) -> Bag {
        let words = &words[..words.len().min(LONGEST)];
        let mut items: Vec<(u64, f32)> = words.iter().map(|w| (u64::from(w.0), frequencies.weight(*w))).collect();
        for (i, two) in words.windows(2).enumerate() {
            // In scripts without spaces a character is less than a word, and two are about one.
            let share = if two[0].is_crowded() { 1.0 } else { PAIR };
            items.push((pair(two[0], two[1]), share * (items[i].1 + items[i + 1].1) / 2.0));
        }
        items.sort_unstable_by_key(|(key, _)| *key);
        items.dedup_by_key(|(key, _)| *key);
        let total = items.iter().map(|(_, w)| w).sum();
        Bag { items, total }
    }

    /// 0 to 1.
    #[cfg(test)]
    pub(super) fn similarity(&self, other: &Bag) -> f32 {
        self.compare(other).0
    }

    /// The similarity, and whether each has a number that the other has not.
    fn compare(&self, other: &Bag) -> (f32, bool) {
        let (mut i, mut j, mut shared) = (0, 0, 0.0f32);
        let (mut ours, mut theirs) = (false, false);
        let number = |key: u64| key & IS_PAIR == 0 && Word(key as u32).is_number();
        while i < self.items.len() && j < other.items.len() {
            let (a, b) = (self.items[i], other.items[j]);
            match a.0.cmp(&b.0) {
                std::cmp::Ordering::Equal => {
                    shared += a.1;
                    (i, j) = (i + 1, j + 1);
                }
                std::cmp::Ordering::Less => {
                    ours |= number(a.0);
                    i += 1;
                }
                std::cmp::Ordering::Greater => {
                    theirs |= number(b.0);
                    j += 1;
                }
            }
        }
        ours |= self.items[i..].iter().any(|(k, _)| number(*k));
        theirs |= other.items[j..].iter().any(|(k, _)| number(*k));
        let either = self.total + other.total - shared;
        (if either > 0.0 { shared / either } else { 0.0 }, ours && theirs)
    }

    /// The similarity when it makes one row a copy of the other. Rows of which each has a number that the other has not are
    /// two exercises or two orders, unless next to everything else is the same.
    pub(super) fn copy(&self, other: &Bag, threshold: f32) -> Option<f32> {
        let (similarity, numbers) = self.compare(other);
        let enough = similarity >= threshold && (!numbers || similarity >= SAME_BUT_NUMBERS);
        enough.then_some(similarity)
    }
}

/// Bands of rows of a signature: rows that agree in all values of a band are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bands {
    pub(super) bands: usize,
    pub(super) rows: usize,
}

impl Bands {
    /// The most rows a band with which a pair at `threshold` is compared with a probability of at least 0.999: a pair of
    /// similarity s is, with 1 − (1 − s^rows)^bands (Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", 3.4).
    pub(super) fn for_threshold(threshold: f32) -> Bands {
        let of = |rows: usize| Bands { bands: HASHES / rows, rows };
        (1..=16).rev().map(of).find(|b| b.chance(f64::from(threshold)) >= 0.999).unwrap_or(of(1))
    }

    /// The probability that a pair of similarity `s` is compared.
    pub(super) fn chance(self, s: f64) -> f64 {
        1.0 - (1.0 - s.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

/// Multipliers (odd) and addends, one pair a value of a signature: fixed, so that a corpus always gives the same report.
pub(super) struct Hashes {
    multiply: [u32; HASHES],
    add: [u32; HASHES],
}

impl Hashes {
    pub(super) fn new() -> Hashes {
        let at = |i: usize, purpose: u64| mix((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose) as u32;
        Hashes { multiply: std::array::from_fn(|i| at(i, 1) | 1), add: std::array::from_fn(|i| at(i, 2)) }
    }

    /// A hash for each band.
    pub(super) fn bands(&self, words: &[Word], frequencies: &Frequencies, bands: Bands) -> Vec<u32> {
        let mut least = [u32::MAX; HASHES];
        let mut take = |key: u64, weight: f32| {
            let (key, inverse) = (mix(key) as u32, (f64::from(u32::MAX) / f64::from(weight)) as u32);
            for ((least, multiply), add) in least.iter_mut().zip(&self.multiply).zip(&self.add) {
                let mut x = key.wrapping_mul(*multiply).wrapping_add(*add);
                x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
                x ^= x >> 15;
                // hash / weight, both as fractions of 2^32.
                *least = (*least).min(((u64::from(x) * u64::from(inverse)) >> 32) as u32);
            }
        };
        for word in distinct(words) {
            take(u64::from(word.0), frequencies.weight(word));
        }
        // Single characters are too common to find anything by; pairs of words are left to the comparison.
        let words = &words[..words.len().min(LONGEST)];
        for two in words.windows(2).filter(|two| two[0].is_crowded()) {
            take(pair(two[0], two[1]), (frequencies.weight(two[0]) + frequencies.weight(two[1])) / 2.0);
        }
        let hash = |band: &[u32]| band.iter().fold(0u64, |h, x| mix(h ^ u64::from(*x))) as u32;
        least.chunks_exact(bands.rows).take(bands.bands).map(hash).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn frequencies(rows: &[&str]) -> Frequencies {
        let mut f = Frequencies::new();
        rows.iter().for_each(|r| f.add(&words(r)));
        f
    }

    #[test]
    fn similarity_is_weighted_by_rarity() {
        let mut rows = vec!["the order of the zebra"; 1];
        let common: Vec<String> = (0..200).map(|i| format!("the order of the thing{i}")).collect();
        rows.extend(common.iter().map(String::as_str));
        let f = frequencies(&rows);
        assert_eq!(f.weight(words("the")[0]), 1.0);
        assert!(f.weight(words("zebra")[0]) > 5.0);
        let bag = |t: &str| Bag::of(&words(t), &f);
        let same = bag("the order of the zebra").similarity(&bag("The order, of the ZEBRA!"));
        let fact = bag("the order of the zebra").similarity(&bag("the order of the giraffe"));
        let word = bag("the order of the zebra").similarity(&bag("an order of the zebra"));
        assert_eq!(same, 1.0);
        assert!(fact < 0.3 && word < 0.8 && word > 0.4, "{fact} {word}");
    }

    #[test]
    fn rows_that_differ_in_numbers_on_both_sides_are_no_copies() {
        let text = "Please send the parcel with the green lamp to my sister in Oslo before the end of the week, order";
        let f = frequencies(&[text]);
        let bag = |t: &str| Bag::of(&words(t), &f);
        let (a, b, c) = (format!("{text} 4711"), format!("{text} 5822"), text.to_string());
        assert!(bag(&a).similarity(&bag(&b)) > 0.85);
        assert_eq!(bag(&a).copy(&bag(&b), 0.7), None);
        assert!(bag(&a).copy(&bag(&c), 0.7).is_some());
    }

    #[test]
    fn bands_are_chosen_by_the_s_curve() {
        for threshold in [0.5, 0.6, 0.7, 0.8, 0.9] {
            let bands = Bands::for_threshold(threshold);
            assert!(bands.chance(threshold.into()) >= 0.999 && bands.bands * bands.rows <= HASHES);
            let next = Bands { bands: HASHES / (bands.rows + 1), rows: bands.rows + 1 };
            assert!(next.chance(threshold.into()) < 0.999);
        }
        assert_eq!(Bands::for_threshold(0.7), Bands { bands: 32, rows: 4 });
    }

    #[test]
    fn signatures_agree_as_often_as_rows_are_alike() {
        // 60 words, of which 45 are shared: a Jaccard index of 45 / 75 = 0.6 (all words equally rare).
        let text = |from: usize| (from..from + 60).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
        let f = Frequencies::new();
        let hashes = Hashes::new();
        let single = Bands { bands: HASHES, rows: 1 };
        let (mut equal, mut all) = (0, 0);
        for start in 0..40 {
            let (a, b) = (words(&text(start * 100)), words(&text(start * 100 + 15)));
            let (a, b) = (hashes.bands(&a, &f, single), hashes.bands(&b, &f, single));
            equal += a.iter().zip(&b).filter(|(a, b)| a == b).count();
            all += a.len();
        }
        let share = equal as f64 / all as f64;
        assert!((share - 0.6).abs() < 0.025, "{share}");
    }
}
