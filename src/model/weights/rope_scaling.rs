//! Llama 3's rope scaling, recovered from the frequency divisors that llama.cpp stores (`rope_freqs.weight`).
//!
//! Llama 3.1 divides the frequency of a pair with wavelength λ by 1 below `orig/high`, by `factor` above `orig/low`,
//! and in between by `1/((1 − s)/factor + s)` with `s = (orig/λ − low)/(high − low)`
//! (transformers, `_compute_llama3_parameters`). `s` is a straight line in `1/λ`, so two pairs in between determine it.
//! Refuses to know: files.

use std::f64::consts::TAU;

/// `rope_scaling` of type `llama3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// `original_max_position_embeddings`.
    pub(super) original: f64,
}

/// What the divisors say.
#[derive(Debug, PartialEq)]
pub(super) enum Factors {
    /// All are one.
    Plain,
    Llama3(Llama3),
    /// No setting of Llama 3's rule gives them.
    Other,
}

/// Explains `divisors` (one for each of the `head_dim / 2` pairs) at base `theta`.
pub(super) fn explain(divisors: &[f32], theta: f64) -> Factors {
    let divisors: Vec<f64> = divisors.iter().map(|d| f64::from(*d)).collect();
    if divisors.iter().all(|d| (d - 1.0).abs() < 1e-6) {
        return Factors::Plain;
    }
    let factor = divisors.iter().copied().fold(1.0, f64::max);
    let usual = [8192.0, 4096.0].map(|original| Llama3 { factor, low: 1.0, high: 4.0, original });
    let found = usual.into_iter().chain(solve(&divisors, theta, factor)).find(|rule| fits(rule, &divisors, theta));
    found.map_or(Factors::Other, Factors::Llama3)
}

/// The rule through the first and last pair that lie strictly in between. Only ratios of `original`, `low` and `high`
/// matter, so `low` is one.
fn solve(divisors: &[f64], theta: f64, factor: f64) -> Option<Llama3> {
    let points: Vec<(f64, f64)> = (divisors.iter().enumerate())
        .map(|(i, d)| (1.0 / wavelength(i, divisors.len(), theta), (1.0 / d - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .filter(|(_, s)| *s > 1e-4 && *s < 1.0 - 1e-4)
        .collect();
    let (first, last) = (points.first()?, points.last()?);
    let slope = (first.1 - last.1) / (first.0 - last.0);
    let offset = slope * first.0 - first.1; // low / (high − low)
    let (high, original) = (1.0 + 1.0 / offset, slope / offset);
    (points.len() > 1 && offset > 0.0 && slope > 0.0).then(|| Llama3 {
        factor,
        low: 1.0,
        high: tidy(high),
        original: original.round(),
    })
}

/// A number that is a thousandth away from a whole one was that whole one.
fn tidy(x: f64) -> f64 {
    if (x - x.round()).abs() < 1e-3 { x.round() } else { x }
}

fn fits(rule: &Llama3, divisors: &[f64], theta: f64) -> bool {
    let n = divisors.len();
    divisors.iter().enumerate().all(|(i, d)| {
        let expected = divisor(rule, wavelength(i, n, theta));
        (expected - d).abs() <= 1e-4 * expected
    })
}

fn wavelength(pair: usize, pairs: usize, theta: f64) -> f64 {
    TAU * theta.powf(pair as f64 / pairs as f64)
}

fn divisor(rule: &Llama3, wavelength: f64) -> f64 {
    let s = (rule.original / wavelength - rule.low) / (rule.high - rule.low);
    let s = s.clamp(0.0, 1.0);
    1.0 / ((1.0 - s) / rule.factor + s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(rule: &Llama3, pairs: usize, theta: f64) -> Vec<f32> {
        (0..pairs).map(|i| divisor(rule, wavelength(i, pairs, theta)) as f32).collect()
    }

    #[test]
    fn published_and_odd_settings_come_back() {
        for (factor, high, original, pairs, theta) in
            [(8.0, 4.0, 8192.0, 64, 5e5), (32.0, 4.0, 8192.0, 32, 5e5), (8.0, 4.0, 32.0, 8, 500.0), (4.0, 3.0, 2048.0, 64, 1e4)]
        {
            let rule = Llama3 { factor, low: 1.0, high, original };
            let Factors::Llama3(found) = explain(&divisors(&rule, pairs, theta), theta) else {
                panic!("{rule:?} was not recognised")
            };
            let (again, first) = (divisors(&found, pairs, theta), divisors(&rule, pairs, theta));
            assert!(again.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-4 * b), "{rule:?} became {found:?}");
            assert_eq!(found.factor, factor);
        }
    }

    #[test]
    fn ones_are_no_scaling_and_other_rules_are_refused() {
        assert_eq!(explain(&[1.0; 16], 1e4), Factors::Plain);
        let longrope: Vec<f32> = (0..16).map(|i| 1.0 + (i as f32).sqrt()).collect();
        assert_eq!(explain(&longrope, 1e4), Factors::Other);
    }
}
