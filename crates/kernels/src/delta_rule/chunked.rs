//! The rule in chunks, so that its work is products of matrices (Yang et al. 2024, section 3.3).
//!
//! With S the state before a chunk and the symbols of [`Chunk`]: what a token would correct but for its chunk is
//! `errors = v − e^c∘(k·S)`; `updates = (1 + β∘overlap)⁻¹·(β∘errors)` is what it corrects; `o = e^c∘(q·S) + scores·updates`, and
//! `S ← e^c_last·S + (e^(c_last − c)∘k)ᵀ·updates`.

use super::chunk::{CHUNK, Chunk, solve};
use super::dense::{Sizes, View, product};
use super::heads::Head;
use super::rows::{scale, scale_rows, scaled_rows};

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

/// What every token reads, (t, value_dim), into `out`; `state` (key_dim, value_dim) becomes that behind the last.
pub(super) fn rule(head: &Head, state: &mut [f32], out: &mut [f32]) {
    each_chunk(head, state, out, |_, _| {});
}

/// As [`rule`] from a state of zeros, with what the way back needs.
pub(super) fn keep(head: &Head, out: &mut [f32]) -> Left {
    let mut left = Left::default();
    let mut state = vec![0.0; head.key_dim * head.value_dim];
    each_chunk(head, &mut state, out, |before, [errors, updates]| {
        left.states.extend_from_slice(before);
        left.errors.extend_from_slice(errors);
        left.updates.extend_from_slice(updates);
    });
    left
}

/// `seen` gets the state before each chunk, its errors and its updates.
fn each_chunk(head: &Head, state: &mut [f32], out: &mut [f32], mut seen: impl FnMut(&[f32], [&[f32]; 2])) {
    let (keys, values) = (head.key_dim, head.value_dim);
    for (i, out) in out.chunks_mut(CHUNK * values).enumerate() {
        let at = i * CHUNK..i * CHUNK + out.len() / values;
        let chunk = Chunk::new(head, &at);
        let [q, k] = [head.q, head.k].map(|x| &x[at.start * keys..at.end * keys]);
        let read = Sizes { m: chunk.len, n: values, k: keys };
        let mut errors = vec![0.0; out.len()];
        product(&mut errors, values, read, View::rows(k, keys), View::rows(state, values), 1.0, false);
        scale_rows(&mut errors, values, &chunk.from_start);
        errors.iter_mut().zip(&head.v[at.start * values..]).for_each(|(error, v)| *error = v - *error);
        let beta = &head.beta[at.clone()];
        let mut updates = scaled_rows(&errors, values, beta);
        solve(&chunk.system(beta), chunk.len, &mut updates, values);
        seen(&*state, [&errors, &updates]);
        product(out, values, read, View::rows(q, keys), View::rows(state, values), 1.0, false);
        scale_rows(out, values, &chunk.from_start);
        let within = Sizes { m: chunk.len, n: values, k: chunk.len };
        product(out, values, within, View::rows(&chunk.scores, chunk.len), View::rows(&updates, values), 1.0, true);
        let kept = scaled_rows(k, keys, &chunk.to_end);
        scale(state, chunk.total);
        let write = Sizes { m: keys, n: values, k: chunk.len };
        product(state, values, write, View::transposed(&kept, keys), View::rows(&updates, values), 1.0, true);
    }
}
