//! The learning rate as a function of the step (transformers `optimization.py`, `get_*_schedule_with_warmup`).

use crate::recipe::{Schedule, Warmup};

/// Steps of warm-up for a run of `steps`. A share of a single step is none: transformers rounds it up to one (`get_warmup_steps`),
/// whose rate is 0, so that nothing would be learnt.
pub fn warmup_steps(warmup: Warmup, steps: usize) -> usize {
    match warmup {
        Warmup::Steps(n) => n,
        Warmup::Ratio(_) if steps <= 1 => 0,
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

/// The highest factor of a run of `steps`: 0 where nothing can be learnt, below 1 where the warm-up outlasts the run.
pub fn highest(schedule: Schedule, warmup: Warmup, steps: usize) -> f64 {
    let last_of_rise = warmup_steps(warmup, steps).min(steps.saturating_sub(1));
    factor(schedule, warmup, last_of_rise, steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_learns_at_some_step() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for steps in 1..40 {
                let warmup = Warmup::Ratio(0.03);
                let rates: Vec<f64> = (0..steps).map(|step| factor(schedule, warmup, step, steps)).collect();
                let most = rates.iter().copied().fold(0.0, f64::max);
                assert!(most > 0.0, "{schedule:?}, {steps} steps: {rates:?}");
                assert_eq!(highest(schedule, warmup, steps), most, "{schedule:?}, {steps} steps: {rates:?}");
            }
            assert_eq!(highest(schedule, Warmup::Steps(1), 1), 0.0);
            assert_eq!(highest(schedule, Warmup::Steps(8), 5), 0.5);
        }
        // As it always was: the first of two or more steps warms up.
        assert_eq!(factor(Schedule::Cosine, Warmup::Ratio(0.03), 0, 2), 0.0);
    }

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
