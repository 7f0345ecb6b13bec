//! How an answer is to be: the fields of sampling, ends and constraints that all ways to ask share.

use rand::Rng;
use serde_json::Value;

use super::app::App;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field};
use super::target::off_the_runtime;
use crate::generate::{Constraint, Grammar, Limits, Sampling, StopStrings};
use crate::job::Assistant;

/// Longest stop string in bytes, and how many there may be.
const STOP: (usize, usize) = (16, 256);
/// Largest n, and most alternatives of a token.
pub(super) const MAX_N: i64 = 16;
pub(super) const MAX_TOP: i64 = 20;
/// Longest answer that may be asked for; what there is room for is less.
pub(super) const MAX_TOKENS: i64 = 1 << 20;
/// Largest JSON of a schema, and longest grammar, in bytes.
const MAX_GRAMMAR: usize = 64 << 10;

/// Fields of sampling and ends.
pub(super) const FIELDS: [Field; 20] = [
    field("temperature", Kind::Number(0.0, 2.0), "Divides the logits; 0 takes the likeliest token every time. Default 0."),
    field("top_p", Kind::Number(1e-6, 1.0), "Only the likeliest tokens that together reach this probability."),
    field("top_k", Kind::Integer(-1, 1_000_000), "Only the k likeliest tokens; 0 and -1 are off."),
    field("min_p", Kind::Number(0.0, 1.0), "Only tokens at least so likely as this share of the likeliest one."),
    field("repetition_penalty", Kind::Number(0.01, 10.0), "Makes tokens of the text less likely; 1 is off (Keskar et al. 2019)."),
    field("presence_penalty", Kind::Number(-2.0, 2.0), "Taken from the logits of tokens that the answer has."),
    field("frequency_penalty", Kind::Number(-2.0, 2.0), "The same, times how often it has them."),
    field("logit_bias", Kind::Object, "Added to logits: `{\"token id\": -100 to 100}`, 300 at most; -100 bans, 100 forces."),
    field("seed", Kind::Integer(i64::MIN, i64::MAX), "The same seed gives the same answer, in any company."),
    field("n", Kind::Integer(1, MAX_N), "Answers, each with random numbers of its own."),
    field("stop", Kind::Texts(STOP.0, STOP.1), "Strings that end the answer, which are no part of it."),
    field("stop_token_ids", Kind::List(64), "Token ids that end the answer, too."),
    field("include_stop_str_in_output", Kind::Bool, "The stop string is part of the answer."),
    field("ignore_eos", Kind::Bool, "The model's own end does not end the answer."),
    field("min_tokens", Kind::Integer(0, MAX_TOKENS), "Before so many tokens no token ends the answer."),
    field("guided_regex", Kind::Text(4096), "The answer matches this regular expression."),
    field("guided_choice", Kind::Texts(1024, 4096), "The answer is one of these."),
    field("guided_grammar", Kind::Text(MAX_GRAMMAR), "The answer is of this grammar (Lark, as llguidance reads it)."),
    field("guided_json", Kind::TextOrObject(MAX_GRAMMAR), "The answer is JSON of this schema."),
    field(
        "cache_salt",
        Kind::Text(256),
        "What is computed of the prompt is shared only with requests of the same salt (and the same key).",
    ),
];

/// How an answer is to be.
#[derive(Debug, Clone)]
pub(super) struct Params {
    pub(super) sampling: Sampling,
    pub(super) limits: Limits,
    pub(super) n: usize,
    pub(super) stop: StopStrings,
    pub(super) include_stop: bool,
}

/// The fields of a request, over the settings of the assistant. `longest` is what the request says of the answer's length, before a default.
///
/// # Errors
/// 400, naming the field.
pub(super) fn params(
    app: &App,
    fields: &Fields,
    assistant: Option<&Assistant>,
    (longest, default): (Option<usize>, usize),
    ends: &[u32],
) -> Result<Params, ApiError> {
    let sampling = sampling(app, fields, assistant)?;
    let mut stop = fields.texts("stop");
    if stop.is_empty() {
        stop = assistant.map(|a| a.stop.clone()).unwrap_or_default();
    }
    let most = assistant.and_then(|a| a.max_tokens);
    if let (Some(asked), Some(most)) = (longest, most)
        && asked > most
    {
        let message = format!("`max_tokens`: {asked} are more than the {most} that this assistant answers with");
        return Err(ApiError::field("max_tokens", message));
    }
    let mut ends = if fields.bool("ignore_eos") == Some(true) { Vec::new() } else { ends.to_vec() };
    ends.extend(ids(app, fields.list("stop_token_ids"), "stop_token_ids")?);
    let max_new_tokens = longest.or(most).unwrap_or(default);
    let limits = Limits { max_new_tokens, min_new_tokens: fields.count("min_tokens").unwrap_or(0), stop: ends };
    Ok(Params {
        sampling,
        limits,
        n: fields.count("n").unwrap_or(1),
        stop: StopStrings::new(stop).map_err(|e| ApiError::from(e).at("stop"))?,
        include_stop: fields.bool("include_stop_str_in_output").unwrap_or(false),
    })
}

