//! What a `config.json` says of an encoder before the decoder, as transformers' `T5Config` reads it. Refuses to know: tensors.

use super::config_reader::{ConfigReader, RESTORE};
use super::family::{EncoderNames, Family};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::distance::DistanceBias;

/// An encoder.
#[derive(Debug, Clone)]
pub struct EncoderSizes {
    pub layers: usize,
    /// What the decoder's texts begin with.
    pub start: u32,
    /// Buckets of distances between query and key, and the distance from which on all are in the last.
    pub buckets: usize,
    pub most_distance: usize,
    /// Feed-forwards have a gate, in both stacks.
    pub gated: bool,
}

/// Of a model's stacks; the decoder alone where there is no encoder.
pub(super) struct Stacks {
    pub encoder: Option<EncoderSizes>,
    /// Layers of the decoder.
    pub decoder: usize,
    pub activation: Option<Activation>,
    pub logit_scale: f64,
}

/// `layers` are those that the family's key of layers says.
///
/// # Errors
/// [`crate::Error::Model`] naming the key that is missing or impossible.
pub(super) fn read(r: &ConfigReader, family: &Family, layers: usize, width: usize) -> Result<Stacks> {
    let Some(names) = &family.encoder else {
        return Ok(Stacks { encoder: None, decoder: layers, activation: None, logit_scale: 1.0 });
    };
    r.expect("is_encoder_decoder", true)?;
    r.expect("is_decoder", false)?;
    let (activation, gated) = r.feed_forward(family)?;
    let buckets = r.count_or("relative_attention_num_buckets", 32)?;
    let most_distance = r.count_or("relative_attention_max_distance", 128)?;
    if !DistanceBias::possible(buckets, most_distance, true) || !DistanceBias::possible(buckets, most_distance, false) {
        let why = format!("distances up to {most_distance} cannot be put into {buckets} buckets");
        return Err(r.fail("relative_attention_num_buckets", why, RESTORE));
    }
    // As the class: what scales the decoder's output says itself so, or shared matrices do.
    let scaled = r.flag("scale_decoder_outputs", r.flag("tie_word_embeddings", true)?)?;
    let encoder = EncoderSizes { layers, start: r.start()?, buckets, most_distance, gated };
    Ok(Stacks {
        encoder: Some(encoder),
        decoder: r.decoder_layers(names, layers)?,
        activation: Some(activation),
        logit_scale: if scaled { (width as f64).sqrt().recip() } else { 1.0 },
    })
}

impl ConfigReader<'_> {
    /// A flag that has one value in every model of a family.
    fn expect(&self, key: &str, value: bool) -> Result<()> {
        match self.flag(key, value)? {
            found if found == value => Ok(()),
            found => Err(self.fail(key, format!("{found} is not supported for this family"), RESTORE)),
        }
    }

    fn start(&self) -> Result<u32> {
        let key = "decoder_start_token_id";
        let found = self.get(key).filter(|v| !v.is_null()).ok_or_else(|| self.fail(key, "missing", RESTORE))?;
        let id = found.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.fail(key, format!("{found} is no token's number"), RESTORE))
    }

    /// As many as the encoder's where the file says none.
    fn decoder_layers(&self, names: &EncoderNames, layers: usize) -> Result<usize> {
        match self.get(names.decoder_layers).filter(|v| !v.is_null()) {
            None => Ok(layers),
            Some(_) => self.count_or(names.decoder_layers, layers),
        }
    }

    fn name_or(&self, key: &str, usual: &str) -> Result<String> {
        let Some(value) = self.get(key) else { return Ok(usual.to_string()) };
        let name = value.as_str().ok_or_else(|| self.fail(key, format!("expected a name, found {value}"), RESTORE))?;
        Ok(name.to_string())
    }

    /// `T5Config.__post_init__`: the one key says both, but where the file has what followed from it.
    fn feed_forward(&self, family: &Family) -> Result<(Activation, bool)> {
        let (key, usual) = family.keys.activation;
        let both = self.name_or(key, usual)?;
        let (name, gated) = match both.split('-').collect::<Vec<_>>()[..] {
            ["gated", "gelu"] => ("gelu_new", true),
            ["gated", name] => (name, true),
            [name] => (name, false),
            _ => return Err(self.fail(key, format!("`{both}` is neither NAME nor gated-NAME"), RESTORE)),
        };
        let gated = self.flag("is_gated_act", gated)?;
        let own = "dense_act_fn";
        let said = self.name_or(own, name)?;
        let key = if self.json.get(own).is_some() { own } else { key };
        Ok((self.activation_of(family, key, &said)?, gated))
    }
}
