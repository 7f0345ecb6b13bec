//! Keys and values of the tokens already seen, one pair of buffers a layer.

use candle_core::{DType, Device, Tensor};

use super::config::Config;
use crate::error::{Error, Result};

/// A key/value cache of fixed capacity for `rows` rows.
#[derive(Debug)]
pub struct KvCache {
    /// (k, v) per layer: `(rows, capacity, kv_heads, head_dim)`, f32.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// # Errors
    /// When the buffers cannot be allocated.
    pub fn new(config: &Config, rows: usize, capacity: usize, device: &Device) -> Result<KvCache> {
        let shape = (rows, capacity, config.kv_heads, config.head_dim);
        let buffer = || Tensor::zeros(shape, DType::F32, device);
        let layers = (0..config.layers).map(|_| Ok((buffer()?, buffer()?))).collect::<Result<_>>()?;
        Ok(KvCache { layers, len: 0, capacity })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Keeps `rows` only, in that order; what they hold is copied, not the whole buffers.
    ///
    /// # Errors
    /// When there is no such row or memory for the new buffers.
    pub fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        let keep = |old: &Tensor| -> Result<Tensor> {
            let (_, capacity, g, e) = old.dims4()?;
            let new = Tensor::zeros((rows.len(), capacity, g, e), DType::F32, old.device())?;
            for (to, from) in rows.iter().enumerate() {
                let held = old.narrow(0, *from, 1)?.narrow(1, 0, self.len)?.contiguous()?; // (1, len, g, e)
                new.narrow(0, to, 1)?.slice_set(&held, 1, 0)?;
            }
            Ok(new)
        };
        self.layers = self.layers.iter().map(|(k, v)| Ok((keep(k)?, keep(v)?))).collect::<Result<_>>()?;
        Ok(())
    }

    /// Puts `k`, `v` `(rows, t, kv_heads, head_dim)` behind what is held and returns all of it. The length moves on with
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
        Ok((ks.narrow(1, 0, self.len + t)?, vs.narrow(1, 0, self.len + t)?))
    }

    pub(super) fn advance(&mut self, t: usize) {
        self.len += t;
    }
}
