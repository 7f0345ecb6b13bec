//! The learning rate as a function of the step (transformers `optimization.py`, `get_*_schedule_with_warmup`).

use crate::recipe::{Schedule, Warmup};

/// Steps of warm-up for a run of `steps`.
pub fn warmup_steps(warmup: Warmup, steps: usize) -> usize {
    match warmup {
        Warmup::Steps(n) => n,
        Warmup::Ratio(ratio) => (ratio * steps as f64).ceil() as usize,
    }
}

/// The factor on the peak rate at step `step` (from 0) of `steps`; the warm-up rises from 0 at step 0.
pub fn factor(schedule: Schedule, warmup: Warmup, step: usize, steps: usize) -> f64 {
    let warm = warmup_steps(warmup, steps);
    if step < warm {
        return step as f64 / warm.max(1) as f64;
    }
    let rest = (steps.saturating_sub(warm)).max(1) as f64;
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => ((steps.saturating_sub(step)) as f64 / rest).max(0.0),
        Schedule::Cosine => {
            let progress = (step - warm) as f64 / rest;
            (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_with_two_of_five_steps_warm_up_is_the_trace_of_transformers() {
        let got: Vec<f64> = (0..5).map(|s| factor(Schedule::Cosine, Warmup::Steps(2), s, 5)).collect();
        for (g, w) in got.iter().zip([0.0, 0.5, 1.0, 0.75, 0.25]) {
            assert!((g - w).abs() < 1e-12, "{got:?}");
        }
    }

    #[test]
    fn linear_falls_to_nothing_and_constant_stays() {
        assert_eq!(factor(Schedule::Linear, Warmup::Steps(0), 10, 10), 0.0);
        assert_eq!(factor(Schedule::Linear, Warmup::Ratio(0.2), 6, 10), 0.5);
        assert_eq!(factor(Schedule::Constant, Warmup::Steps(0), 9, 10), 1.0);
    }
}
