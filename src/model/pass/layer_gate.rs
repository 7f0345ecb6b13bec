//! A block's third part: what its layer is given of each token, gated by the stream, there and back.

use super::super::layers::{LayerGate, Norm};
use super::beside::Beside;
use super::dense::{Made, WayBack};
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// The stream as it is.
const PLAIN: Norm = Norm::Scale(1.0);

/// What it keeps.
pub(super) struct LayerGateActivations<M: Machine> {
    /// The stream (n, d).
    x: M::Act,
    /// The gate and what the layer is given (n, p).
    made: Made<M>,
    /// What the norm read (n, d).
    output: M::Act,
}

impl<M: Machine> LayerGateActivations<M> {
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> LayerGateActivations<N> {
        let LayerGateActivations { x, made, output } = self;
        LayerGateActivations { x, made, output }
    }

    pub(super) fn free(self, m: &mut M) {
        let LayerGateActivations { x, made: (gate, given), output } = self;
        [x, given, output].into_iter().chain(gate).for_each(|act| m.free(act));
    }
}

impl LayerGate {
    /// Adds `norm(projection(activation(gate(x)) · given))` to `x` (n, d) in block `layer`.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (layer, beside): (usize, &Beside<M>),
        x: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<LayerGateActivations<M>> {
        let [read, kept] = m.norm(&PLAIN, x)?;
        let gate = m.project_rounded(given, &[&self.gate], &read, unscaled)?.pop();
        m.free(read);
        let made = (gate, beside.input(m, given, layer)?);
        let act = m.gate(given, self.activation, made.0.as_ref(), &made.1)?;
        let y = m.project(given, &[&self.projection], &act, unscaled)?.remove(0);
        m.free(act);
        let output = m.norm_add(&self.norm, y, x)?;
        Ok(LayerGateActivations { x: kept, made, output })
    }

    /// The way back.
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (layer, beside): (usize, &mut Beside<M>),
        way: &mut WayBack<M>,
        kept: LayerGateActivations<M>,
        unscaled: &Unscaled<M>,
    ) -> Result<()> {
        let LayerGateActivations { x, made: (mut gate, mut input), output } = kept;
        let dy = m.norm_add_back(&self.norm, &output, &way.dx)?;
        let adapted = given.adapts(&[&self.projection]);
        let act = if adapted { Some(m.gate(given, self.activation, gate.as_ref(), &input)?) } else { None };
        let d_act = m.project_back_rounded(given, &[(&self.projection, &dy)], act.as_ref(), unscaled)?;
        m.gate_back(given, self.activation, gate.as_mut(), &mut input, d_act)?;
        let sites: Vec<_> = gate.iter().map(|d| (&self.gate, d)).collect();
        let d_x = m.project_back(given, &sites, Some(&x), unscaled)?;
        m.norm_back(&PLAIN, &x, d_x, &mut way.dx, &mut way.rounded)?;
        [dy, x, output].into_iter().chain(act).chain(gate).for_each(|act| m.free(act));
        beside.input_back(m, given, layer, input)
    }
}
