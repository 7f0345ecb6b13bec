//! Numbers keep their text; all else is as `serde_json` has it.

use serde_json::Value as Plain;

use super::*;

const ODD: [&str; 12] = [
    "1.50",
    "1e3",
    "-0",
    "-0.0",
    "1E400",
    "0.30000000000000004",
    "0.12345678901234567",
    "18446744073709551615",
    "18446744073709551616",
    "-123456789012345678901234567890123456789012345678901234567890",
    "1.0E+2",
    "-9223372036854775808",
];

#[test]
fn numbers_keep_their_digits() {
    let text = format!("{{\"a\":[{}],\"b\":{{\"1.50\":\"1e3 \\\" 2.50\",\"c\":7}}}}", ODD.join(","));
    let value = parse(&text).unwrap();
    assert_eq!(value.to_string(), text);
    assert_eq!(serde_json::to_string(&value).unwrap(), text);
    let numbers = value["a"].as_array().unwrap();
    assert!(
        numbers
            .iter()
            .zip(ODD)
            .all(|(n, text)| format!("{n}") == text && Number::parse(text).map(Value::Number).as_ref() == Some(n))
    );
    assert_eq!((value["a"][0].as_f64(), value["a"][4].as_f64()), (Some(1.5), Some(f64::INFINITY)));
    assert_eq!((value["a"][7].as_u64(), value["a"][8].as_u64()), (Some(u64::MAX), None));
    assert_eq!((value["b"]["c"].as_u64(), value["b"]["d"][3].is_null()), (Some(7), true));
}

#[test]
fn all_else_is_as_serde_json_has_it() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let (fine, deep) = (deep(127), deep(128));
    let texts = [
        "",
        " ",
        "{",
        "[1,",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":1,}",
        "[1,]",
        "nul",
        "01",
        "1.",
        "1e",
        "-",
        "+1",
        "\"\\ud800\"",
        "\"\u{1}\"",
        "{\"a\":1} x",
        "{\"a\": 1, \"b\": [true, null, \"\\u00e9\"], \"a\": 2}",
        "[1.5, 2.5, \"3.5\", 1.5e3]",
        "\"\\q\"",
        "{1:2}",
        "[1.5 2]",
        fine.as_str(),
        deep.as_str(),
    ];
    for text in texts {
        match (parse(text), serde_json::from_str::<Plain>(text)) {
            (Ok(ours), Ok(plain)) => assert_eq!(serde_json::from_str::<Plain>(&ours.to_string()).unwrap(), plain),
            (Err(ours), Err(plain)) => assert_eq!(ours.to_string(), plain.to_string()),
            (ours, plain) => panic!("{text}: {ours:?}, not {plain:?}"),
        }
    }
}

#[test]
fn what_is_wrong_behind_a_large_number_is_told_at_its_place() {
    let error = parse("{\"a\": 1E400,\n \"b\": nul}").unwrap_err();
    assert_eq!((error.line(), error.column()), (2, 10));
    let (value, end) = parse_first(" [1E400, {\"a\": 2.50}], [").unwrap();
    assert_eq!((value.to_string(), end), ("[1E400,{\"a\":2.50}]".to_string(), 21));
}

#[test]
fn only_json_is_a_number() {
    for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "NaN", "+1", "1_0", "0x1", "1 "] {
        assert_eq!(Number::parse(text), None, "{text}");
    }
    let floats = [(1e16, "1e+16"), (1e-5, "1e-05"), (0.1, "0.1"), (1000.0, "1000.0"), (-0.0, "-0.0")];
    assert!(floats.iter().all(|(x, text)| Number::from_f64(*x).unwrap().to_string() == *text));
    assert_eq!(Number::from_f32(0.1).unwrap().to_string(), "0.1");
    assert_eq!(Number::from_f64(f64::NAN), None);
}

#[test]
fn text_is_changed_where_asked_and_nowhere_else() {
    let text = r#" {"a" : [ 1.50,  {"k": "x"} , "x"], "b":"y", "a": "x" } "#;
    let changed = map_strings(text, |s| (s == "x").then(|| "\"é".to_string()));
    assert_eq!(changed, r#" {"a" : [ 1.50,  {"k": "\"é"} , "\"é"], "b":"y", "a": "\"é" } "#);
    assert_eq!(&text[place_of(text, "a").unwrap()], "\"x\"");
    assert_eq!(&text[place_of(text, "b").unwrap()], "\"y\"");
    assert_eq!(place_of(text, "c"), None);
    assert_eq!(with_entry("{ }", "k", "1"), "{\"k\":1 }");
    assert_eq!(with_entry(r#"{"k": 2, "l": 3}"#, "k", "1"), r#"{"k": 1, "l": 3}"#);
    let list = r#"[ 1, {"a": [2, 3]} ,"]", 4.50 ]"#;
    assert_eq!(items(list).into_iter().map(|place| &list[place]).collect::<Vec<_>>(), ["1", r#"{"a": [2, 3]}"#, "\"]\"", "4.50"]);
    assert_eq!(one_line("{\n  \"a\": [\n    1.50,\r\n    \"b\\n  c\"\n  ]\n}\n"), r#"{"a": [1.50, "b\n  c"]}"#);
}
