//! The families of models that the one decoder knows: a row of names and choices each, not a copy of the code.

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
    pub mlp: MlpNames,
    pub final_norm: &'static str,
    pub norm: NormKind,
    /// Weights of the blocks' linear layers are `[inputs, outputs]`.
    pub conv1d: bool,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub mlp_bias: Bias,
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
    /// `down(silu(gate(x)) · up(x))`.
    Gated { gate: &'static str, up: &'static str, down: &'static str },
    /// `down(gelu(up(x)))`.
    Plain { up: &'static str, down: &'static str },
}

/// Which norm a family uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    Rms,
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
    mlp: GATED,
    final_norm: "model.norm",
    norm: NormKind::Rms,
    conv1d: false,
    qkv_bias: Bias::Config("attention_bias"),
    output_bias: Bias::Config("attention_bias"),
    mlp_bias: Bias::Config("mlp_bias"),
};

/// Every family, in the order they are listed to a user.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family { model_type: "qwen2", qkv_bias: Bias::Always, output_bias: Bias::Never, mlp_bias: Bias::Never, ..LLAMA },
    Family {
        model_type: "gpt2",
        embedding: "transformer.wte",
        positions: Some("transformer.wpe"),
        layers: "transformer.h",
        attention_norm: "ln_1",
        attention: AttentionNames::Fused { qkv: "attn.c_attn", o: "attn.c_proj" },
        mlp_norm: "ln_2",
        mlp: MlpNames::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
        final_norm: "transformer.ln_f",
        norm: NormKind::Layer,
        conv1d: true,
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
    },
];
