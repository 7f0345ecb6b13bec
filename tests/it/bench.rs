//! `lorakit bench` on the tiny model: every figure is there, and the steps it times are real ones.

use std::process::Command;

use crate::tiny_models;

fn bench(args: &[&str]) -> std::process::Output {
    let model = tiny_models::dir("llama");
    Command::new(env!("CARGO_BIN_EXE_lorakit"))
        .args(["bench", "train", "--model", model.to_str().unwrap(), "--compute", "f32"])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn every_figure_is_there_and_the_loss_falls() {
    let done = bench(&["--batch", "2", "--seq", "32", "--targets", "all-linear", "--rank", "4", "--steps", "6", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    for figure in ["tok_s", "trained_tok_s", "ms_step", "ms_forward", "ms_backward", "ms_optimizer", "mfu", "gemm_peak_gflops"] {
        assert!(report[figure].as_f64().is_some_and(|v| v > 0.0), "{figure} in {report}");
    }
    let share = report["trained_tok_s"].as_f64().unwrap() / report["tok_s"].as_f64().unwrap();
    assert!((share - 0.5).abs() < 1e-6, "half of each row is trained, {share} was");
    let losses: Vec<f64> = report["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses.len() == 7 && losses[6] < losses[1], "{losses:?}");
}

/// Tensor operations are timed in the same loop; the limit of the CPU's kernels is not theirs.
#[test]
fn what_computes_is_chosen_and_named() {
    for (machine, limited) in [("cpu", true), ("candle", false)] {
        let done = bench(&["--batch", "2", "--seq", "16", "--steps", "1", "--json", "--machine", machine]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((report["device"].as_str(), report["machine"].as_str()), (Some("cpu"), Some(machine)), "{report}");
        assert_eq!((report["mfu"].is_f64(), report["gemm_peak_gflops"].is_f64()), (limited, limited), "{report}");
        assert!(report["tok_s"].as_f64().is_some_and(|v| v > 0.0), "{report}");
    }
}

#[test]
fn what_cannot_be_timed_is_one_error() {
    for (args, phrase) in [(["--trained", "0"], "share of a row"), (["--targets", "no_proj"], "matches no module")] {
        let done = bench(&args);
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains(phrase), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn decoding_counts_the_tokens_of_all_rows() {
    let model = tiny_models::dir("llama");
    let done = Command::new(env!("CARGO_BIN_EXE_lorakit"))
        .args(["bench", "decode", "--model", model.to_str().unwrap(), "--rows", "3", "--tokens", "5", "--json"])
        .args(["--machine", "candle"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((report["rows"].as_u64(), report["tokens"].as_u64()), (Some(3), Some(5)), "{report}");
    assert_eq!((report["device"].as_str(), report["machine"].as_str()), (Some("cpu"), Some("candle")), "{report}");
    assert!(report["tok_s"].as_f64().is_some_and(|v| v > 0.0), "{report}");
}

fn gemm(args: &[&str]) -> serde_json::Value {
    let model = tiny_models::dir("llama");
    let done = Command::new(env!("CARGO_BIN_EXE_lorakit"))
        .args(["bench", "gemm", "--model", model.to_str().unwrap(), "--json"])
        .args(args)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn products_of_a_model_are_judged_by_the_limit_that_applies() {
    let matrices = tiny_models::open("llama").sites().len() - 1; // all but the embedding
    for (rows, limit, figure) in [("64", "gemm_peak_gflops", "gflops"), ("1", "read_gb_s", "gb_s")] {
        let report = gemm(&["--rows", rows]);
        let limit = report[limit].as_f64().unwrap();
        let shapes = report["shapes"].as_array().unwrap();
        assert_eq!(shapes.iter().map(|s| s["matrices"].as_u64().unwrap()).sum::<u64>(), matrices as u64, "{report}");
        assert_eq!(shapes.last().unwrap()["sites"].as_array().unwrap().last().unwrap(), "lm_head", "{report}");
        for rate in shapes.iter().flat_map(|s| [&s["forward"], &s["backward"]]) {
            let (value, share) = (rate[figure].as_f64().unwrap(), rate["share"].as_f64().unwrap());
            assert!(value > 0.0 && (share - value / limit).abs() < 1e-9, "{rate} of {limit}");
        }
    }
}

#[test]
fn gemm_without_a_model_is_one_line_and_rows_need_one() {
    let lorakit =
        |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_lorakit")).args(["bench", "gemm"]).args(args).output().unwrap();
    let line = String::from_utf8(lorakit(&["--compute", "f32"]).stdout).unwrap();
    assert!(line.trim_end().strip_suffix(" GFLOP/s").is_some_and(|n| n.parse::<f64>().is_ok_and(|n| n > 0.0)), "{line}");
    let refused = lorakit(&["--rows", "1"]);
    assert!(refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("--model"));
}

#[test]
fn a_recipe_is_timed_as_it_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/recipe.toml");
    let set =
        ["--set", "train.steps=4", "--set", "train.accumulate=2", "--set", "train.packing=true", "--set", "adapter.dropout=0.1"];
    let lorakit = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        let done = command.current_dir(dir.path()).args(args).args(set).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let path = recipe.to_str().unwrap();
    let timed: serde_json::Value =
        serde_json::from_slice(&lorakit(&["bench", "train", "--recipe", path, "--steps", "3", "--json"])).unwrap();
    lorakit(&["train", path, "--out", "run", "--set", "eval.limit=1"]);
    let events = std::fs::read_to_string(dir.path().join("run/events.jsonl")).unwrap();
    let events = events.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let trained: Vec<serde_json::Value> = events.filter(|e| e["event"] == "step").map(|e| e["loss"].clone()).collect();
    assert_eq!(timed["losses"], serde_json::Value::from(trained), "the steps timed are those of the run");
    for part in ["ms_forward", "ms_backward", "ms_optimizer", "tok_s", "mfu"] {
        assert!(timed[part].as_f64().is_some_and(|v| v > 0.0), "{part} in {timed}");
    }
    let both = Command::new(env!("CARGO_BIN_EXE_lorakit")).args(["bench", "train", "--recipe", path, "--model", "x"]).output();
    assert_eq!(both.unwrap().status.code(), Some(2));
}
