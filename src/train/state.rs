//! The state of a run between two steps, as bytes: adapter, moments, counters, and fingerprints of what it was made from.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use super::optim::AdamW;
use crate::adapter::Adapter;
use crate::error::{Error, Result};

/// Counters of a run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: usize,
    /// Step and value of the lowest held-out loss.
    pub best: Option<(usize, f64)>,
    /// Evaluations since then.
    pub stale: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens that carried loss.
    pub trained: u64,
}

/// Everything a run needs to go on, apart from its inputs.
#[derive(Debug, Clone)]
pub struct State {
    pub progress: Progress,
    /// Hashes of the inputs (recipe, data, base, template), set by whoever writes the state.
    pub fingerprint: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

const META: &str = "lorakit.state";

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    progress: Progress,
    optimizer_steps: usize,
    fingerprint: BTreeMap<String, String>,
}

impl State {
    /// A copy of adapter, moments and counters.
    pub(super) fn capture(adapter: &Adapter, optim: &AdamW, progress: &Progress) -> Result<State> {
        let mut tensors = BTreeMap::new();
        for (i, p) in adapter.params().iter().enumerate() {
            let host = |t: &Tensor| t.detach().to_device(&Device::Cpu)?.copy();
            tensors.insert(format!("param.{}", p.key), host(p.var.as_tensor())?);
            tensors.insert(format!("first.{}", p.key), host(&optim.first[i])?);
            tensors.insert(format!("second.{}", p.key), host(&optim.second[i])?);
        }
        Ok(State { progress: progress.clone(), fingerprint: BTreeMap::new(), tensors })
    }

    /// Puts everything back.
    pub(super) fn restore(&self, adapter: &Adapter, optim: &mut AdamW) -> Result<Progress> {
        for (i, p) in adapter.params().iter().enumerate() {
            let get = |kind: &str| {
                let t = self.tensors.get(&format!("{kind}.{}", p.key)).filter(|t| t.dims() == p.var.dims());
                let t = t.ok_or_else(|| {
                    Error::usage(
                        "checkpoint",
                        format!("it holds no `{kind}.{}` of this shape", p.key),
                        "resume with the recipe it was written by",
                    )
                })?;
                Ok::<_, Error>(t.to_device(p.var.device())?)
            };
            p.var.set(&get("param")?)?;
            optim.first[i] = get("first")?;
            optim.second[i] = get("second")?;
        }
        optim.steps = self.progress.step;
        Ok(self.progress.clone())
    }

    /// Puts only the adapter's values back (to use the best state of a run).
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn apply(&self, adapter: &Adapter) -> Result<()> {
        self.restore(adapter, &mut AdamW::new(adapter.params())?).map(drop)
    }

    /// One safetensors file.
    ///
    /// # Errors
    /// When the tensors cannot be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = Header {
            progress: self.progress.clone(),
            optimizer_steps: self.progress.step,
            fingerprint: self.fingerprint.clone(),
        };
        let json = serde_json::to_string(&header).map_err(|e| bad("state", e.to_string()))?;
        let meta = HashMap::from([(META.to_string(), json)]);
        safetensors::serialize(self.tensors.iter(), Some(meta)).map_err(|e| bad("state", e.to_string()))
    }

    /// From [`State::to_bytes`]; `origin` is for messages.
    ///
    /// # Errors
    /// [`Error::Usage`] when the bytes are damaged.
    pub fn from_bytes(bytes: &[u8], origin: &Path) -> Result<State> {
        let name = origin.display().to_string();
        let (_, meta) = safetensors::SafeTensors::read_metadata(bytes).map_err(|e| bad(&name, e.to_string()))?;
        let json = meta.metadata().as_ref().and_then(|m| m.get(META)).ok_or_else(|| bad(&name, "no state in it".into()))?;
        let header: Header = serde_json::from_str(json).map_err(|e| bad(&name, e.to_string()))?;
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?.into_iter().collect();
        Ok(State { progress: header.progress, fingerprint: header.fingerprint, tensors })
    }
}

fn bad(what: &str, why: String) -> Error {
    Error::usage(format!("checkpoint {what}"), format!("it cannot be read: {why}"), "delete it; the one before it is used then")
}
