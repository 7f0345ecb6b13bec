//! The order of modules: a table at the head of a folder (`lib.rs`, `mod.rs`) gives each module in it a number, and a module uses
//! only modules of a smaller number. Those of number 0 are free to all; they do not use each other, but for the crate's own.
//! No modules of a folder use each other in a circle, be there a table or not.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::paths::{Arrow, Path, Tree};
use super::source::crates;
use super::{File, files, none};

/// Module → its number.
type Levels = BTreeMap<String, usize>;

/// Most modules that a folder may have without a table.
const FEW: usize = 2;

/// The table in the documentation of a folder.
fn levels(docs: &str) -> Levels {
    let row = Regex::new(r"(?m)^//! \| (\d+) \| ([^|]+) \|").unwrap();
    let name = Regex::new(r"`(\w+)`").unwrap();
    let names = |c: &regex::Captures<'_>| {
        let number: usize = c[1].parse().unwrap();
        name.captures_iter(c.get(2).unwrap().as_str()).map(|n| (n[1].to_string(), number)).collect::<Vec<_>>()
    };
    row.captures_iter(docs).flat_map(|c| names(&c)).collect()
}

/// The tables of a crate.
fn tables(tree: &Tree) -> BTreeMap<Path, Levels> {
    tree.folders().map(|(path, _, docs)| (path.clone(), levels(docs))).collect()
}

/// Everything that is against the order in a crate.
fn complaints(tree: &Tree) -> Vec<String> {
    let tables = tables(tree);
    let arrows = tree.arrows(&|folder, name| tables.get(folder).is_some_and(|levels| levels.contains_key(name)));
    let mut found = tree.hidden();
    for (path, file, _) in tree.folders() {
        let (levels, children) = (&tables[path], tree.children(path));
        let here: Vec<&Arrow> = arrows.iter().filter(|arrow| arrow.folder == *path).collect();
        match levels.is_empty() {
            true if children.len() > FEW => found.push(format!("{file}: {} modules and no table of their order", children.len())),
            true => {}
            false => found.extend(against(file, levels, &children, &here)),
        }
        found.extend(circle(&here).map(|names| format!("{file}: a circle: {}", names.join(" → "))));
    }
    found
}

/// What is wrong with a table, and what is used against it.
fn against(file: &str, levels: &Levels, children: &BTreeSet<&str>, arrows: &[&Arrow]) -> Vec<String> {
    let is_crate = file.ends_with("/lib.rs");
    let missing = children.iter().filter(|name| !levels.contains_key(**name));
    let missing = missing.map(|name| format!("{file}: `{name}` is not in the table"));
    // A crate's table may name modules of other crates that it hands on.
    let gone = levels.keys().filter(|name| !is_crate && !children.contains(name.as_str()));
    let gone = gone.map(|name| format!("{file}: the table names `{name}`, which is not there"));
    let backward = arrows.iter().filter_map(|arrow| {
        let (own, other) = (*levels.get(&arrow.from)?, *levels.get(&arrow.to)?);
        let fine = other < own || (is_crate && other == 0);
        (!fine).then(|| format!("{}: `{}` ({own}) uses `{}` ({other}), see {file}", arrow.place, arrow.from, arrow.to))
    });
    missing.chain(gone).chain(backward).collect()
}

/// The shortest circle of uses, from the first module that is in one.
fn circle(arrows: &[&Arrow]) -> Option<Vec<String>> {
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    arrows.iter().for_each(|a| _ = uses.entry(&a.from).or_default().insert(&a.to));
    let from = |start: &str| {
        let (mut ways, mut seen) = (std::collections::VecDeque::from([vec![start]]), BTreeSet::new());
        while let Some(way) = ways.pop_front() {
            for next in uses.get(way[way.len() - 1]).into_iter().flatten() {
                if *next == start {
                    return Some(way.iter().chain([next]).map(|name| (*name).to_string()).collect());
                }
                if seen.insert(*next) {
                    ways.push_back(way.iter().copied().chain([*next]).collect());
                }
            }
        }
        None
    };
    uses.keys().find_map(|start| from(start))
}

