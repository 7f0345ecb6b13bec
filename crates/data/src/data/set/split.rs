//! Which training rows are held out where no file of held-out rows is named.
//!
//! Refuses to know what is in a row.

use super::draw::choose;
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
/// rows is set aside. `grouping` is as [`super::tokenize::TokenizedRows::grouping`].
pub(crate) fn part(request: &Request, rows: RowNumbers, grouping: &[u8]) -> Parted {
    let RowNumbers { train, replay, heldout } = rows;
    let mut parted = match heldout.is_empty() && request.data.heldout.is_empty() {
        true => set_aside(train, grouping, request.data.heldout_fraction, request.seed),
        false => Parted { train, heldout, ..Parted::default() },
    };
    parted.train.extend(replay);
    parted
}

/// Takes a `fraction` of the training rows for held-out ones, leaving at least one of each. Forms of one row (its
/// phrasings, the pairs of a prompt) stay together; those of them that are never held out are then left out.
fn set_aside(train: Vec<u32>, grouping: &[u8], fraction: f64, seed: u64) -> Parted {
    let groups: Vec<&[u32]> = train.chunk_by(|_, row| grouping[*row as usize] & SAME_GROUP != 0).collect();
    let train_only = |row: &u32| grouping[*row as usize] & TRAIN_ONLY != 0;
    let fit: Vec<usize> = (0..groups.len()).filter(|group| !groups[*group].iter().all(train_only)).collect();
    let wanted = (groups.len() as f64 * fraction).round() as usize;
    let wanted = wanted.max(1).min(groups.len().saturating_sub(1)).min(fit.len());
    if fraction <= 0.0 || wanted == 0 {
        return Parted { train, ..Parted::default() };
    }
    let mut aside = vec![false; groups.len()];
    choose(fit.len(), wanted, seed, "heldout", 0).into_iter().for_each(|i| aside[fit[i]] = true);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_rows_are_drawn_as_ever() {
        let parted = set_aside((0..20).collect(), &[0; 20], 0.25, 3);
        let drawn: Vec<u32> = choose(20, 5, 3, "heldout", 0).into_iter().map(|i| i as u32).collect();
        assert_eq!((parted.heldout, parted.train.len(), parted.left_out.len()), (drawn, 15, 0));
    }

    #[test]
    fn forms_of_a_row_stay_together_and_one_that_is_for_training_alone_is_never_held_out() {
        // Groups of three forms, the last of which is inverted.
        let grouping: Vec<u8> = (0..30).map(|i| [0, SAME_GROUP, SAME_GROUP | TRAIN_ONLY][i % 3]).collect();
        let parted = set_aside((0..30).collect(), &grouping, 0.3, 7);
        assert_eq!((parted.heldout.len(), parted.left_out.len(), parted.train.len()), (6, 3, 21));
        assert!(parted.heldout.iter().chain(&parted.left_out).all(|row| !parted.train.iter().any(|t| t / 3 == row / 3)));
        assert!(parted.heldout.iter().all(|row| row % 3 != 2) && parted.left_out.iter().all(|row| row % 3 == 2));
    }

    #[test]
    fn at_least_one_of_each_and_none_where_there_is_no_choice() {
        let sizes = |grouping: &[u8], fraction| {
            let Parted { train, heldout, .. } = set_aside((0..grouping.len() as u32).collect(), grouping, fraction, 1);
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
