//! Every A and B of every site gets a gradient, and the right one; frozen weights get none.

use candle_core::{DType, Tensor};
use lorakit::adapter::Adapter;
use lorakit::device::Compute;
use lorakit::model::{Adapt, Batch, LossAndGradients, Model, Recompute, Site, SiteKind, Targets, Term, Workspace};
use lorakit::{random, recipe};

use crate::oracle::{self, Oracle};
use crate::tiny_models;

const FAMILIES: [&str; 4] = ["llama", "qwen2", "gpt2", "gemma2"];
const DROPOUT: f64 = 0.2;

fn all_linear(dropout: f64) -> recipe::Adapter {
    recipe::Adapter { dropout, ..recipe::Adapter::lora(3, recipe::TargetModules::AllLinear) }
}

/// `all-linear`, rank 3, with A as it starts and B zero.
fn fresh(model: &Model, dropout: f64) -> Adapter {
    Adapter::new(&all_linear(dropout), None, model, 7).unwrap()
}

/// As [`fresh`], with random values in B, so that A has a gradient.
fn moved(model: &Model, dropout: f64) -> Adapter {
    let adapter = fresh(model, dropout);
    for (i, param) in adapter.params().iter().enumerate().filter(|(_, p)| p.key.contains(".lora_B.")) {
        let unit = |j: usize| random::indexed(i as u64, j as u64) as f64 / u64::MAX as f64;
        let values: Vec<f32> = (0..param.var.elem_count()).map(|j| (unit(j) - 0.5) as f32 * 0.2).collect();
        param.var.set(&Tensor::from_vec(values, param.var.dims(), param.var.device()).unwrap()).unwrap();
    }
    adapter
}

/// Mean loss and gradients of three rows of different lengths; everything from the third token on is trained.
fn mean(model: &Model, adapt: &dyn Adapt) -> LossAndGradients {
    let row = |r: u64, len: u64| (0..len).map(|i| (random::indexed(r, i) % model.config.vocab as u64) as u32).collect();
    let rows: Vec<Vec<u32>> = (0..).zip([19, 11, 14]).map(|(r, len)| row(r, len)).collect();
    let ids: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let trained = rows.iter().map(|row| row.len() - 2).sum::<usize>();
    model.gradients(&mut room(), adapt, &ids, &|_, i| i >= 2, 1.0 / trained as f64).unwrap()
}

fn mean_loss(model: &Model, adapt: &dyn Adapt) -> f64 {
    mean(model, adapt).loss
}

/// Gradients of [`mean`] in the order of the adapter's parameters; each has its parameter's shape, and every value is a number.
fn mean_gradients(model: &Model, adapter: &Adapter, adapt: &dyn Adapt) -> Vec<Vec<f32>> {
    let found = adapter.by_param(mean(model, adapt).gradients).unwrap();
    assert_eq!(found.len(), adapter.params().len());
    let each = adapter.params().iter().zip(found).map(|(param, grad)| {
        let grad = grad.unwrap_or_else(|| panic!("{} has no gradient", param.key));
        assert_eq!(grad.dims(), param.var.dims(), "{}", param.key);
        let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{}", param.key);
        values
    });
    each.collect()
}

/// The names PEFT gives A and B of every linear layer but the head.
fn expected_names(model: &Model) -> Vec<String> {
    let linear = model.sites().iter().filter(|s| !matches!(s.kind, SiteKind::Embedding | SiteKind::Head));
    linear.flat_map(|s| ["A", "B"].map(|m| format!("base_model.model.{}.lora_{m}.weight", s.path))).collect()
}

#[test]
fn every_matrix_of_every_site_gets_a_gradient() {
    for family in FAMILIES {
        let model = tiny_models::open(family);
        for dropout in [0.0, DROPOUT] {
            let adapter = moved(&model, dropout);
            let names: Vec<&str> = adapter.params().iter().map(|p| p.key.as_str()).collect();
            assert_eq!(names, expected_names(&model), "{family}");
            let grads = mean_gradients(&model, &adapter, &adapter.training(1, 0, 0));
            for (param, values) in adapter.params().iter().zip(grads) {
                let some = values.iter().filter(|v| **v != 0.0).count();
                assert!(some * 2 > values.len(), "{family}: {}: {some} of {} values", param.key, values.len());
            }
        }
    }
}

