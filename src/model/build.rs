//! From a base's files to a model: takes every tensor by name and numbers the sites.

use candle_core::{Device, Tensor};

use super::config::Config;
use super::family::{HEAD, LinearIn, NormKind};
use super::layers::{LayerInputs, Norm, SharedTables, SiteLinear};
use super::linear::FrozenLinear;
use super::site::{Site, SiteInfo, SiteKind};
use super::weights::{ModelFiles, multimodal};
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
    /// What is built now is the encoder's.
    pub encoding: bool,
}

impl Builder<'_> {
    /// Everything but the files' leftovers, which [`ModelFiles::finish`] then complains about.
    pub(super) fn build(mut self) -> Result<Model> {
        let c = self.config;
        let family = c.family;
        let embedding_path = self.path(family.embedding);
        let embedding = self.matrix(&format!("{embedding_path}.weight"), c.vocab, c.width)?;
        let embedding_site = self.site(embedding_path, None, SiteKind::Embedding, c.vocab, c.width, false);
        let positions = match family.positions {
            Some(name) => Some(Frozen::new(self.matrix(&format!("{name}.weight"), c.max_positions, c.width)?, self.compute)),
            None => None,
        };
        self.check_copies(&embedding)?;
        let (mut blocks, encoder) = self.encoder()?;
        for i in 0..c.layers {
            blocks.push(self.block(i)?);
        }
        self.distances(&mut blocks)?;
        let final_norm = self.scaled_norm(&self.path(family.final_norm), c.logit_scale)?;
        self.check_tie(&embedding)?;
        let head_weight = if c.tied { embedding.clone() } else { self.matrix(&format!("{HEAD}.weight"), c.vocab, c.width)? };
        let head = FrozenLinear::new(head_weight, None, false, self.compute);
        let matrix = if c.tied { head.matrix.clone() } else { Frozen::new(embedding, self.compute) };
        let head_site = self.site(HEAD.to_string(), None, SiteKind::Head, c.width, c.vocab, false);
        let layer_inputs = self.layer_inputs()?;
        let ropes = c.rotations.iter().map(|rotary| {
            let positions = (ROPE_ANGLES / rotary.inverse_frequencies.len().max(1)).clamp(1, ROPE_POSITIONS);
            RopeTable::new(rotary.clone(), c.max_positions.min(positions))
        });
        let ropes = ropes.collect();
        self.files.finish(c.tied)?;
        Ok(Model {
            config: c.clone(),
            device: self.device.clone(),
            embedding: Embedding { site: embedding_site, matrix, positions },
            blocks,
            encoder,
            shared: SharedTables {
                ropes,
                embedding_scale: (c.embedding_scale != 1.0).then_some(c.embedding_scale as f32),
                final_cap: c.final_cap,
            },
            layer_inputs,
            final_norm,
            head: SiteLinear { site: head_site, linear: head },
            sites: self.sites,
            machine: if self.device.is_cpu() { MachineKind::Kernels } else { MachineKind::Tensors },
            dtype: self.compute.dtype(self.device),
        })
    }

    /// What layers are given beside the stream.
    fn layer_inputs(&mut self) -> Result<Option<LayerInputs>> {
        let c = self.config;
        let (Some(names), Some([width, vocab])) = (&c.family.layer_inputs, c.layer_inputs) else { return Ok(None) };
        let all = c.layers * width;
        let embedding = self.matrix(&format!("{}.weight", self.path(names.embedding)), vocab, all)?;
        if vocab < c.vocab {
            let why = format!("{vocab} tokens have inputs of layers, the vocabulary has {}", c.vocab);
            return Err(Error::model(&self.files.path, format!("config `{}`", names.vocab.0[0]), why, "restore the config.json"));
        }
        let path = self.path(names.projection);
        let projection = FrozenLinear::new(self.matrix(&format!("{path}.weight"), all, c.width)?, None, false, self.compute);
        let weight = self.norm_weight(&format!("{}.weight", self.path(names.norm)), width)?;
        let norm = self.made(weight, None)?;
        Ok(Some(LayerInputs {
            embedding: Frozen::new(embedding, self.compute),
            embedding_scale: (width as f32).sqrt(),
            projection: SiteLinear { site: self.site(path, None, SiteKind::Mlp, c.width, all, false), linear: projection },
            projection_scale: 1.0 / (c.width as f32).sqrt(),
            norm,
            scale: std::f32::consts::FRAC_1_SQRT_2,
            width,
        }))
    }

    /// A head beside a tied embedding must be the same matrix: transformers 5 takes both where they differ, older ones the embedding.
    fn check_tie(&self, embedding: &Weight) -> Result<()> {
        let name = format!("{HEAD}.weight");
        let Some(head) = self.files.tensors.get(&name).filter(|_| self.config.tied) else { return Ok(()) };
        if same(&head.matrix()?, embedding) {
            return Ok(());
        }
        Err(Error::model(
            &self.files.path,
            "config `tie_word_embeddings`",
            format!("it says that the head is the embedding, but tensor `{name}` is there and differs"),
            "set it to false if the head was trained, or take the tensor out of the files",
        ))
    }

    /// Where a part of the text model stands in the files.
    pub(super) fn path(&self, name: &str) -> String {
        match name.strip_prefix("model.").filter(|_| self.files.whole.is_some()) {
            Some(rest) => format!("{}{rest}", multimodal::PREFIX),
            None => name.to_string(),
        }
    }

    pub(super) fn site(
        &mut self,
        path: String,
        layer: Option<usize>,
        kind: SiteKind,
        inputs: usize,
        outputs: usize,
        conv1d: bool,
    ) -> Site {
        let router = self.config.family.experts.as_ref().map(|names| names.fused.router_linear);
        let [module, all_linear] = match kind {
            SiteKind::Expert => [false, false],
            SiteKind::Router => [router != Some(LinearIn::None), router == Some(LinearIn::All)],
            SiteKind::Embedding | SiteKind::Head => [true, false],
            SiteKind::Attention | SiteKind::Mlp => [true, true],
        };
        self.sites.push(SiteInfo { path, layer, kind, inputs, outputs, conv1d, module, all_linear });
        Site(self.sites.len() - 1)
    }

    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
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

    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
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

    /// The norm at `path`, or what stands in its place.
    pub(super) fn norm_or_none(&mut self, prefix: &str, name: Option<&str>) -> Result<Norm> {
        name.map_or(Ok(Norm::Scale(1.0)), |name| self.scaled_norm(&format!("{prefix}.{name}"), 1.0))
    }

    /// A norm over the width whose result is multiplied with `by`.
    pub(super) fn scaled_norm(&mut self, path: &str, by: f64) -> Result<Norm> {
        let width = self.config.width;
        let mut weight = self.norm_weight(&format!("{path}.weight"), width)?;
        let mut bias = match self.config.family.norm {
            NormKind::Layer => Some(self.vector(&format!("{path}.bias"), width)?),
            _ => None,
        };
        if by != 1.0 {
            weight = (weight * by)?;
            bias = bias.map(|bias| bias * by).transpose()?;
        }
        self.made(weight, bias)
    }

    /// Weights of a norm as they are multiplied with.
    pub(super) fn norm_weight(&mut self, name: &str, len: usize) -> Result<Tensor> {
        let weight = self.vector(name, len)?;
        Ok(if self.config.family.norm == NormKind::RmsLessOne { (weight + 1.0)? } else { weight })
    }

    /// A norm of the family's kind: a layer norm without a bias has one of zeros.
    pub(super) fn made(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Norm> {
        let bias = match self.config.family.norm {
            NormKind::LayerUnbiased | NormKind::Layer if bias.is_none() => Some(weight.zeros_like()?),
            _ => bias,
        };
        Norm::new(weight, bias, self.config.norm_eps)
    }

    pub(super) fn linear(
        &mut self,
        layer: usize,
        name: &str,
        kind: SiteKind,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<SiteLinear> {
        let path = format!("{}.{layer}.{name}", self.stack());
        let conv1d = self.config.family.conv1d;
        let (rows, cols) = if conv1d { (inputs, outputs) } else { (outputs, inputs) };
        let weight = self.matrix(&format!("{path}.weight"), rows, cols)?;
        let bias = if bias { Some(self.vector(&format!("{path}.bias"), outputs)?) } else { None };
        let linear = FrozenLinear::new(weight, bias, conv1d, self.compute);
        Ok(SiteLinear { site: self.site(path, Some(layer), kind, inputs, outputs, conv1d), linear })
    }
}

/// Whether two matrices are one.
pub(super) fn same(a: &Weight, b: &Weight) -> bool {
    (a.dtype, a.rows, a.cols) == (b.dtype, b.rows, b.cols) && a.data.bytes() == b.data.bytes()
}
