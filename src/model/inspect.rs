//! What a base is: its family, the tensors of its files, its sizes, and where adapters may act.
//!
//! Refuses to know: what it takes to train it, how this is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::Model;
use super::config::Config;
use super::family::HEAD;
use super::peculiarities::{self, Peculiarity};
use super::site::{SiteInfo, SiteKind};
use super::weights::{Format, ModelFiles, Stored};
use crate::error::Result;

/// A base at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelFacts {
    /// `model_type` of its configuration.
    pub family: &'static str,
    /// Its class in transformers.
    pub class: &'static str,
    pub format: Format,
    /// By size, the largest first.
    pub tensors: Vec<TensorType>,
    pub sizes: ModelSizes,
    pub peculiarities: Vec<Peculiarity>,
    /// In the order of a pass.
    pub sites: Vec<SiteGroup>,
    /// Keys of its configuration that are left out of account; sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The tensors of one element type in the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorType {
    /// As the formats spell it.
    pub dtype: &'static str,
    pub tensors: usize,
    /// Elements of all of them.
    pub values: u64,
    pub bytes: u64,
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModelSizes {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Inner width of the feed-forward.
    pub ffn: usize,
    pub vocab: usize,
    /// Tokens that a text may have.
    pub positions: usize,
    /// Values of all weights; a matrix that is embedding and head counts once.
    pub parameters: u64,
}

/// Sites of one name and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteGroup {
    /// As `targets` of a recipe may name it.
    pub name: String,
    pub kind: SiteKind,
    pub outputs: usize,
    pub inputs: usize,
    /// How many there are.
    pub sites: usize,
}

/// Of a model and the files that it was opened from.
///
/// # Errors
/// When the files cannot be opened any more.
pub fn facts(path: &Path, model: &Model) -> Result<ModelFacts> {
    let files = ModelFiles::open(path)?;
    let Config { family, notes, .. } = &model.config;
    Ok(ModelFacts {
        family: family.model_type,
        class: family.class,
        format: files.format,
        sizes: sizes(&model.config, &files),
        tensors: types(files.tensors.values()),
        peculiarities: peculiarities::of(&model.config),
        sites: groups(model.sites(), family.layers),
        notes: notes.clone(),
    })
}

fn types<'a>(tensors: impl Iterator<Item = &'a Stored>) -> Vec<TensorType> {
    let mut types: BTreeMap<&'static str, TensorType> = BTreeMap::new();
    for tensor in tensors {
        let dtype = tensor.dtype.name();
        let of = types.entry(dtype).or_insert(TensorType { dtype, tensors: 0, values: 0, bytes: 0 });
        of.tensors += 1;
        of.values += tensor.count() as u64;
        of.bytes += tensor.stored_bytes() as u64;
    }
    let mut types: Vec<TensorType> = types.into_values().collect();
    types.sort_by_key(|of| std::cmp::Reverse(of.bytes));
    types
}

fn sizes(c: &Config, files: &ModelFiles) -> ModelSizes {
    let copy = format!("{HEAD}.weight");
    let counted = files.tensors.values().filter(|tensor| !(c.tied && tensor.name == copy));
    ModelSizes {
        layers: c.layers,
        width: c.width,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        ffn: c.ffn,
        vocab: c.vocab,
        positions: c.max_positions,
        parameters: counted.map(|tensor| tensor.count() as u64).sum(),
    }
}

