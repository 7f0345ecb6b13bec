//! Examples into rows of bounded length: best-fit-decreasing, in another company and order each epoch.
//!
//! The longest example goes first, each into the row with the least room that still holds it. That needs at most 11/9
//! of the fewest rows possible, and 4 (Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional
//! packing algorithms", theorem 3.1). How many rows come out depends on the lengths only, not on the epoch, so the
//! length of a run is known before it. Refuses to know what is in an example.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::random;

/// How far apart in the order of lengths two examples may be that change places.
const REACH: u64 = 16;

/// Rows of examples, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRows {
    /// Row after row; every example is there once.
    examples: Vec<u32>,
    /// Where each row ends in `examples`.
    ends: Vec<u32>,
}

impl PackedRows {
    /// The examples of row `row`, the longest first but for exchanges.
    pub fn row(&self, row: usize) -> &[u32] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.examples[start as usize..self.ends[row] as usize]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there was nothing to pack.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The same rows of other examples: what was example k is `examples[k]`.
    pub fn of(mut self, examples: &[usize]) -> PackedRows {
        self.examples.iter_mut().for_each(|k| *k = examples[*k as usize] as u32);
        self
    }

    /// One example a row, in the order given.
    pub fn single(order: Vec<usize>) -> PackedRows {
        let ends = (1..=order.len() as u32).collect();
        PackedRows { examples: order.into_iter().map(|i| i as u32).collect(), ends }
    }
}

/// Packs examples of `lengths` tokens into rows of `room` tokens, for `epoch` under `seed`: a pure function of the four,
/// in O(n log n). A longer example than `room` (`data::load` lets none through) gets a row of its own.
pub fn pack(lengths: &[usize], room: usize, seed: u64, epoch: u64) -> PackedRows {
    let mut items = random::order(lengths.len(), seed, "pack", &[epoch]);
    // Stable: examples of one length stay shuffled.
    items.sort_by_key(|i| Reverse(lengths[*i]));
    let sorted: Vec<usize> = items.iter().map(|i| lengths[*i]).collect();
    let (mut places, mut free) = best_fit(&sorted, room);
    mix(&sorted, &mut places, &mut free, random::number(seed, "pack exchange", &[epoch]));
    in_order(&items, &places, &random::order(free.len(), seed, "order", &[epoch]))
}

/// How many rows [`pack`] makes, whatever seed and epoch.
pub fn count(lengths: &[usize], room: usize) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by_key(|len| Reverse(*len));
    best_fit(&sorted, room).1.len()
}

/// The row of each example, and the room left in each row; `lengths` descend.
fn best_fit(lengths: &[usize], room: usize) -> (Vec<u32>, Vec<usize>) {
    let (mut places, mut free) = (Vec::with_capacity(lengths.len()), Vec::new());
    let mut open: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for &len in lengths {
        let row = match open.range_mut(len..).next().map(|(left, rows)| (*left, rows.pop(), rows.is_empty())) {
            Some((left, Some(row), last)) => {
                if last {
                    open.remove(&left);
                }
                row
            }
            _ => {
                free.push(room);
                free.len() as u32 - 1
            }
        };
        let left = free[row as usize].saturating_sub(len);
        free[row as usize] = left;
        if left > 0 {
            open.entry(left).or_default().push(row);
        }
        places.push(row);
    }
    (places, free)
}

/// Examples of similar length change places where both rows hold that. Best-fit-decreasing alone puts examples of
/// different lengths together in the same way every time; the number of rows stays.
fn mix(lengths: &[usize], places: &mut [u32], free: &mut [usize], key: u64) {
    for i in 0..lengths.len() {
        let j = i + 1 + (random::indexed(key, i as u64) % REACH) as usize;
        let Some(shorter) = lengths.get(j) else { continue };
        let (from, to, more) = (places[i] as usize, places[j] as usize, lengths[i] - shorter);
        if from != to && free[to] >= more {
            places.swap(i, j);
            free[from] += more;
            free[to] -= more;
        }
    }
}

/// `items[k]` lies in row `places[k]`; the rows are taken in `order`.
fn in_order(items: &[usize], places: &[u32], order: &[usize]) -> PackedRows {
    let mut rank = vec![0u32; order.len()];
    for (at, row) in order.iter().enumerate() {
        rank[*row] = at as u32;
    }
    let mut ends = vec![0u32; order.len()];
    places.iter().for_each(|row| ends[rank[*row as usize] as usize] += 1);
    let mut next = Vec::with_capacity(ends.len());
    let mut sum = 0;
    for end in &mut ends {
        next.push(sum);
        sum += *end;
        *end = sum;
    }
    let mut examples = vec![0u32; items.len()];
    for (item, row) in items.iter().zip(places) {
        let at = &mut next[rank[*row as usize] as usize];
        examples[*at as usize] = *item as u32;
        *at += 1;
    }
    PackedRows { examples, ends }
}

