//! Which shape a file has, and what is wrong with a row: one table each.

use super::detect::label;
use super::{Converted, Reader};
use crate::data::read::row::{Message, RowKind};
use crate::data::read::source::RawRow;
use crate::error::Result;
use crate::recipe::{Shape, Source};

const PATH: &str = "a.jsonl";

pub(super) fn raw(lines: &[&str]) -> Vec<RawRow> {
    lines.iter().enumerate().map(|(i, l)| RawRow { line: i + 1, fields: serde_json::from_str(l).unwrap() }).collect()
}

pub(super) fn with(source: Source, lines: &[&str]) -> Result<(Shape, Vec<Option<RowKind>>, Vec<String>)> {
    let rows = raw(lines);
    let mut reader = Reader::new(PATH.as_ref(), &source, &rows)?;
    let mut kinds = Vec::new();
    for row in &rows {
        match reader.convert(row)? {
            Converted::Row(kind) => kinds.push(Some(kind)),
            Converted::Rows(pieces) => kinds.extend(pieces.into_iter().map(|p| p.became.ok())),
            Converted::Empty | Converted::Dropped(_) => kinds.push(None),
        }
    }
    Ok((reader.shape, kinds, reader.ignored.rows().into_keys().collect()))
}

fn read(lines: &[&str], columns: &[(&str, &str)], asked: Option<Shape>) -> Result<(Shape, Vec<Option<RowKind>>, Vec<String>)> {
    let columns = columns.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    with(Source { columns, shape: asked, ..Source::default() }, lines)
}

fn chat(turns: &[(&str, &str)]) -> Option<RowKind> {
    Some(RowKind::Chat(turns.iter().map(|(r, c)| Message::new(*r, *c)).collect::<Vec<_>>().into()))
}

const OPENAI: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;

#[test]
fn every_shape_is_recognised() {
    let sharegpt = r#"{"id":1,"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#;
    let alpaca = r#"{"instruction":"a","input":null,"output":"b","text":"a b"}"#;
    let alpaca_row = RowKind::Alpaca { instruction: "a".into(), input: String::new(), output: "b".into(), system: None };
    let completion = r#"{"prompt":"a","completion":"b"}"#;
    let table = [
        (OPENAI, "messages", chat(&[("user", "a"), ("assistant", "b")])),
        (sharegpt, "sharegpt", chat(&[("user", "a"), ("assistant", "b")])),
        (alpaca, "alpaca", Some(alpaca_row)),
        (completion, "completion", Some(RowKind::Completion { prompt: "a".into(), completion: "b".into() })),
        (r#"{"text":"a"}"#, "text", Some(RowKind::Text("a".into()))),
        (r#"{"text":" \n"}"#, "text", None),
        (r#"{"prompt":"a","completion":" "}"#, "completion", None),
        (r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":" "}]}"#, "messages", None),
    ];
    for (line, shape, expect) in table {
        let (found, rows, _) = read(&[line], &[], None).unwrap();
        assert_eq!((label(found), &rows[0]), (shape, &expect), "{line}");
    }
}

#[test]
fn roles_parts_and_turns_after_the_last_answer() {
    let line = r#"{"system":"s","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"f()"},
        {"from":"observation","value":"1"},{"role":"assistant","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]},
        {"from":"human","value":"thanks"}]}"#;
    let turns = [("system", "s"), ("user", "q"), ("assistant", "f()"), ("tool", "1"), ("assistant", "xy")];
    assert_eq!(read(&[line], &[], None).unwrap().1[0], chat(&turns));
}

#[test]
fn the_whole_file_decides_and_not_its_first_row() {
    // The first row alone would be Alpaca's.
    let lines =
        [r#"{"instruction":"a","output":"b","prompt":"a","completion":"b"}"#, r#"{"prompt":"c","completion":"d","note":1}"#];
    let (shape, rows, ignored) = read(&lines, &[], None).unwrap();
    assert_eq!((shape, rows.len()), (Shape::Completion, 2));
    assert_eq!(ignored, ["instruction", "note", "output"]);
}

#[test]
fn columns_are_mapped() {
    let line = r#"{"question":"a","answer":"b"}"#;
    let (shape, _, ignored) = read(&[line], &[("instruction", "question"), ("output", "answer")], None).unwrap();
    assert_eq!((shape, ignored.len()), (Shape::Alpaca, 0));
    let line = r#"{"dialogue":[{"who":"user","says":"a"},{"who":"assistant","says":"b","mood":0}]}"#;
    let (_, rows, ignored) = read(&[line], &[("messages", "dialogue"), ("role", "who"), ("content", "says")], None).unwrap();
    let Some(RowKind::Chat(read)) = &rows[0] else { panic!("{rows:?}") };
    let said: Vec<_> = read.messages.iter().map(|m| (m.role.as_str(), m.content.as_str(), m.fields.len())).collect();
    assert_eq!(said, [("user", "a", 0), ("assistant", "b", 1)]);
    // A template may read it; that none is known to is said where no template does.
    assert_eq!((&read.messages[1].fields["mood"], ignored), (&0i64.into(), vec!["message.mood".to_string()]));
}

#[test]
fn what_is_wrong_names_line_reason_and_remedy() {
    let with = |messages: &str| format!(r#"{{"messages":{messages}}}"#);
    let user = r#"{"role":"user","content":"a"}"#;
    let table = [
        (
            vec![OPENAI.to_string(), r#"{"text":"a"}"#.into()],
            ":2: rows of differing shapes: line 1 is `messages`, line 2 is `text`",
        ),
        (vec![OPENAI.to_string(), r#"{"question":"a"}"#.into()], ":2: no known shape fits this row; its columns are `question`"),
        (vec![r#"{"text":1}"#.into()], ":1: `text` must be a string, this is a number"),
        (vec![with(r#""hi""#)], ":1: `messages` must be an array of messages, this is a string"),
        (vec![with("[]")], ":1: the conversation is empty"),
        (vec![with(&format!("[{user}]"))], ":1: no assistant turn, so nothing to learn; roles: user"),
        (vec![with(r#"["a"]"#)], "message 1 must be an object, this is a string"),
        (vec![with(r#"[{"role":"user"}]"#)], "message 1 has neither `content` nor `value`; its keys are `role`"),
        (vec![with(r#"[{"role":1,"content":"a"}]"#)], "message 1: `role` must be a string, this is a number"),
        (vec![with(r#"[{"role":"user","content":null}]"#)], "message 1: the content must be a string, this is null"),
        (vec![with(r#"[{"role":"asistant","content":"a"}]"#)], "unknown role `asistant`\n  help: did you mean `assistant`?"),
        (vec![with(r#"[{"role":"user","content":[{"type":"image_url"}]}]"#)], "a part that is not text (image_url)"),
        (vec![with(r#"[{"role":"assistant","content":"","tool_calls":[{}]}]"#)], "message 1: call 1: the function has no `name`"),
    ];
    for (lines, expect) in table {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let error = read(&lines, &[], None).unwrap_err().to_string();
        assert!(error.contains(expect) && error.starts_with(PATH) && error.contains("help: "), "{lines:?}: {error}");
    }
    let table = [
        (("instrution", "text"), None, "`instrution`, which is not one of our fields\n  help: did you mean `instruction`?"),
        (("text", "body"), None, "no row has the column `body`"),
        (("text", "text"), Some(Shape::Alpaca), ":1: shape `alpaca` needs `instruction` and `output`, the row has `text`"),
    ];
    for (column, asked, expect) in table {
        let error = read(&[r#"{"text":"a"}"#], &[column], asked).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}
