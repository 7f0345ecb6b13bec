//! What a model with an encoder is built of beside its blocks.

use std::sync::Arc;

use super::build::{Builder, same};
use super::family::{AttentionNames, EncoderNames, Family, MlpNames};
use super::layers::{Attention, Block, Cross, Encoder, Mixer, Sight};
use super::site::SiteKind;
use crate::error::{Error, Result};
use crate::kernels::attention::distance::DistanceBias;
use crate::kernels::weight::Weight;

impl Builder<'_> {
    fn names(&self) -> Option<&'static EncoderNames> {
        self.config.family.encoder.as_ref()
    }

    /// Which of all blocks layer `i` of the stack that is built now is.
    pub(super) fn at(&self, i: usize) -> usize {
        if self.encoding { i } else { self.config.encoder_layers() + i }
    }

    /// Prefix of the blocks of that stack.
    pub(super) fn stack(&self) -> String {
        match self.names() {
            Some(names) if self.encoding => names.layers.to_string(),
            _ => self.path(self.config.family.layers),
        }
    }

    /// Name of its norms before feed-forwards.
    pub(super) fn mlp_norm(&self) -> Option<&'static str> {
        match self.names() {
            Some(names) if self.encoding => Some(names.mlp_norm),
            _ => self.config.family.mlp_norm,
        }
    }

    /// Names of its feed-forwards.
    pub(super) fn mlp_names(&self, family: &'static Family) -> &'static MlpNames {
        let gated = self.config.encoder.as_ref().is_none_or(|encoder| encoder.gated);
        match &family.encoder {
            Some(names) if self.encoding => &names.mlp[usize::from(!gated)],
            Some(names) if !gated => &names.plain_mlp,
            _ => &family.mlp,
        }
    }

    /// The encoder and its blocks, where there is one.
    pub(super) fn encoder(&mut self) -> Result<(Vec<Block>, Option<Encoder>)> {
        let (Some(names), Some(sizes)) = (self.names(), &self.config.encoder) else { return Ok((Vec::new(), None)) };
        self.encoding = true;
        let blocks = (0..sizes.layers).map(|i| self.block(i)).collect::<Result<Vec<_>>>()?;
        self.encoding = false;
        let norm = self.scaled_norm(names.final_norm, 1.0)?;
        Ok((blocks, Some(Encoder { blocks: sizes.layers, norm, start: sizes.start })))
    }

    /// Which keys the blocks of this stack see; their biases come when all are there.
    pub(super) fn sight(&self) -> Sight {
        match self.names() {
            None => Sight::Text,
            Some(_) if self.encoding => Sight::Source,
            Some(_) => Sight::Target,
        }
    }

    /// A decoder's attention over what the encoder made.
    pub(super) fn cross(&mut self, i: usize, prefix: &str) -> Result<Option<Cross>> {
        let Some(EncoderNames { cross_norm, cross: AttentionNames::Split { q, k, v, o }, .. }) =
            self.names().filter(|_| !self.encoding)
        else {
            return Ok(None);
        };
        let (c, att, at) = (self.config, SiteKind::Attention, self.at(i));
        let (d, shape) = (c.width, c.shapes[at]);
        let [qd, kd, _] = shape.widths();
        let norm = self.norm_or_none(prefix, Some(cross_norm))?;
        Ok(Some(Cross {
            norm,
            q: self.linear(i, q, att, d, qd, c.qkv_bias)?,
            kv: [self.linear(i, k, att, d, kd, c.qkv_bias)?, self.linear(i, v, att, d, kd, c.qkv_bias)?],
            output: self.linear(i, o, att, qd, d, c.output_bias)?,
            attention: Attention {
                layer: at,
                keys_of: at,
                lends: false,
                shape,
                norms: [None, None, None],
                rope: None,
                scores: c.scores[at],
                sinks: None,
                sight: Sight::Across,
                distances: None,
            },
        }))
    }

    /// The biases of each stack, which its first block has.
    pub(super) fn distances(&mut self, blocks: &mut [Block]) -> Result<()> {
        let (Some(names), Some(sizes)) = (self.names(), &self.config.encoder) else { return Ok(()) };
        self.files.tensors.remove(names.unread);
        for (stack, encoding) in [(names.layers, true), (self.config.family.layers, false)] {
            let name = format!("{stack}.0.{}.weight", names.distances);
            let table = self.matrix(&name, sizes.buckets, self.config.heads)?.to_f32();
            let bias = Arc::new(DistanceBias::new(table, self.config.heads, sizes.most_distance, encoding));
            let own = if encoding { Sight::Source } else { Sight::Target };
            for block in blocks.iter_mut() {
                if let Mixer::Attention(layers) = &mut block.mixer
                    && layers.attention.sight == own
                {
                    layers.attention.distances = Some(bias.clone());
                }
            }
        }
        Ok(())
    }

    /// Takes the embedding where it is there under other names; what differs from it is refused.
    pub(super) fn check_copies(&mut self, embedding: &Weight) -> Result<()> {
        for copy in self.names().map_or(&[][..], |names| names.copies) {
            let name = format!("{copy}.weight");
            if !self.files.tensors.contains_key(&name) || same(&self.files.take(&name)?.matrix()?, embedding) {
                continue;
            }
            return Err(Error::model(
                &self.files.path,
                format!("tensor `{name}`"),
                format!("it differs from `{}.weight`, which both stacks read", self.config.family.embedding),
                "fetch the model again, or take the tensor out of the files if it is not used",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use super::super::Model;
    use crate::device::Compute;
    use crate::error::Result;

    type Tensors = HashMap<String, Tensor>;

    /// The golden model with tied matrices, its tensors changed.
    fn changed(change: impl Fn(&mut Tensors)) -> Result<Model> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families/t5-relu");
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
        let mut tensors = candle_core::safetensors::load(golden.join("model.safetensors"), &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        Model::open(dir.path(), Compute::F32, &Device::Cpu)
    }

    fn logits(model: &Model) -> Vec<f32> {
        model.text_logits(&(), &[&[5, 9, 20]]).unwrap().concat()
    }

    #[test]
    fn published_files_have_the_embedding_again_and_a_tensor_that_nobody_reads() {
        let plain = changed(|_| ()).unwrap();
        let more = changed(|tensors| {
            let (shared, bias) = (tensors["shared.weight"].clone(), "SelfAttention.relative_attention_bias.weight");
            for copy in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
                tensors.insert(copy.into(), shared.clone());
            }
            let bias = tensors[&format!("encoder.block.0.layer.0.{bias}")].clone();
            tensors.insert("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight".into(), bias);
        });
        assert_eq!(logits(&more.unwrap()), logits(&plain));
        assert!(plain.config.tied);
    }

    #[test]
    fn embeddings_that_differ_are_refused_and_a_head_of_its_own_is_taken() {
        let twice = |tensors: &Tensors| (&tensors["shared.weight"] * 2.0).unwrap();
        let error = changed(|tensors| _ = tensors.insert("decoder.embed_tokens.weight".into(), twice(tensors))).unwrap_err();
        assert!(error.to_string().contains("`decoder.embed_tokens.weight`: it differs from `shared.weight`"), "{error}");
        let own = changed(|tensors| _ = tensors.insert("lm_head.weight".into(), twice(tensors))).unwrap();
        let expected: Vec<f32> = logits(&changed(|_| ()).unwrap()).iter().map(|logit| 2.0 * logit).collect();
        assert_eq!(logits(&own), expected);
        assert!(!own.config.tied);
        let error = changed(|tensors| _ = tensors.remove("decoder.block.1.layer.1.EncDecAttention.k.weight")).unwrap_err();
        assert!(error.to_string().contains("`decoder.block.1.layer.1.EncDecAttention.k.weight`"), "{error}");
    }
}
