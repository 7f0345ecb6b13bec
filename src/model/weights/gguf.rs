//! The GGUF container: metadata and the places of tensors, from a header that may lie.
//!
//! Written from the format's specification (ggml, `docs/gguf.md`), versions 2 and 3, little-endian. Every count,
//! length, shape and offset is checked against a limit and against the size of the file before it is used.
//! Refuses to know: what a key or a tensor means.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::weight::WeightType;

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEYS: u64 = 1 << 16;
const MAX_STRING: u64 = 16 << 20;
const MAX_NAME: u64 = 256;
/// Elements of all metadata arrays together (a vocabulary of 256 k with merges has about a million).
const MAX_ELEMENTS: u64 = 1 << 23;
const MAX_ALIGNMENT: u64 = 1 << 20;
const REFETCH: &str = "the file is damaged or not finished; fetch it again";

/// A parsed header.
#[derive(Debug)]
pub(super) struct Gguf {
    pub(super) path: PathBuf,
    pub(super) metadata: BTreeMap<String, MetadataValue>,
    pub(super) tensors: Vec<Tensor>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MetadataValue {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Array(Vec<MetadataValue>),
}

/// A tensor with its data, checked to lie inside the file.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Outermost dimension first (the file has it the other way round).
    pub(super) shape: Vec<usize>,
    pub(super) dtype: WeightType,
    pub(super) data: Mapped,
}

/// A tensor as the header describes it.
struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    dtype: WeightType,
    offset: u64,
    size: usize,
}

impl Gguf {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key or tensor that is wrong; [`Error::Io`] when it cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = Mapped::open(path)?;
        let mut header = Cursor { path, bytes: map.bytes(), at: 0, elements: 0 };
        header.preamble()?;
        let tensors = header.count("number of tensors", MAX_TENSORS)?;
        let keys = header.count("number of metadata keys", MAX_KEYS)?;
        let metadata = header.metadata(keys)?;
        let mut names = HashSet::new();
        let mut described = Vec::new();
        for i in 0..tensors {
            let tensor = header.describe(i)?;
            if !names.insert(tensor.name.clone()) {
                return Err(wrong(path, of_tensor(&tensor.name), "it is in the header twice"));
            }
            described.push(tensor);
        }
        let alignment = alignment(path, &metadata)?;
        let start = header.at.next_multiple_of(alignment);
        let tensors = place(path, &map, start, alignment, described)?;
        Ok(Self { path: path.to_path_buf(), metadata, tensors })
    }
}

impl MetadataValue {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            MetadataValue::Text(s) => Some(s),
            _ => None,
        }
    }

    pub(super) fn count(&self) -> Option<u64> {
        match self {
            MetadataValue::Unsigned(n) => Some(*n),
            MetadataValue::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The number as it was meant: an f32 is read as the shortest decimal it stands for (1e-5, not 9.99999974e-6).
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            MetadataValue::F32(x) => x.to_string().parse().ok(),
            MetadataValue::F64(x) => Some(*x),
            MetadataValue::Unsigned(n) => Some(*n as f64),
            MetadataValue::Signed(n) => Some(*n as f64),
            _ => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self {
            MetadataValue::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub(super) fn array(&self) -> Option<&[MetadataValue]> {
        match self {
            MetadataValue::Array(a) => Some(a),
            _ => None,
        }
    }
}

/// Reads the header front to back.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// Array elements read so far.
    elements: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| wrong(self.path, "header", format!("the file is cut off at byte {}", self.bytes.len())))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64> {
        let n = self.u64()?;
        if n <= limit { Ok(n) } else { Err(wrong(self.path, "header", format!("{what}: {n}, the limit is {limit}"))) }
    }

    fn string(&mut self, what: &str, limit: u64) -> Result<String> {
        let length = self.count(&format!("length of {what}"), limit)?;
        let bytes = self.take(length as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| wrong(self.path, "header", format!("{what} is not UTF-8")))
    }

    /// Magic and version.
    fn preamble(&mut self) -> Result<()> {
        if &self.bytes::<4>()? != MAGIC {
            return Err(wrong(self.path, "header", "it does not start with the letters GGUF"));
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            v if matches!(v.swap_bytes(), 2 | 3) => Err(Error::model(
                self.path,
                "header",
                "it is a big-endian GGUF",
                "convert it with `gguf_convert_endian.py FILE little`",
            )),
            v => {
                let help = "versions 2 and 3 are read: convert the model again with a current llama.cpp";
                Err(Error::model(self.path, "header", format!("GGUF version {v} is not supported"), help))
            }
        }
    }

    fn metadata(&mut self, keys: u64) -> Result<BTreeMap<String, MetadataValue>> {
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = self.string("a metadata key", MAX_NAME)?;
            let kind = self.u32()?;
            let value = self.value(&key, kind)?;
            if metadata.contains_key(&key) {
                return Err(wrong(self.path, format!("key `{key}`"), "it is in the header twice"));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<MetadataValue> {
        if kind == 9 { self.array(key) } else { self.scalar(key, kind) }
    }

    fn scalar(&mut self, key: &str, kind: u32) -> Result<MetadataValue> {
        Ok(match kind {
            0 => MetadataValue::Unsigned(u64::from(self.bytes::<1>()?[0])),
            1 => MetadataValue::Signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => MetadataValue::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => MetadataValue::Signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => MetadataValue::Unsigned(u64::from(self.u32()?)),
            5 => MetadataValue::Signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => MetadataValue::F32(f32::from_le_bytes(self.bytes()?)),
            7 => match self.bytes::<1>()?[0] {
                0 => MetadataValue::Bool(false),
                1 => MetadataValue::Bool(true),
                b => return Err(wrong(self.path, format!("key `{key}`"), format!("{b} is not a truth value"))),
            },
            8 => MetadataValue::Text(self.string(&format!("key `{key}`"), MAX_STRING)?),
            10 => MetadataValue::Unsigned(self.u64()?),
            11 => MetadataValue::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => MetadataValue::F64(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(wrong(self.path, format!("key `{key}`"), format!("value type {kind} is not known"))),
        })
    }

    fn array(&mut self, key: &str) -> Result<MetadataValue> {
        let kind = self.u32()?;
        if kind == 9 {
            return Err(wrong(self.path, format!("key `{key}`"), "arrays of arrays are not supported"));
        }
        let count = self.count(&format!("elements of `{key}`"), MAX_ELEMENTS)?;
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            return Err(wrong(
                self.path,
                format!("key `{key}`"),
                format!("all arrays together have more than {MAX_ELEMENTS} elements"),
            ));
        }
        (0..count).map(|_| self.scalar(key, kind)).collect::<Result<_>>().map(MetadataValue::Array)
    }

    fn describe(&mut self, index: u64) -> Result<TensorInfo> {
        let name = self.string(&format!("the name of tensor {index}"), MAX_NAME)?;
        let fail = |why: String| wrong(self.path, of_tensor(&name), why);
        let dims = self.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(fail(format!("{dims} dimensions; 1 to 4 are possible")));
        }
        let mut shape = (0..dims).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        let kind = self.u32()?;
        let offset = self.u64()?;
        let fail = |why: String| wrong(self.path, of_tensor(&name), why);
        let dtype = weight_type(kind).map_err(|other| match other {
            Some(known) => Error::model(
                self.path,
                of_tensor(&name),
                format!("type {known} is not supported"),
                "fetch the model as F16, BF16, Q8_0, Q4_K_M, Q5_K_M, Q6_K or MXFP4",
            ),
            None => fail(format!("type {kind} is not known")),
        })?;
        shape.reverse();
        let shape: Option<Vec<usize>> = shape.into_iter().map(|d| usize::try_from(d).ok().filter(|d| *d > 0)).collect();
        let shape = shape.ok_or_else(|| fail("a dimension is zero or too large".into()))?;
        let row = shape[shape.len() - 1];
        if !row.is_multiple_of(dtype.block()) {
            return Err(fail(format!("rows of {row} elements are not whole blocks of {} ({})", dtype.block(), dtype.name())));
        }
        let size = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).and_then(|n| dtype.bytes(n));
        let size = size.ok_or_else(|| fail(format!("the shape {shape:?} is too large")))?;
        Ok(TensorInfo { name, shape, dtype, offset, size })
    }
}

