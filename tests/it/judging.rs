//! Base against adapter on the tiny model: by row, by task, on sets of their own, and what is told of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use lorakit::data::{self, Message, Renderer};
use lorakit::eval::{EvalRows, Metric, measure, measure_choices};
use lorakit::model::{Marked, text};
use lorakit::recipe::Recipe;
use serde_json::{Value, json};

use crate::tiny_models;
use crate::training::recipe_file;

/// A folder with three task files of Super-NaturalInstructions, in two categories, and a plain text.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (task, category, rows) in [("task1_a", "x", 6), ("task2_b", "x", 4), ("task3_c", "y", 5)] {
        let instances: Vec<Value> =
            (0..rows).map(|i| json!({"input": format!("{task} {i}"), "output": [format!("{i}"), "other"]})).collect();
        let task_file = json!({"Definition": ["Do."], "Categories": [category], "Positive Examples": [],
            "Negative Examples": [], "Instances": instances});
        std::fs::write(dir.path().join(format!("{task}.json")), task_file.to_string()).unwrap();
    }
    std::fs::write(dir.path().join("general.txt"), "one two three\n\nfour five six\n").unwrap();
    dir
}

fn set(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        format!("data.heldout=['{}']", path("task*.json")),
        "train.max_length=120".into(),
        "eval.exact_match=true".into(),
        "eval.rouge_l=true".into(),
        "eval.max_new_tokens=4".into(),
        format!(
            "eval.sets=[{{name='text', rows='{}'}}, {{name='one task', rows='{}', limit=2}}]",
            path("general.txt"),
            path("task3_c.json")
        ),
    ]
}

fn lorakit(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    let set = set(dir).into_iter().flat_map(|s| ["--set".to_string(), s]);
    command.current_dir(dir).args(args).args(set).env("HF_HUB_OFFLINE", "1");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|v| v[key].as_str().unwrap()).collect()
}

