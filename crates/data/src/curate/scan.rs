//! One look at every row: what is known of it alone, and its words put aside for what has to be known of all.
//!
//! A row's facts take 48 bytes. Refuses to know which rows are kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::leaks::{Held, Leak, SharedRuns};
use super::minhash::Frequencies;
use super::rows;
use super::rows::{Role, WrittenRow};
use super::spill::{Spilled, Writer};
use super::verbs;
use super::verbs::AskedFor;
use super::words;
use super::words::Word;
use super::{Flaw, Pii, RowPlace, flaw, language, pii, quality};
use crate::data::read::Split;
use crate::data::read::reason::Reason;
use crate::error::Result;
use crate::recipe::{Shape, Source, origin};

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct ScanSettings {
    /// Rows to be trained on.
    pub sources: Vec<Source>,
    /// Rows to be judged by, that must not be among them.
    pub heldout: Vec<Source>,
    /// More of these, of any shape: turns of messages count and, in rows without any, every text.
    pub against: Vec<PathBuf>,
    /// Words of a run that makes a leak.
    pub ngram: usize,
}

/// Of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowFacts {
    pub(super) place: RowPlace,
    /// Of everything it says, with who says it.
    pub(super) exact: u64,
    pub(super) prompt_words: u32,
    pub(super) answer_words: u32,
    pub(super) score: f32,
    /// Into [`Scan::names`]; none is not told.
    pub(super) language: Option<&'static str>,
    pub(super) flaws: u16,
    pub(super) pii: u8,
    /// Into [`Scan::names`].
    pub(super) verb: Option<u32>,
    pub(super) object: Option<u32>,
}

impl RowFacts {
    pub(super) fn flaws(&self) -> Vec<Flaw> {
        Flaw::ALL.into_iter().filter(|f| self.flaws & f.bit() != 0).collect()
    }

    pub(super) fn pii(&self) -> Vec<Pii> {
        Pii::ALL.into_iter().filter(|p| self.pii & p.bit() != 0).collect()
    }
}

/// A file.
#[derive(Debug, Clone, serde::Serialize)]
pub struct File {
    pub path: PathBuf,
    pub shape: Shape,
    /// Rows in it (of files of tasks: instances).
    pub rows: usize,
}

/// Everything that is known after one look.
pub struct Scan {
    pub files: Vec<File>,
    /// Files of rows to be judged by.
    pub held_files: Vec<PathBuf>,
    pub held_rows: usize,
    pub ngram: usize,
    pub(super) facts: Vec<RowFacts>,
    /// By number of the row in its source and source: whether it is in `facts`, in reading order.
    pub(super) usable: Vec<Vec<bool>>,
    pub(super) unusable: Vec<(RowPlace, Reason)>,
    pub(super) leaks: Vec<Leak>,
    pub(super) words: Spilled,
    pub(super) frequencies: Frequencies,
    pub(super) names: Vec<String>,
}

struct Looked {
    facts: RowFacts,
    asked: Option<AskedFor>,
    words: Vec<Word>,
    shared: SharedRuns,
}

