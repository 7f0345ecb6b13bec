//! Where a conversation that is too long is cut: between an answer and the user's turn after it.
//!
//! FastChat cuts Vicuna's conversations so (`split_long_conversation.py`), by the lengths of turns; here a part's length is that
//! of its rendering, system message and all. Refuses to know how a part is rendered: it asks.

use std::ops::Range;

use crate::data::read::row::{Conversation, Message, Row, RowKind};
use crate::error::Result;

/// The exchanges of a conversation: a user's turn and what follows it up to the next user's turn after an answer.
pub(crate) struct Exchanges<'a> {
    row: &'a Row,
    chat: &'a Conversation,
    /// Messages that every part begins with: the system's.
    head: usize,
    /// Where each exchange starts, and where the last ends.
    bounds: Vec<usize>,
}

impl<'a> Exchanges<'a> {
    pub(crate) fn of(row: &'a Row, chat: &'a Conversation) -> Exchanges<'a> {
        let messages = &chat.messages;
        let head = messages.iter().take_while(|m| m.role == "system").count();
        let cut = |i: &usize| messages[i - 1].role == "assistant" && messages[*i].role == "user";
        let mut bounds = vec![head];
        bounds.extend((head + 1..messages.len()).filter(cut));
        bounds.push(messages.len());
        Exchanges { row, chat, head, bounds }
    }

    /// Number of exchanges.
    pub(crate) fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Bytes of each.
    fn sizes(&self) -> Vec<usize> {
        let bytes = |m: &Message| m.content.len() + 16;
        self.bounds.windows(2).map(|b| self.chat.messages[b[0]..b[1]].iter().map(bytes).sum()).collect()
    }

    /// Some of them as a row. Accepted answers are those of the last exchange.
    fn row(&self, some: &Range<usize>) -> Row {
        let all = &self.chat.messages;
        let mut messages = all[..self.head].to_vec();
        messages.extend_from_slice(&all[self.bounds[some.start]..self.bounds[some.end]]);
        let kind = RowKind::Chat(Conversation { messages, tools: self.chat.tools.clone() });
        let references = if some.end == self.len() { self.row.references.clone() } else { Vec::new() };
        Row {
            source: self.row.source,
            line: self.row.line,
            task: self.row.task.clone(),
            cluster: self.row.cluster.clone(),
            references,
            kind,
        }
    }

    /// Rows of consecutive exchanges, each as many as `make` says fit, and at least one: that need not fit. The whole has `tokens`
    /// tokens, of which `most` would fit.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn cut<T>(&self, tokens: usize, most: usize, make: impl Fn(&Row) -> Result<(bool, T)>) -> Result<Vec<(Row, T)>> {
        let sizes = self.sizes();
        let room = (sizes.iter().sum::<usize>() as u128 * most as u128 / tokens.max(1) as u128) as usize;
        let make = |some: Range<usize>| {
            let row = self.row(&some);
            make(&row).map(|(fits, made)| (fits, (row, made)))
        };
        let (mut out, mut start) = (Vec::new(), 0);
        while start < sizes.len() {
            let mut end = start + fitting(&sizes[start..], room);
            let (mut fits, mut best) = make(start..end)?;
            if fits {
                while end < sizes.len() {
                    let (fits, longer) = make(start..end + 1)?;
                    if !fits {
                        break;
                    }
                    (end, best) = (end + 1, longer);
                }
            }
            while !fits && end > start + 1 {
                end -= 1;
                (fits, best) = make(start..end)?;
            }
            out.push(best);
            start = end;
        }
        Ok(out)
    }
}

/// A guess how many of `sizes` fit into `room`, at least one.
fn fitting(sizes: &[usize], room: usize) -> usize {
    let mut sum = 0;
    let fit = sizes.iter().take_while(|size| {
        sum += **size;
        sum <= room
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_between_an_answer_and_the_users_next_turn() {
        let row = Row::new(0, 1, RowKind::Text(String::new()));
        let roles =
            ["system", "assistant", "user", "user", "assistant", "tool", "assistant", "user", "assistant", "system", "user"];
        let chat: Conversation = roles.iter().map(|r| Message::new(*r, "x")).collect::<Vec<_>>().into();
        let exchanges = Exchanges::of(&row, &chat);
        assert_eq!((exchanges.head, &exchanges.bounds), (1, &vec![1, 2, 7, 11]));
    }
}
