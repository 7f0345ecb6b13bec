//! A prompt and its completion: two texts, or (TRL's conversational form) messages on either side.
//!
//! Refuses to know labels and second answers.

use crate::json::Value;

use super::message::says_something;
use super::preference::taken;
use super::{Converted, Message, RawRow, Reader, RowKind, unless_empty};
use crate::data::read::row::Loss;
use crate::error::Result;

impl Reader<'_> {
    /// A row of prompt and completion.
    pub(super) fn completion(&mut self, row: &RawRow) -> Result<Converted> {
        let messages = |v: &Value| v.is_array() || v.is_object();
        if ["prompt", "completion"].iter().any(|ours| self.get(row, ours).is_some_and(messages)) {
            return self.answered(row);
        }
        self.note_unread(row, &["system", "tools"]);
        let (prompt, completion) = (self.text(row, "prompt")?, self.text(row, "completion")?);
        Ok(unless_empty(&completion.clone(), RowKind::Completion { prompt, completion }))
    }

    /// One conversation, of which only turns of the completion may carry loss: TRL masks the prompt whatever its roles
    /// (`SFTConfig.completion_only_loss`).
    fn answered(&mut self, row: &RawRow) -> Result<Converted> {
        let mut prompt = self.prompt_column(row)?;
        let completion = self.answer(row, "completion")?;
        let last = self.check_answers(row, &completion)?;
        if completion.iter().any(|m| m.role == "assistant" && !says_something(m)) {
            return Ok(Converted::Empty);
        }
        prompt.messages.iter_mut().for_each(|m| m.loss = Loss::No);
        // What follows the last answer teaches nothing.
        Ok(Converted::Row(taken(&prompt, &completion[..=last])))
    }

    /// Where the last answer of a completion is.
    pub(super) fn check_answers(&self, row: &RawRow, completion: &[Message]) -> Result<usize> {
        completion.iter().rposition(|m| m.role == "assistant").ok_or_else(|| {
            let roles: Vec<_> = completion.iter().map(|m| m.role.as_str()).collect();
            let why =
                format!("`{}` has no assistant turn, so nothing to learn; roles: {}", self.name("completion"), roles.join(", "));
            self.fail(row.line, why, "add the answer that the model should give, or remove the row")
        })
    }
}
