//! Losses of several passes' log-probabilities, against PyTorch and PEFT (`tests/data/scripts/gen_losses.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::error::Result;
use lorakit::model::{Adapt, Logps, Model, Pass, PassGradients, Recompute, Workspace};

use crate::tiny_models;

const BETA: f64 = 0.3;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(path)
}

/// Pairs of a chosen and a rejected answer to one prompt, and what is expected of them.
struct Case {
    rows: Vec<Vec<u32>>,
    prompts: Vec<usize>,
    expected: HashMap<String, Tensor>,
}

impl Case {
    fn read(name: &str) -> Case {
        let expected = candle_core::safetensors::load(golden(&format!("losses/{name}.safetensors")), &Device::Cpu).unwrap();
        let numbers = |key: &str| expected[key].to_vec1::<i32>().unwrap();
        let ids: Vec<u32> = numbers("ids").into_iter().map(|id| id as u32).collect();
        let mut left = ids.as_slice();
        let rows = numbers("lengths").into_iter().map(|n| left.split_off(..n as usize).unwrap().to_vec()).collect();
        let prompts = numbers("prompts").into_iter().map(|n| n as usize).collect();
        Case { rows, prompts, expected }
    }

    fn value(&self, key: &str) -> f64 {
        f64::from(self.expected[key].to_vec1::<f32>().unwrap()[0])
    }

    /// The loss of what each pass is under; the first learns, the second where it is asked to.
    fn run(&self, model: &Model, adapts: [&dyn Adapt; 2], second_learns: bool, recompute: Recompute) -> PassGradients {
        let rows: Vec<&[u32]> = self.rows.iter().map(Vec::as_slice).collect();
        let trained = |row: usize, i: usize| i >= self.prompts[row];
        let learns = [true, second_learns];
        let pass = |i: usize| Pass { adapt: adapts[i], rows: &rows, trained: &trained, learns: learns[i] };
        let squares = if second_learns { 0.01 } else { 0.0 };
        let mut loss = |logps: &[Logps]| Ok(preference(&logps[0], &logps[1], squares));
        model.loss_of(&mut Workspace::new(recompute), &[pass(0), pass(1)], &mut loss).unwrap()
    }

    /// Each gradient against the expected one, within `tolerance` of its largest number.
    fn compare(&self, adapter: &Adapter, found: &PassGradients, (pass, prefix): (usize, &str), tolerance: f64) {
        let gradients = found.gradients[pass].iter().map(|(site, g)| (*site, copied(g))).collect();
        let grads = adapter.by_param(gradients).unwrap();
        for (param, grad) in adapter.params().iter().zip(grads) {
            let want = &self.expected[&format!("{prefix}{}", param.key)];
            let largest =
                |t: &Tensor| f64::from(t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap());
            let difference = largest(&(grad.unwrap() - want).unwrap());
            assert!(difference <= tolerance * largest(want), "{prefix}{}: {difference} of {}", param.key, largest(want));
        }
    }
}

fn copied(g: &lorakit::model::SiteGradient) -> lorakit::model::SiteGradient {
    use lorakit::model::SiteGradient::{Full, Pair};
    match g {
        Pair(a, b, m) => Pair(a.clone(), b.clone(), m.clone()),
        Full(w) => Full(w.clone()),
    }
}

/// Mean over pairs of `−log σ(β (Δ chosen − Δ rejected))`, where Δ is the policy's log-probability of an answer less the
/// reference's (Rafailov et al. 2023, equation 7); and `squares ·` the mean square of the reference's, so that it has a gradient
/// of its own.
fn preference(policy: &Logps, reference: &Logps, squares: f64) -> (f64, Vec<Logps>) {
    let sum = |row: &Vec<f32>| row.iter().map(|x| f64::from(*x)).sum::<f64>();
    let (n, rows) = (policy.len() as f64 / 2.0, policy.len() as f64);
    let mut loss = 0.0;
    let mut slopes = vec![Vec::new(), Vec::new()];
    for pair in 0..policy.len() / 2 {
        let of = |row: usize| sum(&policy[row]) - sum(&reference[row]);
        let margin = BETA * (of(2 * pair) - of(2 * pair + 1));
        loss += (-margin).exp().ln_1p() / n;
        let slope = -BETA / (1.0 + margin.exp()) / n;
        for (row, slope) in [(2 * pair, slope), (2 * pair + 1, -slope)] {
            let own = sum(&reference[row]);
            loss += squares * own * own / rows;
            slopes[0].push(vec![slope as f32; policy[row].len()]);
            slopes[1].push(vec![(2.0 * squares * own / rows - slope) as f32; policy[row].len()]);
        }
    }
    (loss, slopes)
}

