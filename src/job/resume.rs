//! Where a run stands: nothing saved, a checkpoint to go on from, or complete. And whether it is the same run.

use std::path::Path;

use serde_json::Value;

use super::events::{Deferred, JobEvent, Listener};
use crate::adapter::peft::WEIGHTS;
use crate::artifact::checkpoints::Checkpoints;
use crate::artifact::fingerprint::Fingerprint;
use crate::error::{Error, Result};
use crate::files;
use crate::train::State;

/// The last file of a run that is written.
pub(super) use crate::adapter::inspect::TRACE;

/// The trace of the run in `out`, if it is complete and was made from these inputs; `None` when there is something to do.
///
/// # Errors
/// When the run there had other inputs, or what is there is an adapter that nothing is known of.
pub(super) fn complete(out: &Path, inputs: &Fingerprint) -> Result<Option<Value>> {
    if let Some(trace) = trace(out)? {
        same(inputs, &trace["inputs"], out.join(TRACE).display().to_string())?;
        return Ok(Some(trace));
    }
    match out.join(WEIGHTS).exists() && !Checkpoints::any(out) {
        false => Ok(None),
        true => Err(Error::usage(
            "--resume",
            format!("{} holds an adapter without checkpoints, which cannot be trained further", out.display()),
            "pass --overwrite to replace it, or --out DIR for another place",
        )),
    }
}

/// The newest good state of a run with these inputs.
///
/// # Errors
/// When all are damaged, or it was made from other inputs; when the listener ends the job.
pub(super) fn newest(checkpoints: &mut Checkpoints, inputs: &Fingerprint, listener: &mut Listener<'_>) -> Result<Option<State>> {
    let told = Deferred::new(listener);
    let state = checkpoints.newest(State::from_bytes, &mut |path, error| {
        told.tell(JobEvent::Warning(format!("{} is skipped: {error}", path.display())));
    })?;
    told.finish()?;
    let Some(state) = state else { return Ok(None) };
    same(inputs, &state.inputs, format!("the checkpoint of step {}", state.progress.step))?;
    Ok(Some(state))
}

/// The trace of a run whose adapter is there, as it was written.
fn trace(out: &Path) -> Result<Option<Value>> {
    let (trace, weights) = (out.join(TRACE), out.join(WEIGHTS));
    if !trace.is_file() || !weights.is_file() {
        return Ok(None);
    }
    // A trace that is no JSON was not written here; the checkpoints decide then.
    let Ok(trace) = serde_json::from_str::<Value>(&files::read_text(&trace)?) else { return Ok(None) };
    let whole = trace["adapter_sha256"].as_str() == Some(&files::sha256_file(&weights)?);
    Ok(whole.then_some(trace))
}

/// Refuses other inputs than those of an earlier run, and says what is different.
fn same(now: &Fingerprint, then: &Value, whose: String) -> Result<()> {
    let Ok(then) = serde_json::from_value::<Fingerprint>(then.clone()) else {
        return Err(Error::usage(
            "--resume",
            format!("{whose} does not say what it was made from"),
            "it is of another version of lorakit: start anew with --overwrite",
        ));
    };
    match now.differences(&then).as_slice() {
        [] => Ok(()),
        all => Err(Error::usage(
            "--resume",
            format!("this is not the run of {whose}:\n    {}", all.join("\n    ")),
            "undo the change, or start anew with --overwrite",
        )),
    }
}
