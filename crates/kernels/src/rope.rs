//! Rotary position embedding (Su et al. 2021, eq. 34).
//!
//! Element `i` of a head turns with element `i + r/2`, r = twice the number of frequencies, or neighbours turn together; elements
//! from `r` on pass through. Refuses to know: how a model family scales its frequencies; they come in as numbers.
//! Legend: `t` tokens, `h` heads, `dh` head size.

use std::sync::{Arc, RwLock};

use rayon::prelude::*;

use super::element::{Element, convert_here, sum_here};
use super::host;
use super::simd::{Lanes, Simd, multiversion, runs};

/// How heads turn with their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Radians a position, one for each pair of elements.
    pub inverse_frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with: 1 unless the family says otherwise.
    pub scaling: f32,
    /// Element `2i` turns with `2i + 1` (GPT-J, GLM, Cohere), not with the one half a turn away (NeoX, llama).
    pub interleaved: bool,
    /// What queries are multiplied with by their position.
    pub query_scale: Option<QueryScale>,
}

/// `1 + beta · ln(1 + ⌊position / length⌋)` (transformers' `get_llama_4_attn_scale`, Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    pub beta: f64,
    pub length: usize,
}

impl QueryScale {
    fn at(self, position: u32) -> f32 {
        (1.0 + self.beta * (1.0 + f64::from(position / self.length as u32)).ln()) as f32
    }
}

/// Cosines and sines of every position up to the largest one asked for; grows by itself.
#[derive(Debug)]
pub struct RopeTable {
    rotary: Rotary,
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
    /// A table of `rotary`; `positions` are computed at once, more on demand.
    pub fn new(rotary: Rotary, positions: usize) -> RopeTable {
        let angles = Angles::new(&rotary, positions);
        RopeTable { rotary, angles: RwLock::new(Arc::new(angles)) }
    }

    pub fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    /// What the queries at `positions` are multiplied with, where that is not one.
    pub fn query_scales(&self, positions: &[u32]) -> Option<Vec<f32>> {
        self.rotary.query_scale.map(|scale| positions.iter().map(|p| scale.at(*p)).collect())
    }

    /// Elements of a head that turn.
    pub fn rotated(&self) -> usize {
        2 * self.half()
    }

    /// Cosines and sines of tokens at `positions`, (tokens, r/2) each.
    pub fn rows(&self, positions: &[u32]) -> [Vec<f32>; 2] {
        let angles = self.upto(positions.iter().max().map_or(0, |p| *p as usize + 1));
        let half = self.half();
        [&angles.cos, &angles.sin]
            .map(|table| positions.iter().flat_map(|p| &table[*p as usize * half..][..half]).copied().collect())
    }

    fn half(&self) -> usize {
        self.rotary.inverse_frequencies.len()
    }

    fn upto(&self, positions: usize) -> Arc<Angles> {
        // A poisoned lock still holds a whole table: it is replaced in one assignment.
        let current = self.angles.read().unwrap_or_else(|e| e.into_inner()).clone();
        if current.positions >= positions {
            return current;
        }
        let grown = Arc::new(Angles::new(&self.rotary, positions.next_power_of_two()));
        *self.angles.write().unwrap_or_else(|e| e.into_inner()) = grown.clone();
        grown
    }
}

