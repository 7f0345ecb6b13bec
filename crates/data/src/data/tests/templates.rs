//! Which template a row gets, what of its messages the template sees, and the same template as it is kept.

use crate::data::*;
use crate::recipe::{Data, Source, Template, TemplateKind};
use crate::tokenizer::byte_level::{CHATML, bpe, chatml, llama, with_file};

/// Says the tools and the calls, and ends turns with another token than ChatML does.
const TOOL_USE: &str = "{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<call {{ c.function.name }}>{% endfor %}</s>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn named(templates: &[(&str, &str)]) -> Tokenizer {
    chatml().with_chat_templates(ChatTemplates::named(templates.iter().map(|(n, t)| (n.to_string(), t.to_string()))))
}

fn renderer(tokenizer: Tokenizer) -> Renderer {
    Renderer::new(tokenizer, &Template::default()).unwrap()
}

fn asked(tools: bool) -> Row {
    let tools = tools.then(|| serde_json::json!([{"type": "function", "function": {"name": "rain"}}]).into());
    let messages = vec![Message::new("user", "q"), Message::new("assistant", "a")];
    Row::new(0, 1, RowKind::Chat(Conversation { messages, tools }))
}

/// The text of a row, and of what it carries loss on.
fn text(renderer: &Renderer, row: &Row) -> [String; 2] {
    let example = renderer.example(row).unwrap();
    let decode = |ids: &[u32]| renderer.tokenizer().decode(ids, false).unwrap();
    let trained: Vec<u32> = example.ids.iter().zip(&example.trained).filter(|(_, t)| **t).map(|(id, _)| *id).collect();
    [decode(&example.ids), decode(&trained)]
}

#[test]
fn a_row_with_tools_gets_the_template_for_tools() {
    let both = renderer(named(&[("default", CHATML), ("tool_use", TOOL_USE)]));
    let plain = text(&both, &asked(false));
    assert_eq!(plain, text(&renderer(chatml()), &asked(false)));
    let with = ["[rain]<|im_start|>user\nq</s>\n<|im_start|>assistant\na</s>\n", "a</s>"].map(String::from);
    assert_eq!(text(&both, &asked(true)), with);
    let prompt = both.prompt(&asked(true)).unwrap().unwrap();
    let prompt = both.tokenizer().decode(&prompt.ids, false).unwrap();
    assert_eq!(prompt, "[rain]<|im_start|>user\nq</s>\n<|im_start|>assistant\n");
    // Answers of either kind end by themselves.
    let ends = ["<|im_end|>", "</s>"].map(|t| bpe().token_to_id(t).unwrap());
    assert_eq!(both.stop_ids(), ends);
    // Without one for tools, the other serves, and says the tools in its own way.
    let one = renderer(named(&[("default", CHATML), ("rag", "R")]));
    assert_eq!(text(&one, &asked(true)), text(&renderer(chatml()), &asked(true)));
}

#[test]
fn a_row_without_a_template_of_its_kind_is_refused_by_name() {
    let tools_only = renderer(named(&[("tool_use", TOOL_USE), ("rag", "R")]));
    assert!(text(&tools_only, &asked(true))[0].starts_with("[rain]"));
    let error = tools_only.example(&asked(false)).unwrap_err().to_string();
    assert!(error.contains("no `default` among them; there are: rag, tool_use"), "{error}");
    let broken = renderer(named(&[("default", CHATML), ("tool_use", "\n{% if %}")]));
    broken.example(&asked(false)).unwrap();
    let error = broken.example(&asked(true)).unwrap_err().to_string();
    assert!(error.contains("tool_use of the model line 2: syntax error"), "{error}");
}

#[test]
fn every_template_counts_for_what_tokens_follow_from() {
    let of = |tool_use: &str| renderer(named(&[("default", CHATML), ("tool_use", tool_use)])).fingerprint().unwrap();
    assert_ne!(of("A"), of("B"));
    assert_eq!(of("A"), of("A"));
}

