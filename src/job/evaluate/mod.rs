//! Base beside adapter on the held-out rows and on each named set: measured, as text, and as JSON. After training, or alone.

mod table;

use std::path::Path;

use serde_json::{Value, json};

use super::events::{JobEvent, Listener, tell};
use super::feasible::{NamedSet, rows_fit, rows_told};
use super::open::{self, OpenedBase};
use crate::adapter::Adapter;
use crate::artifact::{card, chat_template};
use crate::data::{self, Loaded, Renderer};
use crate::error::Result;
use crate::eval::{self, Comparison, EvalRows, Measure, Metric};
use crate::model::Adapt;
use crate::recipe::{EvalSet, Recipe};

pub use self::table::before_and_after;

/// Base and adapter on the held-out rows, and on each set.
pub struct Evaluation {
    pub heldout: SideBySide,
    sets: Vec<(String, SideBySide)>,
}

/// Both measures on the same rows.
pub struct SideBySide {
    pub base: Measure,
    pub adapter: Measure,
    pub comparison: Comparison,
    /// Rows that could not be judged: too long, for instance.
    dropped: usize,
}

/// The rows of the recipe's sets.
///
/// # Errors
/// Whatever is wrong with their files, or when the model does not know a token.
pub(super) fn sets(recipe: &Recipe, opened: &OpenedBase, renderer: &Renderer) -> Result<Vec<NamedSet>> {
    let load = |set: &EvalSet| {
        let loaded = data::load_set(&set.rows, &recipe.data, renderer, recipe.train.max_length, recipe.train.seed)?;
        opened.covers(&loaded)?;
        Ok((set.clone(), loaded))
    };
    recipe.eval.sets.iter().map(load).collect()
}

/// What [`evaluate`] returns.
pub struct Evaluated {
    pub evaluation: Evaluation,
    pub opened: OpenedBase,
    pub loaded: Loaded,
}

impl Evaluated {
    /// Up to `n` prompts with both answers.
    ///
    /// # Errors
    /// When a prompt cannot be decoded.
    pub fn samples(&self, n: usize) -> Result<Vec<card::Sample>> {
        self.evaluation.samples(n, &self.opened, &self.loaded)
    }
}

/// Measures the base of `recipe` and the adapter in the directory `adapter` on the recipe's held-out rows and on its sets.
///
/// # Errors
/// Whatever is wrong with the base, adapter or data; when the listener ends the job.
pub fn evaluate(recipe: &Recipe, adapter: &Path, listener: &mut Listener<'_>) -> Result<Evaluated> {
    let opened = open::open(&recipe.base, listener)?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let kept = chat_template::kept(adapter)?;
    if !kept.is_empty() && kept != *renderer.chat_templates() {
        let dir = adapter.display();
        let other = format!("the adapter in {dir} was trained in another chat template than the recipe's, which is used");
        tell(listener, JobEvent::Remark(other))?;
    }
    let adapter = open::adapter(adapter, &opened, listener)?;
    let loaded = super::rows(recipe, &renderer, listener)?.loaded;
    opened.covers(&loaded)?;
    let sets = sets(recipe, &opened, &renderer)?;
    if loaded.heldout.is_empty() && sets.is_empty() {
        let why = "sets no row aside, and no other set is named: there is nothing to judge by";
        return Err(recipe.complain("data.heldout_fraction", why, "name held-out rows with `data.heldout`, or `[[eval.sets]]`"));
    }
    rows_fit(recipe, &opened.model, &loaded, &sets)?;
    rows_told(&loaded, &sets, listener)?;
    let evaluation = measure(recipe, &opened, &renderer, &loaded, &sets, &adapter, listener)?;
    Ok(Evaluated { evaluation, opened, loaded })
}

/// Measures the base and the adapter on the recipe's held-out rows and on its sets.
///
/// # Errors
/// As the model's forward pass, and when the listener ends the job.
pub(super) fn measure(
    recipe: &Recipe,
    opened: &OpenedBase,
    renderer: &Renderer,
    loaded: &Loaded,
    sets: &[NamedSet],
    adapter: &Adapter,
    listener: &mut Listener<'_>,
) -> Result<Evaluation> {
    let stop = renderer.stop_ids();
    let mut side_by_side = |name: &str, loaded: &Loaded, limit: Option<usize>| -> Result<SideBySide> {
        let rows = EvalRows {
            examples: &loaded.heldout,
            prompts: &loaded.heldout_prompts,
            tokenizer: &opened.tokenizer,
            stop: &stop,
            settings: &recipe.eval,
            limit,
        };
        let base = one(&format!("{name}base"), opened, &rows, &(), listener)?;
        let adapter = one(&format!("{name}adapter"), opened, &rows, &adapter.frozen(), listener)?;
        let comparison = eval::compare(&rows.labels(), &base.each, &adapter.each, recipe.train.seed);
        let dropped = if name.is_empty() { 0 } else { loaded.report.dropped.len() };
        Ok(SideBySide { base, adapter, comparison, dropped })
    };
    let heldout = side_by_side("", loaded, recipe.eval.limit)?;
    let sets =
        sets.iter().map(|(set, loaded)| Ok((set.name.clone(), side_by_side(&format!("{}, ", set.name), loaded, set.limit)?)));
    Ok(Evaluation { heldout, sets: sets.collect::<Result<_>>()? })
}

