//! One block, forward and backward, in either precision.

use std::ops::Range;

use super::super::decoder::{Block, Mlp, Qkv, SharedTables, SiteLinear};
use super::super::site::{Adapt, Site, Term};
use super::prepared::PreparedAdapter;
use super::texts::PackedTexts;
use super::workspace::{Buffer, Pooled, Workspace};
use crate::error::Result;
use crate::kernels::adapted::PairGradient;
use crate::kernels::columns::ColumnScale;
use crate::kernels::dropout::TokenMask;
use crate::kernels::element::{add_to_rows, join_rows, split_rows};
use crate::kernels::engine::{Attended, AttentionGradient, Back, Dest, Layer, Phase, StepPair};
use crate::kernels::glu;
use crate::kernels::rope::{Rotation, turn_parts};

/// Sums of gradients of what is trained at a site.
pub(super) struct SiteSums {
    pub pair: Option<PairGradient>,
    pub magnitude: Option<Vec<f32>>,
}

impl SiteSums {
    pub(super) fn zero(pair: Option<&StepPair>, columns: Option<&ColumnScale>) -> SiteSums {
        SiteSums { pair: pair.map(StepPair::zero), magnitude: columns.map(|c| vec![0.0; c.factors().len()]) }
    }
}

/// By site.
pub(super) type Gradients = [SiteSums];

/// What acts on which tokens: in order, together all of them.
pub(super) type Acting<'a> = [(Range<usize>, &'a PreparedAdapter)];

/// What all blocks are given.
pub(super) struct Given<'a> {
    pub acting: &'a Acting<'a>,
    pub phase: Phase,
    /// Position of each token in its own text.
    pub positions: &'a [u32],
    /// What dropout's masks go by; none without dropout.
    pub rows: &'a [u64],
    pub shared: &'a SharedTables,
}

/// What goes back through the blocks, from the last to the first that is adapted.
pub(super) struct WayBack<'a, T> {
    pub given: &'a Given<'a>,
    pub texts: &'a PackedTexts,
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
    /// (n, f) each; the gate where there is one.
    gate: Option<Buffer<T>>,
    up: Buffer<T>,
    /// Outputs of sites with magnitudes, before these and the bias (n, o).
    unscaled: Unscaled<T>,
}

type Unscaled<T> = Vec<(Site, Buffer<T>)>;

impl<T: Pooled> BlockActivations<T> {
    pub(super) fn give_to(self, room: &mut Workspace) {
        let BlockActivations { x, qkv, attended, saved: _, middle, gate, up, unscaled } = self;
        let unscaled = unscaled.into_iter().map(|(_, z)| z);
        [x, attended, middle, up].into_iter().chain(gate).chain(qkv).chain(unscaled).for_each(|b| room.give(b));
    }
}

/// Numbers kept a token: the width, and those of [`BlockActivations`].
pub(super) fn kept_per_token(block: &Block, width: usize, adapt: &dyn Adapt) -> usize {
    let of = |sites: &[&SiteLinear]| sites.iter().map(|s| s.linear.outputs()).sum::<usize>();
    let scaled = |s: &&SiteLinear| matches!(adapt.term(s.site), Some(Term::LowRank(pair)) if pair.magnitude.is_some());
    let unscaled: Vec<&SiteLinear> = block.linears().into_iter().filter(scaled).collect();
    let (inner, _) = block.feed_forward();
    of(&unscaled) + 2 * width + of(&block.queries_keys_values()) + block.output.linear.inputs() + of(&inner)
}

/// Attention of one block: from turned queries and keys, and values, to its output.
pub(super) type Attend<'a, T> = &'a mut dyn FnMut([&[T]; 3], &mut [T]) -> Attended;