/// Sites by the shortest ending of their paths that is theirs alone.
fn groups(sites: &[SiteInfo], layers: &str) -> Vec<SiteGroup> {
    // `self_attn.q_proj` of `model.layers.0.self_attn.q_proj`.
    let layers = layers.rsplit('.').next().unwrap_or(layers);
    let module = |site: &SiteInfo| {
        let Some(i) = site.layer else { return site.path.clone() };
        let own = site.path.split_once(&format!(".{layers}.{i}.")).map_or(site.path.as_str(), |(_, own)| own);
        // One row for all experts.
        let parts = own.split('.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "*" } else { part });
        parts.collect::<Vec<_>>().join(".")
    };
    let ends_in = |path: &str, ending: &str| path == ending || path.strip_suffix(ending).is_some_and(|head| head.ends_with('.'));
    let modules: BTreeSet<String> = sites.iter().map(module).collect();
    // The shortest ending of a path that no other module has.
    let name = |module: &str| {
        let endings = module.rmatch_indices('.').map(|(dot, _)| &module[dot + 1..]);
        let own = |ending: &&str| modules.iter().filter(|other| ends_in(other, ending)).count() == 1 && !ending.contains('*');
        endings.chain([module]).find(own).unwrap_or(module).to_string()
    };
    let mut groups: Vec<SiteGroup> = Vec::new();
    for site in sites {
        let (name, kind) = (name(&module(site)), site.kind);
        let (outputs, inputs) = (site.outputs, site.inputs);
        match groups.iter_mut().find(|g| (&g.name, g.kind, g.outputs, g.inputs) == (&name, kind, outputs, inputs)) {
            Some(group) => group.sites += 1,
            None => groups.push(SiteGroup { name, kind, outputs, inputs, sites: 1 }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::Device;

    use super::*;
    use crate::device::Compute;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
    }

    fn of(name: &str) -> ModelFacts {
        facts(&golden(name), &Model::open(&golden(name), Compute::F32, &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn tensors_and_parameters_are_those_of_the_files() {
        for name in ["models/llama", "models/gpt2", "families/phi3", "families/qwen3"] {
            let (found, files) = (of(name), ModelFiles::open(&golden(name)).unwrap());
            let bytes: u64 = files.tensors.values().map(|t| t.stored_bytes() as u64).sum();
            assert_eq!(found.tensors.iter().map(|t| t.bytes).sum::<u64>(), bytes, "{name}");
            assert_eq!(found.tensors.iter().map(|t| t.tensors).sum::<usize>(), files.tensors.len(), "{name}");
            let values: u64 = found.tensors.iter().map(|t| t.values).sum();
            let head = files.tensors.get("lm_head.weight").map_or(0, |t| t.count() as u64);
            let tied = found.peculiarities.iter().any(|p| p.what == "head" && p.how == "the matrix of the embedding");
            assert_eq!(found.sizes.parameters, values - if tied { head } else { 0 }, "{name}");
        }
    }

    #[test]
    fn a_name_of_sites_is_theirs_alone() {
        for (name, expected) in [
            ("models/llama", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
            ("models/gpt2", "c_attn attn.c_proj c_fc mlp.c_proj"),
            ("families/gpt_neox", "query_key_value dense dense_h_to_4h dense_4h_to_h"),
            (
                "families/t5",
                "SelfAttention.q SelfAttention.k SelfAttention.v SelfAttention.o wi_0 wi_1 wo EncDecAttention.q EncDecAttention.k EncDecAttention.v EncDecAttention.o",
            ),
        ] {
            let model = Model::open(&golden(name), Compute::F32, &Device::Cpu).unwrap();
            let groups = groups(model.sites(), model.config.family.layers);
            let names: Vec<&str> = groups[1..groups.len() - 1].iter().map(|g| g.name.as_str()).collect();
            assert_eq!(names.join(" "), expected, "{name}");
            for group in &groups {
                let named = |site: &&SiteInfo| site.path == group.name || site.path.ends_with(&format!(".{}", group.name));
                let alone = matches!(group.kind, SiteKind::Embedding | SiteKind::Head);
                let across = group.name.starts_with("EncDec");
                let encoder = model.config.encoder.as_ref().filter(|_| !across).map_or(0, |encoder| encoder.layers);
                let all = if alone { 1 } else { model.config.layers + encoder };
                assert_eq!((model.sites().iter().filter(named).count(), group.sites), (all, all), "{}", group.name);
            }
        }
    }
}
