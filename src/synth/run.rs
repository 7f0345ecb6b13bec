//! The loop: rounds of requests, what came of them, until there are enough rows.
//!
//! Refuses to know how requests are worded, answered, taken apart and stored.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::filter::{self, RejectReason};
use super::generator::{Generator, GoOn};
use super::parse;
use super::pool::{InstructionPool, Similar};
use super::prompts::{self, Choice, Request};
use super::seeds::{Instance, SeedTask, Seeds};
use super::settings::{Goal, SynthesisSettings, Variant};
use super::store::{KeptReply, Key, Stage, Store};
use crate::error::{Error, Result};
use crate::random;

/// Tasks of people and of the model in a prompt for instructions.
const PEOPLE: usize = 6;
const MODEL: usize = 2;
/// Tasks in a prompt for whole tasks.
const TASKS: usize = 3;
/// Examples of each kind in a prompt for classification, and examples in one for instances.
const KIND: usize = 4;
const EXAMPLES: usize = 4;
/// Tokens for a yes or no.
const YES: usize = 8;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The rows are there.
    Complete,
    /// Too many rounds brought nothing.
    Barren,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynthesisProgress {
    pub round: u64,
    pub rows: usize,
    pub instructions: usize,
    pub candidates: usize,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SynthesisSummary {
    pub ended: Ended,
    pub rounds: u64,
    /// Replies asked for, in this run and those before it.
    pub replies: usize,
    /// Instructions (whole tasks) that were written, and those that were kept.
    pub instructions: usize,
    pub instructions_kept: usize,
    /// Of the kept ones, those that are classification.
    pub classification: usize,
    /// Instances that were written, and those that were kept: rows.
    pub instances: usize,
    pub rows: usize,
    /// Candidates by why they were not kept.
    pub rejected: BTreeMap<RejectReason, usize>,
}

/// What the rows are a function of, beside the replies: for [`Store::open`].
pub(super) fn plan(settings: &SynthesisSettings, seeds: &Seeds, generator: &dyn Generator) -> Value {
    json!({"format": 1, "seeds_sha256": seeds.sha256, "generator": generator.identity(), "settings": settings})
}

/// Makes rows into the folder `dir` until the goal is reached, going on from what is there. `go_on` is asked often, and its error
/// ends the work; `tell` hears about every reply.
///
/// # Errors
/// [`Error::Usage`] when the seeds are too few or of one kind, and as [`Store::open`]; those of the generator, of `go_on`, and of
/// writing.
pub fn run(
    dir: &std::path::Path,
    settings: &SynthesisSettings,
    goal: Goal,
    seeds: &Seeds,
    generator: &mut dyn Generator,
    go_on: GoOn,
    tell: &mut dyn FnMut(&SynthesisProgress),
) -> Result<SynthesisSummary> {
    enough(settings.variant, seeds)?;
    let mut store = Store::open(dir, &plan(settings, seeds, generator))?;
    let mut pool = InstructionPool::new(settings.threshold);
    seeds.tasks.iter().for_each(|task| pool.push(&task.id, &task.instruction));
    let summary = SynthesisSummary {
        ended: Ended::Complete,
        rounds: 0,
        replies: 0,
        instructions: 0,
        instructions_kept: 0,
        classification: 0,
        instances: 0,
        rows: 0,
        rejected: BTreeMap::new(),
    };
    let written = Vec::new();
    let mut run = SynthesisRun { settings, goal, seeds, generator, go_on, tell, store: &mut store, pool, written, summary };
    let ended = run.rounds()?;
    run.store.commit()?;
    let replies = run.store.len();
    Ok(SynthesisSummary { ended, replies, ..run.summary })
}

/// Refuses seeds from which no prompt can be made.
fn enough(variant: Variant, seeds: &Seeds) -> Result<()> {
    let fail = |why: String, help: &str| Err(Error::usage("--seeds", why, help));
    let (all, labels) = (seeds.tasks.len(), seeds.of_kind(true).len());
    match variant {
        Variant::Alpaca if all < TASKS => fail(format!("{all} seed tasks, a prompt shows {TASKS}"), "write more of them"),
        Variant::SelfInstruct if all < PEOPLE + MODEL => {
            fail(format!("{all} seed tasks, a prompt shows {}", PEOPLE + MODEL), "write more of them; 175 are usual")
        }
        Variant::SelfInstruct if labels == 0 || labels == all => fail(
            format!("{labels} of {all} seed tasks have `is_classification`: the model is shown tasks of both kinds"),
            "write some of the other kind",
        ),
        _ => Ok(()),
    }
}

struct SynthesisRun<'a> {
    settings: &'a SynthesisSettings,
    goal: Goal,
    seeds: &'a Seeds,
    generator: &'a mut dyn Generator,
    go_on: GoOn<'a>,
    tell: &'a mut dyn FnMut(&SynthesisProgress),
    store: &'a mut Store,
    pool: InstructionPool,
    /// Instructions of the model that were kept: id and text.
    written: Vec<(String, String)>,
    summary: SynthesisSummary,
}