impl Given<'_> {
    fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// What acts on all tokens; a way back has one adapter.
    fn only(&self) -> &PreparedAdapter {
        debug_assert_eq!(self.acting.len(), 1);
        self.acting[0].1
    }

    fn layer<'a>(&'a self, adapter: &'a PreparedAdapter, site: &'a SiteLinear) -> Layer<'a> {
        let drop = adapter.masks[site.site.0].map(|mask| TokenMask { mask, rows: self.rows });
        Layer { matrix: &site.linear.matrix, side: site.linear.side, pair: adapter.pairs[site.site.0].as_ref(), drop }
    }

    fn turn(&self, inverse: bool) -> Rotation<'_> {
        let (table, head_dim) = (self.shared.rope.as_ref(), self.shared.head_dim);
        Rotation { table, positions: self.positions, head_dim, inverse }
    }

    /// `x` through one site, added to `y`.
    fn add<T: Pooled>(
        &self,
        site: &SiteLinear,
        x: &[T],
        y: &mut [f32],
        room: &mut Workspace,
        unscaled: &mut Unscaled<T>,
    ) -> Result<()> {
        self.forward(&[site], x, vec![Dest::Add(y)], room, unscaled);
        biased(site, y)
    }

    /// `x` through several sites, each to its own place, without biases. Outputs of sites with magnitudes are kept in
    /// `unscaled` as they were before these.
    fn forward<T: Pooled>(
        &self,
        sites: &[&SiteLinear],
        x: &[T],
        dests: Vec<Dest<T>>,
        room: &mut Workspace,
        unscaled: &mut Unscaled<T>,
    ) {
        let [(_, adapter)] = self.acting else { return self.forward_mixed(sites, x, dests, room) };
        let layers: Vec<Layer> = sites.iter().map(|s| self.layer(adapter, s)).collect();
        if sites.iter().all(|s| adapter.columns[s.site.0].is_none()) {
            return T::forward(self.phase, x, &layers, dests);
        }
        for ((site, layer), dest) in sites.iter().zip(layers).zip(dests) {
            match &adapter.columns[site.site.0] {
                None => T::forward(self.phase, x, &[layer], vec![dest]),
                Some(columns) => {
                    let mut z = room.take::<T>(self.tokens(), site.linear.outputs());
                    T::forward(self.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                    columns.apply(&z, dest);
                    unscaled.push((site.site, z));
                }
            }
        }
    }

    /// As [`Given::forward`], with several adapters, without a way back.
    fn forward_mixed<T: Pooled>(&self, sites: &[&SiteLinear], x: &[T], dests: Vec<Dest<T>>, room: &mut Workspace) {
        for (site, mut dest) in sites.iter().zip(dests) {
            if self.acting.iter().all(|(_, adapter)| adapter.columns[site.site.0].is_none()) {
                let parts = self.acting.iter().map(|(rows, adapter)| (rows.clone(), self.layer(adapter, site)));
                T::forward_mixed(self.phase, x, &parts.collect::<Vec<_>>(), dest);
                continue;
            }
            let (inputs, outputs) = (site.linear.inputs(), site.linear.outputs());
            for (rows, adapter) in self.acting {
                let x = &x[rows.start * inputs..rows.end * inputs];
                let to = dest.part(rows.start * outputs..rows.end * outputs);
                let layer = self.layer(adapter, site);
                match &adapter.columns[site.site.0] {
                    None => T::forward(self.phase, x, &[layer], vec![to]),
                    Some(columns) => {
                        let mut z = room.take::<T>(rows.len(), outputs);
                        T::forward(self.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                        columns.apply(&z, to);
                        room.give(z);
                    }
                }
            }
        }
    }

    /// The gradients of sites with a common input `x` (read where there is a pair), and of that input.
    fn back<T: Pooled>(
        &self,
        sites: &[(&SiteLinear, &[T])],
        x: &[T],
        kept: (&mut Gradients, &mut Workspace, &Unscaled<T>),
        dx: Option<Dest<T>>,
    ) {
        let (gradients, room, unscaled) = kept;
        let adapter = self.only();
        // Where outputs are scaled, what goes back is the gradient before the factors.
        let inner: Vec<Option<Buffer<T>>> = sites
            .iter()
            .map(|(s, dy)| {
                let columns = adapter.columns[s.site.0].as_ref()?;
                let (_, z) = unscaled.iter().find(|(site, _)| *site == s.site)?;
                if let Some(sum) = &mut gradients[s.site.0].magnitude {
                    columns.add_gradient(dy, z, sum);
                }
                let mut dz = room.take::<T>(self.tokens(), s.linear.outputs());
                columns.apply(dy, Dest::Store(&mut dz));
                Some(dz)
            })
            .collect();
        let mut taken: Vec<_> = sites.iter().map(|(s, _)| gradients[s.site.0].pair.take()).collect();
        let layers = sites.iter().zip(&mut taken).zip(&inner).map(|(((s, dy), g), inner)| {
            let dy = inner.as_deref().unwrap_or(dy);
            Back { layer: self.layer(adapter, s), x, dy, gradient: g.as_mut() }
        });
        T::backward(layers.collect(), dx);
        for ((s, _), pair) in sites.iter().zip(taken) {
            gradients[s.site.0].pair = pair;
        }
        inner.into_iter().flatten().for_each(|dz| room.give(dz));
    }

    fn adapts(&self, sites: &[&SiteLinear]) -> bool {
        sites.iter().any(|s| self.only().pairs[s.site.0].is_some())
    }
}

fn biased<T: Pooled>(site: &SiteLinear, y: &mut [T]) -> Result<()> {
    if let Some(bias) = &site.linear.bias {
        add_to_rows(y, &bias.to_vec1::<f32>()?);
    }
    Ok(())
}

impl Block {
    /// The projections that read the block's normed input: q, k and v, or all of them in one.
    pub(super) fn queries_keys_values(&self) -> Vec<&SiteLinear> {
        match &self.qkv {
            Qkv::Split { q, k, v } => vec![q, k, v],
            Qkv::Fused(qkv) => vec![qkv],
        }
    }

    /// The layers that read the feed-forward's normed input (gate and up, or up alone), and the one after them.
    pub(super) fn feed_forward(&self) -> (Vec<&SiteLinear>, &SiteLinear) {
        match &self.mlp {
            Mlp::Gated { gate, up, down } => (vec![gate, up], down),
            Mlp::Plain { up, down } => (vec![up], down),
        }
    }

    /// `x (n, d)` becomes the block's output; returns what the backward pass needs.
    pub(super) fn direct_forward<T: Pooled>(
        &self,
        given: &Given,
        room: &mut Workspace,
        attend: Attend<T>,
        x: &mut [f32],
    ) -> Result<BlockActivations<T>> {
        let n = given.tokens();
        let width = x.len() / n;
        let (mut kept_x, mut normed) = (room.take::<T>(n, width), room.take::<T>(n, width));
        self.attention_norm.frozen().keep(x, &mut normed, &mut kept_x);
        let mut unscaled = Vec::new();
        let qkv = self.queries(given, room, &normed, &mut unscaled)?;
        let mut attended = room.take::<T>(n, self.output.linear.inputs());
        let saved = attend([&qkv[0], &qkv[1], &qkv[2]], &mut attended);
        given.add(&self.output, &attended, x, room, &mut unscaled)?;
        let mut middle = room.take::<T>(n, width);
        self.mlp_norm.frozen().keep(x, &mut normed, &mut middle);
        let (inner, down) = self.feed_forward();
        let mut made: Vec<Buffer<T>> = inner.iter().map(|s| room.take::<T>(n, s.linear.outputs())).collect();
        given.forward(&inner, &normed, made.iter_mut().map(|m| Dest::Store(m)).collect(), room, &mut unscaled);
        for (site, made) in inner.iter().zip(&mut made) {
            biased(site, made)?;
        }
        room.give(normed);
        let up = made.pop().unwrap_or_else(|| unreachable!("every feed-forward has a layer"));
        let gate = made.pop();
        let mut act = room.take::<T>(n, down.linear.inputs());
        activated(given.shared, gate.as_deref(), &up, &mut act);
        given.add(down, &act, x, room, &mut unscaled)?;
        room.give(act);
        Ok(BlockActivations { x: kept_x, qkv, attended, saved, middle, gate, up, unscaled })
    }

    /// Turned queries and keys, and values, of the normed input.
    fn queries<T: Pooled>(
        &self,
        given: &Given,
        room: &mut Workspace,
        normed: &[T],
        unscaled: &mut Unscaled<T>,
    ) -> Result<[Buffer<T>; 3]> {
        let n = given.tokens();
        let sites = self.queries_keys_values();
        let mut flat: Vec<Buffer<f32>> = sites.iter().map(|s| room.take::<f32>(n, s.linear.outputs())).collect();
        given.forward(&sites, normed, flat.iter_mut().map(|f| Dest::Set(f)).collect(), room, unscaled);
        for (site, flat) in sites.into_iter().zip(&mut flat) {
            biased(site, flat)?;
        }
        if let [fused] = &flat[..] {
            let mut parts = given.shared.widths().map(|w| room.take::<f32>(n, w));
            let [q, k, v] = &mut parts;
            split_rows(fused, n, [q, k, v]);
            flat.into_iter().for_each(|f| room.give(f));
            flat = parts.into();
        }
        let mut out = given.shared.widths().map(|w| room.take::<T>(n, w));
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
        let WayBack { given, gradients, room, dx, rounded, .. } = way;
        let n = given.tokens();
        let (width, (inner, down)) = (dx.len() / n, self.feed_forward());
        let mut act = room.take::<T>(n, down.linear.inputs());
        if given.adapts(&[down]) {
            activated(given.shared, kept.gate.as_deref(), &kept.up, &mut act);
        }
        let mut d_act = room.take::<T>(n, down.linear.inputs());
        given.back(&[(down, &**rounded)], &act, (gradients, room, &kept.unscaled), Some(Dest::Store(&mut d_act)));
        room.give(act);
        match &mut kept.gate {
            Some(gate) => glu::swiglu_backward_in_place(gate, &mut kept.up, &d_act),
            None => given.shared.activation.backward_in_place(&mut kept.up, &d_act),
        }
        room.give(d_act);
        let norm = self.mlp_norm.frozen();
        let mut normed = room.take::<T>(n, width);
        if given.adapts(&inner) {
            norm.forward(&kept.middle, &mut normed);
        }
        let mut d_normed = room.take::<f32>(n, width);
        let grads = kept.gate.as_deref().into_iter().chain([&*kept.up]);
        let layers: Vec<(&SiteLinear, &[T])> = inner.into_iter().zip(grads).collect();
        given.back(&layers, &normed, (gradients, room, &kept.unscaled), Some(Dest::Set(&mut d_normed)));
        norm.backward_add(&kept.middle, &d_normed, dx, rounded);
        room.give(normed);
        room.give(d_normed);
        Ok(())
    }

    /// Attention: `dx` becomes the gradient at the block's input.
    fn attend_back<T: Pooled>(&self, way: &mut WayBack<T>, kept: &BlockActivations<T>, below: bool) -> Result<()> {
        let WayBack { given, texts, gradients, room, dx, rounded } = way;
        let (n, widths) = (given.tokens(), given.shared.widths());
        let (width, sites) = (dx.len() / n, self.queries_keys_values());
        let mut d_attended = room.take::<T>(n, self.output.linear.inputs());
        let dest = Some(Dest::Store(&mut d_attended));
        given.back(&[(&self.output, &**rounded)], &kept.attended, (gradients, room, &kept.unscaled), dest);
        let mut flat = widths.map(|w| room.take::<f32>(n, if T::EACH_HEAD { widths[0] } else { w }));
        let [dq, dk, dv] = &mut flat;
        let behind = AttentionGradient { out: &kept.attended, grad: &d_attended, saved: &kept.saved };
        let texts = texts.spans(given.shared, self.scores);
        T::attend_back(&texts, [&kept.qkv[0], &kept.qkv[1], &kept.qkv[2]], behind, [dq, dk, dv]);
        room.give(d_attended);
        let mut grads = widths.map(|w| room.take::<T>(n, w));
        let [to_q, to_k, to_v] = &mut grads;
        turn_parts(&given.turn(true), [&flat[0], &flat[1], &flat[2]], [to_q, to_k, to_v]);
        flat.into_iter().for_each(|f| room.give(f));
        let mut grads = Vec::from(grads);
        if sites.len() == 1 {
            let mut fused = room.take::<T>(n, widths.iter().sum());
            join_rows([&grads[0], &grads[1], &grads[2]], n, &mut fused);
            grads.drain(..).for_each(|g| room.give(g));
            grads.push(fused);
        }
        let norm = self.attention_norm.frozen();
        let mut normed = room.take::<T>(n, width);
        if given.adapts(&sites) {
            norm.forward(&kept.x, &mut normed);
        }
        let layers: Vec<(&SiteLinear, &[T])> = sites.into_iter().zip(grads.iter().map(|g| &**g)).collect();
        if below {
            let mut d_normed = room.take::<f32>(n, width);
            given.back(&layers, &normed, (gradients, room, &kept.unscaled), Some(Dest::Set(&mut d_normed)));
            norm.backward_add(&kept.x, &d_normed, dx, rounded);
            room.give(d_normed);
        } else {
            given.back(&layers, &normed, (gradients, room, &kept.unscaled), None);
        }
        room.give(normed);
        grads.into_iter().for_each(|g| room.give(g));
        Ok(())
    }
}

/// What the feed-forward's last layer reads.
fn activated<T: Pooled>(shared: &SharedTables, gate: Option<&[T]>, up: &[T], act: &mut [T]) {
    match gate {
        Some(gate) => glu::swiglu_forward(gate, up, act),
        None => shared.activation.forward(up, act),
    }
}
