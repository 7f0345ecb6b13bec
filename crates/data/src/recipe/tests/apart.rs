//! Files of rows are trained on or held out, not both, by whatever name.

use super::*;

const BASE: &str = "[base]\nmodel = \"owner/name\"\n[data]\n";

#[test]
fn one_file_for_both_is_refused_by_whatever_name() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::copy(dir.path().join("train.jsonl"), dir.path().join("sub/other.jsonl")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("train.jsonl"), dir.path().join("link.jsonl")).unwrap();
    let both = [
        ("\"train.jsonl\"", "\"train.jsonl\""),
        ("\"train.jsonl\"", "\"./sub/../train.jsonl\""),
        ("[\"more.jsonl\", \"train.jsonl\"]", "[\"heldout.jsonl\", { path = \"train.jsonl\", limit = 1 }]"),
        ("\"*.jsonl\"", "\"heldout.jsonl\""),
        #[cfg(unix)]
        ("\"train.jsonl\"", "\"link.jsonl\""),
    ];
    for (train, heldout) in both {
        let text = format!("{BASE}train = {train}\nheldout = {heldout}\n");
        let error = parse_in(dir.path(), &text, &[]).unwrap_err().to_string();
        assert!(error.contains("r.toml:5: `data.heldout`: ") && error.contains("is trained on as well"), "{text}\n{error}");
    }
    let replay = "train = \"more.jsonl\"\nheldout = \"train.jsonl\"\nreplay = { sources = \"train.jsonl\" }\n";
    assert!(parse_in(dir.path(), &format!("{BASE}{replay}"), &[]).is_err());
    // The same rows in another file are for the account of the rows, not for this.
    parse_in(dir.path(), &format!("{BASE}train = \"train.jsonl\"\nheldout = \"sub/other.jsonl\"\n"), &[]).unwrap();
}

#[test]
fn what_is_found_later_is_said_of_the_line_it_was_written_in() {
    let recipe = good("[train]\nmax_length = 9\n", &["train.lr=1e-3"]);
    let said = |key: &str| recipe.complain(key, "is wrong", "write another").to_string();
    assert!(said("train.max_length").contains("r.toml:6: `train.max_length`: is wrong"), "{}", said("train.max_length"));
    assert!(said("train.lr").starts_with("--set train.lr=1e-3: `train.lr`"), "{}", said("train.lr"));
    assert!(said("train.warmup").contains("r.toml:5: `train.warmup`"), "{}", said("train.warmup"));
}

#[test]
fn sections_of_other_tools_lead_to_ours() {
    for (theirs, ours) in
        [("lora", "adapter"), ("model", "base"), ("Training", "train"), ("adaptor", "adapter"), ("dataset", "data")]
    {
        let said = message(&format!("{HEAD}[{theirs}]\nr = 3\n"), &[]);
        assert!(said.contains("there is no such section") && said.contains(&format!("did you mean `[{ours}]`?")), "{said}");
    }
}

#[test]
fn a_file_of_rows_is_no_recipe() {
    let dir = folder();
    let error = Recipe::load(&dir.path().join("train.jsonl"), &[]).unwrap_err();
    let said = error.to_string();
    assert!(error.exit_code() == 2 && said.contains("this is a file of rows, not a recipe"), "{said}");
    assert!(said.contains("lorakit recipe new") && said.contains("lorakit data check"), "{said}");
}
