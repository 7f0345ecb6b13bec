//! What a run does otherwise than asked is refused or told: rows that are not used, rows that the base cannot take, held-out rows
//! that are none, rates that are all zero.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder with a recipe over the tiny model of the golden cases, and files of rows.
struct Folder(tempfile::TempDir);

const TRAIN: &str = "lr = 1e-2\nbatch_size = 2\nmax_length = 60\nsteps = 3\n";

impl Folder {
    fn new(data: &str, train: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
        let head = format!("[base]\nmodel = {model:?}\ncompute = \"f32\"\n[adapter]\nrank = 2\ntargets = [\"q_proj\"]\n");
        folder.write("recipe.toml", &format!("{head}[data]\n{data}\n[train]\n{train}\n[eval]\nsamples = 0\n"));
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Rows each answer of which has so many letters.
    fn rows(self, name: &str, letters: &[usize]) -> Folder {
        let row = |(i, n): (usize, &usize)| json!({"prompt": format!("q{i}"), "completion": "x".repeat(*n)}).to_string() + "\n";
        self.write(name, &letters.iter().enumerate().map(row).collect::<String>());
        self
    }

    fn lorakit(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(self.0.path()).args(args).env("HF_HUB_OFFLINE", "1").env("LORAKIT_CACHE", self.path("cache"));
        command.output().unwrap()
    }

    /// Standard error of a run that must go well.
    fn goes_well(&self, args: &[&str]) -> String {
        let done = self.lorakit(args);
        let said = text(&done.stderr);
        assert!(done.status.success(), "{args:?}: {said}");
        said
    }

    /// Standard error of `train` and of its dry run, which must both be refused with all of this and leave nothing.
    fn refused(&self, says: &[&str]) {
        for args in [["train", "recipe.toml", "--out", "run"].as_slice(), &["train", "recipe.toml", "--dry-run", "--out", "run"]]
        {
            let done = self.lorakit(args);
            let said = text(&done.stderr);
            assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
            for piece in says {
                assert!(said.contains(piece), "{piece:?} is not in {said}");
            }
            assert!(!self.path("run").exists(), "{args:?} left something");
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let all = self.read("run/events.jsonl");
        all.lines().map(|l| serde_json::from_str(l).unwrap()).filter(|e: &Value| e["event"] == kind).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const RUN: &[&str] = &["train", "recipe.toml", "--out", "run"];

#[test]
fn rows_that_are_not_used_are_told_before_training_in_the_trace_and_on_the_card() {
    let mut letters = vec![80; 40];
    (0..10).for_each(|i| letters[i * 4] = 2);
    let folder = Folder::new("train = \"rows.jsonl\"\nheldout = \"held.jsonl\"", TRAIN).rows("rows.jsonl", &letters);
    let folder = folder.rows("held.jsonl", &[3, 4]);
    let sentence = "used 12 of 42 rows; 30 dropped: 30 longer than `train.max_length` (first: ";
    for args in [RUN, &["train", "recipe.toml", "--dry-run", "--out", "other"], &["eval", "recipe.toml", "--adapter", "run"]] {
        let said = folder.goes_well(args);
        assert!(said.contains(&format!("warning: {sentence}")) && said.contains("rows.jsonl:2, "), "{args:?}: {said}");
    }
    let card = folder.read("run/README.md");
    assert!(card.contains(&format!("- {sentence}rows.jsonl:2, ")), "{card}");
    assert!(card.contains("- trained on: `rows.jsonl`, 40 rows, SHA-256 `"), "{card}");
    assert!(card.contains("- held out: `held.jsonl`, 2 rows, SHA-256 `"), "{card}");
    let place = folder.0.path().display().to_string();
    assert!(!card.contains("base_model") && !card.contains(&place) && !card.contains(env!("CARGO_MANIFEST_DIR")), "{card}");
    let rows = &folder.json("run/trace.json")["rows"];
    assert_eq!((rows["read"].as_u64(), rows["used"].as_u64()), (Some(42), Some(12)));
    assert_eq!(rows["dropped"][0]["rows"], 30);
    assert!(rows["told"][0].as_str().unwrap().starts_with(sentence), "{rows}");
}

#[test]
fn held_out_files_that_end_up_empty_are_an_error_before_the_first_step() {
    let folder = Folder::new("train = \"rows.jsonl\"\nheldout = \"held.jsonl\"", TRAIN).rows("rows.jsonl", &[2; 4]);
    let folder = folder.rows("held.jsonl", &[90, 90]);
    folder.refused(&[
        "held.jsonl",
        "no held-out row is left to judge by",
        "2 over-long (first: line 1)",
        "data.heldout_fraction",
    ]);
}

#[test]
fn early_stop_without_held_out_rows_is_refused_at_its_line() {
    let train = format!("{TRAIN}eval_every = 1\nearly_stop = 2");
    let folder = Folder::new("train = \"one.jsonl\"", &train).rows("one.jsonl", &[2]);
    folder.refused(&["recipe.toml:15", "`train.early_stop`", "too few rows to set any aside", "leave `early_stop` out"]);
}

#[test]
fn rows_that_the_base_cannot_take_are_refused_before_the_first_step() {
    let most = 256;
    let train = TRAIN.replace("max_length = 60", "max_length = 600");
    let folder = Folder::new("train = \"rows.jsonl\"", &train).rows("rows.jsonl", &[2, 3, 400, 500]);
    let takes = format!("the base takes at most {most} tokens; 2 rows are longer (first: ");
    folder.refused(&["recipe.toml:12", "`train.max_length`", "is 600, but", &takes, "rows.jsonl:", "`max_length = 256`"]);
    // Held-out rows and those of a set count as well; a length that no row has does no harm.
    let folder = folder.rows("rows.jsonl", &[2, 3, 4]).rows("held.jsonl", &[2, 400]);
    folder.goes_well(&["train", "recipe.toml", "--dry-run"]);
    let recipe = folder.read("recipe.toml");
    folder.write("recipe.toml", &recipe.replace("[train]", "heldout = \"held.jsonl\"\n[train]"));
    folder.refused(&["`train.max_length`", "1 rows are longer (first: ", "held.jsonl:2, "]);
    let set = "[[eval.sets]]\nname = \"other\"\nrows = \"held.jsonl\"\n";
    folder.write("recipe.toml", &format!("{recipe}{set}"));
    folder.refused(&["`train.max_length`", "1 rows are longer (first: ", "held.jsonl:2, "]);
}

#[test]
fn a_run_of_one_row_learns_and_says_that_nothing_was_held_out() {
    let folder = Folder::new("train = \"one.jsonl\"", "batch_size = 8\nmax_length = 60").rows("one.jsonl", &[4]);
    let said = folder.goes_well(RUN);
    assert!(said.contains("warning: no row is held out: there are too few rows to set any aside (1 to train on)"), "{said}");
    let steps = folder.events("step");
    assert!(steps.len() == 1 && steps[0]["lr"].as_f64().unwrap() > 0.0, "{steps:?}");
    let card = folder.read("run/README.md");
    assert!(card.contains("No row was held out") && !card.contains("NaN"), "{card}");
    folder.write("recipe.toml", &folder.read("recipe.toml").replace("batch_size", "warmup = 1\nbatch_size"));
    std::fs::remove_dir_all(folder.path("run")).unwrap();
    folder.refused(&["`train.warmup`", "is 1 steps, but the run has 1", "nothing would be learnt"]);
}

#[test]
fn an_epoch_of_fewer_rows_than_a_step_takes_is_a_step() {
    let folder = Folder::new("train = \"three.jsonl\"", "epochs = 2\nbatch_size = 8\naccumulate = 4\nmax_length = 60");
    let folder = folder.rows("three.jsonl", &[4, 5, 6]);
    folder.goes_well(RUN);
    let rates: Vec<f64> = folder.events("step").iter().map(|e| e["lr"].as_f64().unwrap()).collect();
    assert!(rates.len() == 2 && rates[1] > 0.0, "{rates:?}");
}

#[test]
fn the_limit_of_an_evaluation_holds_while_training() {
    let train = format!("{TRAIN}eval_every = 1");
    let folder = Folder::new("train = \"rows.jsonl\"\nheldout = \"held.jsonl\"", &train).rows("rows.jsonl", &[2; 4]);
    let folder = folder.rows("held.jsonl", &[3; 30]);
    let args = [RUN, &["--set", "eval.limit=5"]].concat();
    folder.goes_well(&args);
    assert_eq!(folder.events("started")[0]["heldout"], 5);
    // What is measured on the way is what the proof measures.
    let (last, proof) = (&folder.events("eval")[2]["loss"], &folder.json("run/trace.json")["results"]["adapter"]);
    let best = folder.events("eval").iter().map(|e| e["loss"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    assert!((best - proof["loss"].as_f64().unwrap()).abs() < 1e-4, "{last} {proof}");
}

#[test]
fn an_adapter_that_is_not_there_is_named_and_rows_are_no_recipe() {
    let folder = Folder::new("train = \"rows.jsonl\"", TRAIN).rows("rows.jsonl", &[2; 4]);
    let refused = |args: &[&str], says: &[&str]| {
        let done = folder.lorakit(args);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        says.iter().for_each(|piece| assert!(said.contains(piece), "{piece:?} is not in {said}"));
        said
    };
    refused(&["generate", "--adapter", "runs/nope", "--prompt", "x"], &["runs/nope", "there is no such folder"]);
    refused(&["train", "rows.jsonl"], &["rows.jsonl", "a file of rows, not a recipe", "lorakit train rows.jsonl --model BASE"]);
    folder.write("odd.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let said = refused(&["data", "check", "odd.jsonl"], &["odd.jsonl:1", "--column"]);
    assert!(!said.contains("recipe"), "{said}");
    folder.write("odd.jsonl", "{\"text\": \"a\"}\n{\"text\n");
    refused(&["data", "check", "odd.jsonl"], &["odd.jsonl:2", "--skip-malformed"]);
}

#[test]
fn an_unknown_field_of_an_adapter_is_ignored_on_request_and_told_by_every_verb() {
    let folder = Folder::new("train = \"rows.jsonl\"\nheldout = \"held.jsonl\"", TRAIN).rows("rows.jsonl", &[2; 4]);
    let folder = folder.rows("held.jsonl", &[3; 2]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let adapter = |name: &str| std::fs::read_to_string(golden.join("adapters/llama/plain").join(name)).unwrap();
    let mut config: Value = serde_json::from_str(&adapter("adapter_config.json")).unwrap();
    config["new_method"] = json!({"k": 1});
    config["peft_version"] = json!("0.30.0");
    folder.write("run/adapter_config.json", &config.to_string());
    std::fs::copy(golden.join("adapters/llama/plain/adapter_model.safetensors"), folder.path("run/adapter_model.safetensors"))
        .unwrap();
    let model = golden.join("models/llama");
    let model = model.to_str().unwrap();
    let verbs = [
        &["generate", "--model", model, "--adapter", "run", "--prompt", "x", "--max-new-tokens", "2"][..],
        &["merge", "--model", model, "--adapter", "run", "--out", "merged"],
        &["eval", "recipe.toml", "--adapter", "run", "--set", "eval.max_new_tokens=1", "--set", "eval.limit=1", "--json"],
        &["adapter", "inspect", "run"],
    ];
    for verb in verbs {
        let refused = folder.lorakit(verb);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{verb:?}: {said}");
        assert!(said.contains("`new_method`") && said.contains("--ignore-field new_method"), "{verb:?}: {said}");
        let done = folder.lorakit(&[verb, &["--ignore-field", "new_method"]].concat());
        let said = text(&done.stderr) + &text(&done.stdout);
        assert!(done.status.success() && said.contains("{\"k\":1} is ignored at your own risk"), "{verb:?}: {said}");
        if verb[0] == "eval" {
            let line: Value = serde_json::from_slice(&done.stdout).unwrap();
            assert!(line["told"][0].as_str().unwrap().contains("`new_method`"), "{line}");
        }
    }
    let card = folder.read("merged/README.md");
    assert!(card.contains("`new_method`") && card.contains("SHA-256"), "{card}");
}

#[test]
fn an_unknown_key_of_a_base_is_refused_or_ignored_on_request_and_told_by_every_verb() {
    let folder = Folder::new("train = \"rows.jsonl\"\nheldout = \"held.jsonl\"", TRAIN).rows("rows.jsonl", &[2; 12]);
    let folder = folder.rows("held.jsonl", &[3; 2]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
    for entry in std::fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::create_dir_all(folder.path("base")).unwrap();
        std::fs::copy(&entry, folder.path("base").join(entry.file_name().unwrap())).unwrap();
    }
    let mut config: Value = serde_json::from_str(&folder.read("base/config.json")).unwrap();
    config["new_gate"] = json!(3);
    folder.write("base/config.json", &config.to_string());
    let model = "base.model=\"base\"";
    let told = "config.json `new_gate`: 3 is ignored at your own risk";
    let short = ["--set", "eval.max_new_tokens=1", "--set", "eval.limit=1"];
    let verbs: [&[&str]; 6] = [
        &["estimate", "recipe.toml", "--set", model],
        &["train", "recipe.toml", "--set", model, "--out", "run"],
        &["eval", "recipe.toml", "--set", model, "--adapter", "run", short[0], short[1], short[2], short[3]],
        &["generate", "--model", "base", "--prompt", "x", "--max-new-tokens", "2"],
        &["merge", "--model", "base", "--adapter", "run", "--out", "merged", "--verify"],
        &["train", "rows.jsonl", "--model", "base", "--dry-run"],
    ];
    for verb in verbs {
        let refused = folder.lorakit(verb);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{verb:?}: {said}");
        assert!(said.contains("`new_gate`") && said.contains("--ignore-config new_gate"), "{verb:?}: {said}");
        let said = folder.goes_well(&[verb, &["--ignore-config", "new_gate", "--ignore-config", "new_gate"]].concat());
        // Rows without a recipe: the base is opened to propose one, and for what it will take.
        let times = if verb[1] == "rows.jsonl" { 2 } else { 1 };
        assert_eq!(said.matches(told).count(), times, "{verb:?}: {said}");
    }
    let trace: Value = serde_json::from_str(&folder.read("run/trace.json")).unwrap();
    assert!(trace["base"]["told"][0].as_str().unwrap().starts_with(told), "{trace:#}");
    assert_eq!(trace["inputs"]["recipe"]["base.ignore_config"], "[\"new_gate\"]");
    assert!(folder.read("run/README.md").contains(told) && folder.read("merged/README.md").contains(told));
    let inspect = ["model", "inspect", "base"];
    assert_eq!(folder.lorakit(&inspect).status.code(), Some(2));
    let inspected = folder.lorakit(&[&inspect[..], &["--ignore-config", "new_gate"]].concat());
    assert!(inspected.status.success() && text(&inspected.stdout).contains(told), "{}", text(&inspected.stdout));
    // What the recipe says counts, with a verb of no recipe too.
    assert!(folder.goes_well(&["generate", "--adapter", "run", "--prompt", "x", "--max-new-tokens", "2"]).contains(told));
    let absent = folder.goes_well(&["generate", "--adapter", "run", "--prompt", "x", "--ignore-config", "other"]);
    assert!(absent.contains(told) && absent.contains("config.json has no key `other` that could be ignored"), "{absent}");
}

#[test]
fn an_answer_that_ends_for_want_of_positions_says_so() {
    let folder = Folder::new("train = \"rows.jsonl\"", TRAIN);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
    let ask = ["generate", "--model", model.to_str().unwrap(), "--prompt", "x", "--json", "--max-new-tokens"];
    let done = folder.lorakit(&[&ask[..], &["5000"]].concat());
    let line: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(line["finish_reason"], "length");
    let aloud: Vec<&str> = ask.into_iter().filter(|arg| *arg != "--json").chain(["5000"]).collect();
    let done = folder.lorakit(&aloud);
    let said = text(&done.stderr);
    assert!(done.status.success() && said.contains("for want of room") && said.contains("positions of the model"), "{said}");
    assert!(!text(&folder.lorakit(&[&ask[..], &["5"]].concat()).stderr).contains("for want of room"));
}
