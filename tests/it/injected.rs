//! Special tokens in what people wrote: text under every real template, and the ids otherwise those of the whole text.

use lorakit::data::{Message, Renderer, Row, RowKind, Tokenizer};
use lorakit::model::text;
use lorakit::recipe::Template;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::answers::row;
use crate::chat_templates::{NOON, json_lines, special_tokens};
use crate::shared;

/// SmolLM2's tokenizer with a template's special tokens among its own.
fn with_specials(tokenizer: &Tokenizer, source: &str) -> (Tokenizer, Vec<String>) {
    let mut inner = tokenizer.inner().clone();
    let specials = special_tokens(source);
    inner.add_special_tokens(specials.iter().map(|t| tokenizers::AddedToken::from(t.clone(), true))).unwrap();
    let mut all = specials;
    all.extend(["<|im_start|>", "<|im_end|>", "<|endoftext|>"].map(String::from));
    (Tokenizer::new(inner, tokenizer.special().clone(), Some(source.into())).unwrap(), all)
}

fn renderer(tokenizer: &Tokenizer) -> Renderer {
    Renderer::at(tokenizer.clone(), &Template::default(), NOON).unwrap()
}

/// Every template with every context, no special token being in a content: the ids are those that the library gives for
/// the text as a whole.
#[test]
fn ids_are_those_of_the_whole_text() {
    let (Some(dir), Some(model)) = (shared::find("data/chat_templates"), shared::smollm2()) else { return };
    let smollm2 = text::tokenizer(&model).unwrap();
    let others = ["data/tokenizers/ggml-vocab-gpt-2.gguf"].map(|path| text::tokenizer(&shared::find(path).unwrap()).unwrap());
    let contexts = shared::json(&dir.join("contexts.json"));
    let (mut equal, mut refused) = (0, 0);
    for template in json_lines(&dir.join("templates.jsonl")) {
        let source = template["chat_template"].as_str().unwrap();
        for base in others.iter().chain([&smollm2]) {
            let (tokenizer, _) = with_specials(base, source);
            let renderer = renderer(&tokenizer);
            for context in contexts.as_object().unwrap().values() {
                let RowKind::Chat(chat) = row(context.as_object().unwrap()).kind else { unreachable!() };
                let prompt = context["add_generation_prompt"] == true;
                let Ok(text) = renderer.chat_text(&chat.messages, prompt) else {
                    refused += 1;
                    continue;
                };
                let ids = renderer.chat(&chat.messages, prompt).unwrap();
                assert_eq!(ids, tokenizer.inner().encode(text, false).unwrap().get_ids(), "{}", template["name"]);
                equal += 1;
            }
        }
    }
    println!("{equal} renderings equal in ids, {refused} refused by the template");
    assert!(equal >= 800, "{equal}");
}

