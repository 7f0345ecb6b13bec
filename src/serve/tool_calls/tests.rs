//! Each form, what looks like it, an answer cut anywhere, and what the grammars admit.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;
use serde_json::json;
use toktrie::ApproximateTokEnv;

use super::*;

const FORMS: [Form; 6] = [Form::Hermes, Form::HermesList, Form::Llama, Form::MistralList, Form::MistralNamed, Form::QwenXml];

fn tools() -> Vec<Tool> {
    let rain = json!({"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {
        "place": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["mm", "1"]}, "note": {"type": ["string", "null"]},
        "at": {"$ref": "#/$defs/at"}}, "required": ["place"],
        "$defs": {"at": {"type": "array", "items": {"type": "number"}}}}}});
    let now = json!({"name": "now"});
    [rain, now].map(|t| Tool::of(&t.into()).unwrap()).into()
}

fn call(name: &str, arguments: &str) -> Call {
    Call { name: name.into(), arguments: arguments.into() }
}

/// What a model of this form writes to call `rain` and, where it can, `now`.
fn example(form: Form) -> &'static str {
    match form {
        Form::Hermes => {
            "<tool_call>\n{\"name\": \"rain\", \"arguments\": {\"place\": \"Ulm\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
        }
        Form::HermesList => {
            "<tool_call>[{\"name\": \"rain\", \"arguments\": {\"place\": \"Ulm\", \"days\": 2}}, {\"name\": \"now\", \"arguments\": {}}]</tool_call>"
        }
        Form::Llama => "{\"name\": \"rain\", \"parameters\": {\"place\": \"Ulm\", \"days\": 2}}",
        Form::MistralList => {
            "[TOOL_CALLS] [{\"name\": \"rain\", \"arguments\": {\"place\": \"Ulm\", \"days\": 2}}, {\"name\": \"now\", \"arguments\": {}}]"
        }
        Form::MistralNamed => "[TOOL_CALLS]rain[ARGS]{\"place\": \"Ulm\", \"days\": 2}[TOOL_CALLS]now[ARGS]{}",
        Form::QwenXml => {
            "<tool_call>\n<function=rain>\n<parameter=place>\nUlm\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
        }
    }
}

fn expected(form: Form) -> Vec<Call> {
    let mut calls = vec![call("rain", "{\"place\":\"Ulm\",\"days\":2}"), call("now", "{}")];
    calls.truncate(if form == Form::Llama { 1 } else { 2 });
    calls
}

fn found(form: Form, text: &str) -> (Option<String>, Vec<Call>) {
    let parsed = parse(form, text, &tools());
    (parsed.content, parsed.calls)
}

#[test]
fn each_form_is_read() {
    for form in FORMS {
        assert_eq!(found(form, example(form)), (None, expected(form)), "{form:?}");
        assert_eq!(parse(form, example(form), &tools()).remark, None);
        // White space about an answer of calls alone is not content.
        assert_eq!(found(form, &format!("\n{}\n", example(form))), (None, expected(form)), "{form:?}");
        let (content, calls) = found(form, &format!("{}\n\nThat is all.", example(form)));
        assert_eq!((content.as_deref(), calls), (Some("That is all."), expected(form)), "{form:?}");
    }
}

#[test]
fn text_before_a_call_is_content() {
    for form in FORMS.into_iter().filter(|form| *form != Form::Llama) {
        let (content, calls) = found(form, &format!("I look:\n\n{}", example(form)));
        assert_eq!((content.as_deref(), calls), (Some("I look:"), expected(form)), "{form:?}");
        let (content, _) = found(form, &format!("a\n{}\nb", example(form)));
        assert!(content.unwrap().starts_with("a\n"), "{form:?}");
    }
    let tagged = format!("I look: <|python_tag|>{}", example(Form::Llama));
    assert_eq!(found(Form::Llama, &tagged), (Some("I look:".into()), expected(Form::Llama)));
    // Without the tag, JSON in the midst of an answer is JSON.
    let shown = format!("Write {}", example(Form::Llama));
    assert_eq!(found(Form::Llama, &shown), (Some(shown.clone()), vec![]));
}

