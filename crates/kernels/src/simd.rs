//! Vectors of f32 at the widest level this processor has, chosen at run time.
//!
//! A [`Lanes`] holds a token; a token exists only after its features were detected, so code that is handed a
//! token may use the instructions. Kernels are written once over [`Simd`] and compiled three times by
//! `multiversion!`. Refuses to know: tensors, shapes, threads.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::cpu;

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, first};

/// The vectors a kernel runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Whatever the crate was compiled for (SSE2 on x86-64, NEON on AArch64).
    Portable(Portable),
    /// AVX2 and FMA: 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, VL, BW and DQ: 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Lanes {
    /// The widest vectors that [`cpu::level`] allows.
    pub fn in_force() -> Lanes {
        #[cfg(target_arch = "x86_64")]
        {
            let level = cpu::level();
            if let Some(token) = Avx512::detect().filter(|_| level >= cpu::Level::Avx512) {
                return Lanes::Avx512(token);
            }
            if let Some(token) = Avx2::detect().filter(|_| level >= cpu::Level::Avx2) {
                return Lanes::Avx2(token);
            }
        }
        Lanes::Portable(Portable)
    }

    /// Every level this processor can run, narrowest first.
    pub fn available() -> Vec<Lanes> {
        let mut all = vec![Lanes::Portable(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Lanes::Avx2));
            all.extend(Avx512::detect().map(Lanes::Avx512));
        }
        all
    }

    /// Name for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Lanes::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx512(_) => "avx512",
        }
    }

    /// Columns of one tile of [`super::tile::matmul`]: the width that a right-hand side is best packed to.
    pub(super) const fn tile_columns(self) -> usize {
        match self {
            Lanes::Portable(_) => Portable::LANES * Portable::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx2(_) => Avx2::LANES * Avx2::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx512(_) => Avx512::LANES * Avx512::COLUMNS,
        }
    }
}

/// Arithmetic on vectors of `LANES` f32. Methods are inlined into a function compiled for the level's features.
pub trait Simd: Copy {
    type V: Copy;
    /// Elements of a vector.
    const LANES: usize;
    /// Vectors in a row of a matmul tile: as many as the registers hold beside `ROWS` rows of sums.
    const COLUMNS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// The first `min(LANES, from.len())` elements; the other lanes are zero.
    fn load(self, from: &[f32]) -> Self::V;
    /// Writes the first `min(LANES, to.len())` lanes.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// As [`Simd::load`], from bf16.
    fn load_half(self, from: &[bf16]) -> Self::V;
    /// As [`Simd::store`], rounded to bf16 (nearest, ties to even).
    fn store_half(self, v: Self::V, to: &mut [bf16]);
    /// `v` with the lanes from `n` on set to zero.
    fn first(self, v: Self::V, n: usize) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `a < b`, else `b` (so a NaN in `b` stays).
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `a > b`, else `b` (so a NaN in `b` stays).
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `2ⁿ` where the low bits of the pattern of `magic` hold the whole number `n`, −126 ≤ n ≤ 127.
    fn power_of_two(self, magic: Self::V) -> Self::V;
    /// Sum of the lanes.
    fn sum(self, v: Self::V) -> f32;

    /// eˣ for results that are rounded to bf16: to 1e-5 of the value; saturates (to infinity above) and keeps NaN.
    #[inline(always)]
    fn exp_rough(self, x: Self::V) -> Self::V {
        self.exp(x)
    }

    /// 1/x for results that are rounded to bf16: to 1e-4 of the value.
    #[inline(always)]
    fn reciprocal_rough(self, x: Self::V) -> Self::V {
        self.div(self.splat(1.0), x)
    }

