//! One block, from a base's tensors.

use candle_core::{DType, Tensor};

use super::build::Builder;
use super::config::ExpertSizes;
use super::family::{AttentionNames, DeltaNames, ExpertNames, ExpertWeights, HeadNorms, MlpNames, NormedTogether};
use super::layers::{
    Attention, AttentionLayers, Block, DeltaNet, DenseAndExperts, Experts, FeedForward, Inner, LayerGate, Mixer, Mlp, Norm,
    NormVector, Qkv, SiteLinear,
};
use super::linear::FrozenLinear;
use super::site::SiteKind;
use crate::error::Result;
use crate::kernels::delta_rule::DeltaSizes;
use crate::kernels::weight::Weight;

impl Builder<'_> {
    pub(super) fn block(&mut self, i: usize) -> Result<Block> {
        let c = self.config;
        let family = c.family;
        let prefix = format!("{}.{i}", self.stack());
        let attention_norm = self.norm_or_none(&prefix, family.attention_norm)?;
        let mixer = self.mixer(i, &prefix)?;
        let cross = self.cross(i, &prefix)?;
        let mlp_norm = match c.parallel {
            Some(true) => attention_norm.clone(),
            _ => self.norm_or_none(&prefix, self.mlp_norm())?,
        };
        let mlp = self.mlp(i, &prefix)?;
        let [post_attention_norm, post_mlp_norm] = self.post_norms(&prefix)?;
        let layer_gate = self.layer_gate(i, &prefix)?;
        let scale = family.layer_scale.map(|name| self.vector(&format!("{prefix}.{name}"), 1)).transpose()?;
        Ok(Block {
            layer: self.at(i),
            attention_norm,
            mixer,
            post_attention_norm,
            cross,
            mlp_norm,
            mlp,
            post_mlp_norm,
            parallel: c.parallel.is_some(),
            layer_gate,
            scale: scale.map(|scale| scale.get(0)?.to_scalar()).transpose()?,
        })
    }

    fn mixer(&mut self, i: usize, prefix: &str) -> Result<Mixer> {
        let c = self.config;
        if let (Some(names), Some((layers, sizes))) = (&c.family.delta, &c.delta)
            && layers[self.at(i)]
        {
            return self.delta(i, prefix, names, *sizes).map(Mixer::Delta);
        }
        let (qkv, o) = self.projections(i)?;
        let attention = self.attention(i, prefix)?;
        let output = self.linear(i, o, SiteKind::Attention, c.shapes[self.at(i)].widths()[0], c.width, c.output_bias)?;
        Ok(Mixer::Attention(AttentionLayers { qkv, gated: c.family.gated_attention, attention, output }))
    }

    fn delta(&mut self, i: usize, prefix: &str, names: &DeltaNames, sizes: DeltaSizes) -> Result<DeltaNet> {
        let (c, kind) = (self.config, SiteKind::Attention);
        let outputs = [sizes.channels(), sizes.values(), sizes.value_heads, sizes.value_heads];
        let mut linear = |at: usize| self.linear(i, names.inner[at], kind, c.width, outputs[at], false);
        let inner = [linear(0)?, linear(1)?, linear(2)?, linear(3)?];
        let mut vector = |name: &str, len: usize| self.vector(&format!("{prefix}.{name}"), len);
        let conv = vector(names.conv, sizes.channels() * sizes.kernel)?.reshape((sizes.channels(), sizes.kernel))?;
        let a_log = NormVector::new(vector(names.a_log, sizes.value_heads)?)?;
        let dt_bias = NormVector::new(vector(names.dt_bias, sizes.value_heads)?)?;
        let norm = NormVector::new(vector(names.norm, sizes.value_dim)?)?;
        let output = self.linear(i, names.output, kind, sizes.values(), c.width, false)?;
        let conv = NormVector::new(conv)?;
        Ok(DeltaNet { layer: self.at(i), inner, output, conv, a_log, dt_bias, norm, eps: c.norm_eps, sizes })
    }

    /// What queries, keys and values are made with, and the name of the layer behind attention.
    fn projections(&mut self, i: usize) -> Result<(Qkv, &'static str)> {
        let (c, kind, at) = (self.config, SiteKind::Attention, self.at(i));
        let (d, bias, [qd, kd, _]) = (c.width, c.qkv_bias, c.shapes[at].widths());
        match &c.family.attention {
            AttentionNames::Split { q, k, v, o } => {
                // A gate behind each head's queries.
                let q = self.linear(i, q, kind, d, if c.family.gated_attention { 2 * qd } else { qd }, bias)?;
                if c.keys_of[at] != at {
                    return Ok((Qkv::QueriesAlone { q }, o));
                }
                let k = self.linear(i, k, kind, d, kd, bias)?;
                if c.keys_as_values[at] {
                    return Ok((Qkv::KeysAsValues { q, k }, o));
                }
                let v = self.linear(i, v, kind, d, kd, bias)?;
                Ok((Qkv::Split { q, k, v }, o))
            }
            AttentionNames::Fused { qkv, o, by_head } => {
                let qkv = self.linear(i, qkv, kind, d, qd + 2 * kd, bias)?;
                Ok((Qkv::Fused { qkv, groups: if *by_head { c.heads } else { 1 } }, o))
            }
        }
    }

    fn attention(&mut self, i: usize, prefix: &str) -> Result<Attention> {
        let (c, at) = (self.config, self.at(i));
        let sinks = c.family.sinks.map(|name| NormVector::new(self.vector(&format!("{prefix}.{name}"), c.shapes[at].heads)?));
        Ok(Attention {
            layer: at,
            keys_of: c.keys_of[at],
            lends: c.keys_of[at + 1..].contains(&at),
            shape: c.shapes[at],
            norms: self.head_norms(at, prefix)?,
            rope: c.rotation_of[at],
            scores: c.scores[at],
            sinks: sinks.transpose()?,
            sight: self.sight(),
            distances: None,
        })
    }

    /// The norms of queries, keys and values.
    fn head_norms(&mut self, at: usize, prefix: &str) -> Result<[Option<Norm>; 3]> {
        let c = self.config;
        let mut norms = [None, None, None];
        let Some(HeadNorms { q, k, over, values, .. }) = c.family.head_norms.as_ref().filter(|_| c.head_norms) else {
            return Ok(norms);
        };
        let (shape, own) = (c.shapes[at], c.keys_of[at] == at);
        let e = shape.head_dim;
        for (norm, (name, heads)) in norms.iter_mut().zip([(q, shape.heads), (k, shape.kv_heads)]).take(if own { 2 } else { 1 }) {
            let path = format!("{prefix}.{name}");
            let whole = format!("{path}.weight");
            let weight = match over {
                NormedTogether::Head => self.norm_weight(&whole, e)?,
                NormedTogether::Width => self.norm_weight(&whole, heads * e)?,
                NormedTogether::EachHead => self.norm_weight(&whole, heads * e)?.reshape((heads, e))?,
                NormedTogether::EachHeadApart => {
                    let each = (0..heads).map(|head| self.norm_weight(&format!("{path}.norms.{head}.weight"), e));
                    Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 0)?
                }
            };
            *norm = Some(self.made(weight, None)?);
        }
        if *values && own {
            norms[2] = Some(self.made(self.ones(e)?, None)?);
        }
        Ok(norms)
    }

    fn ones(&self, len: usize) -> Result<Tensor> {
        Ok(Tensor::ones(len, DType::F32, self.device)?)
    }

    fn mlp(&mut self, i: usize, prefix: &str) -> Result<Mlp> {
        let c = self.config;
        let sizes = c.experts.as_ref().filter(|sizes| sizes.layers[self.at(i)]);
        let Some((names, sizes)) = c.family.experts.as_ref().zip(sizes) else { return self.dense(i).map(Mlp::Dense) };
        let Some(beside) = &names.beside else { return self.experts(i, names, sizes).map(Mlp::Experts) };
        let dense = self.dense(i)?;
        let mut experts = self.experts(i, names, sizes)?;
        let scale = self.vector(&format!("{prefix}.{}", beside.router_scale), c.width)?;
        experts.router_norm = Some(self.made((scale / (c.width as f64).sqrt())?, None)?);
        experts.scales = Some(self.vector(&format!("{prefix}.{}", beside.expert_scale), sizes.count)?.to_vec1()?);
        let mut norm = |name: &str| self.norm_or_none(prefix, Some(name));
        let [behind, read, given] = beside.norms;
        let (dense_norm, experts_norms) = (norm(behind)?, [norm(read)?, norm(given)?]);
        Ok(Mlp::Both(Box::new(DenseAndExperts { dense, dense_norm, experts, experts_norms })))
    }

    fn dense(&mut self, i: usize) -> Result<FeedForward> {
        let (c, kind) = (self.config, SiteKind::Mlp);
        let (d, f, bias) = (c.width, c.ffns[self.at(i)], c.mlp_bias);
        let (inner, down) = match self.mlp_names(c.family) {
            MlpNames::Gated { gate, up, down } => {
                let gate = self.linear(i, gate, kind, d, f, bias)?;
                (Inner::Gated { gate, up: self.linear(i, up, kind, d, f, bias)? }, down)
            }
            MlpNames::GatedFused { gate_up, down } => {
                (Inner::Fused { gate_up: self.linear(i, gate_up, kind, d, 2 * f, bias)?, groups: 1 }, down)
            }
            MlpNames::Plain { up, down } => (Inner::Plain { up: self.linear(i, up, kind, d, f, bias)? }, down),
        };
        Ok(FeedForward { inner, activation: c.activation, down: self.linear(i, down, kind, f, d, bias)? })
    }

    fn experts(&mut self, i: usize, names: &ExpertNames, sizes: &ExpertSizes) -> Result<Experts> {
        let c = self.config;
        let in_turn = matches!(names.weights, ExpertWeights::FusedInTurn { .. });
        let router = self.linear(i, names.router, SiteKind::Router, c.width, sizes.count, in_turn)?;
        let each = match &names.weights {
            ExpertWeights::Each { each, gate, up, down } => self.each_expert(i, each, [gate, up, down], sizes)?,
            ExpertWeights::Fused { gate_up, down } | ExpertWeights::FusedInTurn { gate_up, down } => {
                self.fused_experts(i, [gate_up, down], in_turn, sizes)?
            }
        };
        Ok(Experts { router, router_norm: None, each, chosen: sizes.chosen, renormalised: sizes.renormalised, scales: None })
    }

    /// Experts of tensors of their own.
    fn each_expert(&mut self, i: usize, each: &str, names: [&str; 3], sizes: &ExpertSizes) -> Result<Vec<FeedForward>> {
        let (c, kind) = (self.config, SiteKind::Mlp);
        let (d, f) = (c.width, sizes.ffn);
        let expert = |number: usize| {
            let [gate, up, down] = names.map(|name| format!("{each}.{number}.{name}"));
            let gate = self.linear(i, &gate, kind, d, f, c.mlp_bias)?;
            let up = self.linear(i, &up, kind, d, f, c.mlp_bias)?;
            let down = self.linear(i, &down, kind, f, d, c.mlp_bias)?;
            Ok(FeedForward { inner: Inner::Gated { gate, up }, activation: c.activation, down })
        };
        (0..sizes.count).map(expert).collect()
    }

    /// Experts of two tensors for all of them; `in_turn`: with inputs before outputs (but where a file has turned them), gate and up
    /// in turn, and biases.
    fn fused_experts(&mut self, i: usize, names: [&str; 2], in_turn: bool, sizes: &ExpertSizes) -> Result<Vec<FeedForward>> {
        let c = self.config;
        let (d, f, count) = (c.width, sizes.ffn, sizes.count);
        let [inner, down] = [(names[0], d, 2 * f), (names[1], f, d)].map(|(name, inputs, outputs)| {
            let path = format!("{}.{i}.{name}", self.path(c.family.layers));
            let (rows, cols) = if in_turn { (inputs, outputs) } else { (outputs, inputs) };
            let stored = self.files.take(&path)?;
            let weights = stored.matrices([count, rows, cols])?;
            let inputs_first = in_turn && !stored.turned;
            let bias = if in_turn { Some(self.vector(&format!("{path}_bias"), count * outputs)?) } else { None };
            let bias = |e: usize| bias.as_ref().map(|bias| bias.narrow(0, e * outputs, outputs)).transpose();
            let expert = |(e, weight): (usize, Weight)| {
                let linear = FrozenLinear::new(weight, bias(e)?, inputs_first, self.compute);
                let own = name.rsplit_once('.').map_or_else(|| format!("{e}.{name}"), |(all, own)| format!("{all}.{e}.{own}"));
                let path = format!("{}.{i}.{own}", self.path(c.family.layers));
                Ok(SiteLinear { site: self.site(path, Some(i), SiteKind::Expert, inputs, outputs, inputs_first), linear })
            };
            weights.into_iter().enumerate().map(expert).collect::<Result<Vec<_>>>()
        });
        let expert = |(gate_up, down)| FeedForward {
            inner: Inner::Fused { gate_up, groups: if in_turn { f } else { 1 } },
            activation: c.activation,
            down,
        };
        Ok(inner?.into_iter().zip(down?).map(expert).collect())
    }

    /// A block's third part.
    fn layer_gate(&mut self, i: usize, prefix: &str) -> Result<Option<LayerGate>> {
        let (c, kind) = (self.config, SiteKind::Mlp);
        let (Some(names), Some([width, _])) = (&c.family.layer_inputs, c.layer_inputs) else { return Ok(None) };
        Ok(Some(LayerGate {
            gate: self.linear(i, names.gate, kind, c.width, width, false)?,
            activation: c.activation,
            projection: self.linear(i, names.output, kind, width, c.width, false)?,
            norm: self.norm_or_none(prefix, Some(names.output_norm))?,
        }))
    }

    /// Of what attention and the feed-forward give: norms, or a factor.
    fn post_norms(&mut self, prefix: &str) -> Result<[Option<Norm>; 2]> {
        let by = self.config.residual_scale;
        match self.config.family.post_norms {
            Some([attention, mlp]) => {
                let mut norm = |name| self.scaled_norm(&format!("{prefix}.{name}"), by).map(Some);
                Ok([norm(attention)?, norm(mlp)?])
            }
            None if by != 1.0 => Ok([(); 2].map(|()| Some(Norm::Scale(by as f32)))),
            None => Ok([None, None]),
        }
    }
}
