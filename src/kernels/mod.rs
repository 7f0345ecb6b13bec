//! CPU kernels with their backward passes, and the portable (any-device, differentiable) twin of each.
//!
//! Reading order: [`weight`] (a frozen matrix where it lies), [`blocks`] (GGUF block formats), then the operations.
//! Refuses to know: model families, names of tensors, adapters.

pub mod weight;
pub mod blocks;
