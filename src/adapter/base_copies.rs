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

/// The path of the wrapped module whose own weight `key` is said to copy.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;
    use crate::adapter::{Adapter, peft};
    use crate::device::Compute;
    use crate::model::Adapt;

    const CONFIG: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["lm_head"]}"#;
    const HEAD: &str = "base_model.model.lm_head.base_layer.weight";

    fn model(name: &str) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models").join(name);
        Model::open(&path, Compute::F32, &Device::Cpu).unwrap()
    }

    fn own(model: &Model, path: &str) -> Tensor {
        let site = model.sites().iter().position(|s| s.path == path).map(Site).unwrap();
        let weight = model.site_weight(site);
        Tensor::from_vec(weight.to_f32(), (weight.rows, weight.cols), &Device::Cpu).unwrap()
    }

    /// A pair on the head, with further tensors in the file.
    fn load(model: &Model, more: &[(&str, Tensor)]) -> Result<Adapter> {
        let dir = tempfile::tempdir().unwrap();
        let head = model.sites().iter().find(|s| s.path == "lm_head").unwrap();
        let ones = |rows, cols| Tensor::ones((rows, cols), DType::F32, &Device::Cpu).unwrap();
        let mut all = HashMap::from([
            ("base_model.model.lm_head.lora_A.weight".to_string(), ones(2, head.inputs)),
            ("base_model.model.lm_head.lora_B.weight".to_string(), ones(head.outputs, 2)),
        ]);
        all.extend(more.iter().map(|(key, tensor)| (key.to_string(), tensor.clone())));
        candle_core::safetensors::save(&all, dir.path().join(peft::WEIGHTS)).unwrap();
        std::fs::write(dir.path().join(peft::CONFIG), CONFIG).unwrap();
        Adapter::load(dir.path(), model)
    }

    #[test]
    fn a_copy_is_one_in_any_type_of_float() {
        for name in ["llama", "llama3"] {
            let model = model(name);
            let (head, embedding) = (own(&model, "lm_head"), own(&model, "model.embed_tokens"));
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let more = [
                    (HEAD, head.to_dtype(dtype).unwrap()),
                    ("base_model.model.model.embed_tokens.weight", embedding.to_dtype(dtype).unwrap()),
                ];
                let adapter = load(&model, &more).unwrap();
                let site = model.sites().iter().position(|s| s.path == "lm_head").map(Site).unwrap();
                assert!(matches!(adapter.term(site), Some(crate::model::Term::LowRank(_))) && adapter.notes.is_empty());
            }
        }
    }

    #[test]
    fn what_is_no_copy_is_refused_by_name() {
        let model = model("llama3");
        let head = own(&model, "lm_head");
        let rows = head.narrow(0, 0, 3).unwrap();
        for (tensor, expected) in [((&head + 1e-3).unwrap(), "differs from the base's own"), (rows, "shape is [3,")] {
            let error = load(&model, &[(HEAD, tensor)]).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(HEAD) && error.to_string().contains(expected),
                "{error}"
            );
        }
        let stranger = load(&model, &[("base_model.model.other.base_layer.weight", head)]).unwrap_err().to_string();
        assert!(stranger.contains("belong to no target"), "{stranger}");
    }
}
