//! One conversation: a cache that keeps what the last turn already computed.

use super::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::model::{Adapt, Batch, Ctx, KvCache, Model};

/// A conversation with one model. What the cache holds was computed under one adapter; another one empties it.
#[derive(Debug)]
pub struct CachedConversation<'a> {
    model: &'a Model,
    cache: KvCache,
    /// The tokens whose keys and values are in the cache.
    held: Vec<u32>,
    /// The adapter they were computed under.
    adapter: String,
}

impl<'a> CachedConversation<'a> {
    /// A conversation of at most `capacity` tokens (and no more than the model takes).
    ///
    /// # Errors
    /// When the cache cannot be allocated.
    pub fn new(model: &'a Model, capacity: usize) -> Result<CachedConversation<'a>> {
        let capacity = capacity.min(model.config.max_positions);
        let cache = KvCache::new(&model.config, 1, capacity, &model.device)?;
        Ok(CachedConversation { model, cache, held: Vec::new(), adapter: String::new() })
    }

    /// Tokens of `ids` that would not be computed again under this adapter. At least the last one always is.
    pub fn reusable(&self, adapter_key: &str, ids: &[u32]) -> usize {
        if adapter_key != self.adapter {
            return 0;
        }
        let common = self.held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        common.min(ids.len().saturating_sub(1))
    }

    /// The answer to `ids` (the whole conversation so far), without the token that ended it. `adapter_key` must differ
    /// between adapters that differ. `on_token` gets each token as it is chosen and stops the answer by returning false.
    ///
    /// # Errors
    /// [`Error::Usage`] when `ids` is empty or does not fit, or sampling is impossible; [`Error::NonFinite`] when the model's
    /// output is not a number.
    pub fn generate(
        &mut self,
        adapt: &dyn Adapt,
        adapter_key: &str,
        ids: &[u32],
        sampling: &Sampling,
        limits: &Limits,
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        sampling.check()?;
        self.check(ids)?;
        let mut text = ids.to_vec();
        if limits.max_new_tokens == 0 {
            return Ok(Vec::new());
        }
        self.forget(self.reusable(adapter_key, ids));
        self.adapter = adapter_key.to_string();
        loop {
            let mut logits = self.feed(adapt, &text[self.held.len()..])?;
            let id = sampling.choose(&mut logits, &text, 0)?;
            if limits.stop.contains(&id) {
                break;
            }
            text.push(id);
            let full = text.len() - ids.len() >= limits.max_new_tokens || text.len() > self.cache.capacity();
            if !on_token(id) || full {
                break;
            }
        }
        Ok(text.split_off(ids.len()))
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        let most = self.cache.capacity();
        match ids.len() {
            0 => Err(Error::usage("prompt", "it has no tokens, so nothing can follow", "give it some text")),
            n if n > most => Err(Error::usage(
                "context",
                format!("the conversation has {n} tokens, there is room for {most}"),
                "start a new conversation, shorten the text, or allow a longer context if the model takes one",
            )),
            _ => Ok(()),
        }
    }

    /// Empties the cache but for its first `len` tokens.
    fn forget(&mut self, len: usize) {
        self.cache.truncate(len);
        self.held.truncate(len);
    }

    /// Puts `ids` behind what is held; returns the logits after the last of them.
    fn feed(&mut self, adapt: &dyn Adapt, ids: &[u32]) -> Result<Vec<f32>> {
        let from = self.held.len();
        let positions = (from..from + ids.len()).map(|p| p as u32).collect();
        let batch = Batch { ids: ids.to_vec(), rows: 1, len: ids.len(), positions, starts: vec![0; ids.len()] };
        let (model, cache) = (self.model, &mut self.cache);
        let logits: Result<Vec<f32>> = super::in_pool(|| {
            let logits = model.forward_last(&mut Ctx::cached(adapt, cache), &batch)?; // (1, v)
            Ok(logits.flatten_all()?.to_vec1()?)
        });
        let logits = logits?;
        self.held.extend_from_slice(ids);
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny_model;
    use super::*;

    const LIMITS: Limits = Limits { max_new_tokens: 12, stop: Vec::new() };

    fn answer(session: &mut CachedConversation, adapt: &dyn Adapt, key: &str, ids: &[u32]) -> Vec<u32> {
        session.generate(adapt, key, ids, &Sampling::GREEDY, &LIMITS, &mut |_| true).unwrap()
    }

    #[test]
    fn a_common_prefix_is_reused_and_changes_nothing() {
        let model = tiny_model::model(1);
        let mut session = CachedConversation::new(&model, 200).unwrap();
        let mut ids = tiny_model::prompt(3, 20);
        for turn in 0..3 {
            let expected = answer(&mut CachedConversation::new(&model, 200).unwrap(), &(), "", &ids);
            let reused = session.reusable("", &ids);
            assert_eq!(reused > 0, turn > 0, "{reused} of {}", ids.len());
            assert_eq!(answer(&mut session, &(), "", &ids), expected);
            ids.extend(expected);
            ids.extend(tiny_model::prompt(turn, 5));
        }
        // The same again, and one that parts in the middle.
        assert_eq!(session.reusable("", &session.held.clone()), session.held.len() - 1);
        let again = session.held.clone();
        assert_eq!(
            answer(&mut session, &(), "", &again),
            answer(&mut CachedConversation::new(&model, 200).unwrap(), &(), "", &again)
        );
        let mut parted = ids[..10].to_vec();
        parted.extend([1, 2, 3]);
        assert_eq!(
            answer(&mut session, &(), "", &parted),
            answer(&mut CachedConversation::new(&model, 200).unwrap(), &(), "", &parted)
        );
    }

    #[test]
    fn another_adapter_empties_the_cache() {
        let model = tiny_model::model(1);
        let (x, y) = (tiny_model::adapter(&model, 5), tiny_model::adapter(&model, 6));
        let ids = tiny_model::prompt(2, 15);
        let fresh = |adapt: &dyn Adapt| answer(&mut CachedConversation::new(&model, 99).unwrap(), adapt, "", &ids);
        let alone = [fresh(&()), fresh(&x), fresh(&y)];
        assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
        let mut session = CachedConversation::new(&model, 99).unwrap();
        let adapters: [&dyn Adapt; 3] = [&(), &x, &y];
        for i in [0, 1, 2, 1, 0, 2] {
            assert_eq!(answer(&mut session, adapters[i], ["base", "x", "y"][i], &ids), alone[i]);
        }
    }

    #[test]
    fn an_answer_ends_at_a_stop_a_limit_a_refusal_and_the_end_of_the_room() {
        let model = tiny_model::model(1);
        let ids = tiny_model::prompt(4, 10);
        let whole = answer(&mut CachedConversation::new(&model, 99).unwrap(), &(), "", &ids);
        assert_eq!(whole.len(), 12);
        let mut session = CachedConversation::new(&model, 99).unwrap();
        let stop = whole[5];
        let first = whole.iter().position(|id| *id == stop).unwrap();
        let limits = Limits { stop: vec![stop], ..LIMITS };
        let mut seen = Vec::new();
        let stopped = session.generate(&(), "", &ids, &Sampling::GREEDY, &limits, &mut |id| {
            seen.push(id);
            true
        });
        assert_eq!((stopped.unwrap().as_slice(), seen.as_slice()), (&whole[..first], &whole[..first]));
        let refused = session.generate(&(), "", &ids, &Sampling::GREEDY, &LIMITS, &mut |_| false).unwrap();
        assert_eq!(refused, whole[..1]);
        let mut short = CachedConversation::new(&model, 14).unwrap();
        assert_eq!(answer(&mut short, &(), "", &ids), whole[..5]);
        for bad in [&tiny_model::prompt(0, 15)[..], &[]] {
            let error = short.generate(&(), "", bad, &Sampling::GREEDY, &LIMITS, &mut |_| true).unwrap_err();
            assert_eq!(error.exit_code(), 2);
        }
    }
}
