//! Base beside adapter on the held-out rows, on each named set and on multiple-choice questions: measured, as text, and as JSON. After
//! training, or alone.

mod table;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::events::{JobEvent, Listener, tell};
use super::feasible::{NamedQuestions, NamedSet, questions_fit, rows_fit, rows_told};
use super::open::{self, OpenedBase};
use crate::adapter::Adapter;
use crate::artifact::{card, chat_template};
use crate::data::{self, Loaded, Renderer};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::eval::{self, Comparison, EvalRows, Label, Measure, Metric};
use crate::model::{Adapt, Model};
use crate::recipe::{ChoiceSet, EvalSet, Recipe};

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

/// The questions of the recipe's `eval.choices`.
///
/// # Errors
/// Whatever is wrong with their files, or when the model does not take one.
pub(super) fn questions(recipe: &Recipe, opened: &OpenedBase, renderer: &Renderer) -> Result<Vec<NamedQuestions>> {
    let load = |set: &ChoiceSet| {
        let questions = data::load_questions(set, renderer)?;
        questions_fit(&opened.model, &questions)?;
        Ok((set.name.clone(), questions))
    };
    recipe.eval.choices.iter().map(load).collect()
}

/// Who is judged beside the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contestant {
    /// Directory of an adapter, and the fields of its configuration that are passed over although nobody here knows what
    /// they change.
    Adapter(PathBuf, Vec<String>),
    /// A whole model of the same tokenizer (a merged one): a directory or a .gguf file.
    Model(PathBuf),
}

impl Contestant {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Contestant::Adapter(path, _) | Contestant::Model(path) => path,
        }
    }
}

/// What [`evaluate`] returns.
pub struct Evaluated {
    /// What was told of the files of each contestant.
    pub told: Vec<Vec<String>>,
    /// One for each contestant; of none, the base beside itself.
    pub evaluations: Vec<Evaluation>,
    pub opened: OpenedBase,
    pub loaded: Loaded,
}

impl Evaluated {
    /// Up to `n` prompts with both answers, of the contestant `which`.
    ///
    /// # Errors
    /// When a prompt cannot be decoded.
    pub fn samples(&self, which: usize, n: usize) -> Result<Vec<card::Sample>> {
        self.evaluations[which].samples(n, &self.opened, &self.loaded)
    }
}

/// Measures the base of `recipe` once, and each contestant, on the recipe's held-out rows, its sets and its questions.
///
/// # Errors
/// Whatever is wrong with the base, a contestant or the data; when the listener ends the job.
pub fn evaluate(recipe: &Recipe, contestants: &[Contestant], listener: &mut Listener<'_>) -> Result<Evaluated> {
    let opened = open::open(&recipe.base, listener)?;
    let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
    let judged = contestants.iter().map(|c| judged(c, recipe, &opened, &renderer, listener)).collect::<Result<Vec<_>>>()?;
    let loaded = super::rows(recipe, &renderer, listener)?.loaded;
    opened.covers(&loaded)?;
    let (sets, questions) = (sets(recipe, &opened, &renderer)?, questions(recipe, &opened, &renderer)?);
    if loaded.heldout.is_empty() && sets.is_empty() && questions.is_empty() {
        let why = "sets no row aside, and no other set is named: there is nothing to judge by";
        let help = "name held-out rows with `data.heldout`, or `[[eval.sets]]`, or `[[eval.choices]]`";
        return Err(recipe.complain("data.heldout_fraction", why, help));
    }
    rows_fit(recipe, &opened.model, &loaded, &sets)?;
    rows_told(&loaded, &sets, listener)?;
    let alone = |c: &Contestant| if contestants.len() > 1 { c.path().display().to_string() } else { "adapter".into() };
    let names: Vec<String> = contestants.iter().map(alone).collect();
    let all: Vec<Judged<'_>> = names.iter().zip(&judged).map(|(name, read)| read.judged(name, &opened)).collect();
    let rows = Rows { recipe, opened: &opened, renderer: &renderer, loaded: &loaded, sets: &sets, questions: &questions };
    let evaluations = rows.measure(&all, listener)?;
    let told = judged.iter().map(|read| read.told().to_vec()).collect();
    Ok(Evaluated { told, evaluations, opened, loaded })
}

