//! The tokenizer and the chat template that a GGUF file carries, as a Hugging Face tokenizer.
//!
//! The tokenizer is described in the form of `tokenizer.json`, but for its vocabulary, and read by the `tokenizers` crate; it
//! can be saved beside a merged model as it is. Refuses to know: tensors, templates' language.

use std::path::Path;

use serde_json::{Value as Json, json};
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::{AddedToken, Tokenizer};

use super::gguf::{Gguf, MetadataValue};
use super::gguf_pre::PreTokenizer;
use super::vocabulary::{Kind, Vocabulary, name_empty_tokens};
use crate::data::ChatTemplates;
use crate::error::{Error, Result};

/// SentencePiece's stand-in for a space.
const SPACE: &str = "▁";

/// Everything about text in a GGUF file.
#[derive(Debug, Clone)]
pub struct GgufText {
    pub tokenizer: Tokenizer,
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    pub unk: Option<String>,
    /// Whether the model wants `bos` before every text.
    pub add_bos: bool,
    /// Whether the model wants `eos` after every text.
    pub add_eos: bool,
    /// Further ends of a turn (`eot_token_id`, `eom_token_id`).
    pub ends: Vec<u32>,
    /// What was read other than it is written, a sentence each.
    pub notes: Vec<String>,
    /// Jinja sources by name.
    pub chat_templates: ChatTemplates,
}

impl GgufText {
    /// Reads the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Model`] naming the key that is missing, wrong, or asks for a tokenizer that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let mut gguf = Gguf::open(path)?;
        let empty = name_empty_tokens(&mut gguf);
        let vocabulary = Vocabulary::read(&gguf, empty)?;
        let kind = vocabulary.get("model").and_then(MetadataValue::text).unwrap_or_default();
        let pre = vocabulary.get("pre").and_then(MetadataValue::text).unwrap_or("default");
        let ((mut description, model), default_bos) = match kind {
            "gpt2" => {
                let known = PreTokenizer::find(pre);
                let pre = known.ok_or_else(|| unsupported(path, "pre", pre, &PreTokenizer::names()))?;
                (byte_level(&vocabulary, pre)?, pre.bos)
            }
            "llama" => (sentence_piece(&vocabulary, &merges_by_score(&vocabulary, &vocabulary.scores()?), true), true),
            // Gemma 4's says its merges. llama.cpp parts text at line breaks first, which no merge goes over.
            "gemma4" => (sentence_piece(&vocabulary, &vocabulary.merges()?, false), true),
            other => {
                let known = "gpt2 (byte-level BPE), llama (SentencePiece BPE) and gemma4 (the same with merges)";
                return Err(unsupported(path, "model", other, known));
            }
        };
        let bos = vocabulary.special("bos_token_id")?;
        let add_bos = vocabulary.get("add_bos_token").and_then(MetadataValue::flag).unwrap_or(default_bos) && bos.is_some();
        description["post_processor"] =
            bos.as_deref().filter(|_| add_bos).map_or(Json::Null, |bos| prepend(bos, vocabulary.ids[bos]));
        Ok(Self {
            tokenizer: build(path, &description, model, added_tokens(&vocabulary, kind != "gpt2"))?,
            bos,
            eos: vocabulary.special("eos_token_id")?,
            pad: vocabulary.special("padding_token_id")?,
            unk: vocabulary.special("unknown_token_id")?,
            add_bos,
            add_eos: vocabulary.get("add_eos_token").and_then(MetadataValue::flag).unwrap_or(false),
            ends: further_ends(&vocabulary)?,
            notes: notes(path, &vocabulary.empty, kind == "llama" && !vocabulary.scored()),
            chat_templates: chat_templates(&gguf),
        })
    }
}

/// `tokenizer.chat_template` and `tokenizer.chat_template.NAME`, as llama.cpp's `gguf-py` writes several
/// (`GGUFWriter.add_chat_template`).
fn chat_templates(gguf: &Gguf) -> ChatTemplates {
    let named = gguf.metadata.iter().filter_map(|(key, value)| {
        let name = match key.strip_prefix("tokenizer.chat_template")? {
            "" => "default",
            rest => rest.strip_prefix('.')?,
        };
        Some((name.to_string(), value.text()?.to_string()))
    });
    ChatTemplates::named(named)
}

/// Ids that end a turn besides `eos` (llama.cpp's `special_eog_ids`).
fn further_ends(vocabulary: &Vocabulary) -> Result<Vec<u32>> {
    let named = ["eot_token_id", "eom_token_id"].into_iter().map(|key| vocabulary.special(key));
    let pieces = named.filter_map(Result::transpose).collect::<Result<Vec<String>>>()?;
    Ok(pieces.iter().filter_map(|piece| u32::try_from(vocabulary.ids[piece.as_str()]).ok()).collect())
}

/// Empty tokens are told: a text with their new names does not become them. So are scores that are not there.
fn notes(path: &Path, empty: &[usize], unscored: bool) -> Vec<String> {
    let order =
        "key `tokenizer.ggml.scores` is not there: pieces are joined in the order of their ids, as SentencePiece makes them";
    let unscored = unscored.then(|| format!("{}: {order}", path.display()));
    let Some(first) = empty.first() else { return unscored.into_iter().collect() };
    let ids: Vec<String> = empty.iter().take(8).map(usize::to_string).collect();
    let more = if empty.len() > 8 { format!(" and {} more", empty.len() - 8) } else { String::new() };
    let told = format!(
        "{}: {} of the tokens have no text (ids {}{more}); they are called [EMPTY_{first}] and so on, as in llama.cpp, and no text becomes them",
        path.display(),
        empty.len(),
        ids.join(", "),
    );
    unscored.into_iter().chain([told]).collect()
}

