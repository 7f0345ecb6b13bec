//! Memory of a run on the device where tensor operations compute, by what it is for, from sizes alone.
//!
//! Refuses to know how much of it is free: nobody tells.

use crate::recipe::Recomputation;
use crate::train::{self, TrainSetup};

/// Bytes of an f32.
const F32: u64 = 4;

/// Bytes on the device at the peak of a run, by part. Parts are there at the same time: they add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// Frozen matrices: quantised ones as their blocks, others in the precision of activations.
    pub weights: u64,
    /// The largest of them while it is expanded, or goes over.
    pub expanded: u64,
    /// Values of the adapter, as matrices and in one buffer, and their gradients in both.
    pub adapter: u64,
    /// Moments, the best adapter so far, and what an update needs beyond what is free by then.
    pub optimizer: u64,
    /// Kept from the forward for the backward pass.
    pub activations: u64,
    /// A piece of logits with what is made of it.
    pub logits: u64,
    /// A tile of scores with what is made of it, and a text's queries, keys and values in f32.
    pub attention: u64,
    /// Masks of dropout and the other buffers of a step.
    pub workspace: u64,
    /// What answers of the proof need beyond what is free by then.
    pub besides: u64,
    /// Whether blocks run again on the way back.
    pub recomputed: bool,
    /// Whether they do because it is not known how much is free.
    pub assumed: bool,
    /// Bytes that a step takes of the host.
    #[serde(skip)]
    pub on_host: u64,
}

impl DeviceMemory {
    /// Names and bytes of the parts.
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("weights", self.weights),
            ("expanded", self.expanded),
            ("adapter", self.adapter),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("attention", self.attention),
            ("workspace", self.workspace),
            ("besides", self.besides),
        ]
    }

    /// The peak.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Of `run`, whose micro-batches have at most `batch` tokens in rows of at most `longest`, a share of `trained` of them targets;
    /// `best` bytes are kept of the best adapter, and `answers` are those of the proof.
    pub(super) fn of(run: &TrainSetup, (longest, batch, trained): (usize, usize, f64), best: u64, answers: u64) -> DeviceMemory {
        let recompute = train::recompute(run.settings.recomputation);
        let m = run.model.device_pass_memory(longest, batch, trained, &run.adapter.training(0, 0, 0), recompute);
        let params = run.adapter.param_count() as u64 * F32;
        let step = m.activations + m.logits + m.attention + m.masks + m.workspace;
        DeviceMemory {
            weights: m.weights,
            expanded: m.expanded,
            adapter: 4 * params,
            optimizer: 2 * params + best + (3 * params).saturating_sub(step),
            activations: m.activations,
            logits: m.logits,
            attention: m.attention,
            workspace: m.workspace + m.masks,
            besides: answers.saturating_sub(step),
            recomputed: m.recomputed,
            assumed: m.recomputed && run.settings.recomputation == Recomputation::Auto,
            on_host: run.model.host_bytes_of_tensors(&m),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::adapter::Adapter;
    use crate::data::{Example, Examples};
    use crate::device::Compute;
    use crate::estimate::MemoryEstimate;
    use crate::model::{Model, Site};
    use crate::recipe;
    use crate::train::mixture::Mixture;

    fn estimate(compute: Compute, dropout: f64, settings: &recipe::Train) -> (Model, MemoryEstimate) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
        let model = Model::open(&dir, compute, &Device::Cpu).unwrap().in_tensors();
        let wanted = recipe::Adapter { dropout, ..recipe::Adapter::lora(4, recipe::TargetModules::AllLinear) };
        let adapter = Adapter::new(&wanted, None, &model, 1).unwrap();
        let row = |line| Example { ids: vec![1; 40], trained: (0..40).map(|i| i > 20).collect(), source: 0, line };
        let (examples, none): (Examples, _) = ((1..=4).map(row).collect(), Examples::default());
        let mixture = Mixture::plain(examples.len());
        let run =
            TrainSetup { model: &model, adapter: &adapter, examples: &examples, mixture: &mixture, heldout: &none, settings };
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/recipe.toml");
        let memory = MemoryEstimate::of(&run, &recipe::Recipe::load(&tiny, &[]).unwrap().eval, 0);
        (model, memory)
    }

    fn settings(recomputation: Recomputation) -> recipe::Train {
        recipe::Train { batch_size: 4, recomputation, ..recipe::Train::default() }
    }

    #[test]
    fn every_matrix_counts_once_in_the_precision_of_activations() {
        let (model, memory) = estimate(Compute::F32, 0.0, &settings(Recomputation::None));
        let mut matrices: Vec<(usize, usize)> = (0..model.sites().len())
            .map(|i| model.site_weight(Site(i)))
            .map(|w| (w.data.bytes().as_ptr() as usize, w.rows * w.cols))
            .collect();
        matrices.sort_unstable();
        matrices.dedup();
        let values: u64 = matrices.iter().map(|(_, n)| *n as u64).sum();
        let device = memory.device.unwrap();
        assert_eq!((device.weights, device.expanded), (4 * values, 0));
        assert_eq!((memory.adapter, memory.optimizer, memory.activations), (0, 0, 0), "none of it is on the host");
        let half = estimate(Compute::Bf16, 0.0, &settings(Recomputation::None)).1.device.unwrap();
        assert_eq!(half.weights, 2 * values);
        assert!(half.expanded > 0 && half.activations < device.activations, "{half:?}");
    }

    #[test]
    fn running_blocks_again_keeps_less_and_dropout_takes_a_bit_an_element() {
        let (_, kept) = estimate(Compute::F32, 0.0, &settings(Recomputation::None));
        let (_, again) = estimate(Compute::F32, 0.0, &settings(Recomputation::Block));
        let (model, dropped) = estimate(Compute::F32, 0.1, &settings(Recomputation::None));
        let [kept, again, dropped] = [kept, again, dropped].map(|m| m.device.unwrap());
        assert!(again.activations < kept.activations && again.recomputed && !kept.recomputed);
        assert!(!again.assumed, "it was asked for");
        let sites = model.sites().iter().filter(|s| s.layer.is_some());
        let bits: u64 = sites.map(|s| 4 * 40 * s.inputs.div_ceil(8) as u64).sum();
        assert_eq!(dropped.on_host - kept.on_host, bits);
        assert!(dropped.workspace - kept.workspace > bits);
        assert_eq!(kept.total(), kept.parts().iter().map(|(_, bytes)| bytes).sum::<u64>());
    }
}
