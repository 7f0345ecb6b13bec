//! What rows are worth: copies, leaks, languages, flaws, personal data, spread, quality; and which of them to keep.
//!
//! ```text
//! rows ─► words ─► scan ───────────► copies ─► choose ─► report
//! units   hashes   one look a row:   MinHash   kept and removed, each with its reason
//!                  language, flaw, pii, verbs, quality, leaks
//! ```
//! Rows are looked at as the sources give them: before templates, before tokens. What has to be known of all rows at once is
//! small (facts and a band of hashes, about 200 bytes a row); words go to a temporary file.
//! Refuses to know templates, tokenizers and models, and how a report is shown (`cli::data`).
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `named`, `rows`, `words`, `pii` | from names to files; rows as the sources give them; hashes of words; personal data |
//! | 1 | `language`, `verbs`, `flaw`, `leaks`, `minhash`, `spill` | which language; what is asked for; refusals and garbage; held-out rows among others; signatures of sets; words in a temporary file |
//! | 2 | `copies`, `quality` | rows that say the same; a score a row |
//! | 3 | `scan` | one look at every row |
//! | 4 | `best`, `out` | the k best rows, spread over what there is; where kept rows go |
//! | 5 | `choose` | which rows to keep, and why not |
//! | 6 | `account`, `kept`, `report` | what became of every row; files of kept rows; what was found |

mod named;
mod rows;
mod words;
mod spill;
mod language;
mod flaw;
mod pii;
mod verbs;
mod quality;
mod leaks;
mod minhash;
mod copies;
mod scan;
mod best;
mod choose;
mod report;
mod account;
mod out;
mod kept;

use crate::json;

pub use account::account;
pub use choose::{KeepChoice, Removed, Why, Wishes, choose};
pub use flaw::Flaw;
pub use kept::KeptRows;
pub use leaks::Leak;
pub use named::{files_of, is_recipe};
pub use out::CurateOut;
pub use pii::{Pii, mask};
pub use quality::Quality;
pub use report::{Copies, CopyOf, CurationReport, Distribution, Findings, Leaks, Low, Scores, Spread, VerbCount, summary};
pub use rows::{Raw, raw_rows, text_columns};
pub use scan::{File, Scan, ScanSettings, scan};

/// Every language code that rows can be told to have.
pub fn languages() -> Vec<&'static str> {
    language::known()
}

/// Masks personal data in every text of a row; how many places there were.
pub fn mask_row(row: &mut Raw) -> usize {
    let mut places = 0;
    row.text = json::map_strings(&row.text, |text| {
        let (masked, n) = mask(text)?;
        places += n;
        Some(masked)
    });
    places
}

/// A row: the file (index into the sources given) and the line, or the number of the instance in files of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RowPlace {
    pub source: u32,
    pub line: u32,
}
