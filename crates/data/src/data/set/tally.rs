//! Numbers over rows that lie in columns.
//!
//! Refuses to know where the rows came from.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use super::column::Lists;
use super::examples::Rows;
use super::report::{Counts, Dropped};
use crate::data::read::reason::Reason;

/// How many of the longest rows a [`super::report::Report`] names.
const LONGEST: usize = 10;

/// The rows of `heldout` whose tokens are those of a row of `train`.
pub(crate) fn repeated(rows: &Rows, train: &[u32], heldout: &[u32]) -> Vec<usize> {
    let ids = |row: &u32| rows.ids.get(*row as usize);
    let known: HashSet<&[u32]> = heldout.iter().map(ids).collect();
    let found: HashSet<&[u32]> = train.par_iter().map(ids).filter(|ids| known.contains(ids)).collect();
    heldout.iter().filter(|row| found.contains(ids(row))).map(|row| *row as usize).collect()
}

/// The longest rows, longest first and in their order where they are as long.
pub(crate) fn longest(rows: &Rows) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    let length = |row: usize| rows.ids.place(row).len();
    for row in 0..rows.ids.len() {
        let at = found.partition_point(|other| length(*other) >= length(row));
        if at < LONGEST {
            found.insert(at, row);
            found.truncate(LONGEST);
        }
    }
    found
}

/// Numbers of some of the rows.
pub(crate) fn count(rows: &Rows, tallies: &Lists<u32>, roles: &[String], some: &[u32]) -> Counts {
    let mut counts = Counts { examples: some.len(), ..Counts::default() };
    let mut by_role = vec![0usize; roles.len()];
    for row in some {
        let tally = tallies.get(*row as usize);
        counts.tokens += rows.ids.place(*row as usize).len();
        counts.trained += tally[0] as usize;
        tally[1..].chunks_exact(2).for_each(|pair| by_role[pair[0] as usize] += pair[1] as usize);
    }
    let used = roles.iter().zip(by_role).filter(|(_, tokens)| *tokens > 0);
    counts.roles = used.map(|(role, tokens)| (role.clone(), tokens)).collect();
    counts
}

/// Why rows were dropped, with how many by reason and the first line of each.
pub(crate) fn reasons(dropped: &[Dropped]) -> String {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for d in dropped {
        let name = match d.reason {
            Reason::OverLong { .. } => "over-long".to_string(),
            other => other.to_string(),
        };
        counts.entry(name).or_insert((0, d.line)).0 += 1;
    }
    let parts: Vec<_> = counts.iter().map(|(name, (n, line))| format!("{n} {name} (first: line {line})")).collect();
    if parts.is_empty() { "the files have no rows".into() } else { parts.join(", ") }
}
