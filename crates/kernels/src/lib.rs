//! CPU kernels with their backward passes, on slices; and the same operations on any device.
//!
//! Nothing is taped. In tests each kernel has a twin in differentiable tensor operations.
//!
//! Reading order: [`weight`] (a frozen matrix where it lies), [`quantized`] (GGUF block formats), then the operations.
//! Refuses to know: model families, names of tensors, adapters.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `cpu`, `host`, `weight_type`, `dense`, `operands` | the level of the processor; slices of tensors over threads; element types; small f32 products; places in memory |
//! | 1 | `simd`, `quantized`, `twin_bf16` | vectors of f32; GGUF blocks as f32; instructions for bf16 in plain code |
//! | 2 | `weight`, `element`, `tile`, `tile_bf16`, `cross_entropy`, `soft_cap` | a matrix where it lies; f32 or bf16 activations; the inner loops of products; the loss and the cap of logits |
//! | 3 | `panel`, `gemm_f32`, `skinny_gemm`, `norm`, `rope`, `glu`, `dropout`, `peak` | packing for products; f32 products; products of a few rows; operations on rows; the machine's limits |
//! | 4 | `gemm_bf16`, `pair_bf16`, `attention`, `activation` | bf16 products, of frozen matrices and of low-rank pairs; attention; the function of the feed-forward |
//! | 5 | `linear`, `linear_cross_entropy_bf16`, `delta_rule` | the product with a frozen matrix, whichever way is best; head and loss in bf16; linear attention by the gated delta rule |
//! | 6 | `adapted`, `linear_cross_entropy`, `tensors` | a frozen product with its low-rank delta; head and loss in f32; all of it on any device |
//! | 7 | `engine` | what a block of the decoder is computed with, in either precision |
//! | 8 | `columns` | a factor for every output: the magnitudes of DoRA |
//! | 9 | `adapted_head` | head and loss where the head is trained |

use lorakit_base::{device, error, files, random};

mod weight_type;
pub mod quantized;
pub mod weight;
pub mod cpu;
mod gemm_f32;
#[cfg(target_arch = "x86_64")]
mod operands;
#[cfg(target_arch = "x86_64")]
mod twin_bf16;
#[cfg(target_arch = "x86_64")]
mod tile_bf16;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod gemm_bf16;
mod skinny_gemm;
pub mod linear;
mod dense;
#[cfg(target_arch = "x86_64")]
mod pair_bf16;
pub mod adapted;
pub mod simd;
pub mod host;
pub mod element;
mod tile;
pub mod norm;
pub mod rope;
pub mod attention;
pub mod glu;
pub mod activation;
pub mod delta_rule;
pub mod dropout;
pub mod cross_entropy;
pub mod soft_cap;
pub mod linear_cross_entropy;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod linear_cross_entropy_bf16;
pub mod engine;
pub mod columns;
pub mod adapted_head;
pub mod tensors;

#[cfg(test)]
mod gradient_check;
