//! Base and adapter become one model, and what was lost by it. Refuses to know how the files are written.

use std::path::Path;

use super::events::{Deferred, JobEvent, Listener, tell};
use super::open::OpenedBase;
use super::{open, template};
use crate::adapter::inspect::RECIPE;
use crate::adapter::peft::WEIGHTS;
use crate::artifact::card::MergedCard;
use crate::artifact::merge::{self, Dtype, Merged};
use crate::data::{Message, Renderer};
use crate::device::Compute;
use crate::error::Result;
use crate::files;
use crate::generate::{Limits, Sampling, batch};
use crate::model::{Adapt, Model};
use crate::recipe::{Base, Recipe, TemplateKind};

/// What is merged, and where to.
#[derive(Debug, Clone, Copy)]
pub struct MergeJob<'a> {
    pub base: &'a Base,
    /// Directory of the adapter.
    pub adapter: &'a Path,
    /// Fields of its configuration that are passed over although nobody here knows what they change.
    pub ignored: &'a [String],
    /// Directory to write; must not exist.
    pub out: &'a Path,
    /// Element type of the merged weights.
    pub dtype: Dtype,
    /// Whether logits of the merged model are compared with those of base + adapter.
    pub verify: bool,
    /// The chat template of the merged model; without one, that which the adapter was trained with.
    pub template: Option<&'a TemplateKind>,
}

/// What merging lost.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MergeLoss {
    /// Largest difference of a logit against base + adapter.
    pub largest_logit_difference: f32,
    /// Share of positions whose best token is the same, 0 to 1.
    pub argmax_agreement: f64,
    /// Questions that both answered, greedily.
    pub answers: usize,
    /// Answers that are the same to the letter.
    pub same_answers: usize,
    /// The first of the others.
    pub differing: Vec<DifferingAnswer>,
}

/// A question that the merged model answers otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DifferingAnswer {
    pub prompt: String,
    pub adapter: String,
    pub merged: String,
}

/// Questions that are put to both.
const QUESTIONS: usize = 16;
/// Longest answer that is compared, in tokens.
const ANSWER: usize = 48;
/// Differing answers that are shown.
const SHOWN: usize = 3;
/// What is asked where the rows that the adapter was trained for are not on this machine.
const GENERAL: [&str; 4] = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "My order has not arrived yet. What can I do?",
    "Explain what a list is in one sentence.",
];

/// Merges an adapter into its base; what was lost, where the job asks for it.
///
/// # Errors
/// Whatever is wrong with the base or the adapter, or when the output exists; when the listener ends the job.
pub fn merge(job: &MergeJob, listener: &mut Listener<'_>) -> Result<Option<MergeLoss>> {
    let opened = open(job.base, listener)?;
    let adapter = open::adapter(job.adapter, job.ignored, &opened, listener)?.frozen();
    let recipe = template::recipe_for(job.adapter)?;
    let spoken = template::chosen(("the adapter", job.adapter), recipe.as_ref(), &opened.tokenizer, job.template, listener)?;
    let changed = Some(&spoken).filter(|spoken| spoken.chat_templates() != opened.tokenizer.chat_templates());
    {
        let told: Vec<String> = opened.model.config.notes.iter().chain(&adapter.notes).cloned().collect();
        let card = card(job, &opened, &told)?;
        let told = Deferred::new(listener);
        let (base, card) = (opened.resolved.path.as_path(), Some(card.as_str()));
        let merged = Merged { model: &opened.model, adapter: &adapter, base, dtype: job.dtype, spoken: changed, card };
        merge::write(&merged, job.out, &mut |done, all| told.tell(JobEvent::Merging { done, all }))?;
        told.finish()?;
    }
    tell(listener, JobEvent::Merged)?;
    if !job.verify {
        return Ok(None);
    }
    let merged = Model::open_ignoring(job.out, Compute::F32, &opened.model.device, &job.base.ignore_config)?;
    let (largest_logit_difference, argmax_agreement) = logits(&opened.model, &adapter, &merged)?;
    let asked = questions(job.adapter, &opened, &spoken, listener)?;
    let mut lost =
        MergeLoss { largest_logit_difference, argmax_agreement, answers: asked.len(), same_answers: 0, differing: Vec::new() };
    let limits = Limits { min_new_tokens: 0, max_new_tokens: ANSWER, stop: spoken.stop_ids() };
    let mut answers = |who: &str, model: &Model, adapt: &dyn Adapt| {
        let all = asked.len();
        let mut told = |done| tell(listener, JobEvent::Evaluating { who, what: "answers", done, all });
        batch(model, adapt, &asked, &Sampling::GREEDY, &limits, QUESTIONS, &mut told)
    };
    let (by_adapter, by_merged) = (answers("adapter", &opened.model, &adapter)?, answers("merged", &merged, &())?);
    for (prompt, (adapter, merged)) in asked.iter().zip(by_adapter.iter().zip(&by_merged)) {
        if adapter == merged {
            lost.same_answers += 1;
        } else if lost.differing.len() < SHOWN {
            let text = |ids: &[u32]| opened.tokenizer.decode(ids, true);
            lost.differing.push(DifferingAnswer { prompt: text(prompt)?, adapter: text(adapter)?, merged: text(merged)? });
        }
    }
    Ok(Some(lost))
}

