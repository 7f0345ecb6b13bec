//! `POST /v1/responses`, without state: each request brings its whole conversation.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Response;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::answer::{Choice, Finish, Plan, start};
use super::app::App;
use super::auth::Asker;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::messages;
use super::params::{self, MAX_TOKENS};
use super::sse::{Events, Gone, stream};
use super::target::{self, Target, off_the_runtime};
use crate::generate::WantedLogps;
use crate::job::unix_time;

pub(super) const FIELDS: [Field; 6] = [
    required("input", Kind::Prompt, "A text, or a list of messages."),
    field("instructions", Kind::Text(1 << 20), "A system message before the conversation."),
    field("max_output_tokens", Kind::Integer(1, MAX_TOKENS), "Longest answer in tokens."),
    field("stream", Kind::Bool, "The answer as server-sent events."),
    field("text", Kind::Object, "`{\"format\": …}`: text, json_object, or json_schema with its schema."),
    field("truncation", Kind::Choice(&["disabled"]), "Nothing is ever cut here."),
];

pub(super) const TABLES: [&[Field]; 3] = [&target::FIELDS, &FIELDS, &params::FIELDS];

struct Asked {
    target: Target,
    choice: Choice,
    id: String,
    message: String,
}

/// # Errors
/// As the API says.
pub(super) async fn handle(app: Arc<App>, asker: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &TABLES)?;
    let streams = fields.bool("stream").unwrap_or(false);
    let mut asked = prepare(&app, &asker, &fields).await?;
    if streams {
        return Ok(stream(move |events| stream_out(asked, events)));
    }
    let piece = super::answer::whole(&mut asked.choice).await?;
    Ok(axum::Json(asked.object("", Some((&piece.text, piece.finish)))).into_response())
}

async fn prepare(app: &Arc<App>, asker: &Asker, fields: &Fields) -> Result<Asked, ApiError> {
    if fields.count("n").is_some_and(|n| n > 1) {
        return Err(ApiError::unsupported("n", "a response has one answer"));
    }
    let mut given = match fields.value("input") {
        Some(Value::String(text)) => {
            messages::fits(text.len(), app.longest_text, "input")?;
            vec![crate::data::Message::new("user", text)]
        }
        Some(Value::Array(list)) => messages::read(&items(list)?, app.longest_text).map_err(|e| e.at("input"))?,
        _ => return Err(ApiError::field("input", "`input` must be a text or a list of messages")),
    };
    if let Some(instructions) = fields.text("instructions") {
        given.insert(0, crate::data::Message::new("system", instructions));
    }
    let target = Target::of(app, fields).await?;
    let assistant = target.assistant.as_deref();
    let given = target.conversation(given)?;
    let renderer = target.loaded.renderer.clone();
    let ends = renderer.stop_ids();
    let prompt = off_the_runtime(move || renderer.chat(&given, true)).await?;
    let longest = (fields.count("max_output_tokens"), app.settings.default_max_tokens);
    let params = params::params(app, fields, assistant, longest, &ends)?;
    let constraint = params::constraint(app, fields).await?;
    let salt = asker.salt(fields.text("cache_salt"));
    let logps = WantedLogps::default();
    let plan = Plan {
        target: &target,
        prompt,
        param: "input",
        params: &params,
        logps,
        constraint,
        salt,
        continues: false,
        control: false,
    };
    let choice = start(app, vec![plan])?.pop();
    let choice = choice.ok_or_else(|| ApiError::fault("no choice was begun"))?;
    Ok(Asked { target, choice, id: app.new_id("resp"), message: app.new_id("msg") })
}

/// Items of an input as messages: the type `message` may be said.
fn items(list: &[Value]) -> Result<Vec<Value>, ApiError> {
    let one = |(at, item): (usize, &Value)| {
        let mut item = item.clone();
        let Some(object) = item.as_object_mut() else { return Ok(item) };
        match object.remove("type").as_ref().map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("message") => {}
            Some(other) => {
                let param = format!("input[{at}]");
                return Err(ApiError::unsupported(param, format!("items of type {other:?} are not supported, only messages")));
            }
        }
        // Of an earlier response that is sent back.
        for key in ["id", "status"] {
            object.remove(key);
        }
        Ok(item)
    };
    list.iter().enumerate().map(one).collect()
}

