//! What carries loss under real chat templates, against a table written by hand (`tests/data/answers.toml`): exactly the
//! assistant's text and the end of its turn.

use std::collections::BTreeMap;
use std::path::Path;

use lorakit::data::{Clock, Conversation, Jinja, Message, Renderer, Row, RowKind, Special, Tokenizer, render_context};
use lorakit::recipe::Template;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::chat_templates::{NOON, byte_tokenizer, json_lines, special_tokens};
use crate::shared::{find, json};

/// What a model writes under a template.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Habit {
    names: Vec<String>,
    #[serde(default)]
    before: String,
    before_last: Option<String>,
    end: String,
    last_end: Option<String>,
    #[serde(default)]
    trim: String,
    call: Option<String>,
    #[serde(default)]
    call_end: String,
}

#[derive(Deserialize)]
struct Habits {
    template: Vec<Habit>,
}

fn habits() -> BTreeMap<String, Habit> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/answers.toml");
    let all: Habits = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all.template.into_iter().flat_map(|habit| habit.names.clone().into_iter().map(move |name| (name, habit.clone()))).collect()
}

impl Habit {
    /// The texts that carry loss, and the messages (from 1) whose calls are left out; `None` where the template refuses.
    fn expected(&self, messages: &[Value]) -> Option<(Vec<String>, Vec<usize>)> {
        let (mut texts, mut unwritten) = (Vec::new(), Vec::new());
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant") {
            if message.get("tool_calls").is_some() {
                let call = self.call.as_ref()?;
                let left_out = call == "unwritten";
                unwritten.extend(left_out.then_some(i + 1));
                texts.push(if left_out { self.call_end.clone() } else { call.clone() });
                continue;
            }
            let (mut before, mut end) = (&self.before, &self.end);
            if i + 1 == messages.len() {
                (before, end) = (self.before_last.as_ref().unwrap_or(before), self.last_end.as_ref().unwrap_or(end));
            }
            let content = message["content"].as_str().unwrap();
            let content = match self.trim.as_str() {
                "both" => content.trim(),
                "start" => content.trim_start_matches('\n'),
                _ => content,
            };
            texts.push(format!("{before}{content}{end}"));
        }
        texts.retain(|text| !text.is_empty());
        Some((texts, unwritten))
    }
}

/// The trained tokens of a row as text, one piece for each run of them.
fn trained(tokenizer: &Tokenizer, template: &str, row: &Row) -> Result<Vec<String>, String> {
    let renderer = Renderer::at(tokenizer.clone(), &Template::default(), NOON).map_err(|e| format!("{template}: {e}"))?;
    let example = renderer.example(row).map_err(|e| e.to_string())?;
    let tokens: Vec<_> = example.ids.iter().zip(&example.trained).collect();
    let runs = tokens.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1);
    Ok(runs.map(|run| tokenizer.decode(&run.iter().map(|(id, _)| **id).collect::<Vec<_>>(), false).unwrap()).collect())
}

/// A context as the row that it is.
pub(crate) fn row(context: &Map<String, Value>) -> Row {
    let message = |value: &Value| {
        let mut fields = value.as_object().unwrap().clone();
        let mut text = |key: &str| fields.remove(key).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default();
        let (role, content) = (text("role"), text("content"));
        Message { fields: (&fields).into(), ..Message::new(role, content) }
    };
    let messages = context["messages"].as_array().unwrap().iter().map(message).collect();
    Row::new(0, 1, RowKind::Chat(Conversation { messages, tools: context.get("tools").map(Into::into) }))
}

/// For every template and every kind of conversation: the spans of the rendering, and where a row can be made of it the
/// trained tokens, are the texts that the table says.
#[test]
fn what_is_trained_is_the_answer_and_its_end() {
    let Some(dir) = find("data/chat_templates") else { return };
    let (habits, contexts) = (habits(), json(&dir.join("contexts.json")));
    let (mut cases, mut refused, mut of_tokens, mut wrong) = (0, 0, 0, Vec::new());
    for template in json_lines(&dir.join("templates.jsonl")) {
        let (name, source) = (template["name"].as_str().unwrap(), template["chat_template"].as_str().unwrap());
        let Some(habit) = habits.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let jinja = Jinja::new(name, source, &Special::default(), NOON).unwrap();
        let tokenizer = byte_tokenizer(&special_tokens(source), source);
        for (kind, context) in contexts.as_object().unwrap() {
            let context = context.as_object().unwrap();
            let messages = context["messages"].as_array().unwrap();
            let (rendered, expected) = (render_context(&jinja, &context.into(), &Template::default()), habit.expected(messages));
            let (Ok(rendered), Some((texts, unwritten))) = (&rendered, &expected) else {
                // The template refuses it (a system message, two users): so must the table where an answer is a call.
                let agrees = rendered.is_err();
                refused += usize::from(agrees);
                wrong.extend((!agrees).then(|| format!("{name} / {kind}: the table says that it is refused")));
                continue;
            };
            cases += 1;
            let found: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
            if found != *texts || rendered.unwritten != *unwritten || !rendered.not_found.is_empty() {
                wrong.push(format!("{name} / {kind}: {found:?}, not {texts:?} (calls not written: {:?})", rendered.unwritten));
            }
            let calls = messages.iter().any(|m| m.get("tool_calls").is_some());
            if messages.last().unwrap()["role"] == "assistant" && !calls {
                of_tokens += 1;
                match trained(&tokenizer, name, &row(context)) {
                    Ok(found) if found == *texts => {}
                    other => wrong.push(format!("{name} / {kind}, tokens: {other:?}, not {texts:?}")),
                }
            }
        }
    }
    println!(
        "{} templates, {cases} renderings ({of_tokens} as tokens, too), {refused} conversations refused; wrong:\n{}",
        habits.len(),
        wrong.join("\n")
    );
    assert_eq!(wrong, [""; 0]);
    assert!(cases >= 400 && of_tokens >= 170, "only {cases} renderings were compared");
}

/// A call that a template leaves out stops the row: an answer without it must not be learnt.
#[test]
fn a_call_that_is_left_out_stops_the_row() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls and m.content is none %}{{ m.tool_calls[0].function.name }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let call = r#"[{"type": "function", "function": {"name": "look_up", "arguments": {"x": 1}}}]"#;
    let context = |content: &str| {
        let text = format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": {content}, "tool_calls": {call}}}]}}"#
        );
        serde_json::from_str::<Map<String, Value>>(&text).unwrap()
    };
    let tokenizer = byte_tokenizer(&special_tokens(source), source);
    let error = trained(&tokenizer, "test", &row(&context("\"\""))).unwrap_err();
    assert!(error.contains("does not write the calls of tools of message 2"), "{error}");
    let jinja = Jinja::new("test", source, &Special::default(), Clock::default()).unwrap();
    let rendered = render_context(&jinja, &(&context("null")).into(), &Template::default()).unwrap();
    let found: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
    assert_eq!((found, rendered.unwritten), (vec!["Nonelook_up<|end|>"], vec![]));
}
