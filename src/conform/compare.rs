//! The expected tensors of a case, and comparisons with them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::model::{Batch, Model, Targets};

/// One comparison.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ToleranceCheck {
    pub name: String,
    /// Largest error, in the unit of the tolerance.
    pub error: f64,
    pub tolerance: f64,
    pub pass: bool,
    /// Where the largest error is, or what the unit is.
    pub detail: String,
}

impl ToleranceCheck {
    /// Passes when `error` is at most `tolerance` (a NaN does not).
    pub fn new(name: impl Into<String>, error: f64, tolerance: f64, detail: impl Into<String>) -> ToleranceCheck {
        ToleranceCheck { name: name.into(), error, tolerance, pass: error <= tolerance, detail: detail.into() }
    }
}

/// `expected.safetensors`.
pub(super) struct Expected {
    tensors: HashMap<String, Tensor>,
    path: std::path::PathBuf,
}

impl Expected {
    pub(super) fn open(dir: &Path) -> Result<Expected> {
        let path = dir.join("expected.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| {
            Error::model(dir, "expected.safetensors", format!("cannot be read: {e}"), "make the case again with its script")
        })?;
        Ok(Expected { tensors, path })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.tensors.keys().filter_map(|k| k.strip_prefix(prefix)).map(ToString::to_string).collect();
        names.sort();
        names
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            Error::model(&self.path, format!("tensor `{name}`"), "not in the golden file", "make the case again with its script")
        })
    }

    /// As f32, flat.
    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// (rows, columns, values) of a matrix of integers.
    pub(super) fn integers(&self, name: &str) -> Result<(usize, usize, Vec<i64>)> {
        let t = self.tensor(name)?;
        let (rows, cols) = t.dims2()?;
        Ok((rows, cols, t.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?))
    }

    /// `input_ids` (under `prefix`) as rows.
    pub(super) fn rows(&self, name: &str) -> Result<Vec<Vec<u32>>> {
        let (_, cols, ids) = self.integers(name)?;
        Ok(ids.chunks(cols).map(|r| r.iter().map(|i| *i as u32).collect()).collect())
    }

    /// The unpadded batch and its targets (labels other than -100). For a `model` with an encoder, its labels are behind what that
    /// reads.
    pub(super) fn batch(&self, model: &Model) -> Result<(Batch, Targets)> {
        let mut rows = self.rows("input_ids")?;
        let (_, cols, labels) = self.integers("labels")?;
        let read = if model.has_encoder() { rows.first().map_or(0, Vec::len) } else { 0 };
        if model.has_encoder() {
            self.answered(model, &mut rows)?;
        }
        let batch = Batch::right_padded(&rows, 0);
        let targets = Targets::shifted(&batch, |row, i| i >= read && labels[row * cols + i - read] != -100);
        Ok((batch, targets))
    }

    /// Puts the labels behind `rows`, padding in place of none, as transformers' `_shift_right` does.
    pub(super) fn answered(&self, model: &Model, rows: &mut [Vec<u32>]) -> Result<()> {
        let pad = model.config.json["pad_token_id"].as_i64().unwrap_or(0);
        let (_, cols, labels) = self.integers("labels")?;
        let each = rows.iter_mut().zip(labels.chunks(cols));
        let id = |label: &i64| if *label < 0 { pad as u32 } else { *label as u32 };
        each.for_each(|(row, labels)| row.extend(labels.iter().map(id)));
        Ok(())
    }
}

/// Largest absolute difference.
pub(super) fn largest(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    got.iter().zip(want).map(|(g, w)| f64::from((g - w).abs())).fold(0.0, nan_max)
}

/// Maximum that keeps a NaN.
pub(super) fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// `1 - cosine` of two vectors.
pub(super) fn angle(got: &[f32], want: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    1.0 - dot(got, want) / (dot(got, got) * dot(want, want)).sqrt()
}

pub(super) fn flat(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_vec1()?)
}
