//! Splitting, limiting and counting rows; the tokenizer's files.

use std::collections::HashSet;

use crate::data::*;
use crate::recipe::{Data, Replay, Source, Template, TemplateKind};
use crate::tokenizer::byte_level::{CHATML, bpe, chatml, with_file};

fn renderer() -> Renderer {
    Renderer::new(chatml(), &Template::default()).unwrap()
}

fn rows(n: usize) -> String {
    (0..n).map(|i| format!("{{\"prompt\": \"q{i}\", \"completion\": \"a{i}\"}}\n")).collect()
}

fn loaded(text: &str, limit: Option<usize>, heldout_fraction: f64, seed: u64) -> Loaded {
    with_file("a.jsonl", text, |path| {
        let source = Source { path: path.to_path_buf(), limit, ..Source::default() };
        let data = Data { heldout_fraction, ..Data::of(vec![source]) };
        load(&data, &renderer(), 100, seed).unwrap()
    })
}

fn lines(examples: &Examples) -> Vec<usize> {
    examples.iter().map(|e| e.line).collect()
}

#[test]
fn the_seed_sets_rows_aside_and_the_rest_keeps_its_order() {
    let a = loaded(&rows(50), None, 0.2, 1);
    assert_eq!((a.train.len(), a.heldout.len(), a.heldout_prompts.len()), (40, 10, 10));
    let all: HashSet<usize> = lines(&a.train).into_iter().chain(lines(&a.heldout)).collect();
    assert_eq!(all.len(), 50);
    assert!(lines(&a.train).is_sorted() && lines(&a.heldout).is_sorted());
    assert_eq!(lines(&a.heldout), lines(&loaded(&rows(50), None, 0.2, 1).heldout));
    assert_ne!(lines(&a.heldout), lines(&loaded(&rows(50), None, 0.2, 2).heldout));
    for (example, prompt) in a.heldout.iter().zip(a.heldout_prompts.iter()) {
        assert_eq!((prompt.line, prompt.reference.clone()), (example.line, format!("a{}", example.line - 1)));
    }
    let few = loaded(&rows(3), None, 0.01, 0);
    assert_eq!((few.train.len(), few.heldout.len()), (2, 1));
    assert_eq!(loaded(&rows(3), None, 0.0, 0).heldout.len(), 0);
}

#[test]
fn a_limit_draws_rows_by_the_seed() {
    let a = loaded(&rows(50), Some(7), 0.0, 1);
    assert_eq!((a.train.len(), a.report.sources[0].beyond_limit, a.report.rows_read()), (7, 43, 50));
    assert!(lines(&a.train).is_sorted());
    assert_ne!(lines(&a.train), lines(&loaded(&rows(50), Some(7), 0.0, 2).train));
}

#[test]
fn what_a_source_gives_does_not_depend_on_the_other_sources() {
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str, n: usize, limit| {
        let path = dir.path().join(name);
        std::fs::write(&path, rows(n)).unwrap();
        Source { path, limit, ..Source::default() }
    };
    let (train, held) = (source("train.jsonl", 30, Some(20)), source("held.jsonl", 90, Some(25)));
    let replay = Replay { sources: vec![source("general.jsonl", 50, Some(10))], fraction: 0.3 };
    let plain = Data { heldout: vec![held], ..Data::of(vec![train.clone()]) };
    let of = |data: &Data| load(data, &renderer(), 100, 4).unwrap();
    let with_replay = of(&Data { replay: Some(replay), ..plain.clone() });
    let with_more = of(&Data { train: vec![source("more.jsonl", 12, Some(6)), train.clone()], ..plain.clone() });
    let plain = of(&plain);
    assert_eq!(lines(&with_replay.heldout), lines(&plain.heldout));
    assert_eq!(lines(&with_more.heldout), lines(&plain.heldout));
    assert_eq!(lines(&with_replay.train)[..20], lines(&plain.train)[..]);
    assert_eq!(lines(&with_more.train)[6..], lines(&plain.train)[..]);
    // The same file once more is another draw.
    let twice = of(&Data::of(vec![train.clone(), train]));
    assert_ne!(lines(&twice.train)[..20], lines(&twice.train)[20..]);
}

