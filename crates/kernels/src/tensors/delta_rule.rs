//! The gated delta rule of [`crate::delta_rule`], token by token, all heads at once. Computed in f32 whatever comes in.
//!
//! With S the state before a token and λ = e^g: `S̃ = λ·S`, `u = v − k·S̃`, `S ← S̃ + kᵀ·(β·u)`, `o = q·S`. On the way back states are
//! computed again from every [`KEPT`]-th one.
//! Legend beside the usual one: t tokens of a text, h value heads, g key heads, c channels, k and w elements of a key and of a value.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::pieces::full;
use super::{mlp, norm};
use crate::activation::Activation;
pub use crate::delta_rule::DeltaSizes;
use crate::error::Result;

/// Tokens between two states that the forward pass keeps for the way back.
const KEPT: usize = 64;

/// Of the norm of queries and keys, beside the sum of squares.
const EPS: f64 = 1e-6;

/// A layer's frozen weights, as [`crate::delta_rule::DeltaLayer`] has them, f32.
#[derive(Debug, Clone)]
pub struct DeltaTensors {
    /// (channels, kernel)
    pub conv: Tensor,
    /// (value_heads)
    pub a_log: Tensor,
    /// (value_heads)
    pub dt_bias: Tensor,
    /// (value_dim)
    pub norm: Tensor,
    pub eps: f64,
    pub sizes: DeltaSizes,
}

/// What one text has left behind it, f32.
#[derive(Debug, Clone)]
pub struct DeltaState {
    /// The newest rows of `qkv`, (kernel − 1, channels), oldest first.
    pub tail: Tensor,
    /// S (value_heads, key_dim, value_dim)
    pub memory: Tensor,
}

impl DeltaState {
    /// Before the first token.
    pub fn zero(sizes: DeltaSizes, device: &Device) -> Result<DeltaState> {
        Ok(DeltaState {
            tail: Tensor::zeros((sizes.kernel - 1, sizes.channels()), DType::F32, device)?,
            memory: Tensor::zeros((sizes.value_heads, sizes.key_dim, sizes.value_dim), DType::F32, device)?,
        })
    }
}

/// The result (n, values), in the dtype of `z`, of whole texts one after another, each from a state of zeros; `qkv` (n, channels), `z`
/// (n, values), `a` and `b` (n, value_heads).
pub fn forward(layer: &DeltaTensors, spans: &[Range<usize>], parts: [&Tensor; 4]) -> Result<Tensor> {
    let zero = DeltaState::zero(layer.sizes, parts[0].device())?;
    let mut outs = Vec::new();
    for span in spans.iter().filter(|span| !span.is_empty()) {
        outs.push(extend(layer, &zero, rows(parts, span)?.each_ref())?.0);
    }
    Ok(Tensor::cat(&outs, 0)?)
}

/// The result (t, values), in the dtype of `z`, of new tokens of one text behind its state, and the state behind them.
pub fn extend(layer: &DeltaTensors, state: &DeltaState, [qkv, z, a, b]: [&Tensor; 4]) -> Result<(Tensor, DeltaState)> {
    let t = qkv.dim(0)?;
    let padded = Tensor::cat(&[&state.tail, &full(qkv)?], 0)?;
    let tail = padded.narrow(0, t, layer.sizes.kernel - 1)?.copy()?;
    let text = Heads::new(layer, &convolved(layer, &padded)?, a, b)?;
    let (core, memory) = text.read(state.memory.clone(), |_, _| {})?;
    let normed = norm::rms(&core, &layer.norm, layer.eps, DType::F32)?.reshape((t, layer.sizes.values()))?;
    Ok((mlp::gated(Activation::Silu, z, &normed)?.to_dtype(z.dtype())?, DeltaState { tail, memory }))
}

