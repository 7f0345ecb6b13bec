//! Base + adapter → a complete Hugging Face directory, tensor by tensor in f32.
//!
//! Peak memory is one weight and its delta: the header is written first, then each tensor is made, rounded and written.

use std::io::Write;
use std::path::Path;

use candle_core::Tensor;
use half::bf16;
use serde_json::{Value, json};

use super::chat_template;
use crate::adapter::Adapter;
use crate::data::Renderer;
use crate::error::{Error, Result};
use crate::files;
use crate::model::family::HEAD;
use crate::model::weights::{Format, ModelFiles, Stored, written};
use crate::model::{Adapt, Model, Site, SiteKind, text};

/// Element type of the merged weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    Bf16,
    F32,
}

impl Dtype {
    const fn bytes(self) -> usize {
        match self {
            Dtype::Bf16 => 2,
            Dtype::F32 => 4,
        }
    }

    /// As safetensors writes it, and as PyTorch calls it.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Dtype::Bf16 => ("BF16", "bfloat16"),
            Dtype::F32 => ("F32", "float32"),
        }
    }
}

/// Where a tensor of the merged model comes from.
enum TensorSource {
    /// The base's own.
    Base(Stored),
    /// Of a part that is not read: its own bytes.
    Carried(Stored),
    /// Weights of sites, one after another, with the adapter's share; `turned` as the base's tensor is ([`Stored::turned`]).
    Sites { sites: Vec<Site>, turned: bool },
}

struct MergedTensor {
    name: String,
    shape: Vec<usize>,
    source: TensorSource,
}

/// What goes into a merged model.
pub struct Merged<'a> {
    pub model: &'a Model,
    pub adapter: &'a Adapter,
    /// The base's files: configuration and tokenizer are theirs.
    pub base: &'a Path,
    pub dtype: Dtype,
    /// A chat template that is not the base's.
    pub spoken: Option<&'a Renderer>,
    /// Text of its `README.md`.
    pub card: Option<&'a str>,
}

/// Writes the merged model to `out`, which must not exist. `progress` hears (tensors done, all).
///
/// # Errors
/// When `out` exists, a file cannot be read or written, or shapes disagree; nothing is left at `out` then.
pub fn write(merged: &Merged<'_>, out: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
    let &Merged { model, adapter, base, dtype, spoken, card } = merged;
    if out.exists() {
        return Err(Error::usage(out.display().to_string(), "it exists already", "choose another --out, or remove it first"));
    }
    files::write_dir_atomic(out, |dir| {
        let files = ModelFiles::open(base)?;
        let untied = model.config.tied && touches(model, adapter, SiteKind::Head) | touches(model, adapter, SiteKind::Embedding);
        let config = config(model, &files, dtype, untied);
        let entries = entries(files, model, adapter, untied);
        files::write_atomic(&dir.join("config.json"), format!("{config:#}\n").as_bytes())?;
        weights(model, adapter, &entries, dtype, &dir.join("model.safetensors"), progress)?;
        text::copy(base, dir)?;
        card.map_or(Ok(()), |card| files::write_atomic(&dir.join("README.md"), card.as_bytes()))?;
        spoken.map_or(Ok(()), |renderer| chat_template::put(renderer, dir))
    })
}

fn touches(model: &Model, adapter: &Adapter, kind: SiteKind) -> bool {
    model.sites().iter().enumerate().any(|(i, s)| s.kind == kind && adapter.term(Site(i)).is_some())
}

fn config(model: &Model, base: &ModelFiles, dtype: Dtype, untied: bool) -> Value {
    let mut config = base.whole.as_ref().unwrap_or(&base.config).clone();
    let name = dtype.names().1;
    for key in ["dtype", "torch_dtype"] {
        if config.get(key).is_some() {
            config[key] = json!(name);
        }
    }
    if config.get("dtype").is_none() && config.get("torch_dtype").is_none() {
        config["torch_dtype"] = json!(name);
    }
    for key in ["dtype", "torch_dtype"] {
        if base.whole.is_some() && config["text_config"].get(key).is_some() {
            config["text_config"][key] = json!(name);
        }
    }
    if let Some(map) = config.as_object_mut() {
        map.remove("quantization_config");
    }
    if untied {
        // What T5 scales goes by the tie where nothing else says it.
        if model.has_encoder() {
            config["scale_decoder_outputs"] = json!(model.config.logit_scale != 1.0);
        }
        config["tie_word_embeddings"] = json!(false);
        if base.whole.is_some() {
            config["text_config"]["tie_word_embeddings"] = json!(false);
        }
    }
    config
}

