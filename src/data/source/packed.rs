//! The text of a file, whatever it is packed with.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The text of `path`; names that end in `.gz` or `.zst` are unpacked.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] when what it is packed with is damaged or its text is not UTF-8.
pub(in crate::data) fn read_text(path: &Path) -> Result<String> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    let damaged = |what: &str, bytes: &[u8], e: std::io::Error| {
        let line = (!bytes.is_empty()).then(|| line_at_end(bytes));
        let help = "pack the file again, or copy it anew";
        Error::data(path, line, format!("not a {what} file, or a damaged one: {e}"), help)
    };
    match ending.as_str() {
        "gz" => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).map_err(|e| damaged("gzip", &bytes, e))?,
        "zst" => zstd::Decoder::new(file)
            .and_then(|mut unpack| unpack.read_to_end(&mut bytes))
            .map_err(|e| damaged("Zstandard", &bytes, e))?,
        _ => file.read_to_end(&mut bytes).map_err(Error::io("read", path))?,
    };
    String::from_utf8(bytes).map_err(|e| {
        let line = line_at_end(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        Error::data(path, Some(line), "the text is not UTF-8", "convert the file to UTF-8")
    })
}

/// The line (from 1) that bytes end in.
fn line_at_end(bytes: &[u8]) -> usize {
    1 + bytes.iter().filter(|b| **b == b'\n').count()
}
