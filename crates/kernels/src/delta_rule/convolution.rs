//! The depthwise causal convolution without bias, and SiLU behind it.

use super::activation::Activation;
use super::host;

/// Its weights, a row for every tap.
pub(super) struct Convolution {
    /// (kernel, channels), the newest token's last.
    taps: Vec<f32>,
    channels: usize,
}

impl Convolution {
    /// Of `weight` (channels, kernel).
    pub(super) fn new(weight: &[f32], channels: usize) -> Convolution {
        let kernel = weight.len() / channels;
        let mut taps = vec![0.0; weight.len()];
        for (channel, weight) in weight.chunks_exact(kernel).enumerate() {
            weight.iter().enumerate().for_each(|(tap, weight)| taps[tap * channels + channel] = *weight);
        }
        Convolution { taps, channels }
    }

    /// Tokens before its own that a row sees.
    fn before(&self) -> usize {
        self.taps.len() / self.channels - 1
    }

    /// SiLU of the convolution of `x` (t, channels) behind `tail` (kernel − 1, channels), which is empty for zeros.
    pub(super) fn forward(&self, tail: &[f32], x: &[f32], out: &mut [f32]) {
        host::for_rows(out, self.channels, |first, rows| {
            let mut sums = vec![0.0; self.channels];
            for (i, row) in rows.chunks_exact_mut(self.channels).enumerate() {
                self.sums(tail, x, first + i, &mut sums);
                Activation::Silu.forward(&sums, row);
            }
        });
    }

    /// The convolution at one token.
    fn sums(&self, tail: &[f32], x: &[f32], token: usize, out: &mut [f32]) {
        out.fill(0.0);
        let row = |x: &[f32], at: usize, out: &mut [f32], taps: &[f32]| add_product(out, taps, &x[at * self.channels..]);
        for (tap, taps) in self.taps.chunks_exact(self.channels).enumerate() {
            match (token + tap).checked_sub(self.before()) {
                Some(at) => row(x, at, out, taps),
                None if tail.is_empty() => {}
                None => row(tail, token + tap, out, taps),
            }
        }
    }

    /// The gradient of `x` (t, channels), behind no tail, given that of the result: into `dx`, set.
    pub(super) fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let mut d_sums = vec![0.0; x.len()];
        host::for_rows(&mut d_sums, self.channels, |first, rows| {
            rows.chunks_exact_mut(self.channels).enumerate().for_each(|(i, row)| self.sums(&[], x, first + i, row));
        });
        Activation::Silu.backward_in_place(&mut d_sums, dy);
        host::for_rows(dx, self.channels, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(self.channels).enumerate() {
                row.fill(0.0);
                for (tap, taps) in self.taps.chunks_exact(self.channels).enumerate() {
                    let at = (first + i + self.before() - tap) * self.channels;
                    if at < d_sums.len() {
                        add_product(row, taps, &d_sums[at..]);
                    }
                }
            }
        });
    }
}

/// `out += a ∘ b`
fn add_product(out: &mut [f32], a: &[f32], b: &[f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out += a * b);
}
