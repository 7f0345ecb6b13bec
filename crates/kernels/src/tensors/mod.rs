//! What a block of the decoder is computed with on any device: explicit ways forward and back over candle tensors.
//!
//! Nothing is taped: what comes in is untracked, and so is what goes out. Nothing is read back and nothing is uploaded, but
//! where it is said. Refuses to know: the order of a block's operations, what is kept and what is computed again.
//! Legend: n tokens of several texts laid one after another, d width, f inner width of the feed-forward, h heads, g heads of
//! keys and values, e head size, i inputs, o outputs, r rank, v vocabulary. Activations are f32 or bf16.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `pieces`, `sight`, `rope`, `linear`, `head`, `adamw`, `dropout` | rows a piece at a time; which keys a query sees; turning; products; head and loss; one update; masks |
//! | 1 | `norm`, `mlp`, `columns`, `attention` | operations on rows; attention in tiles |
//! | 2 | `delta_rule`, `over` | linear attention by the gated delta rule, token by token; attention over other texts |

pub mod adamw;
pub mod attention;
pub mod columns;
pub mod delta_rule;
pub mod dropout;
pub mod head;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod over;
mod pieces;
pub mod rope;
pub mod sight;

#[cfg(test)]
mod tests;
