//! Log-probabilities of texts by the pass that trains, without its way back.

use super::super::Model;
use super::texts::{self, PackedTexts};
use super::workspace::{Pooled, Workspace};
use super::{PreparedAdapter, chosen};
use crate::error::Result;
use crate::kernels::adapted_head::head_logps;

impl Model {
    /// Log-probability of each target of each of `rows`, in nats and in the order of its tokens; `trained(row, i)` tells
    /// whether token `i` is a target. On the CPU only.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub(in super::super) fn direct_logps(
        &self,
        room: &mut Workspace,
        adapter: &PreparedAdapter,
        rows: &[&[u32]],
        trained: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f32>>> {
        debug_assert!(self.device.is_cpu());
        let groups: Vec<PackedTexts> = texts::groups(rows).iter().map(|group| PackedTexts::new(rows, group, trained)).collect();
        let mut logps = vec![Vec::new(); rows.len()];
        rayon::scope(|_| {
            room.fit(groups.iter().map(PackedTexts::tokens).max().unwrap_or(0));
            for texts in groups.iter().filter(|t| !t.targets.is_empty()) {
                let found = match self.multiplies_in_bf16() {
                    #[cfg(target_arch = "x86_64")]
                    true => self.group_logps::<half::bf16>(room, adapter, texts)?,
                    _ => self.group_logps::<f32>(room, adapter, texts)?,
                };
                for (at, logp) in texts.targets.at.iter().zip(found) {
                    logps[texts.whose[*at as usize]].push(logp);
                }
            }
            Ok(())
        })
        .map(|()| logps)
    }

    fn group_logps<T: Pooled>(&self, room: &mut Workspace, adapter: &PreparedAdapter, texts: &PackedTexts) -> Result<Vec<f32>> {
        let acting = [(0..texts.tokens(), adapter)];
        let given = self.given(&acting, texts);
        let mut x = self.embed_rows(&acting, &texts.batch.ids, &texts.batch.positions)?; // (n, d)
        for block in &self.blocks {
            block.direct_forward::<T>(&given, room, &mut self.attend_texts(block, texts), &mut x)?.give_to(room);
        }
        let chosen = chosen(&x, self.config.width, &texts.targets.at);
        let mut normed = vec![0f32; chosen.len()];
        self.final_norm.frozen().forward(&chosen, &mut normed);
        let rows: Vec<u64> = texts.targets.at.iter().map(|at| texts.rows[*at as usize]).collect();
        let columns = adapter.columns[self.head.site.0].as_ref();
        Ok(head_logps(&normed, self.head_layer(adapter, &rows), columns, &texts.targets.ids))
    }
}
