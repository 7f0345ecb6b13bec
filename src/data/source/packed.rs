//! The text of a file, whatever it is packed with.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// The text of `path`; names that end in `.gz` or `.zst` are unpacked.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Data`] when what it is packed with is damaged or its text is not UTF-8.
pub(super) fn text(path: &Path) -> Result<String> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let what = match ending.as_str() {
        "gz" => "gzip",
        "zst" => "Zstandard",
        _ => return files::read_text(path),
    };
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    let unpacked = match what {
        "gzip" => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes),
        _ => zstd::Decoder::new(file).and_then(|mut unpack| unpack.read_to_end(&mut bytes)),
    };
    unpacked.map_err(|e| {
        Error::data(path, None, format!("not a {what} file, or a damaged one: {e}"), "pack the file again, or copy it anew")
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        Error::data(path, Some(line), "the text is not UTF-8", "convert the file to UTF-8")
    })
}
