//! What a configuration has beside its sizes, in words: norms, windows, rotations, factors, caps, biases.
//!
//! Refuses to know: tensors, who reads it.

use std::f64::consts::TAU;

use serde::Serialize;
use serde_json::Value;

use super::config::{Config, ExpertSizes};
use super::family::{MlpNames, NormKind, NormedTogether};
use crate::kernels::activation::Activation;
use crate::kernels::attention::HeadShape;
use crate::kernels::delta_rule::DeltaSizes;
use crate::kernels::rope::Rotary;

/// One thing of a model, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peculiarity {
    /// A noun, such as `window`.
    pub what: &'static str,
    pub how: String,
}

/// All of a model, in the order of a pass.
pub(super) fn of(config: &Config) -> Vec<Peculiarity> {
    let mut found = vec![("norms", norms(config))];
    found.extend(config.encoder.as_ref().map(|encoder| {
        ("encoder", format!("{} layers read the prompt; the answer begins with token {}", encoder.layers, encoder.start))
    }));
    found.extend(factor("embeddings", config.embedding_scale));
    found.extend(layer_inputs(config).map(|how| ("layer inputs", how)));
    found.extend(delta(config).map(|how| ("delta rule", how)));
    found.extend(heads(config).map(|how| ("heads", how)));
    found.extend(shared_keys(config).into_iter().map(|how| ("keys and values", how)));
    found.extend(windows(config).into_iter().map(|how| ("window", how)));
    found.extend(rotations(config).into_iter().map(|how| ("rotation", how)));
    found.extend(head_norms(config).map(|how| ("head norms", how)));
    found.extend(scores(config).map(|how| ("scores", how)));
    found.push(("feed-forward", feed_forward(config)));
    found.extend(config.parallel.map(|one| {
        let norm = if one { "one norm" } else { "a norm each" };
        ("parallel", format!("attention and feed-forward read the same sum, with {norm}"))
    }));
    found.extend(factor("residuals", config.residual_scale));
    found.extend(biases(config).map(|how| ("biases", how)));
    found.extend(factor("logits", config.logit_scale));
    found.extend(config.final_cap.map(|cap| ("logits", format!("capped at ±{} by tanh", significant(cap)))));
    found.push(("head", if config.tied { "the matrix of the embedding" } else { "a matrix of its own" }.to_string()));
    found.into_iter().map(|(what, how)| Peculiarity { what, how }).collect()
}

fn factor(what: &'static str, by: f64) -> Option<(&'static str, String)> {
    (by != 1.0).then(|| (what, format!("multiplied with {}", significant(by))))
}

fn norms(config: &Config) -> String {
    let family = config.family;
    let kind = match family.norm {
        NormKind::Rms => "root mean square",
        NormKind::RmsLessOne => "root mean square, weights stored less one",
        NormKind::Layer => "layer norm",
        NormKind::LayerUnbiased => "layer norm without bias",
    };
    let before = match (family.attention_norm, family.post_norms) {
        (Some(_), None) => "before attention and feed-forward",
        (Some(_), Some(_)) => "before and after attention and feed-forward",
        (None, _) => "after attention and feed-forward",
    };
    format!("{kind}, {before}")
}

fn head_norms(config: &Config) -> Option<String> {
    let norms = config.family.head_norms.as_ref().filter(|_| config.head_norms)?;
    let over = match norms.over {
        NormedTogether::Head => "over each head",
        NormedTogether::EachHead | NormedTogether::EachHeadApart => "over each head, with weights of its own",
        NormedTogether::Width => "over all heads of a token",
    };
    Some(format!("queries and keys, {over}"))
}

fn layer_inputs(config: &Config) -> Option<String> {
    let [width, _] = config.layer_inputs?;
    Some(format!("{width} numbers of each token for each layer, of an embedding of their own and a projection of the common one"))
}

fn delta(config: &Config) -> Option<String> {
    let (which, sizes) = config.delta.as_ref()?;
    let DeltaSizes { key_heads, value_heads, key_dim, value_dim, kernel } = sizes;
    Some(format!(
        "gated, in place of attention in {}: {value_heads} heads of values of {value_dim}, {key_heads} of keys of {key_dim}, a \
         convolution over {kernel} tokens; a text keeps a state of {} KiB there, whatever its length",
        layers(which),
        sizes.state() * size_of::<f32>() / 1024
    ))
}

