//! A pass on any device of candle, in f32 or in bf16: explicit operations over tensors, nothing taped, and nothing on the host inside a
//! step but the embedding of a quantised base and the masks of dropout.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::super::cache::KvCache;
use super::super::layers::{Norm, SiteLinear};
use super::super::site::{Adapt, Site, SiteInfo, Term};
use super::super::{Model, Targets};
use super::machine::{Given, Machine, Sites, Unscaled};
use super::sums::{self, SiteGradient};
use super::texts::PackedTexts;
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::dropout::{DropoutMask, TokenMask};
use crate::kernels::tensors::attention::{self, Behind, Packed, Ramp};
use crate::kernels::tensors::dropout::Masks;
use crate::kernels::tensors::{mlp, norm, rope};

/// A device, with activations of one dtype.
pub(super) struct Tensors<'a> {
    pub model: &'a Model,
    pub dtype: DType,
    ids: Tensor,
    /// Cosines and sines of the tokens (n, r/2).
    angles: Option<[Tensor; 2]>,
    keys: Keys<'a>,
    /// By site, where one adapter acts.
    pub(super) masks: Masks,
    /// By site.
    pub(super) sums: Vec<Option<SiteGradient>>,
}

/// Where a query finds its keys.
pub(super) enum Keys<'a> {
    /// In its own text of the pass, for each kind of scores.
    Texts(Vec<(Scores, Packed)>),
    /// In what its text keeps: the rows of the pass that are its new tokens, and the cache that they are put into.
    Cached(Vec<(Range<usize>, &'a mut KvCache)>, Ramp),
}

impl<'a> Tensors<'a> {
    pub(super) fn new(model: &'a Model, given: &Given, keys: Keys<'a>) -> Result<Tensors<'a>> {
        model.check(given.ids, given.positions)?;
        let (n, device) = (given.tokens(), &model.device);
        let angles = match &model.shared.rope {
            Some(table) => {
                let [cos, sin] = table.rows(given.positions);
                let half = table.rotated() / 2;
                Some([Tensor::from_vec(cos, (n, half), device)?, Tensor::from_vec(sin, (n, half), device)?])
            }
            None => None,
        };
        let masks = match given.acting {
            [(_, adapter)] => adapter.masks.as_slice(),
            _ => &[],
        };
        let mask =
            |(mask, site): (&Option<DropoutMask>, &SiteInfo)| Some((TokenMask { mask: (*mask)?, rows: given.rows }, site.inputs));
        let masks: Vec<_> = masks.iter().zip(&model.sites).map(mask).collect();
        let masks = Masks::new(&masks, model.dtype, device)?;
        let sums = model.sites.iter().map(|_| None).collect();
        Ok(Tensors { model, dtype: model.dtype, ids: Tensor::new(given.ids, device)?, angles, keys, masks, sums })
    }

    /// The masks of whole texts.
    pub(super) fn texts(model: &Model, texts: &PackedTexts) -> Result<Keys<'a>> {
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

    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let e = self.model.config.head_dim;
        Ok(x.reshape((x.dim(0)?, x.dim(1)? / e, e))?)
    }

    /// Queries, keys and values (n, width), the first two turned.
    fn turned(&self, parts: [Tensor; 3], inverse: bool) -> Result<[Tensor; 3]> {
        let [q, k, v] = parts;
        let turn = |x: &Tensor| -> Result<Tensor> {
            let Some([cos, sin]) = &self.angles else { return Ok(x.to_dtype(self.dtype)?) };
            let turned = rope::rope(&self.heads(x)?, cos, sin, inverse)?;
            Ok(turned.reshape(x.shape())?.to_dtype(self.dtype)?)
        };
        Ok([turn(&q)?, turn(&k)?, v.to_dtype(self.dtype)?])
    }

    /// The final norm of chosen rows (c, d).
    pub(super) fn chosen(&self, x: &Tensor, at: &Tensor) -> Result<[Tensor; 2]> {
        let chosen = x.index_select(at, 0)?;
        let normed = self.normed(&self.model.final_norm, &chosen, self.dtype)?;
        Ok([chosen, normed])
    }

    fn normed(&self, norm: &Norm, x: &Tensor, out: DType) -> Result<Tensor> {
        let (weight, bias, eps) = norm.tensors();
        match bias {
            None => norm::rms(x, weight, eps, out),
            Some(bias) => norm::layer(x, weight, bias, eps, out),
        }
    }

    pub(super) fn norm_gradient(&self, norm: &Norm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (weight, bias, eps) = norm.tensors();
        match bias {
            None => norm::rms_back(x, weight, eps, dy, DType::F32),
            Some(_) => norm::layer_back(x, weight, eps, dy, DType::F32),
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
            let ids = self.ids.narrow(0, rows.start, rows.len())?;
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
            let dw = full.zeros_like()?.index_add(&self.ids, &(dx * scale)?, 0)?;
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

    fn split(&mut self, given: &Given, fused: Tensor) -> Result<[Tensor; 3]> {
        let [q, k, v] = given.shared.widths();
        let part = |from, len| -> Result<Tensor> { Ok(fused.narrow(1, from, len)?.contiguous()?) };
        Ok([part(0, q)?, part(q, k)?, part(q + k, v)?])
    }

    fn join(&mut self, _: &Given, parts: [Tensor; 3]) -> Result<Tensor> {
        Ok(Tensor::cat(&parts, 1)?)
    }

    fn turn(&mut self, _: &Given, parts: [Tensor; 3]) -> Result<[Tensor; 3]> {
        self.turned(parts, false)
    }

    fn turn_back(&mut self, _: &Given, grads: [Tensor; 3]) -> Result<[Tensor; 3]> {
        self.turned(grads, true)
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
