//! All blocks, forward and backward, over one group of texts.

use std::ops::Range;

use super::super::layers::Encoder;
use super::super::{Model, Targets};
use super::block::{BlockActivations, WayBack};
use super::cross::{Beside, Memory};
use super::machine::{Given, Machine};
use crate::error::Result;

/// What the forward part leaves for the way back.
pub(super) struct Trace<M: Machine> {
    /// The last block's output (n, d).
    pub x: M::Wide,
    /// Of the blocks from the lowest adapted one on.
    blocks: Vec<BlockTrace<M>>,
    /// What an encoder made.
    memory: Option<Memory<M>>,
}

/// Which blocks leave something, and whether that is only their input.
#[derive(Clone, Copy)]
struct Keep {
    lowest: usize,
    again: bool,
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
        Trace { x: self.x, blocks: blocks.collect(), memory: self.memory.map(Memory::on) }
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
        self.memory.into_iter().for_each(|memory| memory.free(m));
        self.x
    }
}

impl Model {
    /// Embedding and all blocks; those from `lowest` on leave what they computed, or their input where they run `again`.
    pub(super) fn traced<M: Machine>(&self, m: &mut M, given: &Given, lowest: usize, again: bool) -> Result<Trace<M>> {
        let (keep, mut blocks) = (Keep { lowest, again }, Vec::with_capacity(self.blocks.len() - lowest));
        let memory = match (given.source, &self.encoder) {
            (Some(source), Some(encoder)) => Some(self.encoded(m, source, encoder, &mut blocks, keep)?),
            _ => None,
        };
        let mut x = m.embed(given)?;
        self.run(m, given, (self.first()..self.blocks.len(), memory.as_ref()), (&mut x, &mut blocks), keep)?;
        Ok(Trace { x, blocks, memory })
    }

    fn encoded<M: Machine>(
        &self,
        m: &mut M,
        source: &Given,
        encoder: &Encoder,
        left: &mut Vec<BlockTrace<M>>,
        keep: Keep,
    ) -> Result<Memory<M>> {
        let mut x = m.embed(source)?;
        self.run(m, source, (0..encoder.blocks, None), (&mut x, left), keep)?;
        let [normed, kept] = m.norm(&encoder.norm, &x)?;
        Ok(Memory { normed, x, kept })
    }

    /// The first block that is no encoder's.
    pub(super) fn first(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.blocks)
    }

    /// Embedding and all blocks, keeping nothing: the last block's output (n, d).
    pub(super) fn through<M: Machine>(&self, m: &mut M, given: &Given) -> Result<M::Wide> {
        let Trace { x, memory, .. } = self.traced(m, given, self.blocks.len(), false)?;
        memory.into_iter().for_each(|memory| memory.free(m));
        Ok(x)
    }

    /// What an encoder makes of the tokens `source`: keys and values of each of the decoder's blocks.
    pub(super) fn remembered<M: Machine>(&self, m: &mut M, source: &Given) -> Result<Vec<[M::Act; 2]>> {
        let (Some(encoder), keep) = (&self.encoder, Keep { lowest: self.blocks.len(), again: false }) else {
            return Ok(Vec::new());
        };
        let (memory, mut unscaled) = (self.encoded(m, source, encoder, &mut Vec::new(), keep)?, Vec::new());
        let crosses = self.blocks.iter().filter_map(|block| block.cross.as_ref());
        let all = crosses.map(|cross| cross.remember(m, source, &memory, &mut unscaled));
        let all = all.collect::<Result<Vec<_>>>()?;
        memory.free(m);
        unscaled.into_iter().for_each(|(_, z)| m.free(z));
        Ok(all)
    }

    /// Some blocks over `x`; what they leave is put behind `left`.
    fn run<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (which, memory): (Range<usize>, Option<&Memory<M>>),
        (x, left): (&mut M::Wide, &mut Vec<BlockTrace<M>>),
        Keep { lowest, again }: Keep,
    ) -> Result<()> {
        for i in which {
            let before = if again && i >= lowest { Some(m.copied(x)?) } else { None };
            let kept = self.blocks[i].forward(m, given, i, memory, x)?;
            match before {
                Some(before) => {
                    kept.free(m);
                    left.push(BlockTrace::Input(before));
                }
                None if i >= lowest => left.push(BlockTrace::All(Box::new(kept))),
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
        Ok((losses, BlocksBack { dx, blocks: trace.blocks, memory: trace.memory }))
    }

    /// The blocks, from the last down to the `lowest`: adds the gradients of everything that is trained there.
    pub(super) fn blocks_back<M: Machine>(&self, m: &mut M, given: &Given, lowest: usize, back: BlocksBack<M>) -> Result<()> {
        let BlocksBack { dx, mut blocks, memory } = back;
        let rounded = m.rounded(&dx)?;
        let (mut way, first) = (WayBack { dx, rounded }, self.first());
        let mut beside = match (&memory, &self.encoder) {
            (Some(memory), Some(encoder)) => {
                let way = if lowest < first { Some((m.zeros_like(&memory.x)?, m.rounded(&memory.x)?)) } else { None };
                Some(Beside { memory, norm: &encoder.norm, way })
            }
            _ => None,
        };
        self.run_back(m, given, (lowest.max(first)..self.blocks.len(), beside.as_mut()), (&mut way, &mut blocks))?;
        let beside = beside.and_then(|beside| beside.way);
        self.end_back(m, given, way)?;
        if let (Some(source), Some((dx, rounded))) = (given.source, beside) {
            let mut way = WayBack { dx, rounded };
            self.run_back(m, source, (lowest..first, None), (&mut way, &mut blocks))?;
            self.end_back(m, source, way)?;
        }
        memory.into_iter().for_each(|memory| memory.free(m));
        Ok(())
    }

    /// Some blocks, from the last to the first of them.
    fn run_back<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        (which, mut beside): (Range<usize>, Option<&mut Beside<M>>),
        (way, blocks): (&mut WayBack<M>, &mut Vec<BlockTrace<M>>),
    ) -> Result<()> {
        let (lowest, embedding) = (which.start, given.only().acts(self.embedding.site));
        for i in which.rev() {
            let (block, memory) = (&self.blocks[i], beside.as_ref().map(|beside| beside.memory));
            let kept = match blocks.pop() {
                Some(BlockTrace::All(kept)) => *kept,
                Some(BlockTrace::Input(mut x)) => {
                    let kept = block.forward(m, given, i, memory, &mut x)?;
                    m.free_wide(x);
                    kept
                }
                None => break,
            };
            block.backward(m, given, way, kept, i > lowest || embedding, beside.as_deref_mut())?;
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
    memory: Option<Memory<M>>,
}
