//! The families of models that the one pass knows: a row of names and choices each, not a copy of the code.

/// A family's names (as in its Hugging Face directory) and structural choices.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    pub embedding: &'static str,
    /// Learned position embedding.
    pub positions: Option<&'static str>,
    /// Prefix of the blocks: `{layers}.{i}.{name}`.
    pub layers: &'static str,
    pub attention_norm: &'static str,
    pub attention: AttentionNames,
    pub mlp_norm: &'static str,
    /// Norms of what attention and the feed-forward give, before it is added.
    pub post_norms: Option<[&'static str; 2]>,
    pub mlp: MlpNames,
    pub final_norm: &'static str,
    pub norm: NormKind,
    /// Embeddings are multiplied with the root of the width.
    pub scaled_embedding: bool,
    /// Weights of the blocks' linear layers are `[inputs, outputs]`.
    pub conv1d: bool,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub mlp_bias: Bias,
    pub keys: ConfigKeys,
}

/// Names of a family's sizes in `config.json` and what a missing one means: the defaults of transformers' config class.
#[derive(Debug)]
pub struct ConfigKeys {
    pub vocab: Count,
    pub width: Count,
    pub layers: Count,
    pub heads: Count,
    pub positions: Count,
    pub ffn: Count,
    /// Heads that share keys and values, and their own size, are settings; `None`: as many as there are heads, always.
    pub kv_heads: Option<Count>,
    pub head_dim: Missing,
    /// Caps and windows are settings, with these values where the file has none.
    pub capped: Option<Capped>,
    /// A name and a default.
    pub epsilon: (&'static str, f64),
    pub activation: (&'static str, &'static str),
    pub tied: bool,
}

/// How Gemma 2 makes scores and logits.
#[derive(Debug)]
pub struct Capped {
    /// Its root is what scores are divided by.
    pub query_scalar: f64,
    pub score_cap: f64,
    pub final_cap: f64,
    /// Of every other block from the first where `layer_types` says nothing.
    pub window: usize,
}

/// A size in `config.json`: its names, the one that wins first, and what it is where none is there.
#[derive(Debug)]
pub struct Count(pub &'static [&'static str], pub Missing);

/// What a missing size is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Is(usize),
    /// Follows from another size; `null` says so too.
    Derived,
    /// The number; `null` is derived.
    IsOrDerived(usize),
}

/// Attention projections, separate or fused.
#[derive(Debug)]
pub enum AttentionNames {
    Split { q: &'static str, k: &'static str, v: &'static str, o: &'static str },
    Fused { qkv: &'static str, o: &'static str },
}

/// Feed-forward projections.
#[derive(Debug)]
pub enum MlpNames {
    /// `down(activation(gate(x)) · up(x))`.
    Gated { gate: &'static str, up: &'static str, down: &'static str },
    /// `down(activation(up(x)))`.
    Plain { up: &'static str, down: &'static str },
}

/// Which norm a family uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    Rms,
    /// Weights are stored less one.
    RmsLessOne,
    Layer,
}

/// Whether a linear layer has a bias: fixed by the family or by a key of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Always,
    Never,
    Config(&'static str),
}

/// The output head's module path; one name in all families.
pub const HEAD: &str = "lm_head";

