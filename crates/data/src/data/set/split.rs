//! Which training rows are held out where no file of held-out rows is named.
//!
//! Refuses to know what is in a row.

use super::draw::{SourceDraw, choose};
use super::request::Request;
use super::tokenize::{SAME_GROUP, TRAIN_ONLY};

/// What the sources say their rows are for, by number.
#[derive(Debug, Default)]
pub(crate) struct RowNumbers {
    pub(crate) train: Vec<u32>,
    /// Trained along, never set aside.
    pub(crate) replay: Vec<u32>,
    pub(crate) heldout: Vec<u32>,
}

/// What rows are for, by number.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parted {
    pub(crate) train: Vec<u32>,
    pub(crate) heldout: Vec<u32>,
    /// Neither.
    pub(crate) left_out: Vec<u32>,
}

/// Parts the rows of a request: where it names no file of held-out rows and no task is held out, a fraction of the training
/// rows is set aside. `grouping` is as [`super::tokenize::TokenizedRows::grouping`]; `ends` are the numbers of rows up to the
/// end of each source.
pub(crate) fn part(request: &Request, rows: RowNumbers, grouping: &[u8], ends: &[usize]) -> Parted {
    let RowNumbers { train, replay, heldout } = rows;
    let mut parted = match heldout.is_empty() && request.data.heldout.is_empty() {
        true => {
            let sources: Vec<SourceDraw> =
                request.draws().zip(ends).map(|(draw, end)| SourceDraw { end: *end, ..draw }).collect();
            set_aside(train, grouping, request.data.heldout_fraction, request.seed, &sources)
        }
        false => Parted { train, heldout, ..Parted::default() },
    };
    parted.train.extend(replay);
    parted
}

/// Takes a `fraction` of the training rows for held-out ones, leaving at least one of each. Forms of one row (its
/// phrasings, the pairs of a prompt) stay together; those of them that are never held out are then left out. Each source
/// gives its share, drawn as [`SourceDraw`] says, wherever it stands among the others.
fn set_aside(train: Vec<u32>, grouping: &[u8], fraction: f64, seed: u64, sources: &[SourceDraw]) -> Parted {
    let groups: Vec<&[u32]> = train.chunk_by(|_, row| grouping[*row as usize] & SAME_GROUP != 0).collect();
    let train_only = |row: &u32| grouping[*row as usize] & TRAIN_ONLY != 0;
    let source_of = |group: &[u32]| sources.partition_point(|source| source.end <= group[0] as usize);
    // The groups of each source that may be held out, and how many groups it has.
    let mut fit: Vec<(Vec<usize>, usize)> = vec![(Vec::new(), 0); sources.len() + 1];
    for (index, group) in groups.iter().enumerate() {
        let (fit, all) = &mut fit[source_of(group)];
        *all += 1;
        fit.extend((!group.iter().all(train_only)).then_some(index));
    }
    let wanted = (groups.len() as f64 * fraction).round() as usize;
    let wanted = wanted.max(1).min(groups.len().saturating_sub(1)).min(fit.iter().map(|(fit, _)| fit.len()).sum());
    if fraction <= 0.0 || wanted == 0 {
        return Parted { train, ..Parted::default() };
    }
    let mut aside = vec![false; groups.len()];
    for ((fit, _), (source, quota)) in fit.iter().zip(sources.iter().zip(quotas(&fit, wanted, groups.len(), seed, sources))) {
        choose(fit.len(), quota, seed, "heldout", source.occurrence).into_iter().for_each(|i| aside[fit[i]] = true);
    }
    let mut parted = Parted::default();
    for (group, aside) in groups.into_iter().zip(aside) {
        for row in group {
            match (aside, train_only(row)) {
                (false, _) => parted.train.push(*row),
                (true, false) => parted.heldout.push(*row),
                (true, true) => parted.left_out.push(*row),
            }
        }
    }
    parted
}

