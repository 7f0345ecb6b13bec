//! The one loop behind every answer: texts join while there is room, prompts are read in pieces, every text past its prompt gets
//! a token a turn, and what has ended leaves at once.
//!
//! Texts of one turn may be under different adapters. What a text gets is a function of its own request alone, to the
//! bit: not of its company, nor of how its prompt was cut, nor of what was kept of earlier ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::kernels::attention::cached::BLOCK_TOKENS;
use crate::machine;
use crate::model::{BlockTable, Chunk, KvCache, Model, OwnChunk, PagedKv, Phase, PreparedAdapter, Recompute, Workspace};

/// Tokens of prompts that are read in one turn at most: enough to pay for reading the weights.
const PROMPT_TOKENS: usize = 512;

/// A prompt and how it is to be answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the answer is asked for by; no two that are worked on have the same.
    pub id: u64,
    pub adapter: Arc<PreparedAdapter>,
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// Names the stream of random numbers, beside the sampling's seed.
    pub stream: u64,
    pub limits: Limits,
    /// Whether the tokens come with their log-probabilities.
    pub logps: bool,
}

/// What a turn brought to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    pub request: u64,
    /// The token that was added; none where a stop token ended the answer.
    pub token: Option<u32>,
    /// Its log-probability in nats, by the model's own logits, where it was asked for.
    pub logp: Option<f32>,
    /// The answer is complete; [`Scheduler::finish`] hands it out.
    pub ended: bool,
}

/// A text that is worked on.
#[derive(Debug)]
struct Text {
    request: Request,
    /// Prompt and answer so far.
    ids: Vec<u32>,
    held: Held,
    ended: bool,
}

/// Where a text's keys and values are.
#[derive(Debug)]
enum Held {
    Paged(BlockTable),
    /// On a device that has no kernels over blocks.
    Own(KvCache),
}

impl Text {
    fn answer(&self) -> &[u32] {
        &self.ids[self.request.prompt.len()..]
    }

    /// Tokens whose keys and values are held.
    fn held(&self) -> usize {
        match &self.held {
            Held::Paged(table) => table.len(),
            Held::Own(cache) => cache.len(),
        }
    }

    /// Tokens that it may come to hold.
    fn most(&self, model: &Model) -> usize {
        most_tokens(&self.request, model)
    }
}

/// The last token of an answer is never read.
fn most_tokens(request: &Request, model: &Model) -> usize {
    let wanted = request.prompt.len().saturating_add(request.limits.max_new_tokens).saturating_sub(1);
    wanted.min(model.config.max_positions)
}

/// Texts under one model, their keys and values, and those that wait.
#[derive(Debug)]
pub struct Scheduler<'a> {
    model: &'a Model,
    kv: PagedKv,
    /// Tokens that all texts together may hold.
    tokens: usize,
    rows: usize,
    running: Vec<Text>,
    waiting: VecDeque<Request>,
    complete: Vec<Text>,
    /// Tokens of prompts that are read in one turn at most.
    prompt_tokens: usize,
    /// Buffers of prompts, and of decoding.
    scratches: [Workspace; 2],
}

impl<'a> Scheduler<'a> {
    /// At most `rows` texts at once, which together hold at most `tokens` (memory is taken as it is used).
    pub fn new(model: &'a Model, rows: usize, tokens: usize) -> Scheduler<'a> {
        let scratches = [Workspace::new(Recompute::Never), Workspace::new(Recompute::Never)];
        let kv = PagedKv::new(&model.config, tokens);
        let (running, waiting, complete) = (Vec::new(), VecDeque::new(), Vec::new());
        let (rows, prompt_tokens) = (rows.max(1), PROMPT_TOKENS);
        Scheduler { model, kv, tokens, rows, running, waiting, complete, prompt_tokens, scratches }
    }

    /// Reads at most `tokens` of prompts in one turn: fewer let texts that are being answered wait less, and cost more.
    pub fn with_prompt_tokens(self, tokens: usize) -> Scheduler<'a> {
        Scheduler { prompt_tokens: tokens.max(1), ..self }
    }

