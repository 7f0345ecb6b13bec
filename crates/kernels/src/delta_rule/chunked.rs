//! The rule in chunks, so that its work is products of matrices (Yang et al. 2024, section 3.3).
//!
//! With S the state before a chunk and the symbols of [`Chunk`]: what a token would correct but for its chunk is
//! `errors = v + takes·S`; `updates = (1 − system)⁻¹·(β∘errors)` is what it corrects; `o = reads·S + scores·updates`, and
//! `S ← e^c_last·S + writesᵀ·updates`.

use super::chunk::{CHUNK, Chunk, Pairs};
use super::heads::Head;
use super::rows::{scale, scaled_rows};
use super::simd::Lanes;
use super::tile::{Right, Size, StridedLeft, StridedProduct, matmul};
use super::triangular::{add_lower, solve};

/// What the way back needs.
#[derive(Default)]
pub(super) struct Left {
    /// The state before every chunk, (chunks, key_dim, value_dim).
    pub states: Vec<f32>,
    /// (t, value_dim)
    pub errors: Vec<f32>,
    /// (t, value_dim)
    pub updates: Vec<f32>,
}

/// Room for a chunk and its corrections, used again from head to head.
#[derive(Default)]
pub(super) struct Room {
    pub pairs: Pairs,
    pub chunk: Chunk,
    errors: Vec<f32>,
    updates: Vec<f32>,
}

/// What every token reads, (t, value_dim), into `out`; `state` (key_dim, value_dim) becomes that behind the last. The pairs in `room` are
/// those of the head's queries and keys.
pub(super) fn rule(head: &Head, room: &mut Room, state: &mut [f32], out: &mut [f32]) {
    each_chunk(head, room, state, out, |_, _| {});
}

/// As [`rule`] from a state of zeros, with what the way back needs in place of what `left` held.
pub(super) fn keep(head: &Head, room: &mut Room, left: &mut Left, out: &mut [f32]) {
    let Left { states, errors, updates } = left;
    [&mut *states, &mut *errors, &mut *updates].into_iter().for_each(Vec::clear);
    let mut state = vec![0.0; head.key_dim * head.value_dim];
    each_chunk(head, room, &mut state, out, |before, of_chunk| {
        states.extend_from_slice(before);
        errors.extend_from_slice(of_chunk[0]);
        updates.extend_from_slice(of_chunk[1]);
    });
}

/// `seen` gets the state before each chunk, its errors and its updates.
fn each_chunk(head: &Head, room: &mut Room, state: &mut [f32], out: &mut [f32], mut seen: impl FnMut(&[f32], [&[f32]; 2])) {
    let (lanes, keys, values) = (Lanes::in_force(), head.key_dim, head.value_dim);
    let Room { pairs, chunk, errors, updates } = room;
    for (i, out) in out.chunks_mut(CHUNK * values).enumerate() {
        let at = i * CHUNK..i * CHUNK + out.len() / values;
        chunk.set(lanes, head, pairs, &at);
        let read = |add: bool| Size { m: at.len(), k: keys, n: values, add };
        let rows = |data| StridedLeft { data, row: keys, column: 1 };
        errors.clear();
        errors.extend_from_slice(&head.v[at.start * values..at.end * values]);
        let before = Right { data: state, row: values };
        matmul(lanes, read(true), rows(&chunk.takes), before, StridedProduct { data: errors, row: values });
        updates.resize(errors.len(), 0.0);
        scaled_rows(lanes, errors, values, &head.beta[at.clone()], updates);
        solve(lanes, &chunk.system, chunk.len, updates);
        seen(before.data, [errors, updates]);
        matmul(lanes, read(false), rows(&chunk.reads), before, StridedProduct { data: out, row: values });
        add_lower(lanes, &chunk.scores, updates, chunk.len, out);
        scale(lanes, state, chunk.total);
        let write = Size { m: keys, k: chunk.len, n: values, add: true };
        let writes = StridedLeft { data: &chunk.writes, row: 1, column: keys };
        matmul(lanes, write, writes, Right { data: updates, row: values }, StridedProduct { data: state, row: values });
    }
}
