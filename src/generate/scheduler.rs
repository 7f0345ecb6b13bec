//! The one loop behind every answer: texts join while there is room, prompts are read in pieces, every text past its prompt gets
//! a token a turn, and what has ended leaves at once.
//!
//! Texts of one turn may be under different adapters. What a text gets is a function of its own request alone, to the
//! bit: not of its company, nor of how its prompt was cut, nor of what was kept of earlier ones.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::request::{Ended, Request, Turn};
use super::text::{Held, Text, most_tokens};
use crate::error::{Error, Result};
use crate::kernels::attention::cached::BLOCK_TOKENS;
use crate::machine;
use crate::model::{AnswerChunk, Chunk, Model, OwnChunk, PagedKv, Phase, PreparedAdapter, Recompute, Workspace};

/// Tokens of prompts that are read in one turn at most: enough to pay for reading the weights.
const PROMPT_TOKENS: usize = 512;
/// The same of a prompt whose every token is scored: each makes the logits of the whole vocabulary.
const SCORED_TOKENS: usize = 64;

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
    pub fn with_prompt_tokens(mut self, tokens: usize) -> Scheduler<'a> {
        self.set_prompt_tokens(tokens);
        self
    }

    /// As [`Scheduler::with_prompt_tokens`], from the next turn on.
    pub fn set_prompt_tokens(&mut self, tokens: usize) {
        self.prompt_tokens = tokens.max(1);
    }

    /// Tokens for `rows` texts of at most `longest`, as far as half of the memory that is free now goes.
    pub fn tokens_for(model: &Model, rows: usize, longest: usize) -> usize {
        let longest = PagedKv::blocks(longest.min(model.config.max_positions));
        let free = machine::memory().map_or(usize::MAX, |m| usize::try_from(m.available / 2).unwrap_or(usize::MAX));
        let free = free.saturating_sub(rows.saturating_mul(PagedKv::state_bytes(&model.config)));
        let blocks = (free / PagedKv::block_bytes(&model.config).max(1)).max(longest);
        blocks.min(longest.saturating_mul(rows.max(1))) * BLOCK_TOKENS
    }

    /// Tokens that a text has at most.
    pub fn longest(&self) -> usize {
        self.model.config.max_positions.min(self.tokens)
    }

    /// Puts a request behind those that wait: who comes first joins first, and nobody is overtaken.
    ///
    /// # Errors
    /// [`Error::Usage`] where the prompt is empty, longer than the model or the room takes, or not of its vocabulary, or sampling is
    /// impossible.
    pub fn submit(&mut self, request: Request) -> Result<()> {
        request.check(self.model, self.longest())?;
        self.waiting.push_back(request);
        Ok(())
    }

    /// Texts that are worked on, and that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Tokens of keys and values that texts hold now, and could hold at most, in whole blocks.
    pub fn room(&self) -> (usize, usize) {
        self.kv.room()
    }

    /// Tokens of the prompt of a text that were there already when it joined; none before.
    pub fn reused(&self, request: u64) -> Option<usize> {
        self.running.iter().chain(&self.complete).find(|text| text.request.id == request).map(|text| text.reused)
    }

    /// Tokens of prompts of texts that are worked on, which are not read yet.
    pub fn unread(&self) -> usize {
        self.running.iter().map(Text::unread).sum()
    }

    /// Takes all that wait out, the longest waiting first.
    pub fn take_waiting(&mut self) -> Vec<Request> {
        self.waiting.drain(..).collect()
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

    /// One turn: texts join, a piece of the prompts is read, and every text past its prompt gets a token. What is wrong with one
    /// text ends that one ([`Ended::Failed`]).
    ///
    /// # Errors
    /// When a pass fails, which is no text's own fault.
    pub fn turn(&mut self) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        self.join()?;
        // Decoding first, so that a text does not get two tokens in the turn in which its prompt ends.
        let decoding = (0..self.running.len()).filter(|at| self.running[*at].decodes()).map(|at| (at, 1));
        let decoding = self.side_by_side(decoding.collect());
        let logits = self.run(Phase::Decode, &decoding)?;
        self.hand_out(&decoding, logits, &mut turns);
        let pieces = self.pieces();
        let logits = self.run(Phase::Blocked, &pieces)?;
        for (at, _) in &pieces {
            let text = &mut self.running[*at];
            let whole = text.unread() == 0;
            let Text { request, held: Held::Paged(table), .. } = text else { continue };
            if whole {
                self.kv.publish(&request.shared_under()?, &request.prompt, table);
            }
        }
        self.hand_out(&pieces, logits, &mut turns);
        for at in (0..self.running.len()).rev() {
            if self.running[at].ended {
                self.leave(at);
            }
        }
        Ok(turns)
    }

    /// Pieces of texts (place, tokens), those of one adapter beside each other.
    fn side_by_side(&self, mut pieces: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
        pieces.sort_by_key(|(at, _)| Arc::as_ptr(&self.running[*at].request.adapter));
        pieces
    }

    /// The next tokens of prompts that are not read yet, by text: an equal share each, at least a block, and what is left to those
    /// who came first.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let most = |text: &Text| text.request.logps.prompt.map_or(usize::MAX, |_| SCORED_TOKENS);
        let unread = self.running.iter().map(|text| text.unread().min(most(text))).enumerate();
        let unread: Vec<(usize, usize)> = unread.filter(|(_, tokens)| *tokens > 0).collect();
        let share = (self.prompt_tokens / unread.len().max(1)).max(BLOCK_TOKENS);
        let (mut left, mut given) = (self.prompt_tokens, vec![0; self.running.len()]);
        for most in [share, usize::MAX] {
            for (at, tokens) in &unread {
                let more = (tokens - given[*at]).min(most).min(left);
                given[*at] += more;
                left -= more;
            }
        }
        self.side_by_side(given.into_iter().enumerate().filter(|(_, tokens)| *tokens > 0).collect())
    }

    /// Lets texts join for whom there is a row and, up to their longest answer, room.
    fn join(&mut self) -> Result<()> {
        while self.running.len() < self.rows {
            let Some(request) = self.waiting.front() else { break };
            let promised: usize = self.running.iter().map(|text| text.promised(self.model)).sum();
            let wanted = PagedKv::blocks(most_tokens(request, self.model).min(self.tokens));
            if !self.running.is_empty() && promised + wanted > self.kv.available() {
                break;
            }
            let Some(mut request) = self.waiting.pop_front() else { break };
            let held = if let Some(start) = self.model.answers_begin_with() {
                let prompt = std::mem::replace(&mut request.prompt, vec![start]);
                Held::Read(self.model.read_prompt(&mut self.scratches[0], &request.adapter, &prompt)?)
            } else if self.model.in_kernels() {
                // Every token of a prompt that is scored goes through.
                let known: &[u32] = if request.logps.prompt.is_some() { &[] } else { &request.prompt };
                Held::Paged(self.kv.begin(&request.shared_under()?, known))
            } else {
                Held::Own(self.model.own_cache(most_tokens(&request, self.model))?)
            };
            self.running.push(Text::new(request, held));
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

    /// Runs the next tokens of some texts; the logits that these want ([`Text::logits`]), one after another.
    fn run(&mut self, phase: Phase, pieces: &[(usize, usize)]) -> Result<Vec<f32>> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut texts: Vec<Option<&mut Text>> = self.running.iter_mut().map(Some).collect();
        let mut chosen: Vec<(&mut Text, usize)> =
            pieces.iter().filter_map(|(at, tokens)| Some((texts[*at].take()?, *tokens))).collect();
        if self.model.has_encoder() {
            return run_read(self.model, &mut self.scratches[usize::from(phase == Phase::Decode)], phase, &mut chosen);
        }
        if !self.model.in_kernels() {
            return run_apart(self.model, &mut chosen);
        }
        let mut chunks: Vec<Chunk> = (chosen.iter_mut())
            .filter_map(|(text, tokens)| {
                let logits = text.logits(*tokens);
                let Text { request, ids, held: Held::Paged(table), .. } = &mut **text else { return None };
                let new = table.len()..table.len() + *tokens;
                Some(Chunk { table, ids: &ids[new], adapter: &request.adapter, logits })
            })
            .collect();
        let scratch = &mut self.scratches[usize::from(phase == Phase::Decode)];
        self.model.extend(scratch, &mut self.kv, phase, &mut chunks)
    }

    /// Hands the logits of `pieces`, which were just run, to their texts: scores of the prompt, and the next token where the text
    /// is read to its end.
    fn hand_out(&mut self, pieces: &[(usize, usize)], mut logits: Vec<f32>, turns: &mut Vec<Turn>) {
        let (vocab, room) = (self.model.config.vocab, self.longest());
        let mut left = logits.as_mut_slice();
        for (at, tokens) in pieces {
            let text = &mut self.running[*at];
            let (own, others) = std::mem::take(&mut left).split_at_mut(text.wanted(*tokens) * vocab);
            left = others;
            let mut turn = Turn::new(text.request.id);
            // What one text's settings bring about is that text's alone.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if text.answer().is_empty() {
                    turn.prompt = text.prompt_scores(own, vocab);
                }
                if let Some(last) = own.len().checked_sub(vocab).filter(|_| text.held() == text.ids.len()) {
                    text.choose(&mut own[last..], room, &mut turn);
                }
            }));
            if outcome.is_err() {
                text.ended = true;
                turn.ended = Some(Ended::Failed(panicked()));
            }
            if turn.token.is_some() || turn.ended.is_some() || !turn.prompt.is_empty() {
                turns.push(turn);
            }
        }
    }
}

