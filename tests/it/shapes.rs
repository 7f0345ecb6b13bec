//! Real files of every shape load, and every row of them is accounted for.

use std::path::Path;

use lorakit::data::{self, Renderer};
use lorakit::model::text;
use lorakit::recipe::{Data, Recipe, Shape, Source, Take};

use crate::shared;

/// Folder or file, the shape that it must have (by detection alone), the answer taken.
const FILES: [(&str, Shape, Option<Take>); 9] = [
    ("alpaca", Shape::Alpaca, None),
    ("chat/oasst_fr_messages.jsonl", Shape::Messages, None),
    ("customer_service/sgd_dialogues.jsonl", Shape::Messages, None),
    ("sharegpt", Shape::ShareGpt, None),
    ("preference/dpo_en_sharegpt.jsonl", Shape::Preference, Some(Take::Chosen)),
    ("preference/oasst_en_pairs.jsonl", Shape::Preference, Some(Take::Rejected)),
    ("preference/oasst_en_ranked.jsonl", Shape::Preference, Some(Take::Chosen)),
    ("preference/kto_en.jsonl", Shape::Labelled, Some(Take::Desirable)),
    ("superni/tasks", Shape::SuperNi, None),
];

#[test]
fn every_real_file_of_a_known_shape_loads() {
    let (Some(root), Some(model)) = (shared::find("data"), shared::smollm2()) else { return };
    let tokenizer = text::tokenizer(&model).unwrap();
    let recipe = Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart.toml"), &[]).unwrap();
    let renderer = Renderer::new(tokenizer, &recipe.template).unwrap();
    let mut files = 0;
    for (place, shape, take) in FILES {
        for path in listed(&root.join(place)) {
            let source = Source { path: path.clone(), take, ..Source::default() };
            let data = Data::of(vec![source]);
            let report = data::load(&data, &renderer, 100_000, 0).unwrap().report;
            let name = path.strip_prefix(&root).unwrap().display();
            println!("{name}: {:?}, {} rows used, {} dropped", report.sources[0].shape, report.rows_used(), report.dropped.len());
            assert_eq!(report.sources[0].shape, shape, "{name}");
            assert_eq!(report.rows_used() + report.dropped.len(), report.rows_read(), "{name}");
            assert!(report.rows_used() > 0 && report.open_answers == 0, "{name}");
            files += 1;
        }
    }
    println!("{files} files");
    assert!(files >= 50, "only {files} files were there");
}

/// The file, or every file of the folder, by name.
fn listed(path: &Path) -> Vec<std::path::PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let mut files: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
