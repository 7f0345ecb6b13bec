//! Every shipped recipe is valid, and its head says how to run it.

use std::collections::BTreeSet;

use lorakit::recipe::{Recipe, Source};

use super::{File, files, none, root};

/// The comment lines that a recipe begins with.
fn head(text: &str) -> String {
    text.lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

fn wrong(file: &File) -> Vec<String> {
    let command = format!("train {}", file.path);
    let mut wrong = Vec::new();
    if !head(&file.text).contains(&command) {
        wrong.push(format!("{}: its head does not name the command `{command}`", file.path));
    }
    if let Err(error) = Recipe::parse(&file.text, &root().join(&file.path), &[]) {
        wrong.push(format!("{}: {error}", file.path));
    }
    wrong
}

#[test]
fn every_recipe_is_valid_and_says_how_to_run_it() {
    let recipes: Vec<File> =
        files("recipes").into_iter().filter(|f| f.path.ends_with(".toml") && !f.path.starts_with("recipes/data/")).collect();
    assert!(recipes.iter().any(|f| f.path == "recipes/quickstart.toml"));
    none(&recipes.iter().flat_map(wrong).collect::<Vec<_>>());
}

#[test]
fn a_bad_recipe_is_found() {
    let good = files("recipes/quickstart.toml").remove(0);
    assert_eq!(wrong(&good), [""; 0]);
    let silent = File { path: good.path.clone(), text: good.text.replace("train recipes/", "run recipes/") };
    assert_eq!(wrong(&silent).len(), 1);
    let broken = File { path: good.path, text: good.text.replace("rank =", "rang =") };
    assert_eq!(wrong(&broken).len(), 1);
}

/// What is trained on and judged on at once: files, and lines of JSON Lines.
fn overlap(recipe: &Recipe) -> Vec<String> {
    let items = |sources: &[Source]| -> BTreeSet<String> {
        let of = |source: &Source| match source.path.extension().is_some_and(|e| e == "jsonl") {
            true => std::fs::read_to_string(&source.path).unwrap().lines().map(str::to_string).collect(),
            false => vec![source.path.display().to_string()],
        };
        sources.iter().flat_map(of).collect()
    };
    let trained = [&recipe.data.train[..], recipe.data.replayed()].concat();
    let judged = [recipe.data.heldout.clone(), recipe.eval.sets.iter().flat_map(|set| set.rows.clone()).collect()].concat();
    items(&trained).intersection(&items(&judged)).cloned().collect()
}

#[test]
fn no_recipe_judges_on_what_it_trains_on() {
    for file in files("recipes").into_iter().filter(|f| f.path.ends_with(".toml") && !f.path.starts_with("recipes/data/")) {
        let read = |text: &str| Recipe::parse(text, &root().join(&file.path), &[]).unwrap();
        assert_eq!(overlap(&read(&file.text)), [""; 0], "{}", file.path);
        if file.path == "recipes/super-ni.toml" {
            // The tasks that are judged, trained on as well, are seen.
            let both = file.text.replace("except_tasks = ", "tasks = ");
            let error = Recipe::parse(&both, &root().join(&file.path), &[]).unwrap_err().to_string();
            assert!(error.contains("is trained on as well"), "{error}");
        }
    }
}
