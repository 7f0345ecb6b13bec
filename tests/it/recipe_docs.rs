//! `docs/recipes.md` says what `recipe::keys()` says.

use std::path::Path;

use lorakit::recipe;

const HEAD: &str = "# Every key of a recipe

Made from `crates/data/src/recipe/raw.rs` by `LORAKIT_WRITE_DOCS=1 cargo test --test it recipe_docs`; a test fails when it is out of date.
`lorakit recipe keys` prints the same, `docs/recipe.schema.json` gives it to editors, and `--set section.key=value` replaces a
value on the command line. Only `base.model` and `data.train` must be there.
";

fn page() -> String {
    let (mut page, mut section) = (HEAD.to_string(), String::new());
    for key in recipe::keys() {
        let (of, name) = key.key.split_once('.').unwrap();
        if of != section {
            section = of.to_string();
            page += &format!("\n## [{section}]\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
        }
        let cell = |text: &str| text.replace('|', "\\|");
        let default = key.default.as_deref().map(|d| format!("`{d}`")).unwrap_or_default();
        page += &format!("| `{name}` | {} | {} | {} |\n", cell(&key.expects), cell(&default), cell(&key.doc));
    }
    page
}

#[test]
fn the_page_of_keys_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let page = page();
    assert!(page.matches("\n| `").count() >= 35, "{page}");
    if std::env::var_os("LORAKIT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/recipes.md is out of date; run: LORAKIT_WRITE_DOCS=1 cargo test --test it recipe_docs");
}
