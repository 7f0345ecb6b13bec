//! What a run was made from, with enough of it to say what is different when it is not the same any more.
//!
//! Only what changes the numbers of a step is compared: a file may move, checkpoints may become more frequent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{ChatTemplates, Loaded, Split, Tokenizer};
use crate::error::{Error, Result};
use crate::files;
use crate::model::resolve::{self, Places};
use crate::recipe::{Recipe, TemplateKind};

/// Keys of a recipe that change no number of a run.
const FREE: [&str; 2] = ["train.save_every", "data.cache"];

/// Everything that the numbers of a run depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Key → value, as JSON text (numbers are compared as they are written), of `[adapter]`, `[train]`, and of `[base]`
    /// and `[data]` without their files.
    pub recipe: BTreeMap<String, String>,
    /// File of the base → SHA-256.
    pub base: BTreeMap<String, String>,
    pub template: TemplateDigest,
    pub data: DataDigest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateDigest {
    pub name: String,
    /// Of its text and of the system message.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataDigest {
    /// BLAKE3 of the tokens of all rows, with which of them are trained.
    pub tokens: String,
    pub train_rows: usize,
    pub heldout_rows: usize,
    pub sources: Vec<SourceDigest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceDigest {
    pub split: Split,
    /// Name of the file, without its folder.
    pub file: String,
    pub rows: usize,
    pub sha256: String,
}

impl Fingerprint {
    /// Of a run of `recipe` on the base at `base`. Reads the base's weights once, to hash them.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn of(recipe: &Recipe, base: &Path, tokenizer: &Tokenizer, loaded: &Loaded) -> Result<Fingerprint> {
        let places = Places::from_env();
        let base = weights(base)?.iter().map(|path| Ok((name(path), resolve::sha256(&places, path)?))).collect::<Result<_>>()?;
        let sources = loaded.report.sources.iter().map(|s| {
            let (split, file, rows, sha256) = (s.split, name(&s.path), s.rows, resolve::sha256(&places, &s.path)?);
            Ok(SourceDigest { split, file, rows, sha256 })
        });
        let data = DataDigest {
            tokens: tokens(loaded),
            train_rows: loaded.train.len(),
            heldout_rows: loaded.heldout.len(),
            sources: sources.collect::<Result<_>>()?,
        };
        Ok(Fingerprint { recipe: keys(recipe), base, template: template(recipe, tokenizer)?, data })
    }

    /// One line for each thing that was `old` and is now otherwise: what, old → new.
    pub fn differences(&self, old: &Fingerprint) -> Vec<String> {
        let mut found = Vec::new();
        let keys: BTreeSet<&String> = self.recipe.keys().chain(old.recipe.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("not set".to_string(), Clone::clone);
        for key in keys.into_iter().filter(|key| self.recipe.get(*key) != old.recipe.get(*key)) {
            found.push(format!("{key}: {} → {}", shown(old.recipe.get(key)), shown(self.recipe.get(key))));
        }
        if self.base.values().collect::<BTreeSet<_>>() != old.base.values().collect() {
            found.push(self.base_difference(old));
        }
        if self.template.sha256 != old.template.sha256 {
            let show = |t: &TemplateDigest| format!("{} (SHA-256 {})", t.name, short(&t.sha256));
            found.push(format!("template: {} → {}", show(&old.template), show(&self.template)));
        }
        if self.data.tokens != old.data.tokens {
            found.push(self.data.difference(&old.data));
        }
        found
    }

    fn base_difference(&self, old: &Fingerprint) -> String {
        let only = |these: &BTreeMap<String, String>, those: &BTreeMap<String, String>| {
            let others: BTreeSet<&String> = those.values().collect();
            let own = these.iter().filter(|(_, sha)| !others.contains(sha));
            let own: Vec<String> = own.map(|(file, sha)| format!("{file} (SHA-256 {})", short(sha))).collect();
            if own.is_empty() { "nothing".to_string() } else { own.join(", ") }
        };
        format!("base: {} → {}", only(&old.base, &self.base), only(&self.base, &old.base))
    }
}

impl DataDigest {
    fn difference(&self, old: &DataDigest) -> String {
        let mut files: Vec<String> = Vec::new();
        let of = |s: &SourceDigest| format!("{} rows, SHA-256 {}", s.rows, short(&s.sha256));
        for (i, new) in self.sources.iter().enumerate() {
            match old.sources.get(i) {
                Some(was) if was.sha256 == new.sha256 => {}
                Some(was) if was.file == new.file => files.push(format!("{} ({}) → ({})", new.file, of(was), of(new))),
                Some(was) => files.push(format!("{} ({}) → {} ({})", was.file, of(was), new.file, of(new))),
                None => files.push(format!("no file → {} ({})", new.file, of(new))),
            }
        }
        files.extend(old.sources.iter().skip(self.sources.len()).map(|was| format!("{} ({}) → no file", was.file, of(was))));
        if files.is_empty() {
            files.push("the files are the same, their tokens are not (another tokenizer, or another version of lorakit)".into());
        }
        let rows = |d: &DataDigest| format!("{} rows and {} held out", d.train_rows, d.heldout_rows);
        format!("data: {} → {}: {}", rows(old), rows(self), files.join("; "))
    }
}

fn short(sha256: &str) -> String {
    format!("{}…", sha256.get(..12).unwrap_or(sha256))
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The files of a base that its numbers depend on: config and weights, as one file or (where there is none) as shards.
fn weights(base: &Path) -> Result<Vec<PathBuf>> {
    let (config, single) = (base.join("config.json"), base.join("model.safetensors"));
    if !base.is_dir() {
        return Ok(vec![base.to_path_buf()]);
    }
    if single.exists() {
        return Ok(vec![config, single]);
    }
    let entries = std::fs::read_dir(base).map_err(Error::io("read", base))?;
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    files.push(config);
    files.sort();
    Ok(files)
}

/// The recipe's keys that numbers depend on, as `section.key`.
fn keys(recipe: &Recipe) -> BTreeMap<String, String> {
    let tree = recipe.to_json();
    let mut keys = BTreeMap::new();
    for section in ["base", "adapter", "data", "train"] {
        for (key, value) in tree[section].as_object().into_iter().flatten() {
            keys.insert(format!("{section}.{key}"), value.to_string());
        }
    }
    let sources = recipe.data.train.iter().chain(recipe.data.replayed());
    let shares: Vec<_> = sources.map(|s| (&s.name, s.weight, s.rows, s.epochs)).collect();
    if shares.iter().any(|s| *s != (&None, None, None, None)) {
        keys.insert("data.train (shares)".into(), serde_json::json!(shares).to_string());
    }
    if let Some(replay) = &recipe.data.replay {
        keys.insert("data.replay".into(), format!("fraction {}", replay.fraction));
    }
    let files = ["base.model", "base.fallback", "base.revision", "data.train", "data.heldout"];
    keys.retain(|key, _| !files.contains(&key.as_str()) && !FREE.contains(&key.as_str()));
    keys
}

fn template(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<TemplateDigest> {
    let (name, text) = match &recipe.template.kind {
        TemplateKind::Model => ("the model's own".to_string(), own(tokenizer.chat_templates())),
        TemplateKind::Alpaca => ("alpaca".into(), "alpaca".into()),
        TemplateKind::Instruction => ("instruction".into(), "instruction".into()),
        TemplateKind::File(path) => (name(path), files::read_text(path)?),
    };
    let system = recipe.template.system.as_deref().unwrap_or_default();
    Ok(TemplateDigest { name, sha256: files::sha256(format!("{system}\0{text}").as_bytes()) })
}

/// All templates of a model; of one alone its source, as it is.
fn own(templates: &ChatTemplates) -> String {
    match templates.to_config() {
        Value::String(source) => source,
        Value::Null => String::new(),
        several => several.to_string(),
    }
}

fn tokens(loaded: &Loaded) -> String {
    let mut hash = blake3::Hasher::new();
    for rows in [&loaded.train, &loaded.heldout] {
        hash.update(&(rows.len() as u64).to_le_bytes());
        for row in rows.iter() {
            hash.update(&(row.ids.len() as u64).to_le_bytes());
            let marked = row.ids.iter().zip(row.trained.iter()).flat_map(|(id, t)| (id << 1 | u32::from(t)).to_le_bytes());
            hash.update(&marked.collect::<Vec<u8>>());
        }
    }
    hash.finalize().to_string()
}
