//! `lorakit adapter ls | inspect`: what adapter directories hold.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::adapter::config::Modules;
use crate::adapter::inspect::{self, Inspection};
use crate::error::{Error, Result};

/// List adapters, or look into one.
#[derive(Debug, Args)]
pub struct AdapterArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the adapters in a folder
    Ls {
        #[arg(default_value = "adapters")]
        dir: PathBuf,
        /// Print one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Rank, scale, targets, parameters and the norms of every module
    Inspect {
        /// Directory of the adapter
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// When a folder cannot be listed or an adapter cannot be used.
pub fn run(args: &AdapterArgs) -> Result<()> {
    super::print(&text(args)?)
}

fn text(args: &AdapterArgs) -> Result<String> {
    match &args.verb {
        Verb::Ls { dir, json } => ls(dir, *json),
        Verb::Inspect { dir, json: true } => Ok(format!("{:#}\n", json!(inspect::inspect(dir)?))),
        Verb::Inspect { dir, json: false } => Ok(describe(&inspect::inspect(dir)?)),
    }
}

fn ls(dir: &Path, as_json: bool) -> Result<String> {
    if !dir.is_dir() {
        let help = "name a folder of adapters: `lorakit adapter ls DIR`";
        return Err(Error::usage(dir.display().to_string(), "there is no such folder", help));
    }
    let all: Vec<(PathBuf, Result<Inspection>)> =
        inspect::find(dir)?.into_iter().map(|path| (path.clone(), inspect::inspect(&path))).collect();
    if as_json {
        let entry = |(path, found): &(PathBuf, Result<Inspection>)| match found {
            Ok(found) => summary(found),
            Err(error) => json!({"dir": path, "error": error.to_string()}),
        };
        return Ok(format!("{:#}\n", json!(all.iter().map(entry).collect::<Vec<_>>())));
    }
    if all.is_empty() {
        return Ok(format!("no adapter in {}\n", dir.display()));
    }
    let line = |(path, found): &(PathBuf, Result<Inspection>)| match found {
        Ok(found) => format!("{}: {} on {}\n", path.display(), short(found), base(found)),
        // One that is broken must not hide the others.
        Err(error) => format!("{}: cannot be used: {error}\n", path.display()),
    };
    Ok(all.iter().map(line).collect())
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
    let method = if found.method == "rslora" { "rsLoRA" } else { "LoRA" };
    format!(
        "{method} of rank {}, alpha {}, {} modules, {} parameters, {:.1} MB",
        found.rank,
        found.alpha,
        found.modules.len() + found.full.len(),
        found.parameters,
        found.bytes as f64 / 1e6
    )
}

fn describe(found: &Inspection) -> String {
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