#[test]
fn at_the_start_every_b_has_a_gradient_and_no_a_has() {
    for family in FAMILIES {
        let model = tiny_models::open(family);
        let adapter = fresh(&model, DROPOUT);
        let grads = mean_gradients(&model, &adapter, &adapter.training(1, 0, 0));
        for (param, values) in adapter.params().iter().zip(grads) {
            let zero = values.iter().all(|v| *v == 0.0);
            assert_eq!(zero, param.key.contains(".lora_A."), "{family}: {}", param.key);
        }
    }
}

/// Central differences along the entry of the largest gradient in each matrix.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    const STEP: f32 = 1e-2;
    for (family, dropout) in FAMILIES.into_iter().flat_map(|f| [(f, 0.0), (f, DROPOUT)]) {
        let model = tiny_models::open(family);
        let adapter = moved(&model, dropout);
        let grads = mean_gradients(&model, &adapter, &adapter.training(1, 2, 3));
        for (param, values) in adapter.params().iter().zip(grads) {
            let at = (0..values.len()).max_by(|i, j| values[*i].abs().total_cmp(&values[*j].abs())).unwrap();
            let before = param.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let loss_at = |shift: f32| {
                let mut shifted = before.clone();
                shifted[at] += shift;
                param.var.set(&Tensor::from_vec(shifted, param.var.dims(), param.var.device()).unwrap()).unwrap();
                mean_loss(&model, &adapter.training(1, 2, 3))
            };
            let slope = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * f64::from(STEP));
            loss_at(0.0);
            let error = (slope - f64::from(values[at])).abs();
            // f32 keeps about 1e-6 of a loss near 6; divided by two steps that is 5e-5.
            assert!(
                error < 1.5e-4 + 0.02 * slope.abs(),
                "{family}, dropout {dropout}: {}: {} and {slope}",
                param.key,
                values[at]
            );
        }
    }
}

/// Nothing comes back of a frozen matrix: neither beside an adapted one nor below the lowest adapted block.
#[test]
fn what_comes_back_is_the_adapters_gradients() {
    for (family, lowest, dropout) in FAMILIES.into_iter().flat_map(|f| [(f, 0, 0.0), (f, 0, DROPOUT), (f, 1, DROPOUT)]) {
        let model = tiny_models::open(family);
        let mut settings = all_linear(dropout);
        settings.layers = Some((lowest..model.config.layers).collect());
        let adapter = Adapter::new(&settings, None, &model, 7).unwrap();
        let found = mean(&model, &adapter.training(1, 0, 0)).gradients;
        let sites: Vec<Site> = found.iter().map(|(site, _)| *site).collect();
        let adapted: Vec<Site> = (0..model.sites().len()).map(Site).filter(|site| adapter.term(*site).is_some()).collect();
        assert_eq!(sites, adapted, "{family}, from block {lowest}, dropout {dropout}");
        assert!(sites.iter().all(|site| model.sites()[site.0].layer >= Some(lowest)));
        assert_eq!(mean_gradients(&model, &adapter, &adapter.training(1, 0, 0)).len(), 2 * sites.len());
    }
}

#[test]
fn dropout_acts_in_training_only_and_is_a_function_of_seed_step_and_micro_step() {
    for family in FAMILIES {
        let model = tiny_models::open(family);
        let (with, without) = (moved(&model, 0.5), moved(&model, 0.0));
        let eval = mean_loss(&model, &with.frozen());
        assert_eq!(eval, mean_loss(&model, &without.frozen()), "{family}");
        assert_eq!(eval, mean_loss(&model, &without.training(1, 0, 0)), "{family}");
        let of = |seed, step, micro| mean_loss(&model, &with.training(seed, step, micro));
        assert_eq!(of(1, 2, 3), of(1, 2, 3), "{family}");
        let all = [eval, of(1, 2, 3), of(2, 2, 3), of(1, 3, 3), of(1, 2, 4), of(1, 3, 2)];
        for (i, x) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|y| x != y), "{family}: {all:?}");
        }
    }
}

