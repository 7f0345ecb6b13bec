//! What the counting machine goes by and what it finds.

use super::workspace::Pooled;

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

/// What is counted, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PassCount {
    /// Kept at the loss for the way back.
    pub kept: u64,
    /// Logits, their gradient in the same place.
    pub logits: u64,
    /// All buffers that are taken and given back.
    pub pool: u64,
    pub peak: u64,
}

/// What machines differ in.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Bytes of an activation.
    pub(super) element: usize,
    /// Bytes that attention leaves, a token and head.
    pub(super) attended: usize,
    pub(super) each_head: bool,
    /// Buffers stay in a pool when they are given back, as the CPU's do, and operations hold what its kernels do.
    pub(super) pooled: bool,
    pub(super) logit_rows: usize,
    /// Bytes that attention holds besides, there and back, of tokens and the widths of queries, keys and values.
    pub(super) attending: fn(usize, [usize; 3]) -> [u64; 2],
}

impl Rules {
    /// Of [`super::cpu`] with activations of `T`.
    pub(super) fn cpu<T: Pooled>() -> Rules {
        Rules {
            element: size_of::<T>(),
            attended: T::ATTENDED,
            each_head: T::EACH_HEAD,
            pooled: true,
            logit_rows: T::LOGIT_ROWS,
            attending: T::attending_bytes,
        }
    }

    /// Of [`super::tensors`], with activations of `element` bytes: the buffers between operations and what these make anew, not
    /// what is inside of attention, the feed-forward's activation and the head.
    pub(super) fn tensors(element: usize) -> Rules {
        Rules { element, attended: F32, each_head: false, pooled: false, logit_rows: 0, attending: |_, _| [0, 0] }
    }
}
