//! Tool calls, preferences, labels and task files: what rows become, and what is wrong with malformed ones.

use serde_json::json;

use super::tests::with;
use crate::data::read::row::{Loss, Message, Preference, RowKind};
use crate::error::Result;
use crate::json::Value;
use crate::recipe::{Clean, Pairs, Shape, Source, Take};

fn kinds(source: Source, line: &str) -> Vec<Option<RowKind>> {
    with(source, &[line]).unwrap().1
}

fn plain(line: &str) -> Vec<Option<RowKind>> {
    kinds(Source::default(), line)
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn pair(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> Option<RowKind> {
    let prompt = prompt.iter().map(|(r, c)| message(r, c)).collect::<Vec<_>>().into();
    let (chosen, rejected) = (vec![message("assistant", chosen)], vec![message("assistant", rejected)]);
    Some(RowKind::Preference(Preference { prompt, chosen, rejected }))
}

/// Every row of the table fails at line 1 with the text, and says what to do.
fn wrong(source: &Source, table: &[(&str, &str)]) {
    for (line, expect) in table {
        let error = with(source.clone(), &[line]).unwrap_err().to_string();
        assert!(error.contains(expect) && error.starts_with("a.jsonl:1: ") && error.contains("help: "), "{line}: {error}");
    }
}

#[test]
fn calls_have_one_form() {
    let call = Value::from(json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]));
    let openai = r#"{"tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"user","content":"q"},
        {"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}]},
        {"role":"tool","tool_call_id":"1","name":"f","content":"2"},{"role":"assistant","content":"a"}]}"#;
    let sharegpt = r#"{"tools":"[{\"name\": \"f\"}]","conversations":[{"from":"human","value":"q"},
        {"from":"function_call","value":"{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from":"observation","value":"2"},{"from":"gpt","value":"a"}]}"#;
    for line in [openai, sharegpt] {
        let rows = plain(line);
        let Some(RowKind::Chat(chat)) = &rows[0] else { panic!("{rows:?}") };
        assert_eq!(chat.tools, Some(json!([{"type": "function", "function": {"name": "f"}}]).into()));
        let roles: Vec<_> = chat.messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
        assert_eq!((chat.messages[1].content.as_str(), &chat.messages[1].fields["tool_calls"]), ("", &call));
    }
    let Some(RowKind::Chat(chat)) = &plain(openai)[0] else { panic!() };
    assert_eq!(chat.messages[2].fields["tool_call_id"], "1");
    // No tool at all, and no call at all, are as if nothing had been written; an answer of nothing stays empty.
    let none = r#"{"tools":"[]","messages":[{"role":"user","content":"q"},{"role":"assistant","content":" ","tool_calls":[]}]}"#;
    assert_eq!(plain(none), [None]);
}

