//! Packed rows give the loss and the gradients of the same examples one by one, told by an oracle that sees the examples alone.

use candle_core::Tensor;
use lorakit::adapter::Adapter;
use lorakit::model::{Batch, Model, Recompute, Targets, Workspace};
use lorakit::train::pack;
use lorakit::{random, recipe};

use crate::oracle::Oracle;
use crate::tiny_models;
use crate::training::Fixture;

/// Texts of uneven lengths; the mask says that the first token is trained too, which no example does but packing must bear.
struct Texts {
    ids: Vec<Vec<u32>>,
    trained: Vec<Vec<bool>>,
    packed: Vec<Vec<usize>>,
}

const ROOM: usize = 32;

fn texts(model: &Model) -> Texts {
    let lengths = [19usize, 3, 11, 2, 14, 7, 5, 30, 4, 9];
    let value = |r: usize, i: usize| random::indexed(r as u64, i as u64);
    let ids = (0..lengths.len()).map(|r| (0..lengths[r]).map(|i| (value(r, i) % model.config.vocab as u64) as u32).collect());
    let trained = (0..lengths.len()).map(|r| (0..lengths[r]).map(|i| i == 0 || value(r + 100, i) % 3 > 0).collect());
    let rows = pack::pack(&lengths, ROOM, 1, 0);
    let packed: Vec<Vec<usize>> = (0..rows.len()).map(|r| rows.row(r).iter().map(|i| *i as usize).collect()).collect();
    assert!(packed.iter().any(|row| row.len() > 2) && packed.len() < 5, "{packed:?}");
    Texts { ids: ids.collect(), trained: trained.collect(), packed }
}

/// All linear layers, rank 3, with random values in B, so that A has a gradient.
fn moved(model: &Model) -> Adapter {
    let adapter = Adapter::new(&recipe::Adapter::lora(3, recipe::TargetModules::AllLinear), None, model, 7).unwrap();
    for (i, param) in adapter.params().iter().enumerate().filter(|(_, p)| p.key.contains(".lora_B.")) {
        let unit = |j: usize| random::indexed(i as u64, j as u64) as f64 / u64::MAX as f64;
        let values: Vec<f32> = (0..param.var.elem_count()).map(|j| (unit(j) - 0.5) as f32 * 0.2).collect();
        param.var.set(&Tensor::from_vec(values, param.var.dims(), param.var.device()).unwrap()).unwrap();
    }
    adapter
}

