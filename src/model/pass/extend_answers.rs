//! Prompts and decoding in a model with an encoder, which reads a prompt once; the decoder's tokens come behind that. Texts of one call
//! may be under different adapters.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Model;
use super::super::decoder_cache::DecoderCache;
use super::super::layers::{Attention, DeltaNet};
use super::cpu::Cpu;
use super::extend::NewTokens;
use super::machine::{Given, Machine};
use super::past::Past;
use super::prepared::PreparedAdapter;
use super::sums::Sums;
use super::tensors::{Keys, Tensors, in_rows};
use super::texts::over;
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::kernels::attention::over::Seen;
use crate::kernels::engine::{Attended, Phase};

/// New tokens of an answer.
pub struct AnswerChunk<'a> {
    pub cache: &'a mut DecoderCache,
    /// At least one; an answer begins with [`Model::answers_begin_with`].
    pub ids: &'a [u32],
    pub adapter: &'a PreparedAdapter,
    /// After how many of its last tokens the logits are wanted.
    pub logits: usize,
}

impl Model {
    /// What the decoder's texts begin with, in a model with an encoder.
    pub fn answers_begin_with(&self) -> Option<u32> {
        self.encoder.as_ref().map(|encoder| encoder.start)
    }

    /// Reads a whole prompt by the encoder.
    ///
    /// # Errors
    /// On an id outside the vocabulary; for an empty prompt.
    pub fn read_prompt(&self, scratch: &mut Workspace, adapter: &PreparedAdapter, ids: &[u32]) -> Result<DecoderCache> {
        if ids.is_empty() {
            return Err(Error::usage("prompt", "it has no tokens, so nothing can follow", "give it some text"));
        }
        let (n, texts) = (ids.len(), self.packed(&[ids], &[0], &|_, _| false));
        if !self.in_kernels() {
            return self.in_tensors_over(adapter, &texts, |mut tensors, given| {
                let across = self.remembered(&mut tensors, given)?;
                let e = self.config.head_dim;
                let heads = across.into_iter().map(|[k, v]| Ok([in_rows(&k, e)?, in_rows(&v, e)?]));
                Ok(DecoderCache::of_tensors(heads.collect::<Result<_>>()?, n))
            });
        }
        rayon::scope(|_| {
            scratch.fit(texts.room());
            self.on_cpu::<f32, _>((scratch, &mut Sums::default()), adapter, &texts, |cpu, given| {
                let across = self.remembered(cpu, given)?;
                let floats = across.iter().map(|kv| kv.each_ref().map(|x| x.to_vec())).collect();
                across.into_iter().flatten().for_each(|x| cpu.free(x));
                Ok(DecoderCache::of_floats(floats, n))
            })
        })
    }

    /// Runs the new tokens of all `chunks` and keeps their keys and values. Returns the logits that the chunks want, `(vocabulary)`
    /// each, one after another. Chunks of one adapter should stand side by side.
    ///
    /// # Errors
    /// On an id outside the vocabulary.
    pub fn extend_answers(&self, scratch: &mut Workspace, phase: Phase, chunks: &mut [AnswerChunk]) -> Result<Vec<f32>> {
        let new = NewTokens::of(chunks.iter().map(|c| (c.cache.len(), c.ids, c.adapter, c.logits)));
        let given = new.given(self, phase);
        let logits = match self.in_kernels() {
            true => rayon::scope(|_| self.answers_on_cpu(scratch, (chunks, &new.rows), &given, &new.wanted))?,
            false => {
                let caches = chunks.iter_mut().zip(&new.rows).map(|(c, rows)| (rows.clone(), &mut *c.cache)).collect();
                let mut tensors = Tensors::new(self, &given, Keys::Kept(caches))?;
                let x = self.through(&mut tensors, &given)?;
                tensors.logits(&given, &x, &new.wanted)?
            }
        };
        chunks.iter_mut().for_each(|c| c.cache.advance(c.ids.len()));
        Ok(logits)
    }

    fn answers_on_cpu(
        &self,
        scratch: &mut Workspace,
        (chunks, rows): (&mut [AnswerChunk], &[Range<usize>]),
        given: &Given,
        wanted: &[usize],
    ) -> Result<Vec<f32>> {
        scratch.fit(given.tokens());
        let (mut past, mut sums) = (Read { chunks, rows, first: self.first() }, Sums::default());
        let mut cpu = Cpu::<f32> { model: self, scratch, past: &mut past, texts: None, sums: &mut sums };
        let x = self.through(&mut cpu, given)?;
        // As decoding makes them in every phase, as in [`Model::extend`].
        let logits = cpu.logits(&Given { phase: Phase::Decode, ..*given }, &x, wanted)?;
        cpu.free_wide(x);
        Ok(logits)
    }
}

/// In what is kept of each text.
struct Read<'a, 'c> {
    chunks: &'a mut [AnswerChunk<'c>],
    rows: &'a [Range<usize>],
    /// The decoder's first block.
    first: usize,
}

impl Past<f32> for Read<'_, '_> {
    fn attend(&mut self, _: &Attention, _: [&[f32]; 3], _: &mut [f32]) -> Attended {
        unreachable!("no block of a model with an encoder sees a text alone")
    }

    /// Over what is kept in one of the decoder's layers, new keys and values put behind it.
    fn attend_over(&mut self, attention: &Attention, q: &[f32], kv: Option<[&[f32]; 2]>, mut out: &mut [f32]) -> Attended {
        let ([width, ..], layer) = (attention.shape.widths(), attention.layer - self.first);
        let mut texts = Vec::new();
        for (chunk, rows) in self.chunks.iter_mut().zip(self.rows) {
            let own = rows.start * width..rows.end * width;
            texts.push((chunk, rows.len(), own.clone(), out.split_off_mut(..own.len()).unwrap_or_default()));
        }
        texts.into_par_iter().for_each(|(chunk, n, own, out)| {
            let past = chunk.cache.len();
            let [k, v] = chunk.cache.floats(layer, kv.map(|kv| kv.map(|x| &x[own.clone()])));
            let seen = [Seen { queries: 0..n, keys: 0..k.len() / width, past }];
            over(attention, &seen).forward([&q[own], k, v], out);
        });
        Attended::default()
    }

    fn delta(&mut self, _: &DeltaNet, _: [&[f32]; 4], _: &mut [f32], _: &mut [f32]) {
        unreachable!("no model with an encoder has delta rules")
    }
}
