//! A pass on any device of candle, in f32 or in bf16: explicit operations over tensors, nothing taped, and nothing on the host inside a
//! step but the embedding of a quantised base and the masks of dropout.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::super::cache::KvCache;
use super::super::decoder_cache::DecoderCache;
use super::super::layers::{Attention, DeltaNet, LayerInputs, Mixer, Norm, Sight, SiteLinear};
use super::super::site::{Adapt, Site, SiteInfo, Term};
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Parts, Sites, Turned, Unscaled};
use super::sums::{self, SiteGradient};
use super::texts::PackedTexts;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Scores;
use crate::kernels::dropout::{DropoutMask, TokenMask};
use crate::kernels::tensors::attention::{Packed, Ramp};
use crate::kernels::tensors::delta_rule;
use crate::kernels::tensors::dropout::Masks;
use crate::kernels::tensors::over::OverTexts;
use crate::kernels::tensors::{mlp, norm};

/// A device, with activations of one dtype.
pub(super) struct Tensors<'a> {
    pub model: &'a Model,
    pub dtype: DType,
    /// Of each of the model's rotations.
    pub(super) angles: Vec<Angles>,
    pub(super) keys: Keys<'a>,
    /// By site, where one adapter acts.
    pub(super) masks: Masks,
    /// By site.
    pub(super) sums: Vec<Option<SiteGradient>>,
}

/// A rotation of the tokens.
pub(super) struct Angles {
    /// Cosines and sines (n, r/2).
    pub table: [Tensor; 2],
    pub interleaved: bool,
    /// What queries are multiplied with, (n, 1).
    pub query_scales: Option<Tensor>,
}

