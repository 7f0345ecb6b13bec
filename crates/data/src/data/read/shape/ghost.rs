//! Ghost Attention (Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models", section 3.3, System
//! Message for Multi-Turn Consistency).
//!
//! There, an instruction is put before every user turn while answers are sampled; for training it is dropped from all
//! turns but the first, and the loss of all turns before the last answer is set to zero, because those answers were
//! written by a model that saw another prompt. So here: the instruction stays where it is first, its repeats are
//! removed, and only the last answer is trained.

use super::Message;
use crate::data::read::row::Loss;

/// Removes the repeats of the instruction and the loss of all answers but the last.
pub(super) fn apply(messages: &mut [Message]) {
    let system = messages.first().filter(|m| m.role == "system").map(|m| m.content.trim().to_string());
    let repeated = system.clone().or_else(|| common(messages)).filter(|text| !text.is_empty());
    // With a system message, the first user turn is a repeat as well.
    let first = usize::from(system.is_none());
    if let Some(instruction) = repeated {
        for message in messages.iter_mut().filter(|m| m.role == "user").skip(first) {
            if let Some(rest) = message.content.trim_start().strip_prefix(&instruction) {
                let rest = rest.trim_start().to_string();
                if !rest.is_empty() {
                    message.content = rest;
                }
            }
        }
    }
    let last = messages.iter().rposition(|m| m.role == "assistant");
    for (i, message) in messages.iter_mut().enumerate() {
        if message.role == "assistant" && Some(i) != last {
            message.loss = Loss::No;
        }
    }
}

/// The lines that two or more user turns all begin with.
fn common(messages: &[Message]) -> Option<String> {
    let turns: Vec<&str> = messages.iter().filter(|m| m.role == "user").map(|m| m.content.as_str()).collect();
    if turns.len() < 2 {
        return None;
    }
    let lines: Vec<&str> = turns[0].lines().collect();
    let alike = (0..lines.len()).take_while(|i| turns.iter().all(|t| t.lines().nth(*i) == Some(lines[*i]))).count();
    // A turn that is nothing but the common lines has no question of its own: then these are the question.
    let whole = turns.iter().any(|t| t.lines().count() == alike);
    (alike > 0 && !whole).then(|| lines[..alike].join("\n").trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(turns: &[(&str, &str)], expect: &[(&str, &str, Loss)]) {
        let mut messages: Vec<Message> = turns.iter().map(|(r, c)| Message::new(*r, *c)).collect();
        apply(&mut messages);
        let found: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str(), m.loss.clone())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn repeats_go_and_only_the_last_answer_is_trained() {
        use Loss::{ByRole, No};
        check(
            &[
                ("system", "Be a pirate."),
                ("user", "Be a pirate.\nWho are you?"),
                ("assistant", "Arr."),
                ("user", "Be a pirate. And now?"),
                ("assistant", "Arr arr."),
            ],
            &[
                ("system", "Be a pirate.", ByRole),
                ("user", "Who are you?", ByRole),
                ("assistant", "Arr.", No),
                ("user", "And now?", ByRole),
                ("assistant", "Arr arr.", ByRole),
            ],
        );
        check(
            &[("user", "Say it in rhyme.\nHello"), ("assistant", "a"), ("user", "Say it in rhyme.\nBye"), ("assistant", "b")],
            &[
                ("user", "Say it in rhyme.\nHello", ByRole),
                ("assistant", "a", No),
                ("user", "Bye", ByRole),
                ("assistant", "b", ByRole),
            ],
        );
    }

    #[test]
    fn a_question_asked_twice_is_no_instruction() {
        use Loss::{ByRole, No};
        check(
            &[("user", "Again"), ("assistant", "a"), ("user", "Again"), ("assistant", "b")],
            &[("user", "Again", ByRole), ("assistant", "a", No), ("user", "Again", ByRole), ("assistant", "b", ByRole)],
        );
    }
}
