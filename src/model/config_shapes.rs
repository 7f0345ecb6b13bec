//! What layers of one model differ in beside windows: heads, whose keys and values they read, widths of feed-forwards; from
//! `config.json`.

use super::config_reader::{ConfigReader, RESTORE};
use super::family::{Family, Shapes};
use crate::error::Result;
use crate::kernels::attention::HeadShape;

/// Each layer of a model.
pub(super) struct LayerShapes {
    pub shapes: Vec<HeadShape>,
    /// Whose keys and values each layer reads: its own, or an earlier one's.
    pub keys_of: Vec<usize>,
    /// Values are made of what keys are.
    pub keys_as_values: Vec<bool>,
    pub ffns: Vec<usize>,
}

impl LayerShapes {
    /// Of layers of which some look through a window; `usual` are the heads of these, `ffn` the width of feed-forwards.
    ///
    /// # Errors
    /// [`crate::Error::Model`] naming the key that is impossible or not supported.
    pub(super) fn read(
        r: &ConfigReader,
        family: &Family,
        windowed: &[bool],
        usual: HeadShape,
        ffn: usize,
    ) -> Result<LayerShapes> {
        let layers = windowed.len();
        let Some(sharing) = &family.sharing else {
            let (keys_of, keys_as_values) = ((0..layers).collect(), vec![false; layers]);
            return Ok(LayerShapes { shapes: vec![usual; layers], keys_of, keys_as_values, ffns: vec![ffn; layers] });
        };
        let as_values = r.flag(sharing.keys_as_values, false)?;
        let shapes = shapes(r, family, windowed, usual, as_values)?;
        let keys_of = keys_of(r, sharing.layers, windowed)?;
        let wide = r.flag(sharing.wide, false)?;
        let ffns = keys_of.iter().enumerate().map(|(i, of)| if wide && *of != i { 2 * ffn } else { ffn }).collect();
        let keys_as_values = windowed.iter().map(|windowed| as_values && !windowed).collect();
        Ok(LayerShapes { shapes, keys_of, keys_as_values, ffns })
    }
}

/// Heads of each layer: what `per_layer_config` says of it, or the keys of all layers that see everything.
fn shapes(r: &ConfigReader, family: &Family, windowed: &[bool], usual: HeadShape, as_values: bool) -> Result<Vec<HeadShape>> {
    let Shapes::ByWindow { head_dim: (key, default), kv_heads } = &family.shapes else { return Ok(vec![usual; windowed.len()]) };
    let older = HeadShape {
        head_dim: r.count_or(key, *default)?,
        kv_heads: r.count(kv_heads)?.filter(|_| as_values).unwrap_or(usual.kv_heads),
        ..usual
    };
    let table = r.table("per_layer_config")?;
    let table = table.as_ref();
    let of = |(i, windowed): (usize, &bool)| match table {
        None if *windowed => Ok(usual),
        None => Ok(older),
        Some(table) => own_shape(table, i, usual),
    };
    let shapes = windowed.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
    if let Some((table, key)) = table.and_then(|table| Some((table, table.unread().first()?.0))) {
        return Err(table.fail(key, format!("it is none of the {} layers", windowed.len()), RESTORE));
    }
    for (i, shape) in shapes.iter().enumerate() {
        let first = windowed.iter().position(|other| other == &windowed[i]).unwrap_or(i);
        if *shape != shapes[first] {
            let why = format!("layers {first} and {i} are of one kind and differ in their heads, which is not supported");
            return Err(r.fail("per_layer_config", why, RESTORE));
        }
        if !shape.heads.is_multiple_of(shape.kv_heads) || !shape.head_dim.is_multiple_of(2) {
            let why = format!("{} heads, {} of keys, of {} numbers in layer {i}", shape.heads, shape.kv_heads, shape.head_dim);
            return Err(r.fail(key, why + ": heads do not divide, or cannot turn", RESTORE));
        }
    }
    Ok(shapes)
}

/// What a `per_layer_config` says of layer `i`.
fn own_shape(table: &ConfigReader, i: usize, usual: HeadShape) -> Result<HeadShape> {
    let Some(own) = table.table(&i.to_string())? else { return Ok(usual) };
    let shape = HeadShape {
        head_dim: own.count_or("head_dim", usual.head_dim)?,
        kv_heads: own.count_or("num_key_value_heads", usual.kv_heads)?,
        ..usual
    };
    match own.unread().first() {
        None => Ok(shape),
        Some((key, _)) => Err(own.fail(key, "it cannot differ between layers here", RESTORE)),
    }
}

/// Whose keys and values each layer reads: the last `key` layers those of the last one of their kind before them.
fn keys_of(r: &ConfigReader, key: &str, windowed: &[bool]) -> Result<Vec<usize>> {
    let layers = windowed.len();
    let sharing = r.number_or(key, 0.0)?;
    if sharing < 0.0 || sharing.fract() != 0.0 || sharing >= layers as f64 {
        return Err(r.fail(key, format!("{sharing} of {layers} layers cannot read the keys of others"), RESTORE));
    }
    let first = layers - sharing as usize;
    let of = |i: usize| match i < first {
        true => Ok(i),
        false => windowed[..first].iter().rposition(|other| *other == windowed[i]).ok_or_else(|| {
            r.fail(key, format!("no layer of its kind before layer {first} makes the keys that layer {i} reads"), RESTORE)
        }),
    };
    (0..layers).map(of).collect()
}
