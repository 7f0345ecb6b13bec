//! What the fuzz targets share: a place for files, a small tokenizer, and what an error may be.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lorakit::data::{Special, Tokenizer};
use lorakit::{Error, Result};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A folder of this process, in `TMPDIR`.
pub static FOLDER: LazyLock<PathBuf> =
    LazyLock::new(|| tempfile::Builder::new().prefix("lorakit-fuzz-").tempdir().expect("a folder in TMPDIR").keep());

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Writes a file of [`FOLDER`].
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    std::fs::write(&path, bytes).expect("room in TMPDIR");
    path
}

/// What comes before the first zero byte, and what comes after it.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|b| *b == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// Panics on an error that foreign input must not lead to: all of it can be put right by who gives the input.
pub fn fair<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!matches!(error, Error::Tensor(_)) && error.exit_code() == 2, "{error:?}");
            assert!(error.to_string().contains("help: "), "{error}");
            None
        }
    }
}

/// One token a byte, `<|im_start|>` and `<|im_end|>`, and the given chat template.
pub fn tokenizer(template: Option<String>) -> Tokenizer {
    static BYTES: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab: Vocab = alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i as u32)).collect();
        let model = BPE::builder().vocab_and_merges(vocab, vec![]).build().expect("a vocabulary of bytes");
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
        inner.with_decoder(Some(ByteLevel::default()));
        let special = ["<|im_start|>", "<|im_end|>"].map(|t| AddedToken::from(t, true));
        inner.add_special_tokens(special).expect("two more tokens");
        inner
    });
    let end = Some("<|im_end|>".to_string());
    let special = Special { eos: end.clone(), pad: end, ..Special::default() };
    Tokenizer::new(BYTES.clone(), special, template).expect("its own special tokens")
}
