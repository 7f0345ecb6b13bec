//! The frozen base: its files, one pass with a configuration of variations, and the seam for adapters.
//!
//! A [`Model`] is immutable, holds no trainable variable, and can be shared between threads. Of data it knows
//! [`crate::data::Tokenizer`] alone, which [`text`] makes of the text side of a base's files; of recipes where the base comes from
//! ([`resolve`]). Refuses to know: how an adapter was trained, rows and files of data.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `site`, `batch`, `family`, `linear`, `resolve` | where adapters act; rows of ids; what families differ in; a frozen layer; where a base is |
//! | 1 | `families`, `config_reader`, `layers`, `targets`, `fused` | a row each; a table of `config.json`, key by key; what a model is made of; which positions carry loss; the experts' parameters as transformers 5 has them |
//! | 2 | `weights`, `settings` | files of a base; keys that no row reads |
//! | 3 | `config_layers`, `config_shapes`, `config_encoder`, `rope_parameters`, `text` | windows and rotations of each layer; heads of each layer; an encoder's sizes; rotary frequencies; the tokenizer of a base |
//! | 4 | `config` | `config.json` |
//! | 5 | `cache`, `decoder_cache`, `paged`, `peculiarities` | keys and values of tokens seen: of one text, of one that an encoder has read, in blocks that texts share; what is special in a configuration, in words |
//! | 6 | `build` | from files to model |
//! | 7 | `build_block`, `build_encoder`, `pass` | parts of that: a block, an encoder; the one pass: training, scoring, prompts, decoding |
//! | 8 | `score`, `inspect` | losses of texts; what a base is |

pub mod batch;
mod build;
mod build_block;
mod build_encoder;
pub mod cache;
mod decoder_cache;
mod paged;
pub mod weights;
pub mod config;
mod layers;
mod fused;
mod pass;
pub mod family;
pub mod families;
pub mod inspect;
pub mod linear;
mod peculiarities;
mod settings;
mod config_reader;
mod config_layers;
mod config_encoder;
mod config_shapes;
mod rope_parameters;
mod targets;
mod score;
pub mod resolve;
pub mod site;
pub mod text;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

pub use batch::Batch;
pub use cache::KvCache;
pub use config::Config;
pub use decoder_cache::DecoderCache;
pub use fused::FusedParameter;
pub use paged::{BlockTable, PagedKv};
pub use pass::{
    AnswerChunk, BatchTokens, Chunk, DevicePassMemory, ExpertBalance, Logps, LossAndGradients, LossOfLogps, OwnChunk, Pass,
    PassGradients, PassMemory, PreparedAdapter, Recompute, SiteGradient, Times, Workspace,
};
pub use peculiarities::Peculiarity;
pub use score::{LossSum, Marked};
pub use site::{Adapt, ContentHash, Dropout, LowRankPair, Magnitude, Site, SiteInfo, SiteKind, Term};
pub use targets::Targets;

use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::columns::OutputNorms;
pub use crate::kernels::engine::Phase;
use crate::kernels::linear::Frozen;
use crate::kernels::weight::Weight;
use family::HEAD;
use layers::{Block, Encoder, LayerInputs, Norm, SharedTables, SiteLinear};
use weights::ModelFiles;

/// A frozen causal language model over mapped weights.
#[derive(Debug)]
pub struct Model {
    pub config: Config,
    pub device: Device,
    embedding: Embedding,
    /// An encoder's first.
    blocks: Vec<Block>,
    encoder: Option<Encoder>,
    shared: SharedTables,
    layer_inputs: Option<LayerInputs>,
    final_norm: Norm,
    head: SiteLinear,
    sites: Vec<SiteInfo>,
    machine: MachineKind,
    /// Of activations in tensor operations.
    dtype: DType,
}

/// What passes are run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum MachineKind {
    /// Kernels over plain buffers: the CPU.
    #[serde(rename = "cpu")]
    Kernels,
    /// Tensor operations: any device, the CPU for comparison.
    #[serde(rename = "candle")]
    Tensors,
}

#[derive(Debug)]
struct Embedding {
    site: Site,
    /// (v, d); the head's where it is tied to it.
    matrix: Arc<Frozen>,
    positions: Option<Arc<Frozen>>,
}

impl Model {
    /// Opens a Hugging Face directory or a `.gguf` file; the matrices stay in the mapped file.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file, key or tensor that is missing, malformed, left over or not supported.
    pub fn open(path: &Path, compute: Compute, device: &Device) -> Result<Model> {
        Model::open_ignoring(path, compute, device, &[])
    }

