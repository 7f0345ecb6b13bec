//! Prompts and decoding in a model with an encoder, which reads a prompt once; the decoder's tokens come behind that. Texts of one call
//! may be under different adapters.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Model;
use super::super::decoder_cache::DecoderCache;
use super::super::layers::Sight;
use super::cpu::Cpu;
use super::extend::acting;
use super::machine::{Given, Machine};
use super::prepared::PreparedAdapter;
use super::sums::Sums;
use super::tensors::{Keys, Tensors};
use super::texts::{SeenTexts, over};
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
        let (n, acting) = (ids.len(), [(0..ids.len(), adapter)]);
        let positions: Vec<u32> = (0..n as u32).collect();
        let seen = SeenTexts { source: vec![Seen { queries: 0..n, keys: 0..n, past: 0 }], ..SeenTexts::default() };
        let given = Given { seen: Some(&seen), ..self.extending(&acting, Phase::Blocked, [ids, &positions]) };
        if !self.in_kernels() {
            let mut tensors = Tensors::new(self, &given, Tensors::over(self, &seen)?)?;
            let across = self.remembered(&mut tensors, &given)?;
            let heads = across.into_iter().map(|[k, v]| Ok([tensors.heads(&k)?, tensors.heads(&v)?]));
            return Ok(DecoderCache::of_tensors(heads.collect::<Result<_>>()?, n));
        }
        rayon::scope(|_| {
            scratch.fit(n);
            let mut attend = |_, _, _: [&[f32]; 3], _: &mut [f32]| Attended::default();
            let mut sums = Sums::default();
            let mut cpu = Cpu::<f32> { model: self, scratch, attend: &mut attend, over: None, spans: None, sums: &mut sums };
            let across = self.remembered(&mut cpu, &given)?;
            let floats = across.iter().map(|kv| kv.each_ref().map(|x| x.to_vec())).collect();
            across.into_iter().flatten().for_each(|x| cpu.free(x));
            Ok(DecoderCache::of_floats(floats, n))
        })
    }

    /// Runs the new tokens of all `chunks` and keeps their keys and values. Returns the logits that the chunks want, `(vocabulary)`
    /// each, one after another. Chunks of one adapter should stand side by side.
    ///
    /// # Errors
    /// On an id outside the vocabulary.
    pub fn extend_answers(&self, scratch: &mut Workspace, phase: Phase, chunks: &mut [AnswerChunk]) -> Result<Vec<f32>> {
        let (mut rows, mut ids, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for c in chunks.iter() {
            rows.push(ids.len()..ids.len() + c.ids.len());
            ids.extend_from_slice(c.ids);
            positions.extend((c.cache.len()..c.cache.len() + c.ids.len()).map(|position| position as u32));
        }
        let wanted: Vec<usize> = chunks.iter().zip(&rows).flat_map(|(c, rows)| rows.end - c.logits..rows.end).collect();
        let acting = acting(chunks.iter().zip(&rows).map(|(c, rows)| (rows.clone(), c.adapter)));
        let given = self.extending(&acting, phase, [&ids, &positions]);
        let logits = match self.in_kernels() {
            true => rayon::scope(|_| self.answers_on_cpu(scratch, (chunks, &rows), &given, &wanted))?,
            false => {
                let caches = chunks.iter_mut().zip(&rows).map(|(c, rows)| (rows.clone(), &mut *c.cache)).collect();
                let mut tensors = Tensors::new(self, &given, Keys::Kept(caches))?;
                let x = self.through(&mut tensors, &given)?;
                tensors.logits(&given, &x, &wanted)?
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
        let mut attend = |_, _, _: [&[f32]; 3], _: &mut [f32]| Attended::default();
        let mut kept = |layer: usize, sight: &Sight, q: &[f32], kv: Option<[&[f32]; 2]>, out: &mut [f32]| {
            self.attend_kept((chunks, rows), (layer - self.first(), sight), q, kv, out);
        };
        let (over, mut sums) = (Some(&mut kept as _), Sums::default());
        let mut cpu = Cpu::<f32> { model: self, scratch, attend: &mut attend, over, spans: None, sums: &mut sums };
        let x = self.through(&mut cpu, given)?;
        // As decoding makes them in every phase, as in [`Model::extend`].
        let logits = cpu.logits(&Given { phase: Phase::Decode, ..*given }, &x, wanted)?;
        cpu.free_wide(x);
        Ok(logits)
    }

    /// Attention over what is kept of each text in one of the decoder's layers, its new keys and values put behind it.
    fn attend_kept(
        &self,
        (chunks, rows): (&mut [AnswerChunk], &[Range<usize>]),
        (layer, sight): (usize, &Sight),
        q: &[f32],
        kv: Option<[&[f32]; 2]>,
        mut out: &mut [f32],
    ) {
        let [width, ..] = self.shared.widths();
        let mut texts = Vec::new();
        for (chunk, rows) in chunks.iter_mut().zip(rows) {
            let own = rows.start * width..rows.end * width;
            texts.push((chunk, rows.len(), own.clone(), out.split_off_mut(..own.len()).unwrap_or_default()));
        }
        texts.into_par_iter().for_each(|(chunk, n, own, out)| {
            let past = chunk.cache.len();
            let [k, v] = chunk.cache.floats(layer, kv.map(|kv| kv.map(|x| &x[own.clone()])));
            let seen = [Seen { queries: 0..n, keys: 0..k.len() / width, past }];
            over(&self.shared, sight, &seen).forward([&q[own], k, v], out);
        });
    }
}
