//! `[data.mixture]` and what sources say about their share, checked: which of these keys go together.
//!
//! Refuses to know how many rows there are (`data::mixture`).

use super::locate::Written;
use super::raw::{RawMixture, RawSource, RawSources};
use super::{Data, Mixture, MixtureUnit, Source, Strategy};
use crate::error::Result;

/// The mixture of `train`. Where it names no strategy, a weight anywhere means `weights`.
///
/// # Errors
/// [`crate::Error::Recipe`] for a key that the strategy does not use.
pub(super) fn check(written: &Written, raw: RawMixture, train: &RawSources) -> Result<Mixture> {
    let strategy = raw.strategy.unwrap_or(if any_weight(train) { Strategy::Weights } else { Strategy::All });
    let of = |allowed: &[Strategy]| allowed.contains(&strategy);
    let keys = [
        ("cap", raw.cap.is_some(), of(&[Strategy::Proportional])),
        ("temperature", raw.temperature.is_some(), of(&[Strategy::Proportional])),
        ("rows", raw.rows.is_some(), of(&[Strategy::Proportional, Strategy::Weights])),
        ("unit", raw.unit.is_some(), of(&[Strategy::Weights])),
    ];
    if let Some((key, ..)) = keys.into_iter().find(|(_, given, allowed)| *given && !allowed) {
        let why = format!("has no meaning where the strategy is `{}`", word(strategy));
        let help = "`cap` and `temperature` belong to `proportional`, `unit` to `weights`, `rows` to both";
        return Err(written.complain(&format!("data.mixture.{key}"), why, help));
    }
    Ok(Mixture {
        strategy,
        cap: raw.cap,
        temperature: raw.temperature.unwrap_or(1.0),
        rows: raw.rows,
        unit: raw.unit.unwrap_or(MixtureUnit::Rows),
    })
}

/// Refuses what sources say of their share where the strategy does not use it, and sources of one name that disagree.
///
/// # Errors
/// [`crate::Error::Recipe`] as said.
pub(super) fn agree(written: &Written, data: &Data) -> Result<()> {
    let strategy = data.mixture.strategy;
    let replay = data.replayed().iter().map(|s| ("data.replay.sources", s));
    let heldout = data.heldout.iter().map(|s| ("data.heldout", s));
    for (key, source) in data.train.iter().map(|s| ("data.train", s)).chain(heldout).chain(replay) {
        let train = key == "data.train";
        let weights = (train && strategy == Strategy::Weights) || key == "data.replay.sources";
        let all = train && strategy == Strategy::All;
        let given = [("weight", source.weight.is_some(), weights), ("rows", source.rows.is_some(), all)];
        let given = given.into_iter().chain([("epochs", source.epochs.is_some(), all)]);
        if let Some((word_, ..)) = given.into_iter().find(|(_, given, allowed)| *given && !allowed) {
            let why = format!("{} gives `{word_}`, which has no meaning here", source.path.display());
            let help = "`weight` goes with the strategy `weights` (and with replay), `rows` and `epochs` with `all`; held-out rows have no \
                        share; see `data.mixture.strategy`";
            return Err(written.complain(key, why, help));
        }
        if source.rows.is_some() && source.epochs.is_some() {
            let why = format!("{} gives both `rows` and `epochs`", source.path.display());
            return Err(written.complain(key, why, "keep one of the two"));
        }
    }
    same_name_same_share(written, &data.train)
}

fn same_name_same_share(written: &Written, sources: &[Source]) -> Result<()> {
    let share = |s: &Source| (s.weight, s.rows, s.epochs);
    for (i, source) in sources.iter().enumerate().filter(|(_, s)| s.name.is_some()) {
        if let Some(other) = sources[..i].iter().find(|o| o.name == source.name && share(o) != share(source)) {
            let name = source.name.as_deref().unwrap_or_default();
            let (a, b) = (other.path.display(), source.path.display());
            let why = format!("{a} and {b} are both named \"{name}\" and differ in `weight`, `rows` or `epochs`");
            return Err(written.complain(
                "data.train",
                why,
                "sources of one name are one part: give them the same, or two names",
            ));
        }
    }
    Ok(())
}

fn any_weight(sources: &RawSources) -> bool {
    let weighs = |source: &RawSource| matches!(source, RawSource::Table(table) if table.weight.is_some());
    match sources {
        RawSources::One(source) => weighs(source),
        RawSources::Many(list) => list.iter().any(weighs),
    }
}

fn word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::All => "all",
        Strategy::Proportional => "proportional",
        Strategy::Weights => "weights",
    }
}