/// Layers whose heads are not those of most, and what attention has beside them.
fn heads(config: &Config) -> Option<String> {
    let usual = HeadShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
    let which: Vec<bool> = config.shapes.iter().map(|shape| *shape != usual).collect();
    let other = config.shapes.iter().find(|shape| **shape != usual);
    let mut said: Vec<String> = Vec::new();
    said.extend(
        other.map(|shape| format!("{} of {}, {} of keys, in {}", shape.heads, shape.head_dim, shape.kv_heads, layers(&which))),
    );
    if config.family.sinks.is_some() {
        said.push("each with a sink that takes a share of its attention".to_string());
    }
    if config.family.gated_attention {
        said.push("each output gated by a sigmoid".to_string());
    }
    (!said.is_empty()).then(|| said.join("; "))
}

fn shared_keys(config: &Config) -> Vec<String> {
    let mut said = Vec::new();
    let borrowed: Vec<bool> = config.keys_of.iter().enumerate().map(|(i, of)| *of != i).collect();
    if borrowed.contains(&true) {
        let mut of: Vec<usize> =
            config.keys_of.iter().zip(&borrowed).filter(|(_, borrows)| **borrows).map(|(of, _)| *of).collect();
        of.sort_unstable();
        of.dedup();
        said.push(format!("those of layers {} in {}", listed(&of), layers(&borrowed)));
    }
    if config.keys_as_values.contains(&true) {
        said.push(format!("values made of what keys are in {}", layers(&config.keys_as_values)));
    }
    said
}

fn windows(config: &Config) -> Vec<String> {
    let mut sizes: Vec<usize> = config.scores.iter().filter_map(|scores| scores.window).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let line = |size: usize| {
        let which: Vec<bool> = config.scores.iter().map(|scores| scores.window == Some(size)).collect();
        format!("the newest {size} tokens in {}", layers(&which))
    };
    sizes.into_iter().map(line).collect()
}

fn rotations(config: &Config) -> Vec<String> {
    if let Some(encoder) = &config.encoder {
        let (buckets, most) = (encoder.buckets, encoder.most_distance);
        return vec![format!("none; scores are biased by distance, in {buckets} buckets up to {most} tokens")];
    }
    if let Some(positions) = config.family.positions {
        return vec![format!("none; positions are learned (`{positions}`)")];
    }
    let of = |(i, of): (usize, &Option<usize>), kind: Option<usize>| *of == kind && !config.is_delta(i);
    let which = |kind: Option<usize>| config.rotation_of.iter().enumerate().map(|layer| of(layer, kind)).collect::<Vec<bool>>();
    let kinds = config.rotations.iter().enumerate().map(|(i, rotary)| (Some(i), rotation(config, i, rotary)));
    let all = kinds.chain([(None, "none".to_string())]);
    let used = all.filter(|(kind, _)| config.rotation_of.contains(kind));
    used.map(|(kind, how)| (how, which(kind)))
        .filter(|(_, which)| which.contains(&true))
        .map(|(how, which)| format!("{how} in {}", layers(&which)))
        .collect()
}

fn rotation(config: &Config, kind: usize, rotary: &Rotary) -> String {
    let turning = 2 * rotary.inverse_frequencies.iter().filter(|f| **f > 0.0).count();
    let layer = config.rotation_of.iter().position(|of| *of == Some(kind)).unwrap_or(0);
    let whole = config.shapes[layer].head_dim;
    let part = if turning == whole { "whole heads".to_string() } else { format!("{turning} of {whole}") };
    let pairs = if rotary.interleaved { ", neighbours in pairs" } else { "" };
    let slowest = rotary.inverse_frequencies.iter().copied().filter(|f| *f > 0.0).fold(f32::INFINITY, f32::min);
    let turn = TAU / f64::from(slowest);
    let step = 10f64.powf(turn.log10().floor() - 2.0);
    let turn = significant((turn / step).round() * step);
    let cosines = match rotary.scaling {
        1.0 => String::new(),
        by => format!(", cosines and sines × {}", significant(by.into())),
    };
    let queries = rotary.query_scale.map(|scale| format!(", queries scaled each {} positions", scale.length));
    format!(
        "{part}{pairs}{}{cosines}{}, the slowest pair once in {turn} tokens,",
        scaling(config, kind),
        queries.unwrap_or_default()
    )
}