/// A tokenizer without its vocabulary, and the model that holds that.
type BareTokenizer = (Json, tokenizers::Result<BPE>);

fn unsupported(path: &Path, key: &str, value: &str, known: &str) -> Error {
    let help = format!("{known} are; use the Hugging Face directory of this model");
    Error::model(path, format!("key `tokenizer.ggml.{key}`"), format!("`{value}` is not supported"), help)
}

/// The vocabulary is handed over as it is: written into the description and read back, it took most of the time and memory
/// of a start.
fn build(path: &Path, description: &Json, model: tokenizers::Result<BPE>, added: Vec<AddedToken>) -> Result<Tokenizer> {
    let built = || {
        let mut tokenizer = Tokenizer::from_bytes(description.to_string())?;
        tokenizer.with_model(model?).add_tokens(added)?;
        Ok(tokenizer)
    };
    built().map_err(|e: tokenizers::Error| {
        Error::model(path, "tokenizer", format!("it cannot be built: {e}"), "use the Hugging Face directory of this model")
    })
}

/// Byte-level BPE (GPT-2 and its descendants).
fn byte_level(vocabulary: &Vocabulary, pre: &PreTokenizer) -> Result<BareTokenizer> {
    let merges = vocabulary.merges()?;
    let [normalizer, pre_tokenizer] = pre.parts();
    let model = bpe(vocabulary, &merges).ignore_merges(pre.whole_pieces).build();
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    Ok((description(normalizer, pre_tokenizer, decoder), model))
}

/// SentencePiece BPE with byte fallback (Llama 2 and its descendants); `prefix`: whether a space is put before a text where the file
/// says nothing.
fn sentence_piece(vocabulary: &Vocabulary, merges: &[(&str, &str)], prefix: bool) -> BareTokenizer {
    let prefix = vocabulary.get("add_space_prefix").and_then(MetadataValue::flag).unwrap_or(prefix);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let normalizer =
        if prefix { sequence("normalizers", [json!({"type": "Prepend", "prepend": SPACE}), spaces]) } else { spaces };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocabulary.kinds.iter().position(|k| *k == Kind::Unknown).map(|id| vocabulary.pieces[id]);
    let mut model = bpe(vocabulary, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown.to_string());
    }
    (description(normalizer, Json::Null, sequence("decoders", decoders)), model.build())
}

/// The merges that SentencePiece's scores stand for: every way to make a piece of two others, the best score first; ties
/// as in transformers' `generate_merges` (longer left part, longer right part, then the smaller ids).
/// Control, unknown and byte pieces are never made of text.
fn merges_by_score<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let written = |id: usize| match vocabulary.kinds[id] {
        Kind::Normal => true,
        Kind::UserDefined => vocabulary.pieces[id].contains(SPACE),
        Kind::Unknown | Kind::Control | Kind::Unused | Kind::Byte => false,
    };
    let part = |piece: &'a str| vocabulary.ids.get(piece).copied().filter(|id| written(*id));
    let mut merges = Vec::new();
    for (id, piece) in vocabulary.pieces.iter().enumerate().filter(|(id, _)| written(*id)) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (part(left), part(right)) {
                merges.push((scores[id], left.chars().count(), right.chars().count(), id, l, r));
            }
        }
    }
    merges
        .sort_by(|x, y| y.0.total_cmp(&x.0).then(y.1.cmp(&x.1)).then(y.2.cmp(&x.2)).then((x.3, x.4, x.5).cmp(&(y.3, y.4, y.5))));
    merges.into_iter().map(|(.., l, r)| (vocabulary.pieces[l], vocabulary.pieces[r])).collect()
}

/// A `tokenizer.json` without its vocabulary, added tokens and post-processor.
fn description(normalizer: Json, pre_tokenizer: Json, decoder: Json) -> Json {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    })
}

/// A BPE model over the vocabulary, everything else at its default.
fn bpe(vocabulary: &Vocabulary, merges: &[(&str, &str)]) -> BpeBuilder {
    let ids: Vocab = vocabulary.pieces.iter().zip(0u32..).map(|(piece, id)| ((*piece).to_string(), id)).collect();
    let merges = merges.iter().map(|(left, right)| ((*left).to_string(), (*right).to_string())).collect();
    BPE::builder().vocab_and_merges(ids, merges)
}

fn sequence(key: &str, parts: impl IntoIterator<Item = Json>) -> Json {
    json!({ "type": "Sequence", key: parts.into_iter().collect::<Vec<_>>() })
}

/// Tokens that are found in the text before anything else. In a SentencePiece vocabulary the unknown piece is special too.
fn added_tokens(vocabulary: &Vocabulary, sentence_piece: bool) -> Vec<AddedToken> {
    let special = |kind: Kind| kind == Kind::Control || (sentence_piece && kind == Kind::Unknown);
    let added =
        vocabulary.pieces.iter().zip(&vocabulary.kinds).filter(|(piece, kind)| {
            special(**kind) || (**kind == Kind::UserDefined && !(sentence_piece && piece.contains(SPACE)))
        });
    added.map(|(piece, kind)| AddedToken::from(*piece, special(*kind)).normalized(false)).collect()
}

/// Puts `bos` before every sequence.
fn prepend(bos: &str, id: usize) -> Json {
    let part = |which: &str, kind: usize| json!({"Sequence": {"id": which, "type_id": kind}});
    let start = |kind: usize| json!({"SpecialToken": {"id": bos, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [start(0), part("A", 0)],
        "pair": [start(0), part("A", 0), start(1), part("B", 1)],
        "special_tokens": { bos: {"id": bos, "ids": [id], "tokens": [bos]} },
    })
}