/// An instruction that was kept.
struct KeptInstruction {
    id: String,
    text: String,
    classification: bool,
    provenance: Value,
}

/// A request.
struct ShownRequest {
    request: Request,
    /// Ids of the tasks that it shows.
    shown: Vec<String>,
}

impl SynthesisRun<'_> {
    fn rounds(&mut self) -> Result<Ended> {
        let mut barren = 0;
        while self.summary.rows < self.goal.rows {
            (self.go_on)()?;
            let before = self.summary.rows;
            match self.settings.variant {
                Variant::SelfInstruct => self.self_instruct()?,
                Variant::Alpaca => self.alpaca()?,
            }
            self.summary.rounds += 1;
            if self.store.is_live() {
                self.store.commit()?;
            }
            barren = if self.summary.rows > before { 0 } else { barren + 1 };
            if barren >= self.goal.patience {
                return Ok(Ended::Barren);
            }
        }
        Ok(Ended::Complete)
    }

    fn self_instruct(&mut self) -> Result<()> {
        let asked: Vec<ShownRequest> = (0..self.settings.per_round).map(|i| self.ask_for_instructions(i)).collect();
        let replies = self.replies(Stage::Instructions, &asked)?;
        let mut tasks = Vec::new();
        for (asked, kept) in asked.iter().zip(&replies) {
            let items = parse::instructions(&kept.reply.text, &asked.request.cue, kept.reply.whole);
            for (i, item) in items.into_iter().enumerate() {
                let (text, reason) = match item {
                    Ok(text) => (text, None),
                    Err((text, reason)) => (text, Some(reason)),
                };
                let provenance = provenance(kept, i, asked);
                tasks.extend(self.judge_instruction(text, reason, provenance, kept, i));
            }
        }
        self.find_kinds(&mut tasks)?;
        self.find_instances(&tasks)
    }

    /// Whole tasks at once.
    fn alpaca(&mut self) -> Result<()> {
        let asked: Vec<ShownRequest> = (0..self.settings.per_round).map(|i| self.ask_for_tasks(i)).collect();
        let replies = self.replies(Stage::Tasks, &asked)?;
        for (asked, kept) in asked.iter().zip(&replies) {
            let items = parse::tasks(&kept.reply.text, &asked.request.cue, kept.reply.whole);
            for (i, (text, item)) in items.into_iter().enumerate() {
                let (instance, reason) = match item {
                    Ok(instance) => (instance, None),
                    Err((instance, reason)) => (instance, Some(reason)),
                };
                let reason = reason.or_else(|| filter::instance(&text, &instance));
                let provenance = provenance(kept, i, asked);
                if let Some(task) = self.judge_instruction(text, reason, provenance, kept, i) {
                    self.judge_instance(&task, &instance, None, None, kept, 0);
                }
                if self.summary.rows >= self.goal.rows {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn seed(&self, stage: Stage, request: usize) -> u64 {
        random::number(self.settings.seed, stage.purpose(), &[self.summary.rounds, request as u64])
    }

    /// `k` of `n` numbers.
    fn draw(&self, n: usize, k: usize, purpose: &str, request: usize) -> Vec<usize> {
        let mut order = random::order(n, self.settings.seed, purpose, &[self.summary.rounds, request as u64]);
        order.truncate(k);
        order
    }

    fn ask_for_instructions(&self, request: usize) -> ShownRequest {
        let of_model = self.draw(self.written.len(), MODEL, "synth-shown-model", request);
        let people = self.draw(self.seeds.tasks.len(), PEOPLE + MODEL - of_model.len(), "synth-shown", request);
        let of_model = of_model.into_iter().map(|i| self.written[i].clone());
        let of_people = people.into_iter().map(|i| (self.seeds.tasks[i].id.clone(), self.seeds.tasks[i].instruction.clone()));
        let all: Vec<(String, String)> = of_model.chain(of_people).collect();
        let order = self.draw(all.len(), all.len(), "synth-shown-order", request);
        let (ids, texts): (Vec<String>, Vec<String>) = order.into_iter().map(|i| all[i].clone()).unzip();
        let request = prompts::instructions(&texts, self.settings.tasks, self.seed(Stage::Instructions, request));
        ShownRequest { request, shown: ids }
    }

    fn ask_for_tasks(&self, request: usize) -> ShownRequest {
        let shown = self.draw(self.seeds.tasks.len(), TASKS, "synth-shown", request);
        let shown: Vec<&SeedTask> = shown.into_iter().map(|i| &self.seeds.tasks[i]).collect();
        let request = prompts::tasks(&shown, self.settings.tasks, self.seed(Stage::Tasks, request));
        ShownRequest { request, shown: ids(&shown) }
    }

    /// The instruction if it is kept. An incomplete reply that ends in nothing at all is no candidate.
    fn judge_instruction(
        &mut self,
        text: String,
        reason: Option<RejectReason>,
        provenance: Value,
        kept: &KeptReply,
        item: usize,
    ) -> Option<KeptInstruction> {
        if text.is_empty() && reason == Some(RejectReason::Truncated) {
            return None;
        }
        let reason = reason.or_else(|| filter::instruction(&text, self.settings.variant));
        let similar: Option<Similar> = if reason.is_none() { self.pool.similar(&text) } else { None };
        let reason = reason.or(similar.as_ref().map(|_| RejectReason::Similar));
        let id = format!("m{}.{}.{item}", kept.key.round, kept.key.request);
        self.summary.instructions += 1;
        let mut line = json!({"kind": "instruction", "id": id, "instruction": text, "accepted": reason.is_none()});
        if let Some(similar) = similar {
            line["similar_to"] = json!(similar);
        }
        self.say(line, reason, &provenance, kept, None);
        if reason.is_some() {
            return None;
        }
        self.summary.instructions_kept += 1;
        self.pool.push(&id, &text);
        self.written.push((id.clone(), text.clone()));
        Some(KeptInstruction { id, text, classification: false, provenance })
    }

    /// Asks which tasks are classification.
    fn find_kinds(&mut self, tasks: &mut [KeptInstruction]) -> Result<()> {
        let (labels, others) = (self.seeds.of_kind(true), self.seeds.of_kind(false));
        // The same examples for a whole round: a server may keep what it computed of them.
        let mut shown: Vec<usize> = self.draw(labels.len(), KIND, "synth-kind-yes", 0).into_iter().map(|i| labels[i]).collect();
        shown.extend(self.draw(others.len(), KIND, "synth-kind-no", 0).into_iter().map(|i| others[i]));
        let order = self.draw(shown.len(), shown.len(), "synth-kind-order", 0);
        let shown: Vec<&SeedTask> = order.into_iter().map(|i| &self.seeds.tasks[shown[i]]).collect();
        let choice = Choice { temperature: 0.0, top_p: 1.0, repetition_penalty: 1.0, max_new_tokens: YES };
        let ask = |(i, task): (usize, &KeptInstruction)| {
            let request = prompts::classification(&shown, &task.text, choice, self.seed(Stage::Classification, i));
            ShownRequest { request, shown: ids(&shown) }
        };
        let asked: Vec<ShownRequest> = tasks.iter().enumerate().map(ask).collect();
        let replies = self.replies(Stage::Classification, &asked)?;
        for ((task, kept), asked) in tasks.iter_mut().zip(&replies).zip(&asked) {
            task.classification = parse::yes(&kept.reply.text, &asked.request.cue);
            self.summary.classification += usize::from(task.classification);
        }
        Ok(())
    }

    fn find_instances(&mut self, tasks: &[KeptInstruction]) -> Result<()> {
        let most = self.settings.instances;
        let ask = |(i, task): (usize, &KeptInstruction)| {
            let kind = self.seeds.of_kind(task.classification);
            let shown = self.draw(kind.len(), EXAMPLES, "synth-examples", i);
            let shown: Vec<&SeedTask> = shown.into_iter().map(|i| &self.seeds.tasks[kind[i]]).collect();
            let seed = self.seed(Stage::Instances, i);
            let request = prompts::instances(&shown, &task.text, task.classification, most, self.settings.answers, seed);
            ShownRequest { request, shown: ids(&shown) }
        };
        let asked: Vec<ShownRequest> = tasks.iter().enumerate().map(ask).collect();
        let replies = self.replies(Stage::Instances, &asked)?;
        for ((task, kept), asked) in tasks.iter().zip(&replies).zip(&asked) {
            let mut items = parse::instances(&kept.reply.text, &asked.request.cue, kept.reply.whole);
            items.truncate(most);
            let judged = items.into_iter().map(|item| match item {
                Ok(instance) => (filter::instance(&task.text, &instance), instance),
                Err((instance, reason)) => (Some(reason), instance),
            });
            let judged: Vec<(Option<RejectReason>, Instance)> = judged.collect();
            let good: Vec<Instance> = judged.iter().filter(|(r, _)| r.is_none()).map(|(_, i)| i.clone()).collect();
            let mut among = filter::among(&good).into_iter();
            for (i, (reason, instance)) in judged.iter().enumerate() {
                let reason = reason.or_else(|| among.next().flatten());
                self.judge_instance(task, instance, reason, Some(provenance(kept, i, asked)), kept, i);
                if self.summary.rows >= self.goal.rows {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn judge_instance(
        &mut self,
        task: &KeptInstruction,
        instance: &Instance,
        reason: Option<RejectReason>,
        provenance: Option<Value>,
        kept: &KeptReply,
        item: usize,
    ) {
        let id = format!("{}.{item}", task.id);
        let (variant, generator) = (self.settings.variant, self.generator.identity());
        let whole = json!({"variant": variant, "generator": generator, "seed": self.settings.seed,
            "instruction": task.provenance, "instance": provenance});
        let row = json!({"id": id, "instruction": task.text, "input": instance.input, "output": instance.output,
            "is_classification": task.classification, "provenance": whole});
        self.summary.instances += 1;
        self.summary.rows += usize::from(reason.is_none());
        let line = json!({"kind": "instance", "id": id, "instruction": task.text, "input": instance.input,
            "output": instance.output, "accepted": reason.is_none()});
        self.say(line, reason, &provenance.unwrap_or(Value::Null), kept, reason.is_none().then_some(&row));
    }

    /// A candidate's line, with what became of it and where it comes from.
    fn say(&mut self, mut line: Value, reason: Option<RejectReason>, provenance: &Value, kept: &KeptReply, row: Option<&Value>) {
        if let Some(reason) = reason {
            *self.summary.rejected.entry(reason).or_default() += 1;
            line["reason"] = json!(reason);
        }
        if !provenance.is_null() {
            line["provenance"] = provenance.clone();
        }
        line["generator"] = json!(self.generator.identity().model);
        line["time"] = json!(kept.time);
        self.store.say(&line, row);
    }

    /// The replies to the requests of a stage: those that are kept, and new ones.
    fn replies(&mut self, stage: Stage, asked: &[ShownRequest]) -> Result<Vec<KeptReply>> {
        let key = |request: usize| Key { round: self.summary.rounds, stage, request };
        let mut open = Vec::new();
        for (i, asked) in asked.iter().enumerate() {
            if self.store.get(key(i), &asked.request)?.is_none() {
                open.push(i);
            }
        }
        if !open.is_empty() {
            self.store.commit()?;
            if self.generator.in_company() {
                open = (0..asked.len()).collect();
            }
            let requests: Vec<Request> = open.iter().map(|i| asked[*i].request.clone()).collect();
            let summary = &self.summary;
            let progress = SynthesisProgress {
                round: summary.rounds,
                rows: summary.rows,
                instructions: summary.instructions_kept,
                candidates: summary.instructions + summary.instances,
            };
            let (store, tell) = (&mut *self.store, &mut *self.tell);
            self.generator.answer(&requests, self.go_on, &mut |i, reply| {
                store.keep(key(open[i]), &requests[i], reply)?;
                tell(&progress);
                Ok(())
            })?;
        }
        let found = asked.iter().enumerate().map(|(i, asked)| Ok(self.store.get(key(i), &asked.request)?.cloned()));
        let found: Vec<KeptReply> = found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        debug_assert_eq!(found.len(), asked.len());
        Ok(found)
    }
}

fn ids(tasks: &[&SeedTask]) -> Vec<String> {
    tasks.iter().map(|task| task.id.clone()).collect()
}

/// Where a part of a row comes from: which request, what it showed, how its answer was drawn.
fn provenance(kept: &KeptReply, item: usize, asked: &ShownRequest) -> Value {
    let ShownRequest { request, shown } = asked;
    json!({"round": kept.key.round, "stage": kept.key.stage, "request": kept.key.request, "item": item, "shown": shown,
        "seed": request.seed, "sampling": request.choice})
}
