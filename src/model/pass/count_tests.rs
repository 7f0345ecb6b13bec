//! The count beside what the CPU's buffers really are.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::super::super::Model;
use super::super::cpu::Cpu;
use super::super::prepared::PreparedAdapter;
use super::super::sums::Sums;
use super::super::trace::Trace;
use super::super::workspace::{BatchTokens, Pooled, Recompute, Workspace};
use super::*;
use crate::adapter::Adapter;
use crate::device::Compute;
use crate::model::Adapt;
use crate::model::layers::Block;

/// Families that are known, of `tests/data/golden/families`, and adapters of them.
const FAMILIES: usize = 28;
const ADAPTERS: usize = 113;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// Three texts, which are one group.
fn rows() -> Vec<Vec<u32>> {
    [33, 7, 20].map(|n| (0..n).map(|i| i % 13).collect()).into()
}

/// What the CPU's pool holds after a step, and what it gave for the trace that waits for its way back.
fn held<T: Pooled>(model: &Model, adapt: &dyn Adapt, recompute: Recompute) -> [u64; 2] {
    let texts = rows();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut scratch = Workspace::new(recompute);
    model.gradients(&mut scratch, adapt, &texts, &|_, _| true, 1.0).unwrap();
    let pool = scratch.bytes();
    // The buffers of a trace, given to a pool of their own.
    let adapter = model.prepare(adapt).unwrap();
    let (group, lowest) = (model.texts_of(&texts, &|_, _| true).remove(0), model.lowest(|site| adapter.acts(site)));
    let (mut sums, mut kept) = (Sums::zero(model, &adapter), Workspace::new(recompute));
    let trace: Trace<Cpu<'static, T>> = model.on_cpu::<T, _>((&mut scratch, &mut sums), &adapter, &group, |m, given| {
        model.traced(m, given, lowest, recompute == Recompute::Always).unwrap().on()
    });
    model.on_cpu::<T, _>((&mut kept, &mut sums), &adapter, &group, |m, _| {
        let x = Trace::free(trace.on(), m);
        scratch.give(x);
    });
    assert_eq!(scratch.bytes() + kept.bytes(), pool, "a step leaves buffers for the next");
    [pool, kept.bytes()]
}

/// What is held against what is counted.
fn agree<T: Pooled>(model: &Model, adapter: &Adapter, recompute: Recompute, what: &str) {
    let ([pool, kept], again) = (held::<T>(model, adapter, recompute), recompute == Recompute::Always);
    let memory = model.pass_memory(BatchTokens { batch: 60, shortest: 7, longest: 33 }, 57.0 / 128.0, adapter, recompute);
    let counted = PreparedAdapter::unprepared(model, adapter);
    let count = model.counted(model.cpu_rules(), [memory.tokens, 57], again, &counted);
    // In bf16 the room for logits stays as well, of the targets there were.
    let room = if size_of::<T>() == F32 || adapter.term(model.head.site).is_some() { 0 } else { count.logits };
    assert_eq!(count.pool + room, pool, "{what}");
    // Beside the buffers stays what attention leaves.
    let lowest = if again { model.blocks.len() } else { model.lowest(|site| counted.acts(site)) };
    let attentions = model.blocks[lowest..].iter().flat_map(Block::attentions).count();
    assert_eq!(count.kept - (attentions * memory.tokens * model.config.heads * T::ATTENDED) as u64, kept, "{what}");
    assert_eq!(memory.activations, count.kept, "{what}");
    assert_eq!(memory.activations + memory.logits + memory.workspace, count.peak, "{what}");
    assert!(count.peak > count.pool && memory.recomputed == again, "{what}: {count:?}");
}

/// All adapters of a golden model; returns how many.
fn adapters_agree<T: Pooled>(model: &Model, dir: &Path) -> usize {
    let all = below(dir);
    for dir in &all {
        let adapter = Adapter::load(dir, model).unwrap();
        for recompute in [Recompute::Never, Recompute::Always] {
            agree::<T>(model, &adapter, recompute, &format!("{} {recompute:?}", dir.display()));
        }
    }
    all.len()
}

