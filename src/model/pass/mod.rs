//! The one pass over a model: forward, and where asked backward, for training, scoring, prompts and decoding; never taped.
//!
//! A block is written down once ([`block`]) over a [`machine`], a device and a precision with the operations of a block on it. Each
//! gradient is written where it is needed, nothing below the lowest adapted block is kept or propagated; blocks
//! keep what their way back needs, or only their input and run again ([`Recompute`]). Examples of training go through a few
//! at a time, one after another without padding. An oracle in tests judges its gradients.
//!
//! Shapes: n tokens, d width, h heads, g key/value heads, e head size, f feed-forward.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `texts`, `prepared` | examples one after another; an adapter as machines take it |
//! | 1 | `workspace`, `machine`, `sums` | buffers used again; what a block asks of a machine; sums of gradients |
//! | 2 | `count_rules`, `experts`, `cross` | what machines hold besides; a feed-forward of experts, there and back; a decoder's attention over what its encoder made |
//! | 3 | `block` | one block, there and back |
//! | 4 | `cpu`, `tensors`, `count`, `trace` | the machines: kernels over plain buffers; tensor operations on any device; sizes alone; all blocks, there and back |
//! | 5 | `tensors_sites`, `tensors_over`, `cpu_turn`, `cpu_over`, `cpu_experts`, `cpu_head` | the latter's linear layers and what acts on them, its attention over other texts; the former's queries and keys, that attention, its experts, its head |
//! | 6 | `tensors_head` | the latter's head |
//! | 7 | `memory`, `device_memory`, `logps`, `extend` | what a call holds, here and on a device; log-probabilities without a way back; new tokens behind cached ones |
//! | 8 | `gradients`, `extend_answers` | one group of texts there and back; the supervised loss and its gradients; new tokens behind what an encoder has read |
//! | 9 | `loss` | any loss of log-probabilities, of several passes |

mod block;
mod cross;
mod count;
mod count_rules;
mod cpu;
mod cpu_experts;
mod cpu_head;
mod cpu_over;
mod cpu_turn;
mod device_memory;
mod experts;
mod extend;
mod extend_answers;
mod gradients;
mod logps;
mod loss;
mod machine;
mod memory;
mod prepared;
mod sums;
mod tensors;
mod tensors_head;
mod tensors_over;
mod tensors_sites;
mod texts;
mod trace;
mod workspace;

use super::Model;
use super::batch::Batch;
use super::layers::Block;
use super::site::Site;
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::engine::Phase;
use cpu::Cpu;
pub use device_memory::DevicePassMemory;
pub use extend::{Chunk, OwnChunk};
pub use extend_answers::AnswerChunk;
pub use gradients::{LossAndGradients, Times};
pub use loss::{Logps, LossOfLogps, Pass, PassGradients};
use machine::{Acting, Given};
pub use memory::PassMemory;
pub use prepared::PreparedAdapter;
pub use sums::SiteGradient;
use sums::Sums;
use tensors::Tensors;
use texts::{PackedTexts, Source};
use workspace::Pooled;
pub use workspace::{BatchTokens, Recompute, Workspace};

impl Model {
    /// Whether activations are bf16: every matrix is multiplied so, and no width is odd.
    fn multiplies_in_bf16(&self) -> bool {
        let linears = self.blocks.iter().flat_map(Block::linears).map(|l| &l.linear).chain([&self.head.linear]);
        cfg!(target_arch = "x86_64")
            && self.shared.head_dim.is_multiple_of(2)
            && linears.into_iter().all(|l| l.matrix.is_bf16() && (l.inputs() | l.outputs()).is_multiple_of(2))
    }

    /// The lowest block that gradients go back to: all of them for an adapted embedding, none for a head alone.
    fn lowest(&self, adapted: impl Fn(Site) -> bool) -> usize {
        if adapted(self.embedding.site) {
            return 0;
        }
        self.blocks.iter().position(|b| b.linears().iter().any(|l| adapted(l.site))).unwrap_or(self.blocks.len())
    }

    /// Runs whole texts on the CPU.
    fn on_cpu<T: Pooled, R>(
        &self,
        (scratch, sums): (&mut Workspace, &mut Sums),
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
        run: impl FnOnce(&mut Cpu<T>, &Given) -> R,
    ) -> R {
        let spans = |scores| texts.spans(&self.shared, scores);
        let mut attend = |_, scores: Scores, qkv: [&[T]; 3], out: &mut [T]| T::attend(&spans(scores), qkv, out);
        let acting = [(0..texts.tokens(), adapter)];
        let mut cpu = Cpu { model: self, scratch, attend: &mut attend, over: None, spans: Some(&spans), sums };
        self.given(&acting, texts, |given| run(&mut cpu, given))
    }

    /// Runs whole texts in tensor operations.
    fn in_tensors_over<R>(
        &self,
        adapter: &PreparedAdapter,
        texts: &PackedTexts,
        run: impl FnOnce(Tensors, &Given) -> Result<R>,
    ) -> Result<R> {
        let acting = [(0..texts.tokens(), adapter)];
        let keys = Tensors::texts(self, texts)?;
        self.given(&acting, texts, |given| run(Tensors::new(self, given, keys)?, given))
    }

    /// What blocks are given of whole texts under one adapter.
    fn given<R>(&self, acting: &Acting, texts: &PackedTexts, run: impl FnOnce(&Given) -> R) -> R {
        let Batch { ids, positions, .. } = &texts.batch;
        let (phase, shared) = (Phase::Blocked, &self.shared);
        let given = Given { acting, phase, ids, positions, rows: &texts.rows, shared, chosen: None, source: None, seen: None };
        let Some(Source { batch, rows, seen }) = &texts.source else { return run(&given) };
        let (seen, read) = (Some(seen), [(0..batch.len, given.only())]);
        let source = Given { acting: &read, ids: &batch.ids, positions: &batch.positions, rows, seen, ..given };
        run(&Given { source: Some(&source), seen, ..given })
    }

    /// Some of `rows` as this model reads them.
    fn packed(&self, rows: &[&[u32]], which: &[usize], trained: &dyn Fn(usize, usize) -> bool) -> PackedTexts {
        match &self.encoder {
            None => PackedTexts::new(rows, which, trained),
            Some(encoder) => PackedTexts::divided(rows, which, trained, encoder.start),
        }
    }
}
