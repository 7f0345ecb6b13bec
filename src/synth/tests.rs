//! The loop with a generator that answers by a rule, stopped at every reply.

use std::path::Path;

use rand::Rng;

use super::*;
use crate::error::{Error, Result};
use crate::{files, random};

/// Answers by the request's seed; fails after `left` replies.
struct RuleGenerator {
    identity: Identity,
    left: usize,
    asked: usize,
    company: bool,
}

fn rule(left: usize, company: bool) -> RuleGenerator {
    let identity =
        Identity { model: "rule".into(), base_sha256: None, adapter_sha256: None, url: None, style: PromptStyle::Completion };
    RuleGenerator { identity, left, asked: 0, company }
}

const VERBS: [&str; 8] = ["Count", "Describe", "Rewrite", "Translate", "Shorten", "Explain", "Sort", "Compare"];
const THINGS: [&str; 9] =
    ["rivers", "letters", "a poem", "this recipe", "the colours", "an image", "two cities", "old proverbs", "odd numbers"];

fn said(request: &Request) -> Reply {
    let mut rng = random::stream(request.seed, "said", &[]);
    let mut one = |all: &[&str]| all[rng.random_range(0..all.len())].to_string();
    let text = match request.cue.as_str() {
        "Fixed answers:" => one(&[" Yes", " No"]),
        "Input:" => one(&[" a\nOutput: b\nInput: c\nOutput: d", " (none)\nOutput: e", " same\nOutput: same", " cut"]),
        "Output:" => one(&[" yes\nInput: g\nOutput: no\nInput: g", " yes\nInput: h"]),
        cue if cue.starts_with("Task") => {
            let how = one(&["slowly", "in verse", "twice", "for me"]);
            format!(" {} {} {how}.\nInput: x\nOutput: {}", one(&VERBS), one(&THINGS), one(&["y", "z", ""]))
        }
        _ => {
            let mut item =
                || format!("{} {} {} today", one(&VERBS), one(&THINGS), one(&["slowly", "in verse", "twice", "for me"]));
            format!(" {}\n10. {}\n11. {}", item(), item(), item())
        }
    };
    Reply { text, whole: !request.seed.is_multiple_of(5) }
}

impl Generator for RuleGenerator {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn in_company(&self) -> bool {
        self.company
    }

    fn answer(&mut self, requests: &[Request], go_on: GoOn, answered: &mut dyn FnMut(usize, Reply) -> Result<()>) -> Result<()> {
        // The last one first: replies may come in any order.
        for (i, request) in requests.iter().enumerate().rev() {
            go_on()?;
            if self.left == 0 {
                return Err(Error::Interrupted { what: "here".into() });
            }
            self.left -= 1;
            self.asked += 1;
            answered(i, said(request))?;
        }
        Ok(())
    }
}

fn seeds() -> Seeds {
    let task = |i: usize| SeedTask {
        id: format!("s{i}"),
        name: String::new(),
        instruction: format!("Do thing {i} of kind {}.", i * i),
        instances: vec![Instance {
            input: if i.is_multiple_of(2) { String::new() } else { format!("in {i}") },
            output: format!("out {i}"),
        }],
        is_classification: i.is_multiple_of(3),
    };
    Seeds { tasks: (0..12).map(task).collect(), sha256: "0".into() }
}

fn settings(variant: Variant) -> SynthesisSettings {
    SynthesisSettings { seed: 3, per_round: 3, instances: 2, ..SynthesisSettings::of(variant) }
}

fn go(dir: &Path, variant: Variant, rows: usize, rule: &mut RuleGenerator) -> Result<SynthesisSummary> {
    run(dir, &settings(variant), Goal { rows, patience: 30 }, &seeds(), rule, &|| Ok(()), &mut |_| {})
}

