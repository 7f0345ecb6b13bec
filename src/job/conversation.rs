//! A conversation whose speaker can be changed in the middle. Refuses to know how messages come in and answers go out.

use std::sync::Arc;

use super::answer::Spoken;
use super::events::Listener;
use super::open::OpenedBase;
use super::speaker::Speaker;
use crate::data::Message;
use crate::error::Result;
use crate::generate::{CachedConversation, Limits, Sampling, TextStream};
use crate::model::PreparedAdapter;

/// The messages so far and who answers them.
pub struct Chat<'a> {
    opened: &'a OpenedBase,
    session: CachedConversation<'a>,
    /// The base, then the adapters.
    speakers: Vec<Speaker>,
    /// Each as the model is run with it.
    adapters: Vec<Arc<PreparedAdapter>>,
    current: usize,
    /// Stands before the messages.
    pub system: Option<String>,
    /// Questions and answers; without them the conversation begins anew.
    pub messages: Vec<Message>,
    sampling: Sampling,
    max_new_tokens: usize,
}

impl<'a> Chat<'a> {
    /// Of at most `context` tokens. The first adapter answers at the start, the base if there is none.
    ///
    /// # Errors
    /// When an adapter cannot be read.
    pub fn new(
        opened: &'a OpenedBase,
        speakers: Vec<Speaker>,
        context: usize,
        sampling: Sampling,
        max_new_tokens: usize,
    ) -> Result<Chat<'a>> {
        let session = CachedConversation::new(&opened.model, context);
        let prepare = |speaker: &Speaker| Ok(Arc::new(opened.model.prepare(speaker.adapt())?));
        let adapters = speakers.iter().map(prepare).collect::<Result<_>>()?;
        let current = usize::from(speakers.len() > 1);
        let (system, messages) = (None, Vec::new());
        Ok(Chat { opened, session, speakers, adapters, current, system, messages, sampling, max_new_tokens })
    }

    /// Who answers.
    pub fn speaker(&self) -> &Speaker {
        &self.speakers[self.current]
    }

    /// The base, then the adapters.
    pub fn speakers(&self) -> &[Speaker] {
        &self.speakers
    }

    /// Lets `name` answer from here on; false where nobody has that name. The conversation stays; what another
    /// adapter computed of it is not used, what this one did before is.
    pub fn switch(&mut self, name: &str) -> bool {
        let found = self.speakers.iter().position(|s| s.name == name);
        self.current = found.unwrap_or(self.current);
        found.is_some()
    }

    /// Puts a message; the answer is told as it comes, and returned. A stop ends the answer, which is kept.
    ///
    /// # Errors
    /// When the message cannot be answered, and what the listener returns; the message is then forgotten.
    pub fn ask(&mut self, message: &str, listener: &mut Listener<'_>) -> Result<&str> {
        self.messages.push(Message::new("user", message));
        match self.answer(listener) {
            Ok(text) => self.messages.push(Message::new("assistant", text)),
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        }
        Ok(self.messages.last().map_or("", |m| m.content.as_str()))
    }

    fn answer(&mut self, listener: &mut Listener<'_>) -> Result<String> {
        let speaker = &self.speakers[self.current];
        let mut messages: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        messages.extend_from_slice(&self.messages);
        let ids = speaker.renderer.chat(&messages, true)?;
        let limits = Limits { max_new_tokens: self.max_new_tokens, stop: speaker.renderer.stop_ids() };
        let mut spoken = Spoken::new(TextStream::new(self.opened.tokenizer.clone(), &[]));
        let mut on_token = |id| spoken.token(id, listener);
        self.session.generate(&self.adapters[self.current], &ids, &self.sampling, &limits, &mut on_token)?;
        spoken.finish(listener)
    }
}