impl Asked {
    fn item(&self, text: &str, status: &str) -> Value {
        json!({"type": "message", "id": self.message, "role": "assistant", "status": status, "content": [part(text)]})
    }

    /// The response: with what was answered, or in progress.
    fn object(&self, status: &str, answer: Option<(&str, Option<Finish>)>) -> Value {
        let cut = answer.is_some_and(|(_, finish)| finish == Some(Finish::Length));
        let status = match answer {
            Some(_) if cut => "incomplete",
            Some(_) => "completed",
            None => status,
        };
        let (choice, answered) = (&self.choice, answer.map(|(text, _)| self.item(text, status)));
        let (input, output) = (choice.prompt_tokens, choice.answer_tokens);
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": unix_time(),
            "status": status,
            "error": null,
            "incomplete_details": if cut { json!({"reason": "max_output_tokens"}) } else { Value::Null },
            "instructions": null,
            "output": answered.into_iter().collect::<Vec<_>>(),
            "parallel_tool_calls": false,
            "tool_choice": "none",
            "tools": [],
            "store": false,
            "usage": {
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": choice.reused},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": input + output,
            },
        });
        self.target.stamp(&mut object);
        object
    }
}

/// Events with their types and numbers.
struct Numbered {
    events: Events,
    next: u64,
}

impl Numbered {
    async fn send(&mut self, name: &str, mut value: Value) -> Result<(), Gone> {
        value["type"] = json!(name);
        value["sequence_number"] = json!(self.next);
        self.next += 1;
        self.events.named(name, &value).await
    }
}

impl Asked {
    /// An event about the one part of the one item.
    fn about(&self, name: &str, value: Value) -> Value {
        json!({"item_id": self.message, "output_index": 0, "content_index": 0, name: value})
    }

    async fn begin(&self, events: &mut Numbered) -> Result<(), Gone> {
        let begun = self.object("in_progress", None);
        let mut item = self.item("", "in_progress");
        item["content"] = json!([]);
        events.send("response.created", json!({"response": begun})).await?;
        events.send("response.in_progress", json!({"response": begun})).await?;
        events.send("response.output_item.added", json!({"output_index": 0, "item": item})).await?;
        events.send("response.content_part.added", self.about("part", part(""))).await
    }

    async fn end(&self, text: &str, finish: Option<Finish>, events: &mut Numbered) -> Result<(), Gone> {
        let whole = self.object("", Some((text, finish)));
        let status = whole["status"].as_str().unwrap_or("completed").to_string();
        let mut done = self.about("text", json!(text));
        done["logprobs"] = json!([]);
        events.send("response.output_text.done", done).await?;
        events.send("response.content_part.done", self.about("part", part(text))).await?;
        events.send("response.output_item.done", json!({"output_index": 0, "item": self.item(text, &status)})).await?;
        events.send(&format!("response.{status}"), json!({"response": whole})).await
    }

    async fn failed(&self, error: &ApiError, events: &mut Numbered) -> Result<(), Gone> {
        let body = error.body();
        let mut failed = self.object("failed", None);
        failed["error"] = json!({"code": body["error"]["code"], "message": body["error"]["message"]});
        events.send("response.failed", json!({"response": failed})).await
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

async fn stream_out(mut asked: Asked, events: Events) -> Result<Result<(), ApiError>, Gone> {
    let mut events = Numbered { events, next: 0 };
    asked.begin(&mut events).await?;
    let (mut text, mut finish) = (String::new(), None);
    loop {
        let piece = match asked.choice.next().await {
            Ok(None) => break,
            Ok(Some(piece)) => piece,
            Err(error) => return asked.failed(&error, &mut events).await.map(Ok),
        };
        finish = piece.finish.or(finish);
        if !piece.text.is_empty() {
            text.push_str(&piece.text);
            let mut delta = asked.about("delta", json!(piece.text));
            delta["logprobs"] = json!([]);
            events.send("response.output_text.delta", delta).await?;
        }
    }
    asked.end(&text, finish, &mut events).await.map(Ok)
}
