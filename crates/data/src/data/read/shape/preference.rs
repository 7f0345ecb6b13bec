//! Two answers to one prompt, ranked replies, and answers with a label.
//!
//! The forms are those of TRL's data sets (explicit and implicit prompt, standard and conversational; unpaired labels),
//! of LLaMA-Factory (ShareGPT turns with `chosen` and `rejected`, `kto_tag`) and of Anthropic's transcripts
//! (`\n\nHuman: … \n\nAssistant: …`).

use crate::json::Value;

use super::message::{alike, says_something};
use super::{Converted, Message, Piece, RawRow, Reader, RowKind, kind};
use crate::data::read::reason::Reason;
use crate::data::read::row::{Conversation, Loss, Preference};
use crate::error::Result;
use crate::recipe::{Pairs, Take};

const ANSWER_HELP: &str = "an answer is a string, a message, or an array of messages";
const PROMPT_HELP: &str = "give the prompt as `prompt` (a string or messages), `messages` or `conversations`, or give whole \
    conversations that begin alike as `chosen` and `rejected`";
const REPLY_HELP: &str = "`replies` is an array of {\"rank\": 0, \"content\": \"…\"}, rank 0 the best";

/// Whether a value can be a label: yes or no.
pub(super) fn says(value: &Value) -> bool {
    wanted(value).is_some()
}

fn wanted(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    })
}

