//! What became of the rows, in sentences for whoever did not ask: what is not used and why, what was cut, what is odd.
//!
//! Refuses to know where the sentences are shown. `data show` lists each row.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::report::{Dropped, Report};
use crate::data::read::reason::Reason;

/// Rows that are not used for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedRows {
    /// In words.
    pub reason: String,
    pub rows: usize,
    /// File and line of the first of them.
    pub first: String,
}

impl Report {
    /// Why rows are not used, the most frequent reason first; `name` is how a file is written.
    pub fn dropped_rows(&self, name: &dyn Fn(&Path) -> String) -> Vec<DroppedRows> {
        let mut groups: BTreeMap<String, (usize, &Dropped)> = BTreeMap::new();
        for dropped in &self.dropped {
            groups.entry(words(dropped.reason)).or_insert((0, dropped)).0 += 1;
        }
        let found = groups.into_iter().map(|(reason, (rows, first))| {
            let tokens = match first.reason {
                Reason::OverLong { tokens } => format!(", {tokens} tokens"),
                _ => String::new(),
            };
            DroppedRows { reason, rows, first: self.place(first.source, first.line, name) + &tokens }
        });
        let mut found: Vec<DroppedRows> = found.collect();
        found.sort_by_key(|dropped| std::cmp::Reverse(dropped.rows));
        found
    }

    /// What a user should know of the rows before they are used; nothing where every row is used as it is.
    pub fn sentences(&self, name: &dyn Fn(&Path) -> String) -> Vec<String> {
        let mut said: Vec<String> = self.unused(name).into_iter().collect();
        let unused = |index: &usize| self.sources[*index].rows > 0 && !self.used_sources.contains(index);
        let empty = (0..self.sources.len()).filter(unused).map(|index| name(&self.sources[index].path));
        said.extend(empty.map(|file| format!("no row of {file} is used")));
        if let Some(first) = self.truncated.first() {
            let place = self.place(first.source, first.line, name);
            let (rows, tokens) = (self.truncated.len(), first.tokens);
            said.push(format!("{rows} rows are cut at `train.max_length` (first: {place}, {tokens} tokens)"));
        }
        if let Some(first) = self.split.first() {
            let (rows, parts) = (self.split.len(), self.split.len() + self.rows_added());
            let place = self.place(first.source, first.line, name);
            said.push(format!("{rows} rows longer than `train.max_length` are split into {parts} (first: {place})"));
        }
        if let Some(first) = self.repeated.first() {
            let (rows, place) = (self.repeated.len(), self.place(first.source, first.line, name));
            said.push(format!("{rows} held-out rows are training rows as well (first: {place}): they judge nothing"));
        }
        if self.open_answers > 0 {
            let why = "a model trained on such answers alone does not learn to stop";
            said.push(format!("{} answers are ended by no special token: {why}", self.open_answers));
        }
        said
    }

    /// How many rows are not used, and why.
    fn unused(&self, name: &dyn Fn(&Path) -> String) -> Option<String> {
        let beyond: usize = self.sources.iter().map(|source| source.beyond_limit).sum();
        if self.dropped.is_empty() && beyond == 0 {
            return None;
        }
        let (of, what) = match self.rows_added() {
            0 => (self.rows_read(), "rows"),
            added => (self.rows_read() + added, "rows and parts of rows"),
        };
        let mut said = format!("used {} of {of} {what}", self.rows_used());
        if beyond > 0 {
            said += &format!("; {beyond} are beyond `limit`");
        }
        if !self.dropped.is_empty() {
            let each = |d: DroppedRows| format!("{} {} (first: {})", d.rows, d.reason, d.first);
            let each: Vec<String> = self.dropped_rows(name).into_iter().map(each).collect();
            said += &format!("; {} dropped: {}", self.dropped.len(), each.join(", "));
        }
        Some(said)
    }

    fn place(&self, source: usize, line: usize, name: &dyn Fn(&Path) -> String) -> String {
        self.sources.get(source).map_or_else(|| format!("line {line}"), |s| format!("{}:{line}", name(&s.path)))
    }
}

fn words(reason: Reason) -> String {
    match reason {
        Reason::OverLong { .. } => "longer than `train.max_length`".to_string(),
        other => other.to_string(),
    }
}
