//! Qwen 3.5, whose layers are gated delta rules but for a few of gated attention.

use super::llama::{ATTENTION_BIAS, LLAMA_KEYS, TURNED, ffn, heads, kv_heads, layers, positions, vocab};
use super::rms::QWEN3;
use crate::model::family::{ConfigKeys, Count, DeltaNames, Family, HeadDim, Missing, NormKind, Rotation, Windows};

pub(super) const QWEN3_5: Family = Family {
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    norm: NormKind::RmsLessOne,
    qkv_bias: ATTENTION_BIAS,
    output_bias: ATTENTION_BIAS,
    rotation: Rotation { part: Some(0.25), ..TURNED },
    windows: Windows::Never,
    delta: Some(DeltaNames {
        inner: ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_a", "linear_attn.in_proj_b"],
        output: "linear_attn.out_proj",
        conv: "linear_attn.conv1d.weight",
        a_log: "linear_attn.A_log",
        dt_bias: "linear_attn.dt_bias",
        norm: "linear_attn.norm.weight",
        key_heads: Count(&["linear_num_key_heads"], Missing::Is(16)),
        value_heads: Count(&["linear_num_value_heads"], Missing::Is(32)),
        key_dim: Count(&["linear_key_head_dim"], Missing::Is(128)),
        value_dim: Count(&["linear_value_head_dim"], Missing::Is(128)),
        kernel: Count(&["linear_conv_kernel_dim"], Missing::Is(4)),
        all_but: ("full_attention_interval", 4),
    }),
    gated_attention: true,
    keys: ConfigKeys {
        vocab: vocab(248_320),
        heads: heads(16),
        kv_heads: kv_heads(Missing::Is(4)),
        layers: layers(32),
        positions: positions(32_768),
        ffn: ffn(12_288),
        head_dim: HeadDim::Key(Missing::Is(256)),
        ..LLAMA_KEYS
    },
    // A text's positions are the same along each of the three axes; `mtp.*` is carried along.
    meaningless: &[
        "mrope_section",
        "mrope_interleaved",
        "attn_output_gate",
        "mamba_ssm_dtype",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
    ],
    ..QWEN3
};
