//! Where the CPU's tokens find those before them: in their own texts, or in what is kept of these.

use super::super::layers::{Attention, DeltaNet};
use super::texts::{PackedTexts, over};
use super::workspace::Pooled;
use crate::kernels::delta_rule;
use crate::kernels::engine::Attended;

/// Where tokens find those before them.
pub(super) trait Past<T> {
    /// From turned queries and keys, and values, to the output.
    fn attend(&mut self, attention: &Attention, qkv: [&[T]; 3], out: &mut [T]) -> Attended;
    /// In a model with an encoder, in f32; keys and values are those that are kept where none are given.
    fn attend_over(&mut self, attention: &Attention, q: &[f32], kv: Option<[&[f32]; 2]>, out: &mut [f32]) -> Attended;
    /// From what its projections made to the output, in `room`.
    fn delta(&mut self, net: &DeltaNet, parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]);
}

/// In their own texts, which are whole.
impl<T: Pooled> Past<T> for &PackedTexts {
    fn attend(&mut self, attention: &Attention, qkv: [&[T]; 3], out: &mut [T]) -> Attended {
        T::attend(&self.spans(attention), qkv, out)
    }

    fn attend_over(&mut self, attention: &Attention, q: &[f32], kv: Option<[&[f32]; 2]>, out: &mut [f32]) -> Attended {
        let Some([k, v]) = kv else { unreachable!("whole texts have keys and values") };
        Attended::Exact(over(attention, self.seen(attention)).forward([q, k, v], out))
    }

    fn delta(&mut self, net: &DeltaNet, parts: [&[f32]; 4], room: &mut [f32], out: &mut [f32]) {
        delta_rule::forward(&net.frozen(), &self.spans, parts, room, out);
    }
}
