//! Where the material beside the repository lies; tests that need it run when it is there and say so when not.

use std::path::{Path, PathBuf};

/// `$LORAKIT_SHARED`, or `shared` beside the repository, with `inner` appended; `None` (said aloud) when it is not there.
pub(crate) fn find(inner: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("LORAKIT_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let path = root.join(inner);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("LORAKIT_REQUIRE_REAL").is_none(), "{} is required and not there", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}
