//! Llama, which the others are stated by their differences from, and the parts that they share.

use crate::model::family::{
    AttentionNames, Bias, ConfigKeys, Count, Factor, Family, HeadDim, HeadNorms, Missing, MlpNames, NormKind, NormedTogether,
    Parallel, Rotation, Scales, ScoreScale, Shapes, Unturned, Windows,
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers",
    attention_norm: Some("input_layernorm"),
    attention: SPLIT,
    head_norms: None,
    mlp_norm: Some("post_attention_layernorm"),
    post_norms: None,
    mlp: GATED,
    experts: None,
    encoder: None,
    parallel: Parallel::Never,
    final_norm: "model.norm",
    norm: NormKind::Rms,
    conv1d: false,
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    mlp_bias: Bias::Config("mlp_bias", false),
    scales: UNSCALED,
    rotation: TURNED,
    windows: Windows::Never,
    shapes: Shapes::One,
    delta: None,
    gated_attention: false,
    sharing: None,
    sinks: None,
    layer_inputs: None,
    layer_scale: None,
    keys: LLAMA_KEYS,
    meaningless: &["pretraining_tp"],
};

pub(super) const UNSCALED: Scales =
    Scales { embedding: Factor::One, residual: Factor::One, logits: Factor::One, scores: ScoreScale::HeadDim };

pub(super) const TURNED: Rotation = Rotation {
    theta_key: "rope_theta",
    part_key: "partial_rotary_factor",
    theta: 10_000.0,
    part: None,
    interleaved: false,
    windowed: None,
    unturned: Unturned::None,
    query_scale: false,
    longrope: None,
    table: None,
};

pub(super) const LLAMA_KEYS: ConfigKeys = ConfigKeys {
    vocab: Count(&["vocab_size"], Missing::Is(32_000)),
    width: Count(&["hidden_size"], Missing::Is(4096)),
    layers: Count(&["num_hidden_layers"], Missing::Is(32)),
    heads: Count(&["num_attention_heads"], Missing::Is(32)),
    positions: Count(&["max_position_embeddings"], Missing::Is(2048)),
    ffn: Count(&["intermediate_size"], Missing::Is(11_008)),
    kv_heads: Some(Count(&["num_key_value_heads"], Missing::Derived)),
    head_dim: HeadDim::Key(Missing::Derived),
    caps: None,
    epsilon: ("rms_norm_eps", 1e-6),
    activation: ("hidden_act", "silu"),
    gelu_is_tanh: false,
    clamped: None,
    tied: false,
};

pub(super) const SPLIT: AttentionNames =
    AttentionNames::Split { q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj", o: "self_attn.o_proj" };

pub(super) const GATED: MlpNames = MlpNames::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

pub(super) const FUSED_GATED: MlpNames = MlpNames::GatedFused { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" };

pub(super) const HEAD_NORMS: HeadNorms =
    HeadNorms { q: "self_attn.q_norm", k: "self_attn.k_norm", over: NormedTogether::Head, values: false, key: None };

pub(super) const ATTENTION_BIAS: Bias = Bias::Config("attention_bias", false);

pub(super) const ATTENTION_BIASED: Bias = Bias::Config("attention_bias", true);

pub(super) const fn vocab(n: usize) -> Count {
    Count(&["vocab_size"], Missing::Is(n))
}

pub(super) const fn width(n: usize) -> Count {
    Count(&["hidden_size"], Missing::Is(n))
}

pub(super) const fn layers(n: usize) -> Count {
    Count(&["num_hidden_layers"], Missing::Is(n))
}

pub(super) const fn heads(n: usize) -> Count {
    Count(&["num_attention_heads"], Missing::Is(n))
}

pub(super) const fn kv_heads(missing: Missing) -> Option<Count> {
    Some(Count(&["num_key_value_heads"], missing))
}

pub(super) const fn positions(n: usize) -> Count {
    Count(&["max_position_embeddings"], Missing::Is(n))
}

pub(super) const fn ffn(n: usize) -> Count {
    Count(&["intermediate_size"], Missing::Is(n))
}