#[test]
fn malformed_calls() {
    let assistant = |rest: &str| format!(r#"{{"messages":[{{"role":"assistant",{rest}}}]}}"#);
    let turn = |value: &str| format!(r#"{{"conversations":[{{"from":"function_call","value":{value}}}]}}"#);
    let row = |tools: &str| format!(r#"{{"tools":{tools},"messages":[{{"role":"assistant","content":"a"}}]}}"#);
    let table = [
        (assistant(r#""tool_calls":"f""#), "message 1: `tool_calls` must be an array, this is a string"),
        (assistant(r#""tool_calls":[{"function":{}}]"#), "message 1: call 1: the function has no `name`"),
        (assistant(r#""tool_calls":[{"function":{"name":"f","arguments":"{x"}}]"#), "`arguments` of `f` is not JSON"),
        (assistant(r#""tool_calls":[{"function":{"name":"f","arguments":"1"}}]"#), "`f` must hold an object, this is a number"),
        (assistant(r#""tool_calls":[{"function":{"name":"f","arguments":[1]}}]"#), "`f` must be an object, this is an array"),
        (assistant(r#""content":null"#), "message 1: the content must be a string, this is null"),
        (turn(r#""f(1)""#), "message 1: the call is not JSON"),
        (turn(r#""[]""#), "message 1: the turn holds no call"),
        (row("1"), "`tools` must be an array, this is a number"),
        (row(r#""{""#), "`tools` is not JSON"),
        (row("[{}]"), "tool 1 has no `name`"),
    ];
    let table: Vec<_> = table.iter().map(|(l, e)| (l.as_str(), *e)).collect();
    wrong(&Source::default(), &table);
}

#[test]
fn every_form_of_a_preference() {
    let table = [
        r#"{"prompt":"q","chosen":"a","rejected":"b"}"#,
        r#"{"prompt":[{"role":"user","content":"q"}],"chosen":"a","rejected":[{"role":"assistant","content":"b"}]}"#,
        r#"{"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"}}"#,
        r#"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],
            "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#,
        r#"{"prompt":"ignored","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],
            "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#,
        r#"{"chosen":"\n\nHuman: q\n\nAssistant: a","rejected":"\n\nHuman: q\n\nAssistant: b"}"#,
        r#"{"messages":[{"role":"user","content":"q"}],"replies":[{"rank":2,"content":"b"},{"rank":0,"content":"a"},{"rank":1,"content":"m"}]}"#,
    ];
    for line in table {
        assert_eq!(plain(line), [pair(&[("user", "q")], "a", "b")], "{line}");
    }
    let ranked = table[6];
    let all = kinds(Source { pairs: Some(Pairs::All), ..Source::default() }, ranked);
    let prompt = [("user", "q")];
    assert_eq!(all, [pair(&prompt, "a", "m"), pair(&prompt, "a", "b"), pair(&prompt, "m", "b")]);
    assert_eq!(plain(r#"{"prompt":"q","chosen":"a","rejected":"a"}"#), [None]);
    assert_eq!(plain(r#"{"prompt":"q","chosen":"a","rejected":" "}"#), [None]);
}

#[test]
fn taking_one_answer_trains_it_alone() {
    let line = r#"{"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"x"},{"role":"user","content":"r"}],
        "chosen":"a","rejected":"b"}"#;
    for (take, answer) in [(Take::Chosen, "a"), (Take::Rejected, "b")] {
        let rows = kinds(Source { take: Some(take), ..Source::default() }, line);
        let Some(RowKind::Chat(chat)) = &rows[0] else { panic!("{rows:?}") };
        let last = &chat.messages[3];
        assert_eq!((last.content.as_str(), &last.loss, &chat.messages[1].loss), (answer, &Loss::ByRole, &Loss::No));
    }
}

#[test]
fn malformed_preferences() {
    wrong(
        &Source { shape: Some(Shape::Preference), ..Source::default() },
        &[
            (r#"{"prompt":"q","chosen":"a"}"#, "shape `preference` needs `chosen` and `rejected`, or `messages` and `replies`"),
            (r#"{"chosen":"a","rejected":"b"}"#, "the row has an answer and no prompt"),
            (r#"{"prompt":1,"chosen":"a","rejected":"b"}"#, "`prompt` must be a string or messages, this is a number"),
            (r#"{"prompt":"q","chosen":1,"rejected":"b"}"#, "`chosen` must be an answer, this is a number"),
            (r#"{"prompt":"q","chosen":[],"rejected":"b"}"#, "`chosen` must be an answer, this is an array"),
            (
                r#"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],
                    "rejected":[{"role":"user","content":"z"},{"role":"assistant","content":"b"}]}"#,
                "part at message 1, which is not an answer in both",
            ),
            (r#"{"prompt":"q","replies":1}"#, "`replies` must be an array, this is a number"),
            (r#"{"prompt":"q","replies":[{"content":"a"}]}"#, "reply 1 has no number `rank`"),
            (r#"{"prompt":"q","replies":[{"rank":0}]}"#, "reply 1 has no string `content`"),
        ],
    );
}

#[test]
fn labels() {
    let row =
        |label: &str| format!(r#"{{"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","content":"a"}}],{label}}}"#);
    let take = || Source { take: Some(Take::Desirable), ..Source::default() };
    for (label, expect) in [(r#""label":true"#, true), (r#""label":0"#, false), (r#""kto_tag":true"#, true)] {
        let Some(RowKind::Labelled { desirable, .. }) = plain(&row(label))[0] else { panic!("{label}") };
        assert_eq!(desirable, expect);
        assert_eq!(matches!(kinds(take(), &row(label))[0], Some(RowKind::Chat(_))), expect);
    }
    let completion = r#"{"prompt":"q","completion":"a","label":false}"#;
    assert!(matches!(plain(completion)[0], Some(RowKind::Labelled { desirable: false, .. })));
    // A class is no label of ours.
    assert!(matches!(plain(&row(r#""label":"greeting""#))[0], Some(RowKind::Chat(_))));
    let source = Source { shape: Some(Shape::Labelled), ..Source::default() };
    wrong(&source, &[(&row(r#""label":"yes""#), "`label` must be true or false, this is a string")]);
}

const TASK: &str = r#"{"Definition":["Name the colour"],"Categories":["Question Answering"],
    "Positive Examples":[{"input":"grass","output":"green","explanation":"x"},{"input":"sky?","output":"blue."},{"input":"c","output":"d"}],
    "Negative Examples":[{"input":"snow","output":"black"}],
    "Instances":[{"id":"1","input":"coal ","output":["black","dark"]},{"id":"2","input":"milk!","output":"white"}]}"#;

#[test]
fn a_task_file_is_prompted_as_tk_instruct_does() {
    let completion =
        |prompt: &str, completion: &str| Some(RowKind::Completion { prompt: prompt.into(), completion: completion.into() });
    let end = "Now complete the following example -\nInput: coal.\nOutput:";
    let positive =
        " Positive Example 1 -\nInput: grass.\n Output: green.\n\n Positive Example 2 -\nInput: sky?\n Output: blue.\n\n";
    let rows = plain(TASK);
    assert_eq!(rows[0], completion(&format!("Definition: Name the colour.\n\n{positive}{end}"), "black"));
    assert_eq!(rows.len(), 2);
    let source = Source { positive_examples: Some(0), negative_examples: Some(1), ..Source::default() };
    let negative = " Negative Example 1 -\nInput: snow.\n Output: black.\n\n";
    assert_eq!(kinds(source, TASK)[0], completion(&format!("Definition: Name the colour.\n\n{negative}{end}"), "black"));
}

#[test]
fn malformed_tasks() {
    let task = |definition: &str, positive: &str, instances: &str| {
        format!(r#"{{"Definition":{definition},"Positive Examples":{positive},"Instances":{instances}}}"#)
    };
    let table = [
        (task("[]", "[]", "[]"), "`Definition` must be a text"),
        (task("1", "[]", "[]"), "`Definition` must be a text"),
        (task(r#"["d"]"#, "1", "[]"), "`Positive Examples` must be an array, this is a number"),
        (task(r#"["d"]"#, r#"[{"input":"a"}]"#, "[]"), "`Positive Examples` number 1: `output` is not a string"),
        (task(r#"["d"]"#, "[]", "{}"), "`Instances` must be an array, this is an object"),
        (task(r#"["d"]"#, "[]", r#"[{"input":1}]"#), "instance 1: `input` is not a string"),
        (task(r#"["d"]"#, "[]", r#"[{"input":"a","output":[1]}]"#), "instance 1: `output` is neither a string nor"),
    ];
    let table: Vec<_> = table.iter().map(|(l, e)| (l.as_str(), *e)).collect();
    wrong(&Source::default(), &table);
}

#[test]
fn keys_that_mean_nothing_for_a_shape_are_refused() {
    let text = r#"{"text":"a"}"#;
    let table: [(Source, &str); 5] = [
        (Source { ghost_attention: true, ..Source::default() }, "`ghost_attention` is for conversations"),
        (Source { clean: Some(Clean::Vicuna), ..Source::default() }, "`clean` is for conversations"),
        (Source { take: Some(Take::Chosen), ..Source::default() }, "`take` is for shape `preference`"),
        (Source { pairs: Some(Pairs::All), ..Source::default() }, "`pairs` is for shape `preference`"),
        (Source { positive_examples: Some(1), ..Source::default() }, "is for shape `superni`"),
    ];
    for (source, expect) in table {
        let error: Result<_> = with(source, &[text]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains("shape `text`"), "{error}");
    }
}
