//! Families whose feed-forward is a choice of experts: Mixtral, Qwen 3 MoE.

use super::llama::{LLAMA_KEYS, TURNED, kv_heads, layers, positions, vocab, width};
use super::rms::{MISTRAL, QWEN3};
use crate::model::family::{ConfigKeys, Count, ExpertNames, Family, FusedNames, HeadDim, Missing, Rotation, Windows};

/// Where both names of the number of experts are there, the classes take the one that is not their field's.
pub(super) const MIXTRAL: Family = Family {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        each: "block_sparse_moe.experts",
        gate: "w1",
        up: "w3",
        down: "w2",
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
    FusedNames { router: "mlp.gate", experts: "mlp.experts", parameters }
}

/// What training from nothing adds to the loss is not trained here.
const LOSSES: &[&str] = &["output_router_logits", "router_aux_loss_coef", "max_window_layers"];

pub(super) const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    experts: Some(ExpertNames {
        router: "mlp.gate",
        each: "mlp.experts",
        gate: "gate_proj",
        up: "up_proj",
        down: "down_proj",
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
