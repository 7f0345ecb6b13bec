//! Pairs on parameters of all experts together (PEFT's `target_parameters`): the tensors that are trained and written are those of
//! PEFT's `ParamWrapper` (`peft/tuners/lora/layer.py`), and the pairs of single sites are views of them, so that what sites share is
//! one matrix with one gradient and one state of the optimiser.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::parameters::last;
use super::target::FusedTarget;
use crate::error::Result;
use crate::model::family::ExpertWeights;
use crate::model::{Model, Site, SiteInfo};

/// Where the pairs of a parameter's sites lie in A `(E·r, inputs)`, the expert slowest, and B `(outputs, r·E)`, the expert fastest.
#[derive(Debug, Clone)]
pub(super) struct FusedPair {
    /// Place of A among the adapter's parameters; B is the next.
    pub at: usize,
    rank: usize,
    inputs: usize,
    /// By expert: sites with their outputs, which follow one another in B.
    parts: Vec<Vec<(Site, usize)>>,
}

impl FusedPair {
    pub(super) fn new(target: &FusedTarget, sites: &[SiteInfo], at: usize) -> FusedPair {
        let parts = &target.parameter.parts;
        let inputs = parts.iter().flatten().next().map_or(0, |site| sites[site.0].inputs);
        let part = |part: &Vec<Site>| part.iter().map(|site| (*site, sites[site.0].outputs)).collect();
        FusedPair { at, rank: target.rank, inputs, parts: parts.iter().map(part).collect() }
    }

    /// Of A and of B.
    pub(super) fn shapes(&self) -> [(usize, usize); 2] {
        let outputs = self.parts.first().map_or(0, |part| part.iter().map(|(_, outputs)| outputs).sum());
        [(self.rank * self.parts.len(), self.inputs), (outputs, self.rank * self.parts.len())]
    }

    /// A `(r, inputs)` and B `(outputs, r)` of every site, which share memory with `a` and `b`.
    pub(super) fn views(&self, a: &Tensor, b: &Tensor) -> Result<Vec<(Site, Tensor, Tensor)>> {
        let b = b.reshape((b.dim(0)?, self.rank, self.parts.len()))?;
        let mut views = Vec::new();
        for (expert, part) in self.parts.iter().enumerate() {
            let (a, b) = (a.narrow(0, expert * self.rank, self.rank)?, b.narrow(2, expert, 1)?.squeeze(2)?);
            let mut from = 0;
            for (site, outputs) in part {
                views.push((*site, a.clone(), b.narrow(0, from, *outputs)?));
                from += outputs;
            }
        }
        Ok(views)
    }

    /// The gradients of A and B from those of the sites; zeros where a site has none, nothing where no site has one.
    pub(super) fn gradients(&self, found: &HashMap<Site, (Tensor, Tensor)>) -> Result<Option<[Tensor; 2]>> {
        let first = self.parts.iter().flatten().find_map(|(site, _)| found.get(site));
        let Some(device) = first.map(|(a, _)| a.device().clone()) else { return Ok(None) };
        let zeros = |shape| Tensor::zeros(shape, DType::F32, &device);
        let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let (mut shared, mut own) = (zeros((self.rank, self.inputs))?, Vec::new());
            for (site, outputs) in part {
                match found.get(site) {
                    Some((a, b)) => {
                        shared = (shared + a)?;
                        own.push(b.clone());
                    }
                    None => own.push(zeros((*outputs, self.rank))?),
                }
            }
            all_a.push(shared);
            all_b.push(Tensor::cat(&own, 0)?);
        }
        let [_, b] = self.shapes();
        Ok(Some([Tensor::cat(&all_a, 0)?, Tensor::stack(&all_b, 2)?.reshape(b)?]))
    }
}

/// What is to be told of an adapter with pairs at `adapted` sites where transformers 5 has fused parameters: their names are those
/// that `convert_peft_config_for_transformers` (`peft/utils/transformers_weight_conversion.py`) takes for experts. `beside`: it has pairs on
/// such parameters too, so that these are of dense layers.
pub(super) fn told(model: &Model, adapted: impl Iterator<Item = Site>, beside: bool) -> Option<String> {
    let experts = model.config.family.experts.as_ref().filter(|names| matches!(names.weights, ExpertWeights::Each { .. }))?;
    let fused = |name: &str| {
        name == last(experts.router) || experts.fused.parameters.iter().any(|(_, matrices)| matrices.contains(&name))
    };
    let mut names: Vec<&str> = adapted.map(|site| last(&model.sites()[site.0].path)).filter(|name| fused(name)).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join("`, `");
    if names.is_empty() {
        return None;
    }
    Some(if beside {
        format!(
            "its pairs at `{names}` are those of dense layers; PEFT under transformers 5 takes these names for the experts' beside \
             `target_parameters`, and loses the pairs or refuses the file. Leave them out of the targets for an adapter that PEFT loads"
        )
    } else {
        format!(
            "its pairs at `{names}` are those of single layers, as transformers 4 has them; PEFT under transformers 5 joins them to pairs on the \
             parameters of all experts when it loads the adapter. That is the same for plain LoRA of one rank and alpha at the same matrices of \
             every expert; rsLoRA is computed otherwise, pairs at some experts or at dense layers of the same names are lost, dropout and DoRA \
             are refused. `target_parameters` trains the parameters of all experts, which PEFT reads as they are"
        )
    })
}

#[cfg(test)]
#[path = "fused_tests.rs"]
mod tests;
