//! Base and adapter become one model, and what was lost by it. Refuses to know how the files are written.

use std::path::Path;

use super::events::{Deferred, JobEvent, Listener, tell};
use super::{open, template};
use crate::artifact::merge::{self, Dtype};
use crate::device::Compute;
use crate::error::Result;
use crate::model::{Adapt, Batch, Ctx, Model};
use crate::recipe::{Base, TemplateKind};

/// What is merged, and where to.
#[derive(Debug, Clone, Copy)]
pub struct MergeJob<'a> {
    pub base: &'a Base,
    /// Directory of the adapter.
    pub adapter: &'a Path,
    /// Directory to write; must not exist.
    pub out: &'a Path,
    /// Element type of the merged weights.
    pub dtype: Dtype,
    /// Whether logits of the merged model are compared with those of base + adapter.
    pub verify: bool,
    /// The chat template of the merged model; without one, that which the adapter was trained with.
    pub template: Option<&'a TemplateKind>,
}

/// What merging lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitDifference {
    /// Largest difference of a logit against base + adapter.
    pub largest: f32,
    /// Share of positions whose best token is the same, 0 to 1.
    pub argmax_agreement: f64,
}

/// Merges an adapter into its base; what was lost, where the job asks for it.
///
/// # Errors
/// Whatever is wrong with the base or the adapter, or when the output exists; when the listener ends the job.
pub fn merge(job: &MergeJob, listener: &mut Listener<'_>) -> Result<Option<LogitDifference>> {
    let opened = open(job.base, listener)?;
    let adapter = open::adapter(job.adapter, &opened, listener)?.frozen();
    let recipe = template::recipe_for(job.adapter)?;
    let spoken = template::chosen(("the adapter", job.adapter), recipe.as_ref(), &opened.tokenizer, job.template, listener)?;
    let spoken = Some(&spoken).filter(|spoken| spoken.chat_templates() != opened.tokenizer.chat_templates());
    {
        let told = Deferred::new(listener);
        merge::write(&opened.model, &adapter, &opened.resolved.path, job.out, job.dtype, spoken, &mut |done, all| {
            told.tell(JobEvent::Merging { done, all });
        })?;
        told.finish()?;
    }
    tell(listener, JobEvent::Merged)?;
    job.verify.then(|| verify(&opened.model, &adapter, job.out)).transpose()
}

/// What the merged model in `out` computes beside base + adapter, over a fixed sweep through the vocabulary.
fn verify(model: &Model, adapter: &dyn Adapt, out: &Path) -> Result<LogitDifference> {
    let merged = Model::open(out, Compute::F32, &model.device)?;
    let vocab = model.config.vocab as u64;
    let rows: Vec<Vec<u32>> =
        (0..4u64).map(|r| (0..32u64).map(|i| (crate::random::indexed(r, i) % vocab) as u32).collect()).collect();
    let batch = Batch::right_padded(&rows, 0);
    let want = model.forward(&mut Ctx::new(adapter), &batch)?;
    let got = merged.forward(&mut Ctx::new(&()), &batch)?;
    let largest = (&want - &got)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let (a, b) = (want.argmax(2)?.flatten_all()?.to_vec1::<u32>()?, got.argmax(2)?.flatten_all()?.to_vec1::<u32>()?);
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    Ok(LogitDifference { largest, argmax_agreement: same as f64 / a.len() as f64 })
}
