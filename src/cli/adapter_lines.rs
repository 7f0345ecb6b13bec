//! Adapters in lines: a folder of them, and one with every module.
//!
//! Refuses to know how adapters are read and measured.

use std::path::Path;

use serde_json::json;

use crate::adapter::config::Modules;
use crate::adapter::inspect::{Found, Inspection};

/// The adapters of a folder, a line each.
pub(super) fn listed(dir: &Path, all: &[Found]) -> String {
    if all.is_empty() {
        return format!("no adapter in {}\n", dir.display());
    }
    let line = |found: &Found| match &found.inspection {
        Ok(inspection) => format!("{}: {} on {}\n", found.dir.display(), short(inspection), base(inspection)),
        // One that is broken must not hide the others.
        Err(error) => format!("{}: cannot be used: {error}\n", found.dir.display()),
    };
    all.iter().map(line).collect()
}

/// The same as a JSON list.
pub(super) fn listed_json(all: &[Found]) -> String {
    let entry = |found: &Found| match &found.inspection {
        Ok(inspection) => summary(inspection),
        Err(error) => json!({"dir": found.dir, "error": error.to_string()}),
    };
    format!("{:#}\n", json!(all.iter().map(entry).collect::<Vec<_>>()))
}

/// An inspection without its modules.
fn summary(found: &Inspection) -> serde_json::Value {
    let mut all = json!(found);
    if let Some(map) = all.as_object_mut() {
        map.remove("modules");
        map.remove("full");
    }
    all
}

fn base(found: &Inspection) -> &str {
    found.base.as_deref().unwrap_or("an unnamed base")
}

fn short(found: &Inspection) -> String {
    let method = match found.method {
        "lora" => "LoRA",
        "rslora" => "rsLoRA",
        "dora" => "DoRA",
        other => other,
    };
    format!(
        "{method} of rank {}, alpha {}, {} modules, {} parameters, {:.1} MB",
        found.rank,
        found.alpha,
        found.modules.len() + found.full.len(),
        found.parameters,
        found.bytes as f64 / 1e6
    )
}

/// One adapter in full: its settings, then a line a module.
pub(super) fn described(found: &Inspection) -> String {
    let targets = match &found.targets {
        Some(Modules::Names(names)) => names.join(", "),
        Some(Modules::Pattern(pattern)) => format!("/{pattern}/"),
        None => "none".into(),
    };
    let mut lines = vec![
        format!("{}: {}", found.dir.display(), short(found)),
        format!("base     {}", base(found)),
        format!("scale    {}", found.scale),
        format!("targets  {targets}"),
        format!("recipe   {}", found.recipe.as_ref().map_or("not saved beside it".into(), |p| p.display().to_string())),
        format!("sha256   {}", found.sha256),
    ];
    if !found.modules_to_save.is_empty() {
        lines.push(format!("in full  {}", found.modules_to_save.join(", ")));
    }
    lines.extend(found.notes.iter().map(|note| format!("note     {note}")));
    let names = found.modules.iter().map(|m| m.path.len()).chain(found.full.iter().map(|f| f.path.len()));
    let width = names.max().unwrap_or(6).max(6);
    lines.push(format!(
        "\n{:width$} {:>13} {:>5} {:>7} {:>9} {:>9} {:>11}",
        "module", "shape", "rank", "scale", "|A|", "|B|", "|scale·BA|"
    ));
    for m in &found.modules {
        let shape = format!("{}x{}", m.outputs, m.inputs);
        lines.push(format!(
            "{:width$} {shape:>13} {:>5} {:>7.3} {:>9.4} {:>9.4} {:>11.4}",
            m.path, m.rank, m.scale, m.norm_a, m.norm_b, m.norm_delta
        ));
    }
    for f in &found.full {
        let shape = f.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        lines.push(format!("{:width$} {shape:>13}  in full, norm {:.4}", f.path, f.norm));
    }
    lines.join("\n") + "\n"
}
