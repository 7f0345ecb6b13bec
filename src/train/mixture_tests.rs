use std::path::Path;

use super::*;
use crate::data::{Cache, LoadOptions, Loaded, Renderer, load, load_with};
use crate::files;
use crate::recipe::{Data, Replay, Template};
use crate::tokenizer::byte_level::chatml;

/// Rows and mean tokens of the sources of a run.
const SOURCES: [(usize, usize); 5] = [(9000, 40), (2500, 120), (700, 80), (333, 20), (120, 300)];
const DRAWS: usize = 100_000;

fn source(name: &str) -> Source {
    Source { path: format!("data/{name}.jsonl").into(), ..Source::default() }
}

fn data() -> Data {
    Data::of((0..SOURCES.len()).map(|i| source(&format!("s{i}"))).collect())
}

/// Examples of all sources, of differing lengths, then `replay` of 500 tokens.
fn examples(replay: usize) -> Vec<(usize, usize)> {
    let own = SOURCES.iter().enumerate();
    let own = own.flat_map(|(i, (rows, mean))| (0..*rows).map(move |r| (i, mean - mean / 2 + r * 7 % mean)));
    own.chain((0..replay).map(|_| (SOURCES.len(), 500))).collect()
}

fn plan(data: &Data, replay: usize) -> Mixture {
    Mixture::plan_of(data, examples(replay).into_iter()).unwrap()
}

/// The first draws of a run.
fn draws(mixture: &Mixture) -> Vec<usize> {
    (0..).flat_map(|epoch| mixture.draws(7, epoch)).take(DRAWS).collect()
}

/// One plan of each strategy, with its name.
fn strategies() -> Vec<(&'static str, Mixture)> {
    let mut all = data();
    all.train[1].epochs = Some(1.7);
    all.train[3].epochs = Some(5.3);
    all.train[0].rows = Some(2000);
    let with = |strategy, change: &dyn Fn(&mut Data)| {
        let mut data = data();
        data.mixture.strategy = strategy;
        change(&mut data);
        data
    };
    let proportional = with(Strategy::Proportional, &|_| ());
    let capped = with(Strategy::Proportional, &|d| d.mixture.cap = Some(1500));
    let warm = with(Strategy::Proportional, &|d| (d.mixture.cap, d.mixture.temperature) = (Some(4000), 2.0));
    let weigh = |d: &mut Data| d.train.iter_mut().zip([5.0, 1.0, 3.0, 0.4, 2.0]).for_each(|(s, w)| s.weight = Some(w));
    let weights = with(Strategy::Weights, &|d| (weigh(d), d.mixture.rows = Some(777)).0);
    let tokens = with(Strategy::Weights, &|d| (weigh(d), d.mixture.unit = MixtureUnit::Tokens).0);
    let mut replay = weights.clone();
    replay.replay = Some(Replay { sources: vec![source("general")], fraction: 0.25 });
    let plans = [("proportional", &proportional), ("capped", &capped), ("temperature", &warm)];
    let plans = plans.into_iter().chain([("all", &all), ("weights", &weights), ("tokens", &tokens)]);
    plans.map(|(name, data)| (name, plan(data, 0))).chain([("replay", plan(&replay, 60))]).collect()
}

#[test]
fn over_100_000_draws_each_source_is_within_half_a_percent_of_plan() {
    let lengths: Vec<usize> = examples(60).into_iter().map(|e| e.1).collect();
    for (name, mixture) in strategies() {
        let drawn = mixture.drawn(draws(&mixture).into_iter(), |e| lengths[e]);
        assert_eq!(drawn.iter().map(|s| s.drawn).sum::<f64>(), DRAWS as f64);
        for (planned, drawn) in mixture.planned().iter().zip(&drawn) {
            let off = (drawn.of_rows / planned.of_rows - 1.0).abs();
            assert!(off <= 0.005, "{name}, {}: {} against {} planned", planned.name, drawn.of_rows, planned.of_rows);
            let off = (drawn.of_tokens / planned.of_tokens - 1.0).abs();
            assert!(off <= 0.01, "{name}, {}: {} of tokens, planned {}", planned.name, drawn.of_tokens, planned.of_tokens);
        }
    }
}

