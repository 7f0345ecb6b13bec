//! The RMS norm of what each head reads, by SiLU(z): `weight ∘ (x / √(mean(x²) + eps)) ∘ silu(z)`.

use super::DeltaLayer;
use super::element::Element;
use super::host;
use super::rows::dot_body;
use super::simd::{Lanes, Simd, multiversion, runs};

/// Of every head, into `out` (t, values); `cores` is what they read, (value_heads, t, value_dim).
pub(super) fn forward(layer: &DeltaLayer, cores: &[f32], z: &[f32], out: &mut [f32]) {
    let (lanes, sizes, width) = (Lanes::in_force(), layer.sizes, layer.sizes.value_dim);
    let t = out.len() / sizes.values();
    host::for_rows(out, sizes.values(), |first, rows| {
        let z = &z[first * sizes.values()..][..rows.len()];
        for (at, (out, z)) in rows.chunks_exact_mut(width).zip(z.chunks_exact(width)).enumerate() {
            let (token, head) = (first + at / sizes.value_heads, at % sizes.value_heads);
            let core = &cores[(head * t + token) * width..][..width];
            gate_row(lanes, (layer.norm, layer.eps), core, z, out);
        }
    });
}

/// The gradients of what one head read and of its `z`, into `d_core` and `dz`, both (t, value_dim); in `z` and in the gradient of the result,
/// rows of the head are `row` elements apart.
///
/// With x̂ the normed row, ρ what it was multiplied with and u = dy∘silu(z)∘weight: `dx = ρ·(u − x̂·mean(u∘x̂))`,
/// `dz = dy∘weight∘x̂∘silu′(z)`.
pub(super) fn backward(layer: &DeltaLayer, core: &[f32], [z, dy]: [&[f32]; 2], row: usize, [d_core, dz]: [&mut [f32]; 2]) {
    let (lanes, width) = (Lanes::in_force(), layer.sizes.value_dim);
    let inputs = core.chunks_exact(width).zip(z.chunks(row)).zip(dy.chunks(row));
    for (((core, z), dy), (d_core, dz)) in inputs.zip(d_core.chunks_exact_mut(width).zip(dz.chunks_exact_mut(width))) {
        gate_row_back(lanes, (layer.norm, layer.eps), core, [&z[..width], &dy[..width]], [d_core, dz]);
    }
}

multiversion! {
    /// One row.
    fn gate_row(norm: (&[f32], f32), core: &[f32], z: &[f32], out: &mut [f32]) = gate_row_body;
}
multiversion! {
    /// One row's gradients, given `z` and the gradient of the result.
    fn gate_row_back(norm: (&[f32], f32), core: &[f32], z_and_gradient: [&[f32]; 2], grads: [&mut [f32]; 2]) = gate_row_back_body;
}

#[inline(always)]
fn gate_row_body<S: Simd>(s: S, (weight, eps): (&[f32], f32), core: &[f32], z: &[f32], out: &mut [f32]) {
    let inverse = s.splat(inverse_root(s, core, eps));
    for (weight, core, z, out) in runs(s, (weight, core, z, out)) {
        let z = s.load(z);
        let normed = s.mul(s.load(weight), s.mul(s.load(core), inverse));
        s.store(s.mul(normed, s.mul(z, f32::sigmoid(s, z))), out);
    }
}

#[inline(always)]
fn gate_row_back_body<S: Simd>(
    s: S,
    (weight, eps): (&[f32], f32),
    core: &[f32],
    [z, dy]: [&[f32]; 2],
    [d_core, dz]: [&mut [f32]; 2],
) {
    let root = inverse_root(s, core, eps);
    let (one, inverse) = (s.splat(1.0), s.splat(root));
    let mut along = s.splat(0.0);
    for (weight, x, z, dy, u, dz) in runs(s, (weight, core, z, dy, &mut *d_core, dz)) {
        let (x, z, behind) = (s.load(x), s.load(z), s.mul(s.load(dy), s.load(weight)));
        let sigma = f32::sigmoid(s, z);
        let slope = s.mul(sigma, s.mul_add(z, s.sub(one, sigma), one));
        s.store(s.mul(s.mul(behind, s.mul(x, inverse)), slope), dz);
        let of_core = s.mul(behind, s.mul(z, sigma));
        along = s.mul_add(of_core, x, along);
        s.store(of_core, u);
    }
    let along = s.splat(-s.sum(along) * root * root / core.len() as f32);
    for (u, x) in runs(s, (d_core, core)) {
        s.store(s.mul(inverse, s.mul_add(s.load(x), along, s.load(u))), u);
    }
}

#[inline(always)]
fn inverse_root<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot_body(s, x, x) / x.len() as f32 + eps).sqrt()
}
