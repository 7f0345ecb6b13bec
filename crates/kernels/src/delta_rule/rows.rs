//! Arithmetic on one row.

/// `Σ a·b`, summed in an order that the length alone decides.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `y += factor · x`
pub(super) fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// `y = factor · y`
pub(super) fn scale(y: &mut [f32], factor: f32) {
    y.iter_mut().for_each(|y| *y *= factor);
}

/// Every row of `x` (rows, width) times its factor.
pub(super) fn scale_rows(x: &mut [f32], width: usize, factors: &[f32]) {
    x.chunks_exact_mut(width).zip(factors).for_each(|(row, factor)| scale(row, *factor));
}

/// A copy of `x` (rows, width), every row times its factor.
pub(super) fn scaled_rows(x: &[f32], width: usize, factors: &[f32]) -> Vec<f32> {
    let mut scaled = x.to_vec();
    scale_rows(&mut scaled, width, factors);
    scaled
}

/// `1 / (1 + e^−x)`
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
