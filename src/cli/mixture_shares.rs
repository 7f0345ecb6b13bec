//! The shares of a mixture in words. Refuses to know how they come about.

use crate::train::mixture::{Mixture, Share};

/// A line for each part of an epoch; nothing where an epoch is every row once.
pub(super) fn planned(mixture: &Mixture) -> String {
    if mixture.is_plain() {
        return String::new();
    }
    let lines = mixture.planned().iter().map(line).collect::<String>();
    format!("mixture, in an epoch:\n{lines}")
}

/// A line for each part: what was planned of it and what came of that; nothing where an epoch is every row once.
pub(super) fn drawn(mixture: &Mixture, drawn: &[Share]) -> String {
    if mixture.is_plain() {
        return String::new();
    }
    let line = |(planned, drawn): (&Share, &Share)| {
        format!(
            "  {}{}: planned {:.2} % of rows, {:.2} % of tokens; drawn {} rows, {:.2} %, and {:.2} %; each row {:.2} times\n",
            drawn.name,
            replayed(drawn),
            100.0 * planned.of_rows,
            100.0 * planned.of_tokens,
            drawn.drawn,
            100.0 * drawn.of_rows,
            100.0 * drawn.of_tokens,
            drawn.times
        )
    };
    let lines: String = mixture.planned().iter().zip(drawn).map(line).collect();
    format!("mixture, planned and drawn:\n{lines}")
}

fn replayed(share: &Share) -> &'static str {
    if share.replay { " (replay)" } else { "" }
}

fn line(share: &Share) -> String {
    let replay = replayed(share);
    let repeated =
        if share.times > 1.0 { format!(": upsampled, each row is seen {:.2} times", share.times) } else { String::new() };
    format!(
        "  {}{replay}: {:.1} of {} rows, {:.1} % of rows, {:.1} % of tokens{repeated}\n",
        share.name,
        share.drawn,
        share.rows,
        100.0 * share.of_rows,
        100.0 * share.of_tokens
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Data, Source};

    #[test]
    fn upsampling_is_said_and_a_plain_epoch_is_not_spoken_of() {
        let source = |name: &str, epochs| Source { path: name.into(), epochs, ..Source::default() };
        let data = Data::of(vec![source("a.jsonl", Some(2.5)), source("b.jsonl", None)]);
        let mixture = Mixture::plan_of(&data, [(0, 10), (0, 10), (1, 50)].into_iter()).unwrap();
        let said = planned(&mixture);
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "mixture, in an epoch:",
                "  a.jsonl: 5.0 of 2 rows, 83.3 % of rows, 50.0 % of tokens: upsampled, each row is seen 2.50 times",
                "  b.jsonl: 1.0 of 1 rows, 16.7 % of rows, 50.0 % of tokens",
            ]
        );
        let came = mixture.drawn([0, 1, 0, 2].into_iter(), |example| if example < 2 { 10 } else { 50 });
        assert_eq!(
            drawn(&mixture, &came).lines().nth(1),
            Some(
                "  a.jsonl: planned 83.33 % of rows, 50.00 % of tokens; drawn 3 rows, 75.00 %, and 37.50 %; each row 1.50 times"
            )
        );
        assert_eq!((planned(&Mixture::plain(3)), drawn(&Mixture::plain(3), &[])), (String::new(), String::new()));
    }
}
