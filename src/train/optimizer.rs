//! What is trained, with its gradients and moments: a tensor for each parameter where kernels compute, and all of them one after another
//! where tensor operations do, so that a step is a handful of operations of which only the norm comes back.
//!
//! Refuses to know: what the gradients are of, and files.

use candle_core::{DType, Device, Tensor};

use super::adamw::{self, AdamW};
use crate::adapter::{Adapter, Param};
use crate::error::Result;
use crate::kernels::tensors::adamw as flat;
use crate::model::Model;

/// AdamW over an adapter's values, and the gradients gathered for its next step.
#[derive(Debug)]
pub struct Optimizer {
    params: Vec<Param>,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Each { adamw: AdamW, sums: Vec<Option<Tensor>> },
    Flat { state: flat::State, sum: Option<Tensor> },
}

/// By parameter, on the CPU: what a run that goes on needs besides the values.
pub(super) struct Gathered {
    pub(super) first: Vec<Tensor>,
    pub(super) second: Vec<Tensor>,
    /// Of the step in progress.
    pub(super) sums: Vec<Option<Tensor>>,
}

impl Optimizer {
    /// With zero moments, before the first step.
    ///
    /// # Errors
    /// When memory for them cannot be had.
    pub fn new(model: &Model, adapter: &Adapter) -> Result<Optimizer> {
        let params = adapter.params().to_vec();
        let layout = match model.in_kernels() {
            true => Layout::Each { adamw: AdamW::new(&params)?, sums: vec![None; params.len()] },
            false => {
                let values: Vec<_> = params.iter().map(|p| Some(p.var.as_tensor().detach())).collect();
                Layout::Flat { state: flat::State::new(laid(&params, &values)?)?, sum: None }
            }
        };
        Ok(Optimizer { params, layout })
    }

    /// After `steps` steps, which left the values of `adapter` and `gathered`.
    pub(super) fn resumed(model: &Model, adapter: &Adapter, gathered: Gathered, steps: usize) -> Result<Optimizer> {
        let mut all = Optimizer::new(model, adapter)?;
        let Gathered { first, second, sums } = gathered;
        match &mut all.layout {
            Layout::Each { adamw, .. } => *adamw = AdamW { first, second, steps },
            Layout::Flat { state, .. } => {
                let lay = |moments: Vec<Tensor>| laid(&all.params, &moments.into_iter().map(Some).collect::<Vec<_>>());
                (state.first, state.second, state.steps) = (lay(first)?, lay(second)?, steps);
            }
        }
        all.add(sums)?;
        Ok(all)
    }

    /// Adds gradients, by parameter, to those gathered.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn add(&mut self, grads: Vec<Option<Tensor>>) -> Result<()> {
        match &mut self.layout {
            Layout::Each { sums, .. } => {
                let pairs = sums.iter_mut().zip(grads);
                pairs.filter_map(|(sum, g)| Some((sum, g?))).try_for_each(|(sum, g)| added(sum, g))
            }
            Layout::Flat { sum, .. } if grads.iter().any(Option::is_some) => added(sum, laid(&self.params, &grads)?),
            Layout::Flat { .. } => Ok(()),
        }
    }

    /// Euclidean norm of the gradients gathered.
    ///
    /// # Errors
    /// When it cannot be read from the device.
    pub fn norm(&self) -> Result<f64> {
        match &self.layout {
            Layout::Each { sums, .. } => adamw::norm(sums),
            Layout::Flat { sum, .. } => sum.as_ref().map_or(Ok(0.0), flat::norm),
        }
    }

    /// Forgets the gradients gathered.
    pub(super) fn clear(&mut self) {
        match &mut self.layout {
            Layout::Each { sums, .. } => sums.fill(None),
            Layout::Flat { sum, .. } => *sum = None,
        }
    }

    /// One update of the values by the gradients gathered, which are gone then.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn step(&mut self, s: &flat::Settings) -> Result<()> {
        match &mut self.layout {
            Layout::Each { adamw, sums } => {
                let grads = std::mem::replace(sums, vec![None; self.params.len()]);
                adamw.step(&self.params, &grads, s)
            }
            Layout::Flat { state, sum } => {
                let Some(gradient) = sum.take() else {
                    state.steps += 1;
                    return Ok(());
                };
                state.step(&gradient, s)?;
                // The adapter holds a tensor for each of its matrices: copies on the device, which nothing waits for.
                for (param, value) in self.params.iter().zip(parts(&self.params, &state.parameters)) {
                    param.var.set(&value?)?;
                }
                Ok(())
            }
        }
    }

    /// Copies of moments and gradients.
    pub(super) fn gathered(&self) -> Result<Gathered> {
        match &self.layout {
            Layout::Each { adamw, sums } => {
                let copies = |all: &[Tensor]| all.iter().map(|t| Ok(t.copy()?)).collect::<Result<Vec<_>>>();
                Ok(Gathered { first: copies(&adamw.first)?, second: copies(&adamw.second)?, sums: sums.clone() })
            }
            Layout::Flat { state, sum } => {
                let apart = |all: &Tensor| -> Result<Vec<Tensor>> {
                    let all = all.to_device(&Device::Cpu)?;
                    parts(&self.params, &all).map(|part| Ok(part?.force_contiguous()?)).collect()
                };
                let sums = match sum {
                    Some(sum) => apart(sum)?.into_iter().map(Some).collect(),
                    None => vec![None; self.params.len()],
                };
                Ok(Gathered { first: apart(&state.first)?, second: apart(&state.second)?, sums })
            }
        }
    }
}

