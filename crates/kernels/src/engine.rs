//! What a block of the decoder is computed with, in either precision: every operation on slices, forward and backward.
//!
//! `f32` is exact and runs anywhere; `bf16` keeps activations in half the memory and multiplies them as they are, on
//! CPUs with AVX-512 BF16. Refuses to know: blocks, which activations are kept.
//! Legend: n tokens, i inputs, o outputs, r rank.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

use super::adapted::{self, LowRankSlices, PairGradient, Seen};
use super::attention::{Normalisers, Slices, Varlen};
use super::cross_entropy::WeightedTargets;
use super::dropout::TokenMask;
use super::element::Element;
use super::linear::{Frozen, Side};
use super::linear_cross_entropy;
#[cfg(target_arch = "x86_64")]
use super::{
    attention::flash_bf16,
    gemm_bf16::{self, Bf16Matrix, GemmJob, LowRankDelta, ProductTarget},
    linear_cross_entropy_bf16,
    pair_bf16::{self, Outer, Thin},
};

/// A low-rank pair `A (r, i)`, `B (o, r)` as a step uses it.
#[derive(Debug)]
pub struct StepPair {
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f32,
    #[cfg(target_arch = "x86_64")]
    half: Option<pair_bf16::HalfPair>,
}

impl StepPair {
    /// `half` prepares it for layers in bf16.
    pub fn new(a: Vec<f32>, b: Vec<f32>, rank: usize, scale: f32, half: bool) -> StepPair {
        #[cfg(target_arch = "x86_64")]
        let half = half.then(|| pair_bf16::HalfPair::new(&a, &b, rank, scale));
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rank, half);
        StepPair {
            a,
            b,
            scale,
            #[cfg(target_arch = "x86_64")]
            half,
        }
    }

    /// A gradient of zeros.
    pub fn zero(&self) -> PairGradient {
        PairGradient { a: vec![0.0; self.a.len()], b: vec![0.0; self.b.len()] }
    }

    fn slices(&self) -> LowRankSlices<'_> {
        LowRankSlices { a: &self.a, b: &self.b, scale: self.scale }
    }

    #[cfg(target_arch = "x86_64")]
    fn half(&self) -> &pair_bf16::HalfPair {
        self.half.as_ref().unwrap_or_else(|| unreachable!("prepared for bf16 layers"))
    }
}

/// A frozen matrix and the pair on top of it.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    pub matrix: &'a Frozen,
    pub side: Side,
    pub pair: Option<&'a StepPair>,
    /// Dropout on the input of the pair.
    pub drop: Option<TokenMask<'a>>,
}

impl Layer<'_> {
    /// The input of the pair, where it is not `x` itself.
    fn dropped<T: Element>(&self, x: &[T]) -> Option<Vec<T>> {
        self.pair.and(self.drop).map(|drop| drop.apply(x))
    }

    /// Adds what the pair makes of `x` (n, i) to `y` (n, o).
    fn add_delta(&self, phase: Phase, x: &[f32], y: &mut [f32]) {
        let Some(pair) = self.pair else { return };
        let dropped = self.dropped(x);
        let x = dropped.as_deref().unwrap_or(x);
        let (inputs, outputs) = adapted::layer(self.matrix, self.side);
        match phase {
            Phase::Blocked => adapted::add_delta(x, inputs, outputs, pair.slices(), y),
            Phase::Decode => adapted::decode_delta(x, inputs, pair.slices(), y),
        }
    }
}

/// What a pass is for: the kernels are chosen by it, never by the number of rows, so that a text's numbers are the same to the
/// bit in any company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Whole texts, or many tokens of a prompt: bound by arithmetic.
    Blocked,
    /// One new token a text: bound by reading the matrices.
    Decode,
}

/// Where a result goes.
#[derive(Debug)]
pub enum Dest<'a, T> {
    Set(&'a mut [f32]),
    Add(&'a mut [f32]),
    /// Replaced, in the precision of activations.
    Store(&'a mut [T]),
}

impl<T> Dest<'_, T> {
    fn again(&mut self) -> Dest<'_, T> {
        match self {
            Dest::Set(y) => Dest::Set(y),
            Dest::Add(y) => Dest::Add(y),
            Dest::Store(y) => Dest::Store(y),
        }
    }

    /// Some of its elements.
    pub fn part(&mut self, at: Range<usize>) -> Dest<'_, T> {
        match self {
            Dest::Set(y) => Dest::Set(&mut y[at]),
            Dest::Add(y) => Dest::Add(&mut y[at]),
            Dest::Store(y) => Dest::Store(&mut y[at]),
        }
    }
}

