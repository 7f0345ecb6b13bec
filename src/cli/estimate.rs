//! `lorakit estimate RECIPE`: what a run will take, before it is started.

use std::path::PathBuf;

use clap::Args;

use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use super::{base, forecast, print};
use crate::error::Result;
use crate::job;

/// Memory by part, tokens, steps and time of a run, without starting it; and the setting that fits if it does not.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    recipe: PathBuf,
    /// Replace a value, e.g. --set train.max_length=1024
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
    /// Memory the run may take, e.g. 4GiB or 800MB (default: what is available on this machine now)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data.
pub fn run(args: &EstimateArgs) -> Result<()> {
    let mut recipe = base::recipe(&args.recipe, &args.set)?;
    args.ignore.add_to(&mut recipe.base);
    let told = job::estimate(&recipe, args.memory, &mut EventPrinter::new(args.json).listener())?;
    print(&if args.json { format!("{}\n", told.json()) } else { forecast::text(&told, &recipe) })
}

/// Bytes of a size as people write it.
fn size(text: &str) -> std::result::Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[at..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("`{other}` is no unit; write e.g. 4GiB or 800MB")),
    };
    match text[..at].parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit as f64 <= 1e18 => Ok((number * unit as f64) as u64),
        _ => Err("it is no size; write e.g. 4GiB or 800MB".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        let good = [("4GiB", 4 << 30), ("1.5 MiB", 3 << 19), ("800MB", 800_000_000), ("4096", 4096), ("2gb", 2_000_000_000)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1MB", "4 potatoes", "0", "1e9", "1..2MB", "9999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
