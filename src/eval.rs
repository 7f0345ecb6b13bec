//! Base against adapter on held-out rows: loss, perplexity, and generated answers compared exactly.

use crate::data::{Example, Prompt, Tokenizer};
use crate::error::Result;
use crate::generate::{self, Limits, Sampling};
use crate::model::{Adapt, Model};
use crate::recipe;

/// Held-out rows and how to judge them.
pub struct Rows<'a> {
    pub examples: &'a [Example],
    pub prompts: &'a [Prompt],
    pub tokenizer: &'a Tokenizer,
    /// Ids that end an answer.
    pub stop: &'a [u32],
    pub settings: &'a recipe::Eval,
}

/// What was measured for one adapter (or the base).
#[derive(Debug, Clone, serde::Serialize)]
pub struct Measure {
    /// Mean cross-entropy per trained token, nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Share of generated answers that equal the reference (white space at the ends apart); `None` when not asked for.
    pub exact_match: Option<f64>,
    /// Rows judged.
    pub rows: usize,
    /// Generated answers, in the order of the prompts judged.
    #[serde(skip)]
    pub answers: Vec<String>,
}

/// Judges `adapt` on the rows. `progress` hears (what, done, all); an error of its own ends the work.
///
/// # Errors
/// As the model's forward pass, and what `progress` returns.
pub fn measure(
    model: &Model,
    adapt: &dyn Adapt,
    rows: &Rows,
    progress: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
) -> Result<Measure> {
    let limit = rows.settings.limit.unwrap_or(usize::MAX);
    let examples = &rows.examples[..rows.examples.len().min(limit)];
    let pad = rows.tokenizer.pad_id();
    let score =
        model.score(adapt, examples, rows.settings.batch_size, pad, &mut |done| progress("loss", done, examples.len()))?;
    let answers = if rows.settings.exact_match { answers(model, adapt, rows, limit, progress)? } else { Vec::new() };
    let right = answers.iter().zip(rows.prompts).filter(|(a, p)| a.trim() == p.reference.trim()).count();
    let exact_match = (!answers.is_empty()).then(|| right as f64 / answers.len() as f64);
    Ok(Measure { loss: score.loss(), perplexity: score.perplexity(), exact_match, rows: examples.len(), answers })
}

/// Greedy answers to the first `limit` prompts.
fn answers(
    model: &Model,
    adapt: &dyn Adapt,
    rows: &Rows,
    limit: usize,
    progress: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
) -> Result<Vec<String>> {
    let prompts: Vec<Vec<u32>> = rows.prompts.iter().take(limit).map(|p| p.ids.clone()).collect();
    let limits = Limits { max_new_tokens: rows.settings.max_new_tokens, stop: rows.stop.to_vec() };
    let (size, pad, all) = (rows.settings.batch_size, rows.tokenizer.pad_id(), prompts.len());
    let ids = generate::batch(model, adapt, &prompts, &Sampling::GREEDY, &limits, size, pad, &mut |done| {
        progress("answers", done, all)
    })?;
    ids.iter().map(|ids| rows.tokenizer.decode(ids, true)).collect()
}
