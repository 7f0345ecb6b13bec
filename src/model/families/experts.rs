//! Families whose feed-forward is a choice of experts: Mixtral, Qwen 3 MoE, gpt-oss.

use super::llama::{ATTENTION_BIASED, LLAMA_KEYS, TURNED, heads, kv_heads, layers, positions, vocab, width};
use super::rms::{MISTRAL, QWEN3};
use crate::model::family::{
    ConfigKeys, Count, ExpertNames, ExpertWeights, Family, FusedNames, HeadDim, LinearIn, Missing, Rotation, Windows,
};

/// Where both names of the number of experts are there, the classes take the one that is not their field's.
pub(super) const MIXTRAL: Family = Family {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        weights: ExpertWeights::Each { each: "block_sparse_moe.experts", gate: "w1", up: "w3", down: "w2" },
        beside: None,
        count: Count(&["num_experts", "num_local_experts"], Missing::Is(8)),
        chosen: Count(&["num_experts_per_tok"], Missing::Is(2)),
        ffn: None,
        renormalised: None,
        sparse: false,
        fused: fused(&[("gate_up_proj", &["w1", "w3"]), ("down_proj", &["w2"])]),
    }),
    rotation: Rotation { theta: 1_000_000.0, ..TURNED },
    windows: Windows::All(None),
    keys: ConfigKeys { epsilon: ("rms_norm_eps", 1e-5), ..MISTRAL.keys },
    meaningless: LOSSES,
    ..MISTRAL
};

/// As both classes call their modules.
const fn fused(parameters: &'static [(&'static str, &'static [&'static str])]) -> FusedNames {
    FusedNames { router: "mlp.gate", router_linear: LinearIn::Older, experts: "mlp.experts", parameters }
}

/// Experts whose tensors are these parameters.
pub(super) const ONE_EACH: &[(&str, &[&str])] = &[("gate_up_proj", &["gate_up_proj"]), ("down_proj", &["down_proj"])];

/// What training from nothing adds to the loss is not trained here.
const LOSSES: &[&str] = &["output_router_logits", "router_aux_loss_coef", "max_window_layers"];

pub(super) const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    experts: Some(ExpertNames {
        router: "mlp.gate",
        weights: ExpertWeights::Each { each: "mlp.experts", gate: "gate_proj", up: "up_proj", down: "down_proj" },
        beside: None,
        count: Count(&["num_local_experts", "num_experts"], Missing::Is(128)),
        chosen: Count(&["num_experts_per_tok"], Missing::Is(8)),
        ffn: Some(Count(&["moe_intermediate_size"], Missing::Is(768))),
        renormalised: Some(("norm_topk_prob", false)),
        sparse: true,
        fused: fused(&[("gate_up_proj", &["gate_proj", "up_proj"]), ("down_proj", &["down_proj"])]),
    }),
    windows: Windows::AllIf(4096),
    keys: ConfigKeys {
        vocab: vocab(151_936),
        width: width(2048),
        layers: layers(24),
        kv_heads: kv_heads(Missing::IsOrDerived(4)),
        positions: positions(32_768),
        ffn: Count(&["intermediate_size"], Missing::Is(6144)),
        head_dim: HeadDim::Key(Missing::Derived),
        ..LLAMA_KEYS
    },
    meaningless: LOSSES,
    ..QWEN3
};

pub(super) const GPT_OSS: Family = Family {
    model_type: "gpt_oss",
    class: "GptOssForCausalLM",
    experts: Some(ExpertNames {
        router: "mlp.router",
        weights: ExpertWeights::FusedInTurn { gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj" },
        beside: None,
        count: Count(&["num_experts", "num_local_experts"], Missing::Is(128)),
        chosen: Count(&["num_experts_per_tok"], Missing::Is(4)),
        ffn: None,
        renormalised: None,
        sparse: false,
        fused: FusedNames { router: "mlp.router", router_linear: LinearIn::None, experts: "mlp.experts", parameters: ONE_EACH },
    }),
    sinks: Some("self_attn.sinks"),
    qkv_bias: ATTENTION_BIASED,
    output_bias: ATTENTION_BIASED,
    rotation: Rotation {
        theta: 150_000.0,
        table: Some(
            r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 4096}"#,
        ),
        ..TURNED
    },
    windows: Windows::AllBut(2, 128, None),
    keys: ConfigKeys {
        vocab: vocab(201_088),
        width: width(2880),
        layers: layers(36),
        heads: heads(64),
        kv_heads: kv_heads(Missing::IsOrDerived(8)),
        positions: positions(131_072),
        ffn: Count(&["intermediate_size"], Missing::Is(2880)),
        head_dim: HeadDim::Key(Missing::IsOrDerived(64)),
        epsilon: ("rms_norm_eps", 1e-5),
        clamped: Some([("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)]),
        ..LLAMA_KEYS
    },
    // The experts' gate has its own function.
    meaningless: &["hidden_act", "output_router_logits", "router_aux_loss_coef", "initial_context_length", "experts_per_token"],
    ..MISTRAL
};
