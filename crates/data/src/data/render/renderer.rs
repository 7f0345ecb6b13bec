//! A tokenizer and a template: rows to examples, conversations to prompts.
//!
//! Training, evaluation and `lorakit chat` all render through here, so that they cannot differ.

use std::borrow::Cow;
use std::collections::HashSet;

use super::encode::{Encoded, encode};
use super::example::{Example, Prompt};
use super::foreign;
use super::loss_mask::Choice;
use super::spans::Spans;
use super::spoken::Reads;
use super::template::{
    ByTools, Chat, ChatMessage, Clock, Fixed, Jinja, RenderedTurn, Rendering, Style, from_json, join, spelled,
};
use crate::data::read::row::{Conversation, Message, Row, RowKind};
use crate::data::read::shape;
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::{SpecialTokensInData, Template, TemplateKind};
use crate::tokenizer::{ChatTemplates, Tokenizer};

/// How rows become text and tokens. Cheap to clone.
#[derive(Clone)]
pub struct Renderer {
    tokenizer: Tokenizer,
    rules: Rules,
    system: Option<String>,
    choice: Choice,
    /// Special tokens in rows are read as such.
    allow: bool,
    stop_ids: Vec<u32>,
    /// All that it was made from but the tokenizer.
    made_of: String,
    /// Templates in Jinja that render conversations alike.
    kept: ChatTemplates,
}

/// A template in Jinja and what it reads besides role and content.
#[derive(Clone)]
struct Voice {
    spans: Spans,
    reads: Reads,
}

/// The tools of a conversation.
#[derive(Clone, Copy, Default)]
struct Tools<'a> {
    /// It has some, by which its template is chosen.
    any: bool,
    /// Those that the template is given.
    given: Option<&'a crate::json::Value>,
}

#[derive(Clone)]
enum Rules {
    Jinja(Box<ByTools<Voice>>),
    Fixed(Fixed),
    /// The model's own template is asked for and it has none: prompts and completions as they are.
    Plain,
}

impl Renderer {
    /// The rules of `template` with the tokens of `tokenizer`.
    ///
    /// # Errors
    /// [`Error::Template`] when a template does not parse, [`Error::Io`] when its file cannot be read.
    pub fn new(tokenizer: Tokenizer, template: &Template) -> Result<Renderer> {
        Renderer::at(tokenizer, template, Clock::default())
    }

    /// As [`Renderer::new`], with the date that a template is told when it asks for today's.
    ///
    /// # Errors
    /// As [`Renderer::new`].
    pub fn at(tokenizer: Tokenizer, template: &Template, clock: Clock) -> Result<Renderer> {
        let special = tokenizer.special();
        let jinja = |templates: &ChatTemplates| {
            let voice = |name: &str, source: &str| {
                let jinja = Jinja::new(name, source, special, clock)?;
                let base = jinja.defaults();
                Ok(Voice { spans: Spans::new(jinja, base), reads: Reads::of(source) })
            };
            Ok::<_, Error>(Rules::Jinja(Box::new(ByTools::of(templates, voice)?)))
        };
        let (rules, templates) = match (style(&template.kind), &template.kind) {
            (Some(style), _) => {
                let eos = special.eos.clone().unwrap_or_default();
                (Rules::Fixed(Fixed { style, eos }), spelled::fixed(style, special.add_bos))
            }
            (None, TemplateKind::File(path)) => {
                let own = ChatTemplates::of_file(path)?;
                (jinja(&own)?, own)
            }
            (None, _) if tokenizer.chat_templates().is_empty() => (Rules::Plain, ChatTemplates::default()),
            (None, _) => (jinja(tokenizer.chat_templates())?, tokenizer.chat_templates().clone()),
        };
        let sources: Vec<_> = templates.iter().collect();
        let made_of = format!("{template:?} {clock:?} {sources:?}");
        let kept = template.system.as_ref().map_or(templates.clone(), |system| spelled::with_system(&templates, system));
        let (system, choice) = (template.system.clone(), Choice::of(template));
        let allow = template.special_tokens_in_data == SpecialTokensInData::Allow;
        let mut renderer = Renderer { tokenizer, rules, system, choice, allow, stop_ids: Vec::new(), made_of, kept };
        renderer.stop_ids = renderer.find_stop_ids();
        Ok(renderer)
    }

