//! The files of a base model: named tensors where they lie, and a `config.json`, whatever the format.
//!
//! Reading order: [`directory`] (Hugging Face directories), [`safetensors`] (one file of them), [`gguf`] (the GGUF
//! container), [`gguf_model`] (its metadata as a config, its names as Hugging Face's), [`gguf_text`] (its tokenizer).
//! Refuses to know: what a tensor is for, devices, adapters.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `safetensors`, `gguf`, `rope_scaling` | the two containers; llama.cpp's rope divisors |
//! | 1 | `directory`, `multimodal`, `gguf_settings`, `gguf_families`, `gguf_pre`, `vocabulary` | a Hugging Face directory; the text model of what sees as well; GGUF's keys that are not read; its architectures; how its text is split; its pieces, checked |
//! | 2 | `gguf_metadata`, `gguf_text` | GGUF's metadata, key by key; its tokenizer |
//! | 3 | `gguf_experts` | experts |
//! | 4 | `gguf_kinds`, `gguf_delta` | what kinds of layers differ in; delta rules |
//! | 5 | `gguf_rope`, `gguf_config`, `gguf_tensors` | rotations; the rest of a config; tensors as Hugging Face has them |
//! | 6 | `gguf_model` | a GGUF model in Hugging Face's terms |

mod directory;
pub mod multimodal;
mod safetensors;
mod gguf;
mod gguf_settings;
mod gguf_families;
mod gguf_metadata;
mod gguf_experts;
mod gguf_kinds;
mod gguf_delta;
mod gguf_rope;
mod gguf_config;
mod gguf_tensors;
mod gguf_model;
mod rope_scaling;
mod gguf_pre;
mod gguf_text;
mod vocabulary;
#[cfg(test)]
mod malformed_files_tests;
#[cfg(test)]
mod malformed_gguf_tests;
#[cfg(test)]
mod gguf_reading_tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use gguf_families::reads as read_from_gguf;
pub use gguf_text::GgufText;

use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::weight::{RowOrder, Weight, WeightType, decode};

/// An opened base model. Tensors are taken out one by one; [`ModelFiles::finish`] complains about what nobody took.
#[derive(Debug)]
pub struct ModelFiles {
    /// The directory or the `.gguf` file.
    pub path: PathBuf,
    /// In the form of Hugging Face's `config.json`; for GGUF made from the metadata. Of a checkpoint that sees as well, its text
    /// model's.
    pub config: serde_json::Value,
    /// The whole of such a checkpoint's; its text model's names begin with [`multimodal::PREFIX`].
    pub whole: Option<serde_json::Value>,
    /// Tensors of parts that are not read, as they are.
    pub carried: Vec<Stored>,
    /// By Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub tensors: BTreeMap<String, Stored>,
    pub format: Format,
    /// Number of tensors when opened.
    total: usize,
}

/// Kind of file that a base was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    HfDirectory,
    Gguf,
}

impl Format {
    /// What lies at `path`, by its kind and its first bytes.
    ///
    /// # Errors
    /// [`Error::Model`] for a file that no base is read from, with the reason; [`Error::Io`] when it cannot be read.
    pub fn of(path: &Path) -> Result<Format> {
        let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
        match () {
            () if kind.is_dir() => Ok(Format::HfDirectory),
            () if kind.is_file() && is_gguf(path)? => Ok(Format::Gguf),
            () => Err(refuse_file(path)),
        }
    }
}

/// One tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Stored {
    pub name: String,
    /// What the file calls it: other programs know it so.
    pub written: String,
    /// The file that holds it.
    pub file: PathBuf,
    pub data: Mapped,
    /// The second half of each matrix's rows, of [`RowOrder::InTurn`].
    pub second: Option<Mapped>,
    pub dtype: WeightType,
    /// Row-major, outermost dimension first, as Hugging Face has it.
    pub shape: Vec<usize>,
    pub order: RowOrder,
    /// The file has the last two dimensions, of which Hugging Face has the inputs first, the other way round.
    pub turned: bool,
}