    /// Tokens for `rows` texts of at most `longest`, as far as half of the memory that is free now goes.
    pub fn tokens_for(model: &Model, rows: usize, longest: usize) -> usize {
        let longest = PagedKv::blocks(longest.min(model.config.max_positions));
        let free = machine::memory().map_or(usize::MAX, |m| usize::try_from(m.available / 2).unwrap_or(usize::MAX));
        let blocks = (free / PagedKv::block_bytes(&model.config)).max(longest);
        blocks.min(longest.saturating_mul(rows.max(1))) * BLOCK_TOKENS
    }

    /// Puts a request behind those that wait.
    ///
    /// # Errors
    /// [`Error::Usage`] where the prompt is empty or longer than the model or the room takes, or sampling is impossible.
    pub fn submit(&mut self, request: Request) -> Result<()> {
        request.sampling.check()?;
        let (n, most) = (request.prompt.len(), self.model.config.max_positions.min(self.tokens));
        match n {
            0 => return Err(Error::usage("prompt", "it has no tokens, so nothing can follow", "give it some text")),
            n if n > most => {
                return Err(Error::usage(
                    "prompt",
                    format!("it has {n} tokens, there is room for {most}"),
                    "shorten the text, begin a new conversation, or allow a longer context if the model takes one",
                ));
            }
            _ => {}
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Whether nothing is worked on and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Tokens of `prompt` that would not be computed again.
    ///
    /// # Errors
    /// When the adapter cannot be read.
    pub fn reusable(&self, adapter: &PreparedAdapter, prompt: &[u32]) -> Result<usize> {
        Ok(self.kv.reusable(&adapter.content()?, prompt))
    }

    /// The answer so far; empty where it has not begun.
    pub fn answer(&self, request: u64) -> &[u32] {
        let mut texts = self.running.iter().chain(&self.complete);
        texts.find(|text| text.request.id == request).map_or(&[], Text::answer)
    }

    /// Ends a request wherever it is and hands out its answer so far.
    pub fn finish(&mut self, request: u64) -> Vec<u32> {
        self.waiting.retain(|waiting| waiting.id != request);
        if let Some(at) = self.running.iter().position(|text| text.request.id == request) {
            self.leave(at);
        }
        let at = self.complete.iter().position(|text| text.request.id == request);
        at.map_or_else(Vec::new, |at| {
            let mut text = self.complete.swap_remove(at);
            text.ids.split_off(text.request.prompt.len())
        })
    }

    /// One turn: texts join, a piece of the prompts is read, and every text past its prompt gets a token.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the model's output is not a number, and whatever is wrong with a prompt's tokens.
    pub fn turn(&mut self) -> Result<Vec<Turn>> {
        self.join()?;
        let mut turns = Vec::new();
        // Decoding first, so that a text does not get two tokens in the turn in which its prompt ends.
        let decoding: Vec<usize> = self.places(|text| text.held() + 1 == text.ids.len() && !text.answer().is_empty());
        let logits = self.run(Phase::Decode, &decoding.iter().map(|at| (*at, 1)).collect::<Vec<_>>())?;
        self.choose(&decoding, logits, &mut turns)?;
        let pieces = self.pieces();
        let logits = self.run(Phase::Blocked, &pieces)?;
        let whole: Vec<usize> = pieces
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| self.running[*at].held() == self.running[*at].request.prompt.len())
            .collect();
        for at in &whole {
            let Text { request, held: Held::Paged(table), .. } = &mut self.running[*at] else { continue };
            self.kv.publish(&request.adapter.content()?, &request.prompt, table);
        }
        self.choose(&whole, logits, &mut turns)?;
        for at in (0..self.running.len()).rev() {
            if self.running[at].ended {
                self.leave(at);
            }
        }
        Ok(turns)
    }

    /// Texts, those of one adapter side by side.
    fn places(&self, which: impl Fn(&Text) -> bool) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.running.len()).filter(|at| which(&self.running[*at])).collect();
        places.sort_by_key(|at| Arc::as_ptr(&self.running[*at].request.adapter));
        places
    }

    /// The next tokens of prompts that are not read yet, by text.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let (mut left, mut pieces) = (self.prompt_tokens, Vec::new());
        for at in self.places(|text| text.held() < text.request.prompt.len()) {
            let text = &self.running[at];
            let tokens = left.min(text.request.prompt.len() - text.held());
            if tokens > 0 {
                pieces.push((at, tokens));
                left -= tokens;
            }
        }
        pieces
    }

    /// Lets texts join for whom there is a row and, up to their longest answer, room.
    fn join(&mut self) -> Result<()> {
        while self.running.len() < self.rows {
            let Some(request) = self.waiting.front() else { break };
            let promised: usize =
                self.running.iter().map(|t| PagedKv::blocks(t.most(self.model)) - PagedKv::blocks(t.held())).sum();
            let wanted = PagedKv::blocks(most_tokens(request, self.model).min(self.tokens));
            if !self.running.is_empty() && promised + wanted > self.kv.available() {
                break;
            }
            let Some(request) = self.waiting.pop_front() else { break };
            let held = if self.model.in_kernels() {
                Held::Paged(self.kv.begin(&request.adapter.content()?, &request.prompt))
            } else {
                Held::Own(self.model.own_cache(most_tokens(&request, self.model))?)
            };
            self.running.push(Text { ids: request.prompt.clone(), request, held, ended: false });
        }
        Ok(())
    }

    /// Takes a text out of those that run.
    fn leave(&mut self, at: usize) {
        let mut text = self.running.remove(at);
        if let Held::Paged(table) = &mut text.held {
            self.kv.release(std::mem::take(table));
        }
        self.complete.push(text);
    }

    /// Runs the next tokens of some texts; the logits of those whose last token was among them, one after another.
    fn run(&mut self, phase: Phase, pieces: &[(usize, usize)]) -> Result<Vec<f32>> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut texts: Vec<Option<&mut Text>> = self.running.iter_mut().map(Some).collect();
        let mut chosen: Vec<(&mut Text, usize)> =
            pieces.iter().filter_map(|(at, tokens)| Some((texts[*at].take()?, *tokens))).collect();
        if !self.model.in_kernels() {
            return run_apart(self.model, &mut chosen);
        }
        let mut chunks: Vec<Chunk> = (chosen.iter_mut())
            .filter_map(|(text, tokens)| {
                let Text { request, ids, held: Held::Paged(table), .. } = &mut **text else { return None };
                let new = table.len()..table.len() + *tokens;
                let logits = new.end == ids.len();
                Some(Chunk { table, ids: &ids[new], adapter: &request.adapter, logits })
            })
            .collect();
        let scratch = &mut self.scratches[usize::from(phase == Phase::Decode)];
        self.model.extend(scratch, &mut self.kv, phase, &mut chunks)
    }

    /// Chooses a token for each of the texts `at`, whose logits are one after another.
    fn choose(&mut self, at: &[usize], mut logits: Vec<f32>, turns: &mut Vec<Turn>) -> Result<()> {
        for (at, logits) in at.iter().zip(logits.chunks_exact_mut(self.model.config.vocab)) {
            let text = &mut self.running[*at];
            let request = &text.request;
            let normaliser = request.logps.then(|| logsumexp(logits));
            let own = request.logps.then(|| logits.to_vec());
            let id = request.sampling.choose(logits, &text.ids, request.stream)?;
            let logp = own.zip(normaliser).map(|(own, all)| (f64::from(own[id as usize]) - all) as f32);
            let stop = request.limits.stop.contains(&id);
            if !stop {
                text.ids.push(id);
            }
            let most = self.model.config.max_positions.min(self.tokens);
            text.ended = stop || text.answer().len() >= text.request.limits.max_new_tokens || text.ids.len() > most;
            turns.push(Turn { request: text.request.id, token: (!stop).then_some(id), logp, ended: text.ended });
        }
        Ok(())
    }
}

/// `ln Σ exp` of the logits.
fn logsumexp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

/// On a device that has no kernels over blocks.
fn run_apart(model: &Model, texts: &mut [(&mut Text, usize)]) -> Result<Vec<f32>> {
    let mut chunks: Vec<OwnChunk> = (texts.iter_mut())
        .filter_map(|(text, tokens)| {
            let Text { request, ids, held: Held::Own(cache), .. } = &mut **text else { return None };
            let new = cache.len()..cache.len() + *tokens;
            let logits = new.end == ids.len();
            Some(OwnChunk { cache, ids: &ids[new], adapter: &request.adapter, logits })
        })
        .collect();
    model.extend_in_tensors(&mut chunks)
}