#[test]
fn any_beginning_of_a_run_has_the_shares_but_for_a_few_rows() {
    // Where an epoch is every row once (proportional without a cap), it is shuffled as one and not spread.
    let spread: Vec<_> = strategies().into_iter().filter(|(_, mixture)| !mixture.is_plain()).collect();
    assert_eq!(spread.len(), strategies().len() - 1);
    for (name, mixture) in spread {
        let all = draws(&mixture);
        for count in [50, 333, 5000, 40_000] {
            let drawn = mixture.drawn(all[..count].iter().copied(), |_| 1);
            for (planned, drawn) in mixture.planned().iter().zip(&drawn) {
                let off = (drawn.drawn - planned.of_rows * count as f64).abs();
                assert!(off < 7.0, "{name}, {}: {} of {count}", planned.name, drawn.drawn);
            }
        }
    }
}

#[test]
fn a_part_is_seen_whole_before_any_of_it_is_seen_again() {
    for (name, mixture) in strategies() {
        let all = draws(&mixture);
        for part in &mixture.parts {
            let own: std::collections::HashSet<usize> = part.examples.iter().map(|e| *e as usize).collect();
            let mine: Vec<usize> = all.iter().copied().filter(|e| own.contains(e)).collect();
            let passes: Vec<&[usize]> = mine.chunks_exact(part.rows()).collect();
            // Within an epoch the places of a part's draws ascend, so that passes follow each other.
            for pass in &passes {
                let distinct: std::collections::HashSet<&usize> = pass.iter().collect();
                assert_eq!(distinct.len(), part.rows(), "{name}, {}", part.name);
            }
            if let [first, second, ..] = passes.as_slice() {
                assert_ne!(first, second, "{name}: another order in each pass");
            }
        }
    }
}

#[test]
fn shares_are_those_of_the_papers() {
    let quotas = |mixture: &Mixture| -> Vec<f64> { mixture.parts.iter().map(|p| p.quota).collect() };
    let named: std::collections::HashMap<_, _> = strategies().into_iter().collect();
    // FLAN: min(examples, cap) over their sum, and as many rows an epoch.
    assert_eq!(quotas(&named["capped"]), [1500.0, 1500.0, 700.0, 333.0, 120.0]);
    assert_eq!(quotas(&named["all"]), [2000.0, 4250.0, 700.0, 5.3 * 333.0, 120.0]);
    // T5: square roots at temperature 2.
    let warm = quotas(&named["temperature"]);
    assert!((warm[0] / warm[4] - (4000f64 / 120.0).sqrt()).abs() < 1e-9);
    assert!((warm.iter().sum::<f64>() - (4000 + 2500 + 700 + 333 + 120) as f64).abs() < 1e-6);
    let tokens = named["tokens"].planned();
    assert!((tokens[0].of_tokens - 5.0 / 11.4).abs() < 1e-9 && (tokens[3].of_tokens - 0.4 / 11.4).abs() < 1e-9);
    let replay = named["replay"].planned();
    assert!((replay[5].of_tokens - 0.25).abs() < 1e-9, "{replay:?}");
    assert!((replay[0].drawn - 777.0 * 5.0 / 11.4).abs() < 1e-9, "replay comes on top");
}

#[test]
fn without_shares_an_epoch_is_every_example_once_in_the_order_of_earlier_versions() {
    let mixture = plan(&data(), 0);
    assert!(mixture.is_plain());
    let count = SOURCES.iter().map(|s| s.0).sum();
    assert_eq!(mixture.draws(42, 3), random::order(count, 42, "order", &[3]));
}

#[test]
fn sources_of_one_name_are_one_part() {
    let mut data = data();
    data.mixture.strategy = Strategy::Weights;
    for i in [1, 3] {
        data.train[i] = Source { name: Some("both".into()), weight: Some(3.0), ..data.train[i].clone() };
    }
    let shares = plan(&data, 0).planned();
    let names: Vec<&str> = shares.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["s0.jsonl", "both", "s2.jsonl", "s4.jsonl"]);
    assert_eq!(shares[1].rows, 2833);
    assert!((shares[1].of_rows - 0.5).abs() < 1e-12);
}

