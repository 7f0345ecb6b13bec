//! What another implementation needs to be compared with this one, as files of JSON: logits of prompts, and the rows and
//! learning rate of every step of a run.
//!
//! Refuses to know how models and recipes are found.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::{ExampleRef, Examples};
use crate::error::{Error, Result};
use crate::files;
use crate::model::{Adapt, Model};
use crate::recipe::Train;
use crate::train::mixture::Mixture;
use crate::train::order::Order;
use crate::train::schedule;

/// Prompts as ids, and what follows each of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct PromptFile {
    prompts: Vec<ExchangePrompt>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExchangePrompt {
    ids: Vec<u32>,
    #[serde(default)]
    last_logits: Vec<f32>,
}

impl PromptFile {
    /// Reads `{"prompts": [{"ids": [...]}]}`.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such file, [`Error::Data`] when it is of another form or a prompt is empty.
    pub fn read(path: &Path) -> Result<PromptFile> {
        let file: PromptFile = serde_json::from_str(&files::read_text(path)?)
            .map_err(|e| Error::data(path, Some(e.line()), e.to_string(), "write {\"prompts\": [{\"ids\": [1, 2]}]}"))?;
        if file.prompts.iter().any(|p| p.ids.is_empty()) {
            return Err(Error::data(path, None, "a prompt has no ids", "give each prompt at least one id"));
        }
        Ok(file)
    }

    /// Computes the logits after the last id of each prompt.
    ///
    /// # Errors
    /// Whatever the model reports.
    pub fn answer(&mut self, model: &Model, adapt: &dyn Adapt) -> Result<()> {
        for prompt in &mut self.prompts {
            let logits = model.text_logits(adapt, &[&prompt.ids])?.remove(0);
            prompt.last_logits = logits[logits.len() - model.config.vocab..].to_vec();
        }
        Ok(())
    }

    /// Writes the prompts, each with `last_logits`.
    ///
    /// # Errors
    /// [`Error::Io`] when that fails.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, json!(self).to_string().as_bytes())
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }
}

/// The learning rate and the rows of every step.
#[derive(Debug)]
pub struct Steps {
    rates: Vec<f64>,
    batches: Vec<Value>,
}

impl Steps {
    /// The steps of a run on `examples`; short rows are filled with `pad`.
    ///
    /// # Errors
    /// As [`Order::new`].
    pub fn of(train: &Train, mixture: &Mixture, examples: &Examples, pad: u32) -> Result<Steps> {
        let order = Order::new(train, mixture, examples)?;
        let rate = |step| train.lr * schedule::factor(train.schedule, train.warmup, step, order.steps);
        let batch = |step| {
            let rows: Vec<ExampleRef> = order.micro_batches(step).iter().flatten().flatten().map(|i| examples.get(*i)).collect();
            padded(&rows, pad)
        };
        Ok(Steps { rates: (0..order.steps).map(rate).collect(), batches: (0..order.steps).map(batch).collect() })
    }

    /// Writes `{"lrs": [...], "batches": [...]}`.
    ///
    /// # Errors
    /// [`Error::Io`] when that fails.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, json!({"lrs": self.rates, "batches": self.batches}).to_string().as_bytes())
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.rates.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }
}

/// The rows of a step as one batch, padded on the right; label -100 carries no loss.
fn padded(rows: &[ExampleRef], pad: u32) -> Value {
    let len = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let fill = |row: &ExampleRef, of: &dyn Fn(usize) -> i64, rest: i64| -> Vec<i64> {
        (0..len).map(|i| if i < row.ids.len() { of(i) } else { rest }).collect()
    };
    let each = |f: &dyn Fn(&ExampleRef) -> Vec<i64>| rows.iter().map(f).collect::<Vec<_>>();
    json!({
        "input_ids": each(&|r| fill(r, &|i| i64::from(r.ids[i]), i64::from(pad))),
        "labels": each(&|r| fill(r, &|i| if r.trained.get(i) { i64::from(r.ids[i]) } else { -100 }, -100)),
        "attention_mask": each(&|r| fill(r, &|_| 1, 0)),
    })
}
