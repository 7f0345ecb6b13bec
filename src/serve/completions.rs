//! `POST /v1/completions`: texts that go on, and scores of texts (`echo`, `logprobs`, `max_tokens: 0`).

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Response;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::answer::{Choice, Piece, Plan, start, whole};
use super::app::App;
use super::auth::Asker;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::logprobs::CompletionLogprobs;
use super::messages;
use super::params::{self, MAX_TOKENS, Params};
use super::sse::{Events, Gone, stream};
use super::target::{self, Target};
use super::together::Together;
use super::usage::{include_usage, usage};
use crate::generate::{TokenLogp, WantedLogps};
use crate::job::unix_time;

/// Longest answer where a request does not say, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;
/// Prompts of a request at most.
const MOST: usize = 256;

pub(super) const FIELDS: [Field; 9] = [
    required("prompt", Kind::Prompt, "A text, token ids, or a list of such: each is gone on with."),
    field(
        "max_tokens",
        Kind::Integer(0, MAX_TOKENS),
        "Longest answer in tokens; 0 only with `echo`: the scores of the prompt. Default 16.",
    ),
    field("echo", Kind::Bool, "The prompt before its answer."),
    field(
        "logprobs",
        Kind::Integer(0, 20),
        "Log-probabilities, with so many of the likeliest alternatives; of the prompt, too, with `echo`.",
    ),
    field("stream", Kind::Bool, "The answer as server-sent events."),
    field("stream_options", Kind::Object, "`{\"include_usage\": true}`: a last chunk with the numbers of tokens."),
    field("best_of", Kind::Integer(1, 16), "Only the same as `n`."),
    field("suffix", Kind::Text(0), "Only empty: nothing is filled in."),
    field("add_special_tokens", Kind::Bool, "Whether a text begins with the model's BOS, if it has one. Default true."),
];

pub(super) const TABLES: [&[Field]; 3] = [&target::FIELDS, &FIELDS, &params::FIELDS];

/// Ids, and the text that they came as.
type Prompt = (Vec<u32>, Option<String>);

struct Completion {
    target: Target,
    params: Params,
    choices: Vec<Choice>,
    /// Of each prompt: its ids, and its text where it is given back.
    prompts: Vec<Prompt>,
    logprobs: bool,
    id: String,
    include_usage: bool,
}

/// # Errors
/// As the API says.
pub(super) async fn handle(app: Arc<App>, asker: Asker, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &TABLES)?;
    let streams = fields.bool("stream").unwrap_or(false);
    let completion = prepare(&app, &asker, &fields).await?;
    if streams {
        return Ok(stream(move |events| stream_out(app, completion, events)));
    }
    complete(&app, completion).await.map(|value| axum::Json(value).into_response())
}

async fn prepare(app: &Arc<App>, asker: &Asker, fields: &Fields) -> Result<Completion, ApiError> {
    let target = Target::of(app, fields).await?;
    let echo = fields.bool("echo").unwrap_or(false);
    let longest = fields.count("max_tokens");
    if longest == Some(0) && !echo {
        return Err(ApiError::field("max_tokens", "`max_tokens: 0` brings something only with `echo: true`"));
    }
    let ends = app.tokenizer.eos_ids().to_vec();
    let params = params::params(app, fields, target.assistant.as_deref(), (longest, DEFAULT_TOKENS), &ends)?;
    if fields.count("best_of").is_some_and(|best| best != params.n) {
        return Err(ApiError::unsupported("best_of", "only the same as `n`"));
    }
    let constraint = params::constraint(app, fields).await?;
    let bos = fields.bool("add_special_tokens").unwrap_or(true);
    let (shared, own) = (app.clone(), fields.clone());
    let prompts = target::off_the_runtime(move || prompts(&shared, &own, bos, echo)).await?;
    let top = fields.count("logprobs");
    let logps = WantedLogps { answer: top, prompt: top.filter(|_| echo) };
    let salt = asker.salt(fields.text("cache_salt"));
    let plan = |(prompt, _): &Prompt| Plan {
        target: &target,
        prompt: prompt.clone(),
        param: "prompt",
        params: &params,
        logps,
        constraint: constraint.clone(),
        salt,
        continues: true,
        control: false,
    };
    let choices = start(app, prompts.iter().map(plan).collect())?;
    let (id, include_usage) = (app.new_id("cmpl"), include_usage(fields)?);
    Ok(Completion { target, params, choices, prompts, logprobs: top.is_some(), id, include_usage })
}