/// What a text is told whose next token could not be chosen because of a fault here.
fn panicked() -> Error {
    Error::from(candle_core::Error::msg("the choice of the next token panicked: a fault in lorakit, please report it"))
}

/// On a device that has no kernels over blocks.
fn run_apart(model: &Model, texts: &mut [(&mut Text, usize)]) -> Result<Vec<f32>> {
    let mut chunks: Vec<OwnChunk> = (texts.iter_mut())
        .filter_map(|(text, tokens)| {
            let logits = text.logits(*tokens);
            let Text { request, ids, held: Held::Own(cache), .. } = &mut **text else { return None };
            let new = cache.len()..cache.len() + *tokens;
            Some(OwnChunk { cache, ids: &ids[new], adapter: &request.adapter, logits })
        })
        .collect();
    model.extend_in_tensors(&mut chunks)
}

/// Behind what an encoder has read.
fn run_read(model: &Model, scratch: &mut Workspace, phase: Phase, texts: &mut [(&mut Text, usize)]) -> Result<Vec<f32>> {
    let mut chunks: Vec<AnswerChunk> = (texts.iter_mut())
        .filter_map(|(text, tokens)| {
            let logits = text.logits(*tokens);
            let Text { request, ids, held: Held::Read(cache), .. } = &mut **text else { return None };
            let new = cache.len()..cache.len() + *tokens;
            Some(AnswerChunk { cache, ids: &ids[new], adapter: &request.adapter, logits })
        })
        .collect();
    model.extend_answers(scratch, phase, &mut chunks)
}
