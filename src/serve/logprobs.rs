//! Log-probabilities as OpenAI spells them: those of chat, and those of completions.

use serde_json::{Map, Value, json};

use super::answer::AnswerToken;
use crate::data::Tokenizer;
use crate::generate::{TokenLogp, token_bytes};

/// The text of a token as it is in the tokenizer, and its true bytes.
fn spelled(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let bytes = token_bytes(tokenizer, id);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

fn one(tokenizer: &Tokenizer, id: u32, logp: f32) -> Value {
    let (token, bytes) = spelled(tokenizer, id);
    json!({"token": token, "logprob": finite(logp), "bytes": bytes})
}

/// JSON has no infinities: what is impossible is so unlikely as f32 can say.
fn finite(logp: f32) -> f32 {
    logp.max(f32::MIN)
}

/// `logprobs` of a chat's choice.
pub(super) fn of_chat(tokenizer: &Tokenizer, tokens: &[AnswerToken]) -> Value {
    let content = tokens.iter().filter_map(|token| {
        let scored = token.logp.as_ref()?;
        let mut entry = one(tokenizer, token.id, scored.logp);
        entry["top_logprobs"] = scored.top.iter().map(|(id, logp)| one(tokenizer, *id, *logp)).collect();
        Some(entry)
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// `logprobs` of a completion's choice, collected token by token.
#[derive(Debug, Default)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters of all that was added.
    offset: usize,
}

impl CompletionLogprobs {
    /// For a text of which `offset` characters were told already.
    pub(super) fn at(offset: usize) -> CompletionLogprobs {
        CompletionLogprobs { offset, ..CompletionLogprobs::default() }
    }

    /// A token; the first of a prompt has no log-probability.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, id: u32, scored: Option<&TokenLogp>) {
        let (token, _) = spelled(tokenizer, id);
        self.text_offset.push(self.offset);
        self.offset += token.chars().count();
        self.token_logprobs.push(scored.map_or(Value::Null, |s| json!(finite(s.logp))));
        self.top_logprobs.push(scored.map_or(Value::Null, |scored| {
            // The token itself is always there, as it is the likeliest or follows those that were asked for.
            let mut top = Map::new();
            for (other, logp) in &scored.top {
                top.entry(spelled(tokenizer, *other).0).or_insert_with(|| json!(finite(*logp)));
            }
            if !scored.top.is_empty() {
                top.entry(token.clone()).or_insert_with(|| json!(finite(scored.logp)));
            }
            Value::Object(top)
        }));
        self.tokens.push(json!(token));
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn into_value(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