/// How full packed rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Fill {
    pub examples: usize,
    pub rows: usize,
    /// Tokens a row can hold.
    pub room: usize,
    /// Tokens in all rows together.
    pub tokens: usize,
}

impl Fill {
    /// Of the rows that [`pack`] makes.
    pub fn of(lengths: &[usize], room: usize) -> Fill {
        Fill { examples: lengths.len(), rows: count(lengths, room), room, tokens: lengths.iter().sum() }
    }

    /// Share of the room that is used, 0 to 1.
    pub fn share(&self) -> f64 {
        self.tokens as f64 / (self.rows * self.room).max(1) as f64
    }
}

impl std::fmt::Display for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fill { examples, rows, room, .. } = self;
        write!(f, "{examples} examples in {rows} rows of {room} tokens, {:.1} % full", self.share() * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn groups(rows: &PackedRows) -> BTreeSet<Vec<u32>> {
        let sorted = |row| {
            let mut row: Vec<u32> = rows.row(row).to_vec();
            row.sort_unstable();
            row
        };
        (0..rows.len()).map(sorted).collect()
    }

    /// Lengths as instructions have them: many short ones, few long ones.
    fn ragged(n: usize, room: usize) -> Vec<usize> {
        let unit = |i: usize| random::indexed(3, i as u64) as f64 / u64::MAX as f64;
        (0..n).map(|i| (20.0 + (room as f64 - 20.0) * unit(i).powi(3)) as usize).collect()
    }

    proptest! {
        #[test]
        fn every_example_is_in_one_row_and_no_row_is_too_long(
            lengths in prop::collection::vec(1usize..=64, 0..200), room in 64usize..100, seed: u64, epoch in 0u64..5,
        ) {
            let rows = pack(&lengths, room, seed, epoch);
            let mut all: Vec<u32> = (0..rows.len()).flat_map(|row| rows.row(row).to_vec()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
            for row in 0..rows.len() {
                prop_assert!(!rows.row(row).is_empty());
                prop_assert!(rows.row(row).iter().map(|i| lengths[*i as usize]).sum::<usize>() <= room);
            }
            prop_assert_eq!(rows.len(), count(&lengths, room));
            prop_assert_eq!(rows, pack(&lengths, room, seed, epoch));
        }

        /// The optimum is known because the lengths are full rows cut in pieces.
        #[test]
        fn the_rows_are_near_the_fewest_possible(cuts in prop::collection::vec(prop::collection::vec(1usize..100, 0..6), 1..60)) {
            let mut lengths = Vec::new();
            for mut cut in cuts.clone() {
                cut.extend([0, 100]);
                cut.sort_unstable();
                lengths.extend(cut.windows(2).map(|w| w[1] - w[0]).filter(|len| *len > 0));
            }
            let (rows, fewest) = (count(&lengths, 100), cuts.len());
            prop_assert!(rows >= fewest && rows * 9 <= fewest * 11 + 36, "{rows} rows, {fewest} would do");
        }
    }

    #[test]
    fn company_and_order_change_with_epoch_and_seed() {
        for lengths in [ragged(400, 512), (0..60).map(|i| 100 + i).collect()] {
            let of = |seed, epoch| pack(&lengths, 512, seed, epoch);
            let first = of(1, 0);
            for other in [of(1, 1), of(2, 0)] {
                assert_eq!(first.len(), other.len());
                let same = groups(&first).intersection(&groups(&other)).count();
                assert!(same * 2 < first.len(), "{same} of {} rows have the same examples", first.len());
            }
        }
    }

    #[test]
    fn ragged_examples_fill_their_rows_and_a_million_are_packed() {
        let fill = Fill::of(&ragged(2000, 512), 512);
        assert!(fill.share() > 0.97, "{fill}");
        let lengths = ragged(1_000_000, 2048);
        let rows = pack(&lengths, 2048, 0, 0);
        assert_eq!(rows.len(), Fill::of(&lengths, 2048).rows);
    }

    #[test]
    fn a_longer_example_than_a_row_stands_alone() {
        let rows = pack(&[5, 12, 5], 10, 0, 0);
        assert_eq!(groups(&rows), BTreeSet::from([vec![1], vec![0, 2]]));
    }

    #[test]
    fn the_rows_never_change_between_versions() {
        // A checkpoint holds the step only: other rows would be another run.
        let rows = pack(&[9, 7, 5, 3, 3, 2, 2, 1], 10, 42, 3);
        assert_eq!((0..rows.len()).map(|r| rows.row(r)).collect::<Vec<_>>(), [&[2, 4, 5][..], &[1, 6], &[0, 7], &[3]]);
    }
}
