//! What an adapter directory holds, without its base model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::base_copies;
use super::config::{Modules, PeftConfig};
use super::expression::Expression;
use super::parameters::ends_in;
use super::peft;
use super::target::first;
use crate::error::{Error, Result};
use crate::files;

/// The recipe that is saved beside an adapter.
pub const RECIPE: &str = "recipe.toml";
/// Name of the account of a run, which is written when it is complete.
pub const TRACE: &str = "trace.json";

/// Refuses what is no name of a folder directly below the root: 1 to 128 of `A-Z a-z 0-9 . _ -`, the first no dot.
///
/// # Errors
/// [`Error::Usage`] saying so.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=128).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::usage(
        "the adapter's name",
        "it is not 1 to 128 letters, digits, dots, dashes and underscores, or begins with a dot",
        "give the name of a folder directly below the folder of adapters, not a path",
    ))
}

/// An adapter directory at a glance.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub dir: PathBuf,
    /// Hub id of the base model.
    pub base: Option<String>,
    /// `lora` or `rslora`.
    pub method: &'static str,
    pub rank: usize,
    pub alpha: f64,
    /// `alpha / rank` or `alpha / sqrt(rank)`; patterns may give single modules another one.
    pub scale: f64,
    pub targets: Option<Modules>,
    pub modules_to_save: Vec<String>,
    /// Trained values.
    pub parameters: usize,
    /// Size of the tensors' file.
    pub bytes: usize,
    /// SHA-256 of the tensors' file.
    pub sha256: String,
    /// The recipe it was trained with, if it lies there.
    pub recipe: Option<PathBuf>,
    pub modules: Vec<Module>,
    pub full: Vec<Full>,
    /// What in the files has no effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A low-rank pair, or those of all experts on a parameter. Norms are Frobenius norms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Module {
    /// As Hugging Face names it; of a parameter of all experts, its own.
    pub path: String,
    pub inputs: usize,
    pub outputs: usize,
    pub rank: usize,
    pub scale: f64,
    pub norm_a: f64,
    pub norm_b: f64,
    /// Of `scale · B·A`, what is added to the weight.
    pub norm_delta: f64,
}

/// A matrix trained in full.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Full {
    pub path: String,
    pub shape: Vec<usize>,
    pub norm: f64,
}

/// Reads an adapter directory and measures every tensor in it. Unknown fields of its configuration in `ignored` are passed over.
///
/// # Errors
/// [`Error::Adapter`] naming the file, field or tensor that is missing, malformed or left over.
pub fn inspect(dir: &Path, ignored: &[String]) -> Result<Inspection> {
    let (config, mut notes) = peft::read(dir, ignored)?;
    let bytes = peft::read_weights(dir)?;
    let mut tensors = peft::read_tensors(&bytes, dir, &Device::Cpu)?;
    notes.extend(copies(&mut tensors));
    let parameters = tensors.values().map(Tensor::elem_count).sum();
    let (ranks, alphas) = (patterns("rank_pattern", &config.rank_pattern)?, patterns("alpha_pattern", &config.alpha_pattern)?);
    let modules = pairs(&mut tensors, dir)?
        .into_iter()
        .map(|(path, a, b)| module(&config, [&ranks, &alphas], dir, path, [&a, &b]))
        .collect::<Result<Vec<_>>>()?;
    let full = tensors.into_iter().map(|(key, tensor)| full(dir, &key, &tensor)).collect::<Result<Vec<_>>>()?;
    let recipe = dir.join(RECIPE);
    Ok(Inspection {
        dir: dir.to_path_buf(),
        method: match (config.use_dora, config.use_rslora) {
            (true, true) => "DoRA with rsLoRA's scale",
            (true, false) => "dora",
            (false, true) => "rslora",
            (false, false) => "lora",
        },
        rank: config.r,
        alpha: config.lora_alpha,
        scale: scale(&config, config.lora_alpha, config.r),
        base: config.base_model_name_or_path,
        targets: config.target_modules,
        modules_to_save: config.modules_to_save.unwrap_or_default(),
        parameters,
        bytes: bytes.len(),
        sha256: files::sha256(&bytes),
        recipe: recipe.is_file().then_some(recipe),
        modules,
        full,
        notes,
    })
}

/// Takes out copies of the base's own matrices, which nobody trained; what is told of them.
fn copies(tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    let keys: Vec<String> = tensors.keys().filter(|key| base_copies::path(key).is_some()).cloned().collect();
    let each = |key: String| {
        tensors.remove(&key);
        format!("tensor `{key}` is a copy of the base's own, compared with it when the adapter is loaded")
    };
    keys.into_iter().map(each).collect()
}

/// The directories in `dir` (and `dir` itself) that hold an adapter, by name.
///
/// # Errors
/// [`Error::Io`] when `dir` cannot be listed.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = vec![dir.to_path_buf()];
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        found.push(entry.map_err(Error::io("read", dir))?.path());
    }
    found.retain(|path| path.join(peft::CONFIG).is_file());
    found.sort();
    Ok(found)
}