#[test]
fn a_share_of_nothing_is_an_error_that_names_the_source() {
    let mut data = data();
    data.train.push(Source { epochs: Some(2.0), ..source("gone") });
    let error = Mixture::plan_of(&data, examples(0).into_iter()).unwrap_err().to_string();
    assert!(error.contains("gone.jsonl") && error.contains("no row of it is left"), "{error}");
    let mut data = tests::data();
    data.replay = Some(Replay { sources: vec![source("general")], fraction: 0.1 });
    assert!(Mixture::plan_of(&data, examples(0).into_iter()).unwrap_err().to_string().contains("(replay)"));
}

/// Rows of `data`, whose tokens are kept in `folder`, and its plan for them.
fn kept(data: &Data, folder: &Path) -> (Loaded, Mixture) {
    let cache = Cache { folder: folder.join("cache"), least: 0, hash: &files::sha256_file, say: &|text| panic!("{text}") };
    let renderer = Renderer::new(chatml(), &Template::default()).unwrap();
    let loaded = load_with(data, &renderer, 100, 7, &LoadOptions { cache: Some(cache), hear: &|_| {} }).unwrap();
    let mixture = Mixture::plan(data, &loaded.train).unwrap();
    (loaded, mixture)
}

/// A file of questions and answers in `folder`, and another of text that is replayed.
fn questions_and_text(folder: &Path) -> Data {
    let source = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        Source { path: folder.join(name), ..Source::default() }
    };
    let rows: String = (0..60).map(|i| format!("{{\"prompt\": \"q{i}\", \"completion\": \"a{i}\"}}\n")).collect();
    let mut data = Data { heldout_fraction: 0.2, ..Data::of(vec![source("a.jsonl", &rows)]) };
    data.replay = Some(Replay { sources: vec![source("general.txt", "Some text.\n\nMore text.\n")], fraction: 0.1 });
    data
}

/// A change of the plan leaves the kept tokens as they are.
#[test]
fn kept_tokens_are_planned_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = questions_and_text(dir.path());
    let (loaded, first) = kept(&data, dir.path());
    let (again, mixture) = kept(&data, dir.path());
    assert!(mixture.planned() == first.planned() && again.kept == loaded.kept && loaded.kept.is_some());
    let plain = load(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 100, 7).unwrap();
    assert_eq!(Mixture::plan(&data, &plain.train).unwrap().planned(), first.planned());
    assert!(first.planned().iter().any(|share| share.replay));
    data.replay.as_mut().unwrap().fraction = 0.3;
    let (rows, more) = kept(&data, dir.path());
    assert!(rows.kept == loaded.kept && more.planned() != first.planned());
    data.mixture.strategy = Strategy::Proportional;
    data.mixture.rows = Some(500);
    let drawn = |mixture: &Mixture| mixture.planned().iter().map(|share| share.drawn).sum::<f64>();
    let (rows, mixture) = kept(&data, dir.path());
    assert!(drawn(&mixture) > drawn(&more) && rows.kept == loaded.kept);
    data.mixture = recipe::Mixture::default();
    data.train[0].epochs = Some(3.0);
    let (rows, mixture) = kept(&data, dir.path());
    assert!(drawn(&mixture) > drawn(&more) && rows.kept == loaded.kept);
}

#[test]
fn replay_is_its_share_of_the_tokens_beside_loaded_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = questions_and_text(dir.path());
    data.replay.as_mut().unwrap().fraction = 0.25;
    let planned = kept(&data, dir.path()).1.planned();
    let replay = planned.iter().find(|share| share.replay).unwrap();
    assert!((replay.of_tokens - 0.25).abs() < 1e-9, "{planned:?}");
    data.replay = None;
    assert!(kept(&data, dir.path()).1.is_plain());
}
