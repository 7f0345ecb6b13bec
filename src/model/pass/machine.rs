//! What a pass is run on: a device and a precision, with buffers of its own and every operation of a block on them, there and
//! back.
//!
//! [`super::block`] is written once over this; [`super::cpu`] and [`super::tensors`] are machines, and
//! [`super::count`], which only counts what they hold. Nothing is taped.

use std::ops::Range;

use candle_core::Tensor;

use super::super::Targets;
use super::super::layers::{Attention, DeltaNet, LayerInputs, Norm, SharedTables, SiteLinear};
use super::super::site::Site;
use super::prepared::PreparedAdapter;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::engine::Phase;

/// What acts on which tokens: in order, together all of them.
pub(super) type Acting<'a> = [(Range<usize>, &'a PreparedAdapter)];

/// What all blocks are given.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub acting: &'a Acting<'a>,
    pub phase: Phase,
    pub ids: &'a [u32],
    /// Position of each token in its own text.
    pub positions: &'a [u32],
    /// What dropout's masks go by; none without dropout.
    pub rows: &'a [u64],
    pub shared: &'a SharedTables,
    /// Where these are some tokens of a pass: which, ascending.
    pub chosen: Option<&'a [u32]>,
    /// Of a decoder: its encoder's tokens.
    pub source: Option<&'a Given<'a>>,
}

impl Given<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// What acts on all tokens; a way back has one adapter.
    pub(super) fn only(&self) -> &PreparedAdapter {
        debug_assert_eq!(self.acting.len(), 1);
        self.acting[0].1
    }

    pub(super) fn adapts(&self, sites: &[&SiteLinear]) -> bool {
        sites.iter().any(|s| self.only().has_pair(s.site))
    }
}

/// Outputs of sites with magnitudes, before these and the bias (n, o).
pub(super) type Unscaled<M> = Vec<(Site, <M as Machine>::Act)>;

/// Queries, keys and values; those that are there.
pub(super) type Parts<T> = [Option<T>; 3];

/// Queries, keys and values as attention reads them, and before their norms where these are.
pub(super) type Turned<M> = (Parts<<M as Machine>::Act>, Parts<<M as Machine>::Act>);

/// A site with the gradient of its output (n, o).
pub(super) type Sites<'a, M> = [(&'a SiteLinear, &'a <M as Machine>::Act)];

/// A device and a precision. Shapes: n tokens, d width, i inputs, o outputs. Errors are the device's.
pub(super) trait Machine: Sized {
    /// f32 (n, width): the residual stream, sums, gradients.
    type Wide;
    /// Activations (n, width) in this machine's precision.
    type Act;
    /// What attention leaves for its way back.
    type Saved;

    /// Gives a buffer back.
    fn free(&mut self, act: Self::Act);
    /// Gives a buffer back.
    fn free_wide(&mut self, wide: Self::Wide);
    fn copied(&mut self, x: &Self::Wide) -> Result<Self::Wide>;
    /// `x` rounded.
    fn rounded(&mut self, x: &Self::Wide) -> Result<Self::Act>;
    /// `x` (n, d) in f32.
    fn widened(&mut self, given: &Given, x: &Self::Act) -> Result<Self::Wide>;
    /// `x` (n, any width) rounded.
    fn narrowed(&mut self, given: &Given, x: Self::Wide) -> Result<Self::Act>;
    /// A copy of `x` (n, any width).
    fn again(&mut self, given: &Given, x: &Self::Wide) -> Result<Self::Wide>;
    /// Zeros of the shape of `x` (n, any width).
    fn zeros_of(&mut self, given: &Given, x: &Self::Act) -> Result<Self::Wide>;
    /// `x += y`, of one shape.
    fn add(&mut self, x: &mut Self::Wide, y: Self::Wide) -> Result<()>;
    /// `x + y`, of one shape.
    fn sum(&mut self, given: &Given, x: Self::Act, y: Self::Act) -> Result<Self::Act>;
    /// `x` times a factor.
    fn scale(&mut self, by: f32, x: &mut Self::Wide) -> Result<()>;

    /// Embeddings (n, d).
    fn embed(&mut self, given: &Given) -> Result<Self::Wide>;
    /// Adds the gradient at the embeddings to that of an embedding trained in full.
    fn embed_back(&mut self, given: &Given, dx: &Self::Wide) -> Result<()>;

