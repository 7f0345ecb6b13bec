//! The modules of a crate as its files lie, and what each uses of the others: `crate::x`, `super::x`, `self::x`, in groups
//! too. A name that a folder's head has from elsewhere by `use` is followed to where it is defined.
//!
//! Refuses to know which use is right (`order`).

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::File;
use super::source::shipped;

/// Names from the crate's root; none of the crate itself.
pub(crate) type Path = Vec<String>;

/// A crate's modules, without those that only tests use.
pub(crate) struct Tree {
    /// Of each, its file: comments and tests are blank.
    modules: BTreeMap<Path, File>,
    /// Of each, the paths in its text that say where they start, from the crate's root, with their lines.
    uses: BTreeMap<Path, Vec<(usize, Path)>>,
    /// Of each, what stands in its `//!` lines.
    docs: BTreeMap<Path, String>,
    /// Of each, the names that it has by `use` from elsewhere in the crate, with where they are.
    imports: BTreeMap<Path, BTreeMap<String, Path>>,
}

/// A use of one child of a folder by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) folder: Path,
    pub(crate) from: String,
    pub(crate) to: String,
    /// File and line.
    pub(crate) place: String,
}

impl Tree {
    /// Of the files below `root`, the folder that holds `lib.rs`.
    pub(crate) fn new(root: &str, files: Vec<File>) -> Tree {
        let renamed: BTreeMap<String, Path> = files.iter().flat_map(|f| renamed(root, f)).collect();
        let path = |file: &File| renamed.get(&file.path).cloned().unwrap_or_else(|| module(root, &file.path));
        let docs = files.iter().map(|f| (path(f), head(&f.text))).collect();
        let left_out = |f: &File| f.path.ends_with("_tests.rs") || f.path == format!("{root}/main.rs");
        let modules: BTreeMap<Path, File> = shipped(files).into_iter().filter(|f| !left_out(f)).map(|f| (path(&f), f)).collect();
        let uses = modules.iter().map(|(path, file)| (path.clone(), uses(path, &file.text))).collect();
        let mut tree = Tree { modules, uses, docs, imports: BTreeMap::new() };
        tree.imports = tree.modules.iter().map(|(path, file)| (path.clone(), tree.imported(path, file))).collect();
        tree
    }

    /// Every module that has modules in it, with its file's path and the `//!` lines.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&Path, &str, &str)> {
        let heads = self.modules.iter().filter(|(path, _)| !self.children(path).is_empty());
        heads.map(|(path, file)| (path, &*file.path, self.docs.get(path).map_or("", String::as_str)))
    }

    /// Names of the modules in `folder`.
    pub(crate) fn children(&self, folder: &[String]) -> BTreeSet<&str> {
        let inner = self.modules.keys().filter(|path| path.len() == folder.len() + 1 && path.starts_with(folder));
        inner.filter_map(|path| path.last()).map(String::as_str).collect()
    }

    /// Every use of one child of a folder by another; `named` tells which modules a folder has besides those of its files.
    pub(crate) fn arrows(&self, named: &dyn Fn(&[String], &str) -> bool) -> BTreeSet<Arrow> {
        let arrows = move |path: &Path, (line, target): &(usize, Path)| {
            let place = format!("{}:{line}", self.modules[path].path);
            self.arrow(path, target.clone(), place, named)
        };
        self.uses.iter().flat_map(|(path, uses)| uses.iter().filter_map(move |one| arrows(path, one))).collect()
    }

    /// The arrow that a use of `target` in the module `user` is; none within one child, or to what a folder's head defines.
    fn arrow(&self, user: &Path, mut target: Path, place: String, named: &dyn Fn(&[String], &str) -> bool) -> Option<Arrow> {
        for _ in 0..8 {
            let common = user.iter().zip(&target).take_while(|(a, b)| a == b).count();
            let (folder, from, to) = (&user[..common], user.get(common)?, target.get(common)?);
            if self.modules.contains_key(&target[..=common]) || named(folder, to) {
                return Some(Arrow { folder: folder.to_vec(), from: from.clone(), to: to.clone(), place });
            }
            let mut found = self.imports.get(folder)?.get(to)?.clone();
            found.extend_from_slice(&target[common + 1..]);
            target = found;
        }
        None
    }

    /// The names that a module has by `use` from elsewhere in the crate.
    fn imported(&self, module: &Path, file: &File) -> BTreeMap<String, Path> {
        let start = Regex::new(r"(?m)^(?:pub(?:\([^)]*\))? )?use ").unwrap();
        let leaves = start.find_iter(&file.text).flat_map(|m| leaves(&file.text[m.end()..]));
        let place = |leaf: &[String]| {
            let own = || [&module[..], &leaf[..1]].concat();
            match is_start(leaf.first()?) {
                true => absolute(module, leaf),
                false => self.modules.contains_key(&own()).then(|| [&module[..], leaf].concat()),
            }
        };
        leaves.filter_map(|leaf| Some((leaf.name()?, place(&leaf.path)?))).collect()
    }

    /// Uses of all that another module of the crate holds, by `*`: they hide what is used.
    pub(crate) fn hidden(&self) -> Vec<String> {
        let of = |(path, uses): (&Path, &Vec<(usize, Path)>)| {
            let stars = uses.iter().filter(|(_, used)| used.last().is_some_and(|name| name == "*"));
            let of_another = |used: &[String]| used != path.as_slice() && self.modules.contains_key(used);
            let modules = stars.filter(|(_, used)| of_another(&used[..used.len() - 1]));
            modules.map(|(line, _)| format!("{}:{line}: a `*` hides what is used", self.modules[path].path)).collect::<Vec<_>>()
        };
        self.uses.iter().flat_map(of).collect()
    }
}