/// Loss and every gradient, in the order of the adapter's parameters.
struct Outcome {
    loss: f64,
    gradients: Vec<Vec<f64>>,
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn judged(oracle: &Oracle, adapter: &Adapter, (batch, targets): (&Batch, &Targets)) -> Outcome {
    let loss = oracle.loss_sum(adapter, batch, targets);
    let grads = loss.backward().unwrap();
    let gradients = adapter.params().iter().map(|p| values(grads.get(&p.var).unwrap())).collect();
    Outcome { loss: loss.to_scalar::<f64>().unwrap(), gradients }
}

/// Each text alone in a batch; their sum in f64.
fn one_by_one(oracle: &Oracle, adapter: &Adapter, texts: &Texts) -> Outcome {
    let gradients = adapter.params().iter().map(|p| vec![0.0; p.var.elem_count()]).collect();
    let mut sum = Outcome { loss: 0.0, gradients };
    for (ids, trained) in texts.ids.iter().zip(&texts.trained) {
        let batch = Batch::right_padded(&[ids], 0);
        let targets = Targets::shifted(&batch, |_, i| trained[i]);
        assert_eq!(targets.len(), trained[1..].iter().filter(|t| **t).count());
        if targets.is_empty() {
            continue;
        }
        let one = judged(oracle, adapter, (&batch, &targets));
        sum.loss += one.loss;
        for (sum, one) in sum.gradients.iter_mut().flatten().zip(one.gradients.iter().flatten()) {
            *sum += one;
        }
    }
    sum
}

fn packed(oracle: &Oracle, adapter: &Adapter, texts: &Texts) -> Outcome {
    let rows: Vec<Vec<&[u32]>> = texts.packed.iter().map(|row| row.iter().map(|i| texts.ids[*i].as_slice()).collect()).collect();
    let masks: Vec<Vec<bool>> =
        texts.packed.iter().map(|row| row.iter().flat_map(|i| texts.trained[*i].clone()).collect()).collect();
    let batch = Batch::packed(&rows, 0);
    let targets = Targets::shifted(&batch, |row, i| masks[row].get(i).copied().unwrap_or(false));
    judged(oracle, adapter, (&batch, &targets))
}

/// As training calls it: the examples of the packed rows, one after another.
fn written_out(model: &Model, adapter: &Adapter, texts: &Texts) -> Outcome {
    let order: Vec<usize> = texts.packed.concat();
    let ids: Vec<&[u32]> = order.iter().map(|i| texts.ids[*i].as_slice()).collect();
    let direct =
        model.gradients(&mut Workspace::new(Recompute::Never), adapter, &ids, &|t, i| texts.trained[order[t]][i], 1.0).unwrap();
    let gradients = adapter.by_param(direct.gradients).unwrap().iter().map(|g| values(g.as_ref().unwrap())).collect();
    Outcome { loss: direct.loss, gradients }
}

/// Within 1e-5 of the loss, and of the largest value in each matrix.
fn hold(name: &str, adapter: &Adapter, got: &Outcome, want: &Outcome) {
    let mut worst = (got.loss - want.loss).abs() / want.loss;
    assert!(worst < 1e-5, "{name}: loss {} instead of {}", got.loss, want.loss);
    for ((param, got), want) in adapter.params().iter().zip(&got.gradients).zip(&want.gradients) {
        assert_eq!(got.len(), want.len(), "{name}: {}", param.key);
        let size = want.iter().fold(0f64, |m, v| m.max(v.abs()));
        let error = got.iter().zip(want).fold(0f64, |m, (g, w)| m.max((g - w).abs()));
        assert!(size > 0.0 && error < 1e-5 * size, "{name}: {}: off by {error:e} of {size:e}", param.key);
        worst = worst.max(error / size);
    }
    println!("{name}: within {worst:.1e}");
}

#[test]
fn packed_rows_give_the_loss_and_every_gradient_of_the_examples_alone() {
    for name in ["llama", "qwen2", "gpt2"] {
        let model = tiny_models::open(name);
        let (adapter, texts) = (moved(&model), texts(&model));
        let oracle = Oracle::new(name, &model);
        let want = one_by_one(&oracle, &adapter, &texts);
        hold(&format!("{name}, the oracle itself"), &adapter, &packed(&oracle, &adapter, &texts), &want);
        hold(&format!("{name}, written out"), &adapter, &written_out(&model, &adapter, &texts), &want);
    }
}

/// The comparison above can fail: positions that run on, or an example that sees its neighbour, are far off.
#[test]
fn an_example_that_saw_its_neighbour_would_be_noticed() {
    for name in ["llama", "gpt2"] {
        let model = tiny_models::open(name);
        let (adapter, texts) = (moved(&model), texts(&model));
        let rows: Vec<Vec<&[u32]>> =
            texts.packed.iter().map(|row| row.iter().map(|i| texts.ids[*i].as_slice()).collect()).collect();
        let good = Batch::packed(&rows, 0);
        let targets = Targets::shifted(&good, |_, i| i < 20);
        let oracle = Oracle::new(name, &model);
        let loss = |batch: &Batch| judged(&oracle, &adapter, (batch, &targets)).loss;
        let leaky = Batch { starts: vec![0; good.ids.len()], ..good.clone() };
        let running = Batch { positions: (0..good.rows).flat_map(|_| 0..good.len as u32).collect(), ..good.clone() };
        let (want, leaks, runs) = (loss(&good), loss(&leaky), loss(&running));
        assert!((leaks - want).abs() > 1e-4 * want, "{name}: {leaks} and {want}");
        // Rotary positions are relative: where nothing is seen across a border, only learnt ones tell.
        assert_eq!((runs - want).abs() > 1e-4 * want, name == "gpt2", "{name}: {runs} and {want}");
    }
}

/// Steps over whole epochs are the same packed and unpacked, however the rows fall into micro-batches.
#[test]
fn steps_over_all_examples_are_the_same_packed_and_unpacked() {
    const ROOM: usize = 128;
    // A pair everywhere, or a head that is trained whole.
    for more in ["adapter.dropout=0.0", r#"adapter.modules_to_save=["lm_head"]"#] {
        let losses = |set: &[String]| {
            let room = format!("train.max_length={ROOM}");
            let common = ["train.steps=3", "train.schedule=constant", "train.warmup=0", &room, more].map(String::from);
            Fixture::new(&[&common, set].concat().iter().map(String::as_str).collect::<Vec<_>>()).undisturbed().1
        };
        let lengths: Vec<usize> = Fixture::new(&[]).rows.train.iter().map(|e| e.ids.len()).collect();
        let rows = pack::count(&lengths, ROOM);
        assert!(rows * 2 <= lengths.len(), "{rows} rows");
        let whole = losses(&[format!("train.batch_size={}", lengths.len())]);
        assert!(whole[2] < whole[0] * 0.99, "{whole:?}");
        for (batch, accumulate) in [(rows, 1), (1, rows)] {
            let packed = losses(&[
                "train.packing=true".to_string(),
                format!("train.batch_size={batch}"),
                format!("train.accumulate={accumulate}"),
            ]);
            println!("{more}: {whole:?}, packed in micro-batches of {batch}: {packed:?}");
            assert!((packed[0] - whole[0]).abs() < 1e-5 * whole[0]);
            assert!(packed.iter().zip(&whole).all(|(p, w)| (p - w).abs() < 1e-4 * w));
        }
    }
}