/// An adapter's directory, and what it holds or why it cannot be used.
#[derive(Debug)]
pub struct Found {
    pub dir: PathBuf,
    pub inspection: Result<Inspection>,
}

/// Every adapter that [`find`] finds, looked into.
///
/// # Errors
/// [`Error::Usage`] when there is no such folder; as [`find`].
pub fn all(dir: &Path) -> Result<Vec<Found>> {
    if !dir.is_dir() {
        let help = "name a folder of adapters: `lorakit adapter ls DIR`";
        return Err(Error::usage(dir.display().to_string(), "there is no such folder", help));
    }
    Ok(find(dir)?.into_iter().map(|dir| Found { inspection: inspect(&dir, &[]), dir }).collect())
}

/// Takes every A with its B, and their magnitudes, out of `tensors`: (path, A, B).
fn pairs(tensors: &mut BTreeMap<String, Tensor>, dir: &Path) -> Result<Vec<(String, Tensor, Tensor)>> {
    let keys: Vec<String> = tensors.keys().filter(|key| key.contains(".lora_")).cloned().collect();
    let mut pairs = Vec::new();
    for key in keys.iter().filter(|key| key.contains(".lora_A.")) {
        let twin = key.replace(".lora_A.", ".lora_B.");
        if let (Some(a), Some(b)) = (tensors.remove(key), tensors.remove(&twin)) {
            let path = key.split(".lora_A.").next().unwrap_or(key);
            tensors.remove(&format!("{path}.lora_magnitude_vector"));
            pairs.push((plain(path), a, b));
        } else {
            return Err(alone(dir, key));
        }
    }
    match keys.iter().find(|key| tensors.contains_key(*key)) {
        Some(key) => Err(alone(dir, key)),
        None => Ok(pairs),
    }
}

fn alone(dir: &Path, key: &str) -> Error {
    Error::adapter(
        dir,
        format!("tensor `{key}`"),
        "its other half (A or B) is not in the file",
        "the file is incomplete; save the adapter again",
    )
}

/// A path as Hugging Face names it.
fn plain(path: &str) -> String {
    path.strip_prefix("base_model.model.").unwrap_or(path).to_string()
}

/// The expressions of a table of patterns with their values.
fn patterns(key: &str, table: &serde_json::Map<String, serde_json::Value>) -> Result<Vec<(Expression, f64)>> {
    let each =
        |(pattern, value): (&String, &serde_json::Value)| Ok((Expression::ending(key, pattern)?, value.as_f64().unwrap_or(0.0)));
    table.iter().map(each).collect()
}

/// Parameters of all experts, in the order in which the modules of transformers declare them.
const FUSED: [&str; 2] = ["gate_up_proj", "down_proj"];

/// The parameter that a pair at `path` is on, where `target_parameters` names it; the pair of the first of several lies in a
/// `base_layer`.
fn parameter(config: &PeftConfig, path: &str) -> Option<String> {
    let (module, inner) = path.strip_suffix(".base_layer").map_or((path, false), |module| (module, true));
    let is_named = |path: &String| config.target_parameters.iter().any(|name| ends_in(path, name));
    let names = FUSED.iter().filter(|_| ends_in(module, "experts"));
    let mut named = names.map(|name| format!("{module}.{name}")).filter(is_named);
    let found = if inner { named.next() } else { named.next_back() };
    found.or_else(|| Some(format!("{module}.weight")).filter(is_named))
}

/// Of a pair, or of those of all experts together: A `(E·r, i)`, the expert slowest, and B `(o, r·E)`, the expert fastest.
fn module(
    config: &PeftConfig,
    [ranks, alphas]: [&[(Expression, f64)]; 2],
    dir: &Path,
    path: String,
    [a, b]: [&Tensor; 2],
) -> Result<Module> {
    let ((rows, inputs), (outputs, columns)) = match (a.dims(), b.dims()) {
        (&[r, i], &[o, s]) => ((r, i), (o, s)),
        _ => return Err(odd(dir, &path, a, b)),
    };
    let parameter = parameter(config, &path);
    let path = parameter.clone().unwrap_or(path);
    let rank = match parameter {
        Some(_) => first(ranks, &path)?.map_or(config.r, |rank| rank as usize),
        None => rows,
    };
    if rows != columns || rows == 0 || !rows.is_multiple_of(rank) {
        return Err(odd(dir, &path, a, b));
    }
    let experts = rows / rank;
    let alpha = first(alphas, &path)?.unwrap_or(config.lora_alpha);
    let scale = scale(config, alpha, rank);
    let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
    let (norm_a, norm_b) = (norm(&a)?, norm(&b)?);
    let (a, b) = (a.reshape((experts, rank, inputs))?, b.reshape((outputs, rank, experts))?.permute((2, 0, 1))?.contiguous()?);
    // ‖BA‖² = tr(AᵀBᵀBA) = ⟨BᵀB, AAᵀ⟩: two r × r matrices instead of one of the weight's size.
    let gram_a = a.matmul(&a.t()?.contiguous()?)?; // (E, r, i) · (E, i, r)
    let gram_b = b.t()?.contiguous()?.matmul(&b)?; // (E, r, o) · (E, o, r)
    let squared = (gram_a * gram_b)?.sum_all()?.to_scalar::<f64>()?;
    Ok(Module { path, inputs, outputs, rank, scale, norm_a, norm_b, norm_delta: scale.abs() * squared.max(0.0).sqrt() })
}