/// The merged model's `README.md`.
fn card(job: &MergeJob, opened: &OpenedBase, told: &[String]) -> Result<String> {
    let name = |path: &Path| path.file_name().map_or_else(|| "merged".to_string(), |name| name.to_string_lossy().into_owned());
    let file = name(&opened.resolved.path);
    let id = opened.resolved.id.as_deref();
    Ok(MergedCard {
        name: &name(job.out),
        base: id.unwrap_or(&file),
        hub: id.is_some(),
        adapter_sha256: &files::sha256_file(&job.adapter.join(WEIGHTS))?,
        dtype: job.dtype.names().1,
        told,
    }
    .text())
}

/// Prompts of the rows that the adapter is judged by, where they are on this machine; else general questions.
fn questions(dir: &Path, opened: &OpenedBase, spoken: &Renderer, listener: &mut Listener<'_>) -> Result<Vec<Vec<u32>>> {
    let path = dir.join(RECIPE);
    if path.is_file()
        && let Ok(recipe) = Recipe::load(&path, &[])
    {
        let renderer = Renderer::new(opened.tokenizer.clone(), &recipe.template)?;
        let prompts = super::rows(&recipe, &renderer, listener)?.loaded.heldout_prompts;
        let spread = (0..prompts.len().min(QUESTIONS)).map(|i| i * prompts.len() / prompts.len().min(QUESTIONS));
        let ids: Vec<Vec<u32>> =
            spread.map(|i| prompts.get(i).ids).filter(|ids| ids.len() + ANSWER <= opened.model.config.max_positions).collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    let ask = |text: &&str| spoken.chat(&[Message::new("user", *text)], true).or_else(|_| opened.tokenizer.encode(text));
    let all: Vec<Vec<u32>> = GENERAL.iter().map(ask).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|ids| !ids.is_empty() && ids.len() + ANSWER <= opened.model.config.max_positions).collect())
}

/// Largest difference of a logit, and share of positions with the same best token, over a fixed sweep through the vocabulary.
fn logits(model: &Model, adapter: &dyn Adapt, merged: &Model) -> Result<(f32, f64)> {
    let vocab = model.config.vocab as u64;
    let rows: Vec<Vec<u32>> =
        (0..4u64).map(|r| (0..32u64).map(|i| (crate::random::indexed(r, i) % vocab) as u32).collect()).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let (want, got) = (model.text_logits(adapter, &rows)?.concat(), merged.text_logits(&(), &rows)?.concat());
    let largest = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
    let pairs = want.chunks_exact(vocab as usize).zip(got.chunks_exact(vocab as usize));
    let same = pairs.filter(|(a, b)| best(a) == best(b)).count();
    Ok((largest, same as f64 / (want.len() / vocab as usize) as f64))
}
