//! A conversation whose speaker can be changed in the middle: what `lorakit chat` does with a line.

use std::io::Write;

use super::base::Opened;
use super::said::Said;
use super::talk::Speaker;
use crate::data::Message;
use crate::error::{Result, nearest};
use crate::generate::{Limits, Sampling, Session, TextStream};

/// What can be typed instead of a message.
const COMMANDS: [(&str, &str); 6] = [
    ("/adapter", "list the adapters; with a NAME, let that one answer from here on"),
    ("/base", "let the base alone answer"),
    ("/system", "set the system message to what follows; alone, take it away"),
    ("/reset", "forget the conversation; adapter and system message stay"),
    ("/help", "this list"),
    ("/quit", "leave (so does the end of the input)"),
];

/// The messages so far and who answers them.
pub(super) struct Conversation<'a> {
    opened: &'a Opened,
    session: Session<'a>,
    /// The base, then the adapters.
    speakers: Vec<Speaker>,
    current: usize,
    pub(super) system: Option<String>,
    messages: Vec<Message>,
    sampling: Sampling,
    max_new_tokens: usize,
}

impl<'a> Conversation<'a> {
    /// The first adapter answers at the start, the base if there is none.
    pub(super) fn new(
        opened: &'a Opened,
        speakers: Vec<Speaker>,
        context: usize,
        sampling: Sampling,
        max_new_tokens: usize,
    ) -> Result<Conversation<'a>> {
        let session = Session::new(&opened.model, context)?;
        let current = usize::from(speakers.len() > 1);
        let (system, messages) = (None, Vec::new());
        Ok(Conversation { opened, session, speakers, current, system, messages, sampling, max_new_tokens })
    }

    /// Who answers.
    pub(super) fn speaker(&self) -> &Speaker {
        &self.speakers[self.current]
    }

    /// Every name, the one that answers marked.
    pub(super) fn list(&self) -> String {
        let mark = |(i, s): (usize, &Speaker)| format!("{} {}", if i == self.current { "*" } else { " " }, s.name);
        self.speakers.iter().enumerate().map(mark).collect::<Vec<_>>().join("\n")
    }

    /// Handles a line; false ends the conversation. Text goes to `out`; `goes_on` is asked after every token.
    ///
    /// # Errors
    /// When the message cannot be answered; it is then forgotten.
    pub(super) fn line(&mut self, line: &str, out: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> Result<bool> {
        if line.is_empty() {
            return Ok(true);
        }
        let Some(rest) = line.strip_prefix('/') else {
            self.ask(line, out, goes_on)?;
            return Ok(true);
        };
        let (command, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if command == "quit" {
            return Ok(false);
        }
        let reply = self.command(command, argument.trim());
        super::write(out, &format!("{reply}\n"))?;
        Ok(true)
    }

    fn command(&mut self, command: &str, argument: &str) -> String {
        match (command, argument) {
            ("adapter", "") => self.list(),
            ("adapter", name) => self.switch(name),
            ("base", _) => self.switch("base"),
            ("system", "") => {
                self.system = None;
                "no system message".into()
            }
            ("system", text) => {
                self.system = Some(text.into());
                "system message set".into()
            }
            ("reset", _) => {
                self.messages.clear();
                "conversation forgotten".into()
            }
            ("help", _) => COMMANDS.map(|(name, what)| format!("{name:9} {what}")).join("\n"),
            (wrong, _) => {
                let names = COMMANDS.map(|(name, _)| name);
                let hint = nearest(&format!("/{wrong}"), names).map(|n| format!(", did you mean {n}?")).unwrap_or_default();
                format!("there is no /{wrong}{hint}\ncommands: {}", names.join(" "))
            }
        }
    }

    /// The conversation stays; the cache is computed anew under the other adapter with the next message.
    fn switch(&mut self, name: &str) -> String {
        match self.speakers.iter().position(|s| s.name == name) {
            Some(i) => {
                self.current = i;
                format!("{name} answers from here on")
            }
            None => {
                let names: Vec<&str> = self.speakers.iter().map(|s| s.name.as_str()).collect();
                format!("there is no adapter `{name}`; there is: {}", names.join(", "))
            }
        }
    }

    fn ask(&mut self, message: &str, out: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> Result<()> {
        self.messages.push(Message::new("user", message));
        match self.answer(out, goes_on) {
            Ok(text) => {
                self.messages.push(Message::new("assistant", text));
                super::write(out, "\n")
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn answer(&mut self, out: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> Result<String> {
        let speaker = &self.speakers[self.current];
        let mut messages: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        messages.extend_from_slice(&self.messages);
        let ids = speaker.renderer.chat(&messages, true)?;
        let limits = Limits { max_new_tokens: self.max_new_tokens, stop: speaker.renderer.stop_ids() };
        let mut said = Said::new(TextStream::new(self.opened.tokenizer.clone(), &[]), Some(out));
        let mut on_token = |id| said.token(id) && goes_on();
        self.session.generate(speaker.adapt(), &speaker.name, &ids, &self.sampling, &limits, &mut on_token)?;
        said.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Renderer;
    use crate::generate::tiny;
    use crate::model::resolve::{How, Resolved};
    use crate::recipe::Template;
    use crate::tokenizer::byte_level as text;

    fn opened() -> Opened {
        let resolved = Resolved { path: "tiny".into(), id: None, how: How::Path };
        Opened { model: tiny::model(1), tokenizer: text::chatml(), resolved }
    }

    /// The base and the adapters x and y.
    fn speakers(opened: &Opened) -> Vec<Speaker> {
        let renderer = || Renderer::new(opened.tokenizer.clone(), &Template::default()).unwrap();
        let adapter = |seed| Some(tiny::adapter(&opened.model, seed));
        let speaker = |(name, adapter): (&str, _)| Speaker { name: name.into(), adapter, renderer: renderer() };
        [("base", None), ("x", adapter(5)), ("y", adapter(6))].map(speaker).into()
    }

    /// What is written for each line, with 8 tokens an answer.
    fn said(talk: &mut Conversation, lines: &[&str]) -> Vec<String> {
        let written = |line: &&str| {
            let mut out = Vec::new();
            assert!(talk.line(line, &mut out, &|| true).unwrap());
            String::from_utf8(out).unwrap()
        };
        lines.iter().map(written).collect()
    }

    fn talk(opened: &Opened) -> Conversation<'_> {
        Conversation::new(opened, speakers(opened), 200, Sampling::GREEDY, 8).unwrap()
    }

    #[test]
    fn the_answer_comes_from_who_was_switched_to() {
        let opened = opened();
        let answer = |switch: &str| said(&mut talk(&opened), &[switch, "hello"]).pop().unwrap();
        let [base, x, y] = [answer("/base"), answer("/adapter x"), answer("/adapter y")];
        assert!(base != x && x != y && base != y, "{base:?} {x:?} {y:?}");
        let mut talk = talk(&opened);
        assert_eq!(talk.speaker().name, "x");
        for (switch, expected) in [("/adapter y", &y), ("/base", &base), ("/adapter x", &x), ("/adapter base", &base)] {
            assert_eq!(&said(&mut talk, &["/reset", switch, "hello"])[2], expected, "{switch}");
        }
    }

    #[test]
    fn a_switch_keeps_the_conversation_and_computes_it_anew() {
        let opened = opened();
        let mut one = talk(&opened);
        let first = said(&mut one, &["hello", "/adapter y", "and now?"]);
        assert_eq!(one.messages.len(), 4);
        // The same messages told to y from the start of a session.
        let mut other = talk(&opened);
        other.current = 2;
        other.messages = one.messages[..2].to_vec();
        assert_eq!(said(&mut other, &["and now?"])[0], first[2]);
    }

    #[test]
    fn commands_say_what_they_did_and_what_there_is() {
        let opened = opened();
        let mut talk = talk(&opened);
        let replies = said(&mut talk, &["/adapter", "/adapter z", "/adaptor x", "/system Be brief.", "/help", "/zzz"]);
        assert_eq!(replies[0], "  base\n* x\n  y\n");
        assert_eq!(replies[1], "there is no adapter `z`; there is: base, x, y\n");
        assert!(
            replies[2].starts_with("there is no /adaptor, did you mean /adapter?\ncommands: /adapter /base"),
            "{}",
            replies[2]
        );
        assert!(COMMANDS.iter().all(|(name, _)| replies[4].contains(name)), "{}", replies[4]);
        assert!(replies[5].starts_with("there is no /zzz\n"), "{}", replies[5]);
        let with = said(&mut talk, &["hello"]);
        let without = said(&mut talk, &["/reset", "/system", "hello"]);
        assert_ne!(with[0], without[2]);
        assert_eq!((talk.system.clone(), talk.messages.len()), (None, 2));
        assert!(!talk.line("/quit", &mut Vec::new(), &|| true).unwrap());
    }

    #[test]
    fn a_stopped_answer_is_kept_and_one_that_does_not_fit_is_forgotten() {
        let opened = opened();
        let mut talk = talk(&opened);
        let whole = said(&mut talk, &["hello", "/reset"]).remove(0);
        let mut out = Vec::new();
        talk.line("hello", &mut out, &|| false).unwrap();
        let stopped = String::from_utf8(out).unwrap();
        assert!(stopped.len() < whole.len() && whole.starts_with(stopped.trim_end()), "{stopped:?} of {whole:?}");
        assert_eq!(talk.messages.len(), 2);
        let error = talk.line(&"long ".repeat(60), &mut Vec::new(), &|| true).unwrap_err();
        assert!(error.to_string().contains("there is room for 200"), "{error}");
        assert_eq!(talk.messages.len(), 2);
    }
}