#[test]
fn a_directory_names_templates_in_files_too() {
    let dir = tempfile::tempdir().unwrap();
    bpe().save(dir.path().join("tokenizer.json"), false).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("tokenizer_config.json", r#"{"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]}"#);
    let read = || Tokenizer::from_dir(dir.path()).unwrap().chat_templates().clone();
    assert_eq!((read().source(false), read().source(true)), (Some("D"), Some("T")));
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "T2");
    // Files replace what the configuration says, all of it.
    assert_eq!((read().source(false), read().source(true)), (None, Some("T2")));
    write("chat_template.jinja", "D2");
    assert_eq!((read().source(false), read().source(true)), (Some("D2"), Some("T2")));
    write("tokenizer_config.json", r#"{"chat_template":7}"#);
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    std::fs::remove_dir_all(dir.path().join("additional_chat_templates")).unwrap();
    let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
    assert!(error.contains("`chat_template` is neither a text nor a list"), "{error}");
}

/// What is loaded of a file of rows: the text of the first one, what of it carries loss (special tokens left out), and the keys that nothing reads.
fn loaded(template: &str, rows: &str) -> ([String; 2], Vec<String>) {
    with_file("a.jsonl", rows, |path| {
        let renderer = renderer(named(&[("default", template)]));
        let data = Data::of(vec![Source { path: path.to_path_buf(), ..Source::default() }]);
        let loaded = load(&data, &renderer, 200, 0).unwrap();
        let first = loaded.train.iter().next().unwrap();
        let decode = |ids: &[u32], skip: bool| renderer.tokenizer().decode(ids, skip).unwrap();
        let trained: Vec<u32> = first.ids.iter().zip(first.trained.iter()).filter(|(_, t)| *t).map(|(id, _)| *id).collect();
        ([decode(first.ids, false), decode(&trained, true)], loaded.report.sources[0].ignored.keys().cloned().collect())
    })
}

#[test]
fn every_key_of_a_message_reaches_the_template_in_training() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.thinking %}[{{ m.thinking }}]{% endif %}{{ m.content }}{% if m.mood is defined %}({{ m.mood }}){% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let row = r#"{"messages":[{"role":"user","content":"2+2?","thinking":null,"id":7},{"role":"assistant","content":"4","thinking":"two and two","mood":3}]}"#;
    let (text, ignored) = loaded(template, row);
    assert_eq!(text[0], "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[two and two]4(3)<|im_end|>\n");
    assert_eq!(text[1], "[two and two]4(3)");
    // `m.thinking` is read, `id` is in no word of the template.
    assert_eq!(ignored, ["message.id"]);
    let (plain, ignored) = loaded(CHATML, row);
    assert_eq!(plain[1], "4");
    assert_eq!(ignored, ["message.id", "message.mood", "message.thinking"]);
    // Special tokens that someone wrote into such a key are text.
    let (text, _) = loaded(template, &row.replace("two and two", "<|im_end|>"));
    assert_eq!(text[1], "[<|im_end|>]4(3)");
}

fn turns(turns: &[(&str, &str)]) -> Row {
    Row::new(0, 1, RowKind::Chat(turns.iter().map(|(r, c)| Message::new(*r, *c)).collect::<Vec<_>>().into()))
}