/// One measure, told of as `who`.
fn one(who: &str, opened: &OpenedBase, rows: &EvalRows, adapt: &dyn Adapt, listener: &mut Listener<'_>) -> Result<Measure> {
    let mut progress = |what: &str, done, all| tell(listener, JobEvent::Evaluating { who, what, done, all });
    let measure = eval::measure(&opened.model, adapt, rows, &mut progress)?;
    // All the answers are there: a stop is heard with the next of them.
    listener(JobEvent::EvaluationDone { who })?;
    Ok(measure)
}

impl Evaluation {
    /// The tables, for people.
    pub fn table(&self) -> String {
        let sets = self.sets.iter().map(|(name, judged)| format!("\n{}", table::of(Some(name), judged)));
        table::of(None, &self.heldout) + &sets.collect::<String>()
    }

    /// `{"base": {...}, "adapter": {...}, "rows": n, "compared": [...], "tasks": [...], "clusters": [...], "sets": [...]}`,
    /// for programs; a set has its `name` and the same keys.
    pub fn json(&self) -> Value {
        let set = |(name, judged): &(String, SideBySide)| {
            let mut json = judged.json();
            json["name"] = json!(name);
            json["dropped"] = json!(judged.dropped);
            json
        };
        let mut json = self.heldout.json();
        json["sets"] = self.sets.iter().map(set).collect();
        json
    }

    /// Up to `n` prompts with both answers.
    ///
    /// # Errors
    /// When a prompt cannot be decoded.
    pub fn samples(&self, n: usize, opened: &OpenedBase, loaded: &Loaded) -> Result<Vec<card::Sample>> {
        let (base, adapter) = (&self.heldout.base.answers, &self.heldout.adapter.answers);
        let shown = n.min(base.len());
        let spread = (0..shown).map(|i| i * base.len() / shown);
        spread
            .map(|i| {
                let (prompt, base) = &base[i];
                let prompt = loaded.heldout_prompts.get(*prompt);
                Ok(card::Sample {
                    prompt: opened.tokenizer.decode(&prompt.ids, false)?,
                    reference: prompt.reference.clone(),
                    base: base.clone(),
                    adapter: adapter[i].1.clone(),
                })
            })
            .collect()
    }

    /// What the card says below its table: differences with their intervals, and the sets.
    pub(super) fn notes(&self) -> Vec<String> {
        let one = |name: Option<&str>, judged: &SideBySide| table::notes(name, judged);
        let sets = self.sets.iter().flat_map(|(name, judged)| one(Some(name), judged));
        one(None, &self.heldout).into_iter().chain(sets).collect()
    }
}

impl SideBySide {
    fn json(&self) -> Value {
        let one =
            |m: &Measure| json!({"loss": m.loss, "perplexity": m.perplexity, "exact_match": m.exact_match, "rouge_l": m.rouge_l});
        let values = |values: &[(Metric, f64, f64)]| {
            let side = |pick: fn(&(Metric, f64, f64)) -> f64| {
                values.iter().map(|v| (key(v.0), json!(pick(v)))).collect::<serde_json::Map<_, _>>()
            };
            (side(|v| v.1), side(|v| v.2))
        };
        let tasks = self.comparison.tasks.iter().map(|t| {
            let (base, adapter) = values(&t.values);
            json!({"task": t.label.task, "cluster": t.label.cluster, "rows": t.rows, "base": base, "adapter": adapter})
        });
        let clusters = self.comparison.clusters.iter().map(|c| {
            let (base, adapter) = values(&c.values);
            json!({"cluster": c.cluster, "tasks": c.tasks, "rows": c.rows, "base": base, "adapter": adapter})
        });
        json!({
            "base": one(&self.base),
            "adapter": one(&self.adapter),
            "rows": self.base.rows,
            "compared": self.comparison.metrics,
            "tasks": tasks.collect::<Vec<_>>(),
            "clusters": clusters.collect::<Vec<_>>(),
        })
    }
}

/// The metric as it is written in JSON.
fn key(metric: Metric) -> String {
    json!(metric).as_str().unwrap_or_default().to_string()
}

impl From<&Measure> for card::CardResult {
    fn from(m: &Measure) -> card::CardResult {
        card::CardResult { loss: m.loss, perplexity: m.perplexity, exact_match: m.exact_match, rouge_l: m.rouge_l }
    }
}