/// The gradient's way back through one layer: `dy` (n, o), and `x` (n, i) where a pair's gradient is wanted.
pub struct Back<'a, T> {
    pub layer: Layer<'a>,
    pub x: &'a [T],
    pub dy: &'a [T],
    pub gradient: Option<&'a mut PairGradient>,
}

/// What attention leaves for its way back.
#[derive(Debug)]
pub enum Attended {
    Exact(Normalisers),
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only made where bf16 is"))]
    Half(Vec<f32>),
}

/// Nothing, of a pass without a way back.
impl Default for Attended {
    fn default() -> Attended {
        Attended::Exact(Normalisers::default())
    }
}

/// The gradient of attention's output beside what the forward pass left.
#[derive(Clone, Copy)]
pub struct AttentionGradient<'a, T> {
    pub out: &'a [T],
    pub grad: &'a [T],
    pub saved: &'a Attended,
}

/// The operations that depend on the precision. Everything else is generic over [`Element`].
pub trait Engine: Element {
    /// Whether [`Engine::attend_back`] gives what each query head adds to keys and values, not the sum over those that
    /// share a head.
    const EACH_HEAD: bool;
    /// Rows whose logits [`Engine::linear_cross_entropy`] holds at once.
    const LOGIT_ROWS: usize;
    /// Bytes of [`Attended`], a token and head.
    const ATTENDED: usize;
    /// Bytes that [`Engine::attend`] and [`Engine::attend_back`] hold besides what they are given, of so many tokens with these
    /// widths of queries, keys and values.
    fn attending_bytes(tokens: usize, widths: [usize; 3]) -> [u64; 2];
    /// `x (n, i)` through several layers at once, each to its own place.
    fn forward(phase: Phase, x: &[Self], layers: &[Layer], dests: Vec<Dest<Self>>);
    /// `x (n, i)` through one matrix under several pairs, each on its own rows (in order, together all of them); the same bits
    /// as each of them alone.
    fn forward_mixed(phase: Phase, x: &[Self], parts: &[(Range<usize>, Layer)], dest: Dest<Self>);
    /// Adds each layer's pair gradient, and makes the sum of the gradients of their common input, if it is wanted.
    fn backward(layers: Vec<Back<Self>>, dx: Option<Dest<Self>>);
    fn attend(texts: &Varlen, qkv: [&[Self]; 3], out: &mut [Self]) -> Attended;
    /// Gradients of q, k and v, set; see [`Engine::EACH_HEAD`].
    fn attend_back(texts: &Varlen, qkv: [&[Self]; 3], left: AttentionGradient<Self>, grads: [&mut [f32]; 3]);
    /// Cross-entropy of every row of `x` (n, d) through the head, in nats; `gradient` becomes that of their sum by the weights;
    /// `cap` is the soft cap of logits.
    fn linear_cross_entropy(
        x: &[Self],
        head: &Frozen,
        side: Side,
        targets: WeightedTargets,
        cap: Option<f32>,
        gradient: &mut [f32],
        scratch: &mut Vec<Self>,
    ) -> Vec<f32>;
}

impl Engine for f32 {
    const EACH_HEAD: bool = false;
    const LOGIT_ROWS: usize = linear_cross_entropy::CHUNK;
    const ATTENDED: usize = Normalisers::BYTES;

    /// There the output and packed keys; back the gradients of each head, and these side by side.
    fn attending_bytes(tokens: usize, [q, k, v]: [usize; 3]) -> [u64; 2] {
        [q + k, 2 * (q + k + v)].map(|width| (tokens * width * size_of::<f32>()) as u64)
    }

    fn forward(phase: Phase, x: &[f32], layers: &[Layer], dests: Vec<Dest<f32>>) {
        for (layer, dest) in layers.iter().zip(dests) {
            let (y, add) = match dest {
                Dest::Set(y) | Dest::Store(y) => (y, false),
                Dest::Add(y) => (y, true),
            };
            match phase {
                Phase::Decode => adapted::decode(x, layer.matrix, layer.side, layer.pair.map(StepPair::slices), y, add),
                Phase::Blocked => {
                    adapted::forward(x, layer.matrix, layer.side, None, y, add);
                    layer.add_delta(phase, x, y);
                }
            }
        }
    }

