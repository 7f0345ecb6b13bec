//! The CPU's attention in a model with an encoder, in f32 whatever activations are.

use super::super::layers::{Attention, Sight};
use super::cpu::Cpu;
use super::machine::Given;
use super::texts::over;
use super::workspace::{Buffer, Pooled};
use crate::kernels::attention::over::Behind;
use crate::kernels::element::convert;
use crate::kernels::engine::Attended;

fn floats<T: Pooled>(x: &[T]) -> Vec<f32> {
    let mut full = vec![0f32; x.len()];
    convert(x, &mut full);
    full
}

impl<T: Pooled> Cpu<'_, T> {
    /// See [`super::machine::Machine::attend_over`].
    pub(super) fn attended_over(
        &mut self,
        given: &Given,
        attention: &Attention,
        q: &Buffer<T>,
        kv: Option<[&Buffer<T>; 2]>,
    ) -> (Buffer<T>, Attended) {
        let mut out = self.take::<T>(given, attention.shape.widths()[0]);
        let (q, kv) = (floats(q), kv.map(|kv| kv.map(|x| floats(x))));
        let mut made = vec![0f32; q.len()];
        let kv = kv.as_ref().map(|[k, v]| [k.as_slice(), v]);
        let saved = self.past.attend_over(attention, &q, kv, &mut made);
        convert(&made, &mut out);
        (out, saved)
    }

    /// See [`super::machine::Machine::attend_over_back`].
    pub(super) fn attended_over_back(
        &mut self,
        given: &Given,
        attention: &Attention,
        qkv: [&Buffer<T>; 3],
        (out, saved): (&Buffer<T>, &Attended),
        grad: Buffer<T>,
    ) -> [Buffer<T>; 3] {
        let (Attended::Exact(normalisers), Some(texts)) = (saved, self.texts) else { unreachable!("of whole texts") };
        let [q, k, v] = qkv.map(|x| floats(x));
        let (out, full) = (floats(out), floats(&grad));
        self.scratch.give(grad);
        let mut grads = [&q, &k, &v].map(|x| vec![0f32; x.len()]);
        let [dq, dk, dv] = &mut grads;
        let behind = Behind { out: &out, grad: &full, normalisers };
        over(attention, texts.seen(attention)).backward([&q, &k, &v], behind, [dq, dk, dv]);
        let keys = given.source.filter(|_| attention.sight == Sight::Across).unwrap_or(given);
        let widths = attention.shape.widths();
        let mut rounded =
            [(given, widths[0]), (keys, widths[1]), (keys, widths[2])].map(|(given, width)| self.take::<T>(given, width));
        rounded.iter_mut().zip(&grads).for_each(|(to, from)| convert(from, to));
        rounded
    }
}
