//! A tokenizer with what the files beside it say: the special tokens, the ends of a turn, the chat template.
//!
//! Keeps apart two ways of reading text: as a template's (special tokens in it become control ids) and as a
//! person's (they stay text). Refuses to know conversations and which tokens are trained.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `chat_templates`, `classes`, `memo` | chat templates by name; classes of characters; words seen before |
//! | 1 | `companions`, `words` | the files beside `tokenizer.json`; how text is cut into words |
//! | 2 | `fast`, `byte_level` | the way around the library's own splitting; a small tokenizer for tests |

#[cfg(any(test, feature = "testing"))]
pub mod byte_level;
mod chat_templates;
mod classes;
mod companions;
mod fast;
mod memo;
mod words;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokenizers::AddedToken;

pub use self::chat_templates::ChatTemplates;
pub use self::companions::Special;
use self::fast::Fast;
use crate::error::{Error, Result};

/// A tokenizer; cloning shares it.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<TokenizerParts>,
    chat_templates: Arc<ChatTemplates>,
}

struct TokenizerParts {
    inner: tokenizers::Tokenizer,
    special: Special,
    bos_id: Option<u32>,
    pad_id: u32,
    eos_ids: Vec<u32>,
    /// Control id → its text. Ordered, so that whatever is derived from it is the same every time.
    controls: BTreeMap<u32, String>,
    guarded: OnceLock<Guarded>,
    /// The way around the library's own splitting, for the tokenizers that have one.
    fast: OnceLock<Option<Fast>>,
}

/// A twin of the tokenizer that reads special tokens as text, and stand-ins (private characters) as special tokens.
struct Guarded {
    inner: tokenizers::Tokenizer,
    /// Control id → stand-in character.
    stand_in: HashMap<u32, char>,
    /// The twin's id of a stand-in → control id.
    control: HashMap<u32, u32>,
}

/// First of the private-use characters (plane 16) that stand in for special tokens.
const STAND_INS: u32 = 0x10_0000;

