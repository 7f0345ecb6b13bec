//! An adapter: logits, merged weights and logits, gradients, and five optimiser steps.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::compare::{Expected, ToleranceCheck, angle, flat, largest, nan_max};
use crate::adapter::{Adapter, peft};
use crate::artifact;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::model::{Batch, Ctx, Model, Recompute, Site, Targets, Workspace};
use crate::recipe::{Schedule, Train, Warmup};
use crate::train::{adamw, schedule};

pub(super) fn run(dir: &Path, compute: Compute, device: &Device) -> Result<Vec<ToleranceCheck>> {
    let expected = Expected::open(dir)?;
    let config = peft::read_config(dir)?;
    let base = dir.join(config.base_model_name_or_path.unwrap_or_default());
    let model = Model::open(&base, compute, device)?;
    let adapter = Adapter::load(dir, &model)?;
    let (batch, targets) = expected.batch()?;
    let logits = flat(&model.forward(&mut Ctx::new(&adapter.frozen()), &batch)?)?;
    let want = expected.floats("logits")?;
    if compute == Compute::Bf16 {
        return Ok(vec![ToleranceCheck::new("logits", angle(&logits, &want), 1e-3, "1 - cosine")]);
    }
    let mut checks = vec![ToleranceCheck::new("logits", largest(&logits, &want), 1e-4, "absolute")];
    checks.extend(merged(&model, &adapter, &base, &expected, &batch)?);
    checks.extend(gradients(&model, &adapter, &expected, &batch, &targets)?);
    checks.extend(five_steps(&model, &adapter, &expected, &batch, &targets)?);
    Ok(checks)
}

/// Merged weights one by one, and logits of the merged directory that `lorakit merge` would write.
fn merged(model: &Model, adapter: &Adapter, base: &Path, expected: &Expected, batch: &Batch) -> Result<Vec<ToleranceCheck>> {
    let mut worst = (0.0, String::new());
    for name in expected.names("merged.") {
        let path = name.trim_end_matches(".weight");
        let site = model.sites().iter().position(|s| s.path == path).map(Site);
        let weight = site.map(|s| adapter.merged(model, s)).transpose()?.flatten();
        let got = weight.as_ref().map(flat).transpose()?.unwrap_or_default();
        let error = largest(&got, &expected.floats(&format!("merged.{name}"))?);
        if nan_max(error, worst.0) != worst.0 {
            worst = (error, name);
        }
    }
    let dir = tempfile::tempdir().map_err(Error::io("create", base))?;
    let out = dir.path().join("merged");
    let dtype = artifact::merge::Dtype::F32;
    let merged = artifact::merge::Merged { model, adapter, base, dtype, spoken: None, card: None };
    artifact::merge::write(&merged, &out, &mut |_, _| ())?;
    let merged = Model::open(&out, Compute::F32, &model.device)?;
    let logits = flat(&merged.forward(&mut Ctx::new(&()), batch)?)?;
    let want = if expected.has("merged_logits") { "merged_logits" } else { "logits" };
    Ok(vec![
        ToleranceCheck::new("merged weights", worst.0, 1e-6, worst.1),
        ToleranceCheck::new("merged logits", largest(&logits, &expected.floats(want)?), 1e-4, "absolute"),
    ])
}

fn loss_and_gradients(model: &Model, adapter: &Adapter, batch: &Batch, targets: &Targets) -> Result<(f32, Vec<Option<Tensor>>)> {
    let loss = (model.loss_sum(&mut Ctx::new(adapter), batch, targets)? / targets.len() as f64)?;
    let grads = loss.backward()?;
    let grads = adapter.params().iter().map(|p| grads.get(&p.var).cloned()).collect();
    Ok((loss.to_scalar()?, grads))
}

fn gradients(
    model: &Model,
    adapter: &Adapter,
    expected: &Expected,
    batch: &Batch,
    targets: &Targets,
) -> Result<Vec<ToleranceCheck>> {
    let (loss, grads) = loss_and_gradients(model, adapter, batch, targets)?;
    let missing = expected.names("grad.").len() as i64 - grads.len() as i64;
    let mut checks = vec![
        ToleranceCheck::new("loss", largest(&[loss], &expected.floats("loss")?), 1e-5, "absolute"),
        compare_gradients("gradients", adapter, &grads, expected)?,
        ToleranceCheck::new("gradients not compared", missing as f64, 0.0, "tensors"),
    ];
    checks.extend(direct(model, adapter, expected, batch, targets)?);
    Ok(checks)
}

