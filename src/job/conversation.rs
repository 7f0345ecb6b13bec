//! A conversation whose speaker can be changed in the middle: a client of the engine that serves. Refuses to know how messages come in
//! and answers go out.

use std::sync::Arc;

use super::assistants::{Assistant, Assistants, today};
use super::events::{JobEvent, Listener};
use super::open::OpenedBase;
use super::speaker::Speaker;
use crate::data::{Message, Tokenizer};
use crate::error::{Error, Result, nearest};
use crate::generate::{
    Answering, Ended, Engine, EngineSettings, Event, Limits, Refused, Request, Sampling, StopFilter, StopStrings, TextStream,
};
use crate::model::PreparedAdapter;
use crate::train::Control;

/// The messages so far and who answers them.
pub struct Chat {
    engine: Engine,
    tokenizer: Tokenizer,
    /// The base, then the adapters.
    speakers: Vec<Speaker>,
    /// Each as the model is run with it.
    adapters: Vec<Arc<PreparedAdapter>>,
    current: usize,
    assistants: Assistants,
    /// Who answers, where it is an assistant on the current speaker.
    assistant: Option<Assistant>,
    /// Stands before the messages; an assistant's own prompt where there is none.
    pub system: Option<String>,
    /// Questions and answers; without them the conversation begins anew.
    pub messages: Vec<Message>,
    sampling: Sampling,
    max_new_tokens: usize,
}

impl Chat {
    /// Of at most `context` tokens. The first adapter answers at the start, the base if there is none.
    ///
    /// # Errors
    /// When an adapter cannot be read; for an assistant on an adapter that is not there.
    pub fn new(
        opened: OpenedBase,
        speakers: Vec<Speaker>,
        assistants: Assistants,
        context: usize,
        sampling: Sampling,
        max_new_tokens: usize,
    ) -> Result<Chat> {
        for (name, adapter) in assistants.iter().filter_map(|a| Some((&a.name, a.adapter.as_ref()?))) {
            if !speakers.iter().any(|s| s.name == *adapter) {
                let hint = nearest(adapter, speakers.iter().map(|s| s.name.as_str())).map(|n| format!(" (did you mean {n}?)"));
                let why = format!("its adapter `{adapter}` is not here{}", hint.unwrap_or_default());
                return Err(Error::usage(format!("assistant `{name}`"), why, format!("add --adapter {adapter}=DIR")));
            }
        }
        let prepare = |speaker: &Speaker| Ok(Arc::new(opened.model.prepare(speaker.adapt())?));
        let adapters = speakers.iter().map(prepare).collect::<Result<_>>()?;
        let settings = EngineSettings { rows: 1, tokens: context.min(opened.model.config.max_positions), queue: 8 };
        let engine = Engine::start(Arc::new(opened.model), settings)?;
        let (current, tokenizer) = (usize::from(speakers.len() > 1), opened.tokenizer);
        let (system, messages, assistant) = (None, Vec::new(), None);
        Ok(Chat {
            engine,
            tokenizer,
            speakers,
            adapters,
            current,
            assistants,
            assistant,
            system,
            messages,
            sampling,
            max_new_tokens,
        })
    }

    /// What who answers is called.
    pub fn name(&self) -> &str {
        self.assistant.as_ref().map_or(&self.speakers[self.current].name, |a| &a.name)
    }

    /// Names of all who can answer: the base, the adapters, the assistants.
    pub fn names(&self) -> Vec<&str> {
        self.speakers.iter().map(|s| s.name.as_str()).chain(self.assistants.iter().map(|a| a.name.as_str())).collect()
    }

    /// What an assistant greets with.
    pub fn greeting(&self) -> Option<&str> {
        self.assistant.as_ref()?.greeting.as_deref()
    }

    /// Lets `name` answer from here on; false where nobody has that name. The conversation stays; what another
    /// adapter computed of it is not used, what this one did before is.
    pub fn switch(&mut self, name: &str) -> bool {
        let assistant = self.assistants.get(name).cloned();
        let speaker = assistant.as_ref().map_or(name, |a| a.adapter.as_deref().unwrap_or("base"));
        let Some(found) = self.speakers.iter().position(|s| s.name == speaker) else { return false };
        (self.current, self.assistant) = (found, assistant);
        true
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
        let (speaker, assistant) = (&self.speakers[self.current], self.assistant.as_ref());
        let own = assistant.filter(|a| self.system.is_none() || a.system_locked);
        let system = own.map_or(Ok(None), |a| a.system(&today()))?.or_else(|| self.system.clone());
        let mut messages: Vec<Message> = system.iter().map(|s| Message::new("system", s)).collect();
        messages.extend_from_slice(&self.messages);
        let ids = speaker.renderer.chat(&messages, true)?;
        let longest = assistant.and_then(|a| a.max_tokens).map_or(self.max_new_tokens, |most| most.min(self.max_new_tokens));
        let limits = Limits { min_new_tokens: 0, max_new_tokens: longest, stop: speaker.renderer.stop_ids() };
        let sampling = assistant.map_or_else(|| self.sampling.clone(), |a| a.sampling(&self.sampling));
        let stop = StopStrings::new(assistant.map(|a| a.stop.clone()).unwrap_or_default())?;
        let request = Request::new(0, self.adapters[self.current].clone(), ids, sampling, limits);
        let mut answering = self.engine.submit(vec![request]).map_err(refused)?;
        let mut stream = TextStream::new(self.tokenizer.clone(), &[]);
        let (mut filter, mut said) = (StopFilter::new(stop, false), String::new());
        while let Some(event) = answering.first_mut().and_then(Answering::next_blocking) {
            let (piece, last) = match event {
                Event::Token { id, .. } => (stream.push(id)?, false),
                Event::Ended(Ended::Failed(error)) => return Err(error),
                Event::Ended(_) => (stream.finish()?, true),
                _ => continue,
            };
            let released = filter.push(&piece, ());
            let ended = last || released.stopped.is_some();
            let rest = if last && released.stopped.is_none() { filter.finish() } else { Vec::new() };
            let text: String = released.pieces.into_iter().chain(rest).map(|(text, ())| text).collect();
            said += &text;
            let stopped = !text.is_empty() && listener(JobEvent::Text(&text))? == Control::Stop;
            if stopped || ended {
                break;
            }
        }
        Ok(said)
    }
}

fn refused(refused: Refused) -> Error {
    match refused {
        Refused::Bad(error) => error,
        other => Error::usage("the message", format!("it was not taken: {other:?}"), "report this as a bug"),
    }
}