impl Reader<'_> {
    /// A row of two answers, or of ranked replies.
    pub(super) fn preference(&mut self, row: &RawRow) -> Result<Converted> {
        if self.given(row, "replies").is_some() && self.given(row, "chosen").is_none() {
            return self.ranked(row);
        }
        self.note_unread(row, &["replies"]);
        let chosen = self.answer(row, "chosen")?;
        let rejected = self.answer(row, "rejected")?;
        let explicit = chosen.first().is_some_and(|m| m.role == "assistant");
        let (prompt, chosen, rejected) = match explicit {
            true => (self.prompt(row)?, chosen, rejected),
            false => {
                self.note_other_prompts(row, &chosen);
                self.implicit(row, chosen, rejected)?
            }
        };
        self.pair(Preference { prompt, chosen, rejected })
    }

    /// Notes what stands beside whole conversations for a prompt; a text that is one of their turns says nothing new.
    fn note_other_prompts(&mut self, row: &RawRow, conversation: &[Message]) {
        let said = |text: &str| conversation.iter().any(|m| m.content == text);
        if !self.get(row, "prompt").and_then(Value::as_str).is_some_and(said) {
            self.note_unread(row, &["prompt"]);
        }
        self.note_unread(row, &["messages", "conversations"]);
    }

    /// The prompt is where both conversations are alike.
    fn implicit(
        &self,
        row: &RawRow,
        mut chosen: Vec<Message>,
        mut rejected: Vec<Message>,
    ) -> Result<(Conversation, Vec<Message>, Vec<Message>)> {
        let alike = chosen.iter().zip(&rejected).take_while(|(a, b)| alike(a, b)).count();
        // Conversations that are alike to their end differ in nothing: their last answer is both answers.
        let answers = |m: &[Message]| m.iter().rposition(|m| m.role == "assistant").unwrap_or(0);
        let cut = alike.min(answers(&chosen)).min(answers(&rejected));
        let starts = |m: &[Message]| m.get(cut).is_some_and(|m| m.role == "assistant");
        if cut == 0 || !starts(&chosen) || !starts(&rejected) {
            let why = format!("`chosen` and `rejected` part at message {}, which is not an answer in both", cut + 1);
            return Err(self.fail(row.line, why, PROMPT_HELP));
        }
        let (mut chosen_answer, rejected_answer) = (chosen.split_off(cut), rejected.split_off(cut));
        chosen_answer.shrink_to_fit();
        Ok((self.with_row(row, chosen)?, chosen_answer, rejected_answer))
    }

    fn pair(&self, pair: Preference) -> Result<Converted> {
        if !pair.chosen.iter().chain(&pair.rejected).all(|m| m.role != "assistant" || says_something(m)) {
            return Ok(Converted::Empty);
        }
        Ok(match self.source.take {
            Some(Take::Chosen) => Converted::Row(taken(&pair.prompt, &pair.chosen)),
            Some(Take::Rejected) => Converted::Row(taken(&pair.prompt, &pair.rejected)),
            _ if pair.chosen == pair.rejected => Converted::Dropped(Reason::NoPair),
            _ => Converted::Row(RowKind::Preference(pair)),
        })
    }

    /// `chosen` or `rejected`: an answer, or (implicit prompt) a whole conversation.
    pub(super) fn answer(&mut self, row: &RawRow, ours: &str) -> Result<Vec<Message>> {
        match self.get(row, ours) {
            Some(Value::String(text)) => match transcript(text) {
                Some(turns) => Ok(turns),
                None => Ok(vec![Message::new("assistant", text)]),
            },
            Some(value @ Value::Object(_)) => Ok(vec![self.message(row.line, 1, value)?]),
            Some(Value::Array(list)) if !list.is_empty() => self.messages(row.line, list),
            other => {
                let why = format!("`{}` must be an answer, this is {}", self.name(ours), other.map_or("missing", kind));
                Err(self.fail(row.line, why, ANSWER_HELP))
            }
        }
    }

    fn prompt(&mut self, row: &RawRow) -> Result<Conversation> {
        for (ours, others) in [("messages", &["conversations", "prompt"][..]), ("conversations", &["prompt"])] {
            if self.given(row, ours).is_some() {
                self.note_unread(row, others);
                return self.turns(row, ours);
            }
        }
        self.prompt_column(row)
    }

    /// What the column `prompt` says: a user's message, a transcript, or messages.
    pub(super) fn prompt_column(&mut self, row: &RawRow) -> Result<Conversation> {
        match self.get(row, "prompt") {
            Some(Value::String(text)) => self.with_row(row, transcript(text).unwrap_or_else(|| vec![Message::new("user", text)])),
            Some(Value::Array(_)) => self.turns(row, "prompt"),
            Some(other) => {
                let why = format!("`{}` must be a string or messages, this is {}", self.name("prompt"), kind(other));
                Err(self.fail(row.line, why, PROMPT_HELP))
            }
            None => Err(self.fail(row.line, "the row has an answer and no prompt", PROMPT_HELP)),
        }
    }

    /// Replies in the order of their ranks, the best first.
    fn replies(&mut self, row: &RawRow) -> Result<Vec<(f64, Message)>> {
        let Some(Value::Array(list)) = self.get(row, "replies") else {
            let found = self.get(row, "replies").map_or("missing", kind);
            return Err(self.fail(row.line, format!("`replies` must be an array, this is {found}"), REPLY_HELP));
        };
        let (mut replies, mut unread_keys) = (Vec::with_capacity(list.len()), Vec::new());
        for (i, reply) in list.iter().enumerate() {
            let Some(rank) = reply.get("rank").and_then(Value::as_f64) else {
                return Err(self.fail(row.line, format!("reply {} has no number `rank`", i + 1), REPLY_HELP));
            };
            let given = |key: &str| reply.get(key).filter(|v| !v.is_null());
            let Some(content) = given("content").or(given("text")).and_then(Value::as_str) else {
                return Err(self.fail(row.line, format!("reply {} has no string `content`", i + 1), REPLY_HELP));
            };
            let unread = |k: &&String| !["rank", "content", "text", "role", "from"].contains(&k.as_str());
            let keys = reply.as_object().into_iter().flat_map(|fields| fields.keys()).filter(unread);
            unread_keys.extend(keys.map(|k| format!("reply.{k}")));
            replies.push((rank, Message::new("assistant", content)));
        }
        unread_keys.iter().for_each(|key| self.ignored.note(key));
        replies.retain(|(_, m)| says_something(m));
        replies.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(replies)
    }

    fn ranked(&mut self, row: &RawRow) -> Result<Converted> {
        let prompt = self.prompt(row)?;
        let replies = self.replies(row)?;
        let (Some(best), Some(worst)) = (replies.first(), replies.last()) else { return Ok(Converted::Empty) };
        match self.source.take {
            Some(Take::Chosen) => return Ok(Converted::Row(taken(&prompt, std::slice::from_ref(&best.1)))),
            Some(Take::Rejected) => return Ok(Converted::Row(taken(&prompt, std::slice::from_ref(&worst.1)))),
            _ => {}
        }
        let mut pieces = Vec::new();
        for (i, better) in replies.iter().enumerate() {
            for worse in &replies[i + 1..] {
                let asked = self.source.pairs == Some(Pairs::All) || (i == 0 && std::ptr::eq(worse, worst));
                if asked && better.0 < worse.0 && better.1 != worse.1 {
                    let (chosen, rejected) = (vec![better.1.clone()], vec![worse.1.clone()]);
                    let pair = Preference { prompt: prompt.clone(), chosen, rejected };
                    let again = !pieces.is_empty();
                    pieces.push(Piece { again, ..Piece::of(row.line, RowKind::Preference(pair)) });
                }
            }
        }
        Ok(if pieces.is_empty() { Converted::Dropped(Reason::NoPair) } else { Converted::Rows(pieces) })
    }

    /// A conversation (or prompt and completion) and whether its last answer (its completion) is wanted.
    pub(super) fn labelled(&mut self, row: &RawRow) -> Result<Converted> {
        let key = if self.given(row, "label").is_some() { "label" } else { "kto_tag" };
        if key == "label" {
            self.note_unread(row, &["kto_tag"]);
        }
        let Some(desirable) = self.get(row, key).and_then(wanted) else {
            let found = self.get(row, key).map_or("missing", kind);
            let why = format!("`{}` must be true or false, this is {found}", self.name(key));
            return Err(self.fail(row.line, why, "write true for a wanted answer and false for an unwanted one"));
        };
        let mut conversation = self.prompt(row)?;
        let mut asked = conversation.messages.len();
        if self.given(row, "completion").is_some() {
            let completion = self.answer(row, "completion")?;
            self.check_answers(row, &completion)?;
            conversation.messages.extend(completion);
        }
        let mut conversation = match self.trainable(row.line, conversation)? {
            Converted::Row(RowKind::Chat(conversation)) => conversation,
            other => return Ok(other),
        };
        if asked >= conversation.messages.len() {
            // Without a completion the label is of the last answer.
            asked = conversation.messages.len().saturating_sub(1);
        }
        Ok(match self.source.take {
            None => Converted::Row(RowKind::Labelled { conversation, desirable }),
            Some(_) if !desirable => Converted::Dropped(Reason::NotTaken),
            Some(_) => {
                let answers = conversation.messages.split_off(asked);
                Converted::Row(taken(&conversation, &answers))
            }
        })
    }
}

