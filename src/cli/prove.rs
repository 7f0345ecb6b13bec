//! Base beside adapter: measured, printed, and as JSON. Shared by `train` and `eval`.

use super::base::Opened;
use super::progress::{Progress, Unit};
use super::stop;
use crate::adapter::Adapter;
use crate::artifact::card;
use crate::data::{Loaded, Renderer};
use crate::error::Result;
use crate::eval::{self, Measure, Rows};
use crate::model::Adapt;
use crate::recipe::Recipe;

/// Both measures on the same held-out rows.
pub(super) struct Proof {
    pub base: Measure,
    pub adapter: Measure,
}

/// Measures the base and the adapter on the recipe's held-out rows.
///
/// # Errors
/// As the model's forward pass, and when a signal asked to stop.
pub(super) fn measure(
    recipe: &Recipe,
    opened: &Opened,
    renderer: &Renderer,
    loaded: &Loaded,
    adapter: &Adapter,
) -> Result<Proof> {
    let stop = renderer.stop_ids();
    let rows = Rows {
        examples: &loaded.heldout,
        prompts: &loaded.heldout_prompts,
        tokenizer: &opened.tokenizer,
        stop: &stop,
        settings: &recipe.eval,
    };
    let judge = |who: &str, adapt: &dyn Adapt| {
        let mut bar: Option<(String, Progress)> = None;
        eval::measure(&opened.model, adapt, &rows, &mut |what, done, all| {
            if bar.as_ref().is_none_or(|(w, _)| w != what) {
                bar = Some((what.to_string(), Progress::new(&format!("{who}: {what}"), all as u64, Unit::Items)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.set(done as u64, "");
            }
            stop::go_on()
        })
    };
    Ok(Proof { base: judge("base", &())?, adapter: judge("adapter", &adapter.frozen())? })
}

impl Proof {
    /// The table, for people.
    pub(super) fn table(&self) -> String {
        let exact = |m: &Measure| m.exact_match.map_or("–".to_string(), |e| format!("{:.1} %", e * 100.0));
        let row = |name: &str, base: String, adapter: String| format!("  {name:<28}{base:>12}{adapter:>12}\n");
        row(&format!("{} held-out rows", self.base.rows), "base".into(), "adapter".into())
            + &row("loss, nats per token", format!("{:.4}", self.base.loss), format!("{:.4}", self.adapter.loss))
            + &row("perplexity", format!("{:.3}", self.base.perplexity), format!("{:.3}", self.adapter.perplexity))
            + &row("exact match", exact(&self.base), exact(&self.adapter))
    }

    /// `{"base": {...}, "adapter": {...}}`, for programs.
    pub(super) fn json(&self) -> serde_json::Value {
        let one = |m: &Measure| serde_json::json!({"loss": m.loss, "perplexity": m.perplexity, "exact_match": m.exact_match});
        serde_json::json!({"base": one(&self.base), "adapter": one(&self.adapter)})
    }

    /// Up to `n` prompts with both answers.
    ///
    /// # Errors
    /// When a prompt cannot be decoded.
    pub(super) fn samples(&self, n: usize, opened: &Opened, loaded: &Loaded) -> Result<Vec<card::Sample>> {
        let pairs = loaded.heldout_prompts.iter().zip(&self.base.answers).zip(&self.adapter.answers);
        pairs
            .take(n)
            .map(|((p, base), adapter)| {
                Ok(card::Sample {
                    prompt: opened.tokenizer.decode(&p.ids, false)?,
                    reference: p.reference.clone(),
                    base: base.clone(),
                    adapter: adapter.clone(),
                })
            })
            .collect()
    }
}

/// The samples as they are printed.
pub(super) fn before_and_after(samples: &[card::Sample]) -> String {
    let indent = |s: &str| s.trim().replace('\n', "\n    ");
    let mut out = String::new();
    for s in samples {
        out += &format!("\n  prompt\n    {}\n  reference\n    {}\n", indent(&s.prompt), indent(&s.reference));
        out += &format!("  base answers\n    {}\n  with the adapter\n    {}\n", indent(&s.base), indent(&s.adapter));
    }
    out
}

impl From<&Measure> for card::Result {
    fn from(m: &Measure) -> card::Result {
        card::Result { loss: m.loss, perplexity: m.perplexity, exact_match: m.exact_match }
    }
}
