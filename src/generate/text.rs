//! One text that is worked on, and the choice of its next token.

use super::constraint::Constraint;
use super::request::{Ended, Request, TokenLogp, Turn};
use super::sampling::{self, Sampler};
use crate::error::Result;
use crate::model::{BlockTable, DecoderCache, KvCache, Model, PagedKv};

/// A text that is worked on.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) request: Request,
    /// Prompt and answer so far.
    pub(super) ids: Vec<u32>,
    pub(super) held: Held,
    sampler: Sampler,
    /// Tokens of the prompt that were there already.
    pub(super) reused: usize,
    pub(super) ended: bool,
}

/// Where a text's keys and values are.
#[derive(Debug)]
pub(super) enum Held {
    Paged(BlockTable),
    /// On a device that has no kernels over blocks.
    Own(KvCache),
    /// Behind what an encoder has read: of that and of the answer.
    Read(DecoderCache),
}

impl Text {
    pub(super) fn new(request: Request, held: Held) -> Text {
        let sampler = Sampler::new(request.sampling.clone(), request.stream, &request.prompt);
        let mut text = Text { ids: request.prompt.clone(), request, held, sampler, reused: 0, ended: false };
        text.reused = text.held();
        text
    }

    pub(super) fn answer(&self) -> &[u32] {
        &self.ids[self.request.prompt.len()..]
    }

    /// Tokens whose keys and values are held.
    pub(super) fn held(&self) -> usize {
        match &self.held {
            Held::Paged(table) => table.len(),
            Held::Own(cache) => cache.len(),
            Held::Read(cache) => cache.len(),
        }
    }

    /// Whether its prompt is read, and its last token is not.
    pub(super) fn decodes(&self) -> bool {
        !self.answer().is_empty() && self.held() + 1 == self.ids.len()
    }

    /// Tokens of its prompt that are not read yet.
    pub(super) fn unread(&self) -> usize {
        self.request.prompt.len().saturating_sub(self.held())
    }

    /// After how many of its next `tokens` the logits are wanted.
    pub(super) fn logits(&self, tokens: usize) -> usize {
        self.logits_of(self.held(), tokens)
    }

    /// The same of the `tokens` that were just run.
    pub(super) fn wanted(&self, tokens: usize) -> usize {
        self.logits_of(self.held() - tokens, tokens)
    }

    fn logits_of(&self, before: usize, tokens: usize) -> usize {
        match self.request.logps.prompt {
            Some(_) if before < self.request.prompt.len() => tokens,
            _ => usize::from(before + tokens == self.ids.len()),
        }
    }

    /// Tokens that it may come to hold.
    pub(super) fn most(&self, model: &Model) -> usize {
        most_tokens(&self.request, model)
    }

    /// Blocks of the room that all texts share which it may still come to take.
    pub(super) fn promised(&self, model: &Model) -> usize {
        match &self.held {
            Held::Read(cache) => PagedKv::blocks(cache.source() + self.most(model)),
            _ => PagedKv::blocks(self.most(model)) - PagedKv::blocks(self.held()),
        }
    }

    /// Scores of the tokens of the prompt that follow those whose `logits`, one after another, were just computed; they are the
    /// last that are held.
    pub(super) fn prompt_scores(&self, logits: &[f32], vocab: usize) -> Vec<TokenLogp> {
        let Some(n) = self.request.logps.prompt else { return Vec::new() };
        let first = self.held() - logits.len() / vocab + 1;
        let next = self.request.prompt[first.min(self.request.prompt.len())..].iter();
        next.zip(logits.chunks_exact(vocab)).map(|(id, logits)| scored(logits, *id, n)).collect()
    }

    /// Chooses the next token by its `logits`; `room` is the most tokens that a text has.
    pub(super) fn choose(&mut self, logits: &mut [f32], room: usize, turn: &mut Turn) {
        if self.request.limits.max_new_tokens == 0 {
            return self.end(Ended::Length, turn);
        }
        let id = match self.next(logits, turn) {
            Ok(id) => id,
            Err(error) => return self.end(Ended::Failed(error), turn),
        };
        if self.request.limits.stop.contains(&id) {
            return self.end(Ended::Stop(id), turn);
        }
        self.ids.push(id);
        turn.token = Some(id);
        if self.request.constraint.as_ref().is_some_and(Constraint::must_end) {
            self.end(Ended::Complete, turn);
        } else if self.answer().len() >= self.request.limits.max_new_tokens {
            self.end(Ended::Length, turn);
        } else if self.ids.len() > room {
            self.end(Ended::Room, turn);
        }
    }

    fn next(&mut self, logits: &mut [f32], turn: &mut Turn) -> Result<u32> {
        let own = self.request.logps.answer.map(|n| (n, logits.to_vec()));
        let early = self.answer().len() < self.request.limits.min_new_tokens;
        let banned: &[u32] = if early { &self.request.limits.stop } else { &[] };
        let allowed = self.request.constraint.as_mut().map(|c| c.mask()).transpose()?;
        let id = self.sampler.choose(logits, banned, allowed)?;
        self.sampler.accept(id);
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(id)?;
        }
        turn.logp = own.map(|(n, logits)| scored(&logits, id, n));
        Ok(id)
    }

    fn end(&mut self, how: Ended, turn: &mut Turn) {
        self.ended = true;
        turn.ended = Some(how);
    }
}

fn scored(logits: &[f32], id: u32, n: usize) -> TokenLogp {
    let (logp, top) = sampling::scored(logits, id, n);
    TokenLogp { logp, top }
}

/// The last token of an answer is never read.
pub(super) fn most_tokens(request: &Request, model: &Model) -> usize {
    let wanted = request.prompt.len().saturating_add(request.limits.max_new_tokens.max(1)).saturating_sub(1);
    wanted.min(model.config.max_positions)
}
