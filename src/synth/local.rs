//! The generator on this machine: a base, or an adapter on it.
//!
//! Refuses to know what is asked, and why.

use super::generator::{Generator, GoOn, Identity, PromptStyle, Reply, until_stop};
use super::prompts::{Choice, Request};
use crate::data::{Message, Renderer};
use crate::error::{Error, Result};
use crate::generate::{self, Limits, Sampling};
use crate::model::{Adapt, Model};

/// The last tokens of an answer in which a stop is looked for after each: every token is a byte or more.
const TAIL: usize = 24;

/// A model, and how many requests it works on at once.
pub struct Local<'a> {
    pub model: &'a Model,
    pub adapt: &'a dyn Adapt,
    pub renderer: &'a Renderer,
    pub rows: usize,
    pub identity: Identity,
}

impl Local<'_> {
    fn prompt(&self, request: &Request) -> Result<Vec<u32>> {
        let tokenizer = self.renderer.tokenizer();
        match self.identity.style {
            PromptStyle::Chat => {
                let mut ids = self.renderer.chat(&[Message::new("user", request.message())], true)?;
                ids.extend(tokenizer.encode_text(&request.cue)?);
                Ok(ids)
            }
            PromptStyle::Completion => {
                let bos = tokenizer.bos_id().filter(|_| tokenizer.special().add_bos);
                Ok(bos.into_iter().chain(tokenizer.encode_text(&request.text())?).collect())
            }
        }
    }

    fn limits(&self, choice: Choice) -> Limits {
        let stop = match self.identity.style {
            PromptStyle::Chat => self.renderer.stop_ids(),
            PromptStyle::Completion => self.renderer.tokenizer().eos_ids().to_vec(),
        };
        Limits { min_new_tokens: 0, max_new_tokens: choice.max_new_tokens, stop }
    }

    fn check(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let most = self.model.config.max_positions;
        match prompts.iter().map(Vec::len).max().filter(|longest| *longest >= most) {
            None => Ok(()),
            Some(longest) => Err(Error::usage(
                "prompt",
                format!("the tasks shown to the model take {longest} tokens, and it has room for {most}"),
                "give shorter seed tasks, or a model with a longer context",
            )),
        }
    }
}

impl Generator for Local<'_> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn in_company(&self) -> bool {
        true
    }

    /// Draws by the seed of the first request, and the place of each.
    fn answer(&mut self, requests: &[Request], go_on: GoOn, answered: &mut dyn FnMut(usize, Reply) -> Result<()>) -> Result<()> {
        let Some(first) = requests.first() else { return Ok(()) };
        let (choice, tokenizer) = (first.choice, self.renderer.tokenizer().clone());
        let prompts = requests.iter().map(|r| self.prompt(r)).collect::<Result<Vec<_>>>()?;
        self.check(&prompts)?;
        let sampling = Sampling {
            temperature: choice.temperature,
            top_p: (choice.top_p < 1.0).then_some(choice.top_p),
            repetition_penalty: choice.repetition_penalty,
            seed: first.seed,
            ..Sampling::GREEDY
        };
        let mut stopped = |prompt: usize, answer: &[u32]| {
            let tail = tokenizer.decode(&answer[answer.len().saturating_sub(TAIL)..], true)?;
            Ok(until_stop(&tail, &requests[prompt].stop).1)
        };
        let limits = self.limits(choice);
        let answers =
            generate::batch_until(self.model, self.adapt, &prompts, &sampling, &limits, self.rows, &mut stopped, &mut |_| {
                go_on()
            })?;
        for (i, (ids, prompt)) in answers.iter().zip(&prompts).enumerate() {
            let text = tokenizer.decode(ids, true)?;
            let (text, stop) = until_stop(&text, &requests[i].stop);
            let full = ids.len() >= limits.max_new_tokens || prompt.len() + ids.len() > self.model.config.max_positions;
            answered(i, Reply { text: text.to_string(), whole: stop || !full })?;
        }
        Ok(())
    }
}
