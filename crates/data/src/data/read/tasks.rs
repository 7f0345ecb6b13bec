//! Whole tasks that are held out of training (`data.heldout_tasks`), as FLAN holds out clusters.
//!
//! Refuses to know files: it hears the names that a file's task goes by.

use std::collections::BTreeSet;

use crate::error::{Error, Result, nearest};

/// The tasks and clusters to hold out, and which of them were met.
#[derive(Debug, Default)]
pub(crate) struct HeldOut {
    patterns: Vec<glob::Pattern>,
    met: Vec<bool>,
    known: BTreeSet<String>,
}

impl HeldOut {
    /// # Errors
    /// A name that is no pattern.
    pub(crate) fn new(names: &[String]) -> Result<HeldOut> {
        let pattern = |name: &String| {
            glob::Pattern::new(name).map_err(|e| {
                Error::usage("data.heldout_tasks", format!("\"{name}\" is no name: {e}"), "in a name `*` stands for any letters")
            })
        };
        let patterns = names.iter().map(pattern).collect::<Result<Vec<_>>>()?;
        Ok(HeldOut { met: vec![false; patterns.len()], patterns, known: BTreeSet::new() })
    }

    /// Whether any is to be held out.
    pub(crate) fn any(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether a task of these names (its own, its cluster's) is held out.
    pub(crate) fn holds(&mut self, names: &[String]) -> bool {
        self.known.extend(names.iter().cloned());
        let mut held = false;
        for (pattern, met) in self.patterns.iter().zip(&mut self.met) {
            let fits = names.iter().any(|name| pattern.matches(name));
            *met |= fits;
            held |= fits;
        }
        held
    }

    /// # Errors
    /// A name that no task and no cluster has: it would hold out nothing.
    pub(crate) fn all_met(&self) -> Result<()> {
        let Some(at) = self.met.iter().position(|met| !met) else { return Ok(()) };
        let name = self.patterns[at].as_str();
        let guess = match nearest(name, self.known.iter().map(String::as_str)) {
            Some(guess) => format!("did you mean \"{guess}\"? "),
            None if self.known.is_empty() => "only files of shape `flan` and `superni` hold tasks; ".to_string(),
            None => String::new(),
        };
        let why = format!("no task and no cluster in `data.train` is named \"{name}\"");
        Err(Error::usage("data.heldout_tasks", why, format!("{guess}name a task or a cluster as its file does")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tasks_are_held_by_name_cluster_and_pattern() {
        let mut held = HeldOut::new(&names(&["arithmetic", "word_*"])).unwrap();
        assert!(held.holds(&names(&["add_two", "arithmetic"])));
        assert!(held.all_met().is_err());
        assert!(held.holds(&names(&["word_length"])) && !held.holds(&names(&["capitals", "geography"])));
        held.all_met().unwrap();
    }

    #[test]
    fn a_name_that_nothing_has_is_an_error_with_the_nearest() {
        let mut held = HeldOut::new(&names(&["aritmetic"])).unwrap();
        held.holds(&names(&["add_two", "arithmetic"]));
        let error = held.all_met().unwrap_err().to_string();
        assert!(error.contains("aritmetic") && error.contains("did you mean \"arithmetic\"?"), "{error}");
        assert!(HeldOut::new(&names(&["a["])).unwrap_err().to_string().contains("is no name"));
        assert!(HeldOut::new(&names(&["x"])).unwrap().all_met().unwrap_err().to_string().contains("only files of shape"));
    }
}
