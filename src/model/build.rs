//! From a base's files to a model: takes every tensor by name and numbers the sites.

use candle_core::{Device, Tensor};

use super::config::Config;
use super::family::{AttentionNames, HEAD, MlpNames, NormKind};
use super::layers::{Block, Mlp, Norm, Qkv, SharedTables, SiteLinear};
use super::linear::FrozenLinear;
use super::site::{Site, SiteInfo, SiteKind};
use super::weights::ModelFiles;
use super::{Embedding, MachineKind, Model};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::linear::Frozen;
use crate::kernels::rope::RopeTable;
use crate::kernels::weight::Weight;

/// Angles that are computed at once, and of how many positions; the table grows when a longer row comes.
const ROPE_ANGLES: usize = 1 << 20;
const ROPE_POSITIONS: usize = 4096;

/// Takes tensors out of a base's files, with shapes checked, and numbers sites as it meets them.
pub(super) struct Builder<'a> {
    pub files: ModelFiles,
    pub config: &'a Config,
    pub compute: Compute,
    pub device: &'a Device,
    pub sites: Vec<SiteInfo>,
}

impl Builder<'_> {
    /// Everything but the files' leftovers, which [`ModelFiles::finish`] then complains about.
    pub(super) fn build(mut self) -> Result<Model> {
        let c = self.config;
        let family = c.family;
        let embedding = self.matrix(&format!("{}.weight", family.embedding), c.vocab, c.width)?;
        let embedding_site = self.site(family.embedding.to_string(), None, SiteKind::Embedding, c.vocab, c.width, false);
        let positions = match family.positions {
            Some(name) => Some(Frozen::new(self.matrix(&format!("{name}.weight"), c.max_positions, c.width)?, self.compute)),
            None => None,
        };
        let blocks = (0..c.layers).map(|i| self.block(i)).collect::<Result<Vec<_>>>()?;
        let final_norm = self.norm(family.final_norm)?;
        self.check_tie(&embedding)?;
        let head_weight = if c.tied { embedding.clone() } else { self.matrix(&format!("{HEAD}.weight"), c.vocab, c.width)? };
        let head = FrozenLinear::new(head_weight, None, false, self.compute);
        let matrix = if c.tied { head.matrix.clone() } else { Frozen::new(embedding, self.compute) };
        let head_site = self.site(HEAD.to_string(), None, SiteKind::Head, c.width, c.vocab, false);
        let rope = c.inv_freq.as_ref().map(|freq| {
            let positions = (ROPE_ANGLES / freq.len().max(1)).clamp(1, ROPE_POSITIONS);
            RopeTable::new(freq.clone(), 1.0, c.max_positions.min(positions))
        });
        self.files.finish()?;
        Ok(Model {
            config: c.clone(),
            device: self.device.clone(),
            embedding: Embedding { site: embedding_site, matrix, positions },
            blocks,
            shared: SharedTables {
                heads: c.heads,
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                activation: c.activation,
                rope,
                embedding_scale: family.scaled_embedding.then(|| (c.width as f64).sqrt() as f32),
                final_cap: c.final_cap,
            },
            final_norm,
            head: SiteLinear { site: head_site, linear: head },
            sites: self.sites,
            machine: if self.device.is_cpu() { MachineKind::Kernels } else { MachineKind::Tensors },
            dtype: self.compute.dtype(self.device),
        })
    }

    /// A head beside a tied embedding must be the same matrix: transformers 5 takes both where they differ, older ones the embedding.
    fn check_tie(&self, embedding: &Weight) -> Result<()> {
        let name = format!("{HEAD}.weight");
        let Some(head) = self.files.tensors.get(&name).filter(|_| self.config.tied) else { return Ok(()) };
        let head = head.matrix()?;
        let same = (head.dtype, head.rows, head.cols) == (embedding.dtype, embedding.rows, embedding.cols)
            && head.data.bytes() == embedding.data.bytes();
        if same {
            return Ok(());
        }
        Err(Error::model(
            &self.files.path,
            "config `tie_word_embeddings`",
            format!("it says that the head is the embedding, but tensor `{name}` is there and differs"),
            "set it to false if the head was trained, or take the tensor out of the files",
        ))
    }

    fn site(&mut self, path: String, layer: Option<usize>, kind: SiteKind, inputs: usize, outputs: usize, conv1d: bool) -> Site {
        self.sites.push(SiteInfo { path, layer, kind, inputs, outputs, conv1d });
        Site(self.sites.len() - 1)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let weight = self.files.take(name)?.matrix()?;
        if (weight.rows, weight.cols) != (rows, cols) {
            return Err(Error::model(
                &self.files.path,
                format!("tensor `{name}`"),
                format!("shape is [{}, {}], the configuration says [{rows}, {cols}]", weight.rows, weight.cols),
                "config.json and the weights are of different models; fetch both again",
            ));
        }
        Ok(weight)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        let values = self.files.take(name)?.vector_f32()?;
        if values.len() != len {
            return Err(Error::model(
                &self.files.path,
                format!("tensor `{name}`"),
                format!("{} elements, the configuration says {len}", values.len()),
                "config.json and the weights are of different models; fetch both again",
            ));
        }
        Ok(Tensor::from_vec(values, len, self.device)?)
    }

    fn norm(&mut self, path: &str) -> Result<Norm> {
        let (width, eps) = (self.config.width, self.config.norm_eps);
        let mut weight = self.vector(&format!("{path}.weight"), width)?;
        if self.config.family.norm == NormKind::RmsLessOne {
            weight = (weight + 1.0)?;
        }
        let bias = match self.config.family.norm {
            NormKind::Rms | NormKind::RmsLessOne => None,
            NormKind::Layer => Some(self.vector(&format!("{path}.bias"), width)?),
        };
        Norm::new(weight, bias, eps)
    }

    fn linear(
        &mut self,
        layer: usize,
        name: &str,
        kind: SiteKind,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<SiteLinear> {
        let path = format!("{}.{layer}.{name}", self.config.family.layers);
        let conv1d = self.config.family.conv1d;
        let (rows, cols) = if conv1d { (inputs, outputs) } else { (outputs, inputs) };
        let weight = self.matrix(&format!("{path}.weight"), rows, cols)?;
        let bias = if bias { Some(self.vector(&format!("{path}.bias"), outputs)?) } else { None };
        let linear = FrozenLinear::new(weight, bias, conv1d, self.compute);
        Ok(SiteLinear { site: self.site(path, Some(layer), kind, inputs, outputs, conv1d), linear })
    }

    fn block(&mut self, i: usize) -> Result<Block> {
        let c = self.config;
        let family = c.family;
        let (d, qd, kd) = (c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let prefix = format!("{}.{i}", family.layers);
        let attention_norm = self.norm(&format!("{prefix}.{}", family.attention_norm))?;
        let att = SiteKind::Attention;
        let (qkv, o) = match &family.attention {
            AttentionNames::Split { q, k, v, o } => {
                let q = self.linear(i, q, att, d, qd, c.qkv_bias)?;
                let k = self.linear(i, k, att, d, kd, c.qkv_bias)?;
                let v = self.linear(i, v, att, d, kd, c.qkv_bias)?;
                (Qkv::Split { q, k, v }, o)
            }
            AttentionNames::Fused { qkv, o } => (Qkv::Fused(self.linear(i, qkv, att, d, qd + 2 * kd, c.qkv_bias)?), o),
        };
        let output = self.linear(i, o, att, qd, d, c.output_bias)?;
        let mlp_norm = self.norm(&format!("{prefix}.{}", family.mlp_norm))?;
        let mlp = match &family.mlp {
            MlpNames::Gated { gate, up, down } => Mlp::Gated {
                gate: self.linear(i, gate, SiteKind::Mlp, d, c.ffn, c.mlp_bias)?,
                up: self.linear(i, up, SiteKind::Mlp, d, c.ffn, c.mlp_bias)?,
                down: self.linear(i, down, SiteKind::Mlp, c.ffn, d, c.mlp_bias)?,
            },
            MlpNames::Plain { up, down } => Mlp::Plain {
                up: self.linear(i, up, SiteKind::Mlp, d, c.ffn, c.mlp_bias)?,
                down: self.linear(i, down, SiteKind::Mlp, c.ffn, d, c.mlp_bias)?,
            },
        };
        let [post_attention_norm, post_mlp_norm] = match family.post_norms {
            Some(names) => names.map(|name| self.norm(&format!("{prefix}.{name}")).map(Some)),
            None => [Ok(None), Ok(None)],
        };
        let (post_attention_norm, post_mlp_norm) = (post_attention_norm?, post_mlp_norm?);
        Ok(Block { attention_norm, qkv, scores: c.scores[i], output, post_attention_norm, mlp_norm, mlp, post_mlp_norm })
    }
}
