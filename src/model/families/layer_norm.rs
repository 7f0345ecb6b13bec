//! Families with layer norms: StarCoder, StableLM, Cohere, NeoX, GPT-2.

use super::llama::{HEAD_NORMS, LLAMA, LLAMA_KEYS, TURNED, UNSCALED, ffn, heads, kv_heads, layers, positions, vocab, width};
use crate::model::family::{
    AttentionNames, Bias, ConfigKeys, Count, Factor, Family, HeadDim, HeadNorms, Missing, MlpNames, NormKind, NormedTogether,
    Parallel, Rotation, Scales, ScoreScale, Unturned, Windows,
};

pub(super) const STARCODER2: Family = Family {
    model_type: "starcoder2",
    class: "Starcoder2ForCausalLM",
    mlp: MlpNames::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
    norm: NormKind::Layer,
    qkv_bias: Bias::Config("use_bias", true),
    output_bias: Bias::Config("use_bias", true),
    mlp_bias: Bias::Config("use_bias", true),
    windows: Windows::All(None),
    keys: ConfigKeys {
        vocab: vocab(49_152),
        width: width(3072),
        layers: layers(30),
        heads: heads(24),
        kv_heads: kv_heads(Missing::Is(2)),
        positions: positions(4096),
        ffn: ffn(12_288),
        epsilon: ("norm_epsilon", 1e-5),
        activation: ("hidden_act", "gelu_pytorch_tanh"),
        tied: true,
        ..LLAMA_KEYS
    },
    // Records of the first files: the class has one norm and one feed-forward.
    meaningless: &["norm_type", "mlp_type"],
    ..LLAMA
};

pub(super) const STABLELM: Family = Family {
    model_type: "stablelm",
    class: "StableLmForCausalLM",
    head_norms: Some(HeadNorms {
        q: "self_attn.q_layernorm",
        k: "self_attn.k_layernorm",
        over: NormedTogether::EachHeadApart,
        values: false,
        key: Some("qk_layernorm"),
    }),
    parallel: Parallel::OneNormIf("use_parallel_residual", false),
    norm: NormKind::Layer,
    qkv_bias: Bias::Config("use_qkv_bias", false),
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    rotation: Rotation { part: Some(0.25), ..TURNED },
    keys: ConfigKeys {
        vocab: vocab(50_304),
        width: width(2560),
        kv_heads: kv_heads(Missing::Is(32)),
        positions: positions(4096),
        ffn: ffn(6912),
        head_dim: HeadDim::Derived,
        epsilon: ("layer_norm_eps", 1e-5),
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const COHERE: Family = Family {
    model_type: "cohere",
    class: "CohereForCausalLM",
    head_norms: Some(HeadNorms { over: NormedTogether::EachHead, key: Some("use_qk_norm"), ..HEAD_NORMS }),
    parallel: Parallel::OneNorm,
    norm: NormKind::LayerUnbiased,
    mlp_bias: Bias::Never,
    scales: Scales { logits: Factor::Times("logit_scale", 0.0625), ..UNSCALED },
    rotation: Rotation { theta: 500_000.0, interleaved: true, ..TURNED },
    keys: ConfigKeys {
        vocab: vocab(256_000),
        width: width(8192),
        layers: layers(40),
        heads: heads(64),
        positions: positions(8192),
        ffn: ffn(22_528),
        epsilon: ("layer_norm_eps", 1e-5),
        tied: true,
        ..LLAMA_KEYS
    },
    meaningless: &[],
    ..LLAMA
};

pub(super) const COHERE2: Family = Family {
    model_type: "cohere2",
    class: "Cohere2ForCausalLM",
    head_norms: None,
    rotation: Rotation { interleaved: true, unturned: Unturned::Full, ..TURNED },
    windows: Windows::AllBut(4, 4096, Some("sliding_window_pattern")),
    keys: ConfigKeys { head_dim: HeadDim::Derived, ..COHERE.keys },
    meaningless: &[
        "cache_implementation",
        "order_of_interleaved_layers",
        "position_embedding_type",
        "use_embedding_sharing",
        "use_gated_activation",
        "use_parallel_block",
        "use_parallel_embedding",
    ],
    ..COHERE
};

pub(super) const GPT_NEOX: Family = Family {
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    embedding: "gpt_neox.embed_in",
    layers: "gpt_neox.layers",
    attention: AttentionNames::Fused { qkv: "attention.query_key_value", o: "attention.dense", by_head: true },
    mlp: MlpNames::Plain { up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" },
    parallel: Parallel::TwoNormsIf("use_parallel_residual", true),
    final_norm: "gpt_neox.final_layer_norm",
    norm: NormKind::Layer,
    qkv_bias: Bias::Config("attention_bias", true),
    output_bias: Bias::Config("attention_bias", true),
    mlp_bias: Bias::Always,
    rotation: Rotation { theta_key: "rotary_emb_base", part_key: "rotary_pct", part: Some(0.25), ..TURNED },
    keys: ConfigKeys {
        vocab: vocab(50_432),
        width: width(6144),
        layers: layers(44),
        heads: heads(64),
        kv_heads: None,
        positions: positions(2048),
        ffn: ffn(24_576),
        head_dim: HeadDim::Derived,
        epsilon: ("layer_norm_eps", 1e-5),
        activation: ("hidden_act", "gelu"),
        ..LLAMA_KEYS
    },
    meaningless: &["classifier_dropout"],
    ..LLAMA
};

/// The class maps the common names onto its own (`attribute_map`), so they win where both are there.
pub(super) const GPT2: Family = Family {
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    embedding: "transformer.wte",
    positions: Some("transformer.wpe"),
    layers: "transformer.h",
    attention_norm: Some("ln_1"),
    attention: AttentionNames::Fused { qkv: "attn.c_attn", o: "attn.c_proj", by_head: false },
    mlp_norm: Some("ln_2"),
    mlp: MlpNames::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
    final_norm: "transformer.ln_f",
    norm: NormKind::Layer,
    conv1d: true,
    qkv_bias: Bias::Always,
    output_bias: Bias::Always,
    mlp_bias: Bias::Always,
    scales: Scales { scores: ScoreScale::Gpt2, ..UNSCALED },
    keys: ConfigKeys {
        vocab: vocab(50_257),
        width: Count(&["hidden_size", "n_embd"], Missing::Is(768)),
        layers: Count(&["num_hidden_layers", "n_layer"], Missing::Is(12)),
        heads: Count(&["num_attention_heads", "n_head"], Missing::Is(12)),
        positions: Count(&["max_position_embeddings", "n_positions"], Missing::Is(1024)),
        ffn: Count(&["n_inner"], Missing::Derived),
        kv_heads: None,
        head_dim: HeadDim::Derived,
        epsilon: ("layer_norm_epsilon", 1e-5),
        activation: ("activation_function", "gelu_new"),
        tied: true,
        ..LLAMA_KEYS
    },
    meaningless: &["n_ctx", "reorder_and_upcast_attn"],
    ..LLAMA
};
