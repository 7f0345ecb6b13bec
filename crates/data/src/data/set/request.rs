//! What is to be loaded: the sources, and what is done with their rows.
//!
//! Refuses to know how rows are read and where their tokens lie.

use super::draw::SourceDraw;
use crate::data::render::renderer::Renderer;
use crate::recipe;
use crate::recipe::{Data, Keep, Source};

/// How far a load is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes read of all files, and how many there are.
    pub bytes: u64,
    pub total: u64,
    pub rows: usize,
    pub tokens: u64,
}

/// What is to be loaded.
pub(crate) struct Request<'a> {
    pub(crate) data: &'a Data,
    pub(crate) renderer: &'a Renderer,
    pub(crate) max_length: usize,
    pub(crate) seed: u64,
    /// There are held-out rows alone.
    pub(crate) judge: bool,
    pub(crate) hear: &'a dyn Fn(LoadProgress),
}

impl Request<'_> {
    /// Every source, in the order in which they are read.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.data.train.iter().chain(self.data.replayed()).chain(&self.data.heldout)
    }

    /// What the draws of each source follow from, in that order.
    pub(crate) fn draws(&self) -> impl Iterator<Item = SourceDraw> {
        SourceDraw::of(self.sources().map(|source| source.path.as_path())).into_iter()
    }

    /// What is said of the rows, but for the content of their files, where tokens are kept, and how often an epoch has which:
    /// that is planned anew from their lengths.
    pub(crate) fn settings(&self) -> String {
        let mut data = Data { cache: Keep::Default, mixture: recipe::Mixture::default(), ..self.data.clone() };
        data.replay.iter_mut().for_each(|replay| replay.fraction = 0.0);
        let replayed = data.replay.iter_mut().flat_map(|replay| &mut replay.sources);
        for source in data.train.iter_mut().chain(replayed) {
            (source.weight, source.rows, source.epochs) = (None, None, None);
        }
        format!("{data:?} {} {} {}", self.max_length, self.seed, self.judge)
    }
}