    /// `x` (n, d) normed, and rounded for the way back.
    fn norm(&mut self, norm: &Norm, x: &Self::Wide) -> Result<[Self::Act; 2]>;
    /// Once more, of what was kept.
    fn norm_again(&mut self, norm: &Norm, kept: &Self::Act) -> Result<Self::Act>;
    /// Adds the gradient of the norm's input to `dx`, which `rounded` becomes a copy of.
    fn norm_back(
        &mut self,
        norm: &Norm,
        kept: &Self::Act,
        d_normed: Self::Wide,
        dx: &mut Self::Wide,
        rounded: &mut Self::Act,
    ) -> Result<()>;
    /// Adds `y` normed to `x`; returns `y` rounded for the way back.
    fn norm_add(&mut self, norm: &Norm, y: Self::Wide, x: &mut Self::Wide) -> Result<Self::Act>;
    /// The gradient of `y`, rounded, given that of the sum.
    fn norm_add_back(&mut self, norm: &Norm, kept: &Self::Act, dx: &Self::Wide) -> Result<Self::Act>;

    /// `x` (n, i) through sites with that input, biases and magnitudes included.
    fn project(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Self::Act,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Self::Wide>>;
    /// As [`Machine::project`], rounded.
    fn project_rounded(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &Self::Act,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<Vec<Self::Act>>;
    /// As [`Machine::project`] of one site, added to `y`.
    fn project_add(
        &mut self,
        given: &Given,
        site: &SiteLinear,
        x: &Self::Act,
        y: &mut Self::Wide,
        unscaled: &mut Unscaled<Self>,
    ) -> Result<()>;
    /// Adds the gradients of what is trained at sites with a common input `x` (there where a pair is).
    fn gradients(&mut self, given: &Given, sites: &Sites<Self>, x: Option<&Self::Act>, unscaled: &Unscaled<Self>) -> Result<()>;
    /// As [`Machine::gradients`]; returns the gradient of the input.
    fn project_back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Self::Act>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Self::Wide>;
    /// As [`Machine::project_back`], rounded.
    fn project_back_rounded(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Self::Act>,
        unscaled: &Unscaled<Self>,
    ) -> Result<Self::Act>;

    /// The parts of `widths` of a fused projection, whose outputs are `groups` times a piece of each.
    fn split(&mut self, given: &Given, fused: Self::Wide, widths: &[usize], groups: usize) -> Result<Vec<Self::Wide>>;
    /// [`Machine::split`] undone.
    fn join(&mut self, given: &Given, parts: Vec<Self::Act>, groups: usize) -> Result<Self::Act>;
    /// Gate and up of a fused projection, whose outputs are `groups` times a piece of each.
    fn halve(&mut self, given: &Given, fused: Self::Act, groups: usize) -> Result<[Self::Act; 2]>;
    /// [`Machine::halve`] undone.
    fn unite(&mut self, given: &Given, gate: &Self::Act, up: &Self::Act, groups: usize) -> Result<Self::Act>;
    /// Queries, keys and values normed where there are norms, and the first two turned by their positions; with what the norms
    /// read, rounded for the way back.
    fn turn(&mut self, given: &Given, attention: &Attention, parts: Parts<Self::Wide>) -> Result<Turned<Self>>;
    /// The way back of [`Machine::turn`].
    fn turn_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        bare: &Parts<Self::Act>,
        grads: Parts<Self::Wide>,
    ) -> Result<Parts<Self::Act>>;
    fn attend(&mut self, given: &Given, attention: &Attention, qkv: [&Self::Act; 3]) -> Result<(Self::Act, Self::Saved)>;
    /// Gradients of what attention read; `grad` is that of `out`.
    fn attend_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        qkv: [&Self::Act; 3],
        out: &Self::Act,
        saved: &Self::Saved,
        grad: Self::Act,
    ) -> Result<[Self::Wide; 3]>;