/// A contestant that was read.
enum ReadContestant {
    Adapter(Box<Adapter>),
    Model(Box<Model>),
}

impl ReadContestant {
    fn told(&self) -> &[String] {
        match self {
            ReadContestant::Adapter(adapter) => &adapter.notes,
            ReadContestant::Model(model) => &model.config.notes,
        }
    }

    fn judged<'a>(&'a self, name: &'a str, opened: &'a OpenedBase) -> Judged<'a> {
        match self {
            ReadContestant::Adapter(adapter) => Judged { name, model: &opened.model, adapt: &**adapter },
            ReadContestant::Model(model) => Judged { name, model, adapt: &() },
        }
    }
}

fn judged(
    contestant: &Contestant,
    recipe: &Recipe,
    opened: &OpenedBase,
    renderer: &Renderer,
    listener: &mut Listener<'_>,
) -> Result<ReadContestant> {
    let (dir, ignored) = match contestant {
        Contestant::Adapter(dir, ignored) => (dir, ignored),
        Contestant::Model(path) => return whole_model(path, opened, &recipe.base.ignore_config, listener),
    };
    let kept = chat_template::kept(dir)?;
    if !kept.is_empty() && kept != *renderer.chat_templates() {
        let other =
            format!("the adapter in {} was trained in another chat template than the recipe's, which is used", dir.display());
        tell(listener, JobEvent::Remark(other))?;
    }
    Ok(ReadContestant::Adapter(Box::new(open::adapter(dir, ignored, opened, listener)?.frozen())))
}

/// A whole model; keys that are left out of account in the base are so in what was merged from it.
fn whole_model(path: &Path, opened: &OpenedBase, ignored: &[String], listener: &mut Listener<'_>) -> Result<ReadContestant> {
    let model = Model::open_ignoring(path, Compute::Auto, &opened.model.device, ignored)?;
    open::told_of(&model, path, listener)?;
    let (theirs, ours) = (model.config.vocab, opened.model.config.vocab);
    if theirs != ours {
        let why = format!("its vocabulary has {theirs} entries, that of the base {ours}: the same rows cannot be put to both");
        let help = "judge it by a recipe whose base it is: --set base.model=…";
        return Err(Error::usage(path.display().to_string(), why, help));
    }
    Ok(ReadContestant::Model(Box::new(model)))
}

/// A model, and what acts on it.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a> {
    /// What progress calls it.
    pub(super) name: &'a str,
    pub(super) model: &'a Model,
    pub(super) adapt: &'a dyn Adapt,
}

/// The rows to judge by.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) opened: &'a OpenedBase,
    pub(super) renderer: &'a Renderer,
    pub(super) loaded: &'a Loaded,
    pub(super) sets: &'a [NamedSet],
    pub(super) questions: &'a [NamedQuestions],
}

/// What hears how far a measure is.
type Progress<'a> = dyn FnMut(&str, usize, usize) -> Result<()> + 'a;
/// Measures one.
type MeasureOne<'a> = dyn Fn(Judged<'_>, &mut Progress<'_>) -> Result<Measure> + 'a;

