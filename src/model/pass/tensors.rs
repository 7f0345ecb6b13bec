//! A pass on any device of candle, in f32 or in bf16: explicit operations over tensors, nothing taped, and nothing on the host inside a
//! step but the embedding of a quantised base and the masks of dropout.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::super::cache::KvCache;
use super::super::decoder_cache::DecoderCache;
use super::super::layers::{KeysOf, Norm, Sight, SiteLinear, Turn};
use super::super::linear::FrozenLinear;
use super::super::site::{Adapt, Site, SiteInfo, Term};
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Sites, Turned, Unscaled};
use super::sums::{self, SiteGradient};
use super::texts::PackedTexts;
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::dropout::{DropoutMask, TokenMask};
use crate::kernels::tensors::attention::{self, Behind, Packed, Ramp};
use crate::kernels::tensors::dropout::Masks;
use crate::kernels::tensors::over::OverTexts;
use crate::kernels::tensors::{linear, mlp, norm, rope};

/// A device, with activations of one dtype.
pub(super) struct Tensors<'a> {
    pub model: &'a Model,
    pub dtype: DType,
    /// Of each of the model's rotations.
    angles: Vec<Angles>,
    pub(super) keys: Keys<'a>,
    /// By site, where one adapter acts.
    pub(super) masks: Masks,
    /// By site.
    pub(super) sums: Vec<Option<SiteGradient>>,
}

/// A rotation of the tokens.
struct Angles {
    /// Cosines and sines (n, r/2).
    table: [Tensor; 2],
    interleaved: bool,
    /// What queries are multiplied with, (n, 1).
    query_scales: Option<Tensor>,
}