/// Each prompt's ids, and its text where it is given back.
fn prompts(app: &App, fields: &Fields, bos: bool, echo: bool) -> Result<Vec<Prompt>, ApiError> {
    let text = |text: &str| {
        messages::fits(text.len(), app.longest_text, "prompt")?;
        let ids = app.with_bos(text, bos).map_err(|e| ApiError::from(e).at("prompt"))?;
        Ok((ids, echo.then(|| text.to_string())))
    };
    let bad = || ApiError::field("prompt", "`prompt` must be a text, or a list of texts, of token ids, or of lists of token ids");
    let ids = |list: &[Value]| {
        let ids = params::ids(app, list, "prompt")?;
        let text = echo.then(|| app.tokenizer.decode(&ids, true)).transpose()?;
        Ok((ids, text))
    };
    let all: Vec<_> = match fields.value("prompt") {
        Some(Value::String(one)) => vec![text(one)?],
        Some(Value::Array(list)) if list.iter().all(Value::is_number) && !list.is_empty() => vec![ids(list)?],
        Some(Value::Array(list)) => {
            let one = |value: &Value| match value {
                Value::String(one) => text(one),
                Value::Array(list) => ids(list),
                _ => Err(bad()),
            };
            if list.is_empty() || list.len() > MOST {
                return Err(ApiError::field("prompt", format!("`prompt` must be 1 to {MOST} prompts")));
            }
            list.iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(bad()),
    };
    match all.iter().any(|(ids, _)| ids.is_empty()) {
        true => Err(ApiError::field("prompt", "a prompt has no tokens, so nothing can follow")),
        false => Ok(all),
    }
}

impl Completion {
    fn object(&self, app: &App) -> Value {
        let mut object = json!({"id": self.id, "object": "text_completion", "created": unix_time(), "system_fingerprint": app.fingerprint, "choices": []});
        self.target.stamp(&mut object);
        object
    }

    /// Scores of a prompt that is given back, all at once: its first token has none.
    fn prompt_logprobs(&self, app: &App, index: usize, scores: &[TokenLogp]) -> CompletionLogprobs {
        let mut logprobs = CompletionLogprobs::default();
        let (ids, _) = &self.prompts[index / self.params.n];
        for (at, id) in ids.iter().enumerate() {
            logprobs.push(&app.tokenizer, *id, at.checked_sub(1).and_then(|at| scores.get(at)));
        }
        logprobs
    }

    fn echoed(&self, index: usize) -> Option<&str> {
        self.prompts[index / self.params.n].1.as_deref()
    }
}

async fn complete(app: &Arc<App>, mut completion: Completion) -> Result<Value, ApiError> {
    let mut listed = Vec::new();
    let mut choices = std::mem::take(&mut completion.choices);
    for (index, choice) in choices.iter_mut().enumerate() {
        let piece = whole(choice).await?;
        let mut logprobs = match completion.echoed(index) {
            Some(_) => completion.prompt_logprobs(app, index, &piece.prompt),
            None => CompletionLogprobs::default(),
        };
        for token in &piece.tokens {
            logprobs.push(&app.tokenizer, token.id, token.logp.as_ref());
        }
        let text = format!("{}{}", completion.echoed(index).unwrap_or_default(), piece.text);
        let logprobs = if completion.logprobs { logprobs.into_value() } else { Value::Null };
        let finish = piece.finish.map(super::answer::Finish::name);
        listed.push(json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}));
    }
    let mut object = completion.object(app);
    object["choices"] = json!(listed);
    object["usage"] = usage(&choices, completion.params.n);
    Ok(object)
}

async fn stream_out(app: Arc<App>, mut completion: Completion, events: Events) -> Result<Result<(), ApiError>, Gone> {
    let mut together = Together::of(std::mem::take(&mut completion.choices));
    let mut scores: Vec<Vec<TokenLogp>> = vec![Vec::new(); completion.prompts.len() * completion.params.n];
    // Where each choice is in its text, in characters; none before its prompt is told.
    let mut offsets: Vec<Option<usize>> = vec![None; scores.len()];
    loop {
        let (index, mut piece): (usize, Piece) = match together.next().await {
            Ok(None) => break,
            Ok(Some(next)) => next,
            Err(error) => return Ok(Err(error)),
        };
        scores[index].append(&mut piece.prompt);
        if piece.tokens.is_empty() && piece.finish.is_none() {
            continue;
        }
        let first = offsets[index].is_none();
        let mut logprobs = match (first, completion.echoed(index)) {
            (true, Some(_)) => completion.prompt_logprobs(&app, index, &scores[index]),
            _ => CompletionLogprobs::at(offsets[index].unwrap_or(0)),
        };
        for token in &piece.tokens {
            logprobs.push(&app.tokenizer, token.id, token.logp.as_ref());
        }
        offsets[index] = Some(logprobs.offset());
        let echoed = completion.echoed(index).filter(|_| first).unwrap_or_default();
        let logprobs = if completion.logprobs { logprobs.into_value() } else { Value::Null };
        let finish = piece.finish.map(super::answer::Finish::name);
        let mut object = completion.object(&app);
        object["choices"] =
            json!([{"index": index, "text": format!("{echoed}{}", piece.text), "logprobs": logprobs, "finish_reason": finish}]);
        if completion.include_usage {
            object["usage"] = Value::Null;
        }
        events.data(&object).await?;
    }
    if completion.include_usage {
        let mut object = completion.object(&app);
        object["usage"] = usage(&together.ended().await, completion.params.n);
        events.data(&object).await?;
    }
    events.done().await.map(Ok)
}
