//! Rows that say again what an earlier row says: byte for byte, word for word, or nearly.
//!
//! A row is a copy of an earlier row that is itself kept, never of another copy: chains (a like b, b like c, c unlike a), which
//! connected components would fold into one, keep c. Candidates come from bands of signatures; each is then compared exactly.
//! Refuses to know what becomes of copies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::minhash::{Bag, Bands, Frequencies, Hashes};
use super::spill::Spilled;
use super::words::{Word, mix};
use crate::error::Result;

/// A row is compared with so many of the first and the last rows before it that fall into the same place.
const HEAD: usize = 48;
const TAIL: usize = 16;
/// Rounds over the bands: one finds copies, others look again at rows whose original turned out to be a copy.
const ROUNDS: usize = 4;

/// A copy, by the numbers of the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CopyPair {
    pub(super) row: u32,
    pub(super) of: u32,
    /// 1 for the same words in the same order.
    pub(super) similarity: f32,
    /// Byte for byte.
    pub(super) exact: bool,
}

/// What rows are compared by.
pub(super) struct Corpus<'a> {
    /// A hash of everything that a row says.
    pub(super) exact: &'a (dyn Fn(usize) -> u64 + Sync),
    pub(super) words: &'a Spilled,
    pub(super) frequencies: &'a Frequencies,
    /// Rows that take part.
    pub(super) alive: &'a [bool],
}

