//! What a base and adapters on it answer, computed in this process without a server.

use std::path::Path;

use candle_core::Device;
use lorakit::adapter::Adapter;
use lorakit::data::Tokenizer;
use lorakit::device::Compute;
use lorakit::generate::{self, Limits, Sampling};
use lorakit::model::{Model, text};

/// A base of its own.
pub(super) struct Oracle {
    pub(super) model: Model,
    pub(super) tokenizer: Tokenizer,
}

impl Oracle {
    pub(super) fn new(base: &Path) -> Oracle {
        let model = Model::open(base, Compute::F32, &Device::Cpu).unwrap();
        Oracle { model, tokenizer: text::tokenizer(base).unwrap() }
    }

    /// The likeliest answers of `tokens` tokens each, or up to the end of a turn.
    pub(super) fn answers(&self, adapter: Option<&Path>, prompts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
        self.run(adapter, prompts, tokens, &Sampling::GREEDY)
    }

    /// The likeliest answer of `tokens` tokens in which no turn ends.
    pub(super) fn unending(&self, adapter: Option<&Path>, prompt: &[u32], tokens: usize) -> Vec<u32> {
        let bias = self.tokenizer.eos_ids().iter().map(|id| (*id, -100.0)).collect();
        let sampling = Sampling { bias, ..Sampling::GREEDY };
        self.run(adapter, &[prompt.to_vec()], tokens, &sampling).remove(0)
    }

    fn run(&self, adapter: Option<&Path>, prompts: &[Vec<u32>], tokens: usize, sampling: &Sampling) -> Vec<Vec<u32>> {
        let limits = Limits { max_new_tokens: tokens, min_new_tokens: 0, stop: self.tokenizer.eos_ids().to_vec() };
        let adapter = adapter.map(|dir| Adapter::load(dir, &self.model).unwrap().frozen());
        let run = |adapt: &dyn lorakit::model::Adapt| {
            generate::batch(&self.model, adapt, prompts, sampling, &limits, 8, &mut |_| Ok(())).unwrap()
        };
        match &adapter {
            Some(adapter) => run(adapter),
            None => run(&()),
        }
    }

    pub(super) fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text).unwrap()
    }

    /// A conversation in the base's template, ready to be answered.
    pub(super) fn conversation(&self, messages: &[(&str, &str)]) -> Vec<u32> {
        let turn = |(role, content): &(&str, &str)| format!("<|im_start|>{role}\n{content}<|im_end|>\n");
        self.ids(&(messages.iter().map(turn).collect::<String>() + "<|im_start|>assistant\n"))
    }

    /// The bytes of tokens.
    pub(super) fn bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| generate::token_bytes(&self.tokenizer, *id)).collect()
    }
}