/// Tokens of a text, with the bytes of it that each covers: whole characters, so that neighbours may share one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and its companions from a model directory.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file that is missing or wrong.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer> {
        let (inner, special, chat_templates) = companions::read_dir(dir)?;
        Tokenizer::new(inner, special, None)
            .map(|tokenizer| tokenizer.with_chat_templates(chat_templates))
            .map_err(|e| Error::model(dir, "tokenizer", e.to_string(), "fetch the model's files again"))
    }

    /// A tokenizer from its parts. Truncation and padding of `inner` are switched off.
    ///
    /// # Errors
    /// [`Error::Usage`] when a special token is not in the vocabulary.
    pub fn new(mut inner: tokenizers::Tokenizer, special: Special, chat_template: Option<String>) -> Result<Tokenizer> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let id = |token: &Option<String>, what: &str| match token {
            None => Ok(None),
            Some(text) => inner.token_to_id(text).map(Some).ok_or_else(|| {
                Error::usage(
                    format!("{what} token {text:?}"),
                    "it is not in the tokenizer's vocabulary",
                    "correct tokenizer_config.json",
                )
            }),
        };
        let (bos_id, eos_id, pad) = (id(&special.bos, "bos")?, id(&special.eos, "eos")?, id(&special.pad, "pad")?);
        let mut eos_ids: Vec<u32> = eos_id.into_iter().chain(special.eos_ids.iter().copied()).collect();
        let mut known = std::collections::HashSet::new();
        eos_ids.retain(|id| known.insert(*id));
        // The named tokens control the model whatever `added_tokens` says of them.
        let named: Vec<String> = bos_id.iter().chain(&eos_ids).chain(&pad).filter_map(|id| inner.id_to_token(*id)).collect();
        make_special(&mut inner, &named)?;
        let controls: BTreeMap<u32, String> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).map(|(id, t)| (id, t.content)).collect();
        let pad_id = pad.or(eos_ids.first().copied()).unwrap_or(0);
        let shared =
            TokenizerParts { inner, special, bos_id, pad_id, eos_ids, controls, guarded: OnceLock::new(), fast: OnceLock::new() };
        Ok(Tokenizer { shared: Arc::new(shared), chat_templates: Arc::new(chat_template.into()) })
    }

    /// The same tokens with other chat templates.
    pub fn with_chat_templates(&self, templates: ChatTemplates) -> Tokenizer {
        Tokenizer { shared: Arc::clone(&self.shared), chat_templates: Arc::new(templates) }
    }

    /// Tokens of a template's text: special tokens in it become control ids; no BOS is added.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokens(text)?.ids)
    }

    /// Tokens of a text that a model goes on with: as [`Tokenizer::encode`], behind the BOS where the model's texts begin with one, and
    /// with what ends prompts that an encoder reads. A text that writes its own does not get a second one.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer refuses the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let (bos, ids) = (self.bos_id().filter(|_| self.special().add_bos), self.encode(text)?);
        let bos = bos.filter(|bos| ids.first() != Some(bos));
        let eos = self.prompt_end().and_then(|end| self.inner().token_to_id(end)).filter(|eos| ids.last() != Some(eos));
        Ok(bos.into_iter().chain(ids.iter().copied()).chain(eos).collect())
    }

    /// Tokens of a person's text: special tokens in it stay text; no BOS is added.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer refuses the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.tokens(text)?;
        if !tokens.ids.iter().any(|id| self.is_control(*id)) {
            return Ok(tokens.ids);
        }
        Ok(self.tokens_guarded(text, &[])?.ids)
    }

    /// The text of `ids`; `skip_special` leaves control tokens out.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer cannot decode.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.shared.inner.decode(ids, skip_special).map_err(failed)
    }

    /// The text of `ids` in runs, each with the place of its first id; a run goes on while `alike` says so of that place and the
    /// next. Together they are the text of all ids.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn runs(&self, ids: &[u32], alike: impl Fn(usize, usize) -> bool) -> Result<Vec<(usize, String)>> {
        let (mut runs, mut before, mut start) = (Vec::new(), String::new(), 0);
        for end in 1..=ids.len() {
            if end < ids.len() && alike(start, end) {
                continue;
            }
            // Decoding from the beginning keeps what a decoder drops at the start of a text (a space, usually).
            let upto = self.decode(&ids[..end], false)?;
            let text = match upto.strip_prefix(&before) {
                Some(text) => text.to_string(),
                None => self.decode(&ids[start..end], false)?,
            };
            runs.push((start, text));
            (before, start) = (upto, end);
        }
        Ok(runs)
    }

    /// Ids that end a turn, `eos` first.
    pub fn eos_ids(&self) -> &[u32] {
        &self.shared.eos_ids
    }

    /// The id that fills short rows; never a target of the loss by itself, so it may equal an end of turn.
    pub fn pad_id(&self) -> u32 {
        self.shared.pad_id
    }

    /// The id that begins a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.shared.bos_id
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.shared.inner.get_vocab_size(true)
    }

    /// The model's chat templates, by name.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.chat_templates
    }

    /// The Jinja source of the model's chat template for conversations without tools.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_templates.source(false)
    }

    /// The special tokens by name.
    pub fn special(&self) -> &Special {
        &self.shared.special
    }

    /// What ends a prompt that an encoder reads by itself; nothing where a model goes on with its prompts.
    pub fn prompt_end(&self) -> Option<&str> {
        let Special { eos, ends_prompts, .. } = self.special();
        eos.as_deref().filter(|_| *ends_prompts)
    }

    /// All that its tokens follow from, as text.
    ///
    /// # Errors
    /// [`Error::Usage`] when it cannot be written out.
    pub(crate) fn written(&self) -> Result<String> {
        let TokenizerParts { inner, special, pad_id, eos_ids, controls, .. } = &*self.shared;
        Ok(format!("{} {special:?} {pad_id} {eos_ids:?} {controls:?}", inner.to_string(false).map_err(failed)?))
    }

    /// The tokenizer itself.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.shared.inner
    }

    /// Whether `id` is a special token.
    pub fn is_control(&self, id: u32) -> bool {
        self.shared.controls.contains_key(&id)
    }

    /// The text of a special token.
    pub(crate) fn control_text(&self, id: u32) -> Option<&str> {
        self.shared.controls.get(&id).map(String::as_str)
    }

    /// Whether any special token is written out in `text`.
    pub(crate) fn holds_control(&self, text: &str) -> bool {
        self.shared.controls.values().any(|c| text.contains(c.as_str()))
    }

    /// `text` with a character before and one after each special token written out in it.
    pub(crate) fn around_controls(&self, text: &str, marks: [char; 2]) -> String {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        // Of several that begin at one place the longest is meant.
        let first = |rest: &str| {
            let found =
                self.shared.controls.values().filter(|c| !c.is_empty()).filter_map(|c| Some((rest.find(c.as_str())?, c.len())));
            found.min_by_key(|(at, len)| (*at, std::cmp::Reverse(*len)))
        };
        while let Some((at, len)) = first(rest) {
            out.push_str(&rest[..at]);
            out.push(marks[0]);
            out.push_str(&rest[at..at + len]);
            out.push(marks[1]);
            rest = &rest[at + len..];
        }
        out + rest
    }

    /// As [`Tokenizer::encode`], with the place of each token: what the library's `encode` gives, sooner where
    /// [`Tokenizer::is_fast`].
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer refuses the text.
    pub fn tokens(&self, text: &str) -> Result<Tokens> {
        if let Some(fast) = self.fast()
            && let Some(tokens) = fast.tokens(&self.shared.inner, text).map_err(failed)?
        {
            return Ok(tokens);
        }
        by_library(&self.shared.inner, text).map_err(failed)
    }

    /// Whether texts are split into words here instead of by the library (which reads each new word either way).
    pub fn is_fast(&self) -> bool {
        self.fast().is_some()
    }

    fn fast(&self) -> Option<&Fast> {
        self.shared.fast.get_or_init(|| Fast::of(&self.shared.inner)).as_ref()
    }

    /// Tokens of `text` where only the special tokens at `keep` (range, control id; ascending) are read as such.
    pub(crate) fn tokens_guarded(&self, text: &str, keep: &[(Range<usize>, u32)]) -> Result<Tokens> {
        let guarded = self.guarded()?;
        if let Some(c) = text.chars().find(|c| u32::from(*c) >= STAND_INS) {
            return Err(Error::usage(
                format!("character U+{:X}", u32::from(c)),
                "private-use characters of plane 16 cannot be mixed with special tokens written in a text",
                "remove that character from the row",
            ));
        }
        let (swapped, shifts) = swap(text, keep, &guarded.stand_in);
        let encoding = guarded.inner.encode(swapped.as_str(), false).map_err(failed)?;
        let ids = encoding.get_ids().iter().map(|id| *guarded.control.get(id).unwrap_or(id)).collect();
        let offsets = encoding.get_offsets().iter().map(|(a, b)| shifts.original(*a)..shifts.original(*b)).collect();
        Ok(Tokens { ids, offsets })
    }

    fn guarded(&self) -> Result<&Guarded> {
        if let Some(guarded) = self.shared.guarded.get() {
            return Ok(guarded);
        }
        let built = self.build_guarded()?;
        Ok(self.shared.guarded.get_or_init(|| built))
    }

    fn build_guarded(&self) -> Result<Guarded> {
        let mut inner = self.shared.inner.clone();
        let added = inner.get_added_tokens_decoder();
        let (mut stand_in, mut tokens) = (HashMap::new(), Vec::new());
        for (i, id) in self.shared.controls.keys().enumerate() {
            let Some(c) = char::from_u32(STAND_INS + i as u32).filter(|_| i < 0xFFFE) else { break };
            let old = &added[id];
            stand_in.insert(*id, c);
            tokens.push(AddedToken { content: c.to_string(), special: false, normalized: false, ..old.clone() });
        }
        inner.add_tokens(tokens).map_err(failed)?;
        inner.set_encode_special_tokens(true);
        let control = stand_in.iter().filter_map(|(id, c)| Some((inner.token_to_id(&c.to_string())?, *id))).collect();
        Ok(Guarded { inner, stand_in, control })
    }
}

