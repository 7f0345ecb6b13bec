//! What stands between the layers of a feed-forward block, forward and back. Computed in f32 whatever comes in.

use candle_core::Tensor;

use super::pieces::{ELEMENTS, by_rows, full};
use crate::activation::Activation;
use crate::error::Result;

/// √(2/π)
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;
/// 1/√(2π)
const INVERSE_ROOT_TWO_PI: f64 = 0.398_942_280_401_432_7;

/// Bytes of what the way back holds in f32 of a piece of `elements`: inputs, gradients, and what is between them.
pub fn working_bytes(elements: usize) -> u64 {
    (6 * elements.min(ELEMENTS) * size_of::<f32>()) as u64
}

/// `silu(gate) ∘ up` (Shazeer 2020, "GLU variants", eq. 6 without its matrices); all (n, f), in the dtype of `up`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let [y] =
        by_rows(&[gate, up], ELEMENTS, |inputs| Ok([(full(&inputs[0])?.silu()? * full(&inputs[1])?)?.to_dtype(up.dtype())?]))?;
    Ok(y)
}

/// The gradients (n, f) of [`swiglu`] with respect to gate and up, each in the dtype of its input, given that of its result:
/// with σ the sigmoid of the gate, `dy·up·σ·(1 + gate·(1 − σ))` and `dy·gate·σ`.
pub fn swiglu_back(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let [d_gate, d_up] = by_rows(&[gate, up, dy], ELEMENTS, |inputs| {
        let (x, dy) = (full(&inputs[0])?, full(&inputs[2])?);
        let sigma = sigmoid(&x)?;
        let silu = (&x * &sigma)?;
        let d_up = (&dy * &silu)?.to_dtype(up.dtype())?;
        // σ + x·σ·(1 − σ) = σ + silu − silu·σ
        let slope = ((&sigma + &silu)? - (silu * sigma)?)?;
        let d_gate = ((dy * full(&inputs[1])?)? * slope)?.to_dtype(gate.dtype())?;
        Ok([d_gate, d_up])
    })?;
    Ok((d_gate, d_up))
}

/// `kind(gate) ∘ up`; all (n, f), in the dtype of `up`.
pub fn gated(kind: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if kind == Activation::Silu {
        return swiglu(gate, up);
    }
    let [y] = by_rows(&[gate, up], ELEMENTS, |inputs| {
        Ok([(value(kind, &full(&inputs[0])?)? * shifted(kind, &full(&inputs[1])?)?)?.to_dtype(up.dtype())?])
    })?;
    Ok(y)
}

/// The gradients (n, f) of [`gated`] with respect to gate and up, each in the dtype of its input, given that of its result:
/// `dy·up·kind′(gate)` and `dy·kind(gate)`.
pub fn gated_back(kind: Activation, gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if kind == Activation::Silu {
        return swiglu_back(gate, up, dy);
    }
    let [d_gate, d_up] = by_rows(&[gate, up, dy], ELEMENTS, |inputs| {
        let (x, dy) = (full(&inputs[0])?, full(&inputs[2])?);
        let behind = full(&inputs[1])?;
        let d_up = match kind {
            Activation::Clamped { limit, .. } => {
                let inside = behind.abs()?.le(f64::from(limit))?.to_dtype(dy.dtype())?;
                ((&dy * value(kind, &x)?)? * inside)?
            }
            _ => (&dy * value(kind, &x)?)?,
        };
        let d_gate = ((dy * shifted(kind, &behind)?)? * slope(kind, &x)?)?.to_dtype(gate.dtype())?;
        Ok([d_gate, d_up.to_dtype(up.dtype())?])
    })?;
    Ok((d_gate, d_up))
}

/// The function `kind` of every element of `x` (n, f), in its dtype.
pub fn activation(kind: Activation, x: &Tensor) -> Result<Tensor> {
    let [y] = by_rows(&[x], ELEMENTS, |inputs| Ok([value(kind, &full(&inputs[0])?)?.to_dtype(inputs[0].dtype())?]))?;
    Ok(y)
}

/// The gradient (n, f) of [`activation`] with respect to `x`, in its dtype, given that of its result.
pub fn activation_back(kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [dx] = by_rows(&[x, dy], ELEMENTS, |inputs| {
        let (x, dy) = (full(&inputs[0])?, full(&inputs[1])?);
        Ok([(dy * slope(kind, &x)?)?.to_dtype(inputs[0].dtype())?])
    })?;
    Ok(dx)
}

/// What a gate is multiplied with.
fn shifted(kind: Activation, up: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Clamped { limit, .. } => (up.clamp(-limit, limit)? + 1.0)?,
        _ => up.clone(),
    })
}

fn value(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => x.silu()?,
        Activation::GeluTanh => (x * bell(x)?.affine(0.5, 0.5)?)?,
        Activation::Gelu => (x * phi(x)?)?,
        Activation::Relu => x.relu()?,
        Activation::Sigmoid => sigmoid(x)?,
        Activation::Clamped { alpha, limit } => {
            let x = x.minimum(f64::from(limit))?;
            (&x * sigmoid(&(&x * f64::from(alpha))?)?)?
        }
    })
}

fn slope(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::Silu => {
            let sigma = sigmoid(x)?;
            let silu = (x * &sigma)?;
            ((&sigma + &silu)? - (silu * sigma)?)?
        }
        // With τ the tanh: ½(1 + τ) + ½x·(1 − τ²)·√(2/π)·(1 + 3·0.044715·x²).
        Activation::GeluTanh => {
            let tanh = bell(x)?;
            let inner = x.sqr()?.affine(1.5 * GELU_SCALE * GELU_CUBIC, 0.5 * GELU_SCALE)?;
            let bend = ((tanh.sqr()?.affine(-1.0, 1.0)? * inner)? * x)?;
            (tanh.affine(0.5, 0.5)? + bend)?
        }
        // Φ′(x) is the normal density.
        Activation::Gelu => {
            let density = (x.sqr()?.affine(-0.5, 0.0)?.exp()? * INVERSE_ROOT_TWO_PI)?;
            (phi(x)? + (density * x)?)?
        }
        Activation::Relu => x.relu()?.sign()?,
        Activation::Sigmoid => {
            let sigma = sigmoid(x)?;
            (&sigma * sigma.affine(-1.0, 1.0)?)?
        }
        // σ·(1 + αx·(1 − σ)), nothing beyond the limit.
        Activation::Clamped { alpha, limit } => {
            let steep = (x * f64::from(alpha))?;
            let sigma = sigmoid(&steep)?;
            let inside = x.le(f64::from(limit))?.to_dtype(x.dtype())?;
            (((steep * sigma.affine(-1.0, 1.0)?)? + 1.0)? * (sigma * inside)?)?
        }
    })
}

/// `tanh(√(2/π)·(x + 0.044715·x³))` (Hendrycks & Gimpel 2016, section 2).
fn bell(x: &Tensor) -> Result<Tensor> {
    Ok((x.sqr()?.affine(GELU_SCALE * GELU_CUBIC, GELU_SCALE)? * x)?.tanh()?)
}

/// The normal distribution.
fn phi(x: &Tensor) -> Result<Tensor> {
    Ok((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)?)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}
