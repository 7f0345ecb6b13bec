//! The order of rows: pure functions of the seed, of what the numbers are for, and of a counter; and what of a source counts.
//!
//! Refuses to know what a row is. Nothing here keeps state, so a resumed run asks again and gets the same answer.

use std::collections::HashMap;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A permutation of `0..n` keyed by (seed, purpose, counter): Fisher–Yates from the end.
pub(crate) fn permutation(n: usize, seed: u64, purpose: &str, counter: u64) -> Vec<usize> {
    let mut stream = stream(seed, purpose, counter);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut stream, i as u64 + 1) as usize);
    }
    order
}

/// `k` of `0..n`, in ascending order, keyed as [`permutation`].
pub(crate) fn choose(n: usize, k: usize, seed: u64, purpose: &str, counter: u64) -> Vec<usize> {
    let mut chosen = permutation(n, seed, purpose, counter);
    chosen.truncate(k);
    chosen.sort_unstable();
    chosen
}

/// What the draws of a source follow from besides the seed and the number of its rows: never its place among other sources, so
/// that another recipe with the same file draws the same rows of it. Files of equally many rows are drawn alike (two languages of
/// one text are held out together); a file that is named again is drawn anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SourceDraw {
    /// Of the file, without its folder: a recipe may move.
    pub(crate) name: String,
    /// How often the same file was named before.
    pub(crate) occurrence: u64,
    /// Rows up to its end, those of the sources before it included, where they are known.
    pub(crate) end: usize,
}

impl SourceDraw {
    /// Those of sources, in their order.
    pub(crate) fn of<'s>(paths: impl Iterator<Item = &'s Path>) -> Vec<SourceDraw> {
        let mut before: HashMap<&Path, u64> = HashMap::new();
        let draw = |path: &'s Path| {
            let seen = before.entry(path).or_default();
            *seen += 1;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            SourceDraw { name, occurrence: *seen - 1, end: 0 }
        };
        paths.map(draw).collect()
    }

    /// A number of its own, which settles who of equals comes first.
    pub(crate) fn number(&self, seed: u64) -> u64 {
        stream(seed, &format!("source {}", self.name), self.occurrence).next_u64()
    }
}

fn stream(seed: u64, purpose: &str, counter: u64) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&counter.to_le_bytes());
    hash.update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

/// A uniform number in `0..bound`, by rejection (no modulo bias).
fn below(stream: &mut ChaCha8Rng, bound: u64) -> u64 {
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let x = stream.next_u64();
        if x < zone {
            return x % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_index_once_and_depends_on_seed_and_counter() {
        let a = permutation(1000, 7, "order", 0);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(a, permutation(1000, 7, "order", 0));
        assert_ne!(a, permutation(1000, 7, "order", 1));
        assert_ne!(a, permutation(1000, 8, "order", 0));
    }

    #[test]
    fn the_order_never_changes_between_versions() {
        // Which rows a recipe sets aside or limits itself to is decided by it: another order would judge by other rows.
        assert_eq!(permutation(8, 42, "order", 3), [6, 7, 1, 5, 4, 2, 3, 0]);
    }

    #[test]
    fn every_position_is_equally_likely() {
        let mut first = [0usize; 4];
        for epoch in 0..4000 {
            first[permutation(4, 1, "order", epoch)[0]] += 1;
        }
        assert!(first.iter().all(|&n| (850..1150).contains(&n)), "{first:?}");
    }
}
