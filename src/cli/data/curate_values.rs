//! Values of the arguments of `data curate`: scores, flaws, languages, and what becomes of rows.

use clap::ValueEnum;

use crate::curate::{self, Flaw};
use crate::error::{Error, Result};

/// Rows that have (part of) a held-out row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Leaking {
    Report,
    Drop,
}

/// Rows with personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Personal {
    Report,
    Drop,
    /// Write [EMAIL], [PHONE] … in its place
    Mask,
}

/// A score of quality.
pub(super) fn score(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("must be a number from 0 to 1, e.g. 0.5".into()),
    }
}

/// A flaw by its name.
pub(super) fn flaw(text: &str) -> std::result::Result<Flaw, String> {
    Flaw::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
        let names: Vec<_> = Flaw::ALL.iter().map(|f| f.name()).collect();
        format!("flaws are {}", names.join(", "))
    })
}

/// Refuses a language that cannot be told.
///
/// # Errors
/// [`Error::Usage`] with the codes there are.
pub(super) fn known(languages: &[String]) -> Result<()> {
    let known = curate::languages();
    match languages.iter().find(|l| !known.contains(&l.as_str())) {
        None => Ok(()),
        Some(wrong) => {
            let why = format!("`{wrong}` is no language that can be told");
            Err(Error::usage("--language", why, format!("codes are {}", known.join(", "))))
        }
    }
}