/// The same through the path that training takes.
fn direct(
    model: &Model,
    adapter: &Adapter,
    expected: &Expected,
    batch: &Batch,
    targets: &Targets,
) -> Result<Vec<ToleranceCheck>> {
    let rows: Vec<&[u32]> = batch.ids.chunks(batch.len).collect();
    let is_target = |row: usize, i: usize| i > 0 && targets.at.contains(&((row * batch.len + i - 1) as u32));
    let got =
        model.direct_gradients(&mut Workspace::new(Recompute::Never), adapter, &rows, &is_target, 1.0 / targets.len() as f64)?;
    let grads = adapter.by_param(got.gradients);
    Ok(vec![
        ToleranceCheck::new("loss, without a tape", largest(&[got.loss as f32], &expected.floats("loss")?), 1e-5, "absolute"),
        compare_gradients("gradients, without a tape", adapter, &grads, expected)?,
    ])
}

/// Every gradient, in units of what is allowed: 1e-3 of the value or 1e-5, whichever is more.
fn compare_gradients(name: &str, adapter: &Adapter, grads: &[Option<Tensor>], expected: &Expected) -> Result<ToleranceCheck> {
    let mut worst = (0.0, String::new());
    for (param, grad) in adapter.params().iter().zip(grads) {
        let want = expected.floats(&format!("grad.{}", param.key))?;
        let got = grad.as_ref().map(flat).transpose()?.unwrap_or_default();
        let error = match got.len() == want.len() {
            true => got.iter().zip(&want).map(|(g, w)| f64::from((g - w).abs() / (w.abs() * 1e-3).max(1e-5))).fold(0.0, nan_max),
            false => f64::INFINITY,
        };
        if nan_max(error, worst.0) != worst.0 {
            worst = (error, param.key.clone());
        }
    }
    let detail = format!("in units of max(1e-5, 1e-3 relative); {} tensors, worst {}", grads.len(), worst.1);
    Ok(ToleranceCheck::new(name, worst.0, 1.0, detail))
}

/// The settings of the golden script's five steps.
fn settings() -> Train {
    Train {
        steps: Some(5),
        lr: 1e-3,
        schedule: Schedule::Cosine,
        warmup: Warmup::Steps(2),
        batch_size: 2,
        max_length: 64,
        weight_decay: 0.01,
        seed: 0,
        ..Train::default()
    }
}

fn five_steps(
    model: &Model,
    adapter: &Adapter,
    expected: &Expected,
    batch: &Batch,
    targets: &Targets,
) -> Result<Vec<ToleranceCheck>> {
    let s = settings();
    let mut adamw = adamw::AdamW::new(adapter.params())?;
    let (mut losses, mut rates, mut norms) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..5 {
        let (loss, grads) = loss_and_gradients(model, adapter, batch, targets)?;
        let norm = adamw::norm(&grads)?;
        let lr = s.lr * schedule::factor(s.schedule, s.warmup, step, 5);
        losses.push(loss);
        rates.push(lr as f32);
        norms.push(norm as f32);
        adamw.step(adapter.params(), &grads, &adamw::AdamWSettings::new(&s, lr, norm))?;
    }
    let (after, _) = loss_and_gradients(model, adapter, batch, targets)?;
    let want = expected.floats("grad_norm_trace")?;
    let relative: f64 = norms.iter().zip(&want).map(|(g, w)| f64::from((g - w).abs() / w)).fold(0.0, nan_max);
    Ok(vec![
        ToleranceCheck::new("loss over five steps", largest(&losses, &expected.floats("loss_trace")?), 1e-5, "absolute"),
        ToleranceCheck::new("learning rates", largest(&rates, &expected.floats("lr_trace")?), 1e-9, "absolute"),
        ToleranceCheck::new("gradient norms", relative, 1e-3, "relative"),
        parameters(adapter, expected)?,
        ToleranceCheck::new("loss after five steps", largest(&[after], &expected.floats("loss_after5")?), 1e-5, "absolute"),
    ])
}

/// Parameters after the steps: 1e-5, but 2e-4 where the gradient is as small as AdamW's epsilon, which then divides noise
/// by noise. In units of what is allowed.
fn parameters(adapter: &Adapter, expected: &Expected) -> Result<ToleranceCheck> {
    /// A hundred epsilons.
    const TINY: f32 = 1e-6;
    let mut worst = (0.0, String::new());
    for p in adapter.params() {
        let got = flat(p.var.as_tensor())?;
        let want = expected.floats(&format!("after5.{}", p.key))?;
        let grad = expected.floats(&format!("grad.{}", p.key))?;
        let error = got
            .iter()
            .zip(&want)
            .zip(&grad)
            .map(|((g, w), grad)| f64::from((g - w).abs()) / if grad.abs() < TINY { 2e-4 } else { 1e-5 })
            .fold(0.0, nan_max);
        if nan_max(error, worst.0) != worst.0 {
            worst = (error, p.key.clone());
        }
    }
    Ok(ToleranceCheck::new(
        "parameters after five steps",
        worst.0,
        1.0,
        format!("in units of 1e-5 (2e-4 at tiny gradients), worst {}", worst.1),
    ))
}
