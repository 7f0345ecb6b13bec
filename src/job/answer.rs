//! One answer, told as it comes. Refuses to know what was said before and who reads.

use std::sync::Arc;

use super::events::{JobEvent, Listener};
use super::open::OpenedBase;
use super::speaker::Speaker;
use crate::data::{Message, Tokenizer};
use crate::error::{Error, Result};
use crate::generate::{CachedConversation, Limits, Sampling, TextStream};
use crate::train::Control;

/// What is put to a speaker.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// A text to go on with as it is; special tokens in it count as such.
    Continue(&'a str),
    /// A message to answer, in the chat template.
    Chat { system: Option<&'a str>, message: &'a str },
}

/// What a speaker answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub text: String,
    pub ids: Vec<u32>,
    pub prompt_tokens: usize,
    /// It ended by itself, not for want of room.
    pub whole: bool,
}

/// Lets `speaker` answer in at most `max_new_tokens` tokens; the text is told as it comes. [`Control::Stop`] ends the answer,
/// which is kept.
///
/// # Errors
/// Whatever is wrong with the question; what the listener returns.
pub fn answer(
    opened: &OpenedBase,
    speaker: &Speaker,
    question: Question<'_>,
    sampling: &Sampling,
    max_new_tokens: usize,
    listener: &mut Listener<'_>,
) -> Result<Answer> {
    let prompt = question.ids(speaker, &opened.tokenizer)?;
    let (before, stop) = match question {
        // The text of a chat's answer begins anew; a continued one begins where the prompt ends.
        Question::Continue(_) => (prompt.as_slice(), opened.tokenizer.eos_ids().to_vec()),
        Question::Chat { .. } => (&[][..], speaker.renderer.stop_ids()),
    };
    let limits = Limits { min_new_tokens: 0, max_new_tokens, stop };
    let room = prompt.len().saturating_add(max_new_tokens).min(opened.model.config.max_positions);
    let mut spoken = Spoken::new(TextStream::new(opened.tokenizer.clone(), before));
    let mut session = CachedConversation::new(&opened.model, room);
    let adapter = Arc::new(opened.model.prepare(speaker.adapt())?);
    let mut on_token = |id| spoken.token(id, listener);
    let ids = session.generate(&adapter, &prompt, sampling, &limits, &mut on_token)?;
    let text = spoken.finish(listener)?;
    let whole = ids.len() < max_new_tokens && prompt.len() + ids.len() <= room;
    if !whole && ids.len() < max_new_tokens {
        let most = opened.model.config.max_positions;
        let full = format!(
            "the answer ends for want of room: {} tokens of the prompt and {} of the answer fill the {most} positions of the model",
            prompt.len(),
            ids.len()
        );
        listener(JobEvent::Remark(full))?;
    }
    Ok(Answer { text, ids, prompt_tokens: prompt.len(), whole })
}

impl Question<'_> {
    fn ids(&self, speaker: &Speaker, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        match self {
            Question::Continue(text) => tokenizer.encode_prompt(text),
            Question::Chat { system, message } => {
                let mut messages: Vec<Message> = system.iter().map(|s| Message::new("system", *s)).collect();
                messages.push(Message::new("user", *message));
                speaker.renderer.chat(&messages, true)
            }
        }
    }
}

/// Turns tokens into text, tells it as it comes, and keeps it.
pub(super) struct Spoken {
    stream: TextStream,
    text: String,
    /// What ended the answer early.
    failed: Option<Error>,
}

impl Spoken {
    pub(super) fn new(stream: TextStream) -> Spoken {
        Spoken { stream, text: String::new(), failed: None }
    }

    /// Takes a token; false when there is no point in another one.
    pub(super) fn token(&mut self, id: u32, listener: &mut Listener<'_>) -> bool {
        match self.stream.push(id).and_then(|piece| self.tell(&piece, listener)) {
            Ok(answer) => answer != Control::Stop,
            Err(error) => {
                self.failed = Some(error);
                false
            }
        }
    }

    /// The whole text.
    ///
    /// # Errors
    /// When a token could not be decoded, and what the listener returned.
    pub(super) fn finish(mut self, listener: &mut Listener<'_>) -> Result<String> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let rest = self.stream.finish()?;
        self.tell(&rest, listener)?;
        Ok(self.text)
    }

    fn tell(&mut self, piece: &str, listener: &mut Listener<'_>) -> Result<Control> {
        self.text += piece;
        listener(JobEvent::Text(piece))
    }
}
