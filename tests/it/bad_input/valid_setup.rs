//! A folder in which everything is right: model, tokenizer, recipe, data; and ways to make an adapter in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lorakit::adapter::Adapter;
use lorakit::recipe::Recipe;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::tiny_models;

pub(super) const RECIPE: &str = r#"[base]
model = "model"
compute = "f32"

[adapter]
rank = 2

[data]
train = "rows.jsonl"
heldout = "heldout.jsonl"

[train]
steps = 2
batch_size = 2
warmup = 0
max_length = 64

[output]
dir = "run"
"#;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

pub(super) struct ValidSetup {
    dir: tempfile::TempDir,
}

impl ValidSetup {
    pub(super) fn new() -> ValidSetup {
        let shop = ValidSetup { dir: tempfile::tempdir().unwrap() };
        for name in ["config.json", "model.safetensors"] {
            shop.copy(&tiny_models::dir("llama").join(name), &format!("model/{name}"));
        }
        shop.write("model/tokenizer.json", tokenizer(&["<|im_start|>", "<|im_end|>"]));
        let config = json!({"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": TEMPLATE});
        shop.write("model/tokenizer_config.json", config.to_string());
        shop.write("recipe.toml", RECIPE);
        let row = |q: &str, a: &str| format!("{}\n", json!({"prompt": q, "completion": a}));
        shop.write("rows.jsonl", ["a", "b", "c", "d"].map(|q| row(q, "yes")).concat());
        shop.write("heldout.jsonl", row("e", "no") + &row("f", "yes"));
        std::fs::create_dir(shop.path("home")).unwrap();
        shop
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, making its folder.
    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(super) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub(super) fn copy(&self, from: &Path, to: &str) {
        self.write(to, std::fs::read(from).unwrap());
    }

    /// Replaces text in a file, which must hold it.
    pub(super) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.read(name)).unwrap();
        assert!(text.contains(from), "{name} does not hold {from:?}");
        self.write(name, text.replace(from, to));
    }

    /// Sets a key of a JSON file.
    pub(super) fn set(&self, name: &str, key: &str, value: Value) {
        let mut json: Value = serde_json::from_slice(&self.read(name)).unwrap();
        json[key] = value;
        self.write(name, json.to_string());
    }

    /// Cuts a file to its first `keep` bytes.
    pub(super) fn cut(&self, name: &str, keep: usize) {
        let bytes = self.read(name);
        assert!(bytes.len() > keep);
        self.write(name, &bytes[..keep]);
    }

    /// Writes rows as the training file.
    pub(super) fn rows(&self, rows: &[&str]) {
        self.write("rows.jsonl", rows.iter().map(|r| format!("{r}\n")).collect::<String>());
    }

    /// A fresh adapter for the model, as `train` would begin with.
    pub(super) fn adapter(&self, name: &str) {
        self.adapter_for("llama", name);
    }

    /// A fresh adapter for another of the small models.
    pub(super) fn adapter_for(&self, model: &str, name: &str) {
        let recipe = Recipe::load(&self.path("recipe.toml"), &[]).unwrap();
        let model = tiny_models::open(model);
        Adapter::new(&recipe.adapter, None, &model, 1).unwrap().save(&self.path(name)).unwrap();
    }

    /// Rewrites the tensors of `adapter` as f32.
    pub(super) fn tensors(&self, change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
        let file = "adapter/adapter_model.safetensors";
        let bytes = self.read(file);
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            tensors.insert(name, (view.shape().to_vec(), values));
        }
        change(&mut tensors);
        let raw: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(n, (shape, values))| (n, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = raw.iter().map(|(n, shape, bytes)| (n, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        self.write(file, safetensors::serialize(views, None).unwrap());
    }

    /// Every file and folder with its bytes.
    pub(super) fn listing(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut open = vec![self.root().to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.root()).unwrap().display().to_string();
                if path.is_dir() {
                    all.insert(name + "/", Vec::new());
                    open.push(path);
                } else {
                    all.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        all
    }
}

/// One token a byte, and the given special ones: `tokenizer.json`.
pub(super) fn tokenizer(special: &[&str]) -> String {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab = alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i as u32)).collect::<Vocab>();
    let mut inner = tokenizers::Tokenizer::new(BPE::builder().vocab_and_merges(vocab, vec![]).build().unwrap());
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    inner.with_decoder(Some(ByteLevel::default()));
    let tokens: Vec<AddedToken> = special.iter().map(|t| AddedToken::from((*t).to_string(), true)).collect();
    inner.add_special_tokens(tokens).unwrap();
    inner.to_string(false).unwrap()
}
