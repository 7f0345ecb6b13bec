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
//! | 2 | `beside`, `dense`, `past` | what blocks hand on beside the stream; a feed-forward for all tokens; where tokens of the CPU find those before them |
//! | 3 | `experts`, `layer_gate`, `cross`, `count_rules` | feed-forwards of experts; a block's third part, there and back; a decoder's attention over what its encoder made; what counting goes by |
//! | 4 | `feed`, `mixer` | the feed-forward, of whichever kind; attention or a delta rule |
//! | 5 | `block` | one block, there and back |
//! | 6 | `cpu`, `tensors`, `count`, `trace` | the machines: kernels over plain buffers; tensor operations on any device; sizes alone; all blocks, there and back |
//! | 7 | `cpu_sites`, `cpu_turn`, `cpu_over`, `cpu_layer_inputs`, `cpu_delta`, `cpu_experts`, `cpu_head`, `tensors_sites`, `tensors_turn`, `tensors_attend`, `tensors_over`, `count_sites` | their linear layers and what acts on them, queries and keys, attention, that over other texts, inputs of layers, experts, heads |
//! | 8 | `tensors_head` | the head in tensor operations |
//! | 9 | `memory`, `device_memory`, `logps`, `extend` | what a call holds, here and on a device; log-probabilities without a way back; new tokens behind cached ones |
//! | 10 | `gradients`, `extend_answers` | one group of texts there and back; the supervised loss and its gradients; new tokens behind what an encoder has read |
//! | 11 | `loss` | any loss of log-probabilities, of several passes |

mod beside;
mod block;
mod count;
mod count_rules;
mod count_sites;
mod cross;
mod cpu;
mod cpu_delta;
mod cpu_experts;
mod cpu_head;
mod cpu_layer_inputs;
mod cpu_over;
mod cpu_sites;
mod cpu_turn;
mod dense;
mod device_memory;
mod experts;
mod extend;
mod extend_answers;
mod feed;
mod gradients;
mod layer_gate;
mod logps;
mod loss;
mod machine;
mod memory;
mod mixer;
mod past;
mod prepared;
mod sums;
mod tensors;
mod tensors_attend;
mod tensors_head;
mod tensors_over;
mod tensors_sites;
mod tensors_turn;
mod texts;
mod trace;
mod workspace;

use super::Model;
use super::batch::Batch;
use super::layers::Block;
use super::site::{Site, SiteKind};
use crate::error::Result;
use crate::kernels::engine::Phase;
use cpu::Cpu;
pub use device_memory::DevicePassMemory;
pub use experts::ExpertBalance;
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
        // A router is multiplied in f32 always.
        let multiplied = self.linears().filter(|l| self.sites[l.site.0].kind != SiteKind::Router);
        cfg!(target_arch = "x86_64")
            && self.blocks.iter().flat_map(Block::attentions).all(|attention| attention.shape.head_dim.is_multiple_of(2))
            && multiplied.map(|l| &l.linear).all(|l| l.matrix.is_bf16() && (l.inputs() | l.outputs()).is_multiple_of(2))
    }

    /// The lowest block that gradients go back to: all of them for an adapted embedding, none for a head alone.
    fn lowest(&self, adapted: impl Fn(Site) -> bool) -> usize {
        if adapted(self.embedding.site) || self.layer_inputs.as_ref().is_some_and(|inputs| adapted(inputs.projection.site)) {
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
        let acting = [(0..texts.tokens(), adapter)];
        let mut cpu = Cpu { model: self, scratch, past: &mut &*texts, texts: Some(texts), sums };
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
        let (Batch { ids, positions, .. }, shared) = (&texts.batch, &self.shared);
        let given =
            Given { acting, phase: Phase::Blocked, ids, positions, rows: &texts.rows, shared, chosen: None, source: None };
        let Some(Source { batch, rows, .. }) = &texts.source else { return run(&given) };
        let read = [(0..batch.len, given.only())];
        let source = Given { acting: &read, ids: &batch.ids, positions: &batch.positions, rows, ..given };
        run(&Given { source: Some(&source), ..given })
    }

    /// Some of `rows` as this model reads them.
    fn packed(&self, rows: &[&[u32]], which: &[usize], trained: &dyn Fn(usize, usize) -> bool) -> PackedTexts {
        match &self.encoder {
            None => PackedTexts::new(rows, which, trained),
            Some(encoder) => PackedTexts::divided(rows, which, trained, encoder.start),
        }
    }
}
