//! Numbers over rows that lie in columns.
//!
//! Refuses to know where the rows came from.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use super::column::Lists;
use super::examples::RowColumns;
use super::report::{Counts, Dropped};
use crate::data::read::reason::Reason;
use crate::data::render::encode::Encoded;

/// How many of the longest rows a [`super::report::Report`] names.
const LONGEST: usize = 10;

/// Of rows: how many tokens are trained, then (role, tokens) for each role; roles are named once.
#[derive(Debug, Default)]
pub(crate) struct TokenCounts {
    pub(crate) roles: Vec<String>,
    pub(crate) values: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
}

impl TokenCounts {
    pub(crate) fn push(&mut self, encoded: &Encoded, roles: &[String]) {
        let start = self.values.len();
        self.values.push(encoded.trained.iter().filter(|t| **t).count() as u32);
        let mut last = (None, 0);
        for turn in &encoded.turn {
            if last.0 != Some(*turn) {
                last = (Some(*turn), self.slot(start, turn.map_or("template", |i| &roles[i])));
            }
            self.values[last.1] += 1;
        }
        self.lengths.push((self.values.len() - start) as u32);
    }

    /// Where the row whose counts begin at `start` counts the tokens of `role`.
    fn slot(&mut self, start: usize, role: &str) -> usize {
        let number = index_of(&mut self.roles, role);
        let known = (start + 1..self.values.len()).step_by(2).find(|at| self.values[*at] == number);
        known.unwrap_or_else(|| {
            self.values.extend([number, 0]);
            self.values.len() - 2
        }) + 1
    }
}

/// The number of `name` among `names`, where it is put if it is new.
pub(crate) fn index_of(names: &mut Vec<String>, name: &str) -> u32 {
    let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_string());
        names.len() - 1
    });
    at as u32
}

/// The rows of `heldout` whose tokens are those of a row of `train`.
pub(crate) fn repeated(rows: &RowColumns, train: &[u32], heldout: &[u32]) -> Vec<usize> {
    let ids = |row: &u32| rows.ids.get(*row as usize);
    let known: HashSet<&[u32]> = heldout.iter().map(ids).collect();
    let found: HashSet<&[u32]> = train.par_iter().map(ids).filter(|ids| known.contains(ids)).collect();
    heldout.iter().filter(|row| found.contains(ids(row))).map(|row| *row as usize).collect()
}

/// The longest rows, longest first and in their order where they are as long.
pub(crate) fn longest(rows: &RowColumns) -> Vec<usize> {
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

/// Numbers of some of the rows; `token_counts` are as [`TokenCounts`], with the numbers of `roles`.
pub(crate) fn count(rows: &RowColumns, token_counts: &Lists<u32>, roles: &[String], some: &[u32]) -> Counts {
    let mut counts = Counts { examples: some.len(), ..Counts::default() };
    let mut by_role = vec![0usize; roles.len()];
    for row in some {
        let counted = token_counts.get(*row as usize);
        counts.tokens += rows.ids.place(*row as usize).len();
        counts.trained += counted[0] as usize;
        counted[1..].chunks_exact(2).for_each(|pair| by_role[pair[0] as usize] += pair[1] as usize);
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