fn odd(dir: &Path, path: &str, a: &Tensor, b: &Tensor) -> Error {
    Error::adapter(
        dir,
        format!("module `{path}`"),
        format!("A of shape {:?} and B of shape {:?} have no rank in common", a.dims(), b.dims()),
        "the file is damaged; save the adapter again",
    )
}

fn full(dir: &Path, key: &str, tensor: &Tensor) -> Result<Full> {
    let Some(path) = key.strip_suffix(".weight") else {
        return Err(Error::adapter(
            dir,
            format!("tensor `{key}`"),
            "it is neither half of a pair nor the weight of a module",
            "save the adapter again in PEFT's format",
        ));
    };
    Ok(Full { path: plain(path), shape: tensor.dims().to_vec(), norm: norm(&tensor.to_dtype(DType::F64)?)? })
}

/// `alpha / r` (Hu et al. 2021), rsLoRA `alpha / sqrt(r)` (Kalajdzievski 2023).
fn scale(config: &PeftConfig, alpha: f64, rank: usize) -> f64 {
    if config.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
}

fn norm(x: &Tensor) -> Result<f64> {
    Ok(x.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    type NamedShapes<'a> = &'a [(&'a str, (usize, usize))];

    /// A directory with the given tensors `(key, shape)`; values are their index / 10.
    fn directory(tensors: NamedShapes, config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let tensor = |(rows, cols): (usize, usize)| {
            let values: Vec<f32> = (0..rows * cols).map(|i| i as f32 / 10.0).collect();
            Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
        };
        let all = tensors.iter().map(|(key, shape)| (format!("base_model.model.{key}"), tensor(*shape))).collect();
        candle_core::safetensors::save(&all, dir.path().join(peft::WEIGHTS)).unwrap();
        std::fs::write(dir.path().join(peft::CONFIG), config).unwrap();
        dir
    }

    const CONFIG: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"],
        "alpha_pattern": {"layers.1.q_proj": 10}, "base_model_name_or_path": "a/b"}"#;

    #[test]
    fn norms_are_those_of_the_product() {
        let pair = |layer: usize| {
            [format!("model.layers.{layer}.q_proj.lora_A.weight"), format!("model.layers.{layer}.q_proj.lora_B.weight")]
        };
        let ([a, b], [c, d]) = (pair(0), pair(1));
        let tensors = [(&*a, (2, 3)), (&*b, (4, 2)), (&*c, (2, 3)), (&*d, (4, 2)), ("lm_head.weight", (1, 2))];
        let dir = directory(&tensors, CONFIG);
        let found = inspect(dir.path(), &[]).unwrap();
        assert_eq!((found.parameters, found.modules.len(), found.base.as_deref()), (2 * (6 + 8) + 2, 2, Some("a/b")));
        let [first, second] = &found.modules[..] else { panic!() };
        assert_eq!((first.path.as_str(), first.scale, second.scale), ("model.layers.0.q_proj", 3.0, 5.0));
        let (a, b) = ([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]], [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5], [0.6, 0.7]]);
        let mut squared = 0.0;
        for row in b {
            for (x, y) in a[0].iter().zip(a[1]) {
                let x: f64 = row[0] * x + row[1] * y;
                squared += x * x;
            }
        }
        assert!((first.norm_delta - 3.0 * squared.sqrt()).abs() < 1e-6, "{first:?}");
        assert!((first.norm_a - 0.55f64.sqrt()).abs() < 1e-6, "{first:?}");
        assert_eq!(found.full, [Full { path: "lm_head".into(), shape: vec![1, 2], norm: found.full[0].norm }]);
        assert_eq!(found.sha256, files::sha256_file(&dir.path().join(peft::WEIGHTS)).unwrap());
        assert_eq!(find(dir.path().parent().unwrap()).unwrap().iter().filter(|d| *d == dir.path()).count(), 1);
    }

    #[test]
    fn halves_and_strangers_are_named() {
        let cases: [(NamedShapes, &str); 4] = [
            (&[("x.lora_A.weight", (2, 3))], "x.lora_A"),
            (&[("x.lora_B.weight", (3, 2))], "x.lora_B"),
            (&[("x.lora_A.weight", (2, 3)), ("x.lora_B.weight", (4, 3))], "no rank in common"),
            (&[("x.what", (2, 3))], "x.what"),
        ];
        for (tensors, expected) in cases {
            let error = inspect(directory(tensors, CONFIG).path(), &[]).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{error}");
        }
    }
}
