//! One safetensors file as named slices of its mapping.
//!
//! The header is foreign input: its size, the number of tensors, every shape and every offset are checked before
//! anything is believed (format: `huggingface/safetensors`, README "Format").
//! Refuses to know: configs, other files.

use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::Stored;
use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::weight::{RowOrder, WeightType};

/// Largest header that the reference implementation accepts.
const MAX_HEADER: usize = 100_000_000;
const MAX_TENSORS: usize = 200_000;
const REFETCH: &str = "the file is damaged or not a safetensors file; fetch it again";

/// One entry of the header.
#[derive(Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The entries in file order, with duplicates still visible.
struct Header(Vec<(String, TensorEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Header, M::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            if entries.len() == MAX_TENSORS {
                return Err(serde::de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            entries.push((name, map.next_value::<TensorEntry>()?));
        }
        Ok(Header(entries))
    }
}

/// Maps `path` and returns its tensors but those that `ignore` names.
///
/// # Errors
/// [`Error::Model`] naming the file and the tensor that is wrong; [`Error::Io`] when it cannot be read.
pub(super) fn read(path: &Path, ignore: impl Fn(&str) -> bool) -> Result<Vec<Stored>> {
    let map = Mapped::open(path)?;
    let (header, data) = split(path, &map)?;
    let mut header: Header = serde_json::from_slice(header.bytes())
        .map_err(|e| wrong(path, "header", format!("it is not a valid table of tensors: {e}")))?;
    check_layout(path, &mut header.0, data.bytes().len())?;
    let wanted = header.0.into_iter().filter(|(name, _)| !ignore(name));
    wanted.map(|(name, entry)| stored(path, &data, name, entry)).collect()
}

/// Header and data of a file: eight bytes of header length, the header (JSON), the data.
fn split(path: &Path, map: &Mapped) -> Result<(Mapped, Mapped)> {
    let total = map.bytes().len();
    let Some((length, _)) = map.bytes().split_first_chunk::<8>() else {
        return Err(wrong(path, "header", format!("the file has {total} bytes, too few for a header")));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER);
    let header = header.ok_or_else(|| wrong(path, "header", format!("it claims {length} bytes, the limit is {MAX_HEADER}")))?;
    let short = || wrong(path, "header", format!("it claims {header} bytes but the file has {total}: the file is cut off"));
    let data = 8 + header;
    Ok((map.slice(8, header).ok_or_else(short)?, map.slice(data, total.saturating_sub(data)).ok_or_else(short)?))
}

/// Sizes agree with shapes, names are unique, and the tensors cover the data from first to last byte.
fn check_layout(path: &Path, entries: &mut [(String, TensorEntry)], data: usize) -> Result<()> {
    let mut names = std::collections::HashSet::new();
    for (name, entry) in entries.iter() {
        if !names.insert(name) {
            return Err(wrong(path, tensor(name), "it is in the header twice".into()));
        }
        let (start, end) = entry.data_offsets;
        let size = element_bits(&entry.dtype)
            .and_then(|bits| entry.shape.iter().try_fold(bits, |n, d| n.checked_mul(*d)))
            .filter(|bits| bits.is_multiple_of(8))
            .ok_or_else(|| {
                wrong(path, tensor(name), format!("type {} with shape {:?} is not possible", entry.dtype, entry.shape))
            })?
            / 8;
        if end.checked_sub(start) != Some(size) {
            let why = format!("{} {:?} needs {size} bytes, its place in the file is {start}..{end}", entry.dtype, entry.shape);
            return Err(wrong(path, tensor(name), why));
        }
    }
    entries.sort_by_key(|(_, e)| e.data_offsets);
    let mut at = 0;
    for (name, entry) in entries.iter() {
        let (start, end) = entry.data_offsets;
        if end > data {
            return Err(wrong(path, tensor(name), format!("it ends at byte {end} of {data}: the file is cut off")));
        }
        if start != at {
            let what = if start < at { "it overlaps the tensor before it" } else { "there is a hole before it" };
            return Err(wrong(path, tensor(name), format!("{what} (starts at {start}, the last one ended at {at})")));
        }
        at = end;
    }
    if at != data {
        return Err(wrong(path, "data", format!("the tensors take {at} bytes, the file has {data}")));
    }
    Ok(())
}

fn stored(path: &Path, data: &Mapped, name: String, entry: TensorEntry) -> Result<Stored> {
    let dtype = match entry.dtype.as_str() {
        "F32" => WeightType::F32,
        "F16" => WeightType::F16,
        "BF16" => WeightType::BF16,
        other => {
            let why = format!("weights of type {other} are not supported (F32, F16 and BF16 are)");
            let help = "fetch the unquantised model, or convert it: `AutoModelForCausalLM.from_pretrained(DIR, dtype=\"bfloat16\").save_pretrained(NEW)`";
            return Err(Error::model(path, tensor(&name), why, help));
        }
    };
    let (start, end) = entry.data_offsets;
    let data = data.slice(start, end - start).ok_or_else(|| wrong(path, tensor(&name), "it lies outside the file".into()))?;
    Ok(Stored {
        written: name.clone(),
        name,
        file: path.to_path_buf(),
        data,
        second: None,
        dtype,
        shape: entry.shape,
        order: RowOrder::Plain,
        turned: false,
    })
}

/// Bits of one element of the format's types, supported or not.
fn element_bits(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

fn tensor(name: &str) -> String {
    format!("tensor `{name}`")
}

fn wrong(path: &Path, what: impl Into<String>, why: String) -> Error {
    Error::model(path, what, why, REFETCH)
}
