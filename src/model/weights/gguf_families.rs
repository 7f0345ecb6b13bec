//! Architectures of GGUF files, a row each: the family, and what llama.cpp has that a Hugging Face directory has not.
//!
//! Names, sizes and most choices follow from the family's own row (`families`). The rest is what llama.cpp's converter
//! writes and what its graphs compute where the file says nothing (`conversion/*.py`, `src/models/*.cpp`), measured by
//! `benches/vs_llamacpp/gguf_logits.py`. Refuses to know: keys and tensors of one file.

use crate::model::families::FAMILIES;
use crate::model::family::Family;

/// An architecture and how it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type` of its family.
    pub model_type: &'static str,
    /// Another family under the same name: the key that tells it by being above zero, and its `model_type`.
    pub other: Option<(&'static str, &'static str)>,
    /// The halves of each head of q and k are interleaved (`LlamaModel.permute`).
    pub interleaved: bool,
    /// What layers with a window see where the file has no `attention.sliding_window`.
    pub window: WindowMissing,
    /// Layers of the model whose queries are scaled by the width of a head's share, not by the size of a head.
    pub scaled_by_width: Option<usize>,
    /// Base of the rotation of layers with a window where the file has none; that of the others without.
    pub window_theta: Option<f64>,
    /// Frequency factors are tensors: `rope_factors_short.weight` and `rope_factors_long.weight`.
    pub longrope: bool,
    /// Each so-many-th layer does not turn, always.
    pub unturned: Option<usize>,
    /// llama.cpp's name of the norm before the feed-forward.
    pub mlp_norm: &'static str,
    /// Yarn's ramp begins and ends between two pairs (`truncate` is off in every published `config.json`); llama.cpp rounds both ends.
    pub yarn_exact: bool,
    /// Yarn's further keys are read; llama.cpp leaves them out of account for other architectures.
    pub yarn_keys: bool,
    /// `rope.scaling.finetuned` set to false means that nothing turns.
    pub finetuned_turns: bool,
    /// Pairs turn by positions along several axes, in turn (`rope.dimension_sections`), which are one in a text.
    pub sections: bool,
    /// The last `nextn_predict_layers` of `block_count` layers predict further tokens.
    pub ahead: bool,
}

/// What a missing window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowMissing {
    Is(usize),
    /// All layers see everything.
    Everything,
    Error,
}

const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    other: None,
    interleaved: false,
    window: WindowMissing::Error,
    scaled_by_width: None,
    window_theta: None,
    longrope: false,
    unturned: None,
    mlp_norm: "ffn_norm",
    yarn_exact: false,
    yarn_keys: false,
    finetuned_turns: false,
    sections: false,
    ahead: false,
};

/// Whether models of a `model_type` are read from GGUF.
pub fn reads(model_type: &str) -> bool {
    let other = |a: &Architecture| a.other.is_some_and(|(_, other)| other == model_type);
    // Mistral's files are of llama's architecture.
    model_type == "mistral" || ARCHITECTURES.iter().any(|a| a.model_type == model_type || other(a))
}

/// Every architecture, in the order they are listed to a user.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    // Files of Mistral are of this architecture too, and those of Mixtral; llama.cpp gives them no window.
    Architecture { name: "llama", model_type: "llama", other: Some(("expert_count", "mixtral")), interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", model_type: "qwen2", ..PLAIN },
    Architecture { name: "qwen3", model_type: "qwen3", ..PLAIN },
    Architecture { name: "qwen3moe", model_type: "qwen3_moe", ..PLAIN },
    Architecture {
        name: "qwen35",
        model_type: "qwen3_5_text",
        mlp_norm: "post_attention_norm",
        sections: true,
        ahead: true,
        ..PLAIN
    },
    Architecture {
        name: "mistral3",
        model_type: "mistral",
        other: Some(("attention.temperature_scale", "ministral3")),
        interleaved: true,
        yarn_keys: true,
        ..PLAIN
    },
    Architecture { name: "gemma", model_type: "gemma", ..PLAIN },
    Architecture { name: "gemma2", model_type: "gemma2", window: WindowMissing::Is(4096), scaled_by_width: Some(46), ..PLAIN },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        window: WindowMissing::Everything,
        scaled_by_width: Some(62),
        window_theta: Some(10_000.0),
        ..PLAIN
    },
    Architecture { name: "gemma4", model_type: "gemma4_text", window_theta: Some(10_000.0), ..PLAIN },
    Architecture { name: "gpt-oss", model_type: "gpt_oss", mlp_norm: "post_attention_norm", yarn_exact: true, ..PLAIN },
    Architecture { name: "phi3", model_type: "phi3", longrope: true, ..PLAIN },
    Architecture { name: "granite", model_type: "granite", interleaved: true, finetuned_turns: true, ..PLAIN },
    Architecture { name: "olmo2", model_type: "olmo2", other: Some(("attention.sliding_window", "olmo3")), ..PLAIN },
    Architecture { name: "smollm3", model_type: "smollm3", interleaved: true, unturned: Some(4), ..PLAIN },
    Architecture { name: "glm4", model_type: "glm4", ..PLAIN },
    Architecture { name: "starcoder2", model_type: "starcoder2", ..PLAIN },
    Architecture { name: "stablelm", model_type: "stablelm", ..PLAIN },
    Architecture { name: "command-r", model_type: "cohere", ..PLAIN },
    Architecture { name: "cohere2", model_type: "cohere2", ..PLAIN },
    Architecture { name: "gptneox", model_type: "gpt_neox", ..PLAIN },
    Architecture { name: "gpt2", model_type: "gpt2", ..PLAIN },
];

/// The family of a `model_type`.
pub(super) fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_is_there_once_and_has_its_families() {
        for (i, row) in ARCHITECTURES.iter().enumerate() {
            assert!(ARCHITECTURES[i + 1..].iter().all(|other| other.name != row.name), "{} twice", row.name);
            for model_type in [Some(row.model_type), row.other.map(|(_, model_type)| model_type)].into_iter().flatten() {
                assert!(family(model_type).is_some(), "{}: {model_type}", row.name);
            }
        }
    }
}
