//! New tokens behind what texts already hold: prompts, whole or in chunks, and decoding; rows of one call may be under different adapters.
//!
//! Every row's numbers are its own: the phase chooses the kernels, and none of these knows how many rows there are.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Model;
use super::super::cache::KvCache;
use super::super::layers::{Attention, DeltaNet, NormVector};
use super::super::paged::{BlockTable, PagedKv};
use super::cpu::Cpu;
use super::machine::{Given, Machine};
use super::past::Past;
use super::prepared::PreparedAdapter;
use super::sums::Sums;
use super::tensors::{Keys, Tensors};
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::kernels::attention::cached::{CachedText, cached};
use crate::kernels::delta_rule;
use crate::kernels::engine::{Attended, Phase};
use crate::kernels::tensors::attention::Ramp;

/// New tokens of one text.
pub struct Chunk<'a> {
    /// What the text holds; the tokens come behind it.
    pub table: &'a mut BlockTable,
    /// At least one.
    pub ids: &'a [u32],
    pub adapter: &'a PreparedAdapter,
    /// After how many of its last tokens the logits are wanted.
    pub logits: usize,
}

impl Model {
    /// Runs the new tokens of all `chunks` and keeps their keys and values. Returns the logits that the chunks
    /// want, `(vocabulary)` each, one after another. Chunks of one adapter should stand side by side. On the CPU only.
    ///
    /// # Errors
    /// On an id outside the vocabulary or a position outside the model's range; when `kv` has no room.
    pub fn extend(&self, scratch: &mut Workspace, kv: &mut PagedKv, phase: Phase, chunks: &mut [Chunk]) -> Result<Vec<f32>> {
        debug_assert!(self.device.is_cpu() && chunks.iter().all(|c| !c.ids.is_empty()));
        chunks.iter_mut().try_for_each(|c| kv.reserve(c.table, c.ids.len()))?;
        let new = NewTokens::of(chunks.iter().map(|c| (c.table.len(), c.ids, c.adapter, c.logits)));
        // On a thread of the pool, as in training.
        let logits = rayon::scope(|_| {
            let given = new.given(self, phase);
            scratch.fit(given.tokens());
            let mut past = Cached { kv, chunks, rows: &new.rows };
            let mut cpu = Cpu::<f32> { model: self, scratch, past: &mut past, texts: None, sums: &mut Sums::default() };
            let x = self.through(&mut cpu, &given)?;
            // As decoding makes them in every phase: how many are asked for at once is chance.
            let logits = cpu.logits(&Given { phase: Phase::Decode, ..given }, &x, &new.wanted)?;
            cpu.free_wide(x);
            Ok::<_, Error>(logits)
        })?;
        chunks.iter_mut().for_each(|c| PagedKv::advance(c.table, c.ids.len(), phase));
        Ok(logits)
    }
}

/// In what texts hold already.
struct Cached<'a, 'c> {
    kv: &'a mut PagedKv,
    chunks: &'a mut [Chunk<'c>],
    rows: &'a [Range<usize>],
}

impl Past<f32> for Cached<'_, '_> {
    /// Keeps the new keys and values of one layer, where they are its own, and attends to all.
    fn attend(&mut self, attention: &Attention, [q, k, v]: [&[f32]; 3], out: &mut [f32]) -> Attended {
        let [_, width, _] = attention.shape.widths();
        if !attention.borrows() {
            for (chunk, rows) in self.chunks.iter().zip(self.rows) {
                let own = rows.start * width..rows.end * width;
                self.kv.write(attention.layer, chunk.table, &k[own.clone()], &v[own]);
            }
        }
        let text = |(chunk, rows): (&Chunk, &Range<usize>)| CachedText {
            queries: rows.clone(),
            past: chunk.table.len(),
            blocks: self.kv.layer(attention.keys_of, chunk.table),
        };
        let texts: Vec<CachedText> = self.chunks.iter().zip(self.rows).map(text).collect();
        let sinks = attention.sinks.as_ref().map(NormVector::values);
        cached(self.kv.layout(attention.keys_of), attention.shape.heads, attention.scores, sinks, &texts, q, out);
        Attended::default()
    }