impl ModelFiles {
    /// Opens a Hugging Face directory or a GGUF file. Headers are checked here (sizes, names, truncation);
    /// weights are only mapped.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Io`], naming the file and the tensor or key that is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let format = Format::of(path)?;
        let (config, tensors) = match format {
            Format::HfDirectory => directory::open(path)?,
            Format::Gguf => gguf_model::open(path)?,
        };
        let multimodal::Split { config, whole, tensors, carried } = multimodal::split(path, config, tensors)?;
        let total = tensors.len();
        Ok(Self { path: path.to_path_buf(), config, whole, tensors, carried, format, total })
    }

    /// Removes a tensor from the ones that are left and returns it.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none of that name, with the nearest names there are.
    pub fn take(&mut self, name: &str) -> Result<Stored> {
        self.tensors.remove(name).ok_or_else(|| {
            let taken = self.total - self.tensors.len();
            let near = nearest_names(name, self.tensors.keys());
            Error::model(
                &self.path,
                format!("tensor `{name}`"),
                format!("it is not there ({taken} of {} tensors were used before it)", self.total),
                format!("the file does not fit its config ({}); nearest names left: {near}", self.model_type()),
            )
        })
    }

    /// Checks that every tensor was taken. A head that is `tied` to the embedding may be left.
    ///
    /// # Errors
    /// [`Error::Model`] naming the tensors that nobody took.
    pub fn finish(mut self, tied: bool) -> Result<()> {
        if tied {
            self.tensors.remove("lm_head.weight");
        }
        if self.tensors.is_empty() {
            return Ok(());
        }
        let left: Vec<&str> = self.tensors.keys().take(8).map(String::as_str).collect();
        let more = self.tensors.len() - left.len();
        let names = left.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::model(
            &self.path,
            format!("{} of {} tensors", self.tensors.len(), self.total),
            format!("the model `{}` has no use for them: {names}", self.model_type()),
            "the config does not describe these weights: check config.json (num_hidden_layers or n_layer, heads, biases, model_type)",
        ))
    }

    fn model_type(&self) -> &str {
        model_type(&self.config)
    }
}

impl Stored {
    /// Number of elements. Cannot overflow: readers have checked it against the size of the file.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor as a frozen matrix; a vector is one row.
    ///
    /// # Errors
    /// [`Error::Model`] when it has another number of dimensions or rows that its row order cannot describe.
    pub fn matrix(&self) -> Result<Weight> {
        let (rows, cols) = match *self.shape.as_slice() {
            [cols] if self.order == RowOrder::Plain => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(self.wrong(format!("a matrix was expected, its shape is {:?}", self.shape))),
        };
        self.check_order(rows)?;
        Ok(self.weight(self.data.clone(), None, rows, cols))
    }

    fn weight(&self, data: Mapped, second: Option<Mapped>, rows: usize, cols: usize) -> Weight {
        Weight { data, second, dtype: self.dtype, rows, cols, order: self.order }
    }

    /// The matrices of a tensor of shape `[count, rows, cols]`, as they lie in the file: of one that is [`Stored::turned`] they have
    /// `cols` rows.
    ///
    /// # Errors
    /// [`Error::Model`] when it has another shape.
    pub fn matrices(&self, shape: [usize; 3]) -> Result<Vec<Weight>> {
        if self.shape != shape || !matches!(self.order, RowOrder::Plain | RowOrder::InTurn) {
            return Err(self.wrong(format!("its shape is {:?}, the configuration says {shape:?}", self.shape)));
        }
        let [count, rows, cols] = shape;
        let (rows, cols) = if self.turned { (cols, rows) } else { (rows, cols) };
        let part = |of: &Mapped, i: usize| {
            let bytes = of.bytes().len() / count;
            of.slice(i * bytes, bytes).ok_or_else(|| self.wrong("it ends too early".to_string()))
        };
        let weight = |i: usize| {
            let second = self.second.as_ref().map(|second| part(second, i)).transpose()?;
            Ok(self.weight(part(&self.data, i)?, second, rows, cols))
        };
        (0..count).map(weight).collect()
    }

    /// Bytes that it takes in the file.
    pub fn stored_bytes(&self) -> usize {
        self.data.bytes().len() + self.second.as_ref().map_or(0, |second| second.bytes().len())
    }

