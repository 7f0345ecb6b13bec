//! All blocks, forward and backward, over one group of texts.

use super::super::{Model, Targets};
use super::beside::Beside;
use super::block::BlockActivations;
use super::dense::WayBack;
use super::experts::ExpertBalance;
use super::machine::{Given, Machine};
use crate::error::Result;

/// What the forward part leaves for the way back.
pub(super) struct Trace<M: Machine> {
    /// The last block's output (n, d).
    pub x: M::Wide,
    /// Of the blocks from the lowest adapted one on.
    blocks: Vec<BlockTrace<M>>,
    beside: Beside<M>,
    /// Over all blocks.
    pub balance: ExpertBalance,
}

/// What is left of a block.
enum BlockTrace<M: Machine> {
    All(Box<BlockActivations<M>>),
    /// Its input (n, d), exactly: running it again gives the same bits.
    Input(M::Wide),
}

impl<M: Machine> Trace<M> {
    /// The same for another machine over the same buffers.
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> Trace<N> {
        let blocks = self.blocks.into_iter().map(|block| match block {
            BlockTrace::All(kept) => BlockTrace::All(Box::new(kept.on())),
            BlockTrace::Input(x) => BlockTrace::Input(x),
        });
        Trace { x: self.x, blocks: blocks.collect(), beside: self.beside.on(), balance: self.balance }
    }

    /// Gives back what the blocks left.
    #[cfg(test)]
    pub(super) fn free(self, m: &mut M) -> M::Wide {
        for block in self.blocks {
            match block {
                BlockTrace::All(kept) => kept.free(m),
                BlockTrace::Input(x) => m.free_wide(x),
            }
        }
        self.beside.free(m);
        self.x
    }
}

impl Model {
    /// Embedding and all blocks; those from `lowest` on leave what they computed, or their input where they run `again`.
    pub(super) fn traced<M: Machine>(&self, m: &mut M, given: &Given, lowest: usize, again: bool) -> Result<Trace<M>> {
        let mut x = m.embed(given)?;
        let mut beside = Beside::new(m, given, self, &x)?;
        let mut blocks: Vec<BlockTrace<M>> = Vec::with_capacity(self.blocks.len() - lowest);
        let mut balance = ExpertBalance::default();
        for (i, block) in self.blocks.iter().enumerate() {
            let before = if again && i >= lowest { Some(m.copied(&x)?) } else { None };
            let kept = block.forward(m, given, &mut beside, &mut x)?;
            kept.count(&mut balance);
            match before {
                Some(before) => {
                    kept.free(m);
                    blocks.push(BlockTrace::Input(before));
                }
                None if i >= lowest => blocks.push(BlockTrace::All(Box::new(kept))),
                None => kept.free(m),
            }
        }
        Ok(Trace { x, blocks, beside, balance })
    }

    /// Head and loss: `−log p` of each target in nats, and the gradient at the last block's output of their sum by `weights`.
    /// What is left is for the way back of the blocks.
    pub(super) fn loss_at_head<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        trace: Trace<M>,
        targets: &Targets,
        weights: &[f32],
    ) -> Result<(Vec<f32>, BlocksBack<M>)> {
        let (losses, dx) = m.loss(given, &trace.x, targets, weights)?;
        m.free_wide(trace.x);
        Ok((losses, BlocksBack { dx, blocks: trace.blocks, beside: trace.beside }))
    }

    /// The blocks, from the last down to the `lowest`: adds the gradients of everything that is trained there.
    pub(super) fn blocks_back<M: Machine>(&self, m: &mut M, given: &Given, lowest: usize, back: BlocksBack<M>) -> Result<()> {
        let BlocksBack { dx, mut blocks, mut beside } = back;
        let rounded = m.rounded(&dx)?;
        let mut way = WayBack { dx, rounded };
        let embedding = given.only().acts(self.embedding.site);
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let kept = match blocks.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = block.forward(m, given, &mut beside, &mut x)?;
                    m.free_wide(x);
                    kept
                }
                None => break,
            };
            block.backward(m, given, (&mut way, &mut beside), kept, i > lowest || embedding)?;
        }
        beside.back(m, given, self, if embedding { Some(&mut way.dx) } else { None })?;
        if embedding {
            m.embed_back(given, &way.dx)?;
        }
        m.free(way.rounded);
        m.free_wide(way.dx);
        Ok(())
    }
}

/// A gradient on its way back to the blocks.
pub(super) struct BlocksBack<M: Machine> {
    /// At the last block's output (n, d).
    dx: M::Wide,
    blocks: Vec<BlockTrace<M>>,
    beside: Beside<M>,
}
