//! The state of a run between two micro-steps, as bytes: adapter, moments, gradient sums, the best adapter, counters.
//!
//! Refuses to know files; what the run was made from is carried along unread.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use super::optimizer::{Gathered, Optimizer};
use crate::adapter::{Adapter, Param};
use crate::error::{Error, Result};
use crate::model::Model;

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
    /// How their experts were met, by their tokens.
    #[serde(default)]
    pub balance: Exact,
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
    /// With the gradients gathered in the step in progress.
    pub(super) optim: Optimizer,
    pub(super) progress: TrainProgress,
    /// Values of the best adapter, by parameter; empty when no evaluation chose one.
    pub(super) best: Vec<Tensor>,
}

impl Carried {
    /// At the beginning of a run.
    pub(super) fn fresh(model: &Model, adapter: &Adapter) -> Result<Carried> {
        Ok(Carried { optim: Optimizer::new(model, adapter)?, progress: TrainProgress::default(), best: Vec::new() })
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
        let mut keep = |kind: &str, p: &Param, t: Tensor| _ = tensors.insert(format!("{kind}.{}", p.key), t);
        let copied = |t: &Tensor| -> Result<Tensor> { Ok(t.detach().to_device(&Device::Cpu)?.copy()?) };
        let params = adapter.params();
        let Gathered { first, second, sums } = carried.optim.gathered()?;
        params.iter().zip(first).for_each(|(p, t)| keep("first", p, t));
        params.iter().zip(second).for_each(|(p, t)| keep("second", p, t));
        params.iter().zip(sums).filter_map(|(p, t)| Some((p, t?))).for_each(|(p, t)| keep("sum", p, t));
        for p in params {
            keep("param", p, copied(p.var.as_tensor())?);
        }
        for (p, best) in params.iter().zip(&carried.best) {
            keep("best", p, copied(best)?);
        }
        Ok(State { progress: carried.progress.clone(), inputs: serde_json::Value::Null, tensors })
    }

    /// Puts the adapter's values back and returns the rest.
    pub(super) fn restore(&self, model: &Model, adapter: &Adapter) -> Result<Carried> {
        let params = adapter.params();
        for p in params {
            p.var.set(&self.tensor("param", p)?)?;
        }
        // Copies: the optimiser writes over them.
        let copies = |kind| params.iter().map(|p| Ok(self.tensor(kind, p)?.copy()?)).collect::<Result<Vec<_>>>();
        let sum = |p: &Param| self.tensors.contains_key(&format!("sum.{}", p.key)).then(|| self.tensor("sum", p)).transpose();
        let sums = params.iter().map(sum).collect::<Result<_>>()?;
        let gathered = Gathered { first: copies("first")?, second: copies("second")?, sums };
        Ok(Carried {
            optim: Optimizer::resumed(model, adapter, gathered, self.progress.step)?,
            progress: self.progress.clone(),
            best: if self.progress.best.is_some() { copies("best")? } else { Vec::new() },
        })
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
