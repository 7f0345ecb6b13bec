//! The text of a file, whatever it is packed with.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The text of `path`; names that end in `.gz` or `.zst` are unpacked.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] when what it is packed with is damaged or its text is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let (mut reader, packing) = open(path)?;
    if let Err(e) = reader.read_to_end(&mut bytes) {
        let line = (!bytes.is_empty()).then(|| line_at_end(&bytes));
        return Err(cannot(path, packing, line, e));
    }
    String::from_utf8(bytes).map_err(|e| no_utf8(path, 1, e.as_bytes(), e.utf8_error()))
}

/// What a file is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstandard,
}

/// The bytes in a file, unpacked.
pub(super) fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Packing)> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    unpacked(path, file)
}

/// The bytes of `file`, which is called `path`, unpacked.
pub(super) fn unpacked(path: &Path, file: impl Read + Send + 'static) -> Result<(Box<dyn Read + Send>, Packing)> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    Ok(match ending.as_str() {
        "gz" => (Box::new(flate2::read::MultiGzDecoder::new(file)), Packing::Gzip),
        "zst" => {
            let unpack = zstd::Decoder::new(file).map_err(|e| cannot(path, Packing::Zstandard, None, e))?;
            (Box::new(unpack), Packing::Zstandard)
        }
        _ => (Box::new(file), Packing::None),
    })
}

/// Why the bytes of a file do not come out after `line` (`None`: at its beginning).
pub(super) fn cannot(path: &Path, packing: Packing, line: Option<usize>, e: std::io::Error) -> Error {
    let what = match packing {
        Packing::None => return Error::io("read", path)(e),
        Packing::Gzip => "gzip",
        Packing::Zstandard => "Zstandard",
    };
    Error::data(path, line, format!("not a {what} file, or a damaged one: {e}"), "pack the file again, or copy it anew")
}

/// The complaint about bytes that begin with line `first` of the file.
pub(super) fn no_utf8(path: &Path, first: usize, bytes: &[u8], e: std::str::Utf8Error) -> Error {
    let line = first - 1 + line_at_end(&bytes[..e.valid_up_to()]);
    Error::data(path, Some(line), "the text is not UTF-8", "convert the file to UTF-8")
}

/// The line (from 1) that bytes end in.
pub(super) fn line_at_end(bytes: &[u8]) -> usize {
    1 + bytes.iter().filter(|b| **b == b'\n').count()
}