impl Piece {
    /// A row at `line` that belongs to no task.
    fn of(line: usize, kind: RowKind) -> Piece {
        Piece { line, task: None, cluster: None, references: Vec::new(), again: false, train_only: false, became: Ok(kind) }
    }
}

/// The conversation with one of its answers, which alone carries loss: turns of the prompt carry none.
pub(super) fn taken(prompt: &Conversation, answer: &[Message]) -> RowKind {
    let mut all = prompt.clone();
    all.messages.iter_mut().filter(|m| m.role == "assistant").for_each(|m| m.loss = Loss::No);
    all.messages.extend_from_slice(answer);
    RowKind::Chat(all)
}

/// The turns of a text in the form of Anthropic's transcripts; `None` when it is no transcript.
fn transcript(text: &str) -> Option<Vec<Message>> {
    let (human, assistant) = ("\n\nHuman:", "\n\nAssistant:");
    let mut rest = text.strip_prefix(human)?;
    let (mut turns, mut role) = (Vec::new(), "user");
    loop {
        let next = [(human, "user"), (assistant, "assistant")];
        let next = next.iter().filter_map(|(mark, role)| rest.find(mark).map(|at| (at, mark.len(), *role))).min();
        let (end, skip, following) = next.unwrap_or((rest.len(), 0, ""));
        let content = rest[..end].trim();
        if !content.is_empty() || next.is_some() {
            turns.push(Message::new(role, content));
        }
        if next.is_none() {
            return Some(turns);
        }
        rest = &rest[end + skip..];
        role = following;
    }
}
