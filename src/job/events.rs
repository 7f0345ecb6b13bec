//! What a job tells, and whom. Refuses to know what the listener does with it.

use std::cell::{Cell, RefCell};
use std::path::Path;

use crate::adapter::Adapter;
use crate::data::{self, Loaded};
use crate::error::{Error, Result};
use crate::model::resolve::Note;
use crate::train::mixture::Mixture;
use crate::train::pack::Fill;
use crate::train::{self, Control};

/// Hears a job. [`Control::Stop`] ends it where nothing is lost: while it trains, after the state is saved; after that as
/// soon as the evaluation hears of it; the job then returns [`Error::Interrupted`]. [`Control::Save`] has a meaning while it
/// trains. An error ends the job at once.
pub type Listener<'l> = dyn FnMut(JobEvent<'_>) -> Result<Control> + 'l;

/// What is looked for before a job can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// The base model.
    Base,
    /// A data set of the hub.
    Data,
}

/// What happens in a job.
#[derive(Clone)]
#[non_exhaustive]
pub enum JobEvent<'a> {
    /// A base or a data set is looked for, and fetched where it must be.
    Looking { sought: Sought, note: Note },
    /// Rows are being read and tokenised.
    Reading(data::LoadProgress),
    /// Something to know about tokens that are kept for the next time.
    KeptTokens(&'a str),
    /// All rows are read.
    RowsRead,
    /// Something a user may have to act on; a sentence.
    Warning(String),
    /// Something a user may want to know; a sentence.
    Remark(String),
    /// The run in this directory is complete: nothing is left to do.
    Complete(&'a Path),
    /// Everything is ready to be trained. `packing` is how full packed rows are, where the recipe packs.
    Prepared { adapter: &'a Adapter, loaded: &'a Loaded, mixture: &'a Mixture, packing: Option<Fill> },
    /// A run in `out` goes on from `progress`; from the beginning where nothing was saved.
    Resuming { out: &'a Path, progress: Option<&'a train::TrainProgress> },
    /// From here on a stop loses nothing: the state is saved first.
    Stoppable,
    /// The first step comes next: seconds since the job began, and by part of the start.
    Ready { seconds: f64, parts: &'a [(&'static str, f64)] },
    /// What the training loop tells, with the last held-out loss and the mean speed so far.
    Training { event: &'a train::Event, heldout: Option<f64>, tokens_per_second: f64 },
    /// The adapter is written, with the values that are kept.
    AdapterSaved(&'a Path),
    /// Training is over after `step` steps; the evaluation comes next.
    Trained { step: usize, seconds: f64 },
    /// Rows are judged: `done` of `all` by `what`. `who` is the base or the adapter, behind the set's name.
    Evaluating { who: &'a str, what: &'a str, done: usize, all: usize },
    /// All of `who` is.
    EvaluationDone { who: &'a str },
    /// Tensors of a merged model are written.
    Merging { done: usize, all: usize },
    /// All of them are.
    Merged,
    /// A piece of an answer, one a token; it may be empty.
    Text(&'a str),
}

/// Hands an event over where a stop ends the job at once.
///
/// # Errors
/// What the listener returns; [`Error::Interrupted`] when it asks to stop.
pub(super) fn tell(listener: &mut Listener<'_>, event: JobEvent<'_>) -> Result<()> {
    match listener(event)? {
        Control::Stop => Err(interrupted()),
        Control::Go | Control::Save => Ok(()),
    }
}

pub(super) fn interrupted() -> Error {
    Error::Interrupted { what: "the listener asked to stop".into() }
}

/// Hands events over from work that takes no answer; what the listener answered counts when the work is over.
pub(super) struct Deferred<'a, 'l> {
    listener: RefCell<&'a mut Listener<'l>>,
    answer: Cell<Result<()>>,
}

impl<'a, 'l> Deferred<'a, 'l> {
    pub(super) fn new(listener: &'a mut Listener<'l>) -> Deferred<'a, 'l> {
        Deferred { listener: RefCell::new(listener), answer: Cell::new(Ok(())) }
    }

    /// After an answer that ends the job nothing more is told.
    pub(super) fn tell(&self, event: JobEvent<'_>) {
        let answer = self.answer.replace(Ok(()));
        self.answer.set(answer.and_then(|()| tell(&mut **self.listener.borrow_mut(), event)));
    }

    /// # Errors
    /// As [`tell`].
    pub(super) fn finish(self) -> Result<()> {
        self.answer.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_the_work_is_over() {
        let mut heard = 0;
        let mut listener = |_: JobEvent<'_>| {
            heard += 1;
            Ok(if heard == 2 { Control::Stop } else { Control::Save })
        };
        let deferred = Deferred::new(&mut listener);
        (0..4).for_each(|_| deferred.tell(JobEvent::RowsRead));
        assert_eq!(deferred.finish().unwrap_err().exit_code(), 130);
        assert_eq!(heard, 2);
        let mut listener = |_: JobEvent<'_>| Err(Error::usage("x", "y", "z"));
        assert_eq!(tell(&mut listener, JobEvent::RowsRead).unwrap_err().exit_code(), 2);
    }
}
