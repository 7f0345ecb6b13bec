//! Gemma 4, whose layers differ in their heads, share keys and values, and are given inputs of their own.

use super::experts::ONE_EACH;
use super::gemma::GEMMA3;
use super::llama::{ATTENTION_BIAS, HEAD_NORMS, TURNED, ffn, heads, kv_heads, layers, vocab, width};
use crate::model::family::{
    BesideExperts, ConfigKeys, Count, ExpertNames, ExpertWeights, Family, FusedNames, HeadNorms, KeySharing, LayerInputNames,
    LinearIn, Missing, NormKind, Rotation, Scales, ScoreScale, Shapes, WindowedRotation, Windows,
};

pub(super) const GEMMA4: Family = Family {
    model_type: "gemma4_text",
    class: "Gemma4ForCausalLM",
    head_norms: Some(HeadNorms { values: true, ..HEAD_NORMS }),
    experts: Some(ExpertNames {
        router: "router.proj",
        weights: ExpertWeights::Fused { gate_up: "experts.gate_up_proj", down: "experts.down_proj" },
        beside: Some(BesideExperts {
            key: "enable_moe_block",
            norms: ["post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"],
            router_scale: "router.scale",
            expert_scale: "router.per_expert_scale",
        }),
        count: Count(&["num_experts"], Missing::Derived),
        chosen: Count(&["top_k_experts"], Missing::Derived),
        ffn: Some(Count(&["moe_intermediate_size"], Missing::Derived)),
        renormalised: None,
        sparse: false,
        fused: FusedNames { router: "router.proj", router_linear: LinearIn::All, experts: "experts", parameters: ONE_EACH },
    }),
    norm: NormKind::Rms,
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    scales: Scales { scores: ScoreScale::One, ..GEMMA3.scales },
    rotation: Rotation {
        theta_key: "",
        part_key: "",
        windowed: Some(WindowedRotation { newer_only: true, theta: 10_000.0, theta_key: None }),
        table: Some(
            r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}"#,
        ),
        ..TURNED
    },
    windows: Windows::AllButAndLast(6, 512),
    shapes: Shapes::ByWindow {
        head_dim: ("global_head_dim", 512),
        kv_heads: Count(&["num_global_key_value_heads"], Missing::Derived),
    },
    sharing: Some(KeySharing { layers: "num_kv_shared_layers", wide: "use_double_wide_mlp", keys_as_values: "attention_k_eq_v" }),
    layer_inputs: Some(LayerInputNames {
        width: ("hidden_size_per_layer_input", 256),
        vocab: Count(&["vocab_size_per_layer_input"], Missing::Is(262_144)),
        embedding: "model.embed_tokens_per_layer",
        projection: "model.per_layer_model_projection",
        norm: "model.per_layer_projection_norm",
        gate: "per_layer_input_gate",
        output: "per_layer_projection",
        output_norm: "post_per_layer_input_norm",
    }),
    layer_scale: Some("layer_scalar"),
    keys: ConfigKeys {
        vocab: vocab(262_144),
        width: width(2304),
        layers: layers(30),
        heads: heads(8),
        kv_heads: kv_heads(Missing::Is(4)),
        ffn: ffn(9216),
        ..GEMMA3.keys
    },
    meaningless: &[],
    ..GEMMA3
};
