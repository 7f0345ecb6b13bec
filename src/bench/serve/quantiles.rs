//! Order statistics.

use serde::Serialize;

/// How times are distributed, in seconds. Between two order statistics a quantile is interpolated linearly (Hyndman & Fan 1996,
/// type 7, as NumPy does).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// Times that were measured.
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// `None` of no values.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Quantiles> {
        values.sort_by(f64::total_cmp);
        let (count, max) = (values.len(), *values.last()?);
        let mean = values.iter().sum::<f64>() / count as f64;
        let at = |share| quantile(&values, share);
        Some(Quantiles { count, mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

/// Of values in ascending order, at least one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The height at `share` of the line through (i / (n - 1), the i-th smallest value), found segment by segment.
    fn reference(values: &[f64], share: f64) -> f64 {
        let mut left = values.to_vec();
        let mut sorted = Vec::new();
        while !left.is_empty() {
            let least = (0..left.len()).min_by(|a, b| left[*a].total_cmp(&left[*b])).unwrap();
            sorted.push(left.remove(least));
        }
        let x = |i: usize| i as f64 / (sorted.len() - 1) as f64;
        for i in 1..sorted.len() {
            if share <= x(i) {
                let along = (share - x(i - 1)) / (x(i) - x(i - 1));
                return sorted[i - 1] * (1.0 - along) + sorted[i] * along;
            }
        }
        sorted[0]
    }

    #[test]
    fn known_values() {
        // numpy.percentile([5, 1, 4, 2, 3], [50, 90, 99])
        let q = Quantiles::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!((q.count, q.mean, q.p50, q.max), (5, 3.0, 3.0, 5.0));
        assert!((q.p90 - 4.6).abs() < 1e-12 && (q.p99 - 4.96).abs() < 1e-12, "{q:?}");
        let one = Quantiles::of(vec![7.0]).unwrap();
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
        assert_eq!(Quantiles::of(Vec::new()), None);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_definition(values in prop::collection::vec(0.0..1e3f64, 1..60)) {
            let q = Quantiles::of(values.clone()).unwrap();
            for (found, share) in [(q.p50, 0.5), (q.p90, 0.9), (q.p99, 0.99), (q.max, 1.0)] {
                prop_assert!((found - reference(&values, share)).abs() < 1e-6, "{} {}", share, found);
            }
        }
    }
}
