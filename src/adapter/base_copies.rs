//! Copies of the base's own matrices in an adapter's file. PEFT writes the whole head or embedding beside a pair that acts
//! on it (`save_embedding_layers`, `peft/utils/save_and_load.py`); a copy says nothing new as long as it is one.
//!
//! Refuses to know pairs and configurations.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::kernels::weight::{Weight, WeightType};
use crate::model::{Model, Site, SiteKind};

/// Where PEFT puts the wrapped layer's own tensors.
const WRAPPED: &str = ".base_layer.weight";
/// How far a copy may be from a quantised base: size of the difference by size of the matrix. Q4_0 of a normal
/// distribution is 0.1 off, another matrix 1.4.
const QUANTISED: f64 = 0.25;

/// The path of the module whose weight `key` copies; only the head and the embedding are copied without a wrapper.
pub(super) fn path(key: &str) -> Option<&str> {
    key.strip_prefix("base_model.model.")?.strip_suffix(WRAPPED)
}

/// Takes copies out of `tensors` after comparing each with the model's own; `full` are the sites that are replaced.
/// Gives what is to be told.
///
/// # Errors
/// [`Error::Adapter`] naming a tensor that is not what the base has.
pub(super) fn take(tensors: &mut BTreeMap<String, Tensor>, model: &Model, full: &[Site], dir: &Path) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (i, info) in model.sites().iter().enumerate() {
        let base = format!("base_model.model.{}", info.path);
        let mut keys = vec![format!("{base}{WRAPPED}")];
        if matches!(info.kind, SiteKind::Head | SiteKind::Embedding) && !full.contains(&Site(i)) {
            keys.push(format!("{base}.weight"));
        }
        for key in keys {
            if let Some(tensor) = tensors.remove(&key) {
                notes.extend(compare(&key, &tensor, model.site_weight(Site(i)), dir)?);
            }
        }
    }
    Ok(notes)
}

fn compare(key: &str, copy: &Tensor, weight: &Weight, dir: &Path) -> Result<Option<String>> {
    let fail = |why: String, help: &str| Err(Error::adapter(dir, format!("tensor `{key}`"), why, help));
    if copy.dims() != [weight.rows, weight.cols] {
        let why = format!("shape is {:?}, the base's own is [{}, {}]", copy.dims(), weight.rows, weight.cols);
        return fail(
            why,
            "the base's vocabulary was resized, or the adapter belongs to another base; use the base it was trained on",
        );
    }
    let found = difference(&copy.flatten_all()?.to_vec1::<f32>()?, weight);
    let quantised = !matches!(weight.dtype, WeightType::F32 | WeightType::F16 | WeightType::BF16);
    match found {
        _ if found.exact => Ok(None),
        _ if quantised && found.relative <= QUANTISED => Ok(Some(format!(
            "tensor `{key}` is a copy of the base's own before it was quantised ({:.1} % off); the quantised one is used",
            100.0 * found.relative
        ))),
        _ => fail(
            format!(
                "differs from the base's own by up to {:e}: the whole matrix was changed, not only its low-rank pair",
                found.largest
            ),
            "use the base it was trained on; where the matrix was trained as well, merge in PEFT (`merge_and_unload`) and use the result as base",
        ),
    }
}

/// How far a copy is from the base's matrix.
struct Difference {
    /// The same values, or the same after rounding to bf16 or f16.
    exact: bool,
    largest: f32,
    /// Frobenius norm of the difference by that of the matrix.
    relative: f64,
}

fn difference(copy: &[f32], weight: &Weight) -> Difference {
    let (mut same, mut as_bf16, mut as_f16) = (true, true, true);
    let (mut largest, mut off, mut all) = (0f32, 0f64, 0f64);
    let mut own = vec![0f32; weight.cols];
    for (row, copy) in copy.chunks_exact(weight.cols.max(1)).enumerate() {
        weight.read(row, 0, &mut own);
        for (&a, &b) in copy.iter().zip(&own) {
            same &= a == b;
            as_bf16 &= a == bf16::from_f32(b).to_f32();
            as_f16 &= a == f16::from_f32(b).to_f32();
            largest = largest.max((a - b).abs());
            off += f64::from(a - b).powi(2);
            all += f64::from(b).powi(2);
        }
    }
    Difference { exact: same || as_bf16 || as_f16, largest, relative: if off == 0.0 { 0.0 } else { (off / all).sqrt() } }
}
