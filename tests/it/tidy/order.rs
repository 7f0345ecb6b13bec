//! The module order: a module uses only modules of a smaller number in the table at the top of `src/lib.rs`.

use std::collections::BTreeMap;

use regex::Regex;

use super::source::sources;
use super::{File, none, root};

/// Module → its number.
type Levels = BTreeMap<String, usize>;

/// The table in the documentation of `src/lib.rs`.
fn levels(lib: &str) -> Levels {
    let row = Regex::new(r"(?m)^//! \| (\d+) \| ([^|]+) \|").unwrap();
    let name = Regex::new(r"`(\w+)`").unwrap();
    let names = |c: &regex::Captures<'_>| {
        let number: usize = c[1].parse().unwrap();
        name.captures_iter(c.get(2).unwrap().as_str()).map(|n| (n[1].to_string(), number)).collect::<Vec<_>>()
    };
    row.captures_iter(lib).flat_map(|c| names(&c)).collect()
}

/// Modules of the crate that `file` names: `crate::x`, `crate::{x, y::Z}`, and as many `super::` as lead to the root.
fn used(file: &File) -> Vec<(usize, String)> {
    let inner = file.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let ups = "super::".repeat(inner.split('/').count());
    let path = Regex::new(&format!(r"(?s)(?:\bcrate::|\b{ups})(?:(\w+)|\{{(.*?)\}};)")).unwrap();
    let first = Regex::new(r"(?:^|,)\s*(\w+)").unwrap();
    let mut found = Vec::new();
    for c in path.captures_iter(&file.text) {
        let line = file.text[..c.get(0).unwrap().start()].lines().count().max(1);
        match (c.get(1), c.get(2)) {
            (Some(one), _) => found.push((line, one.as_str().to_string())),
            (_, Some(group)) => {
                let flat = outermost(group.as_str());
                found.extend(first.captures_iter(&flat).map(|c| (line, c[1].to_string())));
            }
            _ => {}
        }
    }
    found
}

/// A group of a `use` without the groups inside it.
fn outermost(group: &str) -> String {
    let mut depth = 0usize;
    let keep = |c: char| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
        (depth == 0).then_some(c)
    };
    group.chars().filter_map(keep).collect()
}

/// What `file` uses against the order. Modules of number 0 are free to all, among themselves too.
fn backward(levels: &Levels, file: &File) -> Vec<String> {
    let own = file.path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    let Some(&level) = levels.get(own) else {
        return vec![format!("{}: `{own}` is not in the table of src/lib.rs", file.path)];
    };
    let against = |(line, name): (usize, String)| {
        let other = *levels.get(&name)?;
        let fine = name == own || other < level || other == 0;
        (!fine).then(|| format!("{}:{line}: `{own}` ({level}) uses `{name}` ({other})", file.path))
    };
    used(file).into_iter().filter_map(against).collect()
}

#[test]
fn modules_use_only_what_lies_below() {
    let levels = levels(&std::fs::read_to_string(root().join("src/lib.rs")).unwrap());
    assert!(levels.len() >= 15, "{levels:?}");
    let sources: Vec<File> = sources().into_iter().filter(|f| !["src/lib.rs", "src/main.rs"].contains(&&*f.path)).collect();
    assert!(sources.iter().map(|f| used(f).len()).sum::<usize>() > 100, "the reader of `use` lines reads nothing");
    none(&sources.iter().flat_map(|f| backward(&levels, f)).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "//! | # | module |\n//! | 0 | [`error`], [`files`] | x |\n//! | 2 | [`data`] | x |\n//! | 4 | [`model`] | x |\n//! | 7 | [`train`], [`eval`] | x |\n";

    fn complaints(path: &str, text: &str) -> usize {
        backward(&levels(LIB), &File { path: path.into(), text: text.into() }).len()
    }

    #[test]
    fn the_table_is_read() {
        let levels = levels(LIB);
        assert_eq!(
            levels.iter().map(|(n, l)| (&**n, *l)).collect::<Vec<_>>(),
            [("data", 2), ("error", 0), ("eval", 7), ("files", 0), ("model", 4), ("train", 7)]
        );
    }

    #[test]
    fn an_arrow_down_is_fine() {
        assert_eq!(complaints("src/model/mod.rs", "use crate::data::Row;\nuse crate::error::Result;\nuse crate::model::x;\n"), 0);
        assert_eq!(complaints("src/files.rs", "use crate::error::Error;\n"), 0);
        assert_eq!(complaints("src/data/load.rs", "use super::model::Row;\n"), 0);
    }

    #[test]
    fn an_arrow_up_is_found_however_it_is_written() {
        for text in [
            "use crate::model::Model;",
            "use crate::{error::Error, model};",
            "use crate::{\n    error::{Error, Result},\n    model::{Model, Site},\n};",
            "fn f() { crate::model::open() }",
            "use super::super::model::Model;",
        ] {
            assert_eq!(complaints("src/data/load.rs", text), 1, "{text}");
        }
        assert_eq!(complaints("src/data/mod.rs", "use super::model;"), 1);
    }

    #[test]
    fn neighbours_of_one_number_do_not_use_each_other() {
        assert_eq!(complaints("src/eval.rs", "use crate::train::run;"), 1);
    }

    #[test]
    fn a_module_outside_the_table_is_found() {
        assert_eq!(complaints("src/helpers.rs", ""), 1);
    }
}