    /// eˣ to 2 ulp; saturates below −87.3 and above 88.3, keeps NaN.
    ///
    /// x = n·ln 2 + r, |r| ≤ ln 2 / 2; the polynomial for eʳ is Cephes' `expf`.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        // Adding 1.5·2²³ leaves the rounded whole number in the low bits of the sum.
        const MAGIC: f32 = 12_582_912.0;
        let x = self.min(self.splat(88.3), self.max(self.splat(-87.3), x));
        let magic = self.mul_add(x, self.splat(std::f32::consts::LOG2_E), self.splat(MAGIC));
        let n = self.sub(magic, self.splat(MAGIC));
        // ln 2 in two parts: the first has zeros at its end, so n times it is exact.
        let r = self.mul_add(n, self.splat(-0.693_359_4), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = self.mul_add(p, r, self.splat(c));
        }
        let e = self.add(self.mul_add(self.mul(r, r), p, r), self.splat(1.0));
        self.mul(e, self.power_of_two(magic))
    }

    /// tanh x to 4e-7 of the value, saturated beyond ±7.9; keeps NaN. The ratio of polynomials is Eigen's `ptanh_float`.
    #[inline(always)]
    fn tanh(self, x: Self::V) -> Self::V {
        const END: f32 = 7.905_311;
        let x = self.min(self.splat(END), self.max(self.splat(-END), x));
        let square = self.mul(x, x);
        let mut over = self.splat(-2.760_768_5e-16);
        for c in [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3] {
            over = self.mul_add(over, square, self.splat(c));
        }
        let mut under = self.splat(1.198_258_4e-6);
        for c in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
            under = self.mul_add(under, square, self.splat(c));
        }
        self.div(self.mul(x, over), under)
    }
}

/// Slices of one length, walked side by side.
///
/// An iterator of our own, because the standard library's `zip` of `chunks` is left to the optimiser to inline, and
/// where it does not, every vector costs two calls (measured: SwiGLU half, rope and norms up to twice as long).
pub trait Sides: Sized {
    /// Elements of the shortest slice.
    fn shortest(&self) -> usize;
    /// Takes the first `n ≤ len` elements of each off.
    fn take(&mut self, n: usize) -> Self;
}

impl<T> Sides for &[T] {
    #[inline(always)]
    fn shortest(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn take(&mut self, n: usize) -> Self {
        let (first, rest) = self.split_at(n);
        *self = rest;
        first
    }
}

impl<T> Sides for &mut [T] {
    #[inline(always)]
    fn shortest(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn take(&mut self, n: usize) -> Self {
        let (first, rest) = std::mem::take(self).split_at_mut(n);
        *self = rest;
        first
    }
}

macro_rules! sides {
    ($($name:ident),+) => {
        impl<$($name: Sides),+> Sides for ($($name,)+) {
            #[inline(always)]
            fn shortest(&self) -> usize {
                #[allow(non_snake_case, reason = "a variable for each type")]
                let ($($name,)+) = self;
                let mut least = usize::MAX;
                $(least = least.min($name.shortest());)+
                least
            }
            #[inline(always)]
            fn take(&mut self, n: usize) -> Self {
                #[allow(non_snake_case, reason = "a variable for each type")]
                let ($($name,)+) = self;
                ($($name.take(n),)+)
            }
        }
    };
}
sides!(A);
sides!(A, B);
sides!(A, B, C);
sides!(A, B, C, D);
sides!(A, B, C, D, E);
sides!(A, B, C, D, E, F);

/// Runs of at most `LANES` elements of [`Sides`]; the last may be shorter. What a side has beyond the shortest is left out.
pub struct Runs<P> {
    sides: P,
    lanes: usize,
}

/// `sides` (a tuple of slices) in runs of one vector of `S`.
#[inline(always)]
pub fn runs<S: Simd, P: Sides>(_: S, mut sides: P) -> Runs<P> {
    // Cut to one length, so that one count serves for all of them.
    let shared = sides.shortest();
    Runs { sides: sides.take(shared), lanes: S::LANES }
}

impl<P: Sides> Iterator for Runs<P> {
    type Item = P;

