//! One block, forward and backward, in either precision.

use super::super::decoder::{Block, Mlp, Norm, Qkv, SharedTables, SiteLinear};
use super::texts::PackedTexts;
use super::workspace::{Buffer, Pooled, Workspace};
use crate::error::Result;
use crate::kernels::adapted::PairGradient;
use crate::kernels::attention;
use crate::kernels::dropout::{DropoutMask, TokenMask};
use crate::kernels::element::add_to_rows;
use crate::kernels::engine::{Attended, AttentionGradient, Back, Dest, Layer, StepPair};
use crate::kernels::rope::{Rotation, turn_parts};
use crate::kernels::{glu, norm};

/// Gradients of pairs by site.
pub(super) type Gradients = [Option<PairGradient>];

/// What all blocks are given.
pub(super) struct Given<'a> {
    /// Pairs by site.
    pub pairs: &'a [Option<StepPair>],
    /// Dropout on the input of pairs, by site.
    pub masks: &'a [Option<DropoutMask>],
    pub texts: &'a PackedTexts,
    pub shared: &'a SharedTables,
}

/// What goes back through the blocks, from the last to the first that is adapted.
pub(super) struct WayBack<'a, T> {
    pub given: &'a Given<'a>,
    pub gradients: &'a mut Gradients,
    pub room: &'a mut Workspace,
    /// The gradient (n, d) of a block's output, and then of its input.
    pub dx: &'a mut [f32],
    /// `dx` in the precision of activations, before and after a block.
    pub rounded: &'a mut [T],
}

/// What a block keeps for its backward pass.
pub(super) struct BlockActivations<T> {
    /// Input (n, d).
    x: Buffer<T>,
    /// Turned queries (n, h·e), turned keys and values (n, g·e).
    qkv: [Buffer<T>; 3],
    /// Attention's output (n, h·e).
    attended: Buffer<T>,
    saved: Attended,
    /// Between attention and feed-forward (n, d).
    middle: Buffer<T>,
    /// (n, f) each.
    gate: Buffer<T>,
    up: Buffer<T>,
}

impl<T: Pooled> BlockActivations<T> {
    pub(super) fn give_to(self, room: &mut Workspace) {
        let BlockActivations { x, qkv, attended, saved: _, middle, gate, up } = self;
        [x, attended, middle, gate, up].into_iter().chain(qkv).for_each(|b| room.give(b));
    }
}

/// Numbers kept a token: the width, and those of [`BlockActivations`].
pub(super) fn kept_per_token(block: &Block, width: usize) -> usize {
    let [q, k, v, gate, up, _] = block.projections();
    let of = |s: &SiteLinear| s.linear.outputs();
    2 * width + 2 * of(q) + of(k) + of(v) + of(gate) + of(up)
}

impl Given<'_> {
    fn tokens(&self) -> usize {
        self.texts.tokens()
    }

    fn layer<'a>(&'a self, site: &'a SiteLinear) -> Layer<'a> {
        let drop = self.masks[site.site.0].map(|mask| TokenMask { mask, rows: &self.texts.rows });
        Layer { matrix: &site.linear.matrix, side: site.linear.side, pair: self.pairs[site.site.0].as_ref(), drop }
    }

    fn attention(&self) -> attention::TextSpans<'_> {
        attention::TextSpans {
            spans: &self.texts.spans,
            starts: &self.texts.batch.starts,
            heads: self.shared.heads,
            key_heads: self.shared.kv_heads,
            head_dim: self.shared.head_dim,
            scale: 1.0 / (self.shared.head_dim as f64).sqrt(),
        }
    }

    fn turn(&self, inverse: bool) -> Rotation<'_> {
        let (table, head_dim) = (self.shared.rope.as_ref(), self.shared.head_dim);
        Rotation { table, positions: &self.texts.batch.positions, head_dim, inverse }
    }

    /// `x` through one site, added to `y`.
    fn add<T: Pooled>(&self, site: &SiteLinear, x: &[T], y: &mut [f32]) -> Result<()> {
        T::forward(x, &[self.layer(site)], vec![Dest::Add(y)]);
        biased(site, y)
    }

    /// The gradients of sites with a common input `x` (read where there is a pair), and of that input.
    fn back<T: Pooled>(&self, sites: &[(&SiteLinear, &[T])], x: &[T], gradients: &mut Gradients, dx: Option<Dest<T>>) {
        let mut taken: Vec<_> = sites.iter().map(|(s, _)| gradients[s.site.0].take()).collect();
        let layers = sites.iter().zip(&mut taken);
        let layers = layers.map(|((s, dy), g)| Back { layer: self.layer(s), x, dy, gradient: g.as_mut() }).collect();
        T::backward(layers, dx);
        for ((s, _), gradient) in sites.iter().zip(taken) {
            gradients[s.site.0] = gradient;
        }
    }

    fn adapts(&self, sites: &[&SiteLinear]) -> bool {
        sites.iter().any(|s| self.pairs[s.site.0].is_some())
    }
}

