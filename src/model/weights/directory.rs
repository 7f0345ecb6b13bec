//! A Hugging Face directory: `config.json` and `model.safetensors`, or an index with shards.
//!
//! The index is foreign input: nothing it names is opened outside the directory (but for the links of the Hugging Face
//! cache into its own `blobs`). Pickles are refused. Refuses to know: what the config means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{Stored, UNPICKLE, is_pickle, model_type, safetensors};
use crate::error::{Error, Result};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest JSON file that is read: an index of a thousand shards has about 10 MB.
const MAX_JSON: u64 = 64 << 20;
const MAX_SHARDS: usize = 10_000;

/// The config and the tensors of a directory.
///
/// # Errors
/// [`Error::Model`] naming the file, key or tensor that is missing or wrong.
pub(super) fn open(root: &Path) -> Result<(Value, BTreeMap<String, Stored>)> {
    let config = read_config(root)?;
    let names = Names(model_type(&config));
    let ignore = |name: &str| names.is_derived(name);
    let mut tensors = CollectedTensors { root, names, by_name: BTreeMap::new() };
    if exists(root, SINGLE) {
        tensors.add(safetensors::read(&inside(root, SINGLE)?, ignore)?)?;
    } else if exists(root, INDEX) {
        let index = read_index(root)?;
        let shards = find_shards(root, &index)?;
        for (shard, path) in &shards {
            let found = safetensors::read(path, ignore)?;
            check_shard(root, shard, &index, &found)?;
            tensors.add(found)?;
        }
        check_complete(root, &index, &tensors.by_name, ignore, names)?;
    } else {
        return Err(without_weights(root));
    }
    if tensors.by_name.is_empty() {
        return Err(Error::model(root, "weights", "there is not a single tensor", "fetch the model again"));
    }
    let by_name = tensors.by_name;
    Ok((config, by_name))
}

/// Tensors collected over all files.
struct CollectedTensors<'a> {
    root: &'a Path,
    names: Names<'a>,
    by_name: BTreeMap<String, Stored>,
}

impl CollectedTensors<'_> {
    fn add(&mut self, found: Vec<Stored>) -> Result<()> {
        for mut tensor in found {
            tensor.name = self.names.full(&tensor.name);
            if let Some(twin) = self.by_name.insert(tensor.name.clone(), tensor) {
                let why = format!("it is there twice (once in {})", twin.file.display());
                return Err(Error::model(self.root, format!("tensor `{}`", twin.name), why, "fetch the model again"));
            }
        }
        Ok(())
    }
}

/// Names of tensors in files of a family, by its `model_type`.
#[derive(Clone, Copy)]
struct Names<'a>(&'a str);

impl Names<'_> {
    /// The name that transformers' causal model has: gpt2 was published without its `transformer.`, and a gpt_neox model's head is
    /// `embed_out` in files of any version.
    fn full(self, name: &str) -> String {
        match self.0 {
            "gpt2" if !name.starts_with("transformer.") && !name.starts_with("lm_head.") => format!("transformer.{name}"),
            "gpt_neox" => name.strip_prefix("embed_out.").map_or_else(|| name.to_string(), |rest| format!("lm_head.{rest}")),
            _ => name.to_string(),
        }
    }

    /// Tensors in old files that follow from the config: rotary frequencies, and attention masks of gpt2 and gpt_neox.
    fn is_derived(self, name: &str) -> bool {
        let masks: &[&str] = match self.0 {
            "gpt2" => &[".attn.bias", ".attn.masked_bias"],
            "gpt_neox" => &[".attention.bias", ".attention.masked_bias"],
            _ => &[],
        };
        name.ends_with(".rotary_emb.inv_freq") || masks.iter().any(|mask| name.ends_with(mask))
    }
}

fn read_config(root: &Path) -> Result<Value> {
    if !exists(root, CONFIG) {
        return Err(without_config(root));
    }
    let config = read_json(root, CONFIG)?;
    if !config.is_object() {
        return Err(Error::model(root, CONFIG, "it is not a JSON object", "fetch the model again"));
    }
    if let Some(quantised) = config.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(Error::model(
            root,
            format!("{CONFIG}: quantization_config"),
            format!("weights quantised by `{method}` are not supported"),
            "use the unquantised model, or a GGUF file of it (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K)",
        ));
    }
    Ok(config)
}

fn without_config(root: &Path) -> Error {
    let names = file_names(root);
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        let help = format!("give the file itself: {}", root.join(gguf).display());
        return Error::model(root, CONFIG, "it is not there, but there is a GGUF file", help);
    }
    let help = if names.iter().any(|n| n == "adapter_config.json") {
        "this directory is an adapter: give it as the adapter, and its base as the model"
    } else {
        "give a directory with config.json and model.safetensors, a .gguf file, or the id of a model on the hub"
    };
    Error::model(root, CONFIG, "it is not there", help)
}

fn without_weights(root: &Path) -> Error {
    let names = file_names(root);
    match names.iter().find(|n| is_pickle(Path::new(n))) {
        Some(pickle) => Error::model(root, pickle.clone(), "the weights are only there as a PyTorch pickle", UNPICKLE),
        None => Error::model(
            root,
            SINGLE,
            format!("neither it nor {INDEX} is there"),
            "fetch the weights: the directory has a config but no model",
        ),
    }
}

