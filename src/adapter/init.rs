//! First values of an adapter's matrices, each a function of the seed and the site's path.

use candle_core::{Device, Tensor};
use rand::Rng;

use crate::error::Result;
use crate::model::{Model, Site};
use crate::random;
use crate::recipe::Init;

/// A of `shape`: `(r, inputs)`, or that of several pairs one below the other. PEFT's default is `kaiming_uniform_(a=sqrt(5))`, that is U(-1/√in, 1/√in)
/// (`peft/tuners/lora/layer.py`, `reset_lora_parameters`); gaussian is N(0, 1/r²).
pub(super) fn a(
    init: Init,
    path: &str,
    r: usize,
    shape @ (_, inputs): (usize, usize),
    seed: u64,
    device: &Device,
) -> Result<Tensor> {
    let mut rng = random::stream(seed, &format!("lora_A {path}"), &[]);
    let values: Vec<f32> = match init {
        Init::Default => {
            let bound = 1.0 / (inputs as f64).sqrt();
            (0..shape.0 * inputs).map(|_| rng.random_range(-bound..bound) as f32).collect()
        }
        Init::Gaussian => (0..shape.0 * inputs).map(|_| (normal(&mut rng) / r as f64) as f32).collect(),
    };
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// A copy of the base's own matrix, to be trained in full.
pub(super) fn full(model: &Model, site: Site) -> Result<Tensor> {
    let weight = model.site_weight(site);
    Ok(Tensor::from_vec(weight.to_f32(), (weight.rows, weight.cols), &model.device)?)
}

/// Standard normal by Box–Muller (1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
