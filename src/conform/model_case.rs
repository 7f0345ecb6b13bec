//! A model: logits, loss, per-token log-probabilities, padded batches, greedy continuation.

use std::path::Path;

use candle_core::Device;

use super::compare::{Expected, ToleranceCheck, angle, flat, largest};
use crate::device::Compute;
use crate::error::Result;
use crate::model::{Batch, Ctx, KvCache, Model};

pub(super) fn run(dir: &Path, compute: Compute, device: &Device) -> Result<Vec<ToleranceCheck>> {
    let expected = Expected::open(dir)?;
    let model = Model::open(dir, compute, device)?;
    let (batch, targets) = expected.batch()?;
    let logits = flat(&model.forward(&mut Ctx::new(&()), &batch)?)?;
    let want = expected.floats("logits")?;
    if compute == Compute::Bf16 {
        return Ok(vec![ToleranceCheck::new("logits", angle(&logits, &want), 1e-3, "1 - cosine")]);
    }
    let loss = model.loss_sum(&mut Ctx::new(&()), &batch, &targets)?.to_scalar::<f32>()? / targets.len() as f32;
    let logps = model.target_logps(&(), &batch, &targets)?;
    let cols = batch.len - 1;
    let all = expected.floats("label_logps")?;
    let want_logps: Vec<f32> =
        targets.at.iter().map(|at| all[*at as usize / batch.len * cols + *at as usize % batch.len]).collect();
    Ok(vec![
        ToleranceCheck::new("logits", largest(&logits, &want), 1e-4, "absolute"),
        ToleranceCheck::new("loss", largest(&[loss], &expected.floats("loss")?), 1e-5, "absolute"),
        ToleranceCheck::new("label log-probabilities", largest(&logps, &want_logps), 1e-4, "absolute"),
        padded(&model, &expected, "rightpad")?,
        padded(&model, &expected, "leftpad")?,
        greedy(&model, &expected)?,
    ])
}

/// Rows padded on either side; only real positions are compared.
fn padded(model: &Model, expected: &Expected, side: &str) -> Result<ToleranceCheck> {
    let ids = expected.rows(&format!("{side}.input_ids"))?;
    let (_, len, mask) = expected.integers(&format!("{side}.attention_mask"))?;
    let real = |row: usize| -> Vec<u32> {
        let keep = &mask[row * len..][..len];
        ids[row].iter().zip(keep).filter(|(_, m)| **m == 1).map(|(i, _)| *i).collect()
    };
    let rows: Vec<Vec<u32>> = (0..ids.len()).map(real).collect();
    let batch = if side == "leftpad" { Batch::left_padded(&rows, 0) } else { Batch::right_padded(&rows, 0) };
    let logits = flat(&model.forward(&mut Ctx::new(&()), &batch)?)?;
    let want = expected.floats(&format!("{side}.logits"))?;
    let vocab = want.len() / mask.len();
    let pick = |values: &[f32]| -> Vec<f32> {
        let real = mask.iter().enumerate().filter(|(_, m)| **m == 1);
        real.flat_map(|(i, _)| values[i * vocab..][..vocab].to_vec()).collect()
    };
    Ok(ToleranceCheck::new(format!("logits, {side}"), largest(&pick(&logits), &pick(&want)), 1e-4, "absolute, real positions"))
}

/// The continuation without sampling, through the cache, one token at a time.
fn greedy(model: &Model, expected: &Expected) -> Result<ToleranceCheck> {
    let prompt = expected.rows("greedy_prompt")?.remove(0);
    let want = expected.rows("greedy_ids")?.remove(0);
    let mut cache = KvCache::new(&model.config, 1, want.len(), &model.device)?;
    let mut batch = Batch::right_padded(&[&prompt], 0);
    let mut got = prompt;
    while got.len() < want.len() {
        let logits = flat(&model.forward_last(&mut Ctx::cached(&(), &mut cache), &batch)?)?;
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i as u32);
        got.push(best);
        batch = Batch::next(vec![best], cache.len(), &[0]);
    }
    let wrong = got.iter().zip(&want).filter(|(g, w)| g != w).count();
    Ok(ToleranceCheck::new("greedy ids", wrong as f64, 0.0, "tokens that differ"))
}
