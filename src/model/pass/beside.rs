//! What blocks hand on beside the stream of sums: keys and values that later blocks read too, inputs of each layer, and what an encoder
//! made for its decoder.

use super::super::Model;
use super::machine::{Given, Machine, Unscaled};
use crate::error::Result;

/// Of one pass, there and back.
pub(super) struct Beside<M: Machine> {
    lent: Vec<Lent<M>>,
    inputs: Option<Inputs<M>>,
    memory: Option<Memory<M>>,
}

/// What an encoder made.
pub(super) struct Memory<M: Machine> {
    /// Its last block's output (n, d), normed.
    pub normed: M::Act,
    /// What the norm read.
    pub kept: M::Act,
    /// Whether gradients go back to it.
    pub wanted: bool,
    /// The sum of what the decoder's blocks give back to `normed`.
    pub grad: Option<M::Wide>,
}

impl<M: Machine> Memory<M> {
    fn on<N: Machine<Act = M::Act, Wide = M::Wide>>(self) -> Memory<N> {
        let Memory { normed, kept, wanted, grad } = self;
        Memory { normed, kept, wanted, grad }
    }

    pub(super) fn free(self, m: &mut M) {
        [self.normed, self.kept].into_iter().for_each(|act| m.free(act));
        self.grad.into_iter().for_each(|wide| m.free_wide(wide));
    }
}

/// Keys and values of a block.
struct Lent<M: Machine> {
    layer: usize,
    keys_values: [M::Act; 2],
    /// The sum of what those that read them give back.
    grads: Option<[M::Wide; 2]>,
}

/// What each layer is given of each token.
struct Inputs<M: Machine> {
    /// (n, L·p)
    all: M::Act,
    /// Embeddings (n, d) as they are projected, and what the norm reads (n, L·p).
    x: M::Act,
    projected: M::Act,
    unscaled: Unscaled<M>,
    /// Whether gradients go back through them.
    wanted: bool,
    /// The sum of what the layers give back (n, L·p).
    grad: Option<M::Wide>,
}

impl<M: Machine> Lent<M> {
    fn on<N: Machine<Act = M::Act, Wide = M::Wide>>(self) -> Lent<N> {
        let Lent { layer, keys_values, grads } = self;
        Lent { layer, keys_values, grads }
    }
}

impl<M: Machine> Inputs<M> {
    fn on<N: Machine<Act = M::Act, Wide = M::Wide>>(self) -> Inputs<N> {
        let Inputs { all, x, projected, unscaled, wanted, grad } = self;
        Inputs { all, x, projected, unscaled, wanted, grad }
    }
}

impl<M: Machine> Beside<M> {
    /// Beside embeddings `x` (n, d).
    pub(super) fn new(m: &mut M, given: &Given, model: &Model, x: &M::Wide) -> Result<Beside<M>> {
        let Some(layers) = &model.layer_inputs else { return Ok(Beside::nothing()) };
        let (x, mut unscaled) = (m.rounded(x)?, Vec::new());
        let projected = m.project(given, &[&layers.projection], &x, &mut unscaled)?.remove(0);
        let [all, projected] = m.layer_inputs(given, layers, projected)?;
        let through = [layers.projection.site, model.embedding.site];
        let wanted = given.acting.iter().any(|(_, adapter)| through.iter().any(|site| adapter.acts(*site)));
        Ok(Beside { inputs: Some(Inputs { all, x, projected, unscaled, wanted, grad: None }), ..Beside::nothing() })
    }

    pub(super) fn nothing() -> Beside<M> {
        Beside { lent: Vec::new(), inputs: None, memory: None }
    }

    /// With what an encoder made of the texts.
    pub(super) fn with(self, memory: Option<Memory<M>>) -> Beside<M> {
        Beside { memory, ..self }
    }

    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> Beside<N> {
        let lent = self.lent.into_iter().map(Lent::on).collect();
        Beside { lent, inputs: self.inputs.map(Inputs::on), memory: self.memory.map(Memory::on) }
    }

    pub(super) fn free(self, m: &mut M) {
        for lent in self.lent {
            lent.keys_values.into_iter().for_each(|act| m.free(act));
            lent.grads.into_iter().flatten().for_each(|wide| m.free_wide(wide));
        }
        if let Some(Inputs { all, x, projected, unscaled, wanted: _, grad }) = self.inputs {
            let unscaled = unscaled.into_iter().map(|(_, z)| z);
            [all, x, projected].into_iter().chain(unscaled).for_each(|act| m.free(act));
            grad.into_iter().for_each(|wide| m.free_wide(wide));
        }
        self.memory.into_iter().for_each(|memory| memory.free(m));
    }