    /// Templates in Jinja that render conversations as this does, its system message included, here and in transformers:
    /// what is kept beside an adapter. None where the model has no template and none is set.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.kept
    }

    /// Whether the template reads this key of a message.
    pub(crate) fn reads(&self, key: &str) -> bool {
        matches!(&self.rules, Rules::Jinja(_)) && self.kept.iter().any(|(_, source)| Reads::key(source, key))
    }

    /// Hash of all that a rendering follows from besides the row: tokenizer, template, and what the recipe says of it.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer cannot be written out.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        Ok(files::sha256(format!("{}\0{}", self.tokenizer.written()?, self.made_of).as_bytes()))
    }

    /// The tokenizer that it renders for.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids that end an answer: the tokenizer's, and what this template puts after one.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.clone()
    }

    /// Tokens and loss mask of a row.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the row or its answers cannot be found in the rendering.
    pub fn example(&self, row: &Row) -> Result<Example> {
        let encoded = self.encoded(row)?;
        Ok(Example { ids: encoded.ids, trained: encoded.trained, source: row.source, line: row.line })
    }

    /// Everything before the last answer of a row, to generate from; `None` for plain text.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the conversation.
    pub fn prompt(&self, row: &Row) -> Result<Option<Prompt>> {
        let (rendering, reference) = match &row.kind {
            RowKind::Text(_) => return Ok(None),
            RowKind::Chat(chat) => {
                let (chat, any) = (self.spoken(chat)?, chat.tools.is_some());
                let Some(last) = chat.messages.iter().rposition(|m| m.role == "assistant") else { return Ok(None) };
                let before = self.with_system(&chat.messages[..last]);
                let tools = Tools { any, given: chat.tools.as_ref() };
                (self.conversation(&before, tools, true)?, chat.messages[last].content.clone())
            }
            RowKind::Alpaca { instruction, input, output, system } => {
                (self.alpaca(system, instruction, input, None)?, output.clone())
            }
            RowKind::Completion { prompt, completion } => (self.completion(prompt, None)?, completion.clone()),
            RowKind::Preference(_) | RowKind::Labelled { .. } => return Err(not_supervised()),
        };
        let ids = self.tokens(&rendering)?.ids;
        let references = if row.references.is_empty() { vec![reference.clone()] } else { row.references.clone() };
        let (task, cluster) = (row.task.clone(), row.cluster.clone());
        Ok(Some(Prompt { ids, reference, references, task, cluster, source: row.source, line: row.line }))
    }

    /// Tokens of a conversation; special tokens written in its messages stay text.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the conversation.
    pub fn chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        Ok(self.tokens(&self.conversation(&self.with_system(messages), Tools::default(), add_generation_prompt)?)?.ids)
    }

    /// Tokens of a prompt with each of `texts` behind it, and how many of them are the prompt's: those of its text alone, but
    /// for white space at its end, which belongs to what follows (as lm-eval's `_encode_pair` parts them). In a chat the
    /// prompt is a user's message in the template. Special tokens written in prompt and texts stay text.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the prompt.
    pub(crate) fn followed(&self, prompt: &str, chat: bool, texts: &[String]) -> Result<(usize, Vec<Vec<u32>>)> {
        let rendering = match chat {
            true => self.conversation(&self.with_system(&[Message::new("user", prompt)]), Tools::default(), true)?,
            false => self.bare(prompt),
        };
        let start = rendering.text.len();
        let with = |text: &String| {
            let mut whole = rendering.clone();
            whole.text += text;
            whole.turns.push(turn("assistant", start..whole.text.len()));
            Ok(self.tokens(&whole)?.ids)
        };
        let all = texts.iter().map(with).collect::<Result<Vec<_>>>()?;
        let alone = Rendering { text: rendering.text.trim_end().to_string(), ..rendering };
        Ok((self.tokens(&alone)?.ids.len(), all))
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the conversation.
    pub fn chat_text(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        match &self.rules {
            Rules::Jinja(voices) => {
                voices.choose(false)?.spans.text(&chat(&self.with_system(messages), None), add_generation_prompt)
            }
            _ => Ok(self.conversation(&self.with_system(messages), Tools::default(), add_generation_prompt)?.text),
        }
    }

    /// Tokens of a conversation whose next answer may call `tools`, as a row with these tools is rendered for training; with
    /// no tools, as one without: where the template does not read tools, they stand in the system message. Tools and the calls in messages have the forms that rows may have: the OpenAI API's,
    /// arguments as JSON in a string or as an object, functions bare or not.
    ///
    /// # Errors
    /// [`Error::Usage`]: a tool or a call is malformed, or the template mentions tools and does not write them. [`Error::Template`]: it
    /// refuses the conversation.
    pub fn chat_with_tools(
        &self,
        messages: &[Message],
        tools: &[crate::json::Value],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let asked = shape::conversation(messages, tools)?;
        let chat = self.spoken(&asked)?;
        let given = Tools { any: asked.tools.is_some(), given: chat.tools.as_ref() };
        let rendering = self.conversation(&self.with_system(&chat.messages), given, add_generation_prompt)?;
        if given.any && matches!(self.rules, Rules::Jinja(_)) {
            let without =
                self.conversation(&self.with_system(&asked.messages), Tools { any: true, given: None }, add_generation_prompt);
            if without.is_ok_and(|without| without.text == rendering.text) {
                return Err(unwritten());
            }
        }
        Ok(self.tokens(&rendering)?.ids)
    }

    /// Whether the template is given the tools of a conversation; else they are written into its system message.
    pub fn reads_tools(&self) -> bool {
        matches!(&self.rules, Rules::Jinja(voices) if voices.choose(true).is_ok_and(|voice| voice.reads.tools()))
    }

    pub(crate) fn encoded(&self, row: &Row) -> Result<Encoded> {
        self.tokens(&self.rendering(row)?)
    }

    /// The role of each turn of a row's rendering, in the order that [`Encoded::turn`] counts.
    pub(crate) fn encoded_with_roles(&self, row: &Row) -> Result<(Encoded, Vec<String>)> {
        let rendering = self.rendering(row)?;
        let encoded = self.tokens(&rendering)?;
        Ok((encoded, rendering.turns.into_iter().map(|t| t.role).collect()))
    }

    fn tokens(&self, rendering: &Rendering) -> Result<Encoded> {
        encode(&self.tokenizer, rendering, self.tokenizer.special().add_bos, self.allow)
    }

    /// The text of a row, and what of it carries loss.
    fn rendering(&self, row: &Row) -> Result<Rendering> {
        let (mut rendering, messages) = match &row.kind {
            RowKind::Text(text) => (self.plain("", text, "text"), Vec::new()),
            RowKind::Chat(chat) => {
                let (chat, any) = (self.spoken(chat)?, chat.tools.is_some());
                let messages = self.with_system(&chat.messages);
                (self.conversation(&messages, Tools { any, given: chat.tools.as_ref() }, false)?, messages)
            }
            RowKind::Alpaca { instruction, input, output, system } => {
                (self.alpaca(system, instruction, input, Some(output))?, Vec::new())
            }
            RowKind::Completion { prompt, completion } => (self.completion(prompt, Some(completion))?, Vec::new()),
            RowKind::Preference(_) | RowKind::Labelled { .. } => return Err(not_supervised()),
        };
        self.choice.apply(&mut rendering, &messages)?;
        Ok(rendering)
    }

    /// The conversation with what its template would not read written as text.
    fn spoken<'c>(&self, chat: &'c Conversation) -> Result<Cow<'c, Conversation>> {
        let reads = match &self.rules {
            Rules::Jinja(voices) => voices.choose(chat.tools.is_some())?.reads,
            Rules::Fixed(_) | Rules::Plain => Reads::default(),
        };
        Ok(reads.spoken(chat))
    }

    /// A conversation as it is, the recipe's system message being in it.
    fn conversation(&self, messages: &[Message], tools: Tools<'_>, prompt: bool) -> Result<Rendering> {
        match &self.rules {
            Rules::Jinja(voices) => {
                let spans = &voices.choose(tools.any)?.spans;
                let chat = chat(messages, tools.given);
                let mut rendering = spans.render(&chat, prompt)?;
                foreign::find(spans, &chat, prompt, &self.tokenizer, &mut rendering)?;
                Ok(rendering)
            }
            Rules::Fixed(fixed) => fixed.chat(messages, prompt),
            Rules::Plain => Err(Error::Template {
                name: "of the model".into(),
                line: None,
                why: "the model has no chat template".into(),
                help: "set `template.kind = \"instruction\"` (or \"alpaca\"), or give a Jinja file".into(),
            }),
        }
    }

    fn alpaca(&self, system: &Option<String>, instruction: &str, input: &str, answer: Option<&str>) -> Result<Rendering> {
        if let Rules::Fixed(fixed) = &self.rules {
            let system = system.as_deref().or(self.system.as_deref());
            return Ok(fixed.alpaca(system, instruction, input, answer));
        }
        let mut messages: Vec<Message> = system.iter().map(|s| Message::new("system", s)).collect();
        messages.push(Message::new("user", join(instruction, input)));
        messages.extend(answer.map(|a| Message::new("assistant", a)));
        self.conversation(&self.with_system(&messages), Tools::default(), answer.is_none())
    }

    /// A prompt and its completion: one turn of the template, or as they are where there is none.
    fn completion(&self, prompt: &str, completion: Option<&str>) -> Result<Rendering> {
        if matches!(self.rules, Rules::Plain) {
            return Ok(match completion {
                Some(completion) => self.plain(prompt, completion, "assistant"),
                None => self.bare(prompt),
            });
        }
        let mut messages = vec![Message::new("user", prompt)];
        messages.extend(completion.map(|c| Message::new("assistant", c)));
        self.conversation(&self.with_system(&messages), Tools::default(), completion.is_none())
    }

    /// A prompt as it is, with what ends it for an encoder.
    fn bare(&self, prompt: &str) -> Rendering {
        let end = self.tokenizer.prompt_end().unwrap_or_default();
        Rendering { text: format!("{prompt}{end}"), turns: vec![turn("user", 0..prompt.len())], ..Rendering::default() }
    }

    /// `before` and then `text`, which is trained together with the EOS token after it.
    fn plain(&self, before: &str, text: &str, role: &str) -> Rendering {
        let end = self.tokenizer.special().eos.as_deref().unwrap_or_default();
        let parted = self.tokenizer.prompt_end().filter(|_| !before.is_empty()).unwrap_or_default();
        let first = before.len() + parted.len();
        let span = first..first + text.len();
        let place = Some(span.end..span.end + end.len()).filter(|place| !place.is_empty());
        let mut turns = Vec::new();
        if !before.is_empty() {
            turns.push(turn("user", 0..before.len()));
        }
        turns.push(RenderedTurn { answer: vec![span.clone()], end: place, ..turn(role, span) });
        Rendering { text: format!("{before}{parted}{text}{end}"), turns, ..Rendering::default() }
    }

    fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let mut all = Vec::with_capacity(messages.len() + 1);
        if let Some(system) = self.system.as_ref().filter(|_| messages.first().is_none_or(|m| m.role != "system")) {
            all.push(Message::new("system", system));
        }
        all.extend_from_slice(messages);
        all
    }

    /// The ends of turn that the template itself writes, found by rendering a conversation of two answers.
    fn find_stop_ids(&self) -> Vec<u32> {
        let probe: Vec<Message> = ["user", "assistant", "user", "assistant"]
            .iter()
            .zip(["1", "2", "3", "4"])
            .map(|(r, c)| Message::new(*r, c))
            .collect();
        let mut ids = self.tokenizer.eos_ids().to_vec();
        let none = || Some(crate::json::Value::Array(Vec::new()));
        for (turns, tools) in [(&probe[..], None), (&probe[..2], None), (&probe[..], none()), (&probe[..2], none())] {
            let row = Row::new(0, 0, RowKind::Chat(Conversation { messages: turns.to_vec(), tools }));
            let answers = Renderer { choice: Choice::of(&Template::default()), ..self.clone() };
            let Ok(encoded) = answers.encoded(&row) else { continue };
            let last = |t: &usize| encoded.trained[*t] && !encoded.trained.get(t + 1).is_some_and(|next| *next);
            let ends = (0..encoded.ids.len()).filter(last).map(|t| encoded.ids[t]);
            ids.extend(ends.filter(|id| self.tokenizer.is_control(*id)));
        }
        let mut known = HashSet::new();
        ids.retain(|id| known.insert(*id));
        ids
    }
}

fn style(kind: &TemplateKind) -> Option<Style> {
    match kind {
        TemplateKind::Alpaca => Some(Style::Alpaca),
        TemplateKind::Instruction => Some(Style::Instruction),
        TemplateKind::Model | TemplateKind::File(_) => None,
    }
}

fn not_supervised() -> Error {
    Error::usage(
        "supervised training",
        "the row holds preferred and unwanted answers, and this training learns one answer a row",
        "say which in the recipe's source: `take = \"chosen\"`, `\"rejected\"`, or `\"desirable\"` for labelled rows",
    )
}

fn turn(role: &str, place: std::ops::Range<usize>) -> RenderedTurn {
    RenderedTurn { role: role.into(), content: vec![place], ..RenderedTurn::default() }
}

fn chat(messages: &[Message], tools: Option<&crate::json::Value>) -> Chat {
    Chat { messages: messages.iter().map(ChatMessage::of).collect(), tools: tools.map(from_json) }
}

/// Of a template that mentions tools and does not write them.
fn unwritten() -> Error {
    Error::usage(
        "tools",
        "the chat template does not write them, so the model would not know of them",
        "take a model whose chat template reads `tools`, or describe them in the system message",
    )
}