fn biased<T: Pooled>(site: &SiteLinear, y: &mut [T]) -> Result<()> {
    if let Some(bias) = &site.linear.bias {
        add_to_rows(y, &bias.to_vec1::<f32>()?);
    }
    Ok(())
}

impl Norm {
    /// The norm's weight and epsilon; the direct path covers RMS norms only.
    pub(super) fn rms(&self) -> Result<(Vec<f32>, f32)> {
        match self {
            Norm::Rms { weight, eps } => Ok((weight.to_vec1()?, *eps as f32)),
            Norm::Layer { .. } => unreachable!("`plain_pairs` covers RMS norms only"),
        }
    }
}

impl Block {
    /// q, k, v, gate, up, down.
    pub(super) fn projections(&self) -> [&SiteLinear; 6] {
        match (&self.qkv, &self.mlp) {
            (Qkv::Split { q, k, v }, Mlp::Gated { gate, up, down }) => [q, k, v, gate, up, down],
            _ => unreachable!("`plain_pairs` covers separate projections with a gate only"),
        }
    }

    /// `x (n, d)` becomes the block's output; returns what the backward pass needs.
    pub(super) fn direct_forward<T: Pooled>(
        &self,
        given: &Given,
        room: &mut Workspace,
        x: &mut [f32],
    ) -> Result<BlockActivations<T>> {
        let n = given.tokens();
        let [_, _, _, gate, up, down] = self.projections();
        let width = x.len() / n;
        let (mut kept_x, mut normed) = (room.take::<T>(n, width), room.take::<T>(n, width));
        let (weight, eps) = self.attention_norm.rms()?;
        norm::rms_keep(x, &weight, eps, &mut normed, &mut kept_x);
        let qkv = self.queries(given, room, &normed)?;
        let mut attended = room.take::<T>(n, self.output.linear.inputs());
        let saved = T::attend(&given.attention(), [&qkv[0], &qkv[1], &qkv[2]], &mut attended);
        given.add(&self.output, &attended, x)?;
        let mut middle = room.take::<T>(n, width);
        let (weight, eps) = self.mlp_norm.rms()?;
        norm::rms_keep(x, &weight, eps, &mut normed, &mut middle);
        let inner = gate.linear.outputs();
        let (mut at_gate, mut at_up) = (room.take::<T>(n, inner), room.take::<T>(n, inner));
        let dests = vec![Dest::Store(&mut at_gate), Dest::Store(&mut at_up)];
        T::forward(&normed, &[given.layer(gate), given.layer(up)], dests);
        biased(gate, &mut at_gate)?;
        biased(up, &mut at_up)?;
        room.give(normed);
        let mut act = room.take::<T>(n, inner);
        glu::swiglu_forward(&at_gate, &at_up, &mut act);
        given.add(down, &act, x)?;
        room.give(act);
        Ok(BlockActivations { x: kept_x, qkv, attended, saved, middle, gate: at_gate, up: at_up })
    }

    /// Turned queries and keys, and values, of the normed input.
    fn queries<T: Pooled>(&self, given: &Given, room: &mut Workspace, normed: &[T]) -> Result<[Buffer<T>; 3]> {
        let n = given.tokens();
        let [q, k, v, ..] = self.projections();
        let sites = [q, k, v];
        let mut flat = sites.map(|s| room.take::<f32>(n, s.linear.outputs()));
        T::forward(normed, &sites.map(|s| given.layer(s)), flat.iter_mut().map(|f| Dest::Set(f)).collect());
        let mut out = sites.map(|s| room.take::<T>(n, s.linear.outputs()));
        for (site, flat) in sites.into_iter().zip(&mut flat) {
            biased(site, flat)?;
        }
        let [to_q, to_k, to_v] = &mut out;
        turn_parts(&given.turn(false), [&flat[0], &flat[1], &flat[2]], [to_q, to_k, to_v]);
        flat.into_iter().for_each(|f| room.give(f));
        Ok(out)
    }

