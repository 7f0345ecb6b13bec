//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Response;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::answer::{AnswerToken, Choice, Finish, Plan, start, whole};
use super::app::App;
use super::auth::Asker;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::logprobs;
use super::messages;
use super::params::{self, MAX_TOKENS, MAX_TOP, Params};
use super::sse::{Events, Gone, stream};
use super::target::{self, Target};
use super::together::Together;
use super::tools::{self, Tools};
use super::usage::{include_usage, usage};
use crate::generate::{Constraint, WantedLogps};
use crate::job::unix_time;

/// Fields of a chat beside those of [`target::FIELDS`], [`params::FIELDS`] and [`tools::FIELDS`].
pub(super) const FIELDS: [Field; 9] = [
    required("messages", Kind::List(messages::MOST), "The conversation: `{role, content}`, content a text or a list of texts."),
    field("max_tokens", Kind::Integer(1, MAX_TOKENS), "Longest answer in tokens."),
    field("max_completion_tokens", Kind::Integer(1, MAX_TOKENS), "The same by its later name."),
    field("stream", Kind::Bool, "The answer as server-sent events."),
    field("stream_options", Kind::Object, "`{\"include_usage\": true}`: a last chunk with the numbers of tokens."),
    field("logprobs", Kind::Bool, "Log-probabilities of the tokens."),
    field("top_logprobs", Kind::Integer(0, MAX_TOP), "So many of the likeliest alternatives, too."),
    field("response_format", Kind::Object, "`text`, `json_object`, or `json_schema` with its schema."),
    field("parallel_tool_calls", Kind::Bool, "Whether an answer may call more than one tool."),
];

/// A chat that is ready to be answered.
struct Chat {
    target: Target,
    params: Params,
    tools: Tools,
    choices: Vec<Choice>,
    logprobs: bool,
    id: String,
    include_usage: bool,
}

/// The tables of its fields.
pub(super) const TABLES: [&[Field]; 4] = [&target::FIELDS, &FIELDS, &params::FIELDS, &tools::FIELDS];

/// # Errors
/// As the API says.
pub(super) async fn handle(app: Arc<App>, asker: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &TABLES)?;
    let streams = fields.bool("stream").unwrap_or(false);
    let chat = prepare(&app, &asker, &fields).await?;
    if streams {
        return Ok(stream(move |events| stream_out(app, chat, events)));
    }
    complete(&app, chat).await.map(|value| axum::Json(value).into_response())
}

async fn prepare(app: &Arc<App>, asker: &Asker, fields: &Fields) -> Result<Chat, ApiError> {
    let given = messages::read(fields.list("messages"), app.longest_text)?;
    let target = Target::of(app, fields).await?;
    let assistant = target.assistant.as_deref();
    let given = target.conversation(given)?;
    let tools = Tools::of(fields, &target.loaded.renderer)?;
    let renderer = target.loaded.renderer.clone();
    let (listed, ends) = (tools.listed.clone(), renderer.stop_ids());
    let prompt = target::off_the_runtime(move || renderer.chat_with_tools(&given, &listed, true)).await?;
    let longest = match (fields.count("max_tokens"), fields.count("max_completion_tokens")) {
        (Some(_), Some(_)) => return Err(ApiError::field("max_tokens", "give max_tokens or max_completion_tokens, not both")),
        (one, other) => one.or(other),
    };
    let params = params::params(app, fields, assistant, (longest, app.settings.default_max_tokens), &ends)?;
    let constraint = constraint(app, fields, &tools).await?;
    let logprobs = fields.bool("logprobs").unwrap_or(false);
    if fields.count("top_logprobs").is_some() && !logprobs {
        return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
    }
    let logps = WantedLogps { answer: logprobs.then(|| fields.count("top_logprobs").unwrap_or(0)), prompt: None };
    let salt = asker.salt(fields.text("cache_salt"));
    let plan = Plan {
        target: &target,
        prompt,
        param: "messages",
        params: &params,
        logps,
        constraint,
        salt,
        continues: false,
        control: tools.any(),
    };
    let choices = start(app, vec![plan])?;
    Ok(Chat { target, params, tools, choices, logprobs, id: app.new_id("chatcmpl"), include_usage: include_usage(fields)? })
}

