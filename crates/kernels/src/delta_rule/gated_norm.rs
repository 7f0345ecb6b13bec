//! The RMS norm of what each head reads, by SiLU(z): `weight ∘ (x / √(mean(x²) + eps)) ∘ silu(z)`.

use super::DeltaLayer;
use super::activation::Activation;
use super::host;
use super::rows::dot;

/// Of every head, into `out` (t, values); `cores` has for every key head what its group read, (group, t, value_dim).
pub(super) fn forward(layer: &DeltaLayer, cores: &[Vec<f32>], z: &[f32], out: &mut [f32]) {
    let (sizes, width) = (layer.sizes, layer.sizes.value_dim);
    let t = out.len() / sizes.values();
    host::for_rows(out, sizes.values(), |first, rows| {
        Activation::Silu.forward(&z[first * sizes.values()..][..rows.len()], rows);
        for (at, out) in rows.chunks_exact_mut(width).enumerate() {
            let (token, head) = (first + at / sizes.value_heads, at % sizes.value_heads);
            let core = &cores[head / sizes.group()][(head % sizes.group() * t + token) * width..][..width];
            let inverse = inverse_root(core, layer.eps);
            for ((out, weight), x) in out.iter_mut().zip(layer.norm).zip(core) {
                *out *= weight * (x * inverse);
            }
        }
    });
}

/// The gradients of what one head read and of its `z`, both (t, value_dim); `z` and the gradient of the result likewise.
///
/// With x̂ the normed row, ρ what it was multiplied with and u = dy∘silu(z)∘weight: `dx = ρ·(u − x̂·mean(u∘x̂))`,
/// `dz = dy∘weight∘x̂∘silu′(z)`.
pub(super) fn backward(layer: &DeltaLayer, core: &[f32], z: Vec<f32>, dy: &[f32]) -> [Vec<f32>; 2] {
    let width = layer.sizes.value_dim;
    let mut gate = vec![0.0; z.len()];
    Activation::Silu.forward(&z, &mut gate);
    let (mut d_core, mut behind) = (gate, vec![0.0; z.len()]);
    let rows = d_core.chunks_exact_mut(width).zip(behind.chunks_exact_mut(width));
    for ((u, behind), (core, dy)) in rows.zip(core.chunks_exact(width).zip(dy.chunks_exact(width))) {
        let inverse = inverse_root(core, layer.eps);
        for (i, weight) in layer.norm.iter().enumerate() {
            u[i] *= dy[i] * weight;
            behind[i] = dy[i] * weight * core[i] * inverse;
        }
        let along = dot(u, core) * inverse / width as f32;
        u.iter_mut().zip(core).for_each(|(u, x)| *u = inverse * (*u - x * inverse * along));
    }
    let mut dz = z;
    Activation::Silu.backward_in_place(&mut dz, &behind);
    [d_core, dz]
}

fn inverse_root(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}
