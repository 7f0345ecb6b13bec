//! What a row says, before any template: conversations, instructions, texts, preferences.
//!
//! Refuses to know files (where rows come from) and templates (what becomes of them).

use std::ops::Range;

use crate::json::{Map, Value};

/// A turn of a conversation; roles are `system`, `user`, `assistant` and `tool`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Message {
    pub role: String,
    pub content: String,
    /// What else the row gives a template about this message: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`,
    /// `thinking`, and whatever other keys it has.
    #[serde(flatten)]
    pub fields: Map,
    #[serde(skip)]
    pub loss: Loss,
}

/// Whether a message carries loss.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Loss {
    /// As the recipe says for its role; an assistant's turns, by default.
    #[default]
    ByRole,
    /// The row says so (`"train": true`, `"weight": 1`).
    Yes,
    No,
    /// Only these ranges of the content, in characters (Unicode scalar values), ascending.
    Spans(Vec<Range<usize>>),
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), ..Message::default() }
    }
}

/// A conversation and the tools that it may call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// Descriptions of tools as the OpenAI API writes them: an array of `{"type": "function", "function": {…}}`.
    pub tools: Option<Value>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Conversation {
        Conversation { messages, tools: None }
    }
}

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preference {
    /// Ends before the answer.
    pub prompt: Conversation,
    /// The better answer: one assistant's turn, or several turns that begin with one.
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKind {
    /// `messages` or ShareGPT `conversations`; ends with an assistant's turn.
    Chat(Conversation),
    /// Kept apart from a conversation because Alpaca's prompts differ with and without input. Other templates get
    /// the instruction and, on the next line, the input as the user's message.
    Alpaca { instruction: String, input: String, output: String, system: Option<String> },
    /// One turn of user and assistant under every template; joined as they are when the model has no template.
    Completion { prompt: String, completion: String },
    /// Trained from its first to its last token, whatever the template; EOS is put after it.
    Text(String),
    /// Not for supervised training, which learns one answer: a source says `take` and gets [`RowKind::Chat`].
    Preference(Preference),
    /// An answer and whether it is wanted (KTO, Ethayarajh et al. 2024); under supervised training as a preference.
    Labelled { conversation: Conversation, desirable: bool },
}

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Index into [`crate::data::Report::sources`].
    pub source: usize,
    /// Line of the file, from 1 (of files without lines: the row's number).
    pub line: usize,
    /// The task that it is an instance of, where its shape knows tasks.
    pub task: Option<String>,
    /// The cluster (FLAN) or category (Super-NaturalInstructions) of the task.
    pub cluster: Option<String>,
    /// Every answer that counts as right when the row is evaluated, the trained one first; empty: that one alone.
    pub references: Vec<String>,
    pub kind: RowKind,
}

impl Row {
    /// A row that belongs to no task.
    pub fn new(source: usize, line: usize, kind: RowKind) -> Row {
        Row { source, line, task: None, cluster: None, references: Vec::new(), kind }
    }
}