#[test]
fn the_verdict_is_by_task_and_on_each_set() {
    let dir = folder();
    let recipe = recipe_file();
    let recipe = recipe.to_str().unwrap();
    let trained = lorakit(dir.path(), &["train", recipe, "--json", "--out", "a", "--set", "train.steps=3"]);
    let trained: Value = serde_json::from_slice(&trained.stdout).unwrap();
    assert_eq!(trained["rows"], 15);
    assert_eq!(names(&trained["tasks"], "task"), ["task1_a", "task2_b", "task3_c"]);
    assert_eq!(names(&trained["tasks"], "cluster"), ["x", "x", "y"]);
    assert_eq!(names(&trained["clusters"], "cluster"), ["x", "y"]);
    let compared: Vec<(&str, &str)> =
        names(&trained["compared"], "metric").into_iter().zip(names(&trained["compared"], "over")).collect();
    let metrics = ["loss", "exact_match", "rouge_l"];
    let want: Vec<(&str, &str)> = ["rows", "tasks"].into_iter().flat_map(|over| metrics.map(|m| (m, over))).collect();
    assert_eq!(compared, want);
    // The mean over rows is that of the tasks weighted by their rows.
    let mean = trained["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["adapter"]["rouge_l"].as_f64().unwrap() * t["rows"].as_f64().unwrap())
        .sum::<f64>()
        / 15.0;
    assert!((trained["adapter"]["rouge_l"].as_f64().unwrap() - mean).abs() < 1e-12);
    for c in trained["compared"].as_array().unwrap() {
        let [low, difference, high] = ["low", "difference", "high"].map(|key| c[key].as_f64().unwrap());
        assert!(low <= difference && difference <= high, "{c}");
    }
    assert_eq!(names(&trained["sets"], "name"), ["text", "one task"]);
    let (text, task) = (&trained["sets"][0], &trained["sets"][1]);
    assert!(text["base"]["perplexity"].is_number() && text["base"]["exact_match"].is_null() && text["base"]["rouge_l"].is_null());
    assert_eq!((&task["rows"], &task["tasks"][0]["rows"]), (&json!(2), &json!(2)));
    assert!(task["adapter"]["rouge_l"].is_number() && text["adapter"]["loss"] != text["base"]["loss"]);
    // `eval` says the same about the saved adapter, and the card and the trace have it.
    let again = lorakit(dir.path(), &["eval", recipe, "--adapter", "a", "--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&again["compared"], &again["sets"]), (&trained["compared"], &trained["sets"]));
    let card = std::fs::read_to_string(dir.path().join("a/README.md")).unwrap();
    assert!(card.contains("| ROUGE-L |") && card.contains("one task (2 rows), "), "{card}");
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("a/trace.json")).unwrap()).unwrap();
    assert_eq!(trace["results"]["sets"], trained["sets"]);
    let shown = lorakit(dir.path(), &["eval", recipe, "--adapter", "a"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for phrase in ["15 held-out rows", "ROUGE-L", "mean over 3 tasks", "task2_b", "text: 1 rows", "one task: 2 rows"] {
        assert!(shown.contains(phrase), "`{phrase}` is not in {shown}");
    }
}

#[test]
fn losses_by_row_add_up_and_a_limit_takes_rows_of_every_file() {
    let dir = folder();
    let recipe = Recipe::load(&recipe_file(), &set(dir.path())).unwrap();
    let tokenizer = text::tokenizer(&tiny_models::dir("llama")).unwrap();
    let renderer = Renderer::new(tokenizer.clone(), &recipe.template).unwrap();
    let loaded = data::load(&recipe.data, &renderer, recipe.train.max_length, recipe.train.seed).unwrap();
    let model = tiny_models::open("llama");
    let stop = renderer.stop_ids();
    let rows = |limit| EvalRows {
        examples: &loaded.heldout,
        prompts: &loaded.heldout_prompts,
        tokenizer: &tokenizer,
        stop: &stop,
        settings: &recipe.eval,
        limit,
    };
    let measured = measure(&model, &(), &rows(None), &mut |_, _, _| Ok(())).unwrap();
    let ids: Vec<&[u32]> = loaded.heldout.iter().map(|e| e.ids).collect();
    let texts = Marked { ids: &ids, trained: &|text, i| loaded.heldout.get(text).trained.get(i) };
    let whole = model.score(&(), texts, 4, &mut |_| Ok(())).unwrap();
    let (nats, tokens) = measured.each.iter().fold((0.0, 0), |(n, t), row| (n + row.nats, t + row.tokens));
    assert_eq!(tokens, whole.tokens);
    assert!((nats - whole.sum).abs() < 1e-4 * whole.sum && (measured.loss - whole.loss()).abs() < 1e-4, "{nats} {}", whole.sum);
    assert_eq!((measured.rows, measured.answers.len()), (15, 15));
    let tasks: Vec<PathBuf> =
        rows(Some(3)).judged().iter().map(|(i, _)| loaded.report.sources[loaded.heldout.source(*i)].path.clone()).collect();
    let names: Vec<_> = tasks.iter().map(|p| p.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["task1_a", "task1_a", "task3_c"]);
    assert_eq!(rows(Some(3)).labels().len(), 3);
}

/// Question, choices and answer of twelve rows; in every other the answer is written as text.
fn quiz() -> Vec<(String, [String; 3], usize)> {
    let row = |i: usize| {
        (format!("what of {i}?"), [format!("{}", i * 37), "ünklar".to_string(), "one of the longer ones".to_string()], i % 3)
    };
    (0..12).map(row).collect()
}

fn quiz_file(dir: &Path) -> PathBuf {
    let row = |(i, (question, choices, answer)): (usize, (String, [String; 3], usize))| {
        let answer = if i % 2 == 0 { json!(answer) } else { json!(choices[answer]) };
        format!("{}\n", json!({"question": question, "choices": choices, "answer": answer}))
    };
    let path = dir.join("quiz.jsonl");
    std::fs::write(&path, quiz().into_iter().enumerate().map(row).collect::<String>()).unwrap();
    path
}

#[test]
fn choices_are_judged_by_the_log_probabilities_of_their_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let path = quiz_file(dir.path()).display().to_string();
    let set = format!(
        "eval.choices=[{{name='raw', rows='{path}', prompt=\"Question: {{question}}\\nAnswer:\"}}, {{name='chat', rows='{path}', chat=true}}]"
    );
    let recipe = Recipe::load(&recipe_file(), std::slice::from_ref(&set)).unwrap();
    let tokenizer = text::tokenizer(&tiny_models::dir("llama")).unwrap();
    let renderer = Renderer::new(tokenizer.clone(), &recipe.template).unwrap();
    let model = tiny_models::open("llama");
    let says = says(dir.path(), &["eval", &recipe_file().display().to_string(), "--set", &set, "--json"]);
    let said: Value = serde_json::from_str(&says).unwrap();
    for (at, set) in recipe.eval.choices.iter().enumerate() {
        let questions = data::load_questions(set, &renderer).unwrap();
        let measured = measure_choices(&model, &(), &questions, 4, &mut |_, _, _| Ok(())).unwrap();
        let mut right = [0.0; 3];
        for ((question, choices, answer), score) in quiz().into_iter().zip(&measured.each) {
            let before = match set.chat {
                true => renderer.chat_text(&[Message::new("user", &question)], true).unwrap(),
                false => format!("Question: {question}\nAnswer:"),
            };
            let delimiter = if set.chat { "" } else { " " };
            let sums = choices.clone().map(|choice| {
                let ids = tokenizer.encode_prompt(&format!("{before}{delimiter}{choice}")).unwrap();
                let from = tokenizer.encode_prompt(before.trim_end()).unwrap().len();
                let logps = model.target_logps(&(), &[&ids], &|_, i| i >= from).unwrap();
                logps[0].iter().map(|logp| f64::from(*logp)).sum::<f64>()
            });
            assert!((sums[answer] + score.nats).abs() < 1e-4, "{sums:?} {score:?}");
            let lengths: [fn(&String) -> usize; 3] = [|_| 1, |choice| choice.chars().count(), String::len];
            for ((length, found), right) in lengths.iter().zip([score.acc, score.acc_norm, score.acc_bytes]).zip(&mut right) {
                let per = |i: usize| sums[i] / length(&choices[i]) as f64;
                let want = f64::from(u8::from((0..3).all(|i| per(i) <= per(answer))));
                assert_eq!(found, Some(want), "{question}: {sums:?}");
                *right += want / 12.0;
            }
        }
        assert!(right.iter().any(|share| (0.01..0.99).contains(share)), "nothing can be told of {right:?}");
        let base = &said["sets"][at]["base"];
        for (metric, want) in ["acc", "acc_norm", "acc_bytes"].into_iter().zip(right) {
            assert!((base[metric].as_f64().unwrap() - want).abs() < 1e-12, "{metric} {want}: {base}");
        }
        assert_eq!((&said["sets"][at]["name"], &said["sets"][at]["rows"]), (&json!(set.name), &json!(12)));
        assert_eq!(Metric::Acc.over(&measured.each), base["acc"].as_f64());
    }
}

#[test]
fn questions_are_compared_and_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, path) = (recipe_file().display().to_string(), quiz_file(dir.path()));
    let set = format!("eval.choices=[{{name='quiz', rows='{}', limit=9}}]", path.display());
    let json = |args: &[&str]| -> Value { serde_json::from_str(&says(dir.path(), args)).unwrap() };
    let trained = json(&["train", &recipe, "--out", "a", "--json", "--set", "train.steps=3", "--set", &set]);
    // The questions are in the recipe that is kept beside the adapter.
    let again = json(&["eval", "--adapter", "a", "--json"]);
    assert_eq!(again["sets"], trained["sets"]);
    let set = &again["sets"][0];
    let compared = names(&set["compared"], "metric");
    assert_eq!((compared, &set["rows"]), (vec!["loss", "acc", "acc_norm", "acc_bytes"], &json!(9)));
    let table = says(dir.path(), &["eval", "--adapter", "a"]);
    assert!(table.contains("quiz: 9 rows") && table.contains("acc_norm") && table.contains("acc_bytes"), "{table}");
    assert!(std::fs::read_to_string(dir.path().join("a/README.md")).unwrap().contains("quiz (9 rows), acc_norm: "));
    std::fs::write(&path, "{\"question\": \"q\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n").unwrap();
    let done =
        Command::new(env!("CARGO_BIN_EXE_lorakit")).current_dir(dir.path()).args(["eval", "--adapter", "a"]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && error.contains("quiz.jsonl:1: `answer` is 2"), "{error}");
}

