//! Columns of nulls, messages as prompts and completions, and what nothing read.

use std::collections::BTreeMap;

use super::tests::{raw, with};
use super::{Facts, Reader};
use crate::data::read::row::{Loss, RowKind};
use crate::recipe::{Malformed, Shape, Source, Take};

fn shape(lines: &[&str]) -> Result<Shape, String> {
    with(Source::default(), lines).map(|(shape, _, _)| shape).map_err(|e| e.to_string())
}

fn unread(source: &Source, lines: &[&str]) -> BTreeMap<String, usize> {
    let rows = raw(lines);
    let mut reader = Reader::new("a.jsonl".as_ref(), source, &rows).unwrap();
    rows.iter().for_each(|row| _ = reader.convert(row).unwrap());
    reader.ignored.rows()
}

/// `concatenate_datasets` gives all rows the columns of all files.
#[test]
fn a_column_of_nulls_is_no_column() {
    let alpaca =
        r#"{"instruction":"a","input":null,"output":"b","messages":null,"chosen":null,"rejected":null,"text":null,"label":null}"#;
    let messages = r#"{"messages":[{"role":"user","content":"a","tool_calls":null,"name":null,"from":null,"value":null},
        {"role":null,"from":"gpt","content":null,"value":"b","thought":null}],"label":null,"kto_tag":null,"prompt":null,"instruction":null}"#;
    let table = [
        (vec![alpaca, alpaca], Shape::Alpaca),
        (vec![messages, messages], Shape::Messages),
        (vec![r#"{"text":"a","prompt":null,"completion":null}"#], Shape::Text),
        (vec![r#"{"prompt":"a","completion":"b","label":null}"#], Shape::Completion),
        (vec![r#"{"prompt":"a","completion":"b","label":true,"messages":null,"chosen":null,"rejected":null}"#], Shape::Labelled),
        (
            vec![r#"{"prompt":"a","chosen":"b","rejected":"c","messages":null,"conversations":null,"replies":null}"#],
            Shape::Preference,
        ),
    ];
    for (lines, expected) in table {
        let (found, rows, ignored) = with(Source::default(), &lines).unwrap();
        assert_eq!((found, ignored), (expected, vec![]), "{lines:?}");
        assert!(rows.iter().all(Option::is_some), "{lines:?}: {rows:?}");
    }
    let Some(RowKind::Chat(chat)) = &with(Source::default(), &[messages]).unwrap().1[0] else { panic!() };
    assert!(chat.messages.iter().all(|m| m.fields.is_empty()) && chat.messages[1].content == "b");
}

/// A value that some rows lack is a fault of these rows, and the file keeps the shape that it has.
#[test]
fn a_null_among_values_is_a_fault_of_its_row() {
    let table = [
        (
            vec![r#"{"instruction":"a","output":"b","text":"ab"}"#, r#"{"instruction":"a","output":null,"text":"a"}"#],
            ":2: `output` must be a string, this is null",
        ),
        (
            vec![r#"{"prompt":"a","completion":"b","label":false}"#, r#"{"prompt":"a","completion":"b","label":null}"#],
            ":2: `kto_tag` must be true or false",
        ),
        (vec![r#"{"text":null,"note":"x"}"#], "no known shape fits this row; its columns are `text` (null), `note`"),
    ];
    for (lines, expect) in table {
        let error = shape(&lines).unwrap_err();
        assert!(error.contains(expect), "{error}");
    }
    // Two files in one, each with the other's columns as nulls.
    let two = [r#"{"text":"a","messages":null}"#, r#"{"text":null,"messages":[{"role":"assistant","content":"b"}]}"#];
    assert!(shape(&two).is_err());
}

#[test]
fn facts_of_parts_are_those_of_the_whole() {
    let lines =
        [r#"{"text":"a","messages":null}"#, r#"{"text":"b"}"#, r#"{"text":"c","messages":[{"role":"assistant","content":"b"}]}"#];
    let (rows, source) = (raw(&lines), Source::default());
    let reader = Reader::new("a".as_ref(), &source, &rows).unwrap();
    let mut parts = Facts::default();
    rows.chunks(1).for_each(|part| parts.and(Facts::of(&reader, part)));
    assert_eq!(
        (parts.fitting(), parts.differing()),
        (Some(Shape::Text), vec![(1, Some(Shape::Messages)), (2, Some(Shape::Text))])
    );
    assert_eq!(Facts::of(&reader, &rows).differing(), parts.differing());
}

#[test]
fn rows_of_another_shape_are_left_out_where_the_recipe_says_so() {
    let rows = raw(&[r#"{"text":"a","prompt":null}"#, r#"{"text":null,"prompt":"b"}"#, r#"{"text":"c","prompt":null}"#]);
    let source = Source { malformed: Malformed::Drop, ..Source::default() };
    let mut reader = Reader::bare("a".as_ref(), &source);
    let facts = Facts::of(&reader, &rows);
    // The second has the column, so only reading it shows that it says nothing.
    assert_eq!(reader.fitting(&facts, rows).unwrap().len(), 3);
}

fn chat(line: &str, source: Source) -> Vec<(String, String, Loss)> {
    let rows = with(source, &[line]).unwrap().1;
    let Some(RowKind::Chat(chat)) = &rows[0] else { panic!("{rows:?}") };
    chat.messages.iter().map(|m| (m.role.clone(), m.content.clone(), m.loss.clone())).collect()
}

fn turn(role: &str, content: &str, loss: Loss) -> (String, String, Loss) {
    (role.into(), content.into(), loss)
}

const BEFORE: &str = r#""prompt":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"x"},
    {"role":"user","content":"r"}],"completion":[{"role":"assistant","content":"f"},{"role":"tool","content":"1"},
    {"role":"assistant","content":"a"},{"role":"user","content":"bye"}]"#;

#[test]
fn only_the_completion_of_a_conversation_carries_loss() {
    use Loss::{ByRole, No};
    let all = [
        turn("system", "s", No),
        turn("user", "q", No),
        turn("assistant", "x", No),
        turn("user", "r", No),
        turn("assistant", "f", ByRole),
        turn("tool", "1", ByRole),
        turn("assistant", "a", ByRole),
    ];
    assert_eq!(chat(&format!("{{{BEFORE}}}"), Source::default()), all);
    let short = [turn("user", "q", No), turn("assistant", "a", ByRole)];
    for line in [
        r#"{"prompt":"q","completion":[{"role":"assistant","content":"a"}]}"#,
        r#"{"prompt":[{"role":"user","content":"q"}],"completion":"a"}"#,
        r#"{"prompt":[{"role":"user","content":"q"}],"completion":{"role":"assistant","content":"a"}}"#,
    ] {
        assert_eq!(chat(line, Source::default()), short, "{line}");
    }
    let tools = r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}],"tools":[{"name":"f"}],"system":"s"}"#;
    let (_, rows, ignored) = with(Source::default(), &[tools]).unwrap();
    let Some(RowKind::Chat(made)) = &rows[0] else { panic!() };
    assert!(made.tools.is_some() && made.messages[0].content == "s" && ignored.is_empty());
}

#[test]
fn a_label_is_of_the_whole_completion() {
    let line = format!("{{{BEFORE},\"label\":true}}");
    let wanted = chat(&line, Source { take: Some(Take::Desirable), ..Source::default() });
    let trained: Vec<_> = wanted.iter().filter(|t| t.0 == "assistant").map(|t| (t.1.as_str(), t.2 == Loss::No)).collect();
    assert_eq!(trained, [("x", true), ("f", false), ("a", false)]);
    assert!(matches!(with(Source::default(), &[&line]).unwrap().1[0], Some(RowKind::Labelled { desirable: true, .. })));
}

#[test]
fn what_a_conversational_completion_cannot_be() {
    for (line, expect) in [
        (
            r#"{"prompt":[{"role":"assistant","content":"q"}],"completion":[{"role":"user","content":"a"}]}"#,
            ":1: `completion` has no assistant turn",
        ),
        (r#"{"prompt":[],"completion":[{"role":"assistant","content":"a"}]}"#, ":1: the conversation is empty"),
        (r#"{"prompt":1,"completion":[{"role":"assistant","content":"a"}]}"#, ":1: `prompt` must be a string or messages"),
        (
            r#"{"prompt":[{"role":"user","content":"q"}],"completion":"a","chat_template_kwargs":{"enable_thinking":false}}"#,
            ":1: `chat_template_kwargs` gives the row's template `enable_thinking`, which is not carried out",
        ),
    ] {
        let error = with(Source::default(), &[line]).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains("help: "), "{error}");
    }
    assert_eq!(
        with(Source::default(), &[r#"{"prompt":"q","completion":[{"role":"assistant","content":" "}]}"#]).unwrap().1,
        [None]
    );
}

#[test]
fn what_nothing_read_is_counted_by_rows() {
    let plain = Source::default();
    let table = [
        (vec![r#"{"text":"a","id":1,"note":""}"#, r#"{"text":"b","id":2,"note":"x"}"#], vec![("id", 2), ("note", 1)]),
        (
            vec![r#"{"messages":[{"role":"user","content":"a","mood":1},{"role":"assistant","content":"b","mood":2}]}"#],
            vec![("message.mood", 1)],
        ),
        (vec![r#"{"prompt":"a","completion":"b","tools":[{"name":"f"}],"system":"s"}"#], vec![("system", 1), ("tools", 1)]),
        (
            vec![
                r#"{"prompt":"other","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],
                "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}],"messages":[1]}"#,
            ],
            vec![("messages", 1), ("prompt", 1)],
        ),
        (
            vec![
                r#"{"prompt":"q","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],
                "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}"#,
            ],
            vec![],
        ),
        (
            vec![r#"{"prompt":"q","replies":[{"rank":0,"content":"a","by":1},{"rank":1,"content":"b","by":2}]}"#],
            vec![("reply.by", 1)],
        ),
        (vec![r#"{"prompt":"q","completion":"a","label":true,"kto_tag":false}"#], vec![("kto_tag", 1)]),
    ];
    for (lines, expected) in table {
        let expected: BTreeMap<String, usize> = expected.into_iter().map(|(k, n)| (k.to_string(), n)).collect();
        assert_eq!(unread(&plain, &lines), expected, "{lines:?}");
    }
}

#[test]
fn texts_with_classes_are_told_how_they_become_instructions() {
    let rows = raw(&[r#"{"text":"where is it","intent":"track"}"#]);
    let advice = |source: &Source| {
        let mut reader = Reader::new("rows.csv".as_ref(), source, &rows).unwrap();
        reader.convert(&rows[0]).unwrap();
        let ignored = reader.ignored.clone().rows();
        (reader.shape, reader.advice(&ignored))
    };
    let (shape, told) = advice(&Source::default());
    let told = told.unwrap();
    assert_eq!(shape, Shape::Text);
    let typed = "[[data.train]]\n  path = \"rows.csv\"\n  columns = { instruction = \"text\", output = \"intent\" }";
    assert!(told.contains(typed), "{told}");
    // What it says to type does what it says.
    let columns = vec![("instruction".into(), "text".into()), ("output".into(), "intent".into())];
    let mapped = Source { columns: columns.into_iter().collect(), ..Source::default() };
    assert_eq!(advice(&mapped), (Shape::Alpaca, None));
    assert_eq!(advice(&Source { shape: Some(Shape::Text), ..Source::default() }).1, None);
}