/// Conversations that end with an answer.
fn conversations() -> Vec<Row> {
    vec![
        turns(&[("user", "q"), ("assistant", "a")]),
        turns(&[("system", "be it's \\ {{ x }}"), ("user", " q \n"), ("assistant", "\n a ")]),
        turns(&[("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]),
        turns(&[("user", "<|im_end|> and </s>"), ("assistant", "{% if %} <s>")]),
        turns(&[("system", "s"), ("user", ""), ("assistant", "a"), ("user", "b"), ("assistant", "c")]),
        turns(&[("assistant", "a"), ("user", "b"), ("assistant", "c")]),
        turns(&[("user", "b"), ("user", "c"), ("assistant", "c")]),
    ]
}

#[test]
fn a_template_as_it_is_kept_renders_the_same_tokens() {
    let kinds = [TemplateKind::Model, TemplateKind::Alpaca, TemplateKind::Instruction];
    let systems = [None, Some("Be 'brief'.\n{{ odd }} {% x %} {# y #} \\n \u{7} – ü".to_string())];
    for (kind, system) in kinds.iter().flat_map(|kind| systems.iter().map(move |system| (kind, system))) {
        for tokenizer in [chatml(), llama(Some(CHATML)), llama(None)] {
            let trained = Template { kind: kind.clone(), system: system.clone(), ..Template::default() };
            let trained = Renderer::new(tokenizer.clone(), &trained).unwrap();
            if trained.chat_templates().is_empty() {
                continue;
            }
            // What a merged model has: the template alone, without the recipe's system message.
            let merged = renderer(tokenizer.with_chat_templates(trained.chat_templates().clone()));
            assert_eq!(merged.stop_ids(), trained.stop_ids(), "{kind:?}");
            for row in conversations() {
                let said = |r: &Renderer| {
                    let example = r.example(&row).map(|e| (e.ids, e.trained)).map_err(|_| "refused");
                    (example, r.prompt(&row).map(|p| p.map(|p| p.ids)).map_err(|_| "refused"))
                };
                assert_eq!(said(&merged), said(&trained), "{kind:?} {system:?} {row:?}");
            }
        }
    }
}

/// In the manner of Qwen2.5: tools in the system message, calls as JSON, arguments an object.
const QWEN: &str = "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}Calls as <tool_call>\n{\"name\": name, \"arguments\": object}\n</tool_call><|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A question, a call with `arguments`, its result.
fn calling(arguments: serde_json::Value) -> Vec<Message> {
    let mut call = Message::new("assistant", "");
    let function = serde_json::json!([{"id": "c1", "type": "function", "function": {"name": "rain", "arguments": arguments}}]);
    call.fields.insert("tool_calls".into(), function.into());
    let mut result = Message::new("tool", "3 mm");
    result.fields.insert("tool_call_id".into(), "c1".into());
    vec![Message::new("user", "q"), call, result]
}

#[test]
fn a_served_conversation_with_tools_is_what_training_renders() {
    let tool = serde_json::json!({"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}});
    let tools = [crate::json::Value::from(&tool)];
    for source in [QWEN, TOOL_USE] {
        let renderer = renderer(named(&[("default", source)]));
        let mut messages = calling(serde_json::json!({"at": "Ulm"}));
        let object = renderer.chat_with_tools(&messages, &tools, true).unwrap();
        messages.push(Message::new("assistant", "a"));
        let row = Row::new(0, 1, RowKind::Chat(Conversation { messages, tools: Some(serde_json::json!([tool]).into()) }));
        assert_eq!(renderer.prompt(&row).unwrap().unwrap().ids, object);
        // The API's arguments are JSON in a string, and a tool may be its function alone.
        let text = calling(serde_json::json!("{\"at\": \"Ulm\"}"));
        let bare = [crate::json::Value::from(&tool["function"])];
        assert_eq!(renderer.chat_with_tools(&text, &bare, true).unwrap(), object);
        let decoded = renderer.tokenizer().decode(&object, false).unwrap();
        assert!(source == TOOL_USE || decoded.contains("{\"name\": \"rain\", \"arguments\": {\"at\": \"Ulm\"}}"), "{decoded}");
        let plain = [Message::new("user", "q")];
        assert_eq!(renderer.chat_with_tools(&plain, &[], true).unwrap(), renderer.chat(&plain, true).unwrap());
    }
}

#[test]
fn tools_that_a_template_does_not_read_stand_in_the_system_message_as_in_training() {
    let tools = [crate::json::Value::from(serde_json::json!({"name": "rain"}))];
    let asked = [Message::new("user", "q")];
    let unread = format!("{{# no tools #}}{CHATML}");
    let fixed = Template { kind: TemplateKind::Instruction, ..Template::default() };
    for renderer in [renderer(chatml()), Renderer::new(chatml(), &fixed).unwrap()] {
        let served = renderer.chat_with_tools(&asked, &tools, true).unwrap();
        let messages = vec![asked[0].clone(), Message::new("assistant", "a")];
        let given = serde_json::json!([{"type": "function", "function": {"name": "rain"}}]);
        let row = Row::new(0, 1, RowKind::Chat(Conversation { messages, tools: Some(given.into()) }));
        assert_eq!(renderer.prompt(&row).unwrap().unwrap().ids, served);
        assert!(renderer.tokenizer().decode(&served, false).unwrap().contains("rain") && !renderer.reads_tools());
        assert_eq!(renderer.chat_with_tools(&asked, &[], true).unwrap(), renderer.chat(&asked, true).unwrap());
    }
    let mentioned = renderer(named(&[("default", &unread)]));
    let error = mentioned.chat_with_tools(&asked, &tools, true).unwrap_err().to_string();
    assert!(error.contains("does not write them"), "{error}");
    let qwen = renderer(named(&[("default", QWEN)]));
    let error =
        |messages: &[Message], tools: &[crate::json::Value]| qwen.chat_with_tools(messages, tools, true).unwrap_err().to_string();
    assert!(error(&calling(serde_json::json!("{")), &tools).contains("message 2: call 1: `arguments` of `rain` is not JSON"));
    assert!(error(&asked, &[serde_json::json!({}).into()]).contains("tool 1 has no `name`"));
}

/// An encoder reads prompts by themselves, as its tokenizer ends them: in training, before an answer, and where a text is given.
#[test]
fn a_prompt_that_an_encoder_reads_ends_where_its_answer_begins() {
    let special = Special { eos: Some("</s>".into()), ends_prompts: true, ..Special::default() };
    let renderer = renderer(Tokenizer::new(bpe(), special, None).unwrap());
    let row = Row::new(0, 1, RowKind::Completion { prompt: "q".into(), completion: "a".into() });
    assert_eq!(text(&renderer, &row), ["q</s>a</s>", "a</s>"].map(String::from));
    let decode = |ids: &[u32]| renderer.tokenizer().decode(ids, false).unwrap();
    assert_eq!(decode(&renderer.prompt(&row).unwrap().unwrap().ids), "q</s>");
    assert_eq!(decode(&renderer.tokenizer().encode_prompt("q").unwrap()), "q</s>");
    assert_eq!(decode(&renderer.tokenizer().encode_prompt("q</s>").unwrap()), "q</s>");
    let (prompt, whole) = renderer.followed("q", false, &["a".into(), "b".into()]).unwrap();
    assert_eq!((prompt, decode(&whole[1])), (2, "q</s>b".to_string()));
}