/// Inverted: the mean over many masks is the output without dropout.
#[test]
fn dropout_keeps_the_mean() {
    let model = tiny_models::open("llama");
    let adapter = moved(&model, DROPOUT);
    let site = (0..model.sites().len()).map(Site).find(|s| adapter.term(*s).is_some()).unwrap();
    let (inputs, outputs) = (model.sites()[site.0].inputs, model.sites()[site.0].outputs);
    let x = Tensor::ones((1, inputs), DType::F64, &model.device).unwrap();
    let zero = Tensor::zeros((outputs, inputs), DType::F64, &model.device).unwrap();
    let out = |adapt: &dyn Adapt| {
        let Some(Term::LowRank(pair)) = adapt.term(site) else { panic!("a pair") };
        oracle::with_pair(&pair, &zero, &x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    const TIMES: u64 = 4000;
    let mut mean = vec![0f64; outputs];
    for step in 0..TIMES {
        for (m, v) in mean.iter_mut().zip(out(&adapter.training(5, step, 0))) {
            *m += v / TIMES as f64;
        }
    }
    let want = out(&adapter.frozen());
    let scale = want.iter().map(|v| v.abs()).fold(0f64, f64::max);
    for (m, w) in mean.iter().zip(&want) {
        assert!((m - w).abs() < 0.05 * scale, "{m} and {w}");
    }
}

fn room() -> Workspace {
    Workspace::new(Recompute::Never)
}

/// An adapter of every linear layer, of the head (as a pair or in full) and of the embedding, moved away from its start.
fn everywhere(model: &Model, head: &str, dropout: f64) -> Adapter {
    let mut settings = all_linear(dropout);
    let conv = model.sites().iter().any(|s| s.conv1d);
    let embedding = if conv { "wte" } else { "embed_tokens" };
    match head {
        "pair" => settings.targets = recipe::TargetModules::Regex(".*(_proj|c_attn|c_fc|lm_head)".into()),
        "full" => settings.modules_to_save = vec!["lm_head".into(), embedding.into()],
        "embedding" => settings.modules_to_save = vec![embedding.into()],
        "dora" => {
            settings.dora = true;
            settings.targets = recipe::TargetModules::Regex(".*(_proj|c_attn|c_fc|lm_head)".into());
        }
        "head alone" => settings.targets = recipe::TargetModules::Names(vec!["lm_head".into()]),
        _ => {}
    }
    let adapter = Adapter::new(&settings, None, model, 7).unwrap();
    for (i, param) in adapter.params().iter().enumerate() {
        let old = param.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let unit = |j: usize| random::indexed(i as u64, j as u64) as f64 / u64::MAX as f64;
        let values: Vec<f32> = old.iter().enumerate().map(|(j, v)| v + (unit(j) - 0.5) as f32 * 0.2).collect();
        param.var.set(&Tensor::from_vec(values, param.var.dims(), param.var.device()).unwrap()).unwrap();
    }
    adapter
}

/// Training writes gradients out block by block; they must be those of the oracle, for every family and all that an adapter trains.
#[test]
fn gradients_without_a_tape_are_those_of_autograd() {
    let heads = ["", "pair", "full", "embedding", "head alone", "dora"];
    let cases =
        ["llama", "llama3", "qwen2", "gpt2", "gemma2"].into_iter().flat_map(|n| heads.map(|h| [(n, h, 0.0), (n, h, 0.4)]));
    for (name, head, dropout) in cases.flatten().filter(|(_, head, dropout)| *head != "dora" || *dropout == 0.0) {
        let model = tiny_models::open(name);
        let moved = everywhere(&model, head, dropout);
        let adapter = moved.training(1, 2, 3);
        let rows: Vec<Vec<u32>> = [9usize, 4, 30, 2].iter().map(|n| (0..*n as u32).map(|i| 5 + i * 7 % 300).collect()).collect();
        let ids: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let trained = |row: usize, i: usize| i > row;
        let direct = model.gradients(&mut room(), &adapter, &ids, &trained, 0.5).unwrap();
        let batch = Batch::right_padded(&ids, 0);
        let targets = Targets::shifted(&batch, |row, i| i < rows[row].len() && trained(row, i));
        let loss = (Oracle::new(name, &model).loss_sum(&adapter, &batch, &targets) * 0.5).unwrap();
        let grads = loss.backward().unwrap();
        let want = loss.to_scalar::<f64>().unwrap();
        let case = format!("{name}, head {head:?}, dropout {dropout}");
        assert!((direct.loss - want).abs() < 1e-4 * want, "{case}: {} against {want}", direct.loss);
        for (param, got) in moved.params().iter().zip(moved.by_param(direct.gradients).unwrap()) {
            let (got, want) = (got.unwrap_or_else(|| panic!("{case}: {}", param.key)), grads.get(&param.var).unwrap());
            let error = (&got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let size = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 0.0 && error < 1e-4 * size.max(1e-2), "{case} {}: off by {error} of {size}", param.key);
        }
    }
}

/// Loss and all gradients of the written-out path.
fn written_out(model: &Model, recompute: Recompute, head: &str, dropout: f64) -> (f64, Vec<(usize, Vec<f32>)>) {
    let moved = everywhere(model, head, dropout);
    let adapter = moved.training(1, 2, 3);
    let most = model.config.max_positions;
    let lengths = [90, 4, 250, 2, 201, 210].map(|n: usize| n.min(most) as u32);
    let rows: Vec<Vec<u32>> = lengths.iter().map(|n| (0..*n).map(|i| 5 + i * 7 % 300).collect()).collect();
    let ids: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let got = model.gradients(&mut Workspace::new(recompute), &adapter, &ids, &|_, i| i % 3 > 0, 0.01).unwrap();
    let flat = |t: Option<Tensor>| t.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (got.loss, moved.by_param(got.gradients).unwrap().into_iter().map(flat).enumerate().collect())
}

#[test]
fn running_blocks_again_and_other_numbers_of_threads_change_no_bit() {
    for (name, head) in [("llama", ""), ("llama", "pair"), ("qwen2", "full"), ("gpt2", ""), ("gpt2", "full"), ("llama", "dora")] {
        for compute in [Compute::F32, Compute::Bf16Anywhere] {
            let model = tiny_models::open_in(name, compute);
            let want = written_out(&model, Recompute::Never, head, 0.1);
            assert!(want == written_out(&model, Recompute::Always, head, 0.1), "{name} {compute:?}: run again");
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert!(
                    want == pool.install(|| written_out(&model, Recompute::Never, head, 0.1)),
                    "{name} {compute:?}: {threads} threads"
                );
            }
        }
    }
}

/// Rounding moves every gradient a little, and turns none.
#[test]
fn gradients_in_bf16_point_where_those_in_f32_do() {
    for (name, head) in [("llama", ""), ("llama3", "full"), ("qwen2", "pair"), ("gpt2", ""), ("qwen2", "dora")] {
        let (exact, half) = (tiny_models::open_in(name, Compute::F32), tiny_models::open_in(name, Compute::Bf16Anywhere));
        for dropout in [0.0, 0.3] {
            let run = |model: &Model| written_out(model, Recompute::Never, head, dropout);
            let (want, got) = (run(&exact), run(&half));
            assert!((want.0 - got.0).abs() < 5e-3 * want.0, "{name}: loss {} and {}", got.0, want.0);
            for ((site, got), (_, want)) in got.1.iter().zip(&want.1) {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
                assert!(cosine > 0.995, "{name} {head:?}, parameter {site}: cosine {cosine}");
            }
        }
    }
}