const SPLIT: AttentionNames =
    AttentionNames::Split { q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj", o: "self_attn.o_proj" };
const GATED: MlpNames = MlpNames::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

const LLAMA: Family = Family {
    model_type: "llama",
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers",
    attention_norm: "input_layernorm",
    attention: SPLIT,
    mlp_norm: "post_attention_layernorm",
    post_norms: None,
    mlp: GATED,
    final_norm: "model.norm",
    norm: NormKind::Rms,
    scaled_embedding: false,
    conv1d: false,
    qkv_bias: Bias::Config("attention_bias"),
    output_bias: Bias::Config("attention_bias"),
    mlp_bias: Bias::Config("mlp_bias"),
    keys: LLAMA_KEYS,
};

const LLAMA_KEYS: ConfigKeys = ConfigKeys {
    vocab: Count(&["vocab_size"], Missing::Is(32_000)),
    width: Count(&["hidden_size"], Missing::Is(4096)),
    layers: Count(&["num_hidden_layers"], Missing::Is(32)),
    heads: Count(&["num_attention_heads"], Missing::Is(32)),
    positions: Count(&["max_position_embeddings"], Missing::Is(2048)),
    ffn: Count(&["intermediate_size"], Missing::Is(11_008)),
    kv_heads: Some(Count(&["num_key_value_heads"], Missing::Derived)),
    head_dim: Missing::Derived,
    capped: None,
    epsilon: ("rms_norm_eps", 1e-6),
    activation: ("hidden_act", "silu"),
    tied: false,
};

const QWEN2_KEYS: ConfigKeys = ConfigKeys {
    vocab: Count(&["vocab_size"], Missing::Is(151_936)),
    positions: Count(&["max_position_embeddings"], Missing::Is(32_768)),
    ffn: Count(&["intermediate_size"], Missing::Is(22_016)),
    kv_heads: Some(Count(&["num_key_value_heads"], Missing::IsOrDerived(32))),
    ..LLAMA_KEYS
};

const GEMMA2_KEYS: ConfigKeys = ConfigKeys {
    vocab: Count(&["vocab_size"], Missing::Is(256_000)),
    width: Count(&["hidden_size"], Missing::Is(2304)),
    layers: Count(&["num_hidden_layers"], Missing::Is(26)),
    heads: Count(&["num_attention_heads"], Missing::Is(8)),
    positions: Count(&["max_position_embeddings"], Missing::Is(8192)),
    ffn: Count(&["intermediate_size"], Missing::Is(9216)),
    kv_heads: Some(Count(&["num_key_value_heads"], Missing::Is(4))),
    head_dim: Missing::Is(256),
    capped: Some(Capped { query_scalar: 256.0, score_cap: 50.0, final_cap: 30.0, window: 4096 }),
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    tied: true,
    ..LLAMA_KEYS
};

/// The class maps the common names onto its own (`attribute_map`), so they win where both are there.
const GPT2_KEYS: ConfigKeys = ConfigKeys {
    vocab: Count(&["vocab_size"], Missing::Is(50_257)),
    width: Count(&["hidden_size", "n_embd"], Missing::Is(768)),
    layers: Count(&["num_hidden_layers", "n_layer"], Missing::Is(12)),
    heads: Count(&["num_attention_heads", "n_head"], Missing::Is(12)),
    positions: Count(&["max_position_embeddings", "n_positions"], Missing::Is(1024)),
    ffn: Count(&["n_inner"], Missing::Derived),
    kv_heads: None,
    head_dim: Missing::Derived,
    capped: None,
    epsilon: ("layer_norm_epsilon", 1e-5),
    activation: ("activation_function", "gelu_new"),
    tied: true,
};

/// Every family, in the order they are listed to a user.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_type: "qwen2",
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        keys: QWEN2_KEYS,
        ..LLAMA
    },
    Family {
        model_type: "gemma2",
        mlp_norm: "pre_feedforward_layernorm",
        post_norms: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
        norm: NormKind::RmsLessOne,
        scaled_embedding: true,
        mlp_bias: Bias::Never,
        keys: GEMMA2_KEYS,
        ..LLAMA
    },
    Family {
        model_type: "gpt2",
        embedding: "transformer.wte",
        positions: Some("transformer.wpe"),
        layers: "transformer.h",
        attention_norm: "ln_1",
        attention: AttentionNames::Fused { qkv: "attn.c_attn", o: "attn.c_proj" },
        mlp_norm: "ln_2",
        post_norms: None,
        mlp: MlpNames::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
        final_norm: "transformer.ln_f",
        norm: NormKind::Layer,
        scaled_embedding: false,
        conv1d: true,
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
        keys: GPT2_KEYS,
    },
];
