//! The state of a run between two micro-steps, as bytes: adapter, moments, gradient sums, the best adapter, counters.
//!
//! Refuses to know files; what the run was made from is carried along unread.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use super::adamw::AdamW;
use crate::adapter::{Adapter, Param};
use crate::error::{Error, Result};

/// Counters of a run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TrainProgress {
    /// Optimiser steps done.
    pub step: usize,
    /// What the step in progress has gathered.
    pub within: Within,
    /// Step of the last evaluation (0: none yet).
    pub judged: usize,
    /// Step and value of the lowest held-out loss.
    pub best: Option<(usize, Exact)>,
    /// Evaluations since then.
    pub stale: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens that carried loss.
    pub trained: u64,
}

/// The part of a step that is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Within {
    /// Micro-steps done.
    pub micro: usize,
    /// Their share of the step's loss.
    pub loss: Exact,
    /// Their tokens.
    pub tokens: usize,
}

/// A number that is written as its bits: JSON's decimal form may come back as a neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Exact(pub f64);

impl serde::Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_u64(self.0.to_bits())
    }
}

impl<'de> serde::Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Exact, D::Error> {
        u64::deserialize(from).map(|bits| Exact(f64::from_bits(bits)))
    }
}

/// What a run carries from one micro-step to the next, besides the adapter's values.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) optim: AdamW,
    pub(super) progress: TrainProgress,
    /// Gradients gathered in the step in progress, by parameter.
    pub(super) sums: Vec<Option<Tensor>>,
    /// Values of the best adapter, by parameter; empty when no evaluation chose one.
    pub(super) best: Vec<Tensor>,
}

impl Carried {
    /// At the beginning of a run.
    pub(super) fn fresh(adapter: &Adapter) -> Result<Carried> {
        let params = adapter.params();
        let (optim, progress) = (AdamW::new(params)?, TrainProgress::default());
        Ok(Carried { optim, progress, sums: vec![None; params.len()], best: Vec::new() })
    }
}

/// Everything a run needs to go on, apart from its inputs.
#[derive(Debug, Clone)]
pub struct State {
    pub progress: TrainProgress,
    /// What the run was made from (recipe, data, base, template), set by whoever writes the state.
    pub inputs: serde_json::Value,
    tensors: BTreeMap<String, Tensor>,
}

const META: &str = "lorakit.state";

#[derive(serde::Serialize, serde::Deserialize)]
struct StateHeader {
    progress: TrainProgress,
    inputs: serde_json::Value,
}

impl State {
    /// A copy of everything, on the CPU.
    pub(super) fn capture(adapter: &Adapter, carried: &Carried) -> Result<State> {
        let mut tensors = BTreeMap::new();
        let mut keep = |kind: &str, p: &Param, t: &Tensor| -> Result<()> {
            tensors.insert(format!("{kind}.{}", p.key), t.detach().to_device(&Device::Cpu)?.copy()?);
            Ok(())
        };
        for (i, p) in adapter.params().iter().enumerate() {
            keep("param", p, p.var.as_tensor())?;
            keep("first", p, &carried.optim.first[i])?;
            keep("second", p, &carried.optim.second[i])?;
            carried.sums[i].iter().try_for_each(|t| keep("sum", p, t))?;
            carried.best.get(i).iter().try_for_each(|t| keep("best", p, t))?;
        }
        Ok(State { progress: carried.progress.clone(), inputs: serde_json::Value::Null, tensors })
    }

    /// Puts the adapter's values back and returns the rest.
    pub(super) fn restore(&self, adapter: &Adapter) -> Result<Carried> {
        let mut carried = Carried::fresh(adapter)?;
        for (i, p) in adapter.params().iter().enumerate() {
            p.var.set(&self.tensor("param", p)?)?;
            // Copies: the optimiser writes over them.
            carried.optim.first[i] = self.tensor("first", p)?.copy()?;
            carried.optim.second[i] = self.tensor("second", p)?.copy()?;
            if self.tensors.contains_key(&format!("sum.{}", p.key)) {
                carried.sums[i] = Some(self.tensor("sum", p)?);
            }
            if self.progress.best.is_some() {
                carried.best.push(self.tensor("best", p)?);
            }
        }
        carried.optim.steps = self.progress.step;
        carried.progress = self.progress.clone();
        Ok(carried)
    }

    fn tensor(&self, kind: &str, p: &Param) -> Result<Tensor> {
        let found = self.tensors.get(&format!("{kind}.{}", p.key)).filter(|t| t.dims() == p.var.dims());
        let found = found.ok_or_else(|| {
            Error::usage(
                "checkpoint",
                format!("it holds no `{kind}.{}` of this shape", p.key),
                "resume with the recipe it was written by",
            )
        })?;
        Ok(found.to_device(p.var.device())?)
    }

    /// One safetensors file.
    ///
    /// # Errors
    /// When the tensors cannot be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = StateHeader { progress: self.progress.clone(), inputs: self.inputs.clone() };
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
        let header: StateHeader = serde_json::from_str(json).map_err(|e| bad(&name, e.to_string()))?;
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?.into_iter().collect();
        Ok(State { progress: header.progress, inputs: header.inputs, tensors })
    }
}

fn bad(what: &str, why: String) -> Error {
    Error::usage(format!("checkpoint {what}"), format!("it cannot be read: {why}"), "delete it; the one before it is used then")
}
