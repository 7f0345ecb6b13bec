//! T5: an encoder and a decoder.

use super::llama::{LLAMA, LLAMA_KEYS, UNSCALED, vocab};
use crate::model::family::{
    AttentionNames, Bias, ConfigKeys, Count, EncoderNames, Family, HeadDim, Missing, MlpNames, Scales, ScoreScale,
};

/// Tokens that a text may have: distances beyond the last bucket are alike, so that nothing in the model bounds them.
const POSITIONS: usize = 1 << 20;

/// The class maps the common names onto its own (`attribute_map`), so they win where both are there.
pub(super) const T5: Family = Family {
    model_type: "t5",
    class: "T5ForConditionalGeneration",
    embedding: "shared",
    layers: "decoder.block",
    attention_norm: Some("layer.0.layer_norm"),
    attention: AttentionNames::Split {
        q: "layer.0.SelfAttention.q",
        k: "layer.0.SelfAttention.k",
        v: "layer.0.SelfAttention.v",
        o: "layer.0.SelfAttention.o",
    },
    mlp_norm: Some("layer.2.layer_norm"),
    mlp: MlpNames::Gated {
        gate: "layer.2.DenseReluDense.wi_0",
        up: "layer.2.DenseReluDense.wi_1",
        down: "layer.2.DenseReluDense.wo",
    },
    encoder: Some(EncoderNames {
        layers: "encoder.block",
        final_norm: "encoder.final_layer_norm",
        mlp_norm: "layer.1.layer_norm",
        mlp: [
            MlpNames::Gated {
                gate: "layer.1.DenseReluDense.wi_0",
                up: "layer.1.DenseReluDense.wi_1",
                down: "layer.1.DenseReluDense.wo",
            },
            MlpNames::Plain { up: "layer.1.DenseReluDense.wi", down: "layer.1.DenseReluDense.wo" },
        ],
        plain_mlp: MlpNames::Plain { up: "layer.2.DenseReluDense.wi", down: "layer.2.DenseReluDense.wo" },
        cross_norm: "layer.1.layer_norm",
        cross: AttentionNames::Split {
            q: "layer.1.EncDecAttention.q",
            k: "layer.1.EncDecAttention.k",
            v: "layer.1.EncDecAttention.v",
            o: "layer.1.EncDecAttention.o",
        },
        distances: "layer.0.SelfAttention.relative_attention_bias",
        copies: &["encoder.embed_tokens", "decoder.embed_tokens"],
        unread: "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        decoder_layers: "num_decoder_layers",
    }),
    final_norm: "decoder.final_layer_norm",
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    scales: Scales { scores: ScoreScale::One, ..UNSCALED },
    keys: ConfigKeys {
        vocab: vocab(32_128),
        width: Count(&["hidden_size", "d_model"], Missing::Is(512)),
        layers: Count(&["num_hidden_layers", "num_layers"], Missing::Is(6)),
        heads: Count(&["num_attention_heads", "num_heads"], Missing::Is(8)),
        positions: Count(&[], Missing::Is(POSITIONS)),
        ffn: Count(&["d_ff"], Missing::Is(2048)),
        kv_heads: None,
        head_dim: HeadDim::Keys(&Count(&["head_dim", "d_kv"], Missing::Is(64))),
        epsilon: ("layer_norm_epsilon", 1e-6),
        activation: ("feed_forward_proj", "relu"),
        tied: true,
        ..LLAMA_KEYS
    },
    // How long its own texts were, dropout of classifiers and of its own training, and whether a call returned keys and values.
    meaningless: &["n_positions", "classifier_dropout", "dropout_rate", "output_past"],
    ..LLAMA
};
