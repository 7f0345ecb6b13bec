//! CPU kernels with their backward passes, and the portable (any-device, differentiable) twin of each.
//!
//! Reading order: [`weight`] (a frozen matrix where it lies), [`blocks`] (GGUF block formats), then the operations.
//! Refuses to know: model families, names of tensors, adapters.

use lorakit_base::{device, error, files, random};

pub mod weight;
pub mod blocks;
pub mod cpu;
mod gemm_f32;
#[cfg(target_arch = "x86_64")]
mod tile_bf16;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod gemm_bf16;
mod few_rows;
pub mod linear;
mod dense;
#[cfg(target_arch = "x86_64")]
mod pair_bf16;
pub mod adapted;
pub mod simd;
mod host;
pub mod element;
mod tile;
pub mod norm;
pub mod rope;
pub mod attention;
pub mod glu;
pub mod bias;
pub mod dropout;
pub mod cross_entropy;
pub mod head_loss;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod head_loss_bf16;
pub mod engine;

#[cfg(test)]
mod trial;