    #[inline(always)]
    fn next(&mut self) -> Option<P> {
        let n = self.sides.shortest().min(self.lanes);
        (n > 0).then(|| self.sides.take(n))
    }
}

/// Eight lanes in plain Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portable;

impl Portable {
    #[inline(always)]
    fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; 8] {
        if let Some(whole) = from.first_chunk::<8>() {
            return *whole;
        }
        let mut v = [0.0; 8];
        v[..from.len()].copy_from_slice(from);
        v
    }
    #[inline(always)]
    fn store(self, v: [f32; 8], to: &mut [f32]) {
        let n = to.len().min(8);
        to[..n].copy_from_slice(&v[..n]);
    }
    #[inline(always)]
    fn load_half(self, from: &[bf16]) -> [f32; 8] {
        if let Some(whole) = from.first_chunk::<8>() {
            return whole.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16));
        }
        std::array::from_fn(|i| from.get(i).map_or(0.0, |x| x.to_f32()))
    }
    #[inline(always)]
    fn store_half(self, v: [f32; 8], to: &mut [bf16]) {
        to.iter_mut().zip(v).for_each(|(to, v)| *to = bf16::from_f32(v));
    }
    #[inline(always)]
    fn first(self, v: [f32; 8], n: usize) -> [f32; 8] {
        std::array::from_fn(|i| if i < n { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Fused only where the target always has the instruction: elsewhere it would be a library call.
        #[cfg(target_arch = "aarch64")]
        return std::array::from_fn(|i| a[i].mul_add(b[i], c[i]));
        #[cfg(not(target_arch = "aarch64"))]
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn power_of_two(self, magic: [f32; 8]) -> [f32; 8] {
        magic.map(|m| f32::from_bits((m.to_bits() << 23).wrapping_add(127 << 23)))
    }
    #[inline(always)]
    fn sum(self, v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
}

/// Compiles a body generic over [`Simd`] once a level and dispatches on the level.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($t:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "mirrors the body it dispatches to")]
        $vis fn $name $(<$($t: $bound),+>)? (lanes: $crate::simd::Lanes, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "mirrors the body it dispatches to")]
            fn avx512 $(<$($t: $bound),+>)? (token: $crate::simd::Avx512, $($arg: $ty),*) $(-> $ret)? {
                $body(token, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "mirrors the body it dispatches to")]
            fn avx2 $(<$($t: $bound),+>)? (token: $crate::simd::Avx2, $($arg: $ty),*) $(-> $ret)? {
                $body(token, $($arg),*)
            }
            match lanes {
                $crate::simd::Lanes::Portable(token) => $body(token, $($arg),*),
                // SAFETY: the token exists only after its features were detected on this processor.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Lanes::Avx2(token) => unsafe { avx2(token, $($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Lanes::Avx512(token) => unsafe { avx512(token, $($arg),*) },
            }
        }
    };
}
pub(super) use multiversion;

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp_body<S: Simd>(s: S, x: &mut [f32]) {
        for chunk in x.chunks_mut(S::LANES) {
            s.store(s.exp(s.load(chunk)), chunk);
        }
    }
    multiversion! { fn exp_all(x: &mut [f32]) = exp_body; }

    #[inline(always)]
    fn sum_body<S: Simd>(s: S, x: &[f32]) -> f32 {
        s.sum(s.load(x))
    }
    multiversion! { fn sum_first(x: &[f32]) -> f32 = sum_body; }

    #[test]
    fn exp_is_accurate_at_every_level() {
        for lanes in Lanes::available() {
            let xs: Vec<f32> = (0..200_003).map(|i| -87.2 + i as f32 * (175.4 / 200_003.0)).collect();
            let mut ys = xs.clone();
            exp_all(lanes, &mut ys);
            for (x, y) in xs.iter().zip(&ys) {
                let want = f64::from(*x).exp();
                let error = ((f64::from(*y) - want) / want).abs();
                assert!(error < 2.5e-7, "{}: exp({x}) = {y}, want {want}, off by {error:e}", lanes.name());
            }
        }
    }

    #[inline(always)]
    fn tanh_body<S: Simd>(s: S, x: &mut [f32]) {
        for chunk in x.chunks_mut(S::LANES) {
            s.store(s.tanh(s.load(chunk)), chunk);
        }
    }
    multiversion! { fn tanh_all(x: &mut [f32]) = tanh_body; }

    #[test]
    fn tanh_is_accurate_at_every_level() {
        for lanes in Lanes::available() {
            // Dense around zero, where the value itself is small, and far into saturation.
            let xs: Vec<f32> = (-100_000..=100_000).map(|i| (i as f32 / 1e5).powi(3) * 40.0).chain([1e30, -1e30]).collect();
            let mut ys = xs.clone();
            tanh_all(lanes, &mut ys);
            for (x, y) in xs.iter().zip(&ys) {
                let want = f64::from(*x).tanh();
                let error = (f64::from(*y) - want).abs();
                assert!(error <= 4e-7 * want.abs(), "{}: tanh({x}) = {y}, want {want}, off by {error:e}", lanes.name());
            }
            let mut nan = [f32::NAN];
            tanh_all(lanes, &mut nan);
            assert!(nan[0].is_nan());
        }
    }

    #[inline(always)]
    fn rough_body<S: Simd>(s: S, x: &mut [f32], inverse: &mut [f32]) {
        for (x, inverse) in x.chunks_mut(S::LANES).zip(inverse.chunks_mut(S::LANES)) {
            let e = s.exp_rough(s.load(x));
            s.store(e, x);
            s.store(s.reciprocal_rough(e), inverse);
        }
    }
    multiversion! { fn rough_all(x: &mut [f32], inverse: &mut [f32]) = rough_body; }

    #[test]
    fn rough_functions_are_as_good_as_bf16_needs() {
        for lanes in Lanes::available() {
            let xs: Vec<f32> = (0..100_003).map(|i| -80.0 + i as f32 * (160.0 / 100_003.0)).collect();
            let (mut ys, mut inverse) = (xs.clone(), vec![0f32; xs.len()]);
            rough_all(lanes, &mut ys, &mut inverse);
            for ((x, y), inverse) in xs.iter().zip(&ys).zip(&inverse) {
                let want = f64::from(*x).exp();
                assert!(((f64::from(*y) - want) / want).abs() < 1e-5, "{}: exp({x}) = {y}, want {want}", lanes.name());
                assert!((f64::from(*inverse) * want - 1.0).abs() < 1e-4, "{}: 1/{y} = {inverse}", lanes.name());
            }
            let (mut ends, mut inverse) = (vec![f32::NAN, f32::NEG_INFINITY, -1e30, 1e30], vec![0f32; 4]);
            rough_all(lanes, &mut ends, &mut inverse);
            assert!(ends[0].is_nan() && ends[1] < 2e-38 && ends[2] < 2e-38 && ends[3] > 1e38, "{}: {ends:?}", lanes.name());
        }
    }

    #[test]
    fn exp_keeps_nan_and_saturates() {
        for lanes in Lanes::available() {
            let mut ys = vec![f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0, -200.0];
            exp_all(lanes, &mut ys);
            assert!(ys[0].is_nan(), "{}", lanes.name());
            assert!(ys[1] < 2e-38 && ys[2] > 1e38 && ys[3] == 1.0 && ys[4] < 2e-38, "{}: {ys:?}", lanes.name());
        }
    }

    #[test]
    fn partial_loads_read_nothing_beyond_the_slice() {
        for lanes in Lanes::available() {
            for n in 0..=20 {
                let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
                let width = match lanes.name() {
                    "avx512" => 16,
                    _ => 8,
                };
                let m = n.min(width);
                assert_eq!(sum_first(lanes, &x), (m * (m + 1) / 2) as f32, "{} n={n}", lanes.name());
            }
        }
    }
}
