//! A file of rows: the first byte says of which kind, the rest is the file. Its shape is found from its rows.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lorakit::data::{self, Renderer};
use lorakit::recipe::{Data, Source, Template};
use lorakit_fuzz::{fair, tokenizer, write};

/// By the last digit of the first byte, so that `0` to `9` name them.
const NAMES: [&str; 10] = [
    "rows.jsonl",
    "rows.json",
    "rows.csv",
    "rows.tsv",
    "rows.txt",
    "rows.md",
    "rows.parquet",
    "rows.jsonl.gz",
    "rows.jsonl.zst",
    "rows.ndjson",
];

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static RENDERER: LazyLock<Renderer> =
    LazyLock::new(|| Renderer::new(tokenizer(Some(TEMPLATE.into())), &Template::default()).expect("ChatML"));

fuzz_target!(|input: &[u8]| {
    let Some((kind, rows)) = input.split_first() else { return };
    let path = write(NAMES[usize::from(kind.wrapping_sub(b'0')) % NAMES.len()], rows);
    let mut data = Data::of(vec![Source { path, ..Source::default() }]);
    data.cache = lorakit::recipe::Keep::Off;
    fair(data::load(&data, &RENDERER, 64, 1));
    fair(data::preview(&data, &RENDERER, 1, 2));
});