/// Slices the data of every tensor: aligned, inside the file, no two overlapping.
fn place(path: &Path, map: &Mapped, start: usize, alignment: usize, described: Vec<TensorInfo>) -> Result<Vec<Tensor>> {
    let mut spans: Vec<(u64, usize)> = Vec::new();
    let mut tensors = Vec::new();
    for t in described {
        let fail = |why: String| wrong(path, of_tensor(&t.name), why);
        if !t.offset.is_multiple_of(alignment as u64) {
            return Err(fail(format!("its offset {} is not a multiple of the alignment {alignment}", t.offset)));
        }
        let at = usize::try_from(t.offset).ok().and_then(|o| start.checked_add(o));
        let data = at.and_then(|at| map.slice(at, t.size));
        let data = data.ok_or_else(|| {
            fail(format!(
                "its {} bytes at {} + {start} end behind the file ({} bytes): the file is cut off",
                t.size,
                t.offset,
                map.bytes().len()
            ))
        })?;
        spans.push((t.offset, t.size));
        tensors.push(Tensor { name: t.name, shape: t.shape, dtype: t.dtype, data });
    }
    spans.sort_unstable();
    match spans.windows(2).find(|w| w[0].0 + w[0].1 as u64 > w[1].0) {
        None => Ok(tensors),
        Some(w) => Err(wrong(path, "tensors", format!("two of them overlap, at offsets {} and {}", w[0].0, w[1].0))),
    }
}

fn alignment(path: &Path, metadata: &BTreeMap<String, MetadataValue>) -> Result<usize> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(32) };
    match value.count() {
        Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n as usize),
        _ => Err(wrong(path, "key `general.alignment`", format!("it must be a power of two up to {MAX_ALIGNMENT}"))),
    }
}

/// The type of ggml's number for it; the name of a type that is known but not read.
fn weight_type(kind: u32) -> std::result::Result<WeightType, Option<&'static str>> {
    Ok(match kind {
        0 => WeightType::F32,
        1 => WeightType::F16,
        2 => WeightType::Q4_0,
        3 => WeightType::Q4_1,
        6 => WeightType::Q5_0,
        7 => WeightType::Q5_1,
        8 => WeightType::Q8_0,
        12 => WeightType::Q4K,
        13 => WeightType::Q5K,
        14 => WeightType::Q6K,
        30 => WeightType::BF16,
        39 => WeightType::Mxfp4,
        other => return Err(unsupported_type(other)),
    })
}

fn unsupported_type(kind: u32) -> Option<&'static str> {
    Some(match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=23 | 29 => "IQ (importance-weighted)",
        24..=27 => "integer",
        28 => "F64",
        34 | 35 => "TQ (ternary)",
        _ => return None,
    })
}

fn of_tensor(name: &str) -> String {
    format!("tensor `{name}`")
}

fn wrong(path: &Path, what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::model(path, what, why, REFETCH)
}