impl Angles {
    /// The angle is a product of two f32, as transformers computes it; its cosine is taken in f64.
    fn new(Rotary { inverse_frequencies, scaling, .. }: &Rotary, positions: usize) -> Angles {
        let angles = (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let (cos, sin) = angles.map(|a| (a.cos() as f32 * *scaling, a.sin() as f32 * *scaling)).unzip();
        Angles { positions, cos, sin }
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

/// Queries, keys (both turned) and values of every token into `out`; each is (tokens, its heads · dh). One that is empty
/// is left out. Where an input has several times the heads of its output, heads that share a head of the output are summed first (the gradients that
/// query heads give to the keys and values they share).
pub fn turn_parts<T: Element>(turn: &Rotation, parts: [&[f32]; 3], out: [&mut [T]; 3]) {
    let (lanes, tokens) = (Lanes::in_force(), turn.positions.len().max(1));
    let angles = turn.table.map(|t| (t, t.upto(turn.positions.iter().max().map_or(0, |p| *p as usize + 1))));
    let widths = [0, 1, 2].map(|i| (parts[i].len() / tokens, out[i].len() / tokens));
    let rows = host::rows_per_task(widths[0].0);
    let count = tokens.div_ceil(rows);
    let [q, k, v] = out;
    let tasks = runs_of(q, rows * widths[0].1, count).into_par_iter().zip(runs_of(k, rows * widths[1].1, count));
    let tasks = tasks.zip(runs_of(v, rows * widths[2].1, count)).enumerate();
    tasks.for_each(|(task, ((q, k), v))| {
        let mut summed = vec![0f32; widths[1].1.max(widths[2].1)];
        let mut own = vec![0f32; widths[0].1];
        for (which, out) in [q, k, v].into_iter().enumerate() {
            let (from, to) = widths[which];
            if to == 0 {
                continue;
            }
            for (i, out) in out.chunks_exact_mut(to).enumerate() {
                let token = task * rows + i;
                let mut x = shared(lanes, &parts[which][token * from..][..from], turn.head_dim, to, &mut summed);
                match &angles {
                    Some((table, angles)) if which < 2 => {
                        let position = turn.positions[token];
                        if let Some(scale) = table.rotary.query_scale.filter(|_| which == 0) {
                            let by = scale.at(position);
                            own.iter_mut().zip(x).for_each(|(own, x)| *own = by * x);
                            x = &own;
                        }
                        let (at, half) = (position as usize * table.half(), table.half());
                        let (cos, sin) = (&angles.cos[at..][..half], &angles.sin[at..][..half]);
                        match table.rotary.interleaved {
                            false => turn_token(lanes, x, cos, sin, turn.head_dim, turn.inverse, out),
                            true => turn_neighbours(lanes, x, (cos, sin), turn.head_dim, turn.inverse, out),
                        }
                    }
                    _ => convert_here(lanes, x, out),
                }
            }
        }
    });
}

/// `count` runs of `len`, the last maybe shorter; of nothing as many that are empty.
fn runs_of<T>(of: &mut [T], len: usize, count: usize) -> Vec<&mut [T]> {
    if len == 0 { (0..count).map(|_| [].as_mut_slice()).collect() } else { of.chunks_mut(len).collect() }
}

/// As [`turn_token`], element `2i` with `2i + 1`.
fn turn_neighbours<T: Element>(lanes: Lanes, x: &[f32], (cos, sin): (&[f32], &[f32]), dh: usize, inverse: bool, out: &mut [T]) {
    let sign = if inverse { -1.0 } else { 1.0 };
    let mut turned = x.to_vec();
    for head in turned.chunks_exact_mut(dh) {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
            let (low, high, sin) = (pair[0], pair[1], sign * sin);
            pair[0] = low * cos - high * sin;
            pair[1] = high * cos + low * sin;
        }
    }
    convert_here(lanes, &turned, out);
}

/// The row itself, or its heads summed in groups until it is `width` wide.
fn shared<'a>(lanes: Lanes, x: &'a [f32], dh: usize, width: usize, scratch: &'a mut [f32]) -> &'a [f32] {
    if x.len() == width {
        return x;
    }
    let group = x.len() / width;
    for (heads, out) in x.chunks_exact(group * dh).zip(scratch.chunks_exact_mut(dh)) {
        sum_here(lanes, heads, out);
    }
    &scratch[..width]
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
    use candle_core::{Device, Tensor};

    use super::super::gradient_check::{self, Tolerance, double, numbers};
    use super::*;
    use crate::error::Result;

    fn rotary(inverse_frequencies: Vec<f32>, scaling: f32) -> Rotary {
        Rotary { inverse_frequencies, scaling, interleaved: false, query_scale: None }
    }

    fn table(half: usize) -> RopeTable {
        RopeTable::new(rotary((0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect(), 1.25), 3)
    }

    /// The same in differentiable tensor operations: `x` (t, h, dh).
    fn twin(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Result<Tensor> {
        let (half, dh) = (table.rotated() / 2, x.dim(2)?);
        let [cos, sin] = table.rows(positions).map(|rows| Tensor::from_vec(rows, (positions.len(), 1, half), &Device::Cpu));
        let (cos, sin) = (cos?.to_dtype(x.dtype())?, sin?.to_dtype(x.dtype())?);
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        if 2 * half == dh {
            return Ok(Tensor::cat(&[turned_low, turned_high], 2)?);
        }
        Ok(Tensor::cat(&[turned_low, turned_high, x.narrow(2, 2 * half, dh - 2 * half)?], 2)?)
    }

    /// Queries and keys are turned, values are not.
    fn turned(x: &[f32], table: &RopeTable, positions: &[u32], head_dim: usize, inverse: bool) -> Vec<f32> {
        let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0f32; x.len()]);
        turn_parts(&Rotation { table: Some(table), positions, head_dim, inverse }, [x; 3], [&mut q, &mut k, &mut v]);
        assert!(q == k && v == x);
        q
    }

    fn dispatched(x: &Tensor, table: &RopeTable, positions: &[u32]) -> Vec<Vec<f64>> {
        let dh = x.dims()[2];
        gradient_check::run_slices(&[x], x.elem_count(), |x, g| {
            vec![turned(&x[0], table, positions, dh, false), turned(g, table, positions, dh, true)]
        })
    }

    #[test]
    fn agrees_with_its_twin() {
        // Whole and partial rotation, odd sizes, positions beyond what the table starts with.
        for ([t, h, dh], half) in [([6, 2, 8], 4), ([1, 9, 64], 32), ([10, 1, 10], 3), ([210, 3, 64], 32)] {
            let positions: Vec<u32> = (0..t).map(|i| (i * 37 % 501) as u32).collect();
            let (x, table) = (numbers(1, &[t, h, dh]), table(half));
            let want = gradient_check::run(&[double(&x)], |x| twin(&x[0], &table, &positions));
            let [cos, sin] = table.rows(&positions);
            for lanes in Lanes::available() {
                let turn = |x: &[f32], inverse| {
                    let mut out = vec![0f32; x.len()];
                    let tokens = x.chunks_exact(h * dh).zip(out.chunks_exact_mut(h * dh));
                    for ((x, out), (cos, sin)) in tokens.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
                        turn_token(lanes, x, cos, sin, dh, inverse, out);
                    }
                    out
                };
                let got = gradient_check::run_slices(&[&x], t * h * dh, |x, g| vec![turn(&x[0], false), turn(g, true)]);
                gradient_check::same(&got, &want, Tolerance::default(), lanes.name());
            }
            gradient_check::same(&dispatched(&x, &table, &positions), &want, Tolerance::default(), "dispatched");
        }
    }

    #[test]
    fn turns_by_the_angle_of_the_position() {
        // One pair (x, y) at position 2 with frequency 0.5 turns by 1 radian.
        let turned = turned(&[3.0, 4.0], &RopeTable::new(rotary(vec![0.5], 1.0), 1), &[2], 2, false);
        let (sin, cos) = 1f32.sin_cos();
        assert!((turned[0] - (3.0 * cos - 4.0 * sin)).abs() < 1e-6 && (turned[1] - (4.0 * cos + 3.0 * sin)).abs() < 1e-6);
    }

    #[test]
    fn heads_that_share_a_head_are_summed_before_they_turn() {
        let (x, table) = (numbers(5, &[2 * 4 * 6]).to_vec1::<f32>().unwrap(), table(3));
        let sums: Vec<f32> = x.chunks(12).flat_map(|two| two[..6].iter().zip(&two[6..]).map(|(a, b)| a + b)).collect();
        let [mut q, mut k, mut v] = [x.len(), x.len() / 2, x.len() / 2].map(|len| vec![0f32; len]);
        let turn = Rotation { table: Some(&table), positions: &[3, 4], head_dim: 6, inverse: true };
        turn_parts(&turn, [&x, &x, &x], [&mut q, &mut k, &mut v]);
        assert!(q == turned(&x, &table, &[3, 4], 6, true) && k == turned(&sums, &table, &[3, 4], 6, true) && v == sums);
    }

    #[test]
    fn twin_agrees_with_finite_differences_and_threads_do_not_matter() {
        gradient_check::finite_differences(&[double(&numbers(3, &[3, 2, 6]))], |x| twin(&x[0], &table(3), &[0, 7, 2]));
        let (x, positions) = (numbers(4, &[130, 9, 64]), (0..130).collect::<Vec<u32>>());
        gradient_check::threads_agree(|| dispatched(&x, &table(32), &positions));
    }

    /// The same turn of the same numbers in another order, there and back.
    #[test]
    fn neighbours_turn_as_halves_do() {
        let (x, positions, half, dh) = (numbers(5, &[7, 2, 10]), [0u32, 3, 1, 9, 4, 4, 2], 3, 10);
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let halves = table(half);
        let neighbours = RopeTable::new(Rotary { interleaved: true, ..halves.rotary().clone() }, 2);
        let apart = |x: &[f32]| -> Vec<f32> { x.chunks(dh).flat_map(|h| [0, 2, 4, 1, 3, 5, 6, 7, 8, 9].map(|i| h[i])).collect() };
        for inverse in [false, true] {
            let got = apart(&turned(&x, &neighbours, &positions, dh, inverse));
            let want = turned(&apart(&x), &halves, &positions, dh, inverse);
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{inverse}");
        }
    }

    #[test]
    fn queries_alone_are_scaled_by_their_position() {
        let (x, plain) = ([1.0f32, -2.0, 0.5, 4.0, 3.0, 2.0], table(1));
        let query_scale = Some(QueryScale { beta: 0.5, length: 3 });
        let scaled = RopeTable::new(Rotary { query_scale, ..plain.rotary().clone() }, 2);
        for inverse in [false, true] {
            let of = |table| {
                let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0f32; 6]);
                let turn = Rotation { table: Some(table), positions: &[0, 7], head_dim: 3, inverse };
                turn_parts(&turn, [&x; 3], [&mut q, &mut k, &mut v]);
                [q, k, v]
            };
            let ([q, k, v], [scaled_q, same_k, same_v]) = (of(&plain), of(&scaled));
            assert!(k == same_k && v == same_v && q[..3] == scaled_q[..3]);
            let by = 1.0 + 0.5 * 3f32.ln();
            assert!(q[3..].iter().zip(&scaled_q[3..]).all(|(a, b)| (a * by - b).abs() < 1e-5), "{q:?} {scaled_q:?}");
        }
        assert_eq!(scaled.query_scales(&[2, 3]), Some(vec![1.0, (1.0 + 0.5 * 2f64.ln()) as f32]));
    }
}