fn file_names(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn exists(root: &Path, name: &str) -> bool {
    // A dangling link counts: opening it then says what is wrong.
    root.join(name).symlink_metadata().is_ok()
}

fn read_json(root: &Path, name: &str) -> Result<Value> {
    let path = inside(root, name)?;
    let size = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
    if size > MAX_JSON {
        return Err(Error::model(root, name, format!("it has {size} bytes, the limit is {MAX_JSON}"), "fetch the model again"));
    }
    let text = crate::files::read_text(&path)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::model(root, name, format!("it is not valid JSON: {e}"), "fetch the model again"))
}

/// The tensor → file table of the index.
fn read_index(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut index = read_json(root, INDEX)?;
    let table = index.get_mut("weight_map").map(Value::take).unwrap_or_default();
    let table: BTreeMap<String, String> = serde_json::from_value(table).map_err(|e| {
        Error::model(
            root,
            format!("{INDEX}: weight_map"),
            format!("it is not a table of file names: {e}"),
            "fetch the index again",
        )
    })?;
    if table.is_empty() {
        return Err(Error::model(root, format!("{INDEX}: weight_map"), "it names no tensor", "fetch the index again"));
    }
    Ok(table)
}

/// Every file of the index by name, all of them present.
fn find_shards(root: &Path, index: &BTreeMap<String, String>) -> Result<BTreeMap<String, PathBuf>> {
    let names: BTreeSet<&String> = index.values().collect();
    if names.len() > MAX_SHARDS {
        return Err(Error::model(
            root,
            INDEX,
            format!("it names {} files, the limit is {MAX_SHARDS}", names.len()),
            "fetch the index again",
        ));
    }
    for name in &names {
        check_name(root, name)?;
    }
    let missing: Vec<&str> = names.iter().filter(|n| !exists(root, n)).map(|n| n.as_str()).collect();
    if !missing.is_empty() {
        let why =
            format!("{} of {} files are missing: {}", missing.len(), names.len(), missing[..missing.len().min(5)].join(", "));
        return Err(Error::model(root, INDEX, why, "the download is not complete: fetch the missing files"));
    }
    names.into_iter().map(|name| Ok((name.clone(), inside(root, name)?))).collect()
}

fn check_name(root: &Path, name: &str) -> Result<()> {
    let path = Path::new(name);
    if is_pickle(path) {
        return Err(Error::model(root, format!("{INDEX}: `{name}`"), "it is a PyTorch pickle", UNPICKLE));
    }
    let plain = !name.is_empty() && !name.contains('\\') && path.components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || !name.ends_with(".safetensors") {
        let why = "the name of a shard must be a relative path inside the directory that ends in .safetensors";
        return Err(Error::model(
            root,
            format!("{INDEX}: `{name}`"),
            why,
            "do not use this model: its index points outside its directory",
        ));
    }
    Ok(())
}

fn check_shard(root: &Path, shard: &str, index: &BTreeMap<String, String>, found: &[Stored]) -> Result<()> {
    match found.iter().find(|t| index.get(&t.name).is_none_or(|file| file != shard)) {
        None => Ok(()),
        Some(extra) => {
            let why =
                format!("it is in {shard}, the index says {}", index.get(&extra.name).map_or("nothing of it", String::as_str));
            Err(Error::model(
                root,
                format!("tensor `{}`", extra.name),
                why,
                "index and shards are of different versions: fetch both again",
            ))
        }
    }
}

fn check_complete(
    root: &Path,
    index: &BTreeMap<String, String>,
    found: &BTreeMap<String, Stored>,
    ignore: impl Fn(&str) -> bool,
    names: Names,
) -> Result<()> {
    match index.iter().find(|(name, _)| !ignore(name) && !found.contains_key(&names.full(name))) {
        None => Ok(()),
        Some((name, file)) => {
            let why = format!("the index places it in {file}, but it is not there");
            Err(Error::model(
                root,
                format!("tensor `{name}`"),
                why,
                "index and shards are of different versions: fetch both again",
            ))
        }
    }
}

/// The real path of a file of the directory, after links.
fn inside(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    let real = path.canonicalize().map_err(Error::io("open", &path))?;
    let home = root.canonicalize().map_err(Error::io("open", root))?;
    let blobs = cache_blobs(&home);
    if !(real.starts_with(&home) || blobs.is_some_and(|b| real.starts_with(b))) {
        let why = format!("it is a link out of the directory, to {}", real.display());
        return Err(Error::model(root, name, why, "copy the file itself into the directory"));
    }
    if !real.is_file() {
        return Err(Error::model(root, name, "it is not a regular file", "fetch the model again"));
    }
    Ok(real)
}

/// `models--X/blobs` when the directory is `models--X/snapshots/COMMIT` of a Hugging Face cache.
fn cache_blobs(home: &Path) -> Option<PathBuf> {
    let snapshots = home.parent().filter(|p| p.ends_with("snapshots"))?;
    Some(snapshots.parent()?.join("blobs"))
}