/// The gradients of `qkv`, `z`, `a` and `b` in their shapes and dtypes, given that of [`forward`]'s result.
pub fn backward(layer: &DeltaTensors, spans: &[Range<usize>], parts: [&Tensor; 4], d_out: &Tensor) -> Result<[Tensor; 4]> {
    let mut grads: [Vec<Tensor>; 4] = Default::default();
    for span in spans.iter().filter(|span| !span.is_empty()) {
        let d_out = d_out.narrow(0, span.start, span.len())?;
        let of_text = text_back(layer, rows(parts, span)?.each_ref(), &full(&d_out)?)?;
        for ((grads, grad), part) in grads.iter_mut().zip(of_text).zip(parts) {
            grads.push(grad.to_dtype(part.dtype())?);
        }
    }
    let [qkv, z, a, b] = grads;
    Ok([Tensor::cat(&qkv, 0)?, Tensor::cat(&z, 0)?, Tensor::cat(&a, 0)?, Tensor::cat(&b, 0)?])
}

fn rows([qkv, z, a, b]: [&Tensor; 4], span: &Range<usize>) -> Result<[Tensor; 4]> {
    let rows = |x: &Tensor| x.narrow(0, span.start, span.len());
    Ok([rows(qkv)?, rows(z)?, rows(a)?, rows(b)?])
}

/// Gradients of one text's inputs, f32.
fn text_back(layer: &DeltaTensors, [qkv, z, a, b]: [&Tensor; 4], d_out: &Tensor) -> Result<[Tensor; 4]> {
    let (sizes, t) = (layer.sizes, qkv.dim(0)?);
    let zero = DeltaState::zero(sizes, qkv.device())?;
    let sums = convolution(layer, &Tensor::cat(&[&zero.tail, &full(qkv)?], 0)?)?;
    let text = Heads::new(layer, &mlp::activation(Activation::Silu, &sums)?, a, b)?;
    let mut kept = Vec::new();
    let (core, _) = text.read(zero.memory, |i, state| {
        if i.is_multiple_of(KEPT) {
            kept.push(state.clone());
        }
    })?;
    let normed = norm::rms(&core, &layer.norm, layer.eps, DType::F32)?.reshape((t, sizes.values()))?;
    let (dz, d_normed) = mlp::gated_back(Activation::Silu, &full(z)?, &normed, d_out)?;
    let d_normed = d_normed.reshape(core.shape())?;
    let d_core = norm::rms_back(&core, &layer.norm, layer.eps, &d_normed, DType::F32)?;
    let d_core = d_core.reshape((t, sizes.value_heads, sizes.value_dim))?;
    let [d_mixed, da, db] = text.back(layer, &kept, &d_core)?;
    let d_sums = mlp::activation_back(Activation::Silu, &sums, &d_mixed)?;
    Ok([convolution_back(layer, &d_sums)?, dz, da, db])
}

/// SiLU of the convolution of `padded` (kernel − 1 + t, c): (t, c).
fn convolved(layer: &DeltaTensors, padded: &Tensor) -> Result<Tensor> {
    mlp::activation(Activation::Silu, &convolution(layer, padded)?)
}

fn convolution(layer: &DeltaTensors, padded: &Tensor) -> Result<Tensor> {
    let kernel = layer.sizes.kernel;
    let t = padded.dim(0)? + 1 - kernel;
    let mut sum = Tensor::zeros((t, layer.sizes.channels()), DType::F32, padded.device())?;
    for tap in 0..kernel {
        sum = (sum + padded.narrow(0, tap, t)?.broadcast_mul(&layer.tap(tap)?)?)?;
    }
    Ok(sum)
}

fn convolution_back(layer: &DeltaTensors, d_sums: &Tensor) -> Result<Tensor> {
    let (kernel, t) = (layer.sizes.kernel, d_sums.dim(0)?);
    let padded = d_sums.pad_with_zeros(0, 0, kernel - 1)?;
    let mut sum = d_sums.zeros_like()?;
    for tap in 0..kernel {
        sum = (sum + padded.narrow(0, kernel - 1 - tap, t)?.broadcast_mul(&layer.tap(tap)?)?)?;
    }
    Ok(sum)
}

impl DeltaTensors {
    /// A column of the convolution's weight as a row, (1, c).
    fn tap(&self, tap: usize) -> Result<Tensor> {
        Ok(full(&self.conv.narrow(1, tap, 1)?.contiguous()?)?.reshape((1, self.sizes.channels()))?)
    }

    /// −e^a_log (h)
    fn rate(&self) -> Result<Tensor> {
        Ok(full(&self.a_log)?.exp()?.neg()?)
    }
}

