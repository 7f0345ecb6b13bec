//! New tokens behind what texts already hold: prompts, whole or in chunks, and decoding; rows of one call may be under different adapters.
//!
//! Every row's numbers are its own: the phase chooses the kernels, and none of these knows how many rows there are.

use std::ops::Range;

use super::super::Model;
use super::super::paged::{BlockTable, PagedKv};
use super::block::Given;
use super::prepared::PreparedAdapter;
use super::workspace::Workspace;
use crate::error::Result;
use crate::kernels::attention::Scores;
use crate::kernels::attention::cached::{CachedText, cached};
use crate::kernels::engine::{Attended, Dest, Engine, Layer, Phase};

/// New tokens of one text.
pub struct Chunk<'a> {
    /// What the text holds; the tokens come behind it.
    pub table: &'a mut BlockTable,
    /// At least one.
    pub ids: &'a [u32],
    pub adapter: &'a PreparedAdapter,
    /// Whether the logits after its last token are wanted.
    pub logits: bool,
}

impl Model {
    /// Runs the new tokens of all `chunks` and keeps their keys and values. Returns the logits after the last token of every chunk
    /// that wants them, `(vocabulary)` each, one after another. Chunks of one adapter should stand side by side. On the CPU only.
    ///
    /// # Errors
    /// On an id outside the vocabulary or a position outside the model's range; when `kv` has no room.
    pub fn extend(&self, room: &mut Workspace, kv: &mut PagedKv, phase: Phase, chunks: &mut [Chunk]) -> Result<Vec<f32>> {
        debug_assert!(self.device.is_cpu() && chunks.iter().all(|c| !c.ids.is_empty()));
        chunks.iter_mut().try_for_each(|c| kv.reserve(c.table, c.ids.len()))?;
        let rows = rows(chunks);
        let ids: Vec<u32> = chunks.iter().flat_map(|c| c.ids).copied().collect();
        let positions: Vec<u32> =
            chunks.iter().flat_map(|c| c.table.len()..c.table.len() + c.ids.len()).map(|position| position as u32).collect();
        // On a thread of the pool, as in training.
        let logits = rayon::scope(|_| {
            let acting = acting(chunks.iter().zip(&rows).map(|(c, rows)| (rows.clone(), c.adapter)));
            let given = Given { acting: &acting, phase, positions: &positions, rows: &[], shared: &self.shared };
            room.fit(ids.len());
            let mut x = self.embed_rows(&acting, &ids, &positions)?;
            for (layer, block) in self.blocks.iter().enumerate() {
                let mut attend = |[q, k, v]: [&[f32]; 3], out: &mut [f32]| {
                    self.attend_cached(kv, layer, (chunks, &rows), block.scores, [q, k, v], out)
                };
                block.direct_forward::<f32>(&given, room, &mut attend, &mut x)?.give_to(room);
            }
            self.last_logits(chunks, &rows, &x)
        })?;
        chunks.iter_mut().for_each(|c| PagedKv::advance(c.table, c.ids.len(), phase));
        Ok(logits)
    }

    /// Keeps the new keys and values of one layer and attends to all.
    fn attend_cached(
        &self,
        kv: &mut PagedKv,
        layer: usize,
        (chunks, rows): (&[Chunk], &[Range<usize>]),
        scores: Scores,
        [q, k, v]: [&[f32]; 3],
        out: &mut [f32],
    ) -> Attended {
        let [_, width, _] = self.shared.widths();
        for (chunk, rows) in chunks.iter().zip(rows) {
            let own = rows.start * width..rows.end * width;
            kv.write(layer, chunk.table, &k[own.clone()], &v[own]);
        }
        let text = |(chunk, rows): (&Chunk, &Range<usize>)| CachedText {
            queries: rows.clone(),
            past: chunk.table.len(),
            blocks: kv.layer(layer, chunk.table),
        };
        let texts: Vec<CachedText> = chunks.iter().zip(rows).map(text).collect();
        cached(kv.layout(), self.shared.heads, scores, &texts, q, out);
        Attended::default()
    }

    /// Logits after the last token of the chunks that want them, as decoding makes them in every phase.
    fn last_logits(&self, chunks: &[Chunk], rows: &[Range<usize>], x: &[f32]) -> Result<Vec<f32>> {
        let (d, vocab) = (self.config.width, self.config.vocab);
        let wanted: Vec<(&Chunk, usize)> =
            chunks.iter().zip(rows).filter(|(c, _)| c.logits).map(|(c, rows)| (c, rows.end - 1)).collect();
        let chosen: Vec<f32> = wanted.iter().flat_map(|(_, row)| &x[row * d..][..d]).copied().collect();
        let mut normed = vec![0f32; chosen.len()];
        self.final_norm.frozen().forward(&chosen, &mut normed);
        let mut logits = vec![0f32; wanted.len() * vocab];
        let acting = acting(wanted.iter().enumerate().map(|(i, (chunk, _))| (i..i + 1, chunk.adapter)));
        let site = self.head.site.0;
        if acting.iter().all(|(_, a)| a.full_head.is_none() && a.columns[site].is_none()) {
            let parts: Vec<(Range<usize>, Layer)> =
                acting.iter().map(|(rows, adapter)| (rows.clone(), self.head_layer(adapter, &[]))).collect();
            f32::forward_mixed(Phase::Decode, &normed, &parts, Dest::Set(&mut logits));
            return Ok(logits);
        }
        for (rows, adapter) in &acting {
            let (x, y) = (&normed[rows.start * d..rows.end * d], &mut logits[rows.start * vocab..rows.end * vocab]);
            f32::forward(Phase::Decode, x, &[self.head_layer(adapter, &[])], vec![Dest::Set(y)]);
            if let Some(columns) = &adapter.columns[site] {
                let z = y.to_vec();
                columns.apply(&z, Dest::Set(y));
            }
        }
        Ok(logits)
    }
}

/// The rows of each chunk, one after another.
fn rows(chunks: &[Chunk]) -> Vec<Range<usize>> {
    let mut end = 0;
    chunks
        .iter()
        .map(|c| {
            end += c.ids.len();
            end - c.ids.len()..end
        })
        .collect()
}

/// Neighbours under one adapter together.
fn acting<'a>(rows: impl Iterator<Item = (Range<usize>, &'a PreparedAdapter)>) -> Vec<(Range<usize>, &'a PreparedAdapter)> {
    let mut acting: Vec<(Range<usize>, &PreparedAdapter)> = Vec::new();
    for (rows, adapter) in rows {
        match acting.last_mut() {
            Some((before, same)) if std::ptr::eq(*same, adapter) => before.end = rows.end,
            _ => acting.push((rows, adapter)),
        }
    }
    acting
}
