//! Several choices at once, each on a task of its own; all end when nobody waits for them.

use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;

use super::answer::{Choice, Piece};
use super::error::ApiError;

/// Pieces of choices in the order in which they come.
pub(super) struct Together {
    pieces: Receiver<(usize, Result<Piece, ApiError>)>,
    tasks: JoinSet<(usize, Choice)>,
}

impl Together {
    pub(super) fn of(choices: Vec<Choice>) -> Together {
        let (to, pieces) = channel(choices.len().max(1));
        let mut tasks = JoinSet::new();
        for (index, mut choice) in choices.into_iter().enumerate() {
            let to = to.clone();
            tasks.spawn(async move {
                loop {
                    let next = match choice.next().await {
                        Ok(None) => break,
                        Ok(Some(piece)) => Ok(piece),
                        Err(error) => Err(error),
                    };
                    let failed = next.is_err();
                    if to.send((index, next)).await.is_err() || failed {
                        break;
                    }
                }
                (index, choice)
            });
        }
        Together { pieces, tasks }
    }

    /// The next piece and whose it is; none once all have ended.
    ///
    /// # Errors
    /// As [`Choice::next`].
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Piece)>, ApiError> {
        match self.pieces.recv().await {
            None => Ok(None),
            Some((index, piece)) => piece.map(|piece| Some((index, piece))),
        }
    }

    /// The choices, ended, in their order.
    pub(super) async fn ended(mut self) -> Vec<Choice> {
        let mut all = Vec::new();
        while let Some(one) = self.tasks.join_next().await {
            all.extend(one);
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, choice)| choice).collect()
    }
}
