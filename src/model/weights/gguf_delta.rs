//! Gated delta rules of a GGUF model: their sizes and layers in a config, and their tensors as Hugging Face has them; Qwen 3.5's.
//!
//! llama.cpp's converter puts value heads in turn of their key heads, stores `−e^a_log`, and squeezes the convolution. Rows are read in
//! our order where they lie; the columns of the output projection are put in order in memory of their own. Refuses to know: what a
//! delta rule computes.

use half::f16;
use serde_json::{Map, Value as Json, json};

use super::Stored;
use super::gguf::{MetadataValue, Tensor};
use super::gguf_experts::mapped;
use super::gguf_metadata::{Metadata, numbered};
use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::delta_rule::DeltaSizes;
use crate::kernels::weight::{RowOrder, WeightType, decode, tiled};

impl Metadata<'_> {
    /// The sizes of delta rules, and which layers have one.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, impossible or not supported.
    pub(super) fn put_delta(&self, config: &mut Map<String, Json>) -> Result<()> {
        let Some(names) = &self.family.delta else { return Ok(()) };
        let sizes = self.delta_sizes()?;
        for (count, size) in [
            (&names.key_heads, sizes.key_heads),
            (&names.value_heads, sizes.value_heads),
            (&names.key_dim, sizes.key_dim),
            (&names.value_dim, sizes.value_dim),
            (&names.kernel, sizes.kernel),
        ] {
            config.insert(count.written().into(), json!(size));
        }
        let name = |delta: bool| if delta { "linear_attention" } else { "full_attention" };
        let layers = self.delta_layers(names.all_but.1)?;
        config.insert("layer_types".into(), json!(layers.into_iter().map(name).collect::<Vec<_>>()));
        if self.ahead()? > 0 {
            config.insert("mtp_num_hidden_layers".into(), json!(self.ahead()?));
        }
        Ok(())
    }

    fn delta_sizes(&self) -> Result<DeltaSizes> {
        let size = |key: &str| self.size(&format!("ssm.{key}"));
        let [key_heads, value_heads, values] = [size("group_count")?, size("time_step_rank")?, size("inner_size")?];
        if !value_heads.is_multiple_of(key_heads) {
            let why = format!("{value_heads} heads of values (`ssm.time_step_rank`) do not divide among {key_heads} of keys");
            return Err(self.fail("ssm.group_count", why));
        }
        if !values.is_multiple_of(value_heads) {
            return Err(self.fail("ssm.inner_size", format!("{values} cannot be divided among {value_heads} heads")));
        }
        let (key_dim, kernel) = (size("state_size")?, size("conv_kernel")?);
        Ok(DeltaSizes { key_heads, value_heads, key_dim, value_dim: values / value_heads, kernel })
    }

    /// Whether each layer has a delta rule: a list of all layers, else all but each so-many-th.
    fn delta_layers(&self, usual: usize) -> Result<Vec<bool>> {
        let (key, own, all) = ("attention.recurrent_layers", self.layers()?, self.size("block_count")?);
        let every = self.optional_size("full_attention_interval")?.unwrap_or(usual);
        let Some(value) = self.get(key) else { return Ok((1..=own).map(|layer| !layer.is_multiple_of(every)).collect()) };
        let list: Option<Vec<bool>> = value.array().and_then(|list| list.iter().map(MetadataValue::flag).collect());
        let mut list = list.filter(|list| list.len() == all);
        if let Some(list) = &mut list {
            list.truncate(own);
        }
        list.ok_or_else(|| self.fail(key, format!("it is no list of {all} truth values")))
    }

    /// What a tensor holds of a delta rule; `None` where it is not of one.
    ///
    /// # Errors
    /// [`Error::Model`] when its shape or its numbers are not theirs.
    pub(super) fn of_delta(&self, tensor: &Tensor) -> Result<Option<Vec<Stored>>> {
        let (Some(names), Some((layer, part))) = (&self.family.delta, numbered(&tensor.name)) else { return Ok(None) };
        let sizes = self.delta_sizes()?;
        let ([qkv, z, a, b], keys) = (names.inner, 2 * sizes.keys());
        let path = |name: &str| format!("{}.{layer}.{name}", self.family.layers);
        let rows = |name: &str, first: usize, size: usize| Stored {
            order: RowOrder::Tiled { first, groups: sizes.key_heads, size },
            ..self.store(tensor, path(name))
        };
        let matrix = |name: &str, first: usize, size: usize| rows(&format!("{name}.weight"), first, size);
        Ok(Some(vec![match part {
            "attn_qkv.weight" => matrix(qkv, keys, sizes.value_dim),
            "attn_gate.weight" => matrix(z, 0, sizes.value_dim),
            "ssm_alpha.weight" => matrix(a, 0, 1),
            "ssm_beta.weight" => matrix(b, 0, 1),
            "ssm_out.weight" => self.columns(tensor, path(&format!("{}.weight", names.output)), sizes)?,
            "ssm_conv1d.weight" => {
                let [channels, kernel] = *tensor.shape.as_slice() else {
                    return Err(self.wrong_shape(tensor, "a matrix was expected"));
                };
                let values = rows(names.conv, keys, sizes.value_dim).vector_f32()?;
                self.own(tensor, path(names.conv), &values, vec![channels, 1, kernel])?
            }
            "ssm_dt.bias" => rows(names.dt_bias, 0, 1),
            "ssm_a" => {
                let mut values = rows(names.a_log, 0, 1).vector_f32()?;
                if values.iter().any(|x| x.is_nan() || *x >= 0.0) {
                    return Err(self.wrong_numbers(tensor, "its numbers must be below zero"));
                }
                values.iter_mut().for_each(|x| *x = (-*x).ln());
                self.own(tensor, path(names.a_log), &values, tensor.shape.clone())?
            }
            "ssm_norm.weight" => self.store(tensor, path(names.norm)),
            _ => return Ok(None),
        }]))
    }

    /// Numbers in place of a tensor's.
    fn own(&self, tensor: &Tensor, name: String, values: &[f32], shape: Vec<usize>) -> Result<Stored> {
        Ok(Stored { data: mapped(values)?, dtype: WeightType::F32, shape, ..self.store(tensor, name) })
    }

    /// The output projection with the columns of each head where ours are: in the type of the file, or in F16 where a block of that
    /// holds columns of several heads.
    fn columns(&self, tensor: &Tensor, name: String, sizes: DeltaSizes) -> Result<Stored> {
        let [rows, cols] = *tensor.shape.as_slice() else { return Err(self.wrong_shape(tensor, "a matrix was expected")) };
        if cols != sizes.values() {
            return Err(self.wrong_shape(tensor, &format!("{} columns were expected", sizes.values())));
        }
        let stored = self.store(tensor, name);
        let (order, dtype, bytes) = ([sizes.key_heads, sizes.group()], tensor.dtype, tensor.data.bytes());
        if order.contains(&1) {
            return Ok(stored);
        }
        let stride = cols / dtype.block() * dtype.block_bytes();
        if sizes.value_dim.is_multiple_of(dtype.block()) {
            let head = stride / sizes.value_heads;
            let data = Mapped::anonymous(bytes.len(), |out| {
                for (out, row) in out.chunks_exact_mut(stride).zip(bytes.chunks_exact(stride)) {
                    for (i, to) in out.chunks_exact_mut(head).enumerate() {
                        to.copy_from_slice(&row[tiled(i, order, 1) * head..][..head]);
                    }
                }
            })?;
            return Ok(Stored { data, ..stored });
        }
        let (mut values, mut finite) = (vec![0f32; cols], true);
        let data = Mapped::anonymous(2 * rows * cols, |out| {
            for (out, row) in out.chunks_exact_mut(2 * cols).zip(bytes.chunks_exact(stride)) {
                decode(dtype, row, &mut values);
                for (i, to) in out.chunks_exact_mut(2).enumerate() {
                    let value = f16::from_f32(values[tiled(i, order, sizes.value_dim)]);
                    finite &= value.is_finite();
                    to.copy_from_slice(&value.to_le_bytes());
                }
            }
        })?;
        if !finite {
            return Err(
                self.wrong_numbers(tensor, "it has numbers that F16, in which its columns are put in order, does not hold")
            );
        }
        Ok(Stored { data, dtype: WeightType::F16, ..stored })
    }

    fn wrong_numbers(&self, tensor: &Tensor, why: &str) -> Error {
        let what = format!("tensor `{}`", tensor.name);
        Error::model(&self.gguf.path, what, why, "fetch the model again, or use its Hugging Face directory")
    }
}