#[test]
fn every_token_is_counted_once_and_repeated_rows_are_named() {
    let text = format!("{}{}", rows(10), rows(10));
    let a = loaded(&text, None, 0.5, 3);
    for (counts, examples) in [(&a.report.train, &a.train), (&a.report.heldout, &a.heldout)] {
        assert_eq!(counts.tokens, examples.lengths().iter().sum::<usize>());
        assert_eq!(counts.roles.values().sum::<usize>(), counts.tokens);
        assert_eq!(counts.trained, examples.iter().map(|e| e.trained.count()).sum::<usize>());
    }
    let train: HashSet<&[u32]> = a.train.iter().map(|e| e.ids).collect();
    let twice = a.heldout.iter().filter(|e| train.contains(e.ids)).count();
    assert!(twice > 0 && a.report.repeated.len() == twice);
}

#[test]
fn a_directory_gives_tokenizer_template_and_ends_of_turn() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    assert!(Tokenizer::from_dir(dir.path()).err().unwrap().to_string().contains("tokenizer.json: the file is missing"));
    bpe().save(dir.path().join("tokenizer.json"), false).unwrap();
    let named = r#"[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]"#;
    write(
        "tokenizer_config.json",
        &format!(r#"{{"bos_token":{{"content":"<s>"}},"add_bos_token":true,"chat_template":{named}}}"#),
    );
    write("special_tokens_map.json", r#"{"eos_token":"</s>","bos_token":"<pad>"}"#);
    let end = bpe().token_to_id("<|im_end|>").unwrap();
    write("generation_config.json", &format!(r#"{{"eos_token_id":[{end}]}}"#));
    let t = Tokenizer::from_dir(dir.path()).unwrap();
    let id = |text: &str| t.inner().token_to_id(text).unwrap();
    assert_eq!((t.bos_id(), t.eos_ids(), t.pad_id()), (Some(id("<s>")), &[id("</s>"), end][..], id("</s>")));
    assert!(t.special().add_bos && t.chat_template() == Some("D"));
    assert_eq!(t.vocab_size(), 256 + 3 + 5);
    write("chat_template.jinja", CHATML);
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().chat_template(), Some(CHATML));
    write("tokenizer_config.json", r#"{"bos_token":"<nowhere>"}"#);
    let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
    assert!(error.contains("bos token \"<nowhere>\""), "{error}");
}

/// Alpaca's prompts and the instruction template, letter by letter.
#[test]
fn fixed_templates() {
    let alpaca = |input: &str| {
        let output = "3".into();
        Row::new(0, 1, RowKind::Alpaca { instruction: "Add.".into(), input: input.into(), output, system: None })
    };
    let text = |kind: TemplateKind, row: &Row| {
        let renderer = Renderer::new(chatml(), &Template { kind, ..Template::default() }).unwrap();
        renderer.tokenizer().decode(&renderer.example(row).unwrap().ids, false).unwrap()
    };
    let with = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:3<|im_end|>";
    let without = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Response:3<|im_end|>";
    assert_eq!(text(TemplateKind::Alpaca, &alpaca("1 2")), with);
    assert_eq!(text(TemplateKind::Alpaca, &alpaca("")), without);
    assert_eq!(text(TemplateKind::Instruction, &alpaca("1 2")), "### Instruction:\nAdd.\n1 2\n\n### Response:\n3<|im_end|>");
    let turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    let chat = Row::new(0, 1, RowKind::Chat(turns.iter().map(|(r, c)| Message::new(*r, *c)).collect::<Vec<_>>().into()));
    let expected = "s\n\n### Instruction:\na\n\n### Response:\nb<|im_end|>\n\n### Instruction:\nc\n\n### Response:\nd<|im_end|>";
    assert_eq!(text(TemplateKind::Instruction, &chat), expected);
    let alpaca = Renderer::new(chatml(), &Template { kind: TemplateKind::Alpaca, ..Template::default() }).unwrap();
    assert!(alpaca.example(&chat).unwrap_err().to_string().contains("have one turn"));
}

/// Two tasks of three rows each, of which `heldout_tasks` may hold out one, and general text.
fn tasks_and_text(change: impl Fn(&mut Data)) -> crate::error::Result<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        Source { path: dir.path().join(name), ..Source::default() }
    };
    let task = |name: &str, cluster: &str| {
        let head =
            format!("name = \"{name}\"\ncluster = \"{cluster}\"\nrows = [{{ q = \"1\" }}, {{ q = \"2\" }}, {{ q = \"3\" }}]\n");
        let template =
            |inputs: &str, more: &str| format!("[[templates]]\ninputs = \"{inputs} {{q}}\"\ntargets = \"{{q}}\"\n{more}");
        format!("{head}{}{}", template("say", ""), template("guess", "invert = true\n"))
    };
    let text = source("general.txt", "some general text\n");
    let mut data =
        Data::of(vec![source("a.toml", &task("add_two", "arithmetic")), source("b.toml", &task("capitals", "geography"))]);
    data.replay = Some(Replay { sources: vec![text], fraction: 0.25 });
    change(&mut data);
    load(&data, &renderer(), 100, 1)
}

#[test]
fn whole_tasks_are_held_out_by_name_or_cluster_and_never_asked_the_other_way_round() {
    for name in ["add_two", "arithmetic", "arith*"] {
        let loaded = tasks_and_text(|data| data.heldout_tasks = vec![name.into()]).unwrap();
        assert_eq!((loaded.heldout.len(), loaded.heldout_prompts.len()), (3, 3));
        assert!(loaded.heldout_prompts.iter().all(|p| p.task.as_deref() == Some("add_two")));
        let asked = |ids: &[u32]| chatml().decode(ids, false).unwrap();
        assert!(loaded.heldout.iter().all(|e| asked(e.ids).contains("say")), "an inverted phrasing is held out");
        assert!(loaded.train.iter().all(|e| e.source != 0));
        assert_eq!(loaded.report.sources[0].split, Split::Heldout);
    }
    let error = tasks_and_text(|data| data.heldout_tasks = vec!["geografy".into()]).unwrap_err().to_string();
    assert!(error.contains("geografy") && error.contains("did you mean \"geography\"?"), "{error}");
}

#[test]
fn a_row_set_aside_is_not_trained_on_in_another_phrasing() {
    let loaded = tasks_and_text(|data| {
        data.heldout_fraction = 0.34;
        data.train.iter_mut().for_each(|source| source.templates = Some(crate::recipe::Templates::All));
    })
    .unwrap();
    // Of six rows in two phrasings each two are set aside: in the phrasing that is not inverted.
    assert_eq!((loaded.train.len(), loaded.heldout.len()), (8 + 1, 2));
    assert_eq!(loaded.report.dropped.iter().filter(|d| d.reason == Reason::HeldOutElsewhere).count(), 2);
    let asked = |ids: &[u32]| chatml().decode(ids, false).unwrap();
    assert!(loaded.heldout.iter().all(|e| asked(e.ids).contains("say")));
    let digit = |e: ExampleRef| (e.source, asked(e.ids).chars().find(char::is_ascii_digit));
    let trained: Vec<_> = loaded.train.iter().map(digit).collect();
    assert!(loaded.heldout.iter().map(digit).all(|row| row.1.is_some() && !trained.contains(&row)));
    assert_eq!(loaded.report.rows_read(), loaded.train.len() + loaded.heldout.len() + loaded.report.dropped.len());
}

#[test]
fn replay_is_trained_along_and_never_set_aside() {
    let loaded = tasks_and_text(|data| data.heldout_fraction = 0.5).unwrap();
    assert_eq!((loaded.train.len(), loaded.heldout.len()), (4, 3));
    assert_eq!((0..4).filter(|i| loaded.train.source(*i) == 2).count(), 1, "the text is trained on");
}
