//! Rotary position embedding (Su et al. 2021, eq. 34) in the half-rotated layout of Hugging Face's llama.
//!
//! Element `i` of a head turns with element `i + r/2`, r = twice the number of frequencies; elements from `r` on pass
//! through. Refuses to know: how a model family scales its frequencies; they come in as numbers.
//! Legend: `b` batch, `t` tokens, `h` heads, `dh` head size.

use std::sync::{Arc, RwLock};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use super::element::{Element, convert_here, sum_here};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};
use crate::error::Result;

/// Cosines and sines of every position up to the largest one asked for; grows by itself.
#[derive(Debug)]
pub struct RopeTable {
    inverse_frequencies: Vec<f32>,
    scaling: f32,
    angles: RwLock<Arc<Angles>>,
}

/// `cos` and `sin` are (positions, r/2), row-major.
#[derive(Debug, Default)]
struct Angles {
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table of `inverse_frequencies` (radians a position, one a pair of elements); cosines and sines are multiplied
    /// by `attention_scaling` (1 unless the family says otherwise). `positions` are computed at once, more on demand.
    pub fn new(inverse_frequencies: Vec<f32>, attention_scaling: f32, positions: usize) -> RopeTable {
        let angles = Angles::new(&inverse_frequencies, attention_scaling, positions);
        RopeTable { inverse_frequencies, scaling: attention_scaling, angles: RwLock::new(Arc::new(angles)) }
    }

    /// Elements of a head that turn.
    pub fn rotated(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// Cosines and sines of tokens at `positions`, (tokens, r/2) each.
    pub fn rows(&self, positions: &[u32]) -> [Vec<f32>; 2] {
        let angles = self.upto(positions.iter().max().map_or(0, |p| *p as usize + 1));
        let half = self.inverse_frequencies.len();
        [&angles.cos, &angles.sin]
            .map(|table| positions.iter().flat_map(|p| &table[*p as usize * half..][..half]).copied().collect())
    }

    fn upto(&self, positions: usize) -> Arc<Angles> {
        // A poisoned lock still holds a whole table: it is replaced in one assignment.
        let current = self.angles.read().unwrap_or_else(|e| e.into_inner()).clone();
        if current.positions >= positions {
            return current;
        }
        let grown = Arc::new(Angles::new(&self.inverse_frequencies, self.scaling, positions.next_power_of_two()));
        *self.angles.write().unwrap_or_else(|e| e.into_inner()) = grown.clone();
        grown
    }
}

impl Angles {
    /// The angle is a product of two f32, as transformers computes it; its cosine is taken in f64.
    fn new(inverse_frequencies: &[f32], scaling: f32, positions: usize) -> Angles {
        let angles = (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let (cos, sin) = angles.map(|a| (a.cos() as f32 * scaling, a.sin() as f32 * scaling)).unzip();
        Angles { positions, cos, sin }
    }
}

/// Turns every head of `x` (b, t, h, dh) to its position; `positions` holds b·t of them, row by row.
///
/// Errors when the number of positions is not b·t or the table turns more elements than a head has.
pub fn rope(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
    let (b, t, _, dh) = x.dims4()?;
    let problem = match () {
        () if positions.len() != b * t => format!("{} positions for {b} rows of {t} tokens", positions.len()),
        () if table.rotated() > dh => format!("the table turns {} elements, a head has {dh}", table.rotated()),
        () => {
            let needed = positions.iter().max().map_or(0, |p| *p as usize + 1);
            let angles = table.upto(needed);
            let half = table.inverse_frequencies.len();
            if !host::fused(x) {
                return portable::turn(x, &angles, half, positions);
            }
            let op = Rope { angles, half, positions: positions.into(), inverse: false, lanes: Lanes::in_force() };
            return Ok(x.contiguous()?.apply_op1(op)?);
        }
    };
    Err(candle_core::Error::Msg(format!("rope: {problem}")).into())
}

/// The same function in differentiable tensor operations, for any device.
pub mod portable {
    use super::*;

    /// See [`super::rope`].
    pub fn rope(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
        let needed = positions.iter().max().map_or(0, |p| *p as usize + 1);
        turn(x, &table.upto(needed), table.inverse_frequencies.len(), positions)
    }

