//! The template that an adapter was trained in: the adapter, the adapter moved away from its recipe's files, and the merged
//! model answer alike, through the program.

use std::path::{Path, PathBuf};
use std::process::Command;

use lorakit::data::{Message, Renderer, Tokenizer};
use lorakit::recipe::Template;
use serde_json::{Value, json};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const OWN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A folder with the tiny model as `base`, its template being `template`, and a recipe that says `kind`.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(template: &Value, kind: &str) -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        copy(&data.join("golden/models/llama"), &bench.at("base"));
        bench.edit_json("base/tokenizer_config.json", |config| config["chat_template"] = template.clone());
        let _ = std::fs::remove_file(bench.at("base/chat_template.jinja"));
        copy(&data.join("tiny"), &bench.at("data"));
        std::fs::write(bench.at("own.jinja"), OWN).unwrap();
        let recipe = format!(
            "[base]\nmodel = 'base'\ncompute = 'f32'\n[adapter]\nrank = 4\ntargets = 'all-linear'\n[data]\ntrain = 'data/train.jsonl'\nheldout = 'data/heldout.jsonl'\n[template]\nkind = '{kind}'\nsystem = \"It's {{odd}}.\"\n[train]\nsteps = 3\nlr = 1e-2\nbatch_size = 4\nmax_length = 200\n[eval]\nmax_new_tokens = 2\nlimit = 2\n"
        );
        std::fs::write(bench.at("recipe.toml"), recipe).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_str(&std::fs::read_to_string(self.at(name)).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(self.at(name), value.to_string()).unwrap();
    }

    /// Standard output and error of a run that goes well.
    fn run(&self, args: &[&str]) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        let done = command.args(args).current_dir(self.dir.path()).output().unwrap();
        let [out, err] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(done.status.code(), Some(0), "{args:?}: {err}");
        (out, err)
    }

    /// Ids of the answer and length of the prompt.
    fn answer(&self, who: &[&str]) -> (Value, Value) {
        let ask = ["generate", "--chat", "What is it?", "--max-new-tokens", "12", "--compute", "f32", "--json"];
        let line: Value = serde_json::from_str(&self.run(&[&ask[..], who].concat()).0).unwrap();
        (line["ids"].clone(), line["prompt_tokens"].clone())
    }

    /// Prompt ids of a merged model's own template.
    fn prompt(&self, dir: &str) -> Vec<u32> {
        let renderer = Renderer::new(Tokenizer::from_dir(&self.at(dir)).unwrap(), &Template::default()).unwrap();
        renderer.chat(&[Message::new("user", "What is it?")], true).unwrap()
    }

    /// Prompt ids in training: the recipe's template over the base.
    fn trained_prompt(&self) -> Vec<u32> {
        let recipe = lorakit::recipe::Recipe::load(&self.at("recipe.toml"), &[]).unwrap();
        let renderer = Renderer::new(Tokenizer::from_dir(&self.at("base")).unwrap(), &recipe.template).unwrap();
        renderer.chat(&[Message::new("user", "What is it?")], true).unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &place) } else { _ = std::fs::copy(&path, &place).unwrap() }
    }
}

#[test]
fn adapter_moved_adapter_and_merged_model_answer_alike() {
    let named = json!([{"name": "default", "template": CHATML}, {"name": "tool_use", "template": format!("T{CHATML}")}]);
    let table = [
        ("model", json!(CHATML)),
        ("model", named),
        ("own.jinja", json!(CHATML)),
        ("instruction", json!(CHATML)),
        ("alpaca", Value::Null),
    ];
    for (kind, template) in table {
        let bench = Bench::new(&template, kind);
        bench.run(&["train", "recipe.toml", "--out", "run"]);
        let trained = bench.trained_prompt();
        let answer = bench.answer(&["--adapter", "run"]);
        assert_eq!(answer.1, trained.len(), "{kind}");
        bench.run(&["merge", "--model", "base", "--adapter", "run", "--out", "merged", "--dtype", "f32"]);
        assert_eq!(bench.prompt("merged"), trained, "{kind}");
        assert_eq!(bench.answer(&["--model", "merged"]), answer, "{kind}: merged");
        // Its files elsewhere, those of its recipe gone; then without a recipe.
        copy(&bench.at("run"), &bench.at("elsewhere/moved"));
        for gone in ["run", "data"] {
            std::fs::remove_dir_all(bench.at(gone)).unwrap();
        }
        std::fs::remove_file(bench.at("own.jinja")).unwrap();
        let moved = ["--model", "base", "--adapter", "elsewhere/moved"];
        assert_eq!(bench.answer(&moved), answer, "{kind}: moved");
        std::fs::remove_file(bench.at("elsewhere/moved/recipe.toml")).unwrap();
        assert_eq!(bench.answer(&moved), answer, "{kind}: moved, without recipe");
        bench.run(&[&["merge", "--out", "again", "--dtype", "f32"], &moved[..]].concat());
        assert_eq!(bench.prompt("again"), trained, "{kind}");
        let both = Tokenizer::from_dir(&bench.at("again")).unwrap().chat_templates().iter().count();
        assert_eq!(both, if template.is_array() { 2 } else { 1 }, "{kind}");
    }
}

#[test]
fn a_template_that_is_asked_for_wins_and_the_conflict_is_told() {
    let bench = Bench::new(&json!(CHATML), "own.jinja");
    bench.run(&["train", "recipe.toml", "--out", "run"]);
    let ask = ["generate", "--chat", "What is it?", "--max-new-tokens", "2", "--adapter", "run"];
    let (_, told) = bench.run(&ask);
    assert!(told.contains("spoken to in the chat template it was trained in (run), not the base's own"), "{told}");
    let (_, told) = bench.run(&[&ask[..], &["--template", "model"]].concat());
    assert!(told.contains("trained in another chat template than the one asked for"), "{told}");
    let (_, told) = bench.run(&[&ask[..], &["--template", "own.jinja"]].concat());
    assert!(!told.contains("another chat template"), "{told}");
    // The base's template changed since: the one kept is used, and eval with another recipe says so.
    let (_, told) = bench.run(&["eval", "recipe.toml", "--adapter", "run", "--set", "template.kind=model"]);
    assert!(told.contains("another chat template than the recipe's"), "{told}");
    bench.run(&["merge", "--model", "base", "--adapter", "run", "--out", "merged", "--template", "instruction"]);
    let merged = Tokenizer::from_dir(&bench.at("merged")).unwrap();
    assert!(merged.chat_template().unwrap().contains("### Instruction"));
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(bench.at("merged/tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["chat_template"].as_str(), merged.chat_template());
}