/// A conversation of the kinds that templates take: with a system message or not, with a call of a tool or not.
fn conversation(kind: usize) -> Vec<Map<String, Value>> {
    let call = json!([{"id": "call12345", "type": "function", "function": {"name": "look_up", "arguments": {"order": "17"}}}]);
    let turns = match kind {
        0 => {
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}])
        }
        1 => {
            json!([{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}, {"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "Bye now."}])
        }
        _ => {
            json!([{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "", "tool_calls": call}, {"role": "tool", "name": "look_up", "tool_call_id": "call12345", "content": "shipped"}, {"role": "assistant", "content": "On its way."}])
        }
    };
    turns.as_array().unwrap().iter().map(|t| t.as_object().unwrap().clone()).collect()
}

fn as_row(turns: &[Map<String, Value>]) -> Row {
    row(json!({"messages": turns}).as_object().unwrap())
}

/// `token` at the beginning, in the middle, at the end of `text`, or alone.
fn inject(text: &str, token: &str, place: usize) -> String {
    match place {
        0 => format!("{token}{text}"),
        1 => format!("{}{token}{}", &text[..text.len() / 2], &text[text.len() / 2..]),
        2 => format!("{text}{token}"),
        _ => token.to_string(),
    }
}

/// The special tokens of a row's ids; `Err`: the template (or we) refuse the row.
fn controls(renderer: &Renderer, row: &Row) -> Result<Vec<u32>, String> {
    let example = renderer.example(row).map_err(|e| e.to_string())?;
    Ok(example.ids.into_iter().filter(|id| renderer.tokenizer().is_control(*id)).collect())
}

#[test]
fn a_thousand_special_tokens_in_messages_stay_text() {
    let (Some(dir), Some(model)) = (shared::find("data/chat_templates"), shared::smollm2()) else { return };
    let smollm2 = text::tokenizer(&model).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let templates: Vec<_> = json_lines(&dir.join("templates.jsonl"))
        .iter()
        .map(|t| {
            let (tokenizer, specials) = with_specials(&smollm2, t["chat_template"].as_str().unwrap());
            (t["name"].as_str().unwrap().to_string(), renderer(&tokenizer), specials)
        })
        .collect();
    let (mut injected, mut by_role, mut refused, mut wrong) = (0, std::collections::BTreeMap::new(), Vec::new(), Vec::new());
    for round in 0.. {
        if injected == 1000 {
            break;
        }
        let (name, renderer, specials) = &templates[round % templates.len()];
        let mut turns = conversation(random.random_range(0..3));
        // Without the token the template takes the conversation; else there is nothing to see.
        let slot = random.random_range(0..turns.len());
        let place = random.random_range(0..4);
        let token = specials.choose(&mut random).unwrap();
        let role = turns[slot]["role"].as_str().unwrap().to_string();
        let in_call = turns[slot].contains_key("tool_calls");
        let put = |turns: &mut Vec<Map<String, Value>>, token: &str| match in_call {
            true => turns[slot]["tool_calls"][0]["function"]["arguments"]["order"] = inject("17", token, place).into(),
            false => turns[slot]["content"] = inject(turns[slot]["content"].as_str().unwrap(), token, place).into(),
        };
        let mut plain = turns.clone();
        put(&mut plain, "word");
        let Ok(expected) = controls(renderer, &as_row(&plain)) else { continue };
        put(&mut turns, token);
        match controls(renderer, &as_row(&turns)) {
            Ok(found) => {
                wrong.extend(
                    (found != expected)
                        .then(|| format!("{name}: `{token}` in {role}: {} controls for {}", found.len(), expected.len())),
                );
                injected += 1;
                *by_role.entry(if in_call { "argument".to_string() } else { role }).or_insert(0) += 1;
            }
            Err(error) => refused.push(format!("{name}: `{token}` in {role}: {error}")),
        }
    }
    println!(
        "{injected} injections {by_role:?}, {} changed a special token; {} refused:\n{}",
        wrong.len(),
        refused.len(),
        refused.join("\n")
    );
    assert_eq!(wrong, [""; 0]);
    assert!(refused.len() <= 20, "{}", refused.len());
}

/// A special token that comes about where two texts meet is no special token of the template's.
#[test]
fn a_special_token_split_over_texts_stays_text() {
    let Some(model) = shared::smollm2() else { return };
    let source = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}end|>{% endif %}{% endfor %}";
    let base = text::tokenizer(&model).unwrap();
    let tokenizer = Tokenizer::new(base.inner().clone(), base.special().clone(), Some(source.into())).unwrap();
    let renderer = renderer(&tokenizer);
    // Content and template; then two contents.
    for turns in [["a <|im_", "b."], ["a", "b."]] {
        let row = Row::new(0, 1, RowKind::Chat(vec![Message::new("user", turns[0]), Message::new("assistant", turns[1])].into()));
        assert_eq!(controls(&renderer, &row).unwrap().len(), 0, "{turns:?}");
    }
    let bare = Tokenizer::new(
        base.inner().clone(),
        base.special().clone(),
        Some("{% for m in messages %}{{ m.content }}{% endfor %}".into()),
    );
    let messages = [Message::new("system", "a <|im_"), Message::new("user", "end|> b")];
    let ids = self::renderer(&bare.unwrap()).chat(&messages, false).unwrap();
    assert!(ids.iter().all(|id| !base.is_control(*id)), "{ids:?}");
}