    fn forward_mixed(phase: Phase, x: &[f32], parts: &[(Range<usize>, Layer)], mut dest: Dest<f32>) {
        let Some((_, first)) = parts.first() else { return };
        Self::forward(phase, x, &[Layer { pair: None, drop: None, ..*first }], vec![dest.again()]);
        let (Dest::Set(y) | Dest::Add(y) | Dest::Store(y)) = dest;
        let (inputs, outputs) = adapted::layer(first.matrix, first.side);
        // One region for all pairs: rows of their own.
        let mut left = y;
        let own = parts.iter().map(|(rows, layer)| {
            let y = left.split_off_mut(..rows.len() * outputs).unwrap_or_default();
            (layer, &x[rows.start * inputs..rows.end * inputs], y)
        });
        own.collect::<Vec<_>>().into_par_iter().for_each(|(layer, x, y)| layer.add_delta(phase, x, y));
    }

    fn backward(layers: Vec<Back<f32>>, dx: Option<Dest<f32>>) {
        let (mut dx, mut add) = match dx {
            Some(Dest::Set(y) | Dest::Store(y)) => (Some(y), false),
            Some(Dest::Add(y)) => (Some(y), true),
            None => (None, false),
        };
        for Back { layer, x, dy, gradient } in layers {
            let pair = layer.pair.map(StepPair::slices).zip(gradient);
            let dropped = layer.dropped(x);
            let x = dropped.as_deref().unwrap_or(x);
            adapted::backward(Seen { x, dy }, layer.matrix, layer.side, pair, dx.as_deref_mut(), add, layer.drop);
            add = true;
        }
    }

    fn attend(texts: &Varlen, qkv: [&[f32]; 3], out: &mut [f32]) -> Attended {
        let slices = Slices::new(qkv, 1, texts.starts, texts.head_dim, texts.scores).with_sinks(texts.sinks);
        let (attended, normalisers) = slices.forward();
        out.copy_from_slice(&attended);
        Attended::Exact(normalisers)
    }

    fn attend_back(texts: &Varlen, qkv: [&[f32]; 3], left: AttentionGradient<f32>, grads: [&mut [f32]; 3]) {
        let Attended::Exact(normalisers) = left.saved else { unreachable!("of this precision") };
        let slices = Slices::new(qkv, 1, texts.starts, texts.head_dim, texts.scores);
        for (to, from) in grads.into_iter().zip(slices.backward(left.out, left.grad, normalisers)) {
            to.copy_from_slice(&from);
        }
    }

    fn linear_cross_entropy(
        x: &[f32],
        head: &Frozen,
        side: Side,
        targets: WeightedTargets,
        cap: Option<f32>,
        gradient: &mut [f32],
        _: &mut Vec<f32>,
    ) -> Vec<f32> {
        let losses = linear_cross_entropy::linear_cross_entropy(x, head, side, targets.ids, cap, Some(gradient));
        for (row, weight) in gradient.chunks_exact_mut(x.len() / losses.len().max(1)).zip(targets.weights) {
            row.iter_mut().for_each(|g| *g *= weight);
        }
        losses
    }
}

/// Only called where [`Frozen::is_bf16`] holds for every matrix and every width is even.
#[cfg(target_arch = "x86_64")]
impl Engine for bf16 {
    const EACH_HEAD: bool = true;
    const LOGIT_ROWS: usize = linear_cross_entropy_bf16::ROWS;
    const ATTENDED: usize = size_of::<f32>();

    /// Tiles alone.
    fn attending_bytes(_: usize, _: [usize; 3]) -> [u64; 2] {
        [0, 0]
    }

    fn forward(_: Phase, x: &[bf16], layers: &[Layer], dests: Vec<Dest<bf16>>) {
        let dropped: Vec<Option<Vec<bf16>>> = layers.iter().map(|l| l.dropped(x)).collect();
        let inputs = dropped.iter().map(|d| d.as_deref().unwrap_or(x));
        let thins = layers.iter().zip(inputs).map(|(l, x)| l.pair.map(|p| Thin { x, e: &p.half().a, r: p.half().rank }));
        let shares = thin(thins);
        let jobs: Vec<GemmJob> = layers
            .iter()
            .zip(&shares)
            .map(|(layer, h)| {
                let (inputs, _) = adapted::layer(layer.matrix, layer.side);
                let delta = layer.pair.zip(h.as_ref()).map(|(p, h)| LowRankDelta { h, e: &p.half().b, rank: p.half().rank });
                let a = Bf16Matrix { data: x, width: inputs };
                GemmJob { a, w: &layer.matrix.weight, transposed: layer.side == Side::Transposed, delta }
            })
            .collect();
        gemm_bf16::each(&jobs, &mut dests.into_iter().map(target).collect::<Vec<_>>());
    }