/// What a run of the program says, in a folder with adapters `a` and `b` of the tiny recipe.
fn says(dir: &Path, args: &[&str]) -> String {
    let done =
        Command::new(env!("CARGO_BIN_EXE_lorakit")).current_dir(dir).args(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn adapters_none_and_a_merged_model_are_judged_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe_file().display().to_string();
    for (out, steps) in [("a", "train.steps=2"), ("b", "train.steps=12")] {
        says(dir.path(), &["train", &recipe, "--out", out, "--set", steps]);
    }
    // Base and recipe are those beside the adapter.
    let merged = says(dir.path(), &["merge", "--adapter", "b", "--out", "merged", "--dtype", "f32", "--verify", "--json"]);
    let merged: Value = serde_json::from_str(&merged).unwrap();
    assert!(merged["answers"].as_u64() > Some(0) && merged["answers"] == merged["same_answers"], "{merged:#}");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&says(dir.path(), args)).unwrap() };
    let alone: Value = json(&["eval", "--adapter", "b", "--json"]);
    let all = json(&["eval", "--adapter", "a", "--adapter", "b", "--merged", "merged", "--json"]);
    let loss = |i: usize, who: &str| all["models"][i][who]["loss"].as_f64().unwrap();
    assert_eq!(names(&all["models"].as_array().unwrap()[..2].iter().cloned().collect(), "adapter_dir"), ["a", "b"]);
    assert_eq!(all["models"][2]["merged_dir"], "merged");
    assert!(loss(0, "adapter") > loss(1, "adapter") && loss(0, "base") == loss(2, "base"), "{all:#}");
    assert!((loss(1, "adapter") - loss(2, "adapter")).abs() < 1e-4, "{all:#}");
    assert_eq!(alone["adapter"]["loss"], all["models"][1]["adapter"]["loss"]);
    let base = json(&["eval", &recipe, "--json"]);
    assert!(base["base"]["loss"].as_f64() == Some(loss(0, "base")) && base.get("adapter").is_none(), "{base:#}");
    assert!(says(dir.path(), &["eval", &recipe]).contains("perplexity"));
    let table = says(dir.path(), &["eval", "--adapter", "a", "--adapter", "b"]);
    assert!(table.contains("a\n") && table.matches("difference, 95 % interval").count() == 2, "{table}");
}