/// Every tensor to write, by name, those of parts that are not read among them. A tied head that no longer equals the embedding
/// becomes a tensor of its own.
fn entries(files: ModelFiles, model: &Model, adapter: &Adapter, untied: bool) -> Vec<MergedTensor> {
    let source = |name: &str, stored: Stored| {
        let sites = model.sites_of_tensor(name);
        let adapted = sites.iter().any(|site| adapter.term(*site).is_some());
        if adapted { TensorSource::Sites { sites, turned: stored.turned } } else { TensorSource::Base(stored) }
    };
    let head = format!("{HEAD}.weight");
    let tied = model.config.tied;
    // The embedding under other names, which transformers ties again.
    let copies = model.config.family.encoder.as_ref().map_or(&[][..], |encoder| encoder.copies);
    let copy = |name: &str| copies.iter().any(|copy| name.strip_suffix(".weight") == Some(copy));
    let mut entries: Vec<MergedTensor> = files
        .tensors
        .into_iter()
        .filter(|(name, _)| !(copy(name) || tied && *name == head))
        .map(|(name, stored)| MergedTensor {
            shape: stored.shape.clone(),
            name: stored.written.clone(),
            source: source(&name, stored),
        })
        .collect();
    let carried = files.carried.into_iter();
    entries.extend(carried.map(|stored| MergedTensor {
        shape: stored.shape.clone(),
        name: stored.written.clone(),
        source: match files.format {
            Format::HfDirectory => TensorSource::Carried(stored),
            // safetensors has neither its blocks nor its order of rows.
            Format::Gguf => TensorSource::Base(stored),
        },
    }));
    let head_site = model.sites().iter().position(|s| s.kind == SiteKind::Head).map(Site);
    if let (true, Some(site)) = (untied, head_site) {
        entries.push(MergedTensor {
            name: written(model.config.family.model_type, &head),
            shape: vec![model.config.vocab, model.config.width],
            source: TensorSource::Sites { sites: vec![site], turned: false },
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn weights(
    model: &Model,
    adapter: &Adapter,
    entries: &[MergedTensor],
    dtype: Dtype,
    path: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    files::write_atomic_with(path, |file| {
        file.write_all(&header(entries, dtype)).map_err(Error::io("write", path))?;
        for (i, entry) in entries.iter().enumerate() {
            match &entry.source {
                TensorSource::Carried(stored) => file.write_all(stored.data.bytes()).map_err(Error::io("write", path))?,
                TensorSource::Base(stored) => {
                    write_values(file, &stored.vector_f32()?, dtype).map_err(Error::io("write", path))?;
                }
                TensorSource::Sites { sites, turned } => {
                    for site in sites {
                        write_values(file, &values(model, adapter, *site, *turned)?, dtype).map_err(Error::io("write", path))?;
                    }
                }
            }
            progress(i + 1, entries.len());
        }
        Ok(())
    })
}

/// Length and JSON of a safetensors header, padded to eight bytes.
fn header(entries: &[MergedTensor], dtype: Dtype) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0usize;
    for e in entries {
        let (name, bytes) = match &e.source {
            TensorSource::Carried(stored) => (stored.dtype.name(), stored.data.bytes().len()),
            _ => (dtype.names().0, e.shape.iter().product::<usize>() * dtype.bytes()),
        };
        let end = offset + bytes;
        map.insert(e.name.clone(), json!({"dtype": name, "shape": e.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut json = Value::Object(map).to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes
}

fn values(model: &Model, adapter: &Adapter, site: Site, turned: bool) -> Result<Vec<f32>> {
    let weight = model.site_weight(site);
    let merged = match adapter.merged(model, site)? {
        None if !turned => return Ok(weight.to_f32()),
        None => Tensor::from_vec(weight.to_f32(), (weight.rows, weight.cols), &model.device)?,
        Some(merged) => merged,
    };
    Ok(if turned { merged.t()? } else { merged }.flatten_all()?.to_vec1()?)
}

fn write_values(file: &mut dyn Write, values: &[f32], dtype: Dtype) -> std::io::Result<()> {
    for chunk in values.chunks(1 << 16) {
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => chunk.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::Bf16 => chunk.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        file.write_all(&bytes)?;
    }
    Ok(())
}