fn by_library(inner: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<Tokens> {
    let encoding = inner.encode(text, false)?;
    let offsets = encoding.get_offsets().iter().map(|(a, b)| *a..*b).collect();
    Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets })
}

/// Where the swapped text differs from the original one.
struct Shifts {
    /// (end of a stand-in in the swapped text, end of the token in the original), ascending.
    ends: Vec<(usize, usize)>,
}

impl Shifts {
    /// The position in the original text of `at`; inside a stand-in never asked for.
    fn original(&self, at: usize) -> usize {
        let i = self.ends.partition_point(|(swapped, _)| *swapped <= at);
        match i.checked_sub(1) {
            None => at,
            Some(i) => at - self.ends[i].0 + self.ends[i].1,
        }
    }
}

fn swap(text: &str, keep: &[(Range<usize>, u32)], stand_in: &HashMap<u32, char>) -> (String, Shifts) {
    let (mut out, mut ends, mut from) = (String::with_capacity(text.len()), Vec::new(), 0);
    for (range, id) in keep {
        let Some(c) = stand_in.get(id) else { continue };
        out.push_str(&text[from..range.start]);
        out.push(*c);
        ends.push((out.len(), range.end));
        from = range.end;
    }
    out.push_str(&text[from..]);
    (out, Shifts { ends })
}

fn make_special(inner: &mut tokenizers::Tokenizer, named: &[String]) -> Result<()> {
    let added = inner.get_added_tokens_decoder();
    let missing: Vec<AddedToken> = named
        .iter()
        .filter(|text| !added.values().any(|t| t.special && t.content == **text))
        .map(|text| AddedToken::from(text.clone(), true))
        .collect();
    if !missing.is_empty() {
        inner.add_special_tokens(missing).map_err(failed)?;
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::usage("tokenizer", error.to_string(), "check that tokenizer.json belongs to this model and is complete")
}