    pub(super) fn turn(x: &Tensor, angles: &Angles, half: usize, positions: &[u32]) -> Result<Tensor> {
        let (b, t, _, dh) = x.dims4()?;
        let rows = |table: &[f32]| -> Result<Tensor> {
            let rows: Vec<f32> = positions.iter().flat_map(|p| &table[*p as usize * half..][..half]).copied().collect();
            let rows = Tensor::from_vec(rows, (b, t, 1, half), &Device::Cpu)?; // (b, t, 1, r/2)
            Ok(rows.to_device(x.device())?.to_dtype(x.dtype())?)
        };
        let (cos, sin) = (rows(&angles.cos)?, rows(&angles.sin)?);
        let low = x.narrow(3, 0, half)?; // (b, t, h, r/2)
        let high = x.narrow(3, half, half)?;
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        if 2 * half == dh {
            return Ok(Tensor::cat(&[turned_low, turned_high], 3)?);
        }
        let rest = x.narrow(3, 2 * half, dh - 2 * half)?;
        Ok(Tensor::cat(&[turned_low, turned_high, rest], 3)?)
    }
}

/// How [`turn_parts`] turns: which way, and by what.
pub struct Rotation<'a> {
    /// Nothing is turned without one.
    pub table: Option<&'a RopeTable>,
    pub positions: &'a [u32],
    pub head_dim: usize,
    /// Turns back, which is also the gradient.
    pub inverse: bool,
}

/// Queries, keys (both turned) and values of every token into `out`; each is (tokens, its heads · dh). Where an input has
/// several times the heads of its output, heads that share a head of the output are summed first (the gradients that
/// query heads give to the keys and values they share).
pub fn turn_parts<T: Element>(turn: &Rotation, parts: [&[f32]; 3], out: [&mut [T]; 3]) {
    let (lanes, tokens) = (Lanes::in_force(), turn.positions.len().max(1));
    let angles = turn.table.map(|t| t.upto(turn.positions.iter().max().map_or(0, |p| *p as usize + 1)));
    let half = turn.table.map_or(0, |t| t.inverse_frequencies.len());
    let widths = [0, 1, 2].map(|i| (parts[i].len() / tokens, out[i].len() / tokens));
    let rows = host::rows_per_task(widths[0].0);
    let [q, k, v] = out;
    let tasks = q.par_chunks_mut(rows * widths[0].1).zip(k.par_chunks_mut(rows * widths[1].1));
    let tasks = tasks.zip(v.par_chunks_mut(rows * widths[2].1)).enumerate();
    tasks.for_each(|(task, ((q, k), v))| {
        let mut summed = vec![0f32; widths[1].1.max(widths[2].1)];
        for (which, out) in [q, k, v].into_iter().enumerate() {
            let (from, to) = widths[which];
            for (i, out) in out.chunks_exact_mut(to).enumerate() {
                let token = task * rows + i;
                let x = shared(lanes, &parts[which][token * from..][..from], turn.head_dim, to, &mut summed);
                match &angles {
                    Some(angles) if which < 2 => {
                        let at = turn.positions[token] as usize * half;
                        let (cos, sin) = (&angles.cos[at..][..half], &angles.sin[at..][..half]);
                        turn_token(lanes, x, cos, sin, turn.head_dim, turn.inverse, out);
                    }
                    _ => convert_here(lanes, x, out),
                }
            }
        }
    });
}

/// The row itself, or its heads summed in groups until it is `width` wide.
fn shared<'a>(lanes: Lanes, x: &'a [f32], dh: usize, width: usize, room: &'a mut [f32]) -> &'a [f32] {
    if x.len() == width {
        return x;
    }
    let group = x.len() / width;
    for (heads, out) in x.chunks_exact(group * dh).zip(room.chunks_exact_mut(dh)) {
        sum_here(lanes, heads, out);
    }
    &room[..width]
}

struct Rope {
    angles: Arc<Angles>,
    half: usize,
    positions: Arc<[u32]>,
    /// Turn back: a rotation's transpose is its inverse.
    inverse: bool,
    lanes: Lanes,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(storage, layout)?;
        let [.., h, dh] = *layout.dims() else { bail!("rope: {:?} is not (b, t, h, dh)", layout.dims()) };
        let mut out = vec![0.0; x.len()];
        // One row is a token: all its heads turn by the same angles.
        host::for_rows(&mut out, h * dh, |row, out| {
            let x = &x[row * h * dh..][..out.len()];
            let tokens = x.chunks_exact(h * dh).zip(out.chunks_exact_mut(h * dh));
            for ((x, out), position) in tokens.zip(&self.positions[row..]) {
                let at = *position as usize * self.half;
                let (cos, sin) = (&self.angles.cos[at..][..self.half], &self.angles.sin[at..][..self.half]);
                turn_token(self.lanes, x, cos, sin, dh, self.inverse, out);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (angles, positions) = (self.angles.clone(), self.positions.clone());
        let back = Rope { angles, half: self.half, positions, inverse: !self.inverse, lanes: self.lanes };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

multiversion! {
    fn turn_token<T: Element>(x: &[f32], cos: &[f32], sin: &[f32], dh: usize, inverse: bool, out: &mut [T]) = turn_body;
}

#[inline(always)]
fn turn_body<S: Simd, T: Element>(s: S, x: &[f32], cos: &[f32], sin: &[f32], dh: usize, inverse: bool, out: &mut [T]) {
    let half = cos.len();
    let sign = s.splat(if inverse { -1.0 } else { 1.0 });
    for (x, out) in x.chunks_exact(dh).zip(out.chunks_exact_mut(dh)) {
        let (low, rest) = x.split_at(half);
        let (high, rest) = rest.split_at(half);
        let (out_low, out_rest) = out.split_at_mut(half);
        let (out_high, out_rest) = out_rest.split_at_mut(half);
        for (low, high, cos, sin, out_low, out_high) in runs(s, (low, high, cos, sin, out_low, out_high)) {
            let (low, high) = (s.load(low), s.load(high));
            let (cos, sin) = (s.load(cos), s.mul(s.load(sin), sign));
            T::store(s, s.sub(s.mul(low, cos), s.mul(high, sin)), out_low);
            T::store(s, s.mul_add(high, cos, s.mul(low, sin)), out_high);
        }
        for (x, out) in runs(s, (rest, out_rest)) {
            T::store(s, s.load(x), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{self, Tolerance};
    use super::*;

    fn table(half: usize) -> RopeTable {
        RopeTable::new((0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect(), 1.25, 3)
    }

    #[test]
    fn agrees_with_its_twin() {
        // Whole and partial rotation, odd sizes, positions beyond what the table starts with.
        for (shape, half) in [([2, 3, 2, 8], 4), ([1, 1, 9, 64], 32), ([2, 5, 1, 10], 3), ([3, 70, 3, 64], 32)] {
            let [b, t, ..] = shape;
            let positions: Vec<u32> = (0..b * t).map(|i| (i * 37 % 501) as u32).collect();
            let x = gradient_check::numbers(1, &shape);
            let want = gradient_check::run(&[gradient_check::double(&x)], |x| portable::rope(&x[0], &table(half), &positions));
            for lanes in Lanes::available() {
                let op = || Rope { angles: table(half).upto(501), half, positions: positions[..].into(), inverse: false, lanes };
                let got = gradient_check::run(std::slice::from_ref(&x), |x| Ok(x[0].apply_op1(op())?));
                gradient_check::same(&got, &want, Tolerance::default(), lanes.name());
            }
            let got = gradient_check::run(&[x], |x| rope(&x[0], &table(half), &positions));
            gradient_check::same(&got, &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn turns_by_the_angle_of_the_position() {
        // One pair (x, y) at position 2 with frequency 0.5 turns by 1 radian.
        let x = Tensor::new(&[[[[3f32, 4.0]]]], &Device::Cpu).unwrap();
        let turned = rope(&x, &RopeTable::new(vec![0.5], 1.0, 1), &[2]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (sin, cos) = 1f32.sin_cos();
        assert!((turned[0] - (3.0 * cos - 4.0 * sin)).abs() < 1e-6 && (turned[1] - (4.0 * cos + 3.0 * sin)).abs() < 1e-6);
    }

    #[test]
    fn twin_agrees_with_finite_differences_and_threads_do_not_matter() {
        let x = gradient_check::double(&gradient_check::numbers(3, &[1, 3, 2, 6]));
        gradient_check::finite_differences(&[x], |x| portable::rope(&x[0], &table(3), &[0, 7, 2]));
        let positions: Vec<u32> = (0..130).collect();
        gradient_check::threads_agree(&[gradient_check::numbers(4, &[2, 65, 9, 64])], |x| rope(&x[0], &table(32), &positions));
    }

    #[test]
    fn wrong_sizes_are_named() {
        let x = gradient_check::numbers(1, &[1, 2, 1, 4]);
        assert!(rope(&x, &table(2), &[0]).unwrap_err().to_string().contains("1 positions for 1 rows of 2 tokens"));
        assert!(rope(&x, &table(3), &[0, 1]).unwrap_err().to_string().contains("turns 6 elements, a head has 4"));
    }
}
