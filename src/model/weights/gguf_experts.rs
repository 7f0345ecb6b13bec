//! Experts of a GGUF model: their sizes in a config, and their tensors under Hugging Face's names.
//!
//! llama.cpp stacks the matrices of a layer's experts (`ffn_gate_exps`, `ffn_up_exps`, `ffn_down_exps`, or gate and up in one,
//! `ffn_gate_up_exps`), outputs before inputs always. They are taken apart, or put in turn, where they lie. Refuses to know: what an
//! expert computes.

use serde_json::{Map, Value as Json, json};

use super::Stored;
use super::gguf::Tensor;
use super::gguf_metadata::Metadata;
use crate::error::{Error, Result};
use crate::files::Mapped;
use crate::kernels::weight::{RowOrder, WeightType, decode};
use crate::model::family::{Count, ExpertWeights};

const ROUTER: &str = "ffn_gate_inp";
const GATE: &str = "ffn_gate_exps";
const UP: &str = "ffn_up_exps";
const DOWN: &str = "ffn_down_exps";
const GATE_UP: &str = "ffn_gate_up_exps";
/// More than any model has.
const MAX_EXPERTS: usize = 1 << 12;

impl Metadata<'_> {
    /// How many experts there are, how many a token meets, and how wide they are.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, impossible or not supported.
    pub(super) fn put_experts(&self, config: &mut Map<String, Json>) -> Result<()> {
        let Some(names) = &self.family.experts else { return Ok(()) };
        if let Some(beside) = &names.beside {
            let there = self.first_layer_has(&format!("{ROUTER}.weight"));
            config.insert(beside.key.into(), json!(there));
            if !there {
                return Ok(());
            }
        }
        let mut put = |count: &Count, size: usize| _ = config.insert(count.written().into(), json!(size));
        let experts = self.size("expert_count")?;
        if experts > MAX_EXPERTS {
            return Err(self.fail("expert_count", format!("the limit is {MAX_EXPERTS} experts")));
        }
        put(&names.count, experts);
        put(&names.chosen, self.size("expert_used_count")?);
        let key = "expert_feed_forward_length";
        match &names.ffn {
            Some(count) => put(count, self.size(key)?),
            None => {
                let (own, all) = (self.optional_size(key)?, self.size("feed_forward_length")?);
                if let Some(own) = own.filter(|own| *own != all) {
                    let why = format!("{own} beside `feed_forward_length` {all} is not supported for {}", self.family.model_type);
                    return Err(self.fail(key, why));
                }
            }
        }
        if let Some((key, _)) = names.renormalised {
            // llama.cpp does it always, and no key says so (`build_moe_ffn`'s `norm_w`).
            config.insert(key.into(), json!(true));
        }
        Ok(())
    }

    /// What tensor `part.kind` of layer `layer` holds of its experts; `None` where it is not theirs.
    ///
    /// # Errors
    /// [`Error::Model`] when its shape is not theirs.
    pub(super) fn of_experts(&self, tensor: &Tensor, (layer, part, kind): (usize, &str, &str)) -> Result<Option<Vec<Stored>>> {
        let Some(names) = &self.family.experts else { return Ok(None) };
        let path = |name: &str| format!("{}.{layer}.{name}", self.family.layers);
        let whole = |name: String| Ok(Some(vec![self.store(tensor, name)]));
        match (part, kind, &names.beside) {
            (ROUTER, "weight" | "bias", _) => return whole(format!("{}.{kind}", path(names.router))),
            (ROUTER, "scale", Some(beside)) => return whole(path(beside.router_scale)),
            (DOWN, "scale", Some(beside)) => return whole(path(beside.expert_scale)),
            _ => {}
        }
        match (&names.weights, part, kind) {
            (ExpertWeights::Each { gate, up, down, .. }, GATE | UP | DOWN, "weight") => {
                let own = [(GATE, gate), (UP, up), (DOWN, down)].into_iter().find(|(theirs, _)| *theirs == part);
                own.map(|(_, own)| self.each(tensor, &path(names.module()), own)).transpose()
            }
            (ExpertWeights::Fused { gate_up, .. }, GATE_UP, "weight") => whole(path(gate_up)),
            (ExpertWeights::Fused { down, .. }, DOWN, "weight") => whole(path(down)),
            (ExpertWeights::FusedInTurn { down, .. }, DOWN, "weight") => {
                let [experts, rows, cols] = self.three(tensor)?;
                let shape = vec![experts, cols, rows];
                Ok(Some(vec![Stored { shape, turned: true, ..self.store(tensor, path(down)) }]))
            }
            (ExpertWeights::FusedInTurn { down, .. }, DOWN, "bias") => whole(format!("{}_bias", path(down))),
            (ExpertWeights::FusedInTurn { gate_up, .. }, GATE, "weight" | "bias") => {
                let up = format!("blk.{layer}.{UP}.{kind}");
                let up = self.tensor(&up).ok_or_else(|| self.wrong_shape(tensor, &format!("`{up}` is not there beside it")))?;
                let stored = match kind {
                    "weight" => self.in_turn(tensor, up, path(gate_up))?,
                    _ => self.biases_in_turn(tensor, up, format!("{}_bias", path(gate_up)))?,
                };
                Ok(Some(vec![stored]))
            }
            // Taken with the gate's.
            (ExpertWeights::FusedInTurn { .. }, UP, "weight" | "bias") => Ok(Some(Vec::new())),
            _ => Ok(None),
        }
    }

    fn three(&self, tensor: &Tensor) -> Result<[usize; 3]> {
        let (experts, shape) = (self.size("expert_count")?, tensor.shape.as_slice().try_into().ok());
        let shape = shape.filter(|[count, _, _]: &[usize; 3]| *count == experts);
        shape.ok_or_else(|| self.wrong_shape(tensor, &format!("a matrix for each of {experts} experts was expected")))
    }

    /// The matrix of each expert, a tensor of its own.
    fn each(&self, tensor: &Tensor, module: &str, own: &str) -> Result<Vec<Stored>> {
        let [experts, rows, cols] = self.three(tensor)?;
        let bytes = tensor.data.bytes().len() / experts;
        let expert = |number: usize| {
            let data = tensor.data.slice(number * bytes, bytes);
            let data = data.ok_or_else(|| self.wrong_shape(tensor, "it ends before its last expert"))?;
            let name = format!("{module}.{number}.{own}.weight");
            Ok(Stored { data, shape: vec![rows, cols], ..self.store(tensor, name) })
        };
        (0..experts).map(expert).collect()
    }

    /// Rows of a gate and of up in turn, of two tensors that stay where they are.
    fn in_turn(&self, gate: &Tensor, up: &Tensor, name: String) -> Result<Stored> {
        let [experts, rows, cols] = self.three(gate)?;
        if (&gate.shape, gate.dtype) != (&up.shape, up.dtype) {
            let why = format!("`{}` is of another shape or type, {:?} {}", up.name, up.shape, up.dtype.name());
            return Err(self.wrong_shape(gate, &why));
        }
        let (second, shape) = (Some(up.data.clone()), vec![experts, cols, 2 * rows]);
        Ok(Stored { second, shape, order: RowOrder::InTurn, turned: true, ..self.store(gate, name) })
    }

    fn biases_in_turn(&self, gate: &Tensor, up: &Tensor, name: String) -> Result<Stored> {
        let [experts, rows] = *gate.shape.as_slice() else {
            return Err(self.wrong_shape(gate, "a row for each expert was expected"));
        };
        if gate.shape != up.shape {
            return Err(self.wrong_shape(gate, &format!("`{}` is of another shape, {:?}", up.name, up.shape)));
        }
        let values = decoded(gate).into_iter().zip(decoded(up)).flat_map(|(gate, up)| [gate, up]).collect::<Vec<_>>();
        let shape = vec![experts, 2 * rows];
        Ok(Stored { data: mapped(&values)?, shape, dtype: WeightType::F32, ..self.store(gate, name) })
    }

    /// A tensor of the file as it lies there, under another name.
    pub(super) fn store(&self, tensor: &Tensor, name: String) -> Stored {
        Stored {
            written: super::written(self.family.model_type, &name),
            name,
            file: self.gguf.path.clone(),
            data: tensor.data.clone(),
            second: None,
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            order: RowOrder::Plain,
            turned: false,
        }
    }

    /// The error about a tensor of another shape.
    pub(super) fn wrong_shape(&self, tensor: &Tensor, why: &str) -> Error {
        let what = format!("tensor `{}`", tensor.name);
        let why = format!("{why}, its shape is {:?}", tensor.shape);
        Error::model(&self.gguf.path, what, why, "the file is not a complete model: fetch it again")
    }
}

/// All numbers of a tensor.
pub(super) fn decoded(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0f32; tensor.shape.iter().product()];
    decode(tensor.dtype, tensor.data.bytes(), &mut values);
    values
}

/// Numbers in memory of their own.
///
/// # Errors
/// [`Error::Io`] when there is not enough of it.
pub(super) fn mapped(values: &[f32]) -> Result<Mapped> {
    Mapped::anonymous(4 * values.len(), |out| {
        out.chunks_exact_mut(4).zip(values).for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
    })
}