/// How many of `wanted` each source gives: its share of `all` groups, and what rounding leaves by the largest remainders, of equal
/// ones by the source's own number.
fn quotas(fit: &[(Vec<usize>, usize)], wanted: usize, all: usize, seed: u64, sources: &[SourceDraw]) -> Vec<usize> {
    let exact = |(_, own): &(Vec<usize>, usize)| (*own as u128 * wanted as u128, all.max(1) as u128);
    let mut quotas: Vec<usize> =
        fit.iter().map(|source| ((exact(source).0 / exact(source).1) as usize).min(source.0.len())).collect();
    let mut order: Vec<usize> = (0..sources.len()).collect();
    let rest = |i: usize| exact(&fit[i]).0 % exact(&fit[i]).1;
    order.sort_by_cached_key(|i| (std::cmp::Reverse(rest(*i)), sources[*i].number(seed)));
    let mut left = wanted.saturating_sub(quotas.iter().sum());
    // More than once round only where sources have fewer groups fit to be held out than their share.
    while left > 0 {
        for i in &order {
            if left > 0 && quotas[*i] < fit[*i].0.len() {
                (quotas[*i], left) = (quotas[*i] + 1, left - 1);
            }
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(end: usize) -> Vec<SourceDraw> {
        vec![SourceDraw { name: "a.jsonl".into(), occurrence: 0, end }]
    }

    #[test]
    fn what_a_source_gives_does_not_depend_on_its_place_among_the_others() {
        let sizes = [("a.jsonl", 25usize), ("b.jsonl", 40), ("c.jsonl", 7), ("d.jsonl", 7)];
        let drawn = |order: [usize; 4]| {
            let mut end = 0;
            let sources: Vec<SourceDraw> = order
                .map(|i| {
                    end += sizes[i].1;
                    SourceDraw { name: sizes[i].0.into(), occurrence: 0, end }
                })
                .into();
            let parted = set_aside((0..end as u32).collect(), &vec![0; end], 0.1, 5, &sources);
            assert_eq!(parted.heldout.len(), 8);
            let place = |row: &u32| {
                let source = sources.partition_point(|s| s.end <= *row as usize);
                (sources[source].name.clone(), *row as usize + sizes[order[source]].1 - sources[source].end)
            };
            let mut places: Vec<_> = parted.heldout.iter().map(place).collect();
            places.sort();
            places
        };
        assert_eq!(drawn([0, 1, 2, 3]), drawn([3, 1, 0, 2]));
        assert_eq!(drawn([0, 1, 2, 3]), drawn([2, 3, 1, 0]));
    }

    #[test]
    fn single_rows_are_drawn_as_ever() {
        let parted = set_aside((0..20).collect(), &[0; 20], 0.25, 3, &one(20));
        let drawn: Vec<u32> = choose(20, 5, 3, "heldout", 0).into_iter().map(|i| i as u32).collect();
        assert_eq!((parted.heldout, parted.train.len(), parted.left_out.len()), (drawn, 15, 0));
    }

    #[test]
    fn forms_of_a_row_stay_together_and_one_that_is_for_training_alone_is_never_held_out() {
        // Groups of three forms, the last of which is inverted.
        let grouping: Vec<u8> = (0..30).map(|i| [0, SAME_GROUP, SAME_GROUP | TRAIN_ONLY][i % 3]).collect();
        let parted = set_aside((0..30).collect(), &grouping, 0.3, 7, &one(30));
        assert_eq!((parted.heldout.len(), parted.left_out.len(), parted.train.len()), (6, 3, 21));
        assert!(parted.heldout.iter().chain(&parted.left_out).all(|row| !parted.train.iter().any(|t| t / 3 == row / 3)));
        assert!(parted.heldout.iter().all(|row| row % 3 != 2) && parted.left_out.iter().all(|row| row % 3 == 2));
    }

    #[test]
    fn at_least_one_of_each_and_none_where_there_is_no_choice() {
        let sizes = |grouping: &[u8], fraction| {
            let Parted { train, heldout, .. } =
                set_aside((0..grouping.len() as u32).collect(), grouping, fraction, 1, &one(grouping.len()));
            (train.len(), heldout.len())
        };
        assert_eq!(sizes(&[0; 3], 0.99), (1, 2));
        assert_eq!(sizes(&[0; 3], 0.01), (2, 1));
        assert_eq!(sizes(&[0], 0.5), (1, 0));
        assert_eq!(sizes(&[0, SAME_GROUP], 0.5), (2, 0), "two forms of one row");
        assert_eq!(sizes(&[TRAIN_ONLY; 4], 0.5), (4, 0));
        assert_eq!(sizes(&[0; 4], 0.0), (4, 0));
    }
}