fn lines(dir: &Path, name: &str) -> Vec<serde_json::Value> {
    let text = files::read_text(&dir.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines without the time, which no two runs share.
fn timeless(dir: &Path, name: &str) -> Vec<serde_json::Value> {
    let strip = |mut line: serde_json::Value| {
        line.as_object_mut().unwrap().remove("time");
        line
    };
    lines(dir, name).into_iter().map(strip).collect()
}

#[test]
fn every_candidate_is_accounted_for_and_every_row_says_where_it_is_from() {
    for variant in [Variant::SelfInstruct, Variant::Alpaca] {
        let dir = tempfile::tempdir().unwrap();
        let summary = go(dir.path(), variant, 15, &mut rule(usize::MAX, false)).unwrap();
        let (rows, all) = (lines(dir.path(), "rows.jsonl"), lines(dir.path(), "candidates.jsonl"));
        assert_eq!((summary.ended, summary.rows, rows.len()), (Ended::Complete, 15, 15));
        assert_eq!(all.len(), summary.instructions + summary.instances);
        let of = |kind: &str, kept: bool| all.iter().filter(|l| l["kind"] == kind && l["accepted"] == kept).count();
        assert_eq!((of("instruction", true), of("instance", true)), (summary.instructions_kept, 15));
        let rejected = of("instruction", false) + of("instance", false);
        assert_eq!(rejected, summary.rejected.values().sum::<usize>());
        assert!(all.iter().all(|l| l["accepted"] == l["reason"].is_null() && l["time"].is_u64()));
        let reasons: &[RejectReason] = match variant {
            Variant::SelfInstruct => &[
                RejectReason::Similar,
                RejectReason::Keyword,
                RejectReason::Truncated,
                RejectReason::InputIsOutput,
                RejectReason::Malformed,
            ],
            Variant::Alpaca => &[RejectReason::Similar, RejectReason::Keyword, RejectReason::Truncated, RejectReason::NoOutput],
        };
        assert!(reasons.iter().all(|r| summary.rejected.contains_key(r)), "{:?}", summary.rejected);
        for row in &rows {
            let from = &row["provenance"];
            assert_eq!((&from["generator"]["model"], &from["seed"]), (&"rule".into(), &3.into()));
            let shown = from["instruction"]["shown"].as_array().unwrap().len();
            assert_eq!(shown, if variant == Variant::Alpaca { 3 } else { 8 });
            assert!(from["instruction"]["sampling"]["temperature"].is_number() && from["instruction"]["round"].is_u64());
        }
        // Later prompts show two tasks of the model.
        let last = rows.last().unwrap()["provenance"]["instruction"]["shown"].as_array().unwrap().clone();
        let of_model = last.iter().filter(|id| id.as_str().unwrap().starts_with('m')).count();
        assert_eq!(of_model, if variant == Variant::Alpaca { 0 } else { 2 });
    }
}

#[test]
fn a_run_stopped_after_any_reply_ends_in_the_same_rows() {
    for (variant, company) in [(Variant::SelfInstruct, false), (Variant::SelfInstruct, true), (Variant::Alpaca, false)] {
        let whole = tempfile::tempdir().unwrap();
        let mut undisturbed = rule(usize::MAX, company);
        let summary = go(whole.path(), variant, 12, &mut undisturbed).unwrap();
        for stop in 0..undisturbed.asked {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(go(dir.path(), variant, 12, &mut rule(stop, company)).unwrap_err().exit_code(), 130);
            if stop % 2 == 1 {
                // What a kill in the middle of a write leaves, and rows that the replies do not say.
                append(&dir.path().join("replies.jsonl"), "{\"round\": 0, \"sta");
                append(&dir.path().join("rows.jsonl"), "{\"half\": ");
            }
            let mut rest = rule(usize::MAX, company);
            assert_eq!(go(dir.path(), variant, 12, &mut rest).unwrap(), summary, "{stop}");
            if !company {
                assert_eq!(rest.asked + stop, undisturbed.asked, "a reply was asked for twice");
            }
            let read = |dir: &Path| files::read_text(&dir.join("rows.jsonl")).unwrap();
            assert_eq!(read(dir.path()), read(whole.path()), "{stop}");
            assert_eq!(timeless(dir.path(), "candidates.jsonl"), timeless(whole.path(), "candidates.jsonl"));
        }
    }
}

fn append(path: &Path, text: &str) {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    std::fs::write(path, old + text).unwrap();
}

#[test]
fn a_larger_goal_goes_further_and_a_complete_run_asks_nothing() {
    let (short, long) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(short.path(), Variant::SelfInstruct, 7, &mut rule(usize::MAX, false)).unwrap();
    let before = files::read_text(&short.path().join("rows.jsonl")).unwrap();
    let mut none = rule(0, false);
    go(short.path(), Variant::SelfInstruct, 7, &mut none).unwrap();
    go(short.path(), Variant::SelfInstruct, 15, &mut rule(usize::MAX, false)).unwrap();
    go(long.path(), Variant::SelfInstruct, 15, &mut rule(usize::MAX, false)).unwrap();
    let read = |dir: &Path| files::read_text(&dir.join("rows.jsonl")).unwrap();
    assert_eq!(read(short.path()), read(long.path()));
    assert!(read(short.path()).starts_with(&before) && before.lines().count() == 7);
}

#[test]
fn what_cannot_go_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    go(dir.path(), Variant::SelfInstruct, 3, &mut rule(usize::MAX, false)).unwrap();
    let other = SynthesisSettings { threshold: 0.5, ..settings(Variant::SelfInstruct) };
    let goal = Goal { rows: 3, patience: 3 };
    let with = |settings: &SynthesisSettings, seeds: &Seeds| {
        run(dir.path(), settings, goal, seeds, &mut rule(9, false), &|| Ok(()), &mut |_| {}).unwrap_err().to_string()
    };
    let error = with(&other, &seeds());
    assert!(error.contains("settings.threshold: 0.7 → 0.5") && error.contains("run.json"), "{error}");
    let error = with(&settings(Variant::SelfInstruct), &Seeds { sha256: "1".into(), ..seeds() });
    assert!(error.contains("seeds_sha256: \"0\" → \"1\""), "{error}");
    let few = Seeds { tasks: seeds().tasks[..5].to_vec(), sha256: "0".into() };
    assert!(with(&settings(Variant::SelfInstruct), &few).contains("5 seed tasks, a prompt shows 8"));
    let one_kind =
        Seeds { tasks: seeds().tasks.into_iter().map(|t| SeedTask { is_classification: false, ..t }).collect(), ..seeds() };
    assert!(with(&settings(Variant::SelfInstruct), &one_kind).contains("0 of 12 seed tasks have `is_classification`"));
    // Replies to other texts, a broken line, rows without their run, two at once.
    let journal = dir.path().join("replies.jsonl");
    let kept = std::fs::read_to_string(&journal).unwrap();
    let asked = kept.split("\"asked\":\"").nth(1).unwrap()[..16].to_string();
    std::fs::write(&journal, kept.replace(&asked, "0000000000000000")).unwrap();
    assert!(with(&settings(Variant::SelfInstruct), &seeds()).contains("was to another text"));
    std::fs::write(&journal, format!("{kept}nonsense\n")).unwrap();
    let error = with(&settings(Variant::SelfInstruct), &seeds());
    assert!(error.contains(&format!("replies.jsonl:{}: not a reply", kept.lines().count() + 1)), "{error}");
    std::fs::write(&journal, &kept).unwrap();
    let held = Store::open(dir.path(), &run::plan(&settings(Variant::SelfInstruct), &seeds(), &rule(0, false))).unwrap();
    assert!(with(&settings(Variant::SelfInstruct), &seeds()).contains("another process is writing there"));
    drop(held);
    std::fs::remove_file(dir.path().join("run.json")).unwrap();
    assert!(with(&settings(Variant::SelfInstruct), &seeds()).contains("no run.json"));
}

#[test]
fn a_generator_that_brings_nothing_ends_the_run() {
    struct Mute(RuleGenerator);
    impl Generator for Mute {
        fn identity(&self) -> &Identity {
            &self.0.identity
        }
        fn in_company(&self) -> bool {
            false
        }
        fn answer(&mut self, requests: &[Request], _: GoOn, answered: &mut dyn FnMut(usize, Reply) -> Result<()>) -> Result<()> {
            (0..requests.len()).try_for_each(|i| answered(i, Reply { text: "no list".into(), whole: true }))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let goal = Goal { rows: 3, patience: 4 };
    let (settings, seeds) = (settings(Variant::SelfInstruct), seeds());
    let mut mute = Mute(rule(0, false));
    let summary = run(dir.path(), &settings, goal, &seeds, &mut mute, &|| Ok(()), &mut |_| {}).unwrap();
    assert_eq!((summary.ended, summary.rounds, summary.rejected[&RejectReason::TooShort]), (Ended::Barren, 4, 12));
}
