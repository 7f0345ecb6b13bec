//! A base model in lines. Refuses to know how it was looked into.

use std::fmt::Write;

use crate::job::{ModelInspection, TrainingMemory, VerbFact};
use crate::model::SiteKind;
use crate::model::weights::Format;

/// All of it.
pub(super) fn described(found: &ModelInspection) -> String {
    let facts = &found.facts;
    let format = match facts.format {
        Format::HfDirectory => "Hugging Face directory",
        Format::Gguf => "GGUF file",
    };
    let name = found.id.clone().unwrap_or_else(|| found.path.display().to_string());
    let mut out = format!("{name}: {} ({}), {format}\n", facts.family, facts.class);
    let mut line = |what: &str, text: &str| _ = writeln!(out, "{what:<13} {text}");
    if found.id.is_some() {
        line("path", &found.path.display().to_string());
    }
    sizes(found, &mut line);
    facts.peculiarities.iter().for_each(|special| line(special.what, &special.how));
    facts.notes.iter().for_each(|note| line("note", note));
    text_side(found, &mut line);
    line("from GGUF", if found.read_from_gguf { "this family is read" } else { "this family is not read" });
    out += &sites(found);
    found.training.iter().for_each(|of| out += &training(of));
    let _ = writeln!(
        out,
        "memory to serve it: {} of weights, mapped, and {} bytes a token of keys and values{}",
        megabytes(found.weight_bytes),
        found.token_bytes,
        match found.state_bytes {
            0 => String::new(),
            bytes => format!(", {bytes} bytes a text of states"),
        }
    );
    out
}

fn sizes(found: &ModelInspection, line: &mut dyn FnMut(&str, &str)) {
    let sizes = &found.facts.sizes;
    line("parameters", &sizes.parameters.to_string());
    for of in &found.facts.tensors {
        line("tensors", &format!("{} of {}: {} values, {}", of.tensors, of.dtype, of.values, megabytes(of.bytes)));
    }
    line("layers", &format!("{} of width {}, feed-forward {}", sizes.layers, sizes.width, sizes.ffn));
    line("heads", &format!("{} of {} elements, {} of keys and values", sizes.heads, sizes.head_dim, sizes.kv_heads));
    line("vocabulary", &sizes.vocab.to_string());
    line("positions", &sizes.positions.to_string());
}

fn text_side(found: &ModelInspection, line: &mut dyn FnMut(&str, &str)) {
    if let Some(why) = &found.no_tokenizer {
        line("tokenizer", &format!("none: {why}"));
    }
    if found.chat_templates.is_empty() {
        line("template", "none");
    }
    for template in &found.chat_templates {
        let sha = template.sha256.get(..12).unwrap_or(&template.sha256);
        line("template", &format!("{}, {} characters, SHA-256 {sha}…", template.name, template.characters));
    }
    let (work, lack): (Vec<&VerbFact>, Vec<&VerbFact>) = found.verbs.iter().partition(|fact| fact.works);
    let names = |facts: &[&VerbFact]| facts.iter().map(|fact| fact.verb).collect::<Vec<_>>().join(", ");
    if !work.is_empty() {
        line("verbs", &names(&work));
    }
    if !lack.is_empty() {
        line("verbs", &format!("not without a tokenizer: {}", names(&lack)));
    }
    for fact in work {
        fact.told.iter().for_each(|told| line(fact.verb, told));
    }
}

/// A line for sites of one name and shape.
fn sites(found: &ModelInspection) -> String {
    let groups = &found.facts.sites;
    let width = groups.iter().map(|group| group.name.len()).max().unwrap_or(0).max(6);
    let mut out = format!("\n{:width$} {:<13} {:>15} {:>6}\n", "module", "kind", "outputs×inputs", "sites");
    for group in groups {
        let kind = match group.kind {
            SiteKind::Attention => "attention",
            SiteKind::Mlp => "feed-forward",
            SiteKind::Expert => "experts",
            SiteKind::Router => "router",
            SiteKind::Embedding => "embedding",
            SiteKind::Head => "head",
        };
        let shape = format!("{}×{}", group.outputs, group.inputs);
        let _ = writeln!(out, "{:width$} {kind:<13} {shape:>15} {:>6}", group.name, group.sites);
    }
    out + "\n"
}

fn training(of: &TrainingMemory) -> String {
    let m = &of.memory;
    let again = if m.recomputed { " (blocks run again)" } else { "" };
    let parts: Vec<String> = m.parts().iter().map(|(what, bytes)| format!("{what} {}", megabytes(*bytes))).collect();
    let device = m.device.map(|device| format!("; on the device {}", megabytes(device.total()))).unwrap_or_default();
    format!(
        "memory to train {} at rank {}, {} × {} tokens: {}{again}\n  {}{device}\n",
        of.targets.join(" and "),
        of.rank,
        of.rows,
        of.tokens,
        megabytes(of.total),
        parts.join(", ")
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
