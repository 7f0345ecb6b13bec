//! Tensors of a GGUF model under Hugging Face's names and in its form, by the names of the family's row.
//!
//! What llama.cpp's converter changes is undone here: halves of heads interleaved, one added to norms, layers transposed,
//! queries, keys and values taken apart or put together. Layers that predict further tokens are named as in a directory, `mtp.*`. Refuses to know: what a tensor is for.

use super::Stored;
use super::gguf::Tensor;
use super::gguf_experts::{decoded, mapped};
use super::gguf_metadata::{Metadata, numbered};
use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::weight::{RowOrder, WeightType};
use crate::model::family::{AttentionNames, HEAD, HeadNorms, MlpNames, NormKind, NormedTogether};

/// How the file holds a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Same,
    /// The halves of each of so many heads interleaved.
    Interleaved(usize),
    /// One was added.
    PlusOne,
    /// `[outputs, inputs]`, where the family's layers are `[inputs, outputs]`.
    Transposed,
    /// All queries, then all keys, then all values of so many heads, where the family has those of a head together.
    ByKind(usize),
    /// A row for each head, where the family has a tensor for each.
    Stacked,
    /// As it is, and the family's name ends without `.weight`.
    Bare,
}

impl Metadata<'_> {
    /// Every tensor that a tensor of the file holds.
    ///
    /// # Errors
    /// [`Error::Model`] when its name or shape is none of the architecture's.
    pub(super) fn stored(&self, tensor: &Tensor) -> Result<Vec<Stored>> {
        if let Some(stored) = self.of_delta(tensor)? {
            return Ok(stored);
        }
        let of_layer = of_layer(&tensor.name);
        if let Some(place @ (layer, part, _)) = of_layer {
            if self.is_idle(layer, part)? {
                return Ok(Vec::new());
            }
            if let Some(stored) = self.of_experts(tensor, place)? {
                return Ok(stored);
            }
        }
        let (name, form) = self.placed(&tensor.name)?.ok_or_else(|| {
            let why = format!("no part of `{}` has this name", self.architecture.name);
            let what = format!("tensor `{}`", tensor.name);
            Error::model(&self.gguf.path, what, why, "use the Hugging Face directory of this model")
        })?;
        let stored = |name: String, data: Mapped, shape: Vec<usize>, order: RowOrder| Stored {
            data,
            shape,
            order,
            ..self.store(tensor, name)
        };
        let (data, shape) = (|| tensor.data.clone(), tensor.shape.clone());
        Ok(match form {
            Form::Same | Form::Bare => vec![stored(name, data(), shape, RowOrder::Plain)],
            Form::Interleaved(heads) => vec![stored(name, data(), shape, RowOrder::Interleaved { heads })],
            Form::ByKind(heads) => vec![stored(name, self.by_head(tensor, heads)?, shape, RowOrder::Plain)],
            Form::PlusOne => {
                let mut values = decoded(tensor);
                values.iter_mut().for_each(|v| *v -= 1.0);
                vec![Stored { dtype: WeightType::F32, ..stored(name, mapped(&values)?, shape, RowOrder::Plain) }]
            }
            Form::Transposed => {
                let [rows, cols] = *shape.as_slice() else { return Err(self.wrong_shape(tensor, "a matrix was expected")) };
                let (values, shape) = (transposed(&decoded(tensor), rows, cols), vec![cols, rows]);
                vec![Stored { dtype: WeightType::F32, ..stored(name, mapped(&values)?, shape, RowOrder::Plain) }]
            }
            Form::Stacked => {
                let [heads, size] = *shape.as_slice() else { return Err(self.wrong_shape(tensor, "a matrix was expected")) };
                let bytes = tensor.data.bytes().len() / heads;
                let row = |head: usize| {
                    let data = tensor.data.slice(head * bytes, bytes);
                    let data = data.ok_or_else(|| self.wrong_shape(tensor, "it has no row for each head"))?;
                    Ok(stored(format!("{name}.norms.{head}.weight"), data, vec![size], RowOrder::Plain))
                };
                (0..heads).map(row).collect::<Result<Vec<_>>>()?
            }
        })
    }

    /// Rows of queries, keys and values (`GPTNeoXModel.modify_tensors`) head by head: row `(j·heads + h)·size + d` of the file
    /// is our row `(3·h + j)·size + d`.
    fn by_head(&self, tensor: &Tensor, heads: usize) -> Result<Mapped> {
        let (rows, bytes) = (tensor.shape[0], tensor.data.bytes());
        if rows == 0 || !rows.is_multiple_of(3 * heads) || !bytes.len().is_multiple_of(rows) {
            return Err(self.wrong_shape(tensor, &format!("rows for {heads} heads were expected")));
        }
        let part = bytes.len() / (3 * heads);
        Mapped::anonymous(bytes.len(), |out| {
            for (i, to) in out.chunks_exact_mut(part).enumerate() {
                let (head, kind) = (i / 3, i % 3);
                to.copy_from_slice(&bytes[(kind * heads + head) * part..][..part]);
            }
        })
    }

    /// Hugging Face's name of a tensor and its form in the file; of [`Form::Stacked`] what its names start with.
    fn placed(&self, name: &str) -> Result<Option<(String, Form)>> {
        let (family, inputs) = (self.family, self.family.layer_inputs.as_ref());
        let norm = if family.norm == NormKind::RmsLessOne { Form::PlusOne } else { Form::Same };
        Ok(match name {
            "token_embd.weight" => Some((format!("{}.weight", family.embedding), Form::Same)),
            "position_embd.weight" => family.positions.map(|name| (format!("{name}.weight"), Form::Same)),
            "output_norm.weight" => Some((format!("{}.weight", family.final_norm), norm)),
            "output_norm.bias" => Some((format!("{}.bias", family.final_norm), Form::Same)),
            "output.weight" => Some((format!("{HEAD}.weight"), Form::Same)),
            "per_layer_token_embd.weight" => inputs.map(|names| (format!("{}.weight", names.embedding), Form::Same)),
            "per_layer_model_proj.weight" => inputs.map(|names| (format!("{}.weight", names.projection), Form::Same)),
            "per_layer_proj_norm.weight" => inputs.map(|names| (format!("{}.weight", names.norm), norm)),
            _ => {
                let Some((layer, part, kind)) = of_layer(name) else { return Ok(None) };
                let ahead = layer.checked_sub(self.layers()?).filter(|_| self.architecture.ahead);
                if let Some(own) = ahead.and_then(|_| ahead_part(part)) {
                    return Ok(Some((format!("{own}.{kind}"), if own == AHEAD_INPUT { Form::Same } else { norm })));
                }
                let Some((path, form)) = self.layer_part(part, kind, norm)? else { return Ok(None) };
                let prefix = match ahead {
                    Some(at) => format!("mtp.layers.{at}.{path}"),
                    None => format!("{}.{layer}.{path}", family.layers),
                };
                Some((if matches!(form, Form::Stacked | Form::Bare) { prefix } else { format!("{prefix}.{kind}") }, form))
            }
        })
    }

    /// A part of a layer.
    fn layer_part(&self, part: &str, kind: &str, norm: Form) -> Result<Option<(&'static str, Form)>> {
        let family = self.family;
        let linear = if family.conv1d && kind == "weight" { Form::Transposed } else { Form::Same };
        let turned = |heads: fn(&Self) -> Result<usize>| match self.architecture.interleaved {
            true => heads(self).map(Form::Interleaved),
            false => Ok(linear),
        };
        let named = |name: Option<&'static str>| name.map(|name| (name, norm));
        if let Some(found) = self.further_part(part, kind, norm) {
            return Ok(Some(found));
        }
        let found = match (part, &family.attention, &family.mlp) {
            ("attn_norm", ..) => named(family.attention_norm),
            (part, ..) if part == self.architecture.mlp_norm => named(family.mlp_norm),
            ("post_attention_norm", ..) => named(family.post_norms.map(|names| names[0])),
            ("post_ffw_norm", ..) => named(family.post_norms.map(|names| names[1])),
            ("attn_q_norm" | "attn_k_norm", ..) => family.head_norms.as_ref().map(|HeadNorms { q, k, over, .. }| {
                let form = if *over == NormedTogether::EachHeadApart { Form::Stacked } else { norm };
                (if part == "attn_q_norm" { *q } else { *k }, form)
            }),
            ("attn_q", AttentionNames::Split { q, .. }, _) => Some((*q, turned(Self::heads)?)),
            ("attn_k", AttentionNames::Split { k, .. }, _) => Some((*k, turned(Self::kv_heads)?)),
            ("attn_v", AttentionNames::Split { v, .. }, _) => Some((*v, linear)),
            ("attn_qkv", AttentionNames::Fused { qkv, by_head, .. }, _) => {
                Some((*qkv, if *by_head { Form::ByKind(self.heads()?) } else { linear }))
            }
            ("attn_output", AttentionNames::Split { o, .. } | AttentionNames::Fused { o, .. }, _) => Some((*o, linear)),
            ("ffn_gate", _, MlpNames::Gated { gate, .. }) => Some((*gate, linear)),
            ("ffn_up", _, MlpNames::Gated { up, .. } | MlpNames::Plain { up, .. }) => Some((*up, linear)),
            // Gate first, in both.
            ("ffn_up", _, MlpNames::GatedFused { gate_up, .. }) => Some((*gate_up, linear)),
            ("ffn_down", _, MlpNames::Gated { down, .. } | MlpNames::Plain { down, .. }) => Some((*down, linear)),
            ("ffn_down", _, MlpNames::GatedFused { down, .. }) => Some((*down, linear)),
            _ => None,
        };
        // Biases of norms are no weights less one.
        let found = found.filter(|_| kind != "scale");
        Ok(found.map(|(name, form)| (name, if kind == "bias" && form == Form::PlusOne { Form::Same } else { form })))
    }

    /// A part that only some families have.
    fn further_part(&self, part: &str, kind: &str, norm: Form) -> Option<(&'static str, Form)> {
        let family = self.family;
        let (inputs, beside) = (family.layer_inputs.as_ref(), family.experts.as_ref().and_then(|names| names.beside.as_ref()));
        let (inputs, norms) = (inputs.filter(|_| kind == "weight"), beside.filter(|_| kind == "weight").map(|names| names.norms));
        match part {
            "attn_sinks" if kind == "weight" => family.sinks.map(|name| (name, Form::Bare)),
            "layer_output_scale" if kind == "weight" => family.layer_scale.map(|name| (name, Form::Bare)),
            "inp_gate" => inputs.map(|names| (names.gate, Form::Same)),
            "proj" => inputs.map(|names| (names.output, Form::Same)),
            "post_norm" => inputs.map(|names| (names.output_norm, norm)),
            "post_ffw_norm_1" => norms.map(|[name, _, _]| (name, norm)),
            "pre_ffw_norm_2" => norms.map(|[_, name, _]| (name, norm)),
            "post_ffw_norm_2" => norms.map(|[_, _, name]| (name, norm)),
            _ => None,
        }
    }
}

/// `blk.LAYER.PART.weight` (or `.bias`, `.scale`).
fn of_layer(name: &str) -> Option<(usize, &str, &str)> {
    let (layer, part) = numbered(name)?;
    let (part, kind) = part.rsplit_once('.')?;
    ["weight", "bias", "scale"].contains(&kind).then_some((layer, part, kind))
}

/// Puts a token and a state together for the layers that predict further tokens.
const AHEAD_INPUT: &str = "mtp.fc";

/// What layers that predict further tokens have beside a block: Qwen 3.5's names.
fn ahead_part(part: &str) -> Option<&'static str> {
    Some(match part {
        "nextn.eh_proj" => AHEAD_INPUT,
        "nextn.enorm" => "mtp.pre_fc_norm_embedding",
        "nextn.hnorm" => "mtp.pre_fc_norm_hidden",
        "nextn.shared_head_norm" => "mtp.norm",
        _ => return None,
    })
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0f32; values.len()];
    for (row, line) in values.chunks_exact(cols).enumerate() {
        line.iter().enumerate().for_each(|(col, v)| out[col * rows + row] = *v);
    }
    out
}