    /// As [`Model::open`]; keys of `config.json` that are in `ignored` may be there without being known, at the user's risk.
    ///
    /// # Errors
    /// As [`Config::from_json_ignoring`] and [`Model::open`].
    pub fn open_ignoring(path: &Path, compute: Compute, device: &Device, ignored: &[String]) -> Result<Model> {
        let files = ModelFiles::open(path)?;
        let mut config = Config::from_json_ignoring(&files.config, path, ignored)?;
        // transformers 5 ties them always, unless the files have a head of its own.
        config.tied &= config.encoder.is_none();
        config.tied |= config.encoder.is_some() && !files.tensors.contains_key(&format!("{HEAD}.weight"));
        build::Builder { files, config: &config, compute, device, sites: Vec::new(), encoding: false }.build()
    }

    /// The same model run in tensor operations, as on an accelerator, wherever it is.
    pub fn in_tensors(self) -> Model {
        Model { machine: MachineKind::Tensors, ..self }
    }

    /// A cache for one text of at most `capacity` tokens, for [`Model::extend_in_tensors`].
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn own_cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config, self.dtype, capacity, &self.device)
    }

    /// What its passes are run on.
    pub fn machine(&self) -> MachineKind {
        self.machine
    }

    /// Whether passes are kernels over plain buffers.
    pub(crate) fn in_kernels(&self) -> bool {
        self.machine == MachineKind::Kernels
    }

    /// Whether an encoder reads each text up to its first target, and a decoder the rest.
    pub fn has_encoder(&self) -> bool {
        self.encoder.is_some()
    }

    /// Every place where an adapter may act, indexed by [`Site`].
    pub fn sites(&self) -> &[SiteInfo] {
        &self.sites
    }

    /// Parameters of all experts of a layer together, as transformers 5 has them; layer by layer, each module's in the order that it
    /// declares them.
    pub fn fused_parameters(&self) -> Vec<FusedParameter> {
        self.config.family.experts.as_ref().map_or(Vec::new(), |names| fused::of(&self.sites, names))
    }

    /// Sites whose weights, one after another, are tensor `name` of the files, under the name that [`Model::sites`] has it by.
    pub fn sites_of_tensor(&self, name: &str) -> Vec<Site> {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        match self.sites.iter().position(|site| site.path == path) {
            Some(site) => vec![Site(site)],
            None => fused::of_tensor(&self.fused_parameters(), &self.sites, name),
        }
    }

    /// Every linear layer at a site.
    fn linears(&self) -> impl Iterator<Item = &SiteLinear> {
        let inputs = self.layer_inputs.iter().map(|inputs| &inputs.projection);
        self.blocks.iter().flat_map(Block::linears).chain(inputs).chain([&self.head])
    }

    /// The weight of a site as it lies in the file (`[outputs, inputs]`, or `[inputs, outputs]` when `conv1d`).
    pub fn site_weight(&self, site: Site) -> &Weight {
        self.linears().find(|l| l.site == site).map_or(&self.embedding.matrix.weight, |l| &l.linear.matrix.weight)
    }

    /// Norms of the outputs of a site's own matrix.
    ///
    /// # Panics
    /// On the embedding, which has no outputs.
    pub fn output_norms(&self, site: Site) -> OutputNorms {
        let linear = self.linears().find(|l| l.site == site).map(|l| &l.linear);
        let linear = linear.unwrap_or_else(|| panic!("site {} is no linear layer", site.0));
        OutputNorms::new(&linear.matrix, linear.side)
    }

    /// # Errors
    /// [`Error::Usage`] naming an id outside the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.config.vocab) {
            None => Ok(()),
            Some(id) => Err(Error::usage(
                format!("token id {id}"),
                format!("the model's vocabulary has {} entries", self.config.vocab),
                "use the tokenizer that belongs to this model",
            )),
        }
    }

    fn check(&self, ids: &[u32], positions: &[u32]) -> Result<()> {
        self.check_ids(ids)?;
        match positions.iter().max() {
            Some(p) if *p as usize >= self.config.max_positions => Err(Error::usage(
                format!("position {p}"),
                format!("the model takes at most {} tokens", self.config.max_positions),
                "shorten the text or lower train.max_length",
            )),
            _ => Ok(()),
        }
    }
}