/// The module that a file is.
fn module(root: &str, file: &str) -> Path {
    let inner = file.strip_prefix(root).unwrap_or(file).trim_start_matches('/').trim_end_matches(".rs");
    let mut names: Path = inner.split('/').map(str::to_string).collect();
    names.pop_if(|last| last == "mod" || (inner == "lib" && last == "lib"));
    names
}

/// Files that a file names by `#[path = …]`, with the modules that they are.
fn renamed(root: &str, file: &File) -> Vec<(String, Path)> {
    let pattern = Regex::new(r#"(?m)^#\[path = "([^"]+)"\]\s*(?:pub(?:\([^)]*\))? )?mod (\w+);"#).unwrap();
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let named =
        |c: regex::Captures<'_>| (format!("{folder}/{}", &c[1]), [module(root, &file.path), vec![c[2].to_string()]].concat());
    pattern.captures_iter(&file.text).map(named).collect()
}

/// The `//!` lines of a file.
fn head(text: &str) -> String {
    text.lines().filter(|line| line.starts_with("//!")).map(|line| format!("{line}\n")).collect()
}

/// Whether a path that begins with this name says where it starts.
fn is_start(name: &str) -> bool {
    ["crate", "self", "super"].contains(&name)
}

/// Every path in the text of `module` that says where it starts, from the crate's root, with its line.
fn uses(module: &Path, text: &str) -> Vec<(usize, Path)> {
    let start = Regex::new(r"\b(?:crate|self|super)::").unwrap();
    let inner = inline(text);
    let mut found = Vec::new();
    for m in start.find_iter(text).filter(|m| !text[..m.start()].ends_with("::")) {
        let line = text[..m.start()].matches('\n').count() + 1;
        let within = inner.iter().filter(|(lines, _)| lines.contains(&line)).map(|(_, name)| name.clone());
        let module: Path = module.iter().cloned().chain(within).collect();
        found.extend(leaves(&text[m.start()..]).iter().filter_map(|leaf| Some((line, absolute(&module, &leaf.path)?))));
    }
    found
}

/// The modules that stand in a file, with their lines, the outer ones first.
fn inline(text: &str) -> Vec<(std::ops::Range<usize>, String)> {
    let start = Regex::new(r"^( *)(?:pub(?:\([^)]*\))? )?mod (\w+) \{$").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let found = |(i, line): (usize, &&str)| {
        let c = start.captures(line)?;
        let end = format!("{}}}", &c[1]);
        let length = lines[i..].iter().position(|l| *l == end).unwrap_or(lines.len() - i);
        Some((i + 1..i + length + 1, c[2].to_string()))
    };
    lines.iter().enumerate().filter_map(found).collect()
}

/// A path that says where it starts, from the crate's root; none that leads out of the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Path> {
    let mut place = module.to_vec();
    for name in path {
        match name.as_str() {
            "crate" => place.clear(),
            "self" => {}
            "super" => _ = place.pop()?,
            _ => place.push(name.clone()),
        }
    }
    Some(place)
}

/// One path of a `use`, and the name that it gets.
struct Leaf {
    path: Path,
    alias: Option<String>,
}

impl Leaf {
    fn name(&self) -> Option<String> {
        let last = || self.path.iter().rfind(|name| *name != "self").cloned();
        self.alias.clone().or_else(last)
    }
}

/// The paths that a tree of a `use`, or one path in an expression, stands for.
fn leaves(text: &str) -> Vec<Leaf> {
    let mut found = Vec::new();
    tree(text, &mut Vec::new(), &mut found);
    found
}

