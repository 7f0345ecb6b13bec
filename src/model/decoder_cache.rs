//! What is kept of a text that an encoder has read: keys and values of that for each of the decoder's layers, and those of the tokens
//! that the decoder has seen.

use candle_core::Tensor;

use crate::error::Result;

/// Of one text.
#[derive(Debug)]
pub struct DecoderCache {
    layers: Layers,
    len: usize,
    /// Tokens that the encoder has read.
    source: usize,
}

#[derive(Debug)]
enum Layers {
    Floats(Vec<Layer<Vec<f32>>>),
    Tensors(Vec<Layer<Tensor>>),
}

/// Keys and values (tokens, h, e) of one layer.
#[derive(Debug)]
struct Layer<T> {
    /// Of the decoder's tokens; nothing before the first.
    own: Option<[T; 2]>,
    across: [T; 2],
}

impl DecoderCache {
    /// In kernels: keys and values of what the encoder made of `source` tokens, by layer.
    pub(super) fn of_floats(across: Vec<[Vec<f32>; 2]>, source: usize) -> DecoderCache {
        let layers = across.into_iter().map(|across| Layer { own: None, across }).collect();
        DecoderCache { layers: Layers::Floats(layers), len: 0, source }
    }

    /// The same in tensor operations, (source, h, e) each.
    pub(super) fn of_tensors(across: Vec<[Tensor; 2]>, source: usize) -> DecoderCache {
        let layers = across.into_iter().map(|across| Layer { own: None, across }).collect();
        DecoderCache { layers: Layers::Tensors(layers), len: 0, source }
    }

    /// Tokens of the decoder that are held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the decoder has seen nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that the encoder has read.
    pub fn source(&self) -> usize {
        self.source
    }

    /// Puts `new` keys and values behind the decoder's own and gives these; without new ones, those of what the encoder made.
    pub(super) fn floats(&mut self, layer: usize, new: Option<[&[f32]; 2]>) -> [&[f32]; 2] {
        let Layers::Floats(layers) = &mut self.layers else { unreachable!("made in tensor operations") };
        let Layer { own, across } = &mut layers[layer];
        let Some(new) = new else { return across.each_ref().map(Vec::as_slice) };
        let own = own.get_or_insert_default();
        own.iter_mut().zip(new).for_each(|(all, new)| all.extend_from_slice(new));
        own.each_ref().map(Vec::as_slice)
    }

    /// As [`DecoderCache::floats`].
    pub(super) fn tensors(&mut self, layer: usize, new: Option<[Tensor; 2]>) -> Result<[Tensor; 2]> {
        let Layers::Tensors(layers) = &mut self.layers else { unreachable!("made in kernels") };
        let Layer { own, across } = &mut layers[layer];
        let Some([k, v]) = new else { return Ok(across.clone()) };
        let all = match own.take() {
            None => [k.contiguous()?, v.contiguous()?],
            Some([ks, vs]) => [Tensor::cat(&[&ks, &k], 0)?, Tensor::cat(&[&vs, &v], 0)?],
        };
        Ok(own.insert(all).clone())
    }

    /// The length moves on once every layer has its keys and values.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