    /// Attention in a model with an encoder; keys and values are those that the machine has kept where none are given.
    fn attend_over(
        &mut self,
        given: &Given,
        attention: &Attention,
        q: &Self::Act,
        kv: Option<[&Self::Act; 2]>,
    ) -> Result<(Self::Act, Self::Saved)>;
    /// Gradients of what [`Machine::attend_over`] read, rounded; `grad` is that of what it made.
    fn attend_over_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        qkv: [&Self::Act; 3],
        made: (&Self::Act, &Self::Saved),
        grad: Self::Act,
    ) -> Result<[Self::Act; 3]>;

    /// The gated delta rule over what its projections made; (n, values).
    fn delta(&mut self, given: &Given, net: &DeltaNet, parts: [&Self::Act; 4]) -> Result<Self::Act>;
    /// Gradients of what it read; `grad` is that of what it made.
    fn delta_back(&mut self, given: &Given, net: &DeltaNet, parts: [&Self::Act; 4], grad: Self::Act) -> Result<[Self::Act; 4]>;

    /// What the feed-forward's last layer reads: `act(gate) · up`, or `act(up)`.
    fn gate(&mut self, given: &Given, act: Activation, gate: Option<&Self::Act>, up: &Self::Act) -> Result<Self::Act>;
    /// `gate` and `up` become their gradients.
    fn gate_back(
        &mut self,
        given: &Given,
        act: Activation,
        gate: Option<&mut Self::Act>,
        up: &mut Self::Act,
        grad: Self::Act,
    ) -> Result<()>;

    /// What all layers are given of each token (n, L·p), of their projection (n, L·p); with that, rounded.
    fn layer_inputs(&mut self, given: &Given, inputs: &LayerInputs, projected: Self::Wide) -> Result<[Self::Act; 2]>;
    /// The gradient of the projection, which [`Machine::layer_inputs`] kept.
    fn layer_inputs_back(&mut self, given: &Given, inputs: &LayerInputs, kept: &Self::Act, grad: Self::Wide)
    -> Result<Self::Act>;
    /// The part (n, p) of one layer, of `all` (n, L·p).
    fn layer_input(&mut self, given: &Given, all: &Self::Act, layer: usize) -> Result<Self::Act>;
    /// Adds `grad` (n, p) to the part of one layer.
    fn add_layer_input(&mut self, given: &Given, layer: usize, grad: Self::Act, all: &mut Self::Wide) -> Result<()>;

    /// Logits of experts (n, E) of `x` (n, d), one token after another.
    fn route(&mut self, given: &Given, router: &SiteLinear, x: &Self::Act) -> Result<Vec<f32>>;
    /// Adds the gradients of a pair at the router, and that of `x`, which [`Machine::route`] read, to `dx` (n, d).
    fn route_back(
        &mut self,
        given: &Given,
        router: &SiteLinear,
        x: &Self::Act,
        d_logits: &[f32],
        dx: &mut Self::Wide,
    ) -> Result<()>;
    /// Zeros of the shape of `x`.
    fn zeros_like(&mut self, x: &Self::Wide) -> Result<Self::Wide>;
    /// The chosen tokens (c, d) of `x` (n, d); `given` is theirs.
    fn gather(&mut self, given: &Given, x: &Self::Act) -> Result<Self::Act>;
    /// Adds `y` (c, d), by the `weights` (c) if there are any, to the chosen tokens of `x` (n, d); `given` is theirs.
    fn scatter_add(&mut self, given: &Given, y: Self::Wide, weights: Option<&[f32]>, x: &mut Self::Wide) -> Result<()>;
    /// Multiplies each row of `x` (c, d) with its weight.
    fn weigh(&mut self, weights: &[f32], x: &mut Self::Act) -> Result<()>;
    /// The product of each row of `a` with that of `b` (c, f).
    fn dots(&mut self, given: &Given, a: &Self::Act, b: &Self::Act) -> Result<Vec<f32>>;
    /// The product of each row of `a` (c, d) with `b` (d).
    fn dots_with(&mut self, given: &Given, a: &Self::Act, b: &Tensor) -> Result<Vec<f32>>;

    /// Final norm, head and loss: `−log p` of each target in nats, and the gradient at `x` of their sum by `weights`; adds
    /// those of a trained head.
    fn loss(&mut self, given: &Given, x: &Self::Wide, targets: &Targets, weights: &[f32]) -> Result<(Vec<f32>, Self::Wide)>;
    /// Log-probability of each target, in nats.
    fn logps(&mut self, given: &Given, x: &Self::Wide, targets: &Targets) -> Result<Vec<f32>>;
    /// Logits of chosen rows, one after another, by the kernels of `given.phase`.
    fn logits(&mut self, given: &Given, x: &Self::Wide, rows: &[usize]) -> Result<Vec<f32>>;
}