async fn constraint(app: &Arc<App>, fields: &Fields, tools: &Tools) -> Result<Option<Constraint>, ApiError> {
    let own = params::constraint(app, fields).await?;
    let Some(grammar) = tools.forced(&app.tokenizer)? else { return Ok(own) };
    if own.is_some() {
        return Err(ApiError::field("tool_choice", "a forced tool call and a constrained answer exclude each other"));
    }
    params::compile(app, grammar).await.map(Some).map_err(|e| e.at("tool_choice"))
}

impl Chat {
    fn object(&self, app: &App, kind: &str) -> Value {
        let mut object =
            json!({"id": self.id, "object": kind, "created": unix_time(), "system_fingerprint": app.fingerprint, "choices": []});
        self.target.stamp(&mut object);
        object
    }

    fn logprobs(&self, app: &App, tokens: &[AnswerToken]) -> Value {
        if self.logprobs { logprobs::of_chat(&app.tokenizer, tokens) } else { Value::Null }
    }
}

/// The name of an end: calls of tools have one of their own.
fn finish_name(finish: Finish, calls: bool) -> &'static str {
    if calls && finish == Finish::Stop { "tool_calls" } else { finish.name() }
}

async fn complete(app: &Arc<App>, mut chat: Chat) -> Result<Value, ApiError> {
    let mut listed = Vec::new();
    let mut choices = std::mem::take(&mut chat.choices);
    for (index, choice) in choices.iter_mut().enumerate() {
        let piece = whole(choice).await?;
        let mut message = json!({"role": "assistant", "content": piece.text, "refusal": null});
        let calls = chat.tools.parse(&piece.text);
        if let Some(parsed) = &calls {
            // Nothing that looks like a call and is none is lost: it is content, and why is said.
            if let Some(remark) = &parsed.remark {
                message["tool_call_remark"] = json!(remark);
            }
            message["content"] = json!(parsed.content);
            message["tool_calls"] = parsed.calls.iter().map(|call| tools::call(app, call)).collect();
        }
        let finish = finish_name(piece.finish.unwrap_or(Finish::Stop), calls.is_some());
        listed.push(
            json!({"index": index, "message": message, "logprobs": chat.logprobs(app, &piece.tokens), "finish_reason": finish}),
        );
    }
    let mut object = chat.object(app, "chat.completion");
    object["choices"] = json!(listed);
    object["usage"] = usage(&choices, chat.params.n);
    Ok(object)
}

async fn stream_out(app: Arc<App>, mut chat: Chat, events: Events) -> Result<Result<(), ApiError>, Gone> {
    let choices = std::mem::take(&mut chat.choices);
    let chunk = |index: usize, delta: Value, logprobs: Value, finish: Option<&str>| {
        let mut object = chat.object(&app, "chat.completion.chunk");
        object["choices"] = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        if chat.include_usage {
            object["usage"] = Value::Null;
        }
        object
    };
    for index in 0..choices.len() {
        events.data(&chunk(index, json!({"role": "assistant", "content": ""}), Value::Null, None)).await?;
    }
    let mut calls: Vec<_> = choices.iter().map(|_| chat.tools.stream()).collect();
    // Tokens that have said nothing yet: the first bytes of a character, the beginning of a call.
    let mut untold: Vec<Vec<AnswerToken>> = choices.iter().map(|_| Vec::new()).collect();
    let mut together = Together::of(choices);
    loop {
        let (index, piece) = match together.next().await {
            Ok(None) => break,
            Ok(Some(next)) => next,
            Err(error) => return Ok(Err(error)),
        };
        let deltas = calls[index].push(&app, &piece);
        untold[index].extend(piece.tokens);
        if deltas.is_empty() && piece.finish.is_none() {
            continue;
        }
        let mut logprobs = chat.logprobs(&app, &std::mem::take(&mut untold[index]));
        for delta in deltas {
            // Those of all tokens since the last delta come with the first of these.
            events.data(&chunk(index, delta, std::mem::take(&mut logprobs), None)).await?;
        }
        if let Some(finish) = piece.finish {
            let finish = finish_name(finish, calls[index].called());
            events.data(&chunk(index, json!({}), logprobs, Some(finish))).await?;
        }
    }
    if chat.include_usage {
        let mut object = chat.object(&app, "chat.completion.chunk");
        object["usage"] = usage(&together.ended().await, chat.params.n);
        events.data(&object).await?;
    }
    events.done().await.map(Ok)
}
