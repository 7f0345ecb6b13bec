//! What this machine has: the findings of `lorakit doctor` that need no model.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::device;
use crate::kernels::cpu;
use crate::machine::MachineMemory;
use crate::model::resolve::Places;

/// One thing looked at.
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) value: serde_json::Value,
    /// For people.
    pub(super) text: String,
    /// What to do, when it is broken.
    pub(super) broken: Option<String>,
}

impl Finding {
    pub(super) fn new(what: &'static str, value: serde_json::Value, text: impl Into<String>) -> Finding {
        Finding { what, value, text: text.into(), broken: None }
    }
}

/// Processor, memory and build.
pub(super) fn machine() -> Vec<Finding> {
    let level = cpu::level().name();
    let lowered = std::env::var("LORAKIT_CPU").ok().map(|v| format!(" (LORAKIT_CPU={v})")).unwrap_or_default();
    let threads = rayon::current_num_threads();
    let accelerators = device::accelerators();
    let named = if accelerators.is_empty() { "none".to_string() } else { accelerators.join(", ") };
    let mut all = vec![
        Finding::new("version", json!(env!("CARGO_PKG_VERSION")), format!("lorakit {}", env!("CARGO_PKG_VERSION"))),
        Finding::new("cpu", json!(level), format!("{level}{lowered}, {}", std::env::consts::ARCH)),
        Finding::new("threads", json!(threads), threads.to_string()),
        Finding::new("memory", json!(null), "unknown on this system"),
        Finding::new("accelerators", json!(accelerators), format!("compiled in: {named}")),
    ];
    if let Some(MachineMemory { total, available }) = crate::machine::memory() {
        let text = format!("{:.1} GB, {:.1} GB of it available", total as f64 / 1e9, available as f64 / 1e9);
        all[3] = Finding::new("memory", json!({"total": total, "available": available}), text);
    }
    match device::best() {
        Ok(found) => {
            all.push(Finding::new("device", json!(format!("{:?}", found.location())), format!("{:?}", found.location())))
        }
        Err(e) => {
            let help = "update the driver, or use a build without accelerators".to_string();
            all.push(Finding { broken: Some(help), ..Finding::new("device", json!(null), e.to_string()) });
        }
    }
    all
}

/// A cache directory and how full it is.
pub(super) fn cache(what: &'static str, name: &str, place: Option<&Path>) -> Finding {
    let Some(dir) = place else {
        let help = "set HOME, or HF_HOME and LORAKIT_CACHE".to_string();
        return Finding { broken: Some(help), ..Finding::new(what, json!(null), format!("{name}: no home directory")) };
    };
    let (files, bytes) = size(dir);
    let text = match dir.is_dir() {
        true => format!("{}: {files} files, {:.1} MB", dir.display(), bytes as f64 / 1e6),
        false => format!("{} (made when needed)", dir.display()),
    };
    Finding::new(what, json!({"path": dir, "files": files, "bytes": bytes}), text)
}

/// Files below `dir` and their bytes; links are not followed.
fn size(dir: &Path) -> (u64, u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((0, 0), |(files, bytes), entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => {
            let (more_files, more) = size(&entry.path());
            (files + more_files, bytes + more)
        }
        Ok(meta) if meta.is_file() => (files + 1, bytes + meta.len()),
        _ => (files, bytes),
    })
}

/// What the first `pip` that runs says of itself.
pub(super) fn pip(places: &Places) -> Option<String> {
    places.pip.iter().find_map(|line| {
        let (program, rest) = line.split_first()?;
        let out = Command::new(program).args(rest).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_string();
        (out.status.success() && !text.is_empty()).then_some(text)
    })
}
