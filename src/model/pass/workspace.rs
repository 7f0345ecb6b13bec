//! Buffers that are used again from block to block and from step to step.
//!
//! Fresh memory costs a page fault for every 4 KiB; a step would touch hundreds of MB of it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use half::bf16;

use super::texts;
use crate::kernels::engine::Engine;
use crate::machine;

/// Whether blocks are run again on the way back instead of keeping what they computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// As the memory budget (bytes) asks.
    Within(u64),
    Never,
    Always,
}

impl Recompute {
    /// What a block keeps may take half of the memory that is free now.
    pub fn within_memory() -> Recompute {
        Recompute::Within(machine::memory().map_or(u64::MAX, |m| m.available / 2))
    }
}

/// Memory of [`super::super::Model::gradients`], kept between calls.
#[derive(Debug)]
pub struct Workspace {
    pub recompute: Recompute,
    full: BufferPool<f32>,
    half: BufferPool<bf16>,
    /// Rounded number of tokens that free buffers were made for.
    tokens: usize,
    /// Never for fewer.
    least: usize,
}

/// The number of tokens that buffers for `tokens` are made for, so that they fit again.
pub(super) fn rounded(tokens: usize) -> usize {
    const ROUND: usize = 128;
    tokens.next_multiple_of(ROUND)
}

/// The number of tokens that buffers for some `tokens` of a group are made for.
pub(super) fn part_tokens(tokens: usize) -> usize {
    const ROUND: usize = 16;
    tokens.next_multiple_of(ROUND)
}

/// What micro-batches are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTokens {
    /// Of a micro-batch, at most.
    pub batch: usize,
    /// Of an example, at least and at most.
    pub shortest: usize,
    pub longest: usize,
}

/// Tokens of the largest group that micro-batches fall into.
pub(super) fn group_tokens(of: BatchTokens) -> usize {
    rounded(of.batch).min(rounded(texts::most(of.shortest, of.longest, texts::TOKENS)))
}

impl Workspace {
    pub fn new(recompute: Recompute) -> Workspace {
        Workspace { recompute, full: BufferPool::default(), half: BufferPool::default(), tokens: 0, least: 0 }
    }

    /// For micro-batches of such sizes: buffers are made once. What is let go when a
    /// larger group comes stays with the allocator as holes, up to as much again.
    pub fn sized(recompute: Recompute, of: BatchTokens) -> Workspace {
        let tokens = group_tokens(of);
        Workspace { tokens, least: tokens, ..Workspace::new(recompute) }
    }

    /// From now on buffers are for `tokens`; those made for more than twice as many or for fewer are let go.
    pub(super) fn fit(&mut self, tokens: usize) {
        let tokens = rounded(tokens).max(self.least);
        if tokens > self.tokens || 2 * tokens < self.tokens {
            self.full.free.clear();
            self.half.free.clear();
            self.tokens = tokens;
        }
    }

    /// A buffer of `tokens × width` with arbitrary content.
    pub(super) fn take<T: Pooled>(&mut self, tokens: usize, width: usize) -> Buffer<T> {
        self.buffer(self.tokens.max(tokens) * width, tokens * width)
    }

    /// As [`Workspace::take`], for some tokens of a group: only as many as these, rounded.
    pub(super) fn take_part<T: Pooled>(&mut self, tokens: usize, width: usize) -> Buffer<T> {
        self.buffer(part_tokens(tokens) * width, tokens * width)
    }

    /// A free one of that size or a new one, of which `len` are used.
    fn buffer<T: Pooled>(&mut self, size: usize, len: usize) -> Buffer<T> {
        match T::pool(self).free.get_mut(&size).and_then(Vec::pop) {
            Some(data) => Buffer { data, len },
            None => Buffer { data: vec![T::default(); size], len },
        }
    }

    /// Gives a buffer back.
    pub(super) fn give<T: Pooled>(&mut self, buffer: Buffer<T>) {
        T::pool(self).free.entry(buffer.data.len()).or_default().push(buffer.data);
    }

    /// Bytes of what was given back.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        fn of<T>(pool: &BufferPool<T>) -> usize {
            (pool.free.values().flatten().chain([&pool.scratch]).map(Vec::len).sum::<usize>()) * size_of::<T>()
        }
        (of(&self.full) + of(&self.half)) as u64
    }

    /// The room for logits, of any length.
    pub(super) fn scratch<T: Pooled>(&mut self) -> Vec<T> {
        std::mem::take(&mut T::pool(self).scratch)
    }

    /// Gives it back.
    pub(super) fn give_scratch<T: Pooled>(&mut self, scratch: Vec<T>) {
        T::pool(self).scratch = scratch;
    }
}

/// Free buffers by their size.
#[derive(Debug, Default)]
pub(super) struct BufferPool<T> {
    free: HashMap<usize, Vec<Vec<T>>>,
    scratch: Vec<T>,
}

/// Part of a reused vector.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    data: Vec<T>,
    len: usize,
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

/// A precision that has buffers.
pub(super) trait Pooled: Engine {
    fn pool(workspace: &mut Workspace) -> &mut BufferPool<Self>;
}

impl Pooled for f32 {
    fn pool(workspace: &mut Workspace) -> &mut BufferPool<f32> {
        &mut workspace.full
    }
}

#[cfg(target_arch = "x86_64")]
impl Pooled for bf16 {
    fn pool(workspace: &mut Workspace) -> &mut BufferPool<bf16> {
        &mut workspace.half
    }
}
