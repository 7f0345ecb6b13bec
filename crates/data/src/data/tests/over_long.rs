//! Conversations split at turns: against trying every length, and every row and part accounted for.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::*;
use crate::random::number;
use crate::recipe::{Data, OverLong, Source, Template};
use crate::tokenizer::byte_level::{chatml, with_file};

const MOST: usize = 150;

fn renderer() -> Renderer {
    Renderer::new(chatml(), &Template::default()).unwrap()
}

fn load_rows(text: &str, source: &Source, heldout_fraction: f64) -> Loaded {
    with_file("a.jsonl", text, |path| {
        let source = Source { path: path.to_path_buf(), ..source.clone() };
        let data = Data { heldout_fraction, over_long: OverLong::Split, ..Data::of(vec![source]) };
        load(&data, &renderer(), MOST, 7).unwrap()
    })
}

/// Conversations of up to twelve exchanges; some turns are longer than a part may be, some answers are not trained.
fn conversations(n: usize) -> Vec<Vec<Message>> {
    let mut drawn = (0..).map(|i| number(3, "split", &[i]));
    let mut draw = |below: usize| drawn.next().unwrap() as usize % below;
    let mut all = Vec::new();
    for row in 0..n {
        let mut messages = Vec::new();
        if draw(2) == 0 {
            messages.push(Message::new("system", "s".repeat(1 + draw(30))));
        }
        for exchange in 0..1 + draw(12) {
            let long = |draw: usize| if draw == 0 { 160 } else { draw };
            for role in ["user", "assistant"] {
                let text = format!("{row}.{exchange}{}", "x".repeat(long(draw(16))));
                messages.push(Message { loss: if draw(4) == 0 { Loss::No } else { Loss::ByRole }, ..Message::new(role, text) });
            }
        }
        all.push(messages);
    }
    all
}

fn jsonl(rows: &[Vec<Message>]) -> String {
    let message = |m: &Message| {
        let mut value = serde_json::json!({"role": m.role, "content": m.content});
        if m.loss == Loss::No {
            value["train"] = false.into();
        }
        value
    };
    let row = |messages: &Vec<Message>| {
        serde_json::json!({"messages": messages.iter().map(message).collect::<Vec<_>>()}).to_string() + "\n"
    };
    rows.iter().map(row).collect()
}

/// What a row becomes, by trying every number of exchanges from the longest on.
fn slow(messages: &[Message], renderer: &Renderer) -> Vec<Example> {
    let whole = |messages: Vec<Message>| renderer.example(&Row::new(0, 0, RowKind::Chat(messages.into()))).unwrap();
    let all = whole(messages.to_vec());
    let system: Vec<Message> = messages.iter().filter(|m| m.role == "system").cloned().collect();
    let exchanges: Vec<&[Message]> = messages[system.len()..].chunks(2).collect();
    if all.ids.len() <= MOST || exchanges.len() == 1 {
        return vec![all];
    }
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < exchanges.len() {
        let part = |end: usize| whole([system.clone(), exchanges[start..end].concat()].concat());
        let end = (start + 1..=exchanges.len()).rev().find(|end| part(*end).ids.len() <= MOST).unwrap_or(start + 1);
        parts.push(part(end));
        start = end;
    }
    parts
}

#[test]
fn parts_are_those_of_trying_every_length() {
    let (rows, renderer) = (conversations(300), renderer());
    let loaded = load_rows(&jsonl(&rows), &Source::default(), 0.0);
    let mut found = loaded.train.iter().peekable();
    let (mut split, mut dropped) = (Vec::new(), Vec::new());
    for (i, messages) in rows.iter().enumerate() {
        let parts = slow(messages, &renderer);
        let number = |part: usize| if parts.len() == 1 { 0 } else { part + 1 };
        for (part, expect) in parts.iter().enumerate() {
            let tokens = expect.ids.len();
            let reason = match expect.trained.contains(&true) {
                _ if tokens > MOST => Reason::OverLong { tokens },
                false => Reason::NoTrainedToken,
                true => {
                    let e = found.next().unwrap();
                    assert_eq!((e.line, e.part, e.ids), (i + 1, number(part), &expect.ids[..]));
                    assert!(e.trained.iter().eq(expect.trained.iter().copied()));
                    continue;
                }
            };
            dropped.push(Dropped { source: 0, line: i + 1, part: number(part), reason });
        }
        if parts.len() > 1 {
            let tokens = renderer.example(&Row::new(0, 0, RowKind::Chat(messages.clone().into()))).unwrap().ids.len();
            split.push(SplitRow { source: 0, line: i + 1, tokens, parts: parts.len() });
        }
    }
    let report = &loaded.report;
    assert!(found.next().is_none() && report.split == split && report.dropped == dropped);
    assert_eq!(report.rows_read() + report.rows_added(), report.rows_used() + report.dropped.len());
    let kinds: BTreeSet<_> = dropped.iter().map(|d| (matches!(d.reason, Reason::OverLong { .. }), d.part > 0)).collect();
    let most = split.iter().map(|s| s.parts).max();
    assert!(split.len() > 100 && most > Some(4) && kinds.len() == 4, "the rows are too easy: {} {most:?} {kinds:?}", split.len());
}

