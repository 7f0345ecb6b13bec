//! What is asked of the loop, and what a turn of it brings.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::constraint::Constraint;
use super::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::model::{ContentHash, Model, PreparedAdapter};

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
    /// Which log-probabilities are wanted.
    pub logps: WantedLogps,
    /// What the answer must be, token by token.
    pub constraint: Option<Constraint>,
    /// Texts share keys and values of a common beginning only with those of the same salt; zeros for one owner alone.
    pub salt: [u8; 32],
}

impl Request {
    /// A request without log-probabilities, constraint and salt.
    pub fn new(id: u64, adapter: Arc<PreparedAdapter>, prompt: Vec<u32>, sampling: Sampling, limits: Limits) -> Request {
        let logps = WantedLogps::default();
        Request { id, adapter, prompt, sampling, stream: id, limits, logps, constraint: None, salt: [0; 32] }
    }

    /// Refuses what could not be answered with a text of at most `longest` tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] where the prompt is empty, longer, or not of the model's vocabulary, or sampling is impossible.
    pub fn check(&self, model: &Model, longest: usize) -> Result<()> {
        self.sampling.check()?;
        model.check_ids(&self.prompt)?;
        if model.has_encoder() && self.logps.prompt.is_some() {
            return Err(Error::usage(
                "log-probabilities of the prompt",
                "the model's encoder reads the prompt whole, so that its tokens have none",
                "ask for those of the answer",
            ));
        }
        match self.prompt.len() {
            0 => Err(Error::usage("prompt", "it has no tokens, so nothing can follow", "give it some text")),
            n if n > longest => Err(Error::usage(
                "prompt",
                format!("it has {n} tokens, there is room for {longest}"),
                "shorten the text, begin a new conversation, or allow a longer context if the model takes one",
            )),
            _ => Ok(()),
        }
    }

    /// What keys and values are shared under: the content of what acts, and the salt.
    ///
    /// # Errors
    /// When the adapter cannot be read.
    pub(super) fn shared_under(&self) -> Result<ContentHash> {
        let content = self.adapter.content()?;
        if self.salt == [0; 32] {
            return Ok(content);
        }
        Ok(Sha256::new().chain_update(content).chain_update(self.salt).finalize().into())
    }
}

/// Which log-probabilities come with the tokens; all in nats, by the model's own logits, before any setting of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WantedLogps {
    /// Of each token of the answer, with so many of the likeliest alternatives.
    pub answer: Option<usize>,
    /// The same of each token of the prompt but the first, which nothing comes before.
    pub prompt: Option<usize>,
}

/// The log-probability of a token, and the likeliest tokens in its place, the likeliest first.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogp {
    pub logp: f32,
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Debug)]
pub enum Ended {
    /// With one of the ids that end it, which is no part of it.
    Stop(u32),
    /// It is all that its constraint lets it be.
    Complete,
    /// It reached its longest.
    Length,
    /// It fills the model's positions, or the room that all texts share.
    Room,
    /// It could not go on; other texts do.
    Failed(Error),
}

/// What a turn brought to a request.
#[derive(Debug)]
pub struct Turn {
    pub request: u64,
    /// The token that was added; none where a stop token ended the answer, or where only the prompt was read.
    pub token: Option<u32>,
    /// Of the token (or of the one that ended the answer), where it was asked for.
    pub logp: Option<TokenLogp>,
    /// Of the prompt's tokens that were read in this turn, where they were asked for.
    pub prompt: Vec<TokenLogp>,
    /// The answer is complete; [`super::Scheduler::finish`] hands it out.
    pub ended: Option<Ended>,
}

impl Turn {
    pub(super) fn new(request: u64) -> Turn {
        Turn { request, token: None, logp: None, prompt: Vec::new(), ended: None }
    }
}
