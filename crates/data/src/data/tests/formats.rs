//! The same rows in every format give the same tokens (`tests/data/parquet/formats.py` writes them).

use std::path::Path;

use crate::data::*;
use crate::recipe::{Data, Keep, Source, Template, TemplateKind};
use crate::tokenizer::byte_level::chatml;

/// Writes calls and tools as JSON.
const CALLS: &str = "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {{ m.content }}{% for c in m.tool_calls %}{{ c.function | tojson }}{{ c.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn examples(name: &str, renderer: &Renderer) -> Vec<Example> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/parquet").join(name);
    let mut data = Data::of(vec![Source { path, ..Source::default() }]);
    data.cache = Keep::Off;
    let loaded = load(&data, renderer, 100_000, 1).unwrap();
    // Lines of one file are not those of another.
    loaded.train.iter().map(|e| Example { line: 0, ..e.to_owned() }).collect()
}

#[test]
fn every_format_gives_the_same_tokens_and_masks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calls.jinja");
    std::fs::write(&file, CALLS).unwrap();
    let own = Template { kind: TemplateKind::File(file), ..Template::default() };
    for template in [Template::default(), own] {
        let renderer = Renderer::new(chatml(), &template).unwrap();
        let expected = examples("formats.jsonl", &renderer);
        let text = |example: &Example| renderer.tokenizer().decode(&example.ids, false).unwrap();
        let (first, all) = (text(&expected[0]), expected.iter().map(text).collect::<String>());
        assert_eq!(expected.len(), 50);
        assert!(first.contains("0.50") && first.contains("0.00") && first.contains("1.50"), "{first}");
        for digits in
            ["18446744073709551614", "1000000000000000000000000000002", "1e+22", "1.5e-07", "1.3", "-9223372036854775808"]
        {
            assert!(all.contains(digits), "{digits}");
        }
        for name in ["formats.json", "formats.parquet", "formats.jsonl.gz", "formats.jsonl.zst"] {
            for (i, (found, expected)) in examples(name, &renderer).iter().zip(&expected).enumerate() {
                assert_eq!(text(found), text(expected), "{name}, row {}", i + 1);
                assert_eq!(found, expected, "{name}, row {}", i + 1);
            }
            assert_eq!(examples(name, &renderer).len(), 50, "{name}");
        }
    }
}