    /// Turns `dx` from the gradient of the block's output into that of its input (unless nothing `below` wants it), and adds
    /// the gradients of its pairs.
    pub(super) fn direct_backward<T: Pooled>(
        &self,
        way: &mut WayBack<T>,
        mut kept: BlockActivations<T>,
        below: bool,
    ) -> Result<()> {
        self.feed_back(way, &mut kept)?;
        self.attend_back(way, &kept, below)?;
        kept.give_to(way.room);
        Ok(())
    }

    /// Feed-forward: `dx` becomes the gradient at `middle`; gate and up become their gradients.
    fn feed_back<T: Pooled>(&self, way: &mut WayBack<T>, kept: &mut BlockActivations<T>) -> Result<()> {
        let WayBack { given, gradients, room, dx, rounded } = way;
        let n = given.tokens();
        let (width, [_, _, _, gate, up, down]) = (dx.len() / n, self.projections());
        let inner = gate.linear.outputs();
        let mut act = room.take::<T>(n, inner);
        if given.adapts(&[down]) {
            glu::swiglu_forward(&kept.gate, &kept.up, &mut act);
        }
        let mut d_act = room.take::<T>(n, inner);
        given.back(&[(down, &**rounded)], &act, gradients, Some(Dest::Store(&mut d_act)));
        room.give(act);
        glu::swiglu_backward_in_place(&mut kept.gate, &mut kept.up, &d_act);
        room.give(d_act);
        let (weight, eps) = self.mlp_norm.rms()?;
        let mut normed = room.take::<T>(n, width);
        if given.adapts(&[gate, up]) {
            norm::rms_forward(&kept.middle, &weight, eps, &mut normed);
        }
        let mut d_normed = room.take::<f32>(n, width);
        given.back(&[(gate, &*kept.gate), (up, &*kept.up)], &normed, gradients, Some(Dest::Set(&mut d_normed)));
        norm::rms_backward_add(&kept.middle, &d_normed, &weight, eps, dx, rounded);
        room.give(normed);
        room.give(d_normed);
        Ok(())
    }

    /// Attention: `dx` becomes the gradient at the block's input.
    fn attend_back<T: Pooled>(&self, way: &mut WayBack<T>, kept: &BlockActivations<T>, below: bool) -> Result<()> {
        let WayBack { given, gradients, room, dx, rounded } = way;
        let n = given.tokens();
        let (width, [q, k, v, ..]) = (dx.len() / n, self.projections());
        let mut d_attended = room.take::<T>(n, self.output.linear.inputs());
        given.back(&[(&self.output, &**rounded)], &kept.attended, gradients, Some(Dest::Store(&mut d_attended)));
        let sites = [q, k, v];
        let width_of = |s: &SiteLinear| if T::EACH_HEAD { q.linear.outputs() } else { s.linear.outputs() };
        let mut flat = sites.map(|s| room.take::<f32>(n, width_of(s)));
        let [dq, dk, dv] = &mut flat;
        let behind = AttentionGradient { out: &kept.attended, grad: &d_attended, saved: &kept.saved };
        T::attend_back(&given.attention(), [&kept.qkv[0], &kept.qkv[1], &kept.qkv[2]], behind, [dq, dk, dv]);
        room.give(d_attended);
        let mut grads = sites.map(|s| room.take::<T>(n, s.linear.outputs()));
        let [to_q, to_k, to_v] = &mut grads;
        turn_parts(&given.turn(true), [&flat[0], &flat[1], &flat[2]], [to_q, to_k, to_v]);
        flat.into_iter().for_each(|f| room.give(f));
        let (weight, eps) = self.attention_norm.rms()?;
        let mut normed = room.take::<T>(n, width);
        if given.adapts(&sites) {
            norm::rms_forward(&kept.x, &weight, eps, &mut normed);
        }
        let layers = [(q, &*grads[0]), (k, &*grads[1]), (v, &*grads[2])];
        if below {
            let mut d_normed = room.take::<f32>(n, width);
            given.back(&layers, &normed, gradients, Some(Dest::Set(&mut d_normed)));
            norm::rms_backward_add(&kept.x, &d_normed, &weight, eps, dx, rounded);
            room.give(d_normed);
        } else {
            given.back(&layers, &normed, gradients, None);
        }
        room.give(normed);
        grads.into_iter().for_each(|g| room.give(g));
        Ok(())
    }
}