/// Where a query finds its keys.
pub(super) enum Keys<'a> {
    /// In its own text of the pass, for each kind of scores.
    Texts(Vec<(Scores, Packed)>),
    /// In what its text keeps: the rows of the pass that are its new tokens, and the cache that they are put into.
    Cached(Vec<(Range<usize>, &'a mut KvCache)>, Ramp),
    /// Of a model with an encoder, in the texts of the pass.
    Over(Vec<(KeysOf, OverTexts)>),
    /// The same in what is kept of texts.
    Kept(Vec<(Range<usize>, &'a mut DecoderCache)>),
}

impl<'a> Tensors<'a> {
    pub(super) fn new(model: &'a Model, given: &Given, keys: Keys<'a>) -> Result<Tensors<'a>> {
        model.check(given.ids, given.positions)?;
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
            if kinds.iter().all(|(scores, _)| *scores != block.scores) {
                kinds.push((block.scores, Packed::new(&texts.spans, block.scores, &ramp)?));
            }
        }
        Ok(Keys::Texts(kinds))
    }

    /// What was summed so far, by site.
    pub(super) fn into_gradients(self) -> Vec<(Site, SiteGradient)> {
        self.sums.into_iter().enumerate().filter_map(|(site, sum)| Some((Site(site), sum?))).collect()
    }

    /// Where the tokens of `given` are some of the pass: which.
    fn chosen_tokens(&self, given: &Given) -> Result<Tensor> {
        Ok(Tensor::new(given.chosen.unwrap_or(&[]), &self.model.device)?)
    }

    pub(super) fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let e = self.model.config.head_dim;
        Ok(x.reshape((x.dim(0)?, x.dim(1)? / e, e))?)
    }

    /// Queries, keys and values (n, width), the first two turned.
    fn turned(&self, turn: &Turn, parts: [Tensor; 3], inverse: bool, dtype: DType) -> Result<[Tensor; 3]> {
        let [q, k, v] = parts;
        let Some(at) = turn.rope else { return Ok([q.to_dtype(dtype)?, k.to_dtype(dtype)?, v.to_dtype(dtype)?]) };
        let Angles { table: [cos, sin], interleaved, query_scales } = &self.angles[at];
        let way = rope::Turn { inverse, interleaved: *interleaved };
        let turn = |x: &Tensor| -> Result<Tensor> {
            Ok(rope::rope(&self.heads(x)?, cos, sin, way)?.reshape(x.shape())?.to_dtype(dtype)?)
        };
        let q = match query_scales {
            Some(scales) => q.to_dtype(DType::F32)?.broadcast_mul(scales)?,
            None => q,
        };
        Ok([turn(&q)?, turn(&k)?, v.to_dtype(dtype)?])
    }

    /// `x` (n, width) in rows that `norm` is over.
    fn rows_of(&self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        match norm {
            Norm::Weighted { width, .. } if *width < x.dim(1)? => self.heads(x),
            _ => Ok(x.clone()),
        }
    }

    /// The final norm of chosen rows (c, d).
    pub(super) fn chosen(&self, x: &Tensor, at: &Tensor) -> Result<[Tensor; 2]> {
        let chosen = x.index_select(at, 0)?;
        let normed = self.normed(&self.model.final_norm, &chosen, self.dtype)?;
        Ok([chosen, normed])
    }

    fn normed(&self, norm: &Norm, x: &Tensor, out: DType) -> Result<Tensor> {
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

    fn split(&mut self, given: &Given, fused: Tensor, groups: usize) -> Result<[Tensor; 3]> {
        let (n, widths) = (given.tokens(), given.shared.widths());
        let [q, k, _] = widths.map(|width| width / groups);
        let fused = fused.reshape((n, groups, fused.dim(1)? / groups))?;
        let part =
            |from, len: usize| -> Result<Tensor> { Ok(fused.narrow(2, from, len / groups)?.contiguous()?.reshape((n, len))?) };
        Ok([part(0, widths[0])?, part(q, widths[1])?, part(q + k, widths[2])?])
    }

    fn join(&mut self, given: &Given, parts: [Tensor; 3], groups: usize) -> Result<Tensor> {
        let n = given.tokens();
        let pieces = parts.iter().map(|part| part.reshape((n, groups, part.dim(1)? / groups)));
        Ok(Tensor::cat(&pieces.collect::<candle_core::Result<Vec<_>>>()?, 2)?.reshape((n, ()))?)
    }

    fn halve(&mut self, _: &Given, fused: Tensor) -> Result<[Tensor; 2]> {
        let width = fused.dim(1)? / 2;
        Ok([fused.narrow(1, 0, width)?.contiguous()?, fused.narrow(1, width, width)?.contiguous()?])
    }

    fn unite(&mut self, _: &Given, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&[gate, up], 1)?)
    }

    fn turn(&mut self, _: &Given, turn: &Turn, parts: [Tensor; 3]) -> Result<Turned<Self>> {
        let mut bare = [None, None, None];
        let [mut q, mut k, mut v] = parts;
        for ((part, norm), bare) in [&mut q, &mut k, &mut v].into_iter().zip(&turn.norms).zip(&mut bare) {
            let Some(norm) = norm else { continue };
            let normed = self.normed(norm, &self.rows_of(norm, part)?, DType::F32)?.reshape(part.shape())?;
            *bare = Some(part.to_dtype(self.dtype)?);
            *part = normed;
        }
        Ok((self.turned(turn, [q, k, v], false, self.dtype)?, bare))
    }

    fn turn_back(&mut self, _: &Given, turn: &Turn, bare: &[Option<Tensor>; 3], grads: [Tensor; 3]) -> Result<[Tensor; 3]> {
        if turn.norms.iter().all(Option::is_none) {
            return self.turned(turn, grads, true, self.dtype);
        }
        let mut back = self.turned(turn, grads, true, DType::F32)?;
        for ((grad, norm), bare) in back.iter_mut().zip(&turn.norms).zip(bare) {
            if let Some((norm, bare)) = norm.as_ref().zip(bare.as_ref()) {
                let rows = |x: &Tensor| self.rows_of(norm, x);
                *grad = self.norm_gradient(norm, &rows(bare)?, &rows(grad)?)?.reshape(bare.shape())?;
            }
            *grad = grad.to_dtype(self.dtype)?;
        }
        Ok(back)
    }

    fn attend(&mut self, _: &Given, layer: usize, scores: Scores, qkv: &[Tensor; 3]) -> Result<(Tensor, Option<Tensor>)> {
        let width = qkv[0].shape().clone();
        let [q, k, v] = [self.heads(&qkv[0])?, self.heads(&qkv[1])?, self.heads(&qkv[2])?];
        match &mut self.keys {
            Keys::Texts(kinds) => {
                let (out, normalisers) = attention::forward([&q, &k, &v], of_kind(kinds, scores))?;
                Ok((out.reshape(width)?, Some(normalisers)))
            }
            Keys::Cached(texts, ramp) => {
                let mut outs = Vec::new();
                for (rows, cache) in texts {
                    let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
                    let (k, v) = cache.append(layer, &own(&k)?.unsqueeze(0)?, &own(&v)?.unsqueeze(0)?)?; // (1, s, g, e)
                    outs.push(attention::cached([&own(&q)?, &k.squeeze(0)?, &v.squeeze(0)?], scores, ramp)?);
                }
                Ok((Tensor::cat(&outs, 0)?.reshape(width)?, None))
            }
            Keys::Over(_) | Keys::Kept(_) => unreachable!("these blocks have a sight"),
        }
    }

    fn attend_back(
        &mut self,
        _: &Given,
        scores: Scores,
        qkv: &[Tensor; 3],
        out: &Tensor,
        saved: &Option<Tensor>,
        grad: Tensor,
    ) -> Result<[Tensor; 3]> {
        let (Keys::Texts(kinds), Some(normalisers)) = (&self.keys, saved) else {
            unreachable!("a way back goes over whole texts")
        };
        let [q, k, v] = [self.heads(&qkv[0])?, self.heads(&qkv[1])?, self.heads(&qkv[2])?];
        let (out, gradient) = (self.heads(out)?, self.heads(&grad)?);
        let behind = Behind { out: &out, normalisers, gradient: &gradient };
        let [dq, dk, dv] = attention::backward([&q, &k, &v], behind, of_kind(kinds, scores))?;
        let wide = |g: Tensor, like: &Tensor| -> Result<Tensor> { Ok(g.reshape(like.shape())?.to_dtype(DType::F32)?) };
        Ok([wide(dq, &qkv[0])?, wide(dk, &qkv[1])?, wide(dv, &qkv[2])?])
    }

    fn attend_over(
        &mut self,
        _: &Given,
        layer: usize,
        sight: &Sight,
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        self.attended_over(layer, sight, q, kv)
    }

    fn attend_over_back(
        &mut self,
        _: &Given,
        sight: &Sight,
        qkv: [&Tensor; 3],
        (_, saved): (&Tensor, &Option<Tensor>),
        grad: Tensor,
    ) -> Result<[Tensor; 3]> {
        self.attended_over_back(sight, qkv, saved, &grad)
    }

    fn gate(&mut self, given: &Given, gate: Option<&Tensor>, up: &Tensor) -> Result<Tensor> {
        match gate {
            Some(gate) => mlp::gated(given.shared.activation, gate, up),
            None => mlp::activation(given.shared.activation, up),
        }
    }

    fn gate_back(&mut self, given: &Given, gate: Option<&mut Tensor>, up: &mut Tensor, grad: Tensor) -> Result<()> {
        match gate {
            Some(gate) => (*gate, *up) = mlp::gated_back(given.shared.activation, gate, up, &grad)?,
            None => *up = mlp::activation_back(given.shared.activation, up, &grad)?,
        }
        Ok(())
    }

    fn route(&mut self, _: &Given, router: &FrozenLinear, x: &Tensor) -> Result<Vec<f32>> {
        let w = router.matrix.expanded(&self.model.device, DType::F32)?;
        let y = linear::product(&x.to_dtype(DType::F32)?, &w, router.side, DType::F32)?;
        let y = match &router.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.flatten_all()?.to_vec1()?)
    }

    fn route_back(&mut self, given: &Given, router: &FrozenLinear, d_logits: &[f32], dx: &mut Tensor) -> Result<()> {
        let d = Tensor::from_slice(d_logits, (given.tokens(), router.outputs()), dx.device())?;
        let w = router.matrix.expanded(&self.model.device, DType::F32)?;
        *dx = (&*dx + linear::product(&d, &w, router.side.other(), DType::F32)?)?;
        Ok(())
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

/// Masks for scores of one kind.
fn of_kind(kinds: &[(Scores, Packed)], scores: Scores) -> &Packed {
    let found = kinds.iter().find(|(kind, _)| *kind == scores);
    found.map(|(_, packed)| packed).unwrap_or_else(|| unreachable!("made for every block's scores"))
}
