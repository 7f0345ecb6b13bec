//! The text of a recipe. What is accepted can be written out and is read back as the same.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use lorakit::recipe::Recipe;
use lorakit_fuzz::{FOLDER, fair, write};

const ROW: &[u8] = b"{\"prompt\": \"a\", \"completion\": \"b\"}\n";

fuzz_target!(|text: &str| -> Corpus {
    // A path may be a folder or a pattern, and folders of this machine may have any size: those of the recipe's own only.
    if ["\"/", "'/", "..", "**", "\\"].iter().any(|way_out| text.contains(way_out)) {
        return Corpus::Reject;
    }
    for name in ["train.jsonl", "heldout.jsonl"] {
        write(name, ROW);
    }
    let path = FOLDER.join("recipe.toml");
    if let Some(recipe) = fair(Recipe::parse(text, &path, &[])) {
        let written = recipe.to_toml();
        let again = fair(Recipe::parse(&written, &path, &[])).expect("what was written is a recipe");
        assert_eq!(recipe, again, "{written}");
    }
    Corpus::Keep
});