    fn forward_mixed(phase: Phase, x: &[bf16], parts: &[(Range<usize>, Layer)], mut dest: Dest<bf16>) {
        for (rows, layer) in parts {
            let (inputs, outputs) = adapted::layer(layer.matrix, layer.side);
            let x = &x[rows.start * inputs..rows.end * inputs];
            Self::forward(phase, x, &[*layer], vec![dest.part(rows.start * outputs..rows.end * outputs)]);
        }
    }

    fn backward(layers: Vec<Back<bf16>>, mut dx: Option<Dest<bf16>>) {
        let dropped: Vec<Option<Vec<bf16>>> =
            layers.iter().map(|b| b.gradient.as_ref().and_then(|_| b.layer.dropped(b.x))).collect();
        let layers: Vec<Back<bf16>> =
            layers.into_iter().zip(&dropped).map(|(b, d)| Back { x: d.as_deref().unwrap_or(b.x), ..b }).collect();
        let shares = thin(layers.iter().map(|b| b.layer.pair.map(|p| Thin { x: b.dy, e: &p.half().b_t, r: p.half().rank })));
        if let Some(dx) = &mut dx {
            let jobs: Vec<GemmJob> = layers
                .iter()
                .zip(&shares)
                .map(|(Back { layer, dy, .. }, g)| {
                    let (_, outputs) = adapted::layer(layer.matrix, layer.side);
                    let fused = layer.pair.filter(|_| layer.drop.is_none());
                    let delta = fused.zip(g.as_ref()).map(|(p, g)| LowRankDelta { h: g, e: &p.half().a_t, rank: p.half().rank });
                    let a = Bf16Matrix { data: dy, width: outputs };
                    GemmJob { a, w: &layer.matrix.weight, transposed: layer.side == Side::Plain, delta }
                })
                .collect();
            gemm_bf16::sum(&jobs, &mut target(dx.again()));
            add_dropped(&layers, &shares, dx);
        }
        pair_gradients(layers, &shares);
    }

    fn attend(texts: &Varlen, qkv: [&[bf16]; 3], out: &mut [bf16]) -> Attended {
        Attended::Half(flash_bf16::forward(texts, qkv, out))
    }

    fn attend_back(texts: &Varlen, qkv: [&[bf16]; 3], left: AttentionGradient<bf16>, grads: [&mut [f32]; 3]) {
        let Attended::Half(normalisers) = left.saved else { unreachable!("of this precision") };
        let saved = flash_bf16::HalfSaved { out: left.out, grad: left.grad, normalisers };
        flash_bf16::backward(texts, qkv, saved, grads);
    }

    fn linear_cross_entropy(
        x: &[bf16],
        head: &Frozen,
        side: Side,
        targets: WeightedTargets,
        cap: Option<f32>,
        gradient: &mut [f32],
        scratch: &mut Vec<bf16>,
    ) -> Vec<f32> {
        if side == Side::Transposed && head.weight.rows.is_multiple_of(2) {
            return linear_cross_entropy_bf16::linear_cross_entropy(x, &head.weight, targets, cap, gradient, scratch);
        }
        let x: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
        f32::linear_cross_entropy(&x, head, side, targets, cap, gradient, &mut Vec::new())
    }
}

/// Products of one input with matrices of one shape, as training makes them: the input is in the precision of the products
/// already. For measuring.
pub struct PreparedProducts<'a> {
    matrices: &'a [Arc<Frozen>],
    side: Side,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only made where bf16 is"))]
    x: Vec<bf16>,
}