fn adapter(model: &Model, name: &str, variant: &str) -> Adapter {
    Adapter::load(&golden(&format!("adapters/{name}/{variant}")), model).unwrap()
}

#[test]
fn preferences_over_the_base_are_those_of_pytorch() {
    for name in ["llama", "gpt2"] {
        let case = Case::read(name);
        for model in [tiny_models::open(name), tiny_models::open(name).in_tensors()] {
            let policy = adapter(&model, name, "plain");
            // Kept while the loss is computed, and run once more.
            for recompute in [Recompute::Never, Recompute::Always] {
                let found = case.run(&model, [&policy, &()], false, recompute);
                let want = case.value("dpo.loss");
                assert!((found.loss - want).abs() < 2e-5 * want, "{name}: {} against {want}", found.loss);
                case.compare(&policy, &found, (0, "dpo.grad."), 2e-4);
                assert!(found.gradients[1].is_empty());
            }
        }
    }
}

#[test]
fn two_adapters_learn_from_one_loss() {
    for name in ["llama", "gpt2"] {
        let case = Case::read(name);
        for model in [tiny_models::open(name), tiny_models::open(name).in_tensors()] {
            let (policy, other) = (adapter(&model, name, "plain"), adapter(&model, name, "all_linear"));
            let found = case.run(&model, [&policy, &other], true, Recompute::Never);
            let want = case.value("both.loss");
            assert!((found.loss - want).abs() < 1e-5 * want, "{name}: {} against {want}", found.loss);
            case.compare(&policy, &found, (0, "both.policy."), 2e-4);
            case.compare(&other, &found, (1, "both.other."), 2e-4);
        }
    }
}

#[test]
fn what_is_kept_and_what_runs_again_have_the_same_bits() {
    let (case, model) = (Case::read("llama"), tiny_models::open("llama"));
    let (policy, other) = (adapter(&model, "llama", "plain"), adapter(&model, "llama", "all_linear"));
    let bits = |recompute| {
        let found = case.run(&model, [&policy, &other], true, recompute);
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let both = found.gradients.iter().flatten().map(|(site, g)| match g {
            lorakit::model::SiteGradient::Pair(a, b, _) => (*site, [numbers(a), numbers(b)].concat()),
            lorakit::model::SiteGradient::Full(w) => (*site, numbers(w)),
        });
        (found.loss.to_bits(), both.collect::<Vec<_>>())
    };
    assert_eq!(bits(Recompute::Never), bits(Recompute::Always));
    assert_eq!(bits(Recompute::Never), bits(Recompute::Within(1)));
}

#[test]
fn the_sum_of_losses_is_what_training_computes() {
    let (case, model) = (Case::read("llama"), tiny_models::open("llama"));
    let policy = adapter(&model, "llama", "plain");
    let rows: Vec<&[u32]> = case.rows.iter().map(Vec::as_slice).collect();
    let trained = |row: usize, i: usize| i >= case.prompts[row];
    let direct = model.gradients(&mut Workspace::new(Recompute::Never), &policy, &rows, &trained, 0.125).unwrap();
    let mut loss = |logps: &[Logps]| {
        let sum = logps[0].iter().flatten().map(|x| -f64::from(*x)).sum::<f64>();
        Ok((0.125 * sum, vec![logps[0].iter().map(|row| vec![-0.125; row.len()]).collect()]))
    };
    let pass = Pass { adapt: &policy, rows: &rows, trained: &trained, learns: true };
    let found = model.loss_of(&mut Workspace::new(Recompute::Never), &[pass], &mut loss).unwrap();
    assert!((found.loss - direct.loss).abs() < 1e-6 * direct.loss);
    for (got, want) in policy
        .by_param(found.gradients.into_iter().flatten().collect())
        .unwrap()
        .iter()
        .zip(policy.by_param(direct.gradients).unwrap())
    {
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(got.as_ref().unwrap()), numbers(&want.unwrap()));
    }
}

#[test]
fn slopes_of_another_shape_are_refused() {
    let (case, model) = (Case::read("llama"), tiny_models::open("llama"));
    let policy = adapter(&model, "llama", "plain");
    let rows: Vec<&[u32]> = case.rows.iter().map(Vec::as_slice).collect();
    let pass = Pass { adapt: &policy, rows: &rows, trained: &|_, i| i > 0, learns: true };
    let mut short = |logps: &[Logps]| -> Result<_> { Ok((0.0, vec![logps[0][1..].to_vec()])) };
    let error = model.loss_of(&mut Workspace::new(Recompute::Never), &[pass], &mut short).unwrap_err().to_string();
    assert!(error.contains("not one number for each target"), "{error}");
}
