//! The families: a row each, stated by how it differs from llama. Defaults are those of transformers' config classes (5.24,
//! `models/*/configuration_*.py`), structure that of its models (`modeling_*.py`).
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `llama` | the row that the others differ from |
//! | 1 | `rms`, `gemma`, `layer_norm`, `t5` | the others; with an encoder |
//! | 2 | `experts`, `qwen3_5` | those with a choice of feed-forwards; with delta rules |
//! | 3 | `gemma4` | whose layers differ |

mod experts;
mod gemma;
mod gemma4;
mod layer_norm;
mod llama;
mod qwen3_5;
mod rms;
mod t5;

use super::family::Family;
use experts::{GPT_OSS, MIXTRAL, QWEN3_MOE};
use gemma::{GEMMA, GEMMA2, GEMMA3};
use gemma4::GEMMA4;
use layer_norm::{COHERE, COHERE2, GPT_NEOX, GPT2, STABLELM, STARCODER2};
use llama::LLAMA;
use qwen3_5::QWEN3_5;
use rms::{GLM4, GRANITE, MINISTRAL3, MISTRAL, OLMO2, OLMO3, PHI3, QWEN2, QWEN3, SMOLLM3};
use t5::T5;

/// Every family, in the order they are listed to a user.
pub const FAMILIES: &[Family] = &[
    LLAMA, QWEN2, QWEN3, QWEN3_MOE, QWEN3_5, MISTRAL, MINISTRAL3, MIXTRAL, GPT_OSS, GEMMA, GEMMA2, GEMMA3, GEMMA4, PHI3, GRANITE,
    OLMO2, OLMO3, SMOLLM3, GLM4, STARCODER2, STABLELM, COHERE, COHERE2, GPT_NEOX, GPT2, T5,
];