#[test]
fn the_pool_and_what_is_kept_are_counted_to_the_byte_for_every_family() {
    let (mut families, mut adapters) = (0, 0);
    for family in below(&golden("families")) {
        let Ok(model) = Model::open(&family, Compute::F32, &Device::Cpu) else { continue };
        if model.config.experts.is_some() {
            continue;
        }
        families += 1;
        adapters += adapters_agree::<f32>(&model, &family.join("adapters"));
    }
    assert_eq!((families, adapters), (FAMILIES, ADAPTERS));
}

/// Which tokens meet an expert is the text's: counted as if they were spread evenly.
#[test]
fn experts_are_counted_as_met_evenly() {
    for name in ["mixtral", "qwen3_moe"] {
        let dir = golden("families").join(name);
        let model = Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
        let adapter = Adapter::load(&dir.join("adapters/plain"), &model).unwrap();
        let counted = PreparedAdapter::unprepared(&model, &adapter);
        for recompute in [Recompute::Never, Recompute::Always] {
            let [pool, kept] = held::<f32>(&model, &adapter, recompute);
            let count = model.counted(model.cpu_rules(), [128, 57], recompute == Recompute::Always, &counted);
            let near = |counted: u64, held: u64| (0.8..1.25).contains(&(counted as f64 / held as f64));
            assert!(near(count.pool, pool) && near(count.kept, kept.max(1)) | (kept == 0), "{name}: {count:?} {pool} {kept}");
        }
    }
}

/// Among them are some of a few blocks only, and one of a whole head.
#[test]
fn those_of_the_first_families_are_counted_in_either_precision() {
    for adapters in below(&golden("adapters")) {
        let dir = golden("models").join(adapters.file_name().unwrap());
        let open = |compute| Model::open(&dir, compute, &Device::Cpu).unwrap();
        assert!(adapters_agree::<f32>(&open(Compute::F32), &adapters) > 0);
        #[cfg(target_arch = "x86_64")]
        if open(Compute::Bf16).multiplies_in_bf16() {
            adapters_agree::<half::bf16>(&open(Compute::Bf16), &adapters);
        }
    }
}

#[test]
fn blocks_run_again_where_they_would_keep_more_than_the_budget() {
    let model = Model::open(&golden("models/llama"), Compute::F32, &Device::Cpu).unwrap();
    let adapter = Adapter::load(&golden("adapters/llama/all_linear"), &model).unwrap();
    let of = BatchTokens { batch: 256, shortest: 64, longest: 64 };
    let memory = |recompute| model.pass_memory(of, 0.5, &adapter, recompute);
    let (kept, again) = (memory(Recompute::Never), memory(Recompute::Always));
    assert_eq!(memory(Recompute::Within(kept.activations)), kept);
    assert_eq!(memory(Recompute::Within(kept.activations - 1)), again);
    assert!(again.activations < kept.activations);
    let more = model.pass_memory(of, 1.0, &adapter, Recompute::Never);
    assert_eq!((more.logits, more.activations), (2 * kept.logits, kept.activations));
}

/// Nothing is pooled there, and operations make anew what they change.
#[test]
fn in_tensor_operations_the_same_is_kept_and_the_peak_is_what_is_live() {
    let model = Model::open(&golden("models/llama"), Compute::F32, &Device::Cpu).unwrap().in_tensors();
    let adapter = Adapter::load(&golden("adapters/llama/all_linear"), &model).unwrap();
    let adapter = PreparedAdapter::unprepared(&model, &adapter);
    let count = |rules, again| model.counted(rules, [128, 64], again, &adapter);
    let (full, half) = (count(Rules::tensors(4), false), count(Rules::tensors(2), false));
    let left = |bytes: usize| (model.blocks.len() * 128 * model.config.heads * bytes) as u64;
    assert_eq!(full.kept - left(4), count(Rules::cpu::<f32>(), false).kept - left(8));
    assert_eq!(2 * (half.kept - left(4)), full.kept - left(4));
    let (d, f) = (model.config.width, model.config.ffn);
    // The way back of the last layer: the gradient of its output twice, its input, and that one's gradient with three more of them.
    assert_eq!(full.peak - full.kept, (128 * (2 * d + 5 * f) * 4) as u64);
    let again = count(Rules::tensors(4), true);
    assert_eq!(again.kept, (model.blocks.len() * 128 * d * 4) as u64);
    assert!(again.peak < full.peak && full.logits == 0);
}