#[test]
fn modules_use_only_what_lies_below() {
    let mut found = Vec::new();
    let mut counts = (0, 0);
    for folder in crates() {
        let tree = Tree::new(&folder, files(&folder).into_iter().filter(|f| f.path.ends_with(".rs")).collect());
        let tables = tables(&tree);
        counts.0 += tables.values().filter(|levels| !levels.is_empty()).count();
        counts.1 += tree.arrows(&|_, _| false).len();
        found.extend(complaints(&tree));
    }
    assert!(counts.0 >= 15 && counts.1 > 500, "the reader finds little: {counts:?} tables and uses");
    none(&found);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "//! | # | module |\n//! | 0 | [`error`], [`files`] | x |\n//! | 2 | [`data`] | x |\n//! | 4 | [`model`] | x |\n//! | 7 | [`train`], [`eval`] | x |\n";
    const MODEL: &str = "//! | # | room | knows |\n//! | 0 | `cache`, `site` | x |\n//! | 1 | `loss` | x |\n//! | 2 | `score` | x |\npub use loss::Loss;\npub struct Model;\n";

    /// What is wrong with these files of a crate that has all modules of its table, after `more` was put to them.
    fn wrong(more: &[(&str, &str)]) -> Vec<String> {
        let mut all: BTreeMap<&str, &str> = ["error", "files", "data/mod", "train", "eval"].map(|name| (name, "")).into();
        all.extend([("lib", LIB), ("model/mod", MODEL)]);
        all.extend(["model/cache", "model/site", "model/loss", "model/score"].map(|name| (name, "")));
        all.extend(more.iter().copied());
        let file = |(name, text): (&str, &str)| File { path: format!("src/{name}.rs"), text: text.to_string() };
        complaints(&Tree::new("src", all.into_iter().map(file).collect()))
    }

    #[track_caller]
    fn complains(name: &str, text: &str, parts: &[&str]) {
        let found = wrong(&[(name, text)]);
        assert!(found.len() == 1 && parts.iter().all(|part| found[0].contains(part)), "{text}: {found:?}");
    }

    #[test]
    fn the_table_is_read() {
        let levels = levels(LIB);
        assert_eq!(
            levels.iter().map(|(n, l)| (&**n, *l)).collect::<Vec<_>>(),
            [("data", 2), ("error", 0), ("eval", 7), ("files", 0), ("model", 4), ("train", 7)]
        );
        assert_eq!(wrong(&[]), [""; 0]);
    }

    #[test]
    fn an_arrow_down_is_fine() {
        let model =
            format!("{MODEL}use crate::data::Row;\nuse crate::error::Result;\nuse crate::model::x;\nuse self::score::S;\n");
        assert_eq!(wrong(&[("model/mod", model.as_str())]), [""; 0]);
        assert_eq!(wrong(&[("files", "use crate::error::Error;\n"), ("train", "use super::model::Row;\n")]), [""; 0]);
        assert_eq!(wrong(&[("model/score", "use super::{Loss, Model, cache};\nuse crate::data;\n")]), [""; 0]);
    }

    #[test]
    fn an_arrow_up_is_found_however_it_is_written() {
        for text in [
            "use crate::model::Model;",
            "use crate::{error::Error, model};",
            "use crate::{\n    error::{Error, Result},\n    model::{Model},\n};",
            "fn f() { crate::model::open() }",
            "use super::super::model::Model;",
        ] {
            complains("data/load", text, &["src/data/load.rs:1: `data` (2) uses `model` (4), see src/lib.rs"]);
        }
        complains("data/mod", "\nuse super::model;", &["src/data/mod.rs:2:"]);
    }

    #[test]
    fn an_arrow_up_is_found_inside_a_module() {
        for text in ["use super::score;", "use crate::model::{Model, score::S};", "fn f() { super::super::model::score::g() }"] {
            complains("model/loss", text, &["src/model/loss.rs:1: `loss` (1) uses `score` (2), see src/model/mod.rs"]);
        }
        complains("model/cache", "use super::Loss;", &["`cache` (0) uses `loss` (1)"]);
        complains("model/cache", "use super::site;", &["`cache` (0) uses `site` (0)"]);
    }

    #[test]
    fn neighbours_of_one_number_do_not_use_each_other() {
        complains("eval", "use crate::train::run;", &["`eval` (7) uses `train` (7)"]);
    }

    #[test]
    fn a_module_outside_the_table_is_found() {
        complains("helpers", "", &["src/lib.rs: `helpers` is not in the table"]);
        complains("model/more", "", &["src/model/mod.rs: `more` is not in the table"]);
        let model = MODEL.replace("`loss`", "`loss`, `lost`");
        complains("model/mod", &model, &["the table names `lost`"]);
    }

    #[test]
    fn a_folder_of_more_than_a_few_modules_has_a_table() {
        let few = [("data/a", ""), ("data/b", "use super::a;")];
        assert_eq!(wrong(&few), [""; 0]);
        let many = wrong(&[few[0], few[1], ("data/c", "")]);
        assert_eq!(many, ["src/data/mod.rs: 3 modules and no table of their order"]);
    }

    #[test]
    fn a_circle_is_found() {
        let two = wrong(&[("data/a", "use super::b;"), ("data/b", "fn f() { super::a::g() }")]);
        assert_eq!(two, ["src/data/mod.rs: a circle: a → b → a"]);
        let zero = wrong(&[("error", "use crate::files;"), ("files", "use crate::error;")]);
        assert_eq!(zero, ["src/lib.rs: a circle: error → files → error"]);
        assert_eq!(circle(&[]), None);
    }
}