    fn attend_over(&mut self, _: &Attention, _: &[f32], _: Option<[&[f32]; 2]>, _: &mut [f32]) -> Attended {
        unreachable!("what follows an encoder is in caches of its own")
    }

    /// Each text from its own state, which moves on.
    fn delta(&mut self, net: &DeltaNet, parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]) {
        let (layer, widths, values) = (net.frozen(), net.widths(), net.sizes.values());
        let (mut room, mut out) = (room, out);
        let mut texts = Vec::new();
        for (chunk, rows) in self.chunks.iter_mut().zip(self.rows) {
            let (own, rest) = out.split_at_mut(rows.len() * values);
            out = rest;
            let (own_room, rest) = room.split_at_mut(rows.len() * net.sizes.room());
            room = rest;
            texts.push((self.kv.state(net.layer, chunk.table), rows, [own_room, own]));
        }
        texts.into_par_iter().for_each(|(state, rows, [room, out])| {
            let mut at = 0;
            let own = parts.map(|part| {
                at += 1;
                &part[rows.start * widths[at - 1]..rows.end * widths[at - 1]]
            });
            delta_rule::extend(&layer, state, own, room, out);
        });
    }
}

/// New tokens of one text whose keys and values are in a cache of its own: on a device that has no kernels over blocks.
pub struct OwnChunk<'a> {
    pub cache: &'a mut KvCache,
    pub ids: &'a [u32],
    pub adapter: &'a PreparedAdapter,
    /// After how many of its last tokens the logits are wanted.
    pub logits: usize,
}

impl Model {
    /// [`Model::extend`] in tensor operations.
    ///
    /// # Errors
    /// As [`Model::extend`].
    pub fn extend_in_tensors(&self, chunks: &mut [OwnChunk]) -> Result<Vec<f32>> {
        let new = NewTokens::of(chunks.iter().map(|c| (c.cache.len(), c.ids, c.adapter, c.logits)));
        let given = new.given(self, Phase::Blocked);
        let caches = chunks.iter_mut().zip(&new.rows).map(|(c, rows)| (rows.clone(), &mut *c.cache)).collect();
        let mut tensors = Tensors::new(self, &given, Keys::Cached(caches, Ramp::new(&self.device)?))?;
        let x = self.through(&mut tensors, &given)?;
        let logits = tensors.logits(&given, &x, &new.wanted)?;
        chunks.iter_mut().for_each(|c| c.cache.advance(c.ids.len()));
        Ok(logits)
    }
}

/// New tokens of several texts, one after another.
pub(super) struct NewTokens<'a> {
    /// Of each text.
    pub rows: Vec<Range<usize>>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// Rows whose logits are wanted.
    pub wanted: Vec<usize>,
    /// Neighbours under one adapter together.
    acting: Vec<(Range<usize>, &'a PreparedAdapter)>,
}

impl<'a> NewTokens<'a> {
    /// Of each text: how many tokens it holds, the new ones, what acts, and after how many of the last ones logits are wanted.
    pub(super) fn of<'t>(texts: impl Iterator<Item = (usize, &'t [u32], &'a PreparedAdapter, usize)>) -> NewTokens<'a> {
        let (rows, ids, positions, wanted, acting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut new = NewTokens { rows, ids, positions, wanted, acting };
        for (held, ids, adapter, logits) in texts {
            let own = new.ids.len()..new.ids.len() + ids.len();
            new.ids.extend_from_slice(ids);
            new.positions.extend((held..held + ids.len()).map(|position| position as u32));
            new.wanted.extend(own.end - logits..own.end);
            match new.acting.last_mut() {
                Some((before, same)) if std::ptr::eq(*same, adapter) => before.end = own.end,
                _ => new.acting.push((own.clone(), adapter)),
            }
            new.rows.push(own);
        }
        new
    }

    /// What blocks are given of them.
    pub(super) fn given<'g>(&'g self, model: &'g Model, phase: Phase) -> Given<'g> {
        let NewTokens { ids, positions, acting, .. } = self;
        Given { acting, phase, ids, positions, rows: &[], shared: &model.shared, chosen: None, source: None }
    }
}