#[test]
fn parts_begin_with_system_and_user_fit_and_lie_on_one_side() {
    let rows = conversations(400);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load_rows(&jsonl(&rows), &Source { limit: Some(300), ..Source::default() }, 0.3))
    };
    let (one, three) = (on(1), on(3));
    let report = &one.report;
    let accounted = report.rows_used() + report.dropped.len() + report.sources[0].beyond_limit;
    assert_eq!((report.rows_read() + report.rows_added(), report.sources[0].beyond_limit), (accounted, 100));
    let mut sides: BTreeMap<usize, BTreeSet<bool>> = BTreeMap::new();
    for (held, examples) in [(false, &one.train), (true, &one.heldout)] {
        for e in examples.iter() {
            let text = chatml().decode(e.ids, false).unwrap();
            let system = rows[e.line - 1].first().filter(|m| m.role == "system");
            let begin = system.map(|m| format!("<|im_start|>system\n{}<|im_end|>\n", m.content)).unwrap_or_default();
            assert!(text.starts_with(&format!("{begin}<|im_start|>user\n{}.", e.line - 1)), "{text}");
            assert!(e.ids.len() <= MOST && e.targets() > 0);
            sides.entry(e.line).or_default().insert(held);
        }
    }
    assert!(sides.values().all(|sides| sides.len() == 1), "a row is trained on and held out");
    assert!(one.heldout.iter().any(|e| e.part > 1) && one.heldout.len() == one.heldout_prompts.len());
    for (e, prompt) in one.heldout.iter().zip(one.heldout_prompts.iter()) {
        let ids = [prompt.ids, chatml().encode(&format!("{}<|im_end|>\n", prompt.reference)).unwrap()].concat();
        assert_eq!((prompt.line, &ids[..]), (e.line, e.ids), "the prompt is that of the part");
    }
    let all = |l: &Loaded| [&l.train, &l.heldout].map(|e| e.iter().map(|e| (e.part, e.to_owned())).collect::<Vec<_>>());
    assert!(all(&one) == all(&three) && one.heldout_prompts.iter().eq(three.heldout_prompts.iter()));
}

/// With Ghost Attention the last answer alone is trained, and an instruction in the first turn cannot be carried along.
#[test]
fn an_instruction_that_is_said_once_goes_with_every_part_or_the_row_is_dropped() {
    let turn = |role: &str, text: &str| Message::new(role, format!("{text}{}", "x".repeat(40)));
    let talk = |first: Message| {
        let turns = ["user", "assistant", "user", "assistant", "user", "assistant"].map(|role| turn(role, role));
        [vec![first], turns.to_vec()].concat()
    };
    let text = jsonl(&[talk(Message::new("system", "Rhyme.")), talk(turn("user", ""))]);
    let loaded = load_rows(&text, &Source { ghost_attention: true, ..Source::default() }, 0.0);
    let (used, report) = (loaded.train.iter().map(|e| (e.line, e.part)).collect::<Vec<_>>(), &loaded.report);
    assert_eq!(used, [(1, 3)]);
    let dropped: Vec<_> = report.dropped.iter().map(|d| (d.line, d.part)).collect();
    assert_eq!((dropped, report.rows_added()), (vec![(1, 1), (1, 2), (2, 0)], 2));
    assert!(matches!(report.dropped[2].reason, Reason::OverLong { .. }));
}

#[test]
fn rows_without_turns_are_dropped() {
    let text =
        format!("{{\"prompt\": \"a\", \"completion\": \"{}\"}}\n{{\"prompt\": \"a\", \"completion\": \"b\"}}\n", "x".repeat(200));
    let loaded = load_rows(&text, &Source::default(), 0.0);
    assert_eq!((loaded.train.len(), loaded.report.dropped[0].part, loaded.report.split.len()), (1, 0, 0));
}
