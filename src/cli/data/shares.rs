//! The shares of a mixture in words. Refuses to know how they come about.

use crate::data::mixture::{Mixture, Share};

/// A line for each part of an epoch; nothing where an epoch is every row once.
pub(in crate::cli) fn planned(mixture: &Mixture) -> String {
    if mixture.is_plain() {
        return String::new();
    }
    let lines = mixture.planned().iter().map(line).collect::<String>();
    format!("mixture, in an epoch:\n{lines}")
}

fn line(share: &Share) -> String {
    let replay = if share.replay { " (replay)" } else { "" };
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
        let mixture = Mixture::plan(&data, [(0, 10), (0, 10), (1, 50)].into_iter()).unwrap();
        let said = planned(&mixture);
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "mixture, in an epoch:",
                "  a.jsonl: 5.0 of 2 rows, 83.3 % of rows, 50.0 % of tokens: upsampled, each row is seen 2.50 times",
                "  b.jsonl: 1.0 of 1 rows, 16.7 % of rows, 50.0 % of tokens",
            ]
        );
        assert_eq!(planned(&Mixture::plain(3)), "");
    }
}
