//! The rule token by token.

use super::heads::Head;
use super::simd::{Lanes, Simd, multiversion, runs};

/// What every token reads, (t, value_dim), into `out`; `state` (key_dim, value_dim) becomes that behind the last.
pub(super) fn rule(head: &Head, state: &mut [f32], out: &mut [f32]) {
    let lanes = Lanes::in_force();
    let mut update = vec![0.0; head.value_dim];
    let keys = head.q.chunks_exact(head.key_dim).zip(head.k.chunks_exact(head.key_dim));
    let values = head.v.chunks_exact(head.value_dim).zip(out.chunks_exact_mut(head.value_dim));
    for (((q, k), (v, out)), (log_decay, beta)) in keys.zip(values).zip(head.log_decay.iter().zip(&head.beta)) {
        let decay = log_decay.exp();
        update.fill(0.0);
        add_read(lanes, state, k, &mut update);
        update.iter_mut().zip(v).for_each(|(read, v)| *read = beta * (v - decay * *read));
        out.fill(0.0);
        step(lanes, state, decay, (k, &update), (q, out));
    }
}

multiversion! {
    /// `out += k · state`
    fn add_read(state: &[f32], k: &[f32], out: &mut [f32]) = add_read_body;
}
multiversion! {
    /// `state = decay · state + kᵀ · update`, `out += q · state`
    fn step(state: &mut [f32], decay: f32, write: (&[f32], &[f32]), read: (&[f32], &mut [f32])) = step_body;
}

#[inline(always)]
fn add_read_body<S: Simd>(s: S, state: &[f32], k: &[f32], out: &mut [f32]) {
    for (row, k) in state.chunks_exact(out.len()).zip(k) {
        let k = s.splat(*k);
        for (row, out) in runs(s, (row, &mut *out)) {
            s.store(s.mul_add(k, s.load(row), s.load(out)), out);
        }
    }
}

#[inline(always)]
fn step_body<S: Simd>(s: S, state: &mut [f32], decay: f32, (k, update): (&[f32], &[f32]), (q, out): (&[f32], &mut [f32])) {
    let decay = s.splat(decay);
    for ((row, k), q) in state.chunks_exact_mut(out.len()).zip(k).zip(q) {
        let (k, q) = (s.splat(*k), s.splat(*q));
        for (row, update, out) in runs(s, (row, update, &mut *out)) {
            let new = s.mul_add(k, s.load(update), s.mul(decay, s.load(row)));
            s.store(s.mul_add(q, new, s.load(out)), out);
            s.store(new, row);
        }
    }
}
