//! Feed-forwards of experts: gradients are the slopes of the loss, and a text's numbers are the same in any company.

use std::path::Path;

use candle_core::{Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::device::Compute;
use lorakit::model::{Adapt, BlockTable, Chunk, LossAndGradients, Model, PagedKv, Phase, Recompute, Workspace};
use lorakit::{random, recipe};

fn open(name: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families").join(name);
    Model::open(&dir, Compute::F32, &Device::Cpu).unwrap()
}

/// Pairs at the layers of these names, and on the experts' parameters of those that no layer has; neither matrix zero.
fn adapter(model: &Model, names: &[&str], dropout: f64) -> Adapter {
    let (parameters, layers): (Vec<_>, Vec<_>) =
        names.iter().map(|name| name.to_string()).partition(|name| name.contains("experts.") || name.ends_with(".weight"));
    let dropout = if parameters.is_empty() { dropout } else { 0.0 };
    let wanted = recipe::Adapter::lora(2, recipe::TargetModules::Names(layers));
    let recipe = recipe::Adapter { dropout, target_parameters: parameters, ..wanted };
    let adapter = Adapter::new(&recipe, None, model, 7).unwrap();
    for (i, param) in adapter.params().iter().enumerate() {
        let value = |j: usize| (random::indexed(i as u64, j as u64) as f64 / u64::MAX as f64 - 0.5) as f32;
        let values: Vec<f32> = (0..param.var.elem_count()).map(value).collect();
        param.var.set(&Tensor::from_vec(values, param.var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    adapter
}

const FUSED: [&str; 2] = ["experts.gate_up_proj", "experts.down_proj"];

fn texts() -> Vec<Vec<u32>> {
    [19u64, 11, 14].iter().map(|len| (0..*len).map(|i| (random::indexed(*len, i) % 21) as u32 + 3).collect()).collect()
}

fn mean(model: &Model, adapt: &dyn Adapt, recompute: Recompute) -> LossAndGradients {
    let texts = texts();
    let ids: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    model.gradients(&mut Workspace::new(recompute), adapt, &ids, &|_, i| i >= 2, 1.0 / 38.0).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Along the gradient the loss rises by its square, for each kind of layer alone and behind attention, in both machines, with dropout
/// and blocks that run again.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (name, layers) in [
        ("mixtral", &["w1", "w2", "w3", "v_proj", FUSED[0], FUSED[1], "block_sparse_moe.gate"][..]),
        ("qwen3_moe", &["gate_proj", "up_proj", "down_proj", "q_proj", FUSED[0], FUSED[1], "mlp.gate"]),
        ("gpt_oss", &["v_proj", FUSED[0], FUSED[1], "mlp.router.weight"]),
        ("gemma4_text-moe", &["up_proj", FUSED[0], FUSED[1], "router.proj", "router.proj.weight"]),
    ] {
        for layer in layers {
            for (tensors, dropout, recompute) in
                [(false, 0.0, Recompute::Never), (false, 0.2, Recompute::Always), (true, 0.2, Recompute::Never)]
            {
                let model = if tensors { open(name).in_tensors() } else { open(name) };
                let adapter = adapter(&model, &[*layer], dropout);
                let found = mean(&model, &adapter.training(1, 0, 0), recompute);
                let grads: Vec<Tensor> = adapter.by_param(found.gradients).unwrap().into_iter().map(Option::unwrap).collect();
                let square: f64 = grads.iter().flat_map(flat).map(|g| f64::from(g * g)).sum();
                let starts: Vec<Tensor> = adapter.params().iter().map(|p| p.var.as_tensor().copy().unwrap()).collect();
                let at = |by: f64| {
                    for ((param, start), grad) in adapter.params().iter().zip(&starts).zip(&grads) {
                        param.var.set(&(start + (grad * by).unwrap()).unwrap()).unwrap();
                    }
                    mean(&model, &adapter.training(1, 0, 0), recompute).loss
                };
                // A step may carry a token over to another expert, where the loss jumps: a shorter one does not.
                let off = |length: f64| {
                    let step = length / square.sqrt();
                    ((at(step) - at(-step)) / (2.0 * step) / square - 1.0).abs()
                };
                let least = [2e-3, 1e-3, 5e-4, 2.5e-4].into_iter().map(off).fold(f64::INFINITY, f64::min);
                assert!(square > 1e-8 && least < 5e-3, "{name} {layer} {tensors} {dropout}: {least} {square}");
            }
        }
    }
}

/// Logits of a text alone, beside others under other adapters, and in pieces: the same bits.
#[test]
fn company_and_pieces_do_not_change_a_bit() {
    let model = open("qwen3_moe");
    let own = [adapter(&model, &["gate_proj", "down_proj", "gate"], 0.0), adapter(&model, &FUSED, 0.0)];
    let prepared =
        [model.prepare(&own[0].frozen()).unwrap(), model.prepare(&own[1].frozen()).unwrap(), model.prepare(&()).unwrap()];
    let texts = texts();
    let run = |which: &[usize], pieces: usize| -> Vec<Vec<f32>> {
        let mut kv = PagedKv::new(&model.config, 64 * which.len());
        let mut scratch = Workspace::new(Recompute::Never);
        let mut tables: Vec<BlockTable> = which.iter().map(|_| BlockTable::default()).collect();
        let (mut all, longest) = (vec![Vec::new(); which.len()], 19usize);
        for from in (0..longest).step_by(longest.div_ceil(pieces)) {
            let upto = from + longest.div_ceil(pieces);
            let mut at = Vec::new();
            let mut chunks: Vec<Chunk> = Vec::new();
            for (i, (text, table)) in which.iter().zip(&mut tables).enumerate() {
                let ids = &texts[*text][from.min(texts[*text].len())..upto.min(texts[*text].len())];
                if !ids.is_empty() {
                    at.push((i, ids.len()));
                    chunks.push(Chunk { table, ids, adapter: &prepared[*text], logits: ids.len() });
                }
            }
            if chunks.is_empty() {
                break;
            }
            let logits = model.extend(&mut scratch, &mut kv, Phase::Blocked, &mut chunks).unwrap();
            let mut rows = logits.chunks_exact(model.config.vocab);
            for (i, len) in at {
                (0..len).for_each(|_| all[i].extend_from_slice(rows.next().unwrap()));
            }
        }
        all
    };
    let together = run(&[0, 1, 2], 1);
    for (text, together) in together.iter().enumerate() {
        assert_eq!(run(&[text], 1)[0], *together, "{text} alone");
        assert_eq!(run(&[text], 4)[0], *together, "{text} in pieces");
    }
    assert_eq!(run(&[2, 0, 1], 3), [2, 0, 1].map(|text| together[text].clone()));
}

/// `load_balancing_loss_func` of transformers 5.24 over the batch of the golden case, with its adapter.
#[test]
fn the_balance_of_experts_is_what_transformers_calls_the_auxiliary_loss() {
    for (name, expected) in [("mixtral", 2.045_647_86), ("qwen3_moe", 2.087_750_43)] {
        for (tensors, recompute) in [(false, Recompute::Never), (false, Recompute::Always), (true, Recompute::Never)] {
            let model = if tensors { open(name).in_tensors() } else { open(name) };
            let case =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families").join(name).join("adapters/all_linear");
            let adapter = Adapter::load(&case, &model).unwrap();
            let file = candle_core::safetensors::load(case.join("expected.safetensors"), &Device::Cpu).unwrap();
            let rows: Vec<Vec<u32>> = file["input_ids"].to_dtype(candle_core::DType::U32).unwrap().to_vec2().unwrap();
            let ids: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let found = model.gradients(&mut Workspace::new(recompute), &adapter, &ids, &|_, i| i > 20, 1.0).unwrap();
            let balance = found.balance.loss().unwrap();
            assert!((balance - expected).abs() < 1e-5, "{name} {tensors}: {balance}");
        }
    }
    let dense =
        Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama"), Compute::F32, &Device::Cpu)
            .unwrap();
    assert_eq!(mean(&dense, &(), Recompute::Never).balance.loss(), None);
}