/// Reads one tree at the beginning of `text`; returns what follows it.
fn tree<'t>(text: &'t str, before: &mut Path, found: &mut Vec<Leaf>) -> &'t str {
    let mut rest = text.trim_start();
    if let Some(mut group) = rest.strip_prefix('{') {
        loop {
            group = group.trim_start();
            match group.strip_prefix('}') {
                Some(after) => return after,
                None if group.is_empty() => return group,
                None => {}
            }
            let after = tree(group, before, found).trim_start();
            let next = after.strip_prefix(',').unwrap_or(after);
            // Neither a comma nor the end: this is no group of a `use`.
            if next.len() == after.len() && !after.starts_with('}') {
                return after;
            }
            group = next;
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
    let name = rest[..end].to_string();
    rest = &rest[end..];
    let depth = before.len();
    before.extend(Some(name).filter(|name| !name.is_empty()));
    match rest.strip_prefix("::") {
        Some(inner) if inner.starts_with(|c: char| c.is_alphanumeric() || "_*{".contains(c)) => rest = tree(inner, before, found),
        _ => {
            let (alias, after) = alias(rest);
            found.push(Leaf { path: before.clone(), alias });
            rest = after;
        }
    }
    before.truncate(depth);
    rest
}

/// The name behind ` as `, if `text` begins so, and what follows.
fn alias(text: &str) -> (Option<String>, &str) {
    let Some(name) = text.trim_start().strip_prefix("as ") else { return (None, text) };
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    (Some(name[..end].to_string()), &name[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> Vec<File> {
        all.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect()
    }

    /// Arrows of made-up files, as `folder: from → to`.
    fn arrows(all: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::new("src", files(all));
        let found = tree.arrows(&|_, _| false);
        found.iter().map(|a| format!("{}: {} → {}", a.folder.join("::"), a.from, a.to)).collect()
    }

    #[test]
    fn a_path_is_read_however_it_is_written() {
        for text in [
            "use crate::m::b::X;",
            "use super::b;",
            "use super::{self, Own, b::{X, Y as Z}};",
            "use crate::{\n    other::Thing,\n    m::{b, Own},\n};",
            "fn f() -> super::b::X {}",
            "fn f() { crate::m::b::run::<u32>() }",
            "mod inner {\n    use super::super::b;\n}\n",
            "use super::Given;",
            "use super::Renamed;",
            "use super::Twice::{A, B};",
        ] {
            let head = "mod a;\nmod b;\npub use self::b::{Given, X as Renamed};\nuse crate::Twice;\npub struct Own;\n";
            let lib = ("src/lib.rs", "mod m;\npub use m::b::Twice;\n");
            let found = arrows(&[lib, ("src/m/mod.rs", head), ("src/m/a.rs", text), ("src/m/b.rs", "")]);
            assert_eq!(found, ["m: a → b"], "{text}");
        }
    }

    #[test]
    fn what_a_head_defines_is_nobodys() {
        let head = "mod a;\nmod b;\nuse std::b as c;\npub struct Own;\nfn f() { b::g() }\n";
        let text = "use super::{Own, c};\nuse std::collections::b;\nmod b {\n}\nfn f() { self::b::g() }\n// super::b\n";
        assert_eq!(arrows(&[("src/m/mod.rs", head), ("src/m/a.rs", text), ("src/m/b.rs", "")]), [""; 0]);
    }

    #[test]
    fn tests_are_left_out() {
        let text = "#[cfg(test)]\nmod tests {\n    use super::super::b;\n}\n";
        let head = ("src/m/mod.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod real;\n");
        let only = [("src/m/real.rs", "use super::b;\n"), ("src/m/a_tests.rs", "use super::b;\n")];
        assert_eq!(arrows(&[head, ("src/m/a.rs", text), ("src/m/b.rs", ""), only[0], only[1]]), [""; 0]);
    }

    #[test]
    fn a_file_is_a_module_of_its_folder_and_of_those_above() {
        let deep = "use super::x::X;\nuse super::super::c;\nuse crate::n;\n";
        let heads = [("src/m.rs", "mod b;\nmod c;\n"), ("src/m/b/mod.rs", ""), ("src/n.rs", ""), ("src/m/c.rs", "")];
        let found = arrows(&[heads[0], heads[1], heads[2], heads[3], ("src/m/b/y.rs", deep), ("src/m/b/x.rs", "")]);
        assert_eq!(found, [": m → n", "m: b → c", "m::b: y → x"]);
        let named = ("src/m/b/odd.rs", "#[path = \"odd_x86.rs\"]\nmod x86;\n");
        assert_eq!(arrows(&[named, ("src/m/b/odd_x86.rs", "use super::Lane;\n")]), [""; 0]);
    }

    #[test]
    fn a_star_is_found() {
        let stars = |text| Tree::new("src", files(&[("src/m/a.rs", text), ("src/m/b.rs", "")])).hidden().len();
        assert_eq!((stars("use super::b::*;"), stars("use super::{b::{*}};"), stars("use self::Kind::*;\nuse x::*;")), (1, 1, 0));
        assert_eq!(stars("mod inner {\n    use super::*;\n}\n"), 0);
    }
}
