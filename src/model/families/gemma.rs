//! Google's Gemma.

use super::llama::{HEAD_NORMS, LLAMA, LLAMA_KEYS, TURNED, UNSCALED, ffn, heads, kv_heads, layers, positions, vocab, width};
use crate::model::family::{
    Bias, ConfigKeys, Factor, Family, HeadDim, Missing, NormKind, Rotation, Scales, ScoreScale, WindowedRotation, Windows,
};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    norm: NormKind::RmsLessOne,
    mlp_bias: Bias::Never,
    scales: Scales { embedding: Factor::RootOfWidth, ..UNSCALED },
    keys: ConfigKeys {
        vocab: vocab(256_000),
        width: width(3072),
        layers: layers(28),
        heads: heads(16),
        kv_heads: kv_heads(Missing::Is(16)),
        positions: positions(8192),
        ffn: ffn(24_576),
        head_dim: HeadDim::Key(Missing::Is(256)),
        activation: ("hidden_act", "gelu_pytorch_tanh"),
        gelu_is_tanh: true,
        tied: true,
        ..LLAMA_KEYS
    },
    // The class reads `hidden_act` alone.
    meaningless: &["hidden_activation", "cache_implementation"],
    ..LLAMA
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    mlp_norm: Some("pre_feedforward_layernorm"),
    post_norms: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
    scales: Scales { scores: ScoreScale::OverRoot("query_pre_attn_scalar", 256.0), ..GEMMA.scales },
    windows: Windows::AllBut(2, 4096, None),
    keys: ConfigKeys {
        width: width(2304),
        layers: layers(26),
        heads: heads(8),
        kv_heads: kv_heads(Missing::Is(4)),
        ffn: ffn(9216),
        caps: Some([Some(50.0), Some(30.0)]),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        gelu_is_tanh: false,
        ..GEMMA.keys
    },
    // The class reads `hidden_activation` alone.
    meaningless: &["hidden_act", "cache_implementation"],
    ..GEMMA
};

pub(super) const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    head_norms: Some(HEAD_NORMS),
    rotation: Rotation {
        theta: 1_000_000.0,
        windowed: Some(WindowedRotation { newer_only: false, theta: 10_000.0, theta_key: Some("rope_local_base_freq") }),
        ..TURNED
    },
    windows: Windows::AllBut(6, 4096, Some("sliding_window_pattern")),
    keys: ConfigKeys { vocab: vocab(262_208), positions: positions(131_072), caps: Some([None, None]), ..GEMMA2.keys },
    ..GEMMA2
};