impl Rows<'_> {
    /// Measures the base once, and each of `all`, on the held-out rows, the sets and the questions; without any, the base beside itself.
    ///
    /// # Errors
    /// As the model's forward pass, and when the listener ends the job.
    pub(super) fn measure(&self, all: &[Judged<'_>], listener: &mut Listener<'_>) -> Result<Vec<Evaluation>> {
        let heldout = self.on_rows(None, self.loaded, self.recipe.eval.limit, all, listener)?;
        let mut evaluations: Vec<Evaluation> =
            heldout.into_iter().map(|heldout| Evaluation { heldout, sets: Vec::new() }).collect();
        let mut put = |name: &str, judged: Vec<SideBySide>| {
            for (evaluation, judged) in evaluations.iter_mut().zip(judged) {
                evaluation.sets.push((name.to_string(), judged));
            }
        };
        for (set, loaded) in self.sets {
            put(&set.name, self.on_rows(Some(&set.name), loaded, set.limit, all, listener)?);
        }
        for (name, questions) in self.questions {
            let size = self.recipe.eval.batch_size;
            let measure =
                |j: Judged<'_>, progress: &mut Progress<'_>| eval::measure_choices(j.model, j.adapt, questions, size, progress);
            let labels = vec![Label::default(); questions.len()];
            put(name, self.side_by_side(Some(name), &labels, &measure, all, listener)?);
        }
        Ok(evaluations)
    }

    fn on_rows(
        &self,
        set: Option<&str>,
        loaded: &Loaded,
        limit: Option<usize>,
        all: &[Judged<'_>],
        listener: &mut Listener<'_>,
    ) -> Result<Vec<SideBySide>> {
        let stop = self.renderer.stop_ids();
        let rows = EvalRows {
            examples: &loaded.heldout,
            prompts: &loaded.heldout_prompts,
            tokenizer: &self.opened.tokenizer,
            stop: &stop,
            settings: &self.recipe.eval,
            limit,
        };
        let measure = |j: Judged<'_>, progress: &mut Progress<'_>| eval::measure(j.model, j.adapt, &rows, progress);
        let mut found = self.side_by_side(set, &rows.labels(), &measure, all, listener)?;
        let dropped = if set.is_none() { 0 } else { loaded.report.dropped.len() };
        found.iter_mut().for_each(|one| one.dropped = dropped);
        Ok(found)
    }

    /// The base and each of `all` as `measure` finds them; `labels` are those of what it judges by.
    fn side_by_side(
        &self,
        set: Option<&str>,
        labels: &[Label],
        measure: &MeasureOne<'_>,
        all: &[Judged<'_>],
        listener: &mut Listener<'_>,
    ) -> Result<Vec<SideBySide>> {
        let who = |name: &str| set.map_or_else(|| name.to_string(), |set| format!("{set}, {name}"));
        let base = Judged { name: "base", model: &self.opened.model, adapt: &() };
        let base = one(&who(base.name), base, measure, listener)?;
        let beside = |adapter: Measure| {
            let comparison = eval::compare(labels, &base.each, &adapter.each, self.recipe.train.seed);
            SideBySide { base: base.clone(), adapter, comparison, dropped: 0 }
        };
        if all.is_empty() {
            return Ok(vec![beside(base.clone())]);
        }
        all.iter().map(|judged| Ok(beside(one(&who(judged.name), *judged, measure, listener)?))).collect()
    }
}

/// One measure, told of as `who`.
fn one(who: &str, judged: Judged<'_>, measure: &MeasureOne<'_>, listener: &mut Listener<'_>) -> Result<Measure> {
    let mut progress = |what: &str, done, all| tell(listener, JobEvent::Evaluating { who, what, done, all });
    let measure = measure(judged, &mut progress)?;
    // All the answers are there: a stop is heard with the next of them.
    listener(JobEvent::EvaluationDone { who })?;
    Ok(measure)
}

impl Evaluation {
    /// Of the base alone, for people.
    pub fn base_table(&self) -> String {
        let sets = self.sets.iter().map(|(name, judged)| format!("\n{}", table::alone(Some(name), &judged.base)));
        table::alone(None, &self.heldout.base) + &sets.collect::<String>()
    }

    /// The tables, for people.
    pub fn table(&self) -> String {
        let sets = self.sets.iter().map(|(name, judged)| format!("\n{}", table::of(Some(name), judged)));
        table::of(None, &self.heldout) + &sets.collect::<String>()
    }

    /// `{"base": {...}, "adapter": {...}, "rows": n, "compared": [...], "tasks": [...], "clusters": [...], "sets": [...]}`,
    /// for programs; a set has its `name` and the same keys, one of questions `acc`, `acc_norm` and `acc_bytes` as well.
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
        let one = |m: &Measure| {
            let mut line =
                json!({"loss": m.loss, "perplexity": m.perplexity, "exact_match": m.exact_match, "rouge_l": m.rouge_l});
            for (metric, found) in Metric::CHOICE.into_iter().filter_map(|metric| Some((metric, metric.over(&m.each)?))) {
                line[key(metric)] = json!(found);
            }
            line
        };
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
