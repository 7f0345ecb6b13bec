//! How long a run will still take: its steps and its evaluations, from what both took so far. Refuses to know how that is drawn.

use std::time::Instant;

/// A token of a held-out row takes forward alone what one of training takes forward and back: about a third.
const FORWARD: f64 = 1.0 / 3.0;

/// The time of a run.
#[derive(Debug, Default)]
pub(super) struct RunClock {
    steps: usize,
    /// An evaluation every so many steps and after the last; 0: none.
    eval_every: usize,
    /// Tokens of the rows that an evaluation judges.
    eval_tokens: f64,
    /// Steps done here, and their seconds.
    trained: (usize, f64),
    /// Evaluations done here, and their seconds.
    judged: (usize, f64),
    judging: Option<Instant>,
}

impl RunClock {
    pub(super) fn new(steps: usize, eval_every: usize, eval_tokens: f64) -> RunClock {
        RunClock { steps, eval_every, eval_tokens, ..RunClock::default() }
    }

    /// A step is done.
    pub(super) fn stepped(&mut self, seconds: f64) {
        self.trained = (self.trained.0 + 1, self.trained.1 + seconds);
    }

    /// An evaluation goes on.
    pub(super) fn judges(&mut self) {
        self.judging.get_or_insert_with(Instant::now);
    }

    /// It is over.
    pub(super) fn has_judged(&mut self) {
        if let Some(began) = self.judging.take() {
            self.judged = (self.judged.0 + 1, self.judged.1 + began.elapsed().as_secs_f64());
        }
    }

    /// Seconds from after step `step` to the end of the run, at `rate` tokens a second of training. Before the first evaluation
    /// its time is that of its tokens.
    pub(super) fn left(&self, step: usize, rate: f64) -> f64 {
        let mean = |(n, seconds): (usize, f64)| seconds / (n as f64).max(1.0);
        let evaluation = match self.judged.0 {
            0 => self.eval_tokens * FORWARD / rate.max(1e-9),
            _ => mean(self.judged),
        };
        let evaluations = match self.eval_every {
            0 => 0,
            every => {
                self.steps.div_ceil(every).saturating_sub(step / every) + usize::from(step > 0 && step.is_multiple_of(every))
            }
        };
        (self.steps.saturating_sub(step)) as f64 * mean(self.trained) + evaluations as f64 * evaluation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_count_from_the_start_and_by_what_they_took_once_one_is_over() {
        let mut clock = RunClock::new(10, 4, 300.0);
        clock.stepped(2.0);
        // Nine steps of 2 s; evaluations after steps 4, 8 and 10, of 1 s each at 100 tokens a second.
        assert!((clock.left(1, 100.0) - 21.0).abs() < 1e-9);
        // After step 4 its evaluation is still to come.
        assert!((clock.left(4, 100.0) - (12.0 + 3.0)).abs() < 1e-9);
        clock.judged = (2, 100.0);
        assert!((clock.left(9, 100.0) - (2.0 + 50.0)).abs() < 1e-9);
        clock.eval_every = 0;
        assert!((clock.left(9, 100.0) - 2.0).abs() < 1e-9);
        clock.judges();
        clock.has_judged();
        assert_eq!(clock.judged.0, 3);
    }
}