/// Where a query finds its keys.
pub(super) enum Keys<'a> {
    /// In its own text of the pass, for each kind of scores; and where the texts are.
    Texts(Vec<(Scores, Packed)>, Vec<Range<usize>>),
    /// In what its text keeps: the rows of the pass that are its new tokens, and the cache that they are put into.
    Cached(Vec<(Range<usize>, &'a mut KvCache)>, Ramp),
    /// Of a model with an encoder, in the texts of the pass.
    Over(Vec<(Sight, OverTexts)>),
    /// The same in what is kept of texts.
    Kept(Vec<(Range<usize>, &'a mut DecoderCache)>),
}

impl<'a> Tensors<'a> {
    pub(super) fn new(model: &'a Model, given: &Given, keys: Keys<'a>) -> Result<Tensors<'a>> {
        for given in given.source.into_iter().chain([given]) {
            model.check(given.ids, given.positions)?;
        }
        let (n, device) = (given.tokens(), &model.device);
        let angles = model.shared.ropes.iter().map(|rope| {
            let half = rope.rotated() / 2;
            let [cos, sin] = rope.rows(given.positions);
            let table = [Tensor::from_vec(cos, (n, half), device)?, Tensor::from_vec(sin, (n, half), device)?];
            let scales = rope.query_scales(given.positions);
            let query_scales = scales.map(|scales| Tensor::from_vec(scales, (n, 1), device)).transpose()?;
            Ok(Angles { table, interleaved: rope.rotary().interleaved, query_scales })
        });
        let angles = angles.collect::<Result<_>>()?;
        let masks = match given.acting {
            [(_, adapter)] => adapter.masks.as_slice(),
            _ => &[],
        };
        let rows = |site: usize| given.source.filter(|_| model.reads_source(Site(site))).map_or(given.rows, |source| source.rows);
        let mask = |(at, (mask, site)): (usize, (&Option<DropoutMask>, &SiteInfo))| {
            Some((TokenMask { mask: (*mask)?, rows: rows(at) }, site.inputs))
        };
        let masks: Vec<_> = masks.iter().zip(&model.sites).enumerate().map(mask).collect();
        let masks = Masks::new(&masks, model.dtype, device)?;
        let sums = model.sites.iter().map(|_| None).collect();
        Ok(Tensors { model, dtype: model.dtype, angles, keys, masks, sums })
    }

    /// The masks of whole texts.
    pub(super) fn texts(model: &Model, texts: &PackedTexts) -> Result<Keys<'a>> {
        if let Some(source) = &texts.source {
            return Tensors::over(model, &source.seen);
        }
        let ramp = Ramp::new(&model.device)?;
        let mut kinds: Vec<(Scores, Packed)> = Vec::new();
        for block in &model.blocks {
            let Mixer::Attention(layers) = &block.mixer else { continue };
            let scores = layers.attention.scores;
            if kinds.iter().all(|(kind, _)| *kind != scores) {
                kinds.push((scores, Packed::new(&texts.spans, scores, &ramp)?));
            }
        }
        Ok(Keys::Texts(kinds, texts.spans.clone()))
    }

    /// What was summed so far, by site.
    pub(super) fn into_gradients(self) -> Vec<(Site, SiteGradient)> {
        self.sums.into_iter().enumerate().filter_map(|(site, sum)| Some((Site(site), sum?))).collect()
    }

    /// Where the tokens of `given` are some of the pass: which.
    fn chosen_tokens(&self, given: &Given) -> Result<Tensor> {
        Ok(Tensor::new(given.chosen.unwrap_or(&[]), &self.model.device)?)
    }

    /// The final norm of chosen rows (c, d).
    pub(super) fn chosen(&self, x: &Tensor, at: &Tensor) -> Result<[Tensor; 2]> {
        let chosen = x.index_select(at, 0)?;
        let normed = self.normed(&self.model.final_norm, &chosen, self.dtype)?;
        Ok([chosen, normed])
    }

    pub(super) fn normed(&self, norm: &Norm, x: &Tensor, out: DType) -> Result<Tensor> {
        match norm {
            Norm::Scale(by) => Ok((x.to_dtype(DType::F32)? * f64::from(*by))?.to_dtype(out)?),
            Norm::Weighted { weight, bias: None, eps, .. } => norm::rms(x, &weight.tensor, *eps, out),
            Norm::Weighted { weight, bias: Some(bias), eps, .. } => norm::layer(x, &weight.tensor, &bias.tensor, *eps, out),
        }
    }

    pub(super) fn norm_gradient(&self, norm: &Norm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        match norm {
            Norm::Scale(by) => Ok((dy.to_dtype(DType::F32)? * f64::from(*by))?),
            Norm::Weighted { weight, bias: None, eps, .. } => norm::rms_back(x, &weight.tensor, *eps, dy, DType::F32),
            Norm::Weighted { weight, bias: Some(_), eps, .. } => norm::layer_back(x, &weight.tensor, *eps, dy, DType::F32),
        }
    }
}

impl Machine for Tensors<'_> {
    type Wide = Tensor;
    type Act = Tensor;
    /// What normalises the rows; nothing where keys are cached.
    type Saved = Option<Tensor>;

    fn free(&mut self, _: Tensor) {}

    fn free_wide(&mut self, _: Tensor) {}

    fn copied(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn rounded(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(self.dtype)?)
    }

    fn embed(&mut self, given: &Given) -> Result<Tensor> {
        let (embedding, mut parts) = (&self.model.embedding, Vec::new());
        for (rows, adapter) in given.acting {
            let ids = Tensor::new(&given.ids[rows.clone()], &self.model.device)?;
            parts.push(match adapter.term(embedding.site) {
                Some(Term::Full(full)) => full.index_select(&ids, 0)?,
                _ => embedding.matrix.rows(&given.ids[rows.clone()], &ids)?,
            });
        }
        let mut x = Tensor::cat(&parts, 0)?;
        if let Some(scale) = given.shared.embedding_scale {
            x = (x * f64::from(scale))?;
        }
        match &embedding.positions {
            None => Ok(x),
            Some(table) => {
                let at = Tensor::new(given.positions, x.device())?;
                Ok((x + table.rows(given.positions, &at)?)?)
            }
        }
    }

    fn embed_back(&mut self, given: &Given, dx: &Tensor) -> Result<()> {
        let site = self.model.embedding.site;
        if let Some(Term::Full(full)) = given.only().term(site) {
            let scale = f64::from(given.shared.embedding_scale.unwrap_or(1.0));
            let dw = full.zeros_like()?.index_add(&Tensor::new(given.ids, dx.device())?, &(dx * scale)?, 0)?;
            sums::add(&mut self.sums[site.0], SiteGradient::Full(dw))?;
        }
        Ok(())
    }

    fn widened(&mut self, _: &Given, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(DType::F32)?)
    }

    fn narrowed(&mut self, _: &Given, x: Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(self.dtype)?)
    }

    fn again(&mut self, _: &Given, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn zeros_of(&mut self, _: &Given, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::zeros(x.shape(), DType::F32, x.device())?)
    }

    fn add(&mut self, x: &mut Tensor, y: Tensor) -> Result<()> {
        *x = (&*x + y)?;
        Ok(())
    }

    fn sum(&mut self, _: &Given, x: Tensor, y: Tensor) -> Result<Tensor> {
        Ok((x + y)?)
    }

    fn scale(&mut self, by: f32, x: &mut Tensor) -> Result<()> {
        *x = (&*x * f64::from(by))?;
        Ok(())
    }

    fn norm(&mut self, norm: &Norm, x: &Tensor) -> Result<[Tensor; 2]> {
        Ok([self.normed(norm, x, self.dtype)?, x.to_dtype(self.dtype)?])
    }

    fn norm_again(&mut self, norm: &Norm, kept: &Tensor) -> Result<Tensor> {
        self.normed(norm, kept, self.dtype)
    }

    fn norm_back(&mut self, norm: &Norm, kept: &Tensor, d_normed: Tensor, dx: &mut Tensor, rounded: &mut Tensor) -> Result<()> {
        *dx = (&*dx + self.norm_gradient(norm, kept, &d_normed)?)?;
        *rounded = dx.to_dtype(self.dtype)?;
        Ok(())
    }

    fn norm_add(&mut self, norm: &Norm, y: Tensor, x: &mut Tensor) -> Result<Tensor> {
        *x = (&*x + self.normed(norm, &y, DType::F32)?)?;
        Ok(y.to_dtype(self.dtype)?)
    }

    fn norm_add_back(&mut self, norm: &Norm, kept: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(self.norm_gradient(norm, kept, dx)?.to_dtype(self.dtype)?)
    }

    fn project(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Tensor,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Tensor>> {
        sites.iter().map(|site| self.through_site(given, site, x, unscaled)).collect()
    }

    fn project_rounded(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Tensor,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Tensor>> {
        sites.iter().map(|site| Ok(self.through_site(given, site, x, unscaled)?.to_dtype(self.dtype)?)).collect()
    }

    fn project_add(
        &mut self,
        given: &Given,
        site: &SiteLinear,
        x: &Tensor,
        y: &mut Tensor,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<()> {
        *y = (&*y + self.through_site(given, site, x, unscaled)?)?;
        Ok(())
    }

    fn gradients(&mut self, given: &Given, sites: &Sites<Self>, x: Option<&Tensor>, unscaled: &Unscaled<Self>) -> Result<()> {
        self.back(given, sites, x, unscaled, false).map(|_| ())
    }

    fn project_back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Tensor>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Tensor> {
        let dx = self.back(given, sites, x, unscaled, true)?;
        Ok(dx.unwrap_or_else(|| unreachable!("there is a site")))
    }

    fn project_back_rounded(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Tensor>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Tensor> {
        Ok(self.project_back(given, sites, x, unscaled)?.to_dtype(self.dtype)?)
    }

    fn split(&mut self, given: &Given, fused: Tensor, widths: &[usize], groups: usize) -> Result<Vec<Tensor>> {
        let n = given.tokens();
        let fused = fused.reshape((n, groups, fused.dim(1)? / groups))?;
        let mut at = 0;
        let parts = widths.iter().map(|width| {
            let part = fused.narrow(2, at, width / groups)?.contiguous()?.reshape((n, *width))?;
            at += width / groups;
            Ok(part)
        });
        parts.collect()
    }

    fn join(&mut self, given: &Given, parts: Vec<Tensor>, groups: usize) -> Result<Tensor> {
        let n = given.tokens();
        let pieces = parts.iter().map(|part| part.reshape((n, groups, part.dim(1)? / groups)));
        Ok(Tensor::cat(&pieces.collect::<candle_core::Result<Vec<_>>>()?, 2)?.reshape((n, ()))?)
    }

    fn halve(&mut self, given: &Given, fused: Tensor, groups: usize) -> Result<[Tensor; 2]> {
        let width = fused.dim(1)? / 2;
        let halves = self.split(given, fused, &[width, width], groups)?;
        Ok(halves.try_into().unwrap_or_else(|_| unreachable!("two")))
    }

    fn unite(&mut self, given: &Given, gate: &Tensor, up: &Tensor, groups: usize) -> Result<Tensor> {
        self.join(given, vec![gate.clone(), up.clone()], groups)
    }

    fn turn(&mut self, _: &Given, attention: &Attention, parts: Parts<Tensor>) -> Result<Turned<Self>> {
        self.normed_and_turned(attention, parts)
    }

    fn turn_back(
        &mut self,
        _: &Given,
        attention: &Attention,
        bare: &Parts<Tensor>,
        grads: Parts<Tensor>,
    ) -> Result<Parts<Tensor>> {
        self.turned_and_normed_back(attention, bare, grads)
    }

    fn attend(&mut self, _: &Given, attention: &Attention, qkv: [&Tensor; 3]) -> Result<(Tensor, Option<Tensor>)> {
        self.attended(attention, qkv)
    }

    fn attend_back(
        &mut self,
        _: &Given,
        attention: &Attention,
        qkv: [&Tensor; 3],
        out: &Tensor,
        saved: &Option<Tensor>,
        grad: Tensor,
    ) -> Result<[Tensor; 3]> {
        self.attended_back(attention, qkv, (out, saved), &grad)
    }

    fn attend_over(
        &mut self,
        _: &Given,
        attention: &Attention,
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.attended_over(attention, q, kv)
    }

    fn attend_over_back(
        &mut self,
        _: &Given,
        attention: &Attention,
        qkv: [&Tensor; 3],
        (_, saved): (&Tensor, &Option<Tensor>),
        grad: Tensor,
    ) -> Result<[Tensor; 3]> {
        self.attended_over_back(attention, qkv, saved, &grad)
    }

    fn delta(&mut self, _: &Given, net: &DeltaNet, parts: [&Tensor; 4]) -> Result<Tensor> {
        self.delta_rule(net, parts)
    }

    fn delta_back(&mut self, _: &Given, net: &DeltaNet, parts: [&Tensor; 4], grad: Tensor) -> Result<[Tensor; 4]> {
        let Keys::Texts(_, spans) = &self.keys else { unreachable!("a way back goes over whole texts") };
        delta_rule::backward(&net.tensors(), spans, parts, &grad)
    }

    fn gate(&mut self, _: &Given, act: Activation, gate: Option<&Tensor>, up: &Tensor) -> Result<Tensor> {
        match gate {
            Some(gate) => mlp::gated(act, gate, up),
            None => mlp::activation(act, up),
        }
    }

    fn gate_back(&mut self, _: &Given, act: Activation, gate: Option<&mut Tensor>, up: &mut Tensor, grad: Tensor) -> Result<()> {
        match gate {
            Some(gate) => (*gate, *up) = mlp::gated_back(act, gate, up, &grad)?,
            None => *up = mlp::activation_back(act, up, &grad)?,
        }
        Ok(())
    }

    fn layer_inputs(&mut self, given: &Given, inputs: &LayerInputs, projected: Tensor) -> Result<[Tensor; 2]> {
        self.made_layer_inputs(given, inputs, projected)
    }

    fn layer_inputs_back(&mut self, _: &Given, inputs: &LayerInputs, kept: &Tensor, grad: Tensor) -> Result<Tensor> {
        self.layer_inputs_gradient(inputs, kept, grad)
    }

    fn layer_input(&mut self, _: &Given, all: &Tensor, layer: usize) -> Result<Tensor> {
        let width = all.dim(1)? / self.model.blocks.len();
        Ok(all.narrow(1, layer * width, width)?.contiguous()?)
    }

    fn add_layer_input(&mut self, _: &Given, layer: usize, grad: Tensor, all: &mut Tensor) -> Result<()> {
        let (width, sum) = (grad.dim(1)?, grad.to_dtype(DType::F32)?);
        let padded = sum.pad_with_zeros(1, layer * width, all.dim(1)? - (layer + 1) * width)?;
        *all = (&*all + padded)?;
        Ok(())
    }

    fn route(&mut self, given: &Given, router: &SiteLinear, x: &Tensor) -> Result<Vec<f32>> {
        self.router_logits(given, router, x)
    }

    fn route_back(&mut self, given: &Given, router: &SiteLinear, x: &Tensor, d_logits: &[f32], dx: &mut Tensor) -> Result<()> {
        self.router_back(given, router, x, d_logits, dx)
    }

    fn zeros_like(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.zeros_like()?)
    }

    fn gather(&mut self, given: &Given, x: &Tensor) -> Result<Tensor> {
        Ok(x.index_select(&self.chosen_tokens(given)?, 0)?)
    }

    fn scatter_add(&mut self, given: &Given, y: Tensor, weights: Option<&[f32]>, x: &mut Tensor) -> Result<()> {
        let y = match weights {
            Some(weights) => y.broadcast_mul(&Tensor::from_slice(weights, (weights.len(), 1), y.device())?)?,
            None => y,
        };
        *x = x.index_add(&self.chosen_tokens(given)?, &y, 0)?;
        Ok(())
    }

    fn weigh(&mut self, weights: &[f32], x: &mut Tensor) -> Result<()> {
        let by = Tensor::from_slice(weights, (weights.len(), 1), x.device())?.to_dtype(x.dtype())?;
        *x = x.broadcast_mul(&by)?;
        Ok(())
    }

    fn dots(&mut self, _: &Given, a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
        Ok((a.to_dtype(DType::F32)? * b.to_dtype(DType::F32)?)?.sum(1)?.to_vec1()?)
    }

    fn dots_with(&mut self, _: &Given, a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
        Ok(a.to_dtype(DType::F32)?.broadcast_mul(b)?.sum(1)?.to_vec1()?)
    }

    fn loss(&mut self, given: &Given, x: &Tensor, targets: &Targets, weights: &[f32]) -> Result<(Vec<f32>, Tensor)> {
        let (losses, dx, gradients) = self.linear_cross_entropy(given, x, targets, weights)?;
        for g in gradients {
            sums::add(&mut self.sums[self.model.head.site.0], g)?;
        }
        Ok((losses, dx))
    }

    fn logps(&mut self, given: &Given, x: &Tensor, targets: &Targets) -> Result<Vec<f32>> {
        self.head_logps(given, x, targets)
    }

    fn logits(&mut self, given: &Given, x: &Tensor, rows: &[usize]) -> Result<Vec<f32>> {
        self.row_logits(given, x, rows)
    }
}

/// `x` (n, width) as (n, width / e, e).
pub(super) fn in_rows(x: &Tensor, e: usize) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, x.dim(1)? / e, e))?)
}
