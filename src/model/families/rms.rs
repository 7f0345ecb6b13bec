//! Families with root-mean-square norms: Qwen, Mistral, Phi, Granite, OLMo, SmolLM, GLM.

use super::llama::{
    ATTENTION_BIAS, FUSED_GATED, HEAD_NORMS, LLAMA, LLAMA_KEYS, TURNED, ffn, heads, kv_heads, layers, positions, vocab, width,
};
use crate::model::family::{
    AttentionNames, Bias, ConfigKeys, Factor, Family, HeadDim, HeadNorms, Missing, NormedTogether, Rotation, Scales, ScoreScale,
    Unturned, WindowedRotation, Windows,
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::From(4096, 28),
    keys: ConfigKeys {
        vocab: vocab(151_936),
        positions: positions(32_768),
        ffn: ffn(22_016),
        kv_heads: kv_heads(Missing::IsOrDerived(32)),
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    head_norms: Some(HEAD_NORMS),
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    keys: ConfigKeys {
        vocab: vocab(151_936),
        positions: positions(32_768),
        ffn: ffn(22_016),
        kv_heads: kv_heads(Missing::IsOrDerived(32)),
        head_dim: HeadDim::Key(Missing::Is(128)),
        ..LLAMA_KEYS
    },
    ..QWEN2
};

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::All(Some(4096)),
    keys: ConfigKeys {
        positions: positions(131_072),
        ffn: ffn(14_336),
        kv_heads: kv_heads(Missing::IsOrDerived(8)),
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const MINISTRAL3: Family = Family {
    model_type: "ministral3",
    class: "Ministral3ForCausalLM",
    rotation: Rotation {
        query_scale: true,
        table: Some(
            r#"{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}"#,
        ),
        ..TURNED
    },
    windows: Windows::All(None),
    keys: ConfigKeys {
        vocab: vocab(131_072),
        layers: layers(34),
        positions: positions(262_144),
        ffn: ffn(14_336),
        kv_heads: kv_heads(Missing::IsOrDerived(8)),
        head_dim: HeadDim::Key(Missing::IsOrDerived(128)),
        epsilon: ("rms_norm_eps", 1e-5),
        ..LLAMA_KEYS
    },
    ..MISTRAL
};

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    attention: AttentionNames::Fused { qkv: "self_attn.qkv_proj", o: "self_attn.o_proj", by_head: false },
    mlp: FUSED_GATED,
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    rotation: Rotation { part: Some(1.0), longrope: Some(4096), ..TURNED },
    windows: Windows::All(None),
    keys: ConfigKeys {
        vocab: vocab(32_064),
        width: width(3072),
        positions: positions(4096),
        ffn: ffn(8192),
        epsilon: ("rms_norm_eps", 1e-5),
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const GRANITE: Family = Family {
    model_type: "granite",
    class: "GraniteForCausalLM",
    scales: Scales {
        embedding: Factor::Times("embedding_multiplier", 1.0),
        residual: Factor::Times("residual_multiplier", 1.0),
        logits: Factor::Over("logits_scaling", 1.0),
        scores: ScoreScale::Times("attention_multiplier", 1.0),
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    attention_norm: None,
    head_norms: Some(HeadNorms { over: NormedTogether::Width, ..HEAD_NORMS }),
    mlp_norm: None,
    post_norms: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
    mlp_bias: Bias::Never,
    keys: ConfigKeys { vocab: vocab(50_304), epsilon: ("rms_norm_eps", 1e-5), ..LLAMA_KEYS },
    meaningless: &[],
    ..LLAMA
};

pub(super) const OLMO3: Family = Family {
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    rotation: Rotation {
        theta: 500_000.0,
        windowed: Some(WindowedRotation { newer_only: false, theta: 500_000.0, theta_key: None }),
        ..TURNED
    },
    windows: Windows::AllBut(4, 4096, None),
    ..OLMO2
};

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    rotation: Rotation { theta: 2_000_000.0, unturned: Unturned::Listed, ..TURNED },
    windows: Windows::Unturned,
    keys: ConfigKeys {
        vocab: vocab(128_256),
        width: width(2048),
        layers: layers(36),
        heads: heads(16),
        kv_heads: kv_heads(Missing::IsOrDerived(4)),
        positions: positions(32_768),
        tied: true,
        ..LLAMA_KEYS
    },
    meaningless: &["max_window_layers"],
    ..LLAMA
};

pub(super) const GLM4: Family = Family {
    model_type: "glm4",
    class: "Glm4ForCausalLM",
    post_norms: Some(["post_self_attn_layernorm", "post_mlp_layernorm"]),
    mlp: FUSED_GATED,
    qkv_bias: Bias::Config("attention_bias", true),
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    rotation: Rotation { part: Some(0.5), interleaved: true, ..TURNED },
    keys: ConfigKeys {
        vocab: vocab(151_552),
        layers: layers(40),
        kv_heads: kv_heads(Missing::Is(2)),
        positions: positions(131_072),
        ffn: ffn(13_696),
        head_dim: HeadDim::Key(Missing::Is(128)),
        epsilon: ("rms_norm_eps", 1.5625e-7),
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};