    /// All elements as f32, row-major, in our row order.
    ///
    /// # Errors
    /// [`Error::Model`] when its row order cannot describe its shape.
    pub fn vector_f32(&self) -> Result<Vec<f32>> {
        match (self.shape.as_slice(), self.order) {
            // A vector with rows in another order (a bias) is a matrix of one column.
            (&[rows], RowOrder::Interleaved { .. } | RowOrder::Tiled { .. }) if self.dtype.block() == 1 => {
                self.check_order(rows)?;
                Ok(self.weight(self.data.clone(), None, rows, 1).to_f32())
            }
            (&[count, rows, cols], _) if self.turned => {
                let mut out = Vec::with_capacity(self.count());
                for weight in self.matrices([count, rows, cols])? {
                    // (cols, rows)
                    let values = weight.to_f32();
                    out.extend((0..rows).flat_map(|row| values.iter().skip(row).step_by(rows)));
                }
                Ok(out)
            }
            (_, RowOrder::Plain) => {
                let mut out = vec![0f32; self.count()];
                decode(self.dtype, self.data.bytes(), &mut out);
                Ok(out)
            }
            _ => Ok(self.matrix()?.to_f32()),
        }
    }

    fn check_order(&self, rows: usize) -> Result<()> {
        match self.order {
            RowOrder::Interleaved { heads } if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) => {
                Err(self.wrong(format!("{rows} rows are not {heads} heads of an even size")))
            }
            RowOrder::Tiled { first, groups, size } => match rows.checked_sub(first) {
                Some(rest) if rest > 0 && rest.is_multiple_of(groups * size) => Ok(()),
                _ => Err(self.wrong(format!("{rows} rows are not {first} and heads of {size} for each of {groups}"))),
            },
            _ => Ok(()),
        }
    }

    fn wrong(&self, why: String) -> Error {
        Error::model(
            &self.file,
            format!("tensor `{}`", self.name),
            why,
            "the weights and the config do not belong together; fetch both again",
        )
    }
}

/// What other programs call a tensor in files of a family: a gpt_neox model's head is `embed_out` in all of them.
pub fn written(model_type: &str, name: &str) -> String {
    match name.strip_prefix("lm_head.").filter(|_| model_type == "gpt_neox") {
        Some(rest) => format!("embed_out.{rest}"),
        None => name.to_string(),
    }
}

fn model_type(config: &serde_json::Value) -> &str {
    config.get("model_type").and_then(serde_json::Value::as_str).unwrap_or("without model_type")
}

fn is_gguf(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = [0u8; 4];
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let got = file.take(4).read(&mut magic).map_err(Error::io("read", path))?;
    Ok((got == 4 && &magic == gguf::MAGIC) || extension(path) == "gguf")
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether a file name is one of PyTorch's pickle formats.
fn is_pickle(path: &Path) -> bool {
    ["bin", "pt", "pth", "ckpt", "pkl"].contains(&extension(path).as_str())
}

/// The remedy for weights that only exist as a pickle.
const UNPICKLE: &str = "pickle files can run code and are never read; convert once with Python: \
    `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW, safe_serialization=True)`, and copy the tokenizer files to NEW";

fn refuse_file(path: &Path) -> Error {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if is_pickle(path) {
        Error::model(path, name, "it is a PyTorch pickle", UNPICKLE)
    } else if extension(path) == "safetensors" {
        Error::model(
            path,
            name,
            "a safetensors file alone says nothing about the model",
            "give the directory that holds it and config.json",
        )
    } else {
        Error::model(
            path,
            name,
            "it is neither a directory nor a GGUF file",
            "give a Hugging Face directory (config.json, *.safetensors) or a .gguf file",
        )
    }
}

/// The three names most like `name`, quoted.
fn nearest_names<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> String {
    let mut near: Vec<(f64, &String)> = names.map(|n| (strsim::normalized_damerau_levenshtein(name, n), n)).collect();
    near.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(y.1)));
    let quoted: Vec<String> = near.iter().take(3).map(|(_, n)| format!("`{n}`")).collect();
    if quoted.is_empty() { "none".into() } else { quoted.join(", ") }
}
