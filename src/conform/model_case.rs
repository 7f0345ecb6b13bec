//! A model: logits, loss, per-token log-probabilities, rows of several lengths, greedy continuation.

use std::path::Path;

use super::compare::{Expected, ToleranceCheck, angle, largest};
use super::{How, open};
use crate::device::Compute;
use crate::error::Result;
use crate::model::{AnswerChunk, BlockTable, Chunk, Model, OwnChunk, PagedKv, Phase, Recompute, Workspace};

pub(super) fn run(dir: &Path, how: &How) -> Result<Vec<ToleranceCheck>> {
    let expected = Expected::open(dir)?;
    let model = open(dir, how)?;
    let (batch, targets) = expected.batch(&model)?;
    let rows: Vec<&[u32]> = batch.ids.chunks(batch.len).collect();
    let is_target = |row: usize, i: usize| i > 0 && targets.at.contains(&((row * batch.len + i - 1) as u32));
    let logits = model.divided_logits(&(), &rows, &is_target)?.concat();
    let want = expected.floats("logits")?;
    let logps = model.target_logps(&(), &rows, &is_target)?.concat();
    let loss = -logps.iter().map(|logp| f64::from(*logp)).sum::<f64>() / targets.len() as f64;
    let want_loss = expected.floats("loss")?;
    if how.compute == Compute::Bf16 {
        return Ok(vec![
            ToleranceCheck::new("logits", angle(&logits, &want), 1e-3, "1 - cosine"),
            ToleranceCheck::new("loss", (loss / f64::from(want_loss[0]) - 1.0).abs(), 0.02, "relative"),
        ]);
    }
    // Of each label but the first of a text, which nothing comes before; with an encoder of each behind what that reads.
    let (all, read) = (expected.floats("label_logps")?, expected.integers("input_ids")?.1);
    let (cols, first) = if model.has_encoder() { (batch.len - read, read - 1) } else { (batch.len - 1, 0) };
    let want_logps: Vec<f32> =
        targets.at.iter().map(|at| all[*at as usize / batch.len * cols + *at as usize % batch.len - first]).collect();
    Ok(vec![
        ToleranceCheck::new("logits", largest(&logits, &want), 1e-4, "absolute"),
        ToleranceCheck::new("loss", largest(&[loss as f32], &want_loss), 1e-5, "absolute"),
        ToleranceCheck::new("label log-probabilities", largest(&logps, &want_logps), 1e-4, "absolute"),
        padded(&model, &expected, "rightpad")?,
        padded(&model, &expected, "leftpad")?,
        if model.has_encoder() { answered(&model, &expected)? } else { greedy(&model, &expected)? },
    ])
}

/// Rows of several lengths, which PyTorch pads on one side; only real positions are compared.
fn padded(model: &Model, expected: &Expected, side: &str) -> Result<ToleranceCheck> {
    let ids = expected.rows(&format!("{side}.input_ids"))?;
    let (_, len, mask) = expected.integers(&format!("{side}.attention_mask"))?;
    let real = |row: usize| -> Vec<u32> {
        let keep = &mask[row * len..][..len];
        ids[row].iter().zip(keep).filter(|(_, m)| **m == 1).map(|(i, _)| *i).collect()
    };
    let mut rows: Vec<Vec<u32>> = (0..ids.len()).map(real).collect();
    let want = expected.floats(&format!("{side}.logits"))?;
    if model.has_encoder() {
        let read: Vec<usize> = rows.iter().map(Vec::len).collect();
        expected.answered(model, &mut rows)?;
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let got = model.divided_logits(&(), &rows, &|row, i| i >= read[row])?.concat();
        return Ok(ToleranceCheck::new(format!("logits, {side}"), largest(&got, &want), 1e-4, "absolute"));
    }
    let got = model.text_logits(&(), &rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?.concat();
    let vocab = want.len() / mask.len();
    let real = mask.iter().enumerate().filter(|(_, m)| **m == 1);
    let want: Vec<f32> = real.flat_map(|(i, _)| want[i * vocab..][..vocab].to_vec()).collect();
    Ok(ToleranceCheck::new(format!("logits, {side}"), largest(&got, &want), 1e-4, "absolute, real positions"))
}

/// The continuation without sampling, one token at a time behind the keys and values of those before.
fn greedy(model: &Model, expected: &Expected) -> Result<ToleranceCheck> {
    let prompt = expected.rows("greedy_prompt")?.remove(0);
    let want = expected.rows("greedy_ids")?.remove(0);
    let (adapter, mut scratch) = (model.prepare(&())?, Workspace::new(Recompute::Never));
    let (mut kv, mut table) = (PagedKv::new(&model.config, want.len()), BlockTable::default());
    let mut cache = model.own_cache(want.len())?;
    let (mut got, mut next, mut phase) = (prompt.clone(), prompt, Phase::Blocked);
    while got.len() < want.len() {
        let logits = if model.in_kernels() {
            let chunk = Chunk { table: &mut table, ids: &next, adapter: &adapter, logits: 1 };
            model.extend(&mut scratch, &mut kv, phase, &mut [chunk])?
        } else {
            model.extend_in_tensors(&mut [OwnChunk { cache: &mut cache, ids: &next, adapter: &adapter, logits: 1 }])?
        };
        let best = best(&logits);
        got.push(best);
        (next, phase) = (vec![best], Phase::Decode);
    }
    Ok(compared(&got, &want))
}

/// The same of a model with an encoder.
fn answered(model: &Model, expected: &Expected) -> Result<ToleranceCheck> {
    let (prompt, want) = (expected.rows("greedy_prompt")?.remove(0), expected.rows("greedy_ids")?.remove(0));
    let (adapter, mut scratch) = (model.prepare(&())?, Workspace::new(Recompute::Never));
    let mut cache = model.read_prompt(&mut scratch, &adapter, &prompt)?;
    let mut got: Vec<u32> = model.answers_begin_with().into_iter().collect();
    while got.len() < want.len() {
        let chunk = AnswerChunk { cache: &mut cache, ids: &got[got.len() - 1..], adapter: &adapter, logits: 1 };
        let logits = model.extend_answers(&mut scratch, Phase::Decode, &mut [chunk])?;
        got.push(best(&logits));
    }
    Ok(compared(&got, &want))
}

fn best(logits: &[f32]) -> u32 {
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i as u32)
}

fn compared(got: &[u32], want: &[u32]) -> ToleranceCheck {
    let wrong = got.iter().zip(want).filter(|(g, w)| g != w).count();
    ToleranceCheck::new("greedy ids", wrong as f64, 0.0, "tokens that differ")
}
