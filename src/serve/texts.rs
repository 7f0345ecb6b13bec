//! `POST /tokenize`, `/detokenize`, `/apply-template`: what the model reads of a text.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Response;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::app::App;
use super::auth::Asker;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::messages;
use super::params;
use super::target::{self, Target, off_the_runtime};
use crate::error::Error;

/// Longest text in bytes.
const LONGEST: usize = 4 << 20;

/// Fields of `/tokenize`: llama.cpp's `content` and `add_special` are vLLM's `prompt` and `add_special_tokens`.
pub(super) const TOKENIZE: [Field; 6] = [
    field("content", Kind::Text(LONGEST), "The text."),
    field("prompt", Kind::Text(LONGEST), "The text, by another name."),
    field("model", Kind::Text(512), "Any model of this server: all have the base's tokens."),
    field("add_special", Kind::Bool, "Whether it begins with the model's BOS, if it has one. Default false."),
    field("add_special_tokens", Kind::Bool, "The same, by another name."),
    field("with_pieces", Kind::Bool, "Each token with its text."),
];

pub(super) const DETOKENIZE: [Field; 2] = [
    required("tokens", Kind::List(1 << 20), "Token ids."),
    field("model", Kind::Text(512), "Any model of this server: all have the base's tokens."),
];

/// Fields of `/apply-template`.
pub(super) const TEMPLATE: [Field; 2] = [
    required("messages", Kind::List(messages::MOST), "The conversation."),
    field("add_generation_prompt", Kind::Bool, "Whether the beginning of an answer follows. Default true."),
];

pub(super) const TEMPLATE_TABLES: [&[Field]; 2] = [&target::FIELDS, &TEMPLATE];

/// # Errors
/// As the API says.
pub(super) async fn tokenize(app: Arc<App>, _: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &[&TOKENIZE])?;
    let text = match (fields.text("content"), fields.text("prompt")) {
        (Some(text), None) | (None, Some(text)) => text.to_string(),
        _ => return Err(ApiError::field("content", "give the text as `content` or as `prompt`")),
    };
    let bos = fields.bool("add_special").or(fields.bool("add_special_tokens")).unwrap_or(false);
    let pieces = fields.bool("with_pieces").unwrap_or(false);
    let shared = app.clone();
    let listed = off_the_runtime(move || {
        let ids = shared.with_bos(&text, bos)?;
        let one = |id: &u32| if pieces { json!({"id": id, "piece": piece(&shared, *id)}) } else { json!(id) };
        Ok::<Vec<Value>, Error>(ids.iter().map(one).collect())
    })
    .await?;
    let most = app.engine.longest();
    Ok(axum::Json(json!({"tokens": listed, "count": listed.len(), "max_model_len": most})).into_response())
}

/// `GET /tokenizer_info` (vLLM's): the tokens that begin and end texts, by which lm-eval knows that it need not bring a tokenizer.
pub(super) fn tokenizer_info(app: &App) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| app.tokenizer.inner().id_to_token(id));
    json!({
        "bos_token": text(app.tokenizer.bos_id()),
        "eos_token": text(app.tokenizer.eos_ids().first().copied()),
        "max_model_len": app.engine.longest(),
    })
}

/// A token's text, or its bytes where they are none.
fn piece(app: &App, id: u32) -> Value {
    let bytes = crate::generate::token_bytes(&app.tokenizer, id);
    match std::str::from_utf8(&bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(bytes),
    }
}

/// # Errors
/// As the API says.
pub(super) async fn detokenize(app: Arc<App>, _: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &[&DETOKENIZE])?;
    let ids = params::ids(&app, fields.list("tokens"), "tokens")?;
    let shared = app.clone();
    let text = off_the_runtime(move || shared.tokenizer.decode(&ids, false)).await?;
    Ok(axum::Json(json!({"content": text, "prompt": text})).into_response())
}

/// # Errors
/// As the API says.
pub(super) async fn apply_template(app: Arc<App>, _: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &TEMPLATE_TABLES)?;
    let given = messages::read(fields.list("messages"), app.longest_text)?;
    let target = Target::of(&app, &fields).await?;
    let given = target.conversation(given)?;
    let (renderer, begins) = (target.loaded.renderer.clone(), fields.bool("add_generation_prompt").unwrap_or(true));
    let prompt = off_the_runtime(move || renderer.chat_text(&given, begins)).await?;
    Ok(axum::Json(json!({"prompt": prompt})).into_response())
}
