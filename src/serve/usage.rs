//! Numbers of tokens, as OpenAI spells them.

use serde_json::{Value, json};

use super::answer::Choice;
use super::error::ApiError;
use super::fields::Fields;

/// Whether a stream ends with the numbers of tokens.
///
/// # Errors
/// 400 for options that are none, or without a stream.
pub(super) fn include_usage(fields: &Fields) -> Result<bool, ApiError> {
    let Some(options) = fields.object("stream_options") else { return Ok(false) };
    if !fields.bool("stream").unwrap_or(false) {
        return Err(ApiError::field("stream_options", "`stream_options` needs `stream: true`"));
    }
    for (name, value) in options {
        match (name.as_str(), value.as_bool()) {
            ("include_usage" | "include_obfuscation", Some(_)) => {}
            _ => return Err(ApiError::unsupported(format!("stream_options.{name}"), "only include_usage: true or false")),
        }
    }
    Ok(options.get("include_usage").and_then(Value::as_bool).unwrap_or(false))
}

/// The numbers of tokens of some choices of one prompt each `n`.
pub(super) fn usage(choices: &[Choice], n: usize) -> Value {
    let prompts = || choices.iter().step_by(n.max(1));
    let (prompt, cached): (usize, usize) = prompts().fold((0, 0), |(p, c), x| (p + x.prompt_tokens, c + x.reused));
    let answer: usize = choices.iter().map(|c| c.answer_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}
