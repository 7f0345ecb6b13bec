//! Templates that are part of this program: Stanford Alpaca's prompts, and `### Instruction:` / `### Response:`.
//!
//! Refuses to know tokens: the end of a turn is the text of the tokenizer's EOS token.

use std::ops::Range;

use super::{RenderedTurn, Rendering};
use crate::data::read::row::Message;
use crate::error::{Error, Result};

/// Which fixed template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Alpaca,
    Instruction,
}

/// A fixed template and the token that ends an answer.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    pub(crate) style: Style,
    pub(crate) eos: String,
}

// `PROMPT_DICT` of Stanford Alpaca's train.py (Taori et al. 2023).
const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
pub(super) const WITHOUT_INPUT: &str =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

/// A text that grows piece by piece and remembers what each piece is.
#[derive(Default)]
struct Draft {
    rendering: Rendering,
}

impl Draft {
    fn fixed(&mut self, text: &str) -> Range<usize> {
        let start = self.rendering.text.len();
        self.rendering.text.push_str(text);
        start..self.rendering.text.len()
    }

    fn content(&mut self, role: &str, text: &str) {
        let range = self.fixed(text);
        self.rendering.turns.push(RenderedTurn { role: role.into(), content: vec![range], ..RenderedTurn::default() });
    }

    fn answer(&mut self, text: &str, end: &str) {
        let span = self.fixed(text);
        let end = Some(self.fixed(end)).filter(|end| !end.is_empty());
        let answer = vec![span.clone()];
        self.rendering.turns.push(RenderedTurn {
            role: "assistant".into(),
            content: vec![span],
            answer,
            end,
            ..RenderedTurn::default()
        });
    }
}

impl Fixed {
    fn refuse(&self, why: &str, help: &str) -> Error {
        let name = match self.style {
            Style::Alpaca => "alpaca",
            Style::Instruction => "instruction",
        };
        Error::Template { name: name.into(), line: None, why: why.into(), help: help.into() }
    }

    /// A conversation; with `prompt` the text ends where the next answer begins.
    pub(crate) fn chat(&self, messages: &[Message], prompt: bool) -> Result<Rendering> {
        let (system, turns) = match messages.split_first() {
            Some((first, rest)) if first.role == "system" => (Some(first.content.as_str()), rest),
            _ => (None, messages),
        };
        for (i, message) in turns.iter().enumerate() {
            let due = if i % 2 == 0 { "user" } else { "assistant" };
            if message.role != due {
                let why = format!("turn {} is of `{}` where `{due}` is due", i + 1, message.role);
                return Err(self.refuse(
                    &why,
                    "fixed templates take user and assistant in turn; use the model's own template (`kind = \"model\"`)",
                ));
            }
        }
        match self.style {
            Style::Alpaca if turns.len() > 2 => Err(self.refuse(
                "Alpaca's prompts have one turn",
                "use `kind = \"instruction\"` or `kind = \"model\"` for conversations",
            )),
            Style::Alpaca => {
                let instruction = turns.first().map_or("", |m| &m.content);
                Ok(self.alpaca(system, instruction, "", turns.get(1).map(|m| m.content.as_str())))
            }
            Style::Instruction => Ok(self.instruction(system, turns, prompt)),
        }
    }

    /// Instruction, input and answer: the prompt with or without input.
    pub(crate) fn alpaca(&self, system: Option<&str>, instruction: &str, input: &str, answer: Option<&str>) -> Rendering {
        if self.style == Style::Instruction {
            let mut turns = vec![Message::new("user", join(instruction, input))];
            turns.extend(answer.map(|a| Message::new("assistant", a)));
            return self.instruction(system, &turns, answer.is_none());
        }
        let mut draft = Draft::default();
        match system {
            Some(system) => draft.content("system", system),
            None => _ = draft.fixed(if input.is_empty() { WITHOUT_INPUT } else { WITH_INPUT }),
        }
        draft.fixed("\n\n### Instruction:\n");
        draft.content("user", instruction);
        if !input.is_empty() {
            draft.fixed("\n\n### Input:\n");
            draft.content("user", input);
        }
        draft.fixed("\n\n### Response:");
        if let Some(answer) = answer {
            draft.answer(answer, &self.eos);
        }
        draft.rendering
    }

    fn instruction(&self, system: Option<&str>, turns: &[Message], prompt: bool) -> Rendering {
        let mut draft = Draft::default();
        if let Some(system) = system {
            draft.content("system", system);
            draft.fixed("\n\n");
        }
        for (i, message) in turns.iter().enumerate() {
            if message.role == "assistant" {
                draft.answer(&message.content, &self.eos);
                continue;
            }
            draft.fixed(if i > 0 { "\n\n### Instruction:\n" } else { "### Instruction:\n" });
            draft.content("user", &message.content);
            if i + 1 < turns.len() || prompt {
                draft.fixed("\n\n### Response:\n");
            }
        }
        draft.rendering
    }
}

/// An instruction and its input as one message.
pub(crate) fn join(instruction: &str, input: &str) -> String {
    if input.is_empty() { instruction.to_string() } else { format!("{instruction}\n{input}") }
}
