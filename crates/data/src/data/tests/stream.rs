//! Files of many chunks: the same rows, prompts and complaints as if all of the file were looked at once.

use crate::data::*;
use crate::recipe::{Data, Source, Template};
use crate::tokenizer::byte_level::{chatml, with_file};

fn load_file(text: &str, source: &Source, heldout_fraction: f64) -> crate::error::Result<Loaded> {
    with_file("a.jsonl", text, |path| {
        let source = Source { path: path.to_path_buf(), ..source.clone() };
        let data = Data { heldout_fraction, ..Data::of(vec![source]) };
        load(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 100, 7)
    })
}

/// More than a chunk of lines of four kinds: a row, nothing, an answer without a letter, and a row that is too long.
fn mixed() -> String {
    let line = |i: usize| match i % 10 {
        3 => String::new(),
        5 => format!("{{\"prompt\": \"q{i}\", \"completion\": \"  \"}}"),
        7 => format!("{{\"prompt\": \"{}\", \"completion\": \"a{i}\"}}", "long ".repeat(60)),
        _ => format!("{{\"prompt\": \"q{i}\", \"completion\": \"a{i}\"}}"),
    };
    (0..16_000).map(|i| line(i) + "\n").collect()
}

#[test]
fn rows_of_many_chunks_are_all_accounted_for_whatever_the_threads() {
    let text = mixed();
    assert!(text.len() > 1 << 20);
    let source = Source { limit: Some(9000), ..Source::default() };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load_file(&text, &source, 0.25).unwrap())
    };
    let (one, three) = (on(1), on(3));
    let report = &one.report;
    assert_eq!((report.rows_read(), report.sources[0].beyond_limit), (14_400, 12_800 - 9000));
    assert_eq!(report.rows_read(), report.rows_used() + report.dropped.len() + report.sources[0].beyond_limit);
    assert!(report.dropped.is_sorted_by_key(|d| d.line));
    let empty = report.dropped.iter().filter(|d| d.reason == Reason::Empty);
    assert!(empty.map(|d| d.line).eq((0..16_000).filter(|i| i % 10 == 5).map(|i| i + 1)));
    for examples in [&one.train, &one.heldout] {
        assert!(examples.iter().map(|e| e.line).is_sorted() && examples.iter().all(|e| (e.line - 1) % 10 != 7));
    }
    assert_eq!(one.heldout.len(), one.heldout_prompts.len());
    for (example, prompt) in one.heldout.iter().zip(one.heldout_prompts.iter()) {
        assert_eq!((prompt.line, prompt.reference), (example.line, format!("a{}", example.line - 1)));
    }
    let rows = |examples: &Examples| examples.iter().map(|e| e.to_owned()).collect::<Vec<_>>();
    let of = |path: &Report| Report { sources: Vec::new(), ..path.clone() };
    assert!(rows(&one.train) == rows(&three.train) && rows(&one.heldout) == rows(&three.heldout));
    assert!(one.heldout_prompts.iter().eq(three.heldout_prompts.iter()) && of(report) == of(&three.report));
}

/// The first chunk alone would be chats with labels.
#[test]
fn a_shape_is_that_of_the_whole_file() {
    let chat = |i: usize, label: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"q{i}\"}}, {{\"role\": \"assistant\", \"content\": \"a\"}}]{label}}}\n"
        )
    };
    let mut text: String = (0..8000).map(|i| chat(i, ", \"label\": true")).collect();
    assert!(text.len() > 512 << 10);
    text += &chat(8000, "");
    let loaded = load_file(&text, &Source::default(), 0.0).unwrap();
    assert_eq!((loaded.train.len(), loaded.report.sources[0].shape), (8001, crate::recipe::Shape::Messages));
    assert_eq!(loaded.report.sources[0].ignored.keys().collect::<Vec<_>>(), ["label"]);
}

#[test]
fn what_is_wrong_with_the_file_goes_before_what_is_wrong_with_a_row() {
    let good = |i: usize| format!("{{\"prompt\": \"question number {i}\", \"completion\": \"a\"}}\n");
    let rows: String = (0..20_000).map(good).collect();
    let complaint = |text: String| load_file(&text, &Source::default(), 0.0).unwrap_err().to_string();
    let bad = "{\"prompt\": 1, \"completion\": \"a\"}\n";
    assert!(complaint(format!("{bad}{rows}")).contains(":1: `prompt` must be a string"));
    assert!(complaint(format!("{bad}{rows}{{\"text\"\n")).contains(":20002: malformed JSON"));
    let other = complaint(format!("{bad}{rows}{{\"text\": \"a\"}}\n"));
    assert!(other.contains("line 1 is `completion`, line 20002 is `text`"), "{other}");
    let columns = vec![("prompt".to_string(), "question".to_string())];
    let mapped = Source { columns, ..Source::default() };
    let error =
        load_file(&format!("{rows}{{\"question\": \"q\", \"completion\": \"a\"}}\n"), &mapped, 0.0).unwrap_err().to_string();
    assert!(error.contains(":1: no known shape fits this row"), "{error}");
}