/// The copies among the rows, in order; near ones from `near` on, when it is given. `tick` hears how far it is.
///
/// # Errors
/// What `tick` returns.
pub(super) fn find(
    corpus: &Corpus<'_>,
    near: Option<f32>,
    tick: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<CopyPair>> {
    let rows = || (0..corpus.words.len()).filter(|i| corpus.alive[*i]);
    let mut first: HashMap<u64, u32> = HashMap::new();
    let mut copies = Vec::new();
    let mut left = Vec::new();
    for i in rows() {
        let of = *first.entry((corpus.exact)(i)).or_insert(i as u32);
        match of as usize == i {
            true => left.push(i as u32),
            false => copies.push(CopyPair { row: i as u32, of, similarity: 1.0, exact: true }),
        }
    }
    drop(first);
    if let Some(threshold) = near {
        let same = same_words(corpus, &left);
        let copied: std::collections::HashSet<u32> = same.iter().map(|c| c.row).collect();
        left.retain(|i| !copied.contains(i));
        copies.extend(same);
        copies.extend(CopySearch::new(corpus, left, threshold, tick)?.run(tick)?);
    }
    copies.sort_unstable_by_key(|c| c.row);
    follow(&mut copies);
    Ok(copies)
}

/// What is said to be a copy of a copy is one of that one's original, whose exact or worded twin it is.
fn follow(copies: &mut [CopyPair]) {
    let of: HashMap<u32, (u32, f32)> = copies.iter().map(|c| (c.row, (c.of, c.similarity))).collect();
    for copy in copies {
        while let Some((of, similarity)) = of.get(&copy.of) {
            (copy.of, copy.similarity) = (*of, copy.similarity.min(*similarity));
            copy.exact = false;
        }
    }
}

fn same_words(corpus: &Corpus<'_>, rows: &[u32]) -> Vec<CopyPair> {
    let hash = |i: &u32| {
        let words = corpus.words.words(*i as usize);
        (!words.is_empty()).then(|| words.iter().fold(words.len() as u64, |h, w| mix(h ^ u64::from(w.0))))
    };
    let hashes: Vec<Option<u64>> = rows.par_iter().map(hash).collect();
    let mut first: HashMap<u64, u32> = HashMap::new();
    let mut copies = Vec::new();
    for (row, hash) in rows.iter().zip(hashes) {
        let Some(hash) = hash else { continue };
        let of = *first.entry(hash).or_insert(*row);
        if of != *row {
            copies.push(CopyPair { row: *row, of, similarity: 1.0, exact: false });
        }
    }
    copies
}

/// Pairs that were compared and are no copies, as far as a table of fixed size remembers.
struct Apart(Vec<AtomicU64>);

impl Apart {
    fn new(rows: usize) -> Apart {
        Apart((0..(rows * 4).next_power_of_two().clamp(1 << 10, 1 << 22)).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    fn at(&self, a: u32, b: u32) -> (&AtomicU64, u64) {
        let key = (u64::from(a) << 32) | u64::from(b);
        (&self.0[mix(key) as usize & (self.0.len() - 1)], key)
    }
}

struct CopySearch<'a> {
    corpus: &'a Corpus<'a>,
    rows: Vec<u32>,
    threshold: f32,
    shape: Bands,
    /// `shape.bands` hashes a row, in the order of `rows`.
    bands: Vec<u32>,
    apart: Apart,
}

impl<'a> CopySearch<'a> {
    fn new(
        corpus: &'a Corpus<'a>,
        rows: Vec<u32>,
        threshold: f32,
        tick: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<CopySearch<'a>> {
        let (shape, hashes) = (Bands::for_threshold(threshold), Hashes::new());
        let mut bands = Vec::with_capacity(rows.len() * shape.bands);
        let of = |i: &u32| hashes.bands(&corpus.words.words(*i as usize), corpus.frequencies, shape);
        for (done, group) in rows.chunks(8192).enumerate() {
            tick(done * 8192, rows.len())?;
            let group: Vec<Vec<u32>> = group.par_iter().map(of).collect();
            group.iter().for_each(|b| bands.extend_from_slice(b));
        }
        let apart = Apart::new(rows.len());
        Ok(CopySearch { corpus, rows, threshold, shape, bands, apart })
    }

    fn run(&self, tick: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<Vec<CopyPair>> {
        // By position in `rows`: the original, as far as one is known.
        let mut found: Vec<Option<CopyPair>> = vec![None; self.rows.len()];
        for _ in 0..ROUNDS {
            for band in 0..self.shape.bands {
                tick(self.rows.len(), self.rows.len())?;
                for copy in self.band(band, &found) {
                    found[copy.row as usize].get_or_insert(copy);
                }
            }
            if !self.settle(&mut found) {
                break;
            }
        }
        let row = |i: u32| self.rows[i as usize];
        Ok(found.into_iter().flatten().map(|c| CopyPair { row: row(c.row), of: row(c.of), ..c }).collect())
    }

    /// Copies that agree in one band; rows known to be copies take no part.
    fn band(&self, band: usize, found: &[Option<CopyPair>]) -> Vec<CopyPair> {
        let hash = |i: usize| self.bands[i * self.shape.bands + band];
        let mut keyed: Vec<(u32, u32)> =
            (0..self.rows.len()).filter(|i| found[*i].is_none() && self.says(*i)).map(|i| (hash(i), i as u32)).collect();
        keyed.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = keyed.chunk_by(|a, b| a.0 == b.0).filter(|g| g.len() > 1).collect();
        groups.par_iter().flat_map_iter(|g| self.group(g)).collect()
    }

    /// Whether the row has words: signatures of nothing are all alike.
    fn says(&self, i: usize) -> bool {
        !self.corpus.words.is_empty(self.rows[i] as usize)
    }

    fn bag(&self, i: u32) -> Bag {
        let words: Vec<Word> = self.corpus.words.words(self.rows[i as usize] as usize);
        Bag::of(&words, self.corpus.frequencies)
    }

    fn group(&self, group: &[(u32, u32)]) -> Vec<CopyPair> {
        let mut bags: Vec<Option<Bag>> = group.iter().map(|_| None).collect();
        // Places in the group of rows that are no copies so far.
        let mut kept: Vec<usize> = vec![0];
        let mut copies = Vec::new();
        for place in 1..group.len() {
            let head = kept.len().min(HEAD);
            let tail = kept.len().saturating_sub(TAIL).max(head);
            let mut of = None;
            for k in (0..head).chain(tail..kept.len()) {
                let earlier = kept[k];
                let (slot, key) = self.apart.at(group[earlier].1, group[place].1);
                if slot.load(Ordering::Relaxed) == key {
                    continue;
                }
                for at in [earlier, place] {
                    bags[at].get_or_insert_with(|| self.bag(group[at].1));
                }
                let (Some(a), Some(b)) = (&bags[earlier], &bags[place]) else { continue };
                match a.copy(b, self.threshold) {
                    Some(similarity) => {
                        of = Some(CopyPair { row: group[place].1, of: group[earlier].1, similarity, exact: false });
                        break;
                    }
                    None => slot.store(key, Ordering::Relaxed),
                }
            }
            match of {
                Some(copy) => copies.push(copy),
                None => kept.push(place),
            }
        }
        copies
    }

    /// Gives every copy of a copy the original at the end of the chain, if they are alike; if not, it is no copy and looks
    /// again. Says whether there is such a row.
    fn settle(&self, found: &mut [Option<CopyPair>]) -> bool {
        let mut again = false;
        for i in 0..found.len() {
            let Some(copy) = found[i] else { continue };
            let Some(original) = found[copy.of as usize] else { continue };
            // Originals come first, so that theirs are settled.
            let alike = self.bag(original.of).copy(&self.bag(copy.row), self.threshold);
            found[i] = alike.map(|similarity| CopyPair { of: original.of, similarity, ..copy });
            again |= alike.is_none();
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::Rng;

    use super::super::spill::Writer;
    use super::*;
    use crate::random;

    /// Rows of 8 to 60 words, of which half are made of an earlier row with up to half of its words changed.
    fn corpus(rows: usize) -> Vec<Vec<Word>> {
        let mut rng = random::stream(3, "copies", &[]);
        let mut all: Vec<Vec<Word>> = Vec::new();
        for i in 0..rows {
            // Common words and rare ones, none of them numbers.
            let word = |rng: &mut rand_chacha::ChaCha8Rng| Word(mix(2000f64.powf(rng.random::<f64>()) as u64) as u32 & !3);
            let mut row: Vec<Word> = match i % 2 {
                0 => (0..rng.random_range(8..60)).map(|_| word(&mut rng)).collect(),
                _ => all[rng.random_range(0..i)].clone(),
            };
            if i % 2 == 1 {
                for _ in 0..rng.random_range(0..=row.len() / 2) {
                    let at = rng.random_range(0..row.len());
                    row[at] = word(&mut rng);
                }
            }
            all.push(row);
        }
        all
    }

    #[test]
    fn bands_find_what_comparing_every_pair_finds() {
        let rows = corpus(1500);
        let (mut writer, mut frequencies) = (Writer::new().unwrap(), Frequencies::new());
        for row in &rows {
            writer.push(row).unwrap();
            frequencies.add(row);
        }
        let spilled = writer.finish().unwrap();
        let alive = vec![true; rows.len()];
        let corpus = Corpus { exact: &|i| i as u64, words: &spilled, frequencies: &frequencies, alive: &alive };
        let bags: Vec<Bag> = rows.iter().map(|r| Bag::of(r, &frequencies)).collect();
        for threshold in [0.6, 0.8] {
            let found = find(&corpus, Some(threshold), &mut |_, _| Ok(())).unwrap();
            let mut kept: Vec<usize> = Vec::new();
            let mut all = BTreeSet::new();
            for (i, bag) in bags.iter().enumerate() {
                match kept.iter().any(|k| bags[*k].copy(bag, threshold).is_some()) {
                    true => _ = all.insert(i as u32),
                    false => kept.push(i),
                }
            }
            let found: BTreeSet<u32> = found.iter().map(|c| c.row).collect();
            let (both, either) = (found.intersection(&all).count(), found.union(&all).count());
            println!("from {threshold} on: {} copies by bands, {} by every pair, {both} the same", found.len(), all.len());
            assert!(all.len() > 100 && both * 1000 >= either * 995, "{both} of {either}");
        }
    }

    #[test]
    fn a_copy_is_one_of_a_row_that_is_kept() {
        let rows = corpus(600);
        let (mut writer, mut frequencies) = (Writer::new().unwrap(), Frequencies::new());
        rows.iter().for_each(|r| writer.push(r).unwrap());
        rows.iter().for_each(|r| frequencies.add(r));
        let spilled = writer.finish().unwrap();
        let alive = vec![true; rows.len()];
        let corpus = Corpus { exact: &|i| i as u64 / 2, words: &spilled, frequencies: &frequencies, alive: &alive };
        let found = find(&corpus, Some(0.7), &mut |_, _| Ok(())).unwrap();
        let copies: BTreeSet<u32> = found.iter().map(|c| c.row).collect();
        assert!(found.len() >= 300 && found.iter().all(|c| c.of < c.row && !copies.contains(&c.of)));
    }
}