    /// What an encoder made; nothing where the machine has kept keys and values of it.
    pub(super) fn memory(&self) -> Option<&Memory<M>> {
        self.memory.as_ref()
    }

    /// Adds the gradient (n, d) of what an encoder made.
    pub(super) fn memory_back(&mut self, m: &mut M, grad: M::Wide) -> Result<()> {
        let Some(memory) = &mut self.memory else { unreachable!("a way back goes over whole texts") };
        match &mut memory.grad {
            Some(sum) => m.add(sum, grad)?,
            None => memory.grad = Some(grad),
        }
        Ok(())
    }

    /// What an encoder made, with what came back to it.
    pub(super) fn take_memory(&mut self) -> Option<Memory<M>> {
        self.memory.take()
    }

    /// Keeps keys and values of a block; those of an earlier run of it are let go.
    pub(super) fn lend(&mut self, m: &mut M, layer: usize, keys_values: [M::Act; 2]) {
        match self.lent.iter_mut().find(|lent| lent.layer == layer) {
            Some(lent) => std::mem::replace(&mut lent.keys_values, keys_values).into_iter().for_each(|act| m.free(act)),
            None => self.lent.push(Lent { layer, keys_values, grads: None }),
        }
    }

    /// Keys and values that block `layer` lends.
    pub(super) fn lent(&self, layer: usize) -> [&M::Act; 2] {
        let found = self.lent.iter().find(|lent| lent.layer == layer);
        let [keys, values] = &found.unwrap_or_else(|| unreachable!("an earlier block lends them")).keys_values;
        [keys, values]
    }

    /// Adds what a block that reads them gives back to `layer`'s.
    pub(super) fn give_back(&mut self, m: &mut M, layer: usize, grads: [M::Wide; 2]) -> Result<()> {
        let Some(lent) = self.lent.iter_mut().find(|lent| lent.layer == layer) else { return Ok(()) };
        match &mut lent.grads {
            None => lent.grads = Some(grads),
            Some(sums) => sums.iter_mut().zip(grads).try_for_each(|(sum, g)| m.add(sum, g))?,
        }
        Ok(())
    }

    /// What was given back to `layer`, once.
    pub(super) fn given_back(&mut self, layer: usize) -> Option<[M::Wide; 2]> {
        self.lent.iter_mut().find(|lent| lent.layer == layer)?.grads.take()
    }

    /// What layer `layer` is given (n, p).
    pub(super) fn input(&self, m: &mut M, given: &Given, layer: usize) -> Result<M::Act> {
        let inputs = self.inputs.as_ref().unwrap_or_else(|| unreachable!("made where layers have inputs"));
        m.layer_input(given, &inputs.all, layer)
    }

    /// Adds the gradient (n, p) of what a layer was given.
    pub(super) fn input_back(&mut self, m: &mut M, given: &Given, layer: usize, grad: M::Act) -> Result<()> {
        match &mut self.inputs {
            Some(Inputs { all, wanted: true, grad: sum, .. }) => {
                if sum.is_none() {
                    *sum = Some(m.zeros_of(given, all)?);
                }
                sum.as_mut().map_or(Ok(()), |sum| m.add_layer_input(given, layer, grad, sum))
            }
            _ => {
                m.free(grad);
                Ok(())
            }
        }
    }

    /// The gradients of what projects embeddings to these inputs; adds that of the embeddings to `dx` where these are trained.
    pub(super) fn back(mut self, m: &mut M, given: &Given, model: &Model, dx: Option<&mut M::Wide>) -> Result<()> {
        if let (Some(layers), Some(Inputs { x, projected, unscaled, grad, .. })) = (&model.layer_inputs, &mut self.inputs)
            && let Some(grad) = grad.take()
        {
            let grad = m.layer_inputs_back(given, layers, projected, grad)?;
            let sites = [(&layers.projection, &grad)];
            match dx {
                None => m.gradients(given, &sites, Some(x), unscaled)?,
                Some(dx) => {
                    let d = m.project_back(given, &sites, Some(x), unscaled)?;
                    m.add(dx, d)?;
                }
            }
            m.free(grad);
        }
        self.free(m);
        Ok(())
    }
}