#[test]
fn what_models_write_besides_is_read() {
    let one = vec![call("now", "{}")];
    let both = vec![call("now", "{}"), call("rain", "{\"place\":\"a } \\\"b\"}")];
    let cases = [
        (Form::Hermes, "<tool_call>{\"name\":\"now\"}</tool_call>", &one),
        (Form::Hermes, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n", &one),
        (Form::Hermes, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool", &one),
        (
            Form::Hermes,
            "<tool_call>{\"name\":\"now\"}\n{\"name\":\"rain\",\"arguments\":{\"place\":\"a } \\\"b\"}}</tool_call>",
            &both,
        ),
        (Form::Llama, "<|python_tag|>{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}", &one),
        (
            Form::Llama,
            "{\"name\":\"now\",\"parameters\":{}}; {\"name\":\"rain\",\"arguments\":\"{\\\"place\\\":\\\"a } \\\\\\\"b\\\"}\"}",
            &both,
        ),
        (Form::MistralNamed, "[TOOL_CALLS]now[CALL_ID]abc123[ARGS]{}", &one),
        (Form::MistralNamed, "[TOOL_CALLS]now{}", &one),
        (Form::MistralNamed, "[TOOL_CALLS] [{\"name\":\"now\",\"arguments\":{},\"id\":\"abc\"}]", &one),
    ];
    for (form, text, calls) in cases {
        assert_eq!(found(form, text), (None, calls.clone()), "{text}");
    }
    // Numbers stay as they were written; what a string holds ends nothing.
    let text = "<tool_call>\n{\"name\": \"rain\", \"arguments\": {\"days\": 1.50, \"place\": \"</tool_call>\"}}\n</tool_call>";
    assert_eq!(found(Form::Hermes, text).1, [call("rain", "{\"days\":1.50,\"place\":\"</tool_call>\"}")]);
}

#[test]
fn parameters_in_xml_have_the_types_of_the_schema() {
    let text = "<tool_call><function=rain><parameter=place>\n7\n</parameter><parameter=days>7</parameter>\
        <parameter=unit>1</parameter><parameter=at>\n[1.0, 2]\n</parameter><parameter=odd>True</parameter></function></tool_call>";
    let text = text.replace("<parameter=odd>", "<parameter=note>None</parameter><parameter=odd>");
    let arguments = r#"{"place":"7","days":7,"unit":"1","at":[1.0,2],"note":null,"odd":"True"}"#;
    assert_eq!(found(Form::QwenXml, &text), (None, vec![call("rain", arguments)]));
    let text = "<tool_call>\n<function=rain>\n<parameter=place>\n a\n</parameter> b\n\n</parameter>\n</function>\n</tool_call>";
    assert_eq!(found(Form::QwenXml, text).1, [call("rain", "{\"place\":\" a\\n</parameter> b\\n\"}")]);
    let text = "<tool_call>\n<function=rain>\n<parameter=days>\nNone\n</parameter>\n</function>";
    assert_eq!(found(Form::QwenXml, text).1, [call("rain", "{\"days\":null}")]);
}

#[test]
fn what_is_no_call_stays_as_it_is() {
    let cases = [
        (Form::Hermes, " <tool_call>\n{\"name\": \"snow\", \"arguments\": {}}\n</tool_call>\n", "`snow` is called"),
        (Form::Hermes, "<tool_call>\n{\"name\": \"rain\", \"arguments\": {\"place\": }}\n</tool_call>", "not valid JSON"),
        (Form::Hermes, "<tool_call>{\"name\": \"rain\", \"arguments\": [1]}</tool_call>", "no JSON object"),
        (Form::Hermes, "<tool_call>{\"name\": \"now\"}} </tool_call>", "followed by other text"),
        (Form::Hermes, "<tool_call>{\"name\": \"now\"", "cut off"),
        (Form::Hermes, "Write <tool_call> to call.", "not followed by a call"),
        (Form::HermesList, "<tool_call>[]</tool_call>", "empty"),
        (Form::Llama, "<|python_tag|>brave.call(query=\"x\")", "not followed by a call"),
        (Form::Llama, "{\"name\": \"snow\", \"parameters\": {}}", "`snow` is called"),
        (Form::MistralList, "[TOOL_CALLS] [{\"name\": \"snow\", \"arguments\": {}}]", "`snow` is called"),
        (Form::MistralNamed, "[TOOL_CALLS]snow[ARGS]{}", "`snow` is called"),
        (Form::MistralNamed, "[TOOL_CALLS]now[ARGS]{]", "not valid JSON"),
        (Form::MistralNamed, "[TOOL_CALLS]now, please", "not followed by a call"),
        (Form::QwenXml, "<tool_call>\n<function=snow>\n</function>\n</tool_call>", "`snow` is called"),
        (Form::QwenXml, "<tool_call>\n<function=rain>\n<parameter=place>\nUlm\n</function>", "cut off"),
        (Form::QwenXml, "<tool_call>\n<function=rain>\nUlm</function>", "not followed by a call"),
    ];
    for (form, text, why) in cases {
        let parsed = parse(form, text, &tools());
        assert_eq!((parsed.content.as_deref(), parsed.calls), (Some(text), vec![]), "{form:?}");
        let remark = parsed.remark.unwrap_or_default();
        assert!(remark.contains(why), "{text}: {remark}");
    }
    // Other JSON in an answer's place says nothing of calls.
    for text in ["{\"answer\": 3}", "{\"name\": \"rain\"}", "[1]", "", " ", "3 < 4 [and] ;"] {
        for form in FORMS {
            let content = Some(text.to_string()).filter(|text| !text.is_empty());
            assert_eq!(parse(form, text, &tools()), Parsed { content, ..Parsed::default() }, "{form:?}");
        }
    }
    // A call after what was none is found.
    let text = format!("<tool_call>{{\"name\": 1}}{}", example(Form::Hermes));
    assert_eq!(found(Form::Hermes, &text), (Some("<tool_call>{\"name\": 1}".into()), expected(Form::Hermes)));
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let mut stream = ToolCallStream::new(Form::Hermes, &tools());
    let content = |text: &str| vec![Event::Content(text.into())];
    assert_eq!(stream.push("It is <"), content("It is"));
    assert_eq!(stream.push("b> 3"), content(" <b> 3"));
    assert_eq!(stream.push(" <tool_"), []);
    assert_eq!(stream.push("call>{\"name\":\"now\"}</tool_call"), []);
    assert_eq!(stream.push(">"), [Event::Call { index: 0, call: call("now", "{}") }]);
    assert_eq!(stream.push("<tool_call>x"), content(" <tool_call>x"));
    let (events, remark) = stream.finish();
    assert!(events.is_empty() && remark.is_some());
    // An answer in JSON that calls nothing is not held back to its end.
    let mut stream = ToolCallStream::new(Form::Llama, &tools());
    assert_eq!(stream.push("{\"n"), []);
    assert_eq!(stream.push("umber\": [1"), content("{\"number\": [1"));
    assert_eq!(stream.push(",2]}"), content(",2]}"));
    assert_eq!(stream.finish(), (vec![], None));
}

#[test]
fn the_form_is_the_templates() {
    let cases = [
        ("'\\n<tool_call>\\n{\"name\": \"' ~ name ~ '\", \"arguments\": ' ~ args ~ '}\\n</tool_call>'", Some(Form::Hermes)),
        ("\"<tool_call>\\n{\\\"name\\\": <function-name>, \\\"arguments\\\": <args>}\"", Some(Form::Hermes)),
        ("<tool_call>[{\"name\": \"f\", \"arguments\": {}}]</tool_call>", Some(Form::HermesList)),
        ("{\"name\": function name, \"parameters\": dictionary of argument name and its value}", Some(Form::Llama)),
        ("\"[TOOL_CALLS] [\" ~ calls ~ \"]\"", Some(Form::MistralList)),
        ("'[TOOL_CALLS]' ~ name ~ '[ARGS]' ~ arguments", Some(Form::MistralNamed)),
        ("'<tool_call>\\n<function=' ~ name ~ '>\\n<parameter=' ~ key", Some(Form::QwenXml)),
        ("<tool_call>{{ name }}<arg_key>{{ key }}</arg_key>", None),
        ("{{ message.role }}: {{ message.content }}", None),
    ];
    for (source, form) in cases {
        assert_eq!(Form::of_template(source), form, "{source}");
    }
}

/// Pieces of answers and of what looks like them.
fn answer() -> impl Strategy<Value = String> {
    let whole: Vec<String> = FORMS.map(|form| example(form).to_string()).into();
    let parts = [
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "rain",
        "now",
        "{",
        "}",
        "{}",
        "[",
        "]",
        "{\"name\":\"now\",\"parameters\":{}}",
        "\"",
        "\\",
        ";",
        " ",
        "\n",
        "é",
        "<function=now>",
        "<function=rain>",
        "</function>",
        "<parameter=days>",
        "</parameter>",
        "3",
        "word",
        "<",
        "</",
    ];
    let part = proptest::sample::select(whole.into_iter().chain(parts.map(String::from)).collect::<Vec<_>>());
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_cut_anywhere_is_the_same(text in answer(), cuts in proptest::collection::vec(1usize..9, 1..20)) {
        for form in FORMS {
            let whole = parse(form, &text, &tools());
            let mut stream = ToolCallStream::new(form, &tools());
            let (mut events, mut rest) = (Vec::new(), text.as_str());
            for long in cuts.iter().cycle() {
                let Some((end, _)) = rest.char_indices().nth(*long) else { break };
                events.extend(stream.push(&rest[..end]));
                rest = &rest[end..];
            }
            events.extend(stream.push(rest));
            let (last, remark) = stream.finish();
            events.extend(last);
            let (mut content, mut calls) = (String::new(), Vec::new());
            for event in events {
                match event {
                    Event::Content(more) => content += &more,
                    Event::Call { index, call } => {
                        prop_assert_eq!(index, calls.len());
                        calls.push(call);
                    }
                }
            }
            let content = Some(content).filter(|content| !content.is_empty());
            prop_assert_eq!(Parsed { content, calls, remark }, whole.clone());
            if whole.calls.is_empty() {
                prop_assert_eq!(whole.content.unwrap_or_default(), text.clone());
            }
        }
    }
}

/// How much of a text a grammar admits, in bytes, and whether the answer may end there.
fn admitted(grammar: &str, text: &str) -> (usize, bool) {
    let env: Arc<_> = ApproximateTokEnv::single_byte_env();
    let parser = ParserFactory::new_simple(&env).unwrap().create_parser(TopLevelGrammar::from_lark(grammar.to_string()));
    let mut matcher = Matcher::new(parser);
    assert!(!matcher.is_error(), "{:?}\n{grammar}", matcher.get_error());
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let long = matcher.try_consume_tokens(&tokens).unwrap();
    (long, matcher.is_accepting().unwrap())
}

#[test]
fn a_grammar_admits_its_forms_calls() {
    for form in FORMS {
        let forced = |tool, parallel| grammar(form, &tools(), Forced { tool, parallel }, |_| None);
        let (text, any) = (example(form), forced(None, true).unwrap());
        assert_eq!(admitted(&any, text), (text.len(), true), "{form:?}\n{any}");
        assert!(admitted(&any, "It rains.").0 == 0, "{form:?}");
        // The answers of any grammar are calls when they are read.
        assert_eq!(found(form, text), (None, expected(form)));
        let named = forced(Some("now"), true).unwrap();
        assert!(admitted(&named, text).0 < text.len(), "{form:?}");
        if form != Form::Llama {
            let one = forced(None, false).unwrap();
            assert!(admitted(&one, text).0 < text.len(), "{form:?}");
        }
        assert_eq!(forced(Some("snow"), true), None);
        assert_eq!(grammar(form, &[], Forced { tool: None, parallel: true }, |_| None), None);
    }
}

#[test]
fn a_grammar_holds_to_the_schema() {
    let any = Forced { tool: None, parallel: true };
    let hermes = grammar(Form::Hermes, &tools(), any, |_| None).unwrap();
    let begin = "<tool_call>\n{\"name\": \"rain\", \"arguments\": {\"place\": \"Ulm\", ";
    for (more, fits) in [("\"days\": 3, \"at\": [1.5, 2]}}\n</tool_call>", true), ("\"days\": \"3\"}}\n</tool_call>", false)] {
        let text = format!("{begin}{more}");
        assert_eq!(admitted(&hermes, &text) == (text.len(), true), fits, "{text}");
    }
    let xml = grammar(Form::QwenXml, &tools(), any, |_| None).unwrap();
    let begin = "<tool_call>\n<function=rain>\n<parameter=place>\nUlm <\né\n</parameter>\n<parameter=unit>\n";
    for (more, fits) in [("mm", true), ("cm", false)] {
        let text = format!("{begin}{more}\n</parameter>\n<parameter=at>\n[1, 2]\n</parameter>\n</function>\n</tool_call>");
        assert_eq!(admitted(&xml, &text) == (text.len(), true), fits, "{text}");
    }
    let text = "<tool_call>\n<function=rain>\n</function>";
    assert!(admitted(&xml, text).0 < text.len());
}

#[test]
fn markers_that_are_control_tokens_are_admitted_by_id() {
    let id = |marker: &str| (marker == "[TOOL_CALLS]").then_some(7);
    let any = Forced { tool: None, parallel: true };
    let text = example(Form::MistralNamed).replace("[TOOL_CALLS]", "\u{7}");
    let grammar = grammar(Form::MistralNamed, &tools(), any, id).unwrap();
    assert_eq!(admitted(&grammar, &text), (text.len(), true));
}
