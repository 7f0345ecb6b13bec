//! GGUF files that are wrong: each gives one clear error and never a panic. The small valid file they are made from
//! is written here, from the specification.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::kernels::weight::RowOrder;

/// A metadata value as it is written: type number and bytes.
#[derive(Clone)]
pub(super) struct RawValue(pub u32, pub Vec<u8>);

fn text_bytes(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

pub(super) fn text(s: &str) -> RawValue {
    RawValue(8, text_bytes(s))
}

pub(super) fn number(n: u32) -> RawValue {
    RawValue(4, n.to_le_bytes().to_vec())
}

pub(super) fn float(x: f32) -> RawValue {
    RawValue(6, x.to_le_bytes().to_vec())
}

pub(super) fn list(kind: u32, items: &[Vec<u8>]) -> RawValue {
    RawValue(9, [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat())
}

pub(super) fn texts(items: &[&str]) -> RawValue {
    list(8, &items.iter().map(|s| text_bytes(s)).collect::<Vec<_>>())
}

pub(super) fn kinds(items: &[i32]) -> RawValue {
    list(5, &items.iter().map(|k| k.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

/// A GGUF file to be written.
#[derive(Clone)]
pub(super) struct GgufDraft {
    magic: [u8; 4],
    version: u32,
    keys: Vec<(String, RawValue)>,
    /// Name, dimensions (innermost first), type number, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

impl GgufDraft {
    /// One layer of llama with 4 dimensions, two heads of two, a vocabulary of 6.
    pub(super) fn llama() -> Self {
        let mut keys: Vec<(String, RawValue)> = Vec::new();
        for (key, n) in [
            ("block_count", 1),
            ("context_length", 16),
            ("embedding_length", 4),
            ("feed_forward_length", 8),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 2),
        ] {
            keys.push((format!("llama.{key}"), number(n)));
        }
        keys.push(("general.architecture".into(), text("llama")));
        keys.push(("llama.attention.layer_norm_rms_epsilon".into(), float(1e-5)));
        keys.push(("tokenizer.ggml.model".into(), text("gpt2")));
        keys.push(("tokenizer.ggml.tokens".into(), texts(&["<s>", "a", "b", "c", "ab", "abc"])));
        keys.push(("tokenizer.ggml.token_type".into(), kinds(&[3, 1, 1, 1, 1, 1])));
        keys.push(("tokenizer.ggml.merges".into(), texts(&["a b", "ab c"])));
        keys.push(("tokenizer.ggml.bos_token_id".into(), number(0)));
        let tensors = vec![
            ("token_embd.weight".to_string(), vec![4, 6], 0, 0),
            ("blk.0.attn_q.weight".to_string(), vec![4, 4], 0, 96),
            ("blk.0.attn_k.weight".to_string(), vec![4, 2], 0, 160),
        ];
        Self { magic: *b"GGUF", version: 3, keys, tensors, data: 192 }
    }

    /// The same keys and tensors under another architecture.
    pub(super) fn of(architecture: &str) -> Self {
        let mut draft = Self::llama().set("general.architecture", text(architecture));
        draft.keys.iter_mut().for_each(|(key, _)| *key = key.replace("llama.", &format!("{architecture}.")));
        draft
    }

    pub(super) fn set(mut self, key: &str, value: RawValue) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.into(), value));
        self
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(k, _)| k != key);
        self
    }

    /// The first tensor with another description.
    fn first(mut self, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors[0] = (self.tensors[0].0.clone(), dims.to_vec(), kind, offset);
        self
    }

    fn named(mut self, tensor: usize, name: &str) -> Self {
        self.tensors[tensor].0 = name.into();
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = [&self.magic[..], &self.version.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, RawValue(kind, value)) in &self.keys {
            out.extend([&text_bytes(key)[..], &kind.to_le_bytes(), value].concat());
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend([&text_bytes(name)[..], &(dims.len() as u32).to_le_bytes()].concat());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend((0..self.data / 4).flat_map(|i| (i as f32).to_le_bytes()));
        out
    }

    pub(super) fn write(&self) -> (TempDir, PathBuf) {
        write(&self.bytes())
    }
}

fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

pub(super) fn check(result: Result<String>, words: &[&str]) {
    let error = result.expect_err("must be refused");
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    for word in ["help: "].iter().chain(words) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

pub(super) fn refused(bytes: &[u8], words: &[&str]) {
    let (_dir, path) = write(bytes);
    check(ModelFiles::open(&path).map(|c| format!("{:?}", c.config)), words);
}

fn text_refused(draft: &GgufDraft, words: &[&str]) {
    let (_dir, path) = draft.write();
    check(GgufText::open(&path).map(|t| format!("{:?}", t.bos)), words);
}

#[test]
fn chat_templates_are_named_by_their_keys() {
    let key = |name: &str| format!("tokenizer.chat_template{name}");
    let draft = GgufDraft::llama().set(&key(""), text("D")).set(&key(".tool_use"), text("T")).set(&key("s"), text("no template"));
    let (_dir, path) = draft.write();
    let templates = GgufText::open(&path).unwrap().chat_templates;
    assert_eq!(templates.iter().collect::<Vec<_>>(), [("default", "D"), ("tool_use", "T")]);
}

#[test]
fn the_small_file_is_a_model() {
    let (_dir, path) = GgufDraft::llama().write();
    let mut files = ModelFiles::open(&path).unwrap();
    assert_eq!((&files.config["head_dim"], &files.config["vocab_size"]), (&2.into(), &6.into()));
    let q = files.take("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!((q.shape.as_slice(), q.order), (&[4, 4][..], RowOrder::Interleaved { heads: 2 }));
    assert_eq!(files.take("model.layers.0.self_attn.k_proj.weight").unwrap().order, RowOrder::Interleaved { heads: 1 });
    let text = GgufText::open(&path).unwrap();
    assert_eq!(text.tokenizer.encode("<s>abcab", false).unwrap().get_ids(), [0, 5, 4]);
    let (_dir, path) = GgufDraft::of("qwen2").write();
    assert!(ModelFiles::open(&path).unwrap().tensors.values().all(|t| t.order == RowOrder::Plain));
}

#[test]
fn a_bias_of_q_is_permuted_like_its_rows() {
    let mut draft = GgufDraft::llama();
    draft.tensors.push(("blk.0.attn_q.bias".into(), vec![4], 0, 192));
    draft.data = 208;
    let (_dir, path) = draft.write();
    let mut files = ModelFiles::open(&path).unwrap();
    let bias = files.take("model.layers.0.self_attn.q_proj.bias").unwrap();
    // Two heads of two: a half of a head is one row, so nothing moves; as one head of four the middle rows swap.
    assert_eq!(bias.vector_f32().unwrap(), [48.0, 49.0, 50.0, 51.0]);
    let one_head = Stored { order: RowOrder::Interleaved { heads: 1 }, ..bias.clone() };
    assert_eq!(one_head.vector_f32().unwrap(), [48.0, 50.0, 49.0, 51.0]);
    check(one_head.matrix().map(|_| String::new()), &["q_proj.bias", "a matrix was expected"]);
    let odd = Stored { order: RowOrder::Interleaved { heads: 3 }, ..bias };
    check(odd.vector_f32().map(|_| String::new()), &["4 rows are not 3 heads"]);
}

#[test]
fn headers_that_lie_are_refused() {
    let good = GgufDraft::llama();
    let with = |f: &dyn Fn(&mut GgufDraft)| {
        let mut draft = good.clone();
        f(&mut draft);
        draft.bytes()
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut out = good.bytes();
        out[at..at + bytes.len()].copy_from_slice(bytes);
        out
    };
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (vec![], &["cut off"]),
        (with(&|d| d.magic = *b"GGML"), &["does not start with the letters GGUF"]),
        (with(&|d| d.version = 1), &["version 1", "not supported"]),
        (with(&|d| d.version = 3 << 24), &["big-endian"]),
        (patched(8, &u64::MAX.to_le_bytes()), &["number of tensors"]),
        (patched(16, &u64::MAX.to_le_bytes()), &["number of metadata keys"]),
        (patched(24, &u64::MAX.to_le_bytes()), &["length of a metadata key"]),
        (with(&|d| d.keys.push(("x".into(), RawValue(13, vec![])))), &["`x`", "value type 13"]),
        (with(&|d| d.keys.push(("x".into(), RawValue(7, vec![2])))), &["`x`", "truth value"]),
        (with(&|d| d.keys.push(("x".into(), RawValue(8, vec![0xff; 8])))), &["length of key `x`"]),
        (with(&|d| d.keys.push(("x".into(), RawValue(8, [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat())))), &["`x`", "UTF-8"]),
        (with(&|d| d.keys.push(("x".into(), list(9, &[])))), &["`x`", "arrays of arrays"]),
        (with(&|d| d.keys.push(("x".into(), RawValue(9, [&0u32.to_le_bytes()[..], &[0xff; 8]].concat())))), &["elements of `x`"]),
        (with(&|d| d.keys.push(d.keys[0].clone())), &["twice"]),
        (with(&|d| d.tensors.push(d.tensors[0].clone())), &["`token_embd.weight`", "twice"]),
        (good.clone().set("general.alignment", number(0)).bytes(), &["general.alignment", "power of two"]),
        (good.clone().set("general.alignment", number(24)).bytes(), &["general.alignment"]),
        (good.clone().set("general.alignment", number(1 << 31)).bytes(), &["general.alignment"]),
        (good.clone().first(&[], 0, 0).bytes(), &["0 dimensions"]),
        (good.clone().first(&[1; 5], 0, 0).bytes(), &["5 dimensions"]),
        (good.clone().first(&[4, 0], 0, 0).bytes(), &["zero"]),
        (good.clone().first(&[1 << 40, 1 << 40], 0, 0).bytes(), &["too large"]),
        (good.clone().first(&[4, 6], 99, 0).bytes(), &["type 99 is not known"]),
        (good.clone().first(&[4, 6], 10, 0).bytes(), &["Q2_K", "not supported"]),
        (good.clone().first(&[4, 6], 8, 0).bytes(), &["whole blocks of 32", "Q8_0"]),
        (good.clone().first(&[4, 6], 0, 4).bytes(), &["multiple of the alignment"]),
        (good.clone().first(&[4, 6], 0, 1 << 40).bytes(), &["cut off"]),
        (good.clone().first(&[4, 6], 0, u64::MAX - 31).bytes(), &["cut off"]),
        (good.clone().first(&[4, 6], 0, 96).bytes(), &["overlap"]),
    ];
    for (bytes, words) in cases {
        refused(&bytes, words);
    }
}

#[test]
fn metadata_that_is_no_model_is_refused() {
    let good = GgufDraft::llama();
    let cases: Vec<(GgufDraft, &[&str])> = vec![
        (good.clone().without("general.architecture"), &["general.architecture", "not there"]),
        (good.clone().set("general.architecture", text("mamba")), &["`mamba`", "not supported"]),
        (good.clone().set("split.count", number(2)), &["split", "--merge"]),
        (good.clone().set("llama.expert_count", number(8)), &["llama.expert_used_count", "it is not there"]),
        (good.clone().without("llama.block_count"), &["llama.block_count", "not there"]),
        (good.clone().set("llama.block_count", text("one")), &["llama.block_count", "not a possible size"]),
        (good.clone().set("llama.attention.head_count", number(0)), &["llama.attention.head_count"]),
        (good.clone().set("llama.attention.head_count", number(3)), &["3 heads"]),
        (good.clone().set("llama.attention.layer_norm_rms_epsilon", float(f32::NAN)), &["epsilon", "positive number"]),
        (good.clone().set("llama.rope.freq_base", float(-1.0)), &["freq_base"]),
        (good.clone().set("llama.rope.dimension_count", number(1)), &["rotating 1 of 2"]),
        (good.clone().named(0, "embd.weight"), &["token_embd.weight", "not there"]),
        (good.clone().named(1, "blk.0.attn_qkv.weight"), &["blk.0.attn_qkv.weight"]),
        (good.clone().named(1, "blk.00.attn_q.weight"), &["blk.00.attn_q.weight"]),
        (good.named(1, "rope_freqs.weight"), &["rope_freqs.weight", "1 plain numbers"]),
    ];
    for (draft, words) in cases {
        refused(&draft.bytes(), words);
    }
}

#[test]
fn vocabularies_that_are_wrong_are_refused() {
    let good = GgufDraft::llama();
    let key = |name: &str, value: RawValue| good.clone().set(&format!("tokenizer.ggml.{name}"), value);
    let cases: Vec<(GgufDraft, &[&str])> = vec![
        (good.clone().without("tokenizer.ggml.tokens"), &["ggml.tokens", "not there"]),
        (key("tokens", kinds(&[1])), &["ggml.tokens", "not text"]),
        (key("tokens", texts(&["a", "b", "a"])), &["tokens 0 and 2"]),
        (key("token_type", kinds(&[1])), &["1 entries for 6 tokens"]),
        (key("token_type", kinds(&[3, 1, 1, 1, 1, 77])), &["kind that is not known"]),
        (key("merges", texts(&["ab"])), &["not a pair"]),
        (key("merges", texts(&["a c"])), &["\"ac\"", "not a token"]),
        (key("bos_token_id", number(6)), &["bos_token_id", "no id of the 6 tokens"]),
        (key("model", text("bert")), &["`bert`", "not supported"]),
        (key("pre", text("bloom")), &["`bloom`", "not supported", "tekken"]),
    ];
    for (draft, words) in cases {
        text_refused(&draft, words);
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = GgufDraft::llama().bytes();
    for end in (0..whole.len()).step_by(64) {
        refused(&whole[..end], &["m.gguf"]);
    }
}

#[test]
fn no_single_wrong_byte_panics() {
    let whole = GgufDraft::llama().bytes();
    for at in 0..whole.len() - 192 {
        let mut bytes = whole.clone();
        bytes[at] ^= if at % 3 == 0 { 0x01 } else { 0xff };
        let (_dir, path) = write(&bytes);
        let (_, _) = (ModelFiles::open(&path).is_ok(), GgufText::open(&path).is_ok());
    }
}

/// The draft with eight pairs a head and these frequency divisors, opened.
fn with_divisors(divisors: [f32; 8]) -> Result<serde_json::Value> {
    let mut draft =
        GgufDraft::llama().set("llama.attention.key_length", number(16)).set("llama.rope.dimension_count", number(16));
    draft = draft.set("llama.attention.value_length", number(16));
    draft = draft.set("llama.rope.freq_base", float(500.0));
    draft.tensors.push(("rope_freqs.weight".into(), vec![8], 0, 192));
    draft.data = 224;
    let mut bytes = draft.bytes();
    let start = bytes.len() - 32;
    bytes[start..].copy_from_slice(&divisors.map(f32::to_le_bytes).concat());
    let (_dir, path) = write(&bytes);
    let files = ModelFiles::open(&path)?;
    assert!(files.tensors.keys().all(|n| !n.contains("rope")));
    Ok(files.config["rope_scaling"].clone())
}

#[test]
fn frequency_divisors_become_llama_3s_rope_scaling() {
    // transformers' rule in float64 at factor 8, low 1, high 4, original length 32, theta 500, head size 16.
    let found = with_divisors([1.0, 1.936_350_2, 6.781_180_4, 8.0, 8.0, 8.0, 8.0, 8.0]).unwrap();
    let expected = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    });
    assert_eq!(found, expected);
    assert_eq!(with_divisors([1.0; 8]).unwrap(), serde_json::Value::Null);
    check(
        with_divisors([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).map(|c| c.to_string()),
        &["rope_freqs.weight", "not Llama 3's"],
    );
}