/// Reads every source once. `tick` hears the rows so far.
///
/// # Errors
/// [`crate::Error::Data`] with file and line for what cannot be read; what `tick` returns.
pub fn scan(settings: &ScanSettings, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<Scan> {
    let (held, held_files) = held(settings, tick)?;
    let mut words = Writer::new()?;
    let mut gathered = Gathered::default();
    let mut frequencies = Frequencies::new();
    let (mut files, mut usable) = (Vec::new(), Vec::new());
    for (index, source) in settings.sources.iter().enumerate() {
        let mut mine: Vec<bool> = Vec::new();
        let opened = rows::open(source, index as u32, Split::Train, |units| {
            mine.extend(units.iter().map(|u| u.parts.is_ok()));
            let looked: Vec<std::result::Result<Looked, (RowPlace, Reason)>> =
                units.into_par_iter().map(|u| look(u, &held)).collect();
            for row in looked {
                gathered.take(row, &mut words, &mut frequencies)?;
            }
            tick(gathered.facts.len())
        })?;
        files.push(File { path: named(&source.path), shape: opened.shape, rows: mine.len() });
        usable.push(mine);
    }
    let leaks = held.leaks(&gathered.shared);
    let Gathered { facts, unusable, names, .. } = gathered;
    let (held_rows, words) = (held.len(), words.finish()?);
    Ok(Scan {
        files,
        held_files,
        held_rows,
        ngram: settings.ngram,
        facts,
        usable,
        unusable,
        leaks,
        words,
        frequencies,
        names: names.list,
    })
}

fn held(settings: &ScanSettings, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<(Held, Vec<PathBuf>)> {
    let mut held = Held::new(settings.ngram);
    let mut files = Vec::new();
    for source in &settings.heldout {
        rows::open(source, files.len() as u32, Split::Heldout, |units| {
            units.iter().filter_map(|u| Some((u.place, u.parts.as_ref().ok()?))).for_each(|(p, parts)| held.add(p, parts));
            tick(0)
        })?;
        files.push(named(&source.path));
    }
    for path in &settings.against {
        rows::texts(path, |line, parts| {
            held.add(RowPlace { source: files.len() as u32, line }, &parts);
        })?;
        files.push(named(path));
    }
    Ok((held, files))
}

/// A file as the report names it: where it came from, if it is none of the user's.
fn named(path: &Path) -> PathBuf {
    origin(path).map_or_else(|| path.to_path_buf(), PathBuf::from)
}

#[derive(Default)]
struct Names {
    list: Vec<String>,
    index: HashMap<String, u32>,
}

impl Names {
    fn of(&mut self, name: String) -> u32 {
        *self.index.entry(name).or_insert_with_key(|name| {
            self.list.push(name.clone());
            self.list.len() as u32 - 1
        })
    }
}

#[derive(Default)]
struct Gathered {
    facts: Vec<RowFacts>,
    unusable: Vec<(RowPlace, Reason)>,
    shared: Vec<(RowPlace, SharedRuns)>,
    names: Names,
}

impl Gathered {
    fn take(
        &mut self,
        row: std::result::Result<Looked, (RowPlace, Reason)>,
        words: &mut Writer,
        frequencies: &mut Frequencies,
    ) -> Result<()> {
        let mut row = match row {
            Ok(row) => row,
            Err(unusable) => {
                self.unusable.push(unusable);
                return Ok(());
            }
        };
        words.push(&row.words)?;
        frequencies.add(&row.words);
        match row.asked {
            Some(AskedFor::Order { verb, object }) => {
                row.facts.verb = Some(self.names.of(verb));
                row.facts.object = object.map(|o| self.names.of(o));
            }
            Some(AskedFor::Question(word)) => row.facts.verb = Some(self.names.of(format!("{word}?"))),
            None => {}
        }
        if !row.shared.is_empty() {
            self.shared.push((row.facts.place, row.shared));
        }
        self.facts.push(row.facts);
        Ok(())
    }
}

fn look(unit: WrittenRow, held: &Held) -> std::result::Result<Looked, (RowPlace, Reason)> {
    let parts = unit.parts.map_err(|reason| (unit.place, reason))?;
    let said = |by: Role| parts.iter().filter(move |p| p.by == by).map(|p| p.text.as_str());
    let count = |by: Role| said(by).map(words::count).sum::<usize>() as u32;
    let (prompt_words, answer_words) = (count(Role::User), count(Role::Assistant));
    let exact = parts.iter().fold(parts.len() as u64, |h, p| words::mix(h ^ words::hash(p.text.as_bytes()) ^ p.by as u64));
    let flaws = flaw::of(&parts);
    let mut kinds = 0;
    parts.iter().flat_map(|p| pii::find(&p.text)).for_each(|(kind, _)| kinds |= kind.bit());
    let all: String = parts.iter().filter(|p| p.by != Role::System).map(|p| format!("{}\n", p.text)).collect();
    let facts = RowFacts {
        place: unit.place,
        exact,
        prompt_words,
        answer_words,
        score: quality::of(&flaws, prompt_words, answer_words).score,
        language: language::of(&all),
        flaws: flaws.iter().fold(0, |bits, f| bits | f.bit()),
        pii: kinds,
        verb: None,
        object: None,
    };
    // The list of verbs is English, and words like `comment` are others elsewhere.
    let english = matches!(facts.language, Some("en") | None);
    let asked = said(Role::User).next().filter(|_| english).and_then(verbs::of);
    let (words, shared) = (words::words(&all), held.shared(&parts));
    Ok(Looked { facts, asked, words, shared })
}