/// Rows of unit length, and what each was multiplied with.
struct Normed {
    /// (t, g, k)
    unit: Tensor,
    /// (t, g, 1)
    inverse: Tensor,
}

impl Normed {
    fn new(x: &Tensor) -> Result<Normed> {
        let inverse = (x.sqr()?.sum_keepdim(D::Minus1)? + EPS)?.sqrt()?.recip()?;
        Ok(Normed { unit: x.broadcast_mul(&inverse)?, inverse })
    }

    /// The gradient of what was normed, given that of the unit rows: `ρ·(d − x̂·(x̂·d))`, (t, g · k).
    fn back(&self, d: &Tensor) -> Result<Tensor> {
        let along = (d * &self.unit)?.sum_keepdim(D::Minus1)?;
        let dx = (d - self.unit.broadcast_mul(&along)?)?.broadcast_mul(&self.inverse)?;
        Ok(dx.flatten_from(1)?)
    }
}

/// One text, by value head.
struct Heads {
    sizes: DeltaSizes,
    queries: Normed,
    keys: Normed,
    /// (t, h, 1, k), of length 1/√k.
    q: Tensor,
    /// (t, h, 1, k), of length 1.
    k: Tensor,
    /// (t, h, 1, w)
    v: Tensor,
    /// a + dt_bias (t, h)
    shifted: Tensor,
    /// λ (t, h, 1, 1)
    decay: Tensor,
    /// (t, h, 1, 1)
    beta: Tensor,
}

