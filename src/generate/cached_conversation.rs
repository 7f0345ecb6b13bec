//! One conversation: what its beginning already computed is kept, under each adapter that answered.

use std::sync::Arc;

use super::request::{Ended, Request, Turn};
use super::scheduler::Scheduler;
use super::{Limits, Sampling};
use crate::error::Result;
use crate::model::{Model, PreparedAdapter};

/// A conversation with one model, whose speakers may change.
#[derive(Debug)]
pub struct CachedConversation<'a> {
    scheduler: Scheduler<'a>,
}

impl<'a> CachedConversation<'a> {
    /// A conversation of at most `capacity` tokens (and no more than the model takes).
    pub fn new(model: &'a Model, capacity: usize) -> CachedConversation<'a> {
        CachedConversation { scheduler: Scheduler::new(model, 1, capacity.min(model.config.max_positions)) }
    }

    /// Tokens of `ids` that would not be computed again under this adapter. At least the last one always is.
    ///
    /// # Errors
    /// When the adapter cannot be read.
    pub fn reusable(&self, adapter: &PreparedAdapter, ids: &[u32]) -> Result<usize> {
        self.scheduler.reusable(adapter, ids)
    }

    /// The answer to `ids` (the whole conversation so far), without the token that ended it. `on_token` gets each token as it
    /// is chosen and stops the answer by returning false.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] when `ids` is empty or does not fit, or sampling is impossible; [`crate::Error::NonFinite`] when the
    /// model's output is not a number.
    pub fn generate(
        &mut self,
        adapter: &Arc<PreparedAdapter>,
        ids: &[u32],
        sampling: &Sampling,
        limits: &Limits,
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        let (adapter, prompt, limits) = (adapter.clone(), ids.to_vec(), limits.clone());
        let nothing = limits.max_new_tokens == 0;
        self.scheduler.submit(Request::new(0, adapter, prompt, sampling.clone(), limits))?;
        while !nothing && !self.scheduler.is_idle() {
            let outcome = self.scheduler.turn().and_then(|turns| goes_on(turns, on_token));
            if !outcome.inspect_err(|_| drop(self.scheduler.finish(0)))? {
                break;
            }
        }
        Ok(self.scheduler.finish(0))
    }
}

/// Tells the tokens of a turn; whether the answer goes on.
fn goes_on(turns: Vec<Turn>, on_token: &mut dyn FnMut(u32) -> bool) -> Result<bool> {
    let mut on = true;
    for turn in turns {
        if let Some(Ended::Failed(error)) = turn.ended {
            return Err(error);
        }
        on &= turn.token.is_none_or(&mut *on_token);
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::super::tiny_model;
    use super::*;

    const LIMITS: Limits = Limits { min_new_tokens: 0, max_new_tokens: 12, stop: Vec::new() };

    fn answer(session: &mut CachedConversation, adapter: &Arc<PreparedAdapter>, ids: &[u32]) -> Vec<u32> {
        session.generate(adapter, ids, &Sampling::GREEDY, &LIMITS, &mut |_| true).unwrap()
    }

    fn base(model: &Model) -> Arc<PreparedAdapter> {
        Arc::new(model.prepare(&()).unwrap())
    }

    #[test]
    fn a_common_prefix_is_reused_and_changes_nothing() {
        let model = tiny_model::model(1);
        let base = base(&model);
        let fresh = |ids: &[u32]| answer(&mut CachedConversation::new(&model, 200), &base, ids);
        let mut session = CachedConversation::new(&model, 200);
        let mut ids = tiny_model::prompt(3, 70);
        for turn in 0..3 {
            let reused = session.reusable(&base, &ids).unwrap();
            assert_eq!(reused >= 64, turn > 0, "{reused} of {}", ids.len());
            let expected = fresh(&ids);
            assert_eq!(answer(&mut session, &base, &ids), expected);
            ids.extend(expected);
            ids.extend(tiny_model::prompt(turn, 5));
        }
        // The same again, and one that parts in the middle.
        assert_eq!(answer(&mut session, &base, &ids), fresh(&ids));
        let mut parted = ids[..40].to_vec();
        parted.extend([1, 2, 3]);
        assert_eq!(session.reusable(&base, &parted).unwrap(), 32);
        assert_eq!(answer(&mut session, &base, &parted), fresh(&parted));
    }

    #[test]
    fn what_one_adapter_computed_is_no_others_even_under_its_name() {
        let model = tiny_model::model(1);
        let (x, y) = (tiny_model::adapter(&model, 5), tiny_model::adapter(&model, 6));
        let adapters = [base(&model), Arc::new(model.prepare(&x).unwrap()), Arc::new(model.prepare(&y).unwrap())];
        let ids = tiny_model::prompt(2, 50);
        let alone: Vec<Vec<u32>> =
            adapters.iter().map(|adapter| answer(&mut CachedConversation::new(&model, 99), adapter, &ids)).collect();
        assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
        let mut session = CachedConversation::new(&model, 99);
        for i in [0, 1, 2, 1, 0, 2] {
            assert_eq!(answer(&mut session, &adapters[i], &ids), alone[i]);
        }
        // The same numbers, prepared again, are the same adapter.
        assert_eq!(session.reusable(&model.prepare(&y).unwrap(), &ids).unwrap(), 32);
        assert_eq!(session.reusable(&model.prepare(&tiny_model::adapter(&model, 7)).unwrap(), &ids).unwrap(), 0);
    }

    #[test]
    fn an_answer_ends_at_a_stop_a_limit_a_refusal_and_the_end_of_the_room() {
        let model = tiny_model::model(1);
        let ids = tiny_model::prompt(4, 10);
        let whole = answer(&mut CachedConversation::new(&model, 99), &base(&model), &ids);
        assert_eq!(whole.len(), 12);
        let mut session = CachedConversation::new(&model, 99);
        let stop = whole[5];
        let first = whole.iter().position(|id| *id == stop).unwrap();
        let limits = Limits { stop: vec![stop], ..LIMITS };
        let mut seen = Vec::new();
        let stopped = session.generate(&base(&model), &ids, &Sampling::GREEDY, &limits, &mut |id| {
            seen.push(id);
            true
        });
        assert_eq!((stopped.unwrap().as_slice(), seen.as_slice()), (&whole[..first], &whole[..first]));
        let refused = session.generate(&base(&model), &ids, &Sampling::GREEDY, &LIMITS, &mut |_| false).unwrap();
        assert_eq!(refused, whole[..1]);
        let mut short = CachedConversation::new(&model, 14);
        assert_eq!(answer(&mut short, &base(&model), &ids), whole[..5]);
        for bad in [&tiny_model::prompt(0, 15)[..], &[]] {
            let error = short.generate(&base(&model), bad, &Sampling::GREEDY, &LIMITS, &mut |_| true).unwrap_err();
            assert_eq!(error.exit_code(), 2);
        }
    }
}