fn sampling(app: &App, fields: &Fields, assistant: Option<&Assistant>) -> Result<Sampling, ApiError> {
    let other = Sampling { seed: rand::rng().random(), ..Sampling::GREEDY };
    let own = assistant.map_or(other.clone(), |assistant| assistant.sampling(&other));
    let number = |name: &str, own: f64| fields.number(name).unwrap_or(own);
    let top_k = fields.integer("top_k").map(|k| usize::try_from(k).ok().filter(|k| *k > 0));
    Ok(Sampling {
        temperature: number("temperature", own.temperature),
        top_k: top_k.unwrap_or(own.top_k),
        // All of them is no choice.
        top_p: fields.number("top_p").or(own.top_p).filter(|p| *p < 1.0),
        min_p: fields.number("min_p").or(own.min_p),
        repetition_penalty: number("repetition_penalty", own.repetition_penalty),
        presence_penalty: number("presence_penalty", own.presence_penalty),
        frequency_penalty: number("frequency_penalty", own.frequency_penalty),
        seed: fields.integer("seed").map_or(own.seed, |seed| seed as u64),
        bias: bias(app, fields)?,
    })
}

/// Token ids of a list, each of the model's vocabulary.
///
/// # Errors
/// 400, naming the field.
pub(super) fn ids(app: &App, list: &[Value], param: &str) -> Result<Vec<u32>, ApiError> {
    let vocab = app.engine.model().config.vocab as u64;
    let id = |value: &Value| value.as_u64().filter(|id| *id < vocab).map(|id| id as u32);
    let bad = || ApiError::field(param, format!("`{param}`: token ids are whole numbers from 0 to {}", vocab - 1));
    list.iter().map(|value| id(value).ok_or_else(bad)).collect()
}

fn bias(app: &App, fields: &Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(given) = fields.object("logit_bias") else { return Ok(Vec::new()) };
    let bad = |why: &str| ApiError::field("logit_bias", format!("`logit_bias`: {why}"));
    if given.len() > 300 {
        return Err(bad("more than 300 tokens"));
    }
    let vocab = app.engine.model().config.vocab;
    let one = |(id, bias): (&String, &Value)| {
        let id =
            id.parse::<u32>().ok().filter(|id| (*id as usize) < vocab).ok_or_else(|| bad("a key is no token id of the model"))?;
        let bias = bias.as_f64().filter(|b| b.abs() <= 100.0).ok_or_else(|| bad("a value is no number from -100 to 100"))?;
        Ok((id, bias as f32))
    };
    given.iter().map(one).collect()
}

/// What the answer must be, compiled where that may take its time.
///
/// # Errors
/// 400, naming the field, for more than one constraint and for one that is too large or not possible.
pub(super) async fn constraint(app: &std::sync::Arc<App>, fields: &Fields) -> Result<Option<Constraint>, ApiError> {
    let mut all: Vec<(&str, Grammar)> = Vec::new();
    if let Some(regex) = fields.text("guided_regex") {
        all.push(("guided_regex", Grammar::Regex(regex.into())));
    }
    let choices = fields.texts("guided_choice");
    if !choices.is_empty() {
        all.push(("guided_choice", Grammar::Choice(choices)));
    }
    if let Some(lark) = fields.text("guided_grammar") {
        all.push(("guided_grammar", Grammar::Lark(lark.into())));
    }
    match fields.value("guided_json") {
        Some(Value::String(text)) => {
            let schema = serde_json::from_str(text)
                .map_err(|e| ApiError::field("guided_json", format!("`guided_json` is not JSON: {e}")))?;
            all.push(("guided_json", Grammar::JsonSchema(schema)));
        }
        Some(schema) => all.push(("guided_json", Grammar::JsonSchema(schema.clone()))),
        None => {}
    }
    for param in ["response_format", "text"] {
        if let Some(format) = fields.object(param) {
            all.extend(response_format(format, param)?.map(|grammar| (param, grammar)));
        }
    }
    if all.len() > 1 {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        return Err(ApiError::field(names[1], format!("only one of {} can be given", names.join(", "))));
    }
    match all.pop() {
        None => Ok(None),
        Some((param, grammar)) => compile(app, grammar).await.map(Some).map_err(|e| e.at(param)),
    }
}

/// Compiles a grammar off the model's thread.
///
/// # Errors
/// 400 for one that is too large or not possible.
pub(super) async fn compile(app: &std::sync::Arc<App>, grammar: Grammar) -> Result<Constraint, ApiError> {
    let shared = app.clone();
    off_the_runtime(move || shared.grammars()?.compile(&grammar)).await
}

/// `response_format` of chat, `text.format` of responses.
fn response_format(given: &serde_json::Map<String, Value>, param: &str) -> Result<Option<Grammar>, ApiError> {
    let given = if param == "text" { given.get("format").and_then(Value::as_object) } else { Some(given) };
    let Some(given) = given else { return Ok(None) };
    let bad = |why: &str| ApiError::field(param, format!("`{param}`: {why}"));
    match given.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => {
            // Nested in chat's form, flat in that of responses.
            let schema = given.get("json_schema").and_then(|inner| inner.get("schema")).or_else(|| given.get("schema"));
            schema.cloned().map(|schema| Some(Grammar::JsonSchema(schema))).ok_or_else(|| bad("the schema is missing"))
        }
        _ => Err(bad("its type is text, json_object or json_schema")),
    }
}