impl Heads {
    fn new(layer: &DeltaTensors, mixed: &Tensor, a: &Tensor, b: &Tensor) -> Result<Heads> {
        let (s, t) = (layer.sizes, mixed.dim(0)?);
        let part =
            |first: usize, heads: usize, dim: usize| mixed.narrow(1, first, heads * dim)?.contiguous()?.reshape((t, heads, dim));
        let queries = Normed::new(&part(0, s.key_heads, s.key_dim)?)?;
        let keys = Normed::new(&part(s.keys(), s.key_heads, s.key_dim)?)?;
        let spread = |x: &Tensor| {
            let x = x.unsqueeze(2)?.broadcast_as((t, s.key_heads, s.group(), s.key_dim))?;
            x.contiguous()?.reshape((t, s.value_heads, 1, s.key_dim))
        };
        let shifted = full(a)?.broadcast_add(&full(&layer.dt_bias)?)?;
        // ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|)
        let softplus = (shifted.relu()? + (shifted.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let decay = softplus.broadcast_mul(&layer.rate()?)?.exp()?;
        Ok(Heads {
            q: (spread(&queries.unit)? * scale(s))?,
            k: spread(&keys.unit)?,
            v: part(2 * s.keys(), s.value_heads, s.value_dim)?.unsqueeze(2)?,
            decay: decay.reshape((t, s.value_heads, 1, 1))?,
            beta: sigmoid(&full(b)?)?.reshape((t, s.value_heads, 1, 1))?,
            sizes: s,
            queries,
            keys,
            shifted,
        })
    }

    fn tokens(&self) -> Result<usize> {
        Ok(self.q.dim(0)?)
    }

    /// What every token reads, (t · h, w), and the state behind the last; `seen` gets each token and the state before it.
    fn read(&self, mut state: Tensor, mut seen: impl FnMut(usize, &Tensor)) -> Result<(Tensor, Tensor)> {
        let mut outs = Vec::new();
        for i in 0..self.tokens()? {
            seen(i, &state);
            state = self.step(i, &state)?.behind;
            outs.push(self.q.get(i)?.matmul(&state)?); // (h, 1, k) · (h, k, w)
        }
        Ok((Tensor::cat(&outs, 0)?.squeeze(1)?, state))
    }

    fn step(&self, i: usize, state: &Tensor) -> Result<Step> {
        let (k, v, beta) = (self.k.get(i)?, self.v.get(i)?, self.beta.get(i)?);
        let decayed = state.broadcast_mul(&self.decay.get(i)?)?;
        let error = (v - k.matmul(&decayed)?)?; // (h, 1, w)
        let update = error.broadcast_mul(&beta)?;
        let behind = (&decayed + k.transpose(1, 2)?.broadcast_mul(&update)?)?;
        Ok(Step { decayed, error, update, behind })
    }

    /// Gradients of queries, keys and values (t, c), and of `a` and `b` (t, h); `kept` are the states before every [`KEPT`]-th token.
    fn back(&self, layer: &DeltaTensors, kept: &[Tensor], d_out: &Tensor) -> Result<[Tensor; 3]> {
        let (s, t) = (self.sizes, self.tokens()?);
        let mut d_state = Tensor::zeros((s.value_heads, s.key_dim, s.value_dim), DType::F32, d_out.device())?;
        let mut grads: [Vec<Tensor>; 5] = Default::default();
        for (piece, first) in kept.iter().enumerate().rev() {
            let tokens = piece * KEPT..t.min((piece + 1) * KEPT);
            let mut steps = vec![self.step(tokens.start, first)?];
            for i in tokens.start + 1..tokens.end {
                let step = self.step(i, &steps[steps.len() - 1].behind)?;
                steps.push(step);
            }
            for (i, step) in tokens.zip(steps).rev() {
                let token = self.step_back(i, step, &d_out.get(i)?.unsqueeze(1)?, &mut d_state)?;
                grads.iter_mut().zip(token).for_each(|(grads, grad)| grads.push(grad));
            }
        }
        grads.iter_mut().for_each(|grads| grads.reverse());
        let [dq, dk, dv, d_decay, d_beta] = grads;
        let by_key_head = |d: &[Tensor]| Tensor::stack(d, 0)?.reshape((t, s.key_heads, s.group(), s.key_dim))?.sum(2);
        let dq = self.queries.back(&(by_key_head(&dq)? * scale(s))?)?;
        let dk = self.keys.back(&by_key_head(&dk)?)?;
        let dv = Tensor::stack(&dv, 0)?.reshape((t, s.values()))?;
        let gates = |d: &[Tensor]| Tensor::stack(d, 0)?.reshape((t, s.value_heads));
        let da = (gates(&d_decay)? * sigmoid(&self.shifted)?)?.broadcast_mul(&layer.rate()?)?;
        let beta = self.beta.reshape((t, s.value_heads))?;
        let db = (gates(&d_beta)? * (&beta - beta.sqr()?)?)?;
        Ok([Tensor::cat(&[dq, dk, dv], 1)?, da, db])
    }

    /// The gradients of one token's query, key, value, logarithm of its decay, and β; `d_state` goes from the state behind it to that before it.
    fn step_back(&self, i: usize, step: Step, d_out: &Tensor, d_state: &mut Tensor) -> Result<[Tensor; 5]> {
        let (q, k, beta) = (self.q.get(i)?, self.k.get(i)?, self.beta.get(i)?);
        let dq = d_out.matmul(&step.behind.t()?)?; // (h, 1, w) · (h, w, k)
        let d_behind = (&*d_state + q.transpose(1, 2)?.broadcast_mul(d_out)?)?;
        let d_update = k.matmul(&d_behind)?; // (h, 1, k) · (h, k, w)
        let d_beta = (&d_update * &step.error)?.sum_keepdim(D::Minus1)?;
        let dv = d_update.broadcast_mul(&beta)?;
        let dk = (step.update.matmul(&d_behind.t()?)? - dv.matmul(&step.decayed.t()?)?)?;
        let d_decayed = (d_behind - k.transpose(1, 2)?.broadcast_mul(&dv)?)?;
        let d_log_decay = (&d_decayed * &step.decayed)?.flatten_from(1)?.sum_keepdim(1)?;
        *d_state = d_decayed.broadcast_mul(&self.decay.get(i)?)?;
        Ok([dq, dk, dv, d_log_decay, d_beta])
    }
}

/// What one token does to the state.
struct Step {
    /// S̃ (h, k, w)
    decayed: Tensor,
    /// u (h, 1, w)
    error: Tensor,
    /// β·u (h, 1, w)
    update: Tensor,
    /// (h, k, w)
    behind: Tensor,
}

/// Of queries: 1/√k.
fn scale(sizes: DeltaSizes) -> f64 {
    1.0 / (sizes.key_dim as f64).sqrt()
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}