impl<'a> PreparedProducts<'a> {
    /// `None` where products are not made in bf16, or widths are odd.
    pub fn new(matrices: &'a [Arc<Frozen>], side: Side, x: &[f32]) -> Option<PreparedProducts<'a>> {
        let even = |w: &Arc<Frozen>| w.is_bf16() && (w.weight.rows | w.weight.cols).is_multiple_of(2);
        let x = x.iter().map(|v| bf16::from_f32(*v)).collect();
        matrices.iter().all(even).then_some(PreparedProducts { matrices, side, x })
    }

    /// Every product, one after another: `x·Wᵀ` into `kept` (as activations are), `x·W` into `summed` (as gradients are).
    pub fn multiply(&self, kept: &mut [bf16], summed: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        rayon::scope(|_| {
            for matrix in self.matrices {
                let dest = match self.side {
                    Side::Transposed => Dest::Store(&mut *kept),
                    Side::Plain => Dest::Set(&mut *summed),
                };
                bf16::forward(Phase::Blocked, &self.x, &[Layer { matrix, side: self.side, pair: None, drop: None }], vec![dest]);
            }
        });
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (kept, summed);
    }
}

#[cfg(target_arch = "x86_64")]
fn target(dest: Dest<'_, bf16>) -> ProductTarget<'_> {
    match dest {
        Dest::Set(y) => ProductTarget::Set(y),
        Dest::Add(y) => ProductTarget::Add(y),
        Dest::Store(y) => ProductTarget::Half(y),
    }
}

/// The way back of pairs whose input was dropped, `g (n, r)` by layer.
#[cfg(target_arch = "x86_64")]
fn add_dropped(layers: &[Back<bf16>], shares: &[Option<Vec<bf16>>], dx: &mut Dest<bf16>) {
    for (back, g) in layers.iter().zip(shares) {
        let (Some(pair), Some(drop), Some(g)) = (back.layer.pair, back.layer.drop, g) else { continue };
        let (half, tokens) = (pair.half(), drop.rows.len());
        // The rank without what made it even.
        let rank = half.rank * pair.a.len() / half.a.len();
        let g: Vec<f32> = (0..tokens).flat_map(|t| g[t * half.rank..][..rank].iter().map(|v| v.to_f32())).collect();
        match dx {
            Dest::Set(dx) | Dest::Add(dx) => drop.add_delta(&g, &pair.a, dx),
            Dest::Store(dx) => drop.add_delta(&g, &pair.a, dx),
        }
    }
}

/// The narrow products of the layers that have a pair.
#[cfg(target_arch = "x86_64")]
fn thin<'a>(jobs: impl Iterator<Item = Option<Thin<'a>>>) -> Vec<Option<Vec<bf16>>> {
    let jobs: Vec<Option<Thin>> = jobs.collect();
    let all: Vec<Thin> = jobs.iter().copied().flatten().collect();
    let mut made = if all.is_empty() { Vec::new() } else { pair_bf16::thin(&all) }.into_iter();
    jobs.iter().map(|job| job.as_ref().and_then(|_| made.next())).collect()
}

/// With `g = s·dy·B` (n, r) and `h = x·Aᵀ`: `dA += gᵀ·x`, `dB += s·dyᵀ·h`.
#[cfg(target_arch = "x86_64")]
fn pair_gradients(layers: Vec<Back<bf16>>, shares: &[Option<Vec<bf16>>]) {
    let adapted = layers.into_iter().zip(shares);
    let adapted: Vec<_> = adapted.filter_map(|(b, g)| Some((b.layer.pair?, b.x, b.dy, g.as_ref()?, b.gradient?))).collect();
    if adapted.is_empty() {
        return;
    }
    let jobs = adapted.iter().map(|(p, x, ..)| Some(Thin { x, e: &p.half().a, r: p.half().rank }));
    let inner: Vec<Vec<bf16>> = thin(jobs).into_iter().flatten().collect();
    let mut sums: Vec<[Vec<f32>; 2]> =
        adapted.iter().map(|(p, ..)| [vec![0f32; p.half().a.len()], vec![0f32; p.half().b.len()]]).collect();
    let mut outers = Vec::new();
    for (((pair, x, dy, g, _), h), [a, b]) in adapted.iter().zip(&inner).zip(&mut sums) {
        let r = pair.half().rank;
        outers.push(Outer { g, r, x, n: a.len() / r, out: a });
        outers.push(Outer { g: h, r, x: dy, n: b.len() / r, out: b });
    }
    pair_bf16::outer(outers);
    for ((pair, .., gradient), [a, b]) in adapted.into_iter().zip(&sums) {
        // The sums have one more row where the rank is odd.
        let outputs = b.len() / pair.half().rank;
        let rank = gradient.b.len() / outputs;
        gradient.a.iter_mut().zip(a).for_each(|(to, s)| *to += s);
        for (at, row) in gradient.b.chunks_exact_mut(rank).enumerate() {
            for (k, to) in row.iter_mut().enumerate() {
                *to += pair.scale * b[k * outputs + at];
            }
        }
    }
}
