//! Whether what a recipe asks for can be done with its rows on its base; what cannot is refused before the first step, what is done
//! otherwise than asked is told. Refuses to know what is wrong with a recipe alone (`recipe`).

use std::path::Path;

use super::events::{JobEvent, Listener, tell};
use crate::data::{ExampleRef, Loaded, Question};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::recipe::{EvalSet, Recipe, Warmup};
use crate::train::mixture::Mixture;
use crate::train::order::Order;
use crate::train::schedule;

/// A set to judge by: its name (none for the recipe's held-out rows) and its rows.
pub type NamedSet = (EvalSet, Loaded);

/// Multiple-choice questions to judge by, under a name.
pub type NamedQuestions = (String, Vec<Question>);

/// A file as the terminal names it.
pub(super) fn in_full(path: &Path) -> String {
    path.display().to_string()
}

/// That the base takes every row: those to train on, held-out ones, and those of the sets.
///
/// # Errors
/// [`crate::Error::Recipe`] at `train.max_length`, with the first row that is too long for the base; at `data.train`, with the first that
/// an encoder would find nothing to read in.
pub(super) fn rows_fit(recipe: &Recipe, model: &Model, loaded: &Loaded, sets: &[NamedSet]) -> Result<()> {
    let most = model.config.max_positions;
    let all = || std::iter::once(loaded).chain(sets.iter().map(|(_, loaded)| loaded));
    if model.has_encoder() {
        all().try_for_each(|of| prompts_are_there(recipe, of))?;
    }
    let mut long =
        all().flat_map(|l| l.train.iter().chain(l.heldout.iter()).map(move |e| (l, e))).filter(|(_, e)| e.ids.len() > most);
    let Some((of, first)) = long.next() else { return Ok(()) };
    let ExampleRef { ids, source, line, .. } = first;
    let file = of.report.sources.get(source).map(|s| in_full(&s.path)).unwrap_or_default();
    let why = format!(
        "is {}, but the base takes at most {most} tokens; {} rows are longer (first: {file}:{line}, {} tokens)",
        recipe.train.max_length,
        long.count() + 1,
        ids.len()
    );
    let help = format!("write `max_length = {most}`; `data.over_long` says what becomes of longer rows");
    Err(recipe.complain("train.max_length", why, help))
}

/// That an encoder has something to read of every row: plain text, which is all answer, has at most its first token.
fn prompts_are_there(recipe: &Recipe, of: &Loaded) -> Result<()> {
    let mut rows = of.train.iter().chain(of.heldout.iter());
    let Some(bare) = rows.find(|row| row.ids.len() < 2 || row.trained.get(1)) else { return Ok(()) };
    let file = of.report.sources.get(bare.source).map(|s| in_full(&s.path)).unwrap_or_default();
    let why = format!("has rows without a prompt (first: {file}:{}), and the base's encoder reads nothing else", bare.line);
    Err(recipe.complain("data.train", why, "give rows with prompt and answer, or use a base without an encoder"))
}

/// That the base takes every choice of every question.
///
/// # Errors
/// [`Error::Data`] with the first question that is too long for it, or has a token that it does not know.
pub(super) fn questions_fit(model: &Model, questions: &[Question]) -> Result<()> {
    let (most, vocab) = (model.config.max_positions, model.config.vocab);
    for question in questions {
        let wrong = |why: String, help: &str| Err(Error::data(&question.path, Some(question.line), why, help));
        let longest = question.choices.iter().map(|choice| choice.ids.len()).max().unwrap_or(0);
        if longest > most {
            let why = format!("the question and a choice have {longest} tokens, but the base takes at most {most}");
            return wrong(why, "shorten it, or leave it out");
        }
        if let Some(id) = question.choices.iter().flat_map(|choice| &choice.ids).find(|id| **id as usize >= vocab) {
            let why = format!("{id} is a token of the tokenizer, but the model's vocabulary has {vocab} entries");
            return wrong(why, "put the tokenizer that belongs to this model beside it");
        }
    }
    Ok(())
}

/// That some step has a learning rate, and that what depends on held-out rows has some.
///
/// # Errors
/// [`crate::Error::Recipe`] at the key that cannot be followed; when the listener ends the job.
pub(super) fn run_learns(recipe: &Recipe, loaded: &Loaded, mixture: &Mixture, listener: &mut Listener<'_>) -> Result<()> {
    let train = &recipe.train;
    let steps = Order::new(train, mixture, &loaded.train)?.steps;
    let highest = schedule::highest(train.schedule, train.warmup, steps);
    if let (Warmup::Steps(warmup), true) = (train.warmup, highest < 1.0) {
        let why = format!("is {warmup} steps, but the run has {steps}");
        if highest <= 0.0 {
            let help = "a warm-up begins at the rate 0, so nothing would be learnt; write `warmup = 0`, or train for longer";
            return Err(recipe.complain("train.warmup", why, help));
        }
        let told = format!("`train.warmup` {why}: the learning rate gets no higher than {:e}", highest * train.lr);
        tell(listener, JobEvent::Warning(told))?;
    }
    if !loaded.heldout.is_empty() {
        return Ok(());
    }
    let few = match recipe.data.heldout_fraction > 0.0 {
        true => format!("there are too few rows to set any aside ({} to train on)", loaded.train.len()),
        false => "`data.heldout_fraction` is 0".to_string(),
    };
    if train.early_stop.is_some() {
        let help = "name held-out rows with `data.heldout`, or leave `early_stop` out";
        return Err(recipe.complain("train.early_stop", format!("needs held-out rows, and there are none: {few}"), help));
    }
    let lost = if train.eval_every > 0 { ", and `train.eval_every` has nothing to evaluate" } else { "" };
    tell(listener, JobEvent::Warning(format!("no row is held out: {few}; the adapter is not measured on held-out rows{lost}")))
}

/// Tells what became of the rows where it is not simply all of them.
///
/// # Errors
/// When the listener ends the job.
pub(super) fn rows_told(loaded: &Loaded, sets: &[NamedSet], listener: &mut Listener<'_>) -> Result<()> {
    said(loaded, sets, &in_full).into_iter().try_for_each(|told| tell(listener, JobEvent::Warning(told)))
}

/// What became of the rows and of those of each set, in sentences; `name` is how a file is written.
pub(super) fn said(loaded: &Loaded, sets: &[NamedSet], name: &dyn Fn(&Path) -> String) -> Vec<String> {
    let of_sets = sets.iter().flat_map(|(set, loaded)| {
        let said = loaded.report.sentences(name).into_iter();
        said.map(move |told| format!("eval set \"{}\": {told}", set.name))
    });
    loaded.report.sentences(name).into_iter().chain(of_sets).collect()
}
