//! PEFT adapter directories: `adapter_config.json` and `adapter_model.safetensors`, read as untrusted files and written
//! so that PEFT, vLLM and llama.cpp read them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::config::{CAUSAL, Modules, PeftConfig, SEQ_2_SEQ};
use super::target::Plan;
use super::{Adapter, Start, base_copies, keys, parse};
use crate::error::{Error, Result, nearest};
use crate::files;
use crate::model::Model;
use crate::model::weights::multimodal;

/// Name of the tensors' file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Name of the configuration's file.
pub const CONFIG: &str = "adapter_config.json";

/// Largest adapter that is read into memory.
const MAX_BYTES: u64 = 16 << 30;
/// Largest header of a tensors' file.
const MAX_HEADER: u64 = 64 << 20;

impl Adapter {
    /// Reads an adapter directory for `model`. Every tensor of the file is used and every adapted site has its tensors, or
    /// an error says which is not. What the configuration asks for in vain is in [`Adapter::notes`].
    ///
    /// # Errors
    /// [`Error::Adapter`] naming the file, field or tensor.
    pub fn load(dir: &Path, model: &Model) -> Result<Adapter> {
        Adapter::load_ignoring(dir, model, &[])
    }

    /// As [`Adapter::load`], but the fields of its configuration that are `ignored` may hold what nobody here knows: at the
    /// caller's own risk, and told in [`Adapter::notes`].
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn load_ignoring(dir: &Path, model: &Model, ignored: &[String]) -> Result<Adapter> {
        let (mut config, mut notes) = read(dir, ignored)?;
        config.task_type = task_of(&config, model, dir)?;
        if let Some(Modules::Names(names)) = &mut config.target_modules {
            names.iter_mut().filter(|name| name.contains('.')).for_each(|name| *name = in_name_of(model, name));
        }
        let (plan, idle) = Plan::of_file(&config, model.sites(), &model.fused_parameters()).map_err(|e| in_file(e, dir))?;
        notes.extend(idle);
        let bytes = read_weights(dir)?;
        let mut tensors = in_names_of(model, read_tensors(&bytes, dir, &model.device)?);
        notes.extend(base_copies::take(&mut tensors, model, &plan.full, dir)?);
        let total = tensors.len();
        let mut expected: Vec<String> = Vec::new();
        let adapter = Adapter::build(config, &plan, model, |start, shape| {
            let key = match (&start, expected.last()) {
                (Start::A(path, _), _) => keys(path)[0].clone(),
                (Start::B, Some(previous)) => str::replace(previous, ".lora_A.", ".lora_B."),
                (Start::B | Start::Magnitude(_), None) => unreachable!("they are asked for after their A"),
                (Start::Magnitude(_), Some(previous)) => previous.replace(".lora_B.weight", ".lora_magnitude_vector"),
                (Start::Full(site), _) => keys(&model.sites()[site.0].path)[3].clone(),
            };
            let tensor = tensors.remove(&key).ok_or_else(|| missing(dir, &key, tensors.keys(), expected.len(), total))?;
            let shape = if let Start::Magnitude(_) = start { vec![shape.0] } else { vec![shape.0, shape.1] };
            if tensor.dims() != shape {
                return Err(Error::adapter(
                    dir,
                    format!("tensor `{key}`"),
                    format!("shape is {:?}, the model and adapter_config.json say {shape:?}", tensor.dims()),
                    "the adapter belongs to another base model, or its rank was edited; use the matching pair",
                ));
            }
            expected.push(key);
            Ok(tensor)
        })?;
        match tensors.keys().min() {
            None => Ok(Adapter { notes, ..adapter }),
            Some(left) => Err(Error::adapter(
                dir,
                format!("tensor `{left}`"),
                format!("{} of {total} tensors belong to no target of adapter_config.json", tensors.len()),
                "the adapter was trained for another model or with other targets; restore its adapter_config.json",
            )),
        }
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir` (created if need be), so that a crash never
    /// leaves the tensors of one adapter beside the configuration of another.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let config = self.config.to_json(&self.adapted_names());
        files::write_pair(dir, (WEIGHTS, &self.to_safetensors()?), (CONFIG, config.as_bytes()))
    }

    /// The bytes of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// When a tensor cannot be read back from its device.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let tensors: BTreeMap<&str, Tensor> = self
            .params
            .iter()
            .map(|p| Ok((p.key.as_str(), p.var.as_tensor().to_device(&Device::Cpu)?)))
            .collect::<Result<_>>()?;
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize(tensors, Some(format))
            .map_err(|e| Error::usage("adapter", format!("cannot be serialised: {e}"), "report this as a bug"))
    }

    /// Replaces the trained values by those of a safetensors buffer with the same names and shapes.
    ///
    /// # Errors
    /// [`Error::Adapter`] when a tensor is missing or of another shape.
    pub fn set_from_safetensors(&self, bytes: &[u8], origin: &Path) -> Result<()> {
        let mut tensors = read_tensors(bytes, origin, &Device::Cpu)?;
        for p in &self.params {
            match tensors.remove(&p.key) {
                Some(t) if t.dims() == p.var.dims() => p.var.set(&t.to_device(p.var.device())?)?,
                _ => return Err(missing(origin, &p.key, tensors.keys(), 0, self.params.len())),
            }
        }
        Ok(())
    }
}

fn missing<'a>(dir: &Path, key: &str, there: impl Iterator<Item = &'a String>, found: usize, total: usize) -> Error {
    let near = nearest(key, there.map(String::as_str)).map(|n| format!("; the file has `{n}`")).unwrap_or_default();
    Error::adapter(
        dir,
        format!("tensor `{key}`"),
        format!("not in the file ({found} of its {total} tensors matched so far{near})"),
        "the adapter was saved for another model or by another tool; export it in PEFT's format",
    )
}

/// A complaint about the configuration names the directory it lies in.
fn in_file(error: Error, dir: &Path) -> Error {
    match error {
        Error::Usage { what, why, help } => Error::adapter(dir, format!("adapter_config.json {what}"), why, help),
        other => other,
    }
}

/// Reads and checks `adapter_config.json`.
///
/// # Errors
/// [`Error::Adapter`] when it is missing, malformed or asks for a method that is not implemented.
pub fn read_config(dir: &Path) -> Result<PeftConfig> {
    Ok(read(dir, &[])?.0)
}

/// As [`read_config`], with what is to be told of it; unknown fields in `ignored` are passed over.
pub(super) fn read(dir: &Path, ignored: &[String]) -> Result<(PeftConfig, Vec<String>)> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(Error::adapter(
            dir,
            CONFIG,
            "no such file",
            "give the directory that holds adapter_config.json and adapter_model.safetensors",
        ));
    }
    parse::parse(&files::read_text(&path)?, dir, ignored)
}

/// The bytes of `adapter_model.safetensors`.
pub(super) fn read_weights(dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(WEIGHTS);
    let Ok(meta) = std::fs::metadata(&path) else {
        let pickle = ["adapter_model.bin", "adapter_model.pt"].iter().find(|f| dir.join(f).exists());
        return Err(match pickle {
            Some(f) => Error::adapter(
                dir,
                *f,
                "pickle files can run code and are not read",
                "convert it once in Python: safetensors.torch.save_file(torch.load('adapter_model.bin', weights_only=True), 'adapter_model.safetensors')",
            ),
            None => Error::adapter(dir, WEIGHTS, "no such file", "give the directory that holds adapter_model.safetensors"),
        });
    };
    if meta.len() > MAX_BYTES {
        return Err(Error::adapter(dir, WEIGHTS, format!("{} bytes is no adapter", meta.len()), "use a smaller file"));
    }
    std::fs::read(&path).map_err(Error::io("read", &path))
}

/// What PEFT wraps `model` for. An adapter that says that it is a causal model's is none of an encoder's; the reverse is found on
/// causal adapters in use.
fn task_of(config: &PeftConfig, model: &Model, dir: &Path) -> Result<Option<String>> {
    if !model.has_encoder() {
        return Ok(None);
    }
    if config.task_type.as_deref() == Some(CAUSAL) {
        return Err(Error::adapter(
            dir,
            format!("adapter_config.json `task_type`: {CAUSAL}"),
            format!("the base has an encoder (model_type `{}`), for which it is {SEQ_2_SEQ}", model.config.family.model_type),
            "use the base that the adapter was trained for, or correct the field",
        ));
    }
    Ok(Some(SEQ_2_SEQ.to_string()))
}

/// Keys as `model` has them: adapters of a text model are made over it alone or over a checkpoint that sees as well.
fn in_names_of(model: &Model, tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let own = |key: String| match key.strip_prefix("base_model.model.") {
        Some(name) => format!("base_model.model.{}", in_name_of(model, name)),
        None => key,
    };
    tensors.into_iter().map(|(key, tensor)| (own(key), tensor)).collect()
}

fn in_name_of(model: &Model, name: &str) -> String {
    let nested = model.sites().iter().any(|site| site.path.starts_with(multimodal::PREFIX));
    multimodal::respelled(name, nested)
}

/// Parses owned bytes after capping what the header may claim; tensors become f32.
pub(super) fn read_tensors(bytes: &[u8], dir: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let bad = |why: String| Error::adapter(dir, WEIGHTS, why, "the file is damaged or not safetensors; save the adapter again");
    let header = bytes.first_chunk::<8>().map_or(u64::MAX, |n| u64::from_le_bytes(*n));
    if header > MAX_HEADER || header.saturating_add(8) > bytes.len() as u64 {
        return Err(bad(format!("{} bytes cannot hold a header of {header} bytes", bytes.len())));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if name.contains("lora_embedding_") || name.ends_with(".lora_bias") {
            return Err(Error::adapter(
                dir,
                format!("tensor `{name}`"),
                "this kind of adapter is not supported",
                "use a LoRA or rsLoRA adapter",
            ));
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(bad(format!("tensor `{name}` has type {other:?}, expected F32, F16 or BF16"))),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?;
        let finite = tensor.sum_all()?.to_scalar::<f32>()?.is_finite();
        if !finite {
            return Err(bad(format!("tensor `{name}` holds values that are not numbers")));
        }
        tensors.insert(name, tensor.to_device(device)?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Compute;
    use crate::recipe;

    fn golden(name: &str) -> Model {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name);
        Model::open(&dir, Compute::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn an_adapter_says_whether_its_base_has_an_encoder() {
        for (name, own, other, fails) in [("families/t5", SEQ_2_SEQ, CAUSAL, true), ("models/llama", CAUSAL, SEQ_2_SEQ, false)] {
            let (model, dir) = (golden(name), tempfile::tempdir().unwrap());
            let lora = recipe::Adapter::lora(2, recipe::TargetModules::AllLinear);
            Adapter::new(&lora, None, &model, 1).unwrap().save(dir.path()).unwrap();
            let path = dir.path().join(CONFIG);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(&format!(r#""task_type": "{own}""#)), "{text}");
            Adapter::load(dir.path(), &model).unwrap();
            std::fs::write(&path, text.replace(own, other)).unwrap();
            match Adapter::load(dir.path(), &model) {
                Ok(adapter) => {
                    assert!(!fails, "{name}");
                    adapter.save(dir.path()).unwrap();
                    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
                }
                Err(error) => assert!(fails && error.to_string().contains("`task_type`: CAUSAL_LM"), "{error}"),
            }
        }
    }
}
