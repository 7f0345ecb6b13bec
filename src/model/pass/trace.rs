//! All blocks, forward and backward, over one group of texts.

use std::ops::Range;

use super::super::layers::Encoder;
use super::super::{Model, Targets};
use super::beside::{Beside, Memory};
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

/// What blocks leave: those from the `lowest` on, and only their input where they run `again`.
struct Left<M: Machine> {
    lowest: usize,
    again: bool,
    blocks: Vec<BlockTrace<M>>,
    balance: ExpertBalance,
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
        let blocks = Vec::with_capacity(self.blocks.len() - lowest);
        let mut left = Left { lowest, again, blocks, balance: ExpertBalance::default() };
        let memory = match (given.source, &self.encoder) {
            (Some(source), Some(encoder)) => Some(self.encoded(m, source, encoder, &mut left)?),
            _ => None,
        };
        let mut x = m.embed(given)?;
        let mut beside = Beside::new(m, given, self, &x)?.with(memory);
        self.run(m, given, self.first()..self.blocks.len(), (&mut beside, &mut x), &mut left)?;
        Ok(Trace { x, blocks: left.blocks, beside, balance: left.balance })
    }

    fn encoded<M: Machine>(&self, m: &mut M, source: &Given, encoder: &Encoder, left: &mut Left<M>) -> Result<Memory<M>> {
        let mut x = m.embed(source)?;
        self.run(m, source, 0..encoder.blocks, (&mut Beside::nothing(), &mut x), left)?;
        let [normed, kept] = m.norm(&encoder.norm, &x)?;
        m.free_wide(x);
        Ok(Memory { normed, kept, wanted: left.lowest < encoder.blocks, grad: None })
    }

    /// The first block that is no encoder's.
    pub(super) fn first(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.blocks)
    }

    /// Embedding and all blocks, keeping nothing: the last block's output (n, d).
    pub(super) fn through<M: Machine>(&self, m: &mut M, given: &Given) -> Result<M::Wide> {
        let Trace { x, beside, .. } = self.traced(m, given, self.blocks.len(), false)?;
        beside.free(m);
        Ok(x)
    }

    /// What an encoder makes of its tokens: keys and values of each of the decoder's blocks.
    pub(super) fn remembered<M: Machine>(&self, m: &mut M, given: &Given) -> Result<Vec<[M::Act; 2]>> {
        let (Some(source), Some(encoder)) = (given.source, &self.encoder) else { return Ok(Vec::new()) };
        let mut left = Left { lowest: self.blocks.len(), again: false, blocks: Vec::new(), balance: ExpertBalance::default() };
        let (memory, mut unscaled) = (self.encoded(m, source, encoder, &mut left)?, Vec::new());
        let crosses = self.blocks.iter().filter_map(|block| block.cross.as_ref());
        let all = crosses.map(|cross| cross.remember(m, source, &memory, &mut unscaled));
        let all = all.collect::<Result<Vec<_>>>()?;
        memory.free(m);
        unscaled.into_iter().for_each(|(_, z)| m.free(z));
        Ok(all)
    }

    /// Some blocks over `x`.
    fn run<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        which: Range<usize>,
        (beside, x): (&mut Beside<M>, &mut M::Wide),
        left: &mut Left<M>,
    ) -> Result<()> {
        for i in which {
            let before = if left.again && i >= left.lowest { Some(m.copied(x)?) } else { None };
            let kept = self.blocks[i].forward(m, given, beside, x)?;
            kept.count(&mut left.balance);
            match before {
                Some(before) => {
                    kept.free(m);
                    left.blocks.push(BlockTrace::Input(before));
                }
                None if i >= left.lowest => left.blocks.push(BlockTrace::All(Box::new(kept))),
                None => kept.free(m),
            }
        }
        Ok(())
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
        let (mut way, first) = (WayBack { dx, rounded }, self.first());
        self.run_back(m, given, lowest.max(first)..self.blocks.len(), (&mut way, &mut beside), &mut blocks)?;
        let memory = beside.take_memory();
        let embedding = given.only().acts(self.embedding.site);
        beside.back(m, given, self, if embedding { Some(&mut way.dx) } else { None })?;
        self.end_back(m, given, way)?;
        if let (Some(memory), Some(source), Some(encoder)) = (memory, given.source, &self.encoder) {
            self.memory_back(m, source, encoder, (lowest, memory), &mut blocks)?;
        }
        Ok(())
    }

    /// The same of an encoder's blocks, from what came back to what it made.
    fn memory_back<M: Machine>(
        &self,
        m: &mut M,
        source: &Given,
        encoder: &Encoder,
        (lowest, mut memory): (usize, Memory<M>),
        blocks: &mut Vec<BlockTrace<M>>,
    ) -> Result<()> {
        if let Some(grad) = memory.grad.take() {
            let dx = m.zeros_of(source, &memory.kept)?;
            let mut way = WayBack { rounded: m.rounded(&dx)?, dx };
            m.norm_back(&encoder.norm, &memory.kept, grad, &mut way.dx, &mut way.rounded)?;
            self.run_back(m, source, lowest..encoder.blocks, (&mut way, &mut Beside::nothing()), blocks)?;
            self.end_back(m, source, way)?;
        }
        memory.free(m);
        Ok(())
    }

    /// Some blocks, from the last to the first of them.
    fn run_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        which: Range<usize>,
        (way, beside): (&mut WayBack<M>, &mut Beside<M>),
        blocks: &mut Vec<BlockTrace<M>>,
    ) -> Result<()> {
        let (lowest, embedding) = (which.start, given.only().acts(self.embedding.site));
        for i in which.rev() {
            let kept = match blocks.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = self.blocks[i].forward(m, given, beside, &mut x)?;
                    m.free_wide(x);
                    kept
                }
                None => break,
            };
            self.blocks[i].backward(m, given, (way, beside), kept, i > lowest || embedding)?;
        }
        Ok(())
    }

    /// What arrives at the embeddings.
    fn end_back<M: Machine>(&self, m: &mut M, given: &Given, way: WayBack<M>) -> Result<()> {
        if given.only().acts(self.embedding.site) {
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
