//! A plan as TOML, a comment at each thing that was chosen.
//!
//! Refuses to know why it was chosen.

use std::path::Path;

use super::facts::Facts;
use super::plan::Plan;
use crate::recipe::{Shape, toml_text};

/// Column where comments begin.
const COMMENT: usize = 40;

/// A line with a comment behind it.
fn line(out: &mut String, setting: &str, comment: &str) {
    match comment {
        "" => out.push_str(&format!("{setting}\n")),
        _ => out.push_str(&format!("{setting:<COMMENT$} # {comment}\n")),
    }
}

impl Plan {
    /// The recipe that will lie at `path`.
    pub(super) fn write(&self, path: &Path, facts: &Facts) -> String {
        let mut out = self.head(path, facts);
        self.base_and_adapter(&mut out);
        self.data(&mut out);
        self.training(&mut out);
        self.judging(&mut out);
        out
    }

    fn head(&self, path: &Path, facts: &Facts) -> String {
        let path = path.display();
        let names: Vec<&str> = self.train.iter().map(|(data, ..)| data.spelled.as_str()).collect();
        let mut out = format!("# An adapter from {}.\n#\n", names.join(", "));
        facts.lines.iter().for_each(|said| out.push_str(&format!("# {said}.\n")));
        out.push_str(&format!(
            "#\n# See:     lorakit data show {path}      (what is learnt of each row)\n\
             # Takes:   lorakit estimate {path}       (memory and time)\n\
             # Run:     lorakit train {path}\n"
        ));
        out
    }

    fn base_and_adapter(&self, out: &mut String) {
        out.push_str("\n[base]\n");
        line(out, &format!("model = {}", toml_text(&self.base.model)), "a hub id, a directory or a .gguf file");
        if let Some(fallback) = &self.base.fallback {
            line(out, &format!("fallback = {}", toml_text(fallback)), "where the hub is out of reach");
        }
        if !self.base.ignore_config.is_empty() {
            let keys: Vec<String> = self.base.ignore_config.iter().map(|key| toml_text(key)).collect();
            line(out, &format!("ignore_config = [{}]", keys.join(", ")), "unknown keys of its config.json, left out of account");
        }
        out.push_str("\n[adapter]\n");
        line(out, "rank = 16", "size of the low-rank matrices of the attention");
        line(out, "alpha = 32", "their update is scaled by alpha / rank");
    }

    fn data(&self, out: &mut String) {
        out.push_str("\n[data]\n");
        let sources: Vec<String> =
            self.train.iter().map(|(data, map, shape)| source(&data.spelled, &map.columns, *shape)).collect();
        out.push_str(&format!("train = {}\n", one_or_list(sources)));
        match self.fraction {
            Some(fraction) => line(out, &format!("heldout_fraction = {fraction}"), "of the rows: never trained on, judged by"),
            None => {
                let (_, map, shape) = &self.train[0];
                let held = self.heldout.iter().map(|data| source(&data.spelled, &map.columns, *shape)).collect();
                out.push_str(&format!("heldout = {}\n", one_or_list(held)));
            }
        }
        if self.longer > 0 {
            let talks = self.train.iter().any(|(.., shape)| matches!(shape, Some(Shape::Messages | Shape::ShareGpt)));
            let (what, said) = if talks { ("split", "cut between turns") } else { ("drop", "left out") };
            line(out, &format!("over_long = \"{what}\""), &format!("{} rows are longer than max_length: {said}", self.longer));
        }
        if self.template.is_some() || self.system.is_some() {
            out.push_str("\n[template]\n");
        }
        if let Some(kind) = self.template {
            line(out, &format!("kind = \"{kind}\""), "the base has no chat template of its own");
        }
        if let Some(system) = &self.system {
            out.push_str(&format!("system = {}\n", toml_text(system)));
        }
    }

    fn training(&self, out: &mut String) {
        out.push_str("\n[train]\n");
        let steps = self.steps();
        line(out, &format!("epochs = {}", self.epochs), &format!("about {steps} steps"));
        line(out, &format!("lr = {:?}", self.lr), "peak learning rate; halve it where the loss jumps");
        line(out, "warmup = 0.03", "share of all steps");
        line(out, &format!("batch_size = {}", self.batch_size), "rows at a time");
        if self.accumulate > 1 {
            line(out, &format!("accumulate = {}", self.accumulate), "of these make a step");
        }
        line(out, &format!("max_length = {}", self.max_length), "tokens of a row");
        line(out, &format!("eval_every = {}", (steps / 4).max(1)), "held-out loss every n steps; the best adapter is kept");
    }

    fn judging(&self, out: &mut String) {
        out.push_str("\n[eval]\n");
        match (self.answers, self.exact) {
            (true, true) => line(out, "exact_match = true", "generate answers and compare them to the letter"),
            (true, false) => line(out, "rouge_l = true", "generate answers; how much they share with the right ones"),
            (false, _) => {}
        }
        if self.answers {
            line(out, &format!("max_new_tokens = {}", self.max_new_tokens), "of an answer");
        }
        line(out, "limit = 50", "held-out rows that are judged");
    }
}

/// A source: its path alone, where nothing else has to be said.
fn source(path: &str, columns: &[(&'static str, String)], shape: Option<Shape>) -> String {
    let path = toml_text(path);
    let mut more = String::new();
    if !columns.is_empty() {
        let columns: Vec<String> = columns.iter().map(|(ours, theirs)| format!("{ours} = {}", toml_text(theirs))).collect();
        more.push_str(&format!(", columns = {{ {} }}", columns.join(", ")));
    }
    match shape {
        Some(Shape::Preference) => more.push_str(", take = \"chosen\""),
        Some(Shape::Labelled) => more.push_str(", take = \"desirable\""),
        _ => {}
    }
    if more.is_empty() { path } else { format!("{{ path = {path}{more} }}") }
}

fn one_or_list(sources: Vec<String>) -> String {
    if sources.len() == 1 { sources.concat() } else { format!("[\n  {},\n]", sources.join(",\n  ")) }
}
