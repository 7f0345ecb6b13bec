//! Keys and values of the tokens already seen, one pair of buffers a layer.

use candle_core::{DType, Device, Tensor};

use super::config::Config;
use crate::error::{Error, Result};
use crate::kernels::tensors::delta_rule::DeltaState;

/// A key/value cache of fixed capacity for one text.
#[derive(Debug)]
pub struct KvCache {
    /// (k, v) per layer: `(1, capacity, kv_heads, head_dim)`, in the dtype of activations.
    layers: Vec<(Tensor, Tensor)>,
    /// Of layers that keep a state instead.
    states: Vec<Option<DeltaState>>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// # Errors
    /// When the buffers cannot be allocated.
    pub fn new(config: &Config, dtype: DType, capacity: usize, device: &Device) -> Result<KvCache> {
        let tokens = |layer: usize| if config.keeps_keys(layer) { capacity } else { 0 };
        let buffer = |layer: usize| {
            let shape = config.shapes[layer];
            Tensor::zeros((1, tokens(layer), shape.kv_heads, shape.head_dim), dtype, device)
        };
        let layers = (0..config.shapes.len()).map(|layer| Ok((buffer(layer)?, buffer(layer)?))).collect::<Result<_>>()?;
        let states = config.delta_layers().map(|sizes| sizes.map(|sizes| DeltaState::zero(sizes, device)).transpose());
        Ok(KvCache { layers, states: states.collect::<Result<_>>()?, len: 0, capacity })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `k`, `v` `(1, t, kv_heads, head_dim)` behind what is held and returns all of it. The length moves on with
    /// [`KvCache::advance`], once every layer has appended.
    pub(super) fn append(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let t = k.dim(1)?;
        if self.len + t > self.capacity {
            return Err(Error::usage(
                "context",
                format!("{} tokens do not fit in a cache of {}", self.len + t, self.capacity),
                "shorten the prompt or the answer",
            ));
        }
        let (ks, vs) = &self.layers[layer];
        ks.slice_set(&k.contiguous()?, 1, self.len)?;
        vs.slice_set(&v.contiguous()?, 1, self.len)?;
        self.held(layer, t)
    }

    /// What a layer holds with the `t` tokens that were just appended.
    pub(super) fn held(&self, layer: usize, t: usize) -> Result<(Tensor, Tensor)> {
        let (ks, vs) = &self.layers[layer];
        Ok((ks.narrow(1, 0, self.len + t)?, vs.narrow(1, 0, self.len + t)?))
    }

    /// The state of a layer that keeps one.
    pub(super) fn state(&mut self, layer: usize) -> &mut DeltaState {
        self.states[layer].as_mut().unwrap_or_else(|| unreachable!("a layer with a state"))
    }

    pub(super) fn advance(&mut self, t: usize) {
        self.len += t;
    }
}