/// The kind of scaling of a rotation and its factor, as the configuration names them.
fn scaling(config: &Config, kind: usize) -> String {
    let usual = config.family.rotation.table.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let written = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| config.json.get(key).filter(|v| v.is_object()));
    let Some(table) = written.or(usual.as_ref()) else { return String::new() };
    // A table for each kind of layer, or one for those that see everything.
    let part = ["full_attention", "sliding_attention"].get(kind).and_then(|key| table.get(key));
    let Some(table) = part.or(Some(table).filter(|_| kind == 0)) else { return String::new() };
    match table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str) {
        None | Some("default") => String::new(),
        Some(name) => {
            let factor = table.get("factor").and_then(Value::as_f64).map(|by| format!(" × {}", significant(by)));
            format!(", scaled by {name}{}", factor.unwrap_or_default())
        }
    }
}

fn scores(config: &Config) -> Option<String> {
    let (first, last) = (config.scores.first()?, config.scores.last()?);
    let mut said = Vec::new();
    if first.scale != last.scale {
        said.push(format!("q·k × {} in the first layer, × {} in the last", significant(first.scale), significant(last.scale)));
    } else if first.scale != 1.0 / (config.head_dim as f64).sqrt() {
        said.push(format!("q·k × {} in place of 1/√{}", significant(first.scale), config.head_dim));
    }
    said.extend(first.cap.map(|cap| format!("capped at ±{} by tanh", significant(cap))));
    (!said.is_empty()).then(|| said.join(", "))
}

fn feed_forward(config: &Config) -> String {
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu, its tanh form",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Sigmoid => "a sigmoid",
        Activation::Clamped { .. } => "SwiGLU with its inputs held to a limit",
    };
    if let Some(experts) = &config.experts {
        let sums = if experts.renormalised { ", weights summing to one" } else { "" };
        let ExpertSizes { count, chosen, ffn, layers: which, .. } = experts;
        let places = layers(which);
        let beside = if config.family.experts.as_ref().is_some_and(|names| names.beside.is_some()) {
            " for all tokens beside"
        } else {
            ""
        };
        return format!("{activation}, gated{beside}; {count} experts of width {ffn}, {chosen} a token{sums}, in {places}");
    }
    let plain = matches!(config.family.mlp, MlpNames::Plain { .. });
    let gated = config.encoder.as_ref().map_or(!plain, |encoder| encoder.gated);
    let gated = if gated { ", gated" } else { "" };
    format!("{activation}{gated}")
}

fn biases(config: &Config) -> Option<String> {
    let all = [
        ("queries, keys, values", config.qkv_bias),
        ("attention's output", config.output_bias),
        ("feed-forward", config.mlp_bias),
    ];
    let with: Vec<&str> = all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    (!with.is_empty()).then(|| with.join("; "))
}

/// Layers as a person lists them; those that are not, where that is shorter.
fn layers(which: &[bool]) -> String {
    let list = |wanted: bool| {
        let chosen: Vec<usize> = which.iter().enumerate().filter(|(_, is)| **is == wanted).map(|(i, _)| i).collect();
        listed(&chosen)
    };
    let (yes, no) = (list(true), list(false));
    match no.is_empty() {
        true => "all layers".to_string(),
        false if no.len() + 8 < yes.len() => format!("all layers but {no}"),
        false => format!("layers {yes}"),
    }
}

/// `0–4, 7`; in equal steps `0, 2, … 24`.
fn listed(chosen: &[usize]) -> String {
    if let [first, second, third, .., last] = chosen {
        let step = second - first;
        if step > 1 && third - second == step && chosen.windows(2).all(|pair| pair[1] - pair[0] == step) {
            return format!("{first}, {second}, … {last}");
        }
    }
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for i in chosen {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == *i => *end = *i,
            _ => runs.push((*i, *i)),
        }
    }
    let run = |(from, to): &(usize, usize)| if from == to { from.to_string() } else { format!("{from}–{to}") };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// Five significant digits, no more than are needed.
fn significant(value: f64) -> String {
    let digits = (4.0 - value.abs().max(1e-9).log10().floor()).max(0.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
#[path = "peculiarities_tests.rs"]
mod tests;
