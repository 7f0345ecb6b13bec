//! Real files of both formats: that they open, hold the same weights, and tokenise as they should.

use lorakit::kernels::weight::RowOrder;
use lorakit::model::weights::{Format, GgufText, ModelFiles};
use serde_json::Value;

use crate::shared::{find, ids, json, smollm2};

fn encode(text: &GgufText, raw: &str) -> Vec<u32> {
    text.tokenizer.encode(raw, false).unwrap().get_ids().to_vec()
}

#[test]
fn both_files_of_stories260k_hold_the_same_model() {
    let Some(root) = find("data/models/stories260k") else { return };
    let mut directory = ModelFiles::open(&root).unwrap();
    let mut gguf = ModelFiles::open(&root.join("stories260K-f32.gguf")).unwrap();
    assert_eq!((directory.format, gguf.format), (Format::HfDirectory, Format::Gguf));
    for (key, value) in directory.config.as_object().unwrap() {
        if let Some(ours) = gguf.config.get(key) {
            assert_eq!(ours, value, "{key}");
        }
    }
    let names: Vec<String> = gguf.tensors.keys().cloned().collect();
    assert!(names.len() == 47 && directory.tensors.len() >= 47);
    for name in names {
        let (ours, theirs) = (gguf.take(&name).unwrap(), directory.take(&name).unwrap());
        assert_eq!(ours.shape, theirs.shape, "{name}");
        let permuted = name.contains("q_proj") || name.contains("k_proj");
        assert_eq!(ours.order != RowOrder::Plain, permuted, "{name}");
        assert_eq!(ours.matrix().unwrap().to_f32(), theirs.vector_f32().unwrap(), "{name}");
    }
    directory.finish(true).unwrap();
    gguf.finish(true).unwrap();
}

#[test]
fn stories260k_is_tokenised_as_its_own_tokenizer_does() {
    let Some(root) = find("data/models/stories260k") else { return };
    let ours = GgufText::open(&root.join("stories260K-f32.gguf")).unwrap();
    let theirs = tokenizers::Tokenizer::from_file(root.join("tokenizer.json")).unwrap();
    assert_eq!((ours.bos.as_deref(), ours.eos.as_deref(), ours.unk.as_deref()), (Some("<s>"), Some("</s>"), Some("<unk>")));
    assert!(ours.add_bos && ours.chat_templates.is_empty());
    let stories = std::fs::read_to_string(root.join("../../text/tinystories_sample.jsonl")).unwrap();
    let mut texts: Vec<String> = stories.lines().map(|l| serde_json::from_str::<Value>(l).unwrap().to_string()).collect();
    texts.extend(["", " ", "  two  spaces", "<s>hi</s>", "naïve — 日本", "a\nb\t"].map(String::from));
    for text in texts {
        for special in [false, true] {
            let (a, b) = (ours.tokenizer.encode(text.as_str(), special).unwrap(), theirs.encode(text.as_str(), special).unwrap());
            assert_eq!(a.get_ids(), b.get_ids(), "{text}");
            assert_eq!(ours.tokenizer.decode(a.get_ids(), true).unwrap(), theirs.decode(a.get_ids(), true).unwrap());
        }
    }
}

/// llama.cpp's own test texts and ids.
#[test]
fn vocabularies_of_llama_cpp_give_its_ids() {
    for name in ["gpt-2", "llama-spm"] {
        let Some(path) = find(&format!("data/tokenizers/ggml-vocab-{name}.gguf")) else { return };
        let text = GgufText::open(&path).unwrap();
        let input = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let output = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let cases: Vec<(&str, &str)> = input.split("\n__ggml_vocab_test__\n").zip(output.lines()).collect();
        assert!(cases.len() > 40, "{name}: {} cases", cases.len());
        for (raw, expected) in cases {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(encode(&text, raw), expected, "{name}: {raw:?}");
        }
    }
}

#[test]
fn smollm2_opens_and_its_tokenizer_agrees_with_the_golden_ids() {
    let (Some(path), Some(golden)) = (smollm2(), find("golden/smollm2")) else { return };
    let files = ModelFiles::open(&path).unwrap();
    assert_eq!(files.tensors.len(), 272);
    let config = &files.config;
    assert_eq!((&config["hidden_size"], &config["head_dim"], &config["vocab_size"]), (&576.into(), &64.into(), &49152.into()));
    assert_eq!(
        (&config["rms_norm_eps"], &config["rope_theta"], &config["tie_word_embeddings"]),
        (&1e-5.into(), &1e5.into(), &true.into())
    );
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"], &config["pad_token_id"]), (&1.into(), &2.into(), &2.into()));
    let text = GgufText::open(&path).unwrap();
    assert_eq!(
        (text.bos.as_deref(), text.eos.as_deref(), text.pad.as_deref()),
        (Some("<|im_start|>"), Some("<|im_end|>"), Some("<|im_end|>"))
    );
    assert!(!text.add_bos);
    let chat = json(&golden.join("chat_and_tokens.json"));
    assert_eq!(text.chat_templates.source(false), chat["chat_template"].as_str());
    for case in chat["conversations"].as_array().unwrap() {
        assert_eq!(encode(&text, case["text"].as_str().unwrap()), ids(&case["ids"]), "{case}");
    }
    for case in chat["raw"].as_array().unwrap() {
        let found = encode(&text, case["text"].as_str().unwrap());
        assert_eq!(found, ids(&case["ids"]), "{case}");
        assert_eq!(text.tokenizer.decode(&found, false).unwrap(), case["decoded"].as_str().unwrap());
    }
    for case in json(&golden.join("prompts.json"))["prompts"].as_array().unwrap() {
        assert_eq!(encode(&text, case["text"].as_str().unwrap()), ids(&case["ids"]));
        assert_eq!(text.tokenizer.decode(&ids(&case["greedy_ids"]), false).unwrap(), case["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn golden_directories_open() {
    let Some(models) = find("golden/models") else { return };
    for (name, tensors) in [("llama", 29), ("llama3", 30), ("qwen2", 38), ("gpt2", 40)] {
        let files = ModelFiles::open(&models.join(name)).unwrap();
        let prefix = if name == "gpt2" { "transformer." } else { "model." };
        assert!(files.tensors.keys().all(|n| n.starts_with(prefix) || n == "lm_head.weight"), "{name}");
        assert_eq!(files.tensors.len(), tensors, "{name}");
    }
}

/// A person may write a control token's name: read as text, it must not become the token.
#[test]
fn control_tokens_written_out_can_be_kept_text() {
    let paths =
        [smollm2(), find("data/models/stories260k/stories260K-f32.gguf"), find("data/tokenizers/ggml-vocab-llama-spm.gguf")];
    for path in paths.into_iter().flatten() {
        let mut text = GgufText::open(&path).unwrap();
        let (bos, eos) = (text.bos.clone().unwrap(), text.eos.clone().unwrap());
        let raw = format!("{bos}user {eos}");
        let special: Vec<u32> = [&bos, &eos].map(|t| text.tokenizer.token_to_id(t).unwrap()).to_vec();
        assert!(special.iter().all(|id| encode(&text, &raw).contains(id)));
        text.tokenizer.set_encode_special_tokens(true);
        let ids = encode(&text, &raw);
        assert!(!special.iter().any(|id| ids.contains(id)), "{}", path.display());
        assert_eq!(text.tokenizer.decode(&ids, false).unwrap(), raw);
    }
}