/// `sum += more`.
fn added(sum: &mut Option<Tensor>, more: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + more)?,
        None => more,
    });
    Ok(())
}

/// `values` of `params` one after another, on the device of these; zeros for what is not there.
fn laid(params: &[Param], values: &[Option<Tensor>]) -> Result<Tensor> {
    let flat = |(param, value): (&Param, &Option<Tensor>)| -> Result<Tensor> {
        let device = param.var.device();
        Ok(match value {
            Some(value) => value.to_device(device)?.flatten_all()?,
            None => Tensor::zeros(param.var.elem_count(), DType::F32, device)?,
        })
    };
    Ok(Tensor::cat(&params.iter().zip(values).map(flat).collect::<Result<Vec<_>>>()?, 0)?)
}

/// [`laid`] undone: views, in the shapes of `params`.
fn parts<'a>(params: &'a [Param], all: &'a Tensor) -> impl Iterator<Item = Result<Tensor>> + 'a {
    let mut end = 0;
    params.iter().map(move |param| {
        let first = end;
        end += param.var.elem_count();
        Ok(all.narrow(0, first, end - first)?.reshape(param.var.shape())?)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::Compute;
    use crate::recipe;

    fn flat_values(all: &[Tensor]) -> Vec<f32> {
        all.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    }

    fn close(got: &[f32], want: &[f32], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let off = got.iter().zip(want).filter(|(g, w)| (*g - *w).abs() > 1e-6 * (1.0 + w.abs())).count();
        assert_eq!(off, 0, "{what}");
    }

    /// Two gradients a step, one of which leaves a parameter out.
    fn steps(model: &Model, adapter: &Adapter, train: &recipe::Train) -> (Vec<f32>, Gathered, Vec<f64>) {
        let (mut optimizer, mut norms) = (Optimizer::new(model, adapter).unwrap(), Vec::new());
        let add = |optimizer: &mut Optimizer, step: u64, half: u64| {
            let grad = |(i, p): (usize, &Param)| {
                let value =
                    |at: u64| crate::random::indexed(step * 100 + half * 50 + i as u64, at) as f32 / u64::MAX as f32 - 0.5;
                let values: Vec<f32> = (0..p.var.elem_count() as u64).map(value).collect();
                (half == 0 || i > 0).then(|| Tensor::from_vec(values, p.var.shape(), &Device::Cpu).unwrap())
            };
            optimizer.add(adapter.params().iter().enumerate().map(grad).collect()).unwrap();
        };
        for step in 0..4 {
            (0..2).for_each(|half| add(&mut optimizer, step, half));
            norms.push(optimizer.norm().unwrap());
            optimizer.step(&adamw::settings(train, 1e-2, norms[step as usize])).unwrap();
        }
        add(&mut optimizer, 4, 0);
        let values: Vec<Tensor> = adapter.params().iter().map(|p| p.var.as_tensor().clone()).collect();
        (flat_values(&values), optimizer.gathered().unwrap(), norms)
    }

    #[test]
    fn one_buffer_steps_as_a_tensor_for_each_parameter_does() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
        let open = || Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
        for clip in [0.0, 0.5] {
            let train = recipe::Train { clip, weight_decay: 0.1, ..recipe::Train::default() };
            let [(values, kept, norms), (flat, flat_kept, flat_norms)] = [open(), open().in_tensors()].map(|model| {
                let wanted = recipe::Adapter::lora(4, recipe::TargetModules::AllLinear);
                let adapter = Adapter::new(&wanted, None, &model, 3).unwrap();
                steps(&model, &adapter, &train)
            });
            assert!(norms.iter().zip(&flat_norms).all(|(want, got)| (want - got).abs() < 1e-5 * want && *want > 1.0));
            close(&flat, &values, "values");
            close(&flat_values(&flat_kept.first), &flat_values(&kept.first), "first moments");
            close(&flat_values(&flat_kept.second), &flat_values(&kept.second), "second moments");
            let sums = |kept: &Gathered| flat_values(&kept.sums.iter().flatten().cloned().collect::<Vec<_>>());
            close(&sums(&flat_kept), &sums(&kept), "gradients");
            let shapes = |all: &[Tensor]| all.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
            assert_eq!(shapes(&flat_kept.first), shapes(&kept.first));
        }
    }
}
