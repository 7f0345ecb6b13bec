//! Shares of sources: which keys go together, and that they read back equal.

use super::refused::{below, check};
use super::{HEAD, folder, parse_in};
use crate::recipe::*;

#[test]
fn shares_of_a_mixture_read_back_equal() {
    let dir = folder();
    let source =
        |more: &str| format!("[base]\nmodel = 'a/b'\n[data]\ntrain = [\"more.jsonl\", {{ path = 'train.jsonl'{more} }}]\n");
    for (text, strategy) in [
        (source(", weight = 2"), Strategy::Weights),
        (source(", epochs = 2.5"), Strategy::All),
        (source(", rows = 7"), Strategy::All),
        (
            format!("{}[data.mixture]\nstrategy = 'proportional'\ncap = 30\ntemperature = 2\nrows = 99\n", source("")),
            Strategy::Proportional,
        ),
        (format!("{}[data.replay]\nsources = 'more.jsonl'\n", source("")), Strategy::All),
    ] {
        let recipe = parse_in(dir.path(), &text, &[]).unwrap();
        assert_eq!(recipe.data.mixture.strategy, strategy, "{text}");
        assert!(recipe.data.replay.as_ref().is_none_or(|replay| replay.fraction == 0.1));
        let again = Recipe::parse(&recipe.to_toml(), &recipe.path, &[]).unwrap();
        assert_eq!(recipe, again, "{}", recipe.to_toml());
    }
}

#[test]
fn shares_that_do_not_go_together() {
    let mixture = |keys: &str, key: &str, why: &str| {
        below(&format!("[data.mixture]\n{keys}\n"), &format!("r.toml:6: `data.mixture.{key}`"), why, "");
    };
    mixture("cap = 5", "cap", "has no meaning where the strategy is `all`");
    mixture("unit = 'tokens'", "unit", "has no meaning where the strategy is `all`");
    mixture("temperature = 0", "temperature", "is 0, but must be above 0");
    mixture("strategy = 'alphabetical'", "strategy", "\"alphabetical\" is not ");
    let source = |table: &str, place: &str, why: &str, help: &str| {
        let text = format!("[base]\nmodel = 'a/b'\n[data]\ntrain = [{{ path = 'train.jsonl', {table} }}, 'more.jsonl']\n");
        check(&text, &[], place, why, help);
    };
    let place = "r.toml:4: `data.train`";
    source("rows = 3, epochs = 2", place, "train.jsonl gives both `rows` and `epochs`", "keep one");
    source("weight = 3, epochs = 2", place, "train.jsonl gives `epochs`, which has no meaning here", "`weight` goes with");
    source("weight = 0", "r.toml:4: `data.train[0].weight`", "is 0, but must be above 0", "");
    let text = "[base]\nmodel = 'a/b'\n[data]\ntrain = [{ path = 'train.jsonl', name = 'x', weight = 1 }, { path = 'more.jsonl', name = 'x', weight = 2 }]\n";
    check(text, &[], place, "train.jsonl and more.jsonl are both named \"x\" and differ", "two names");
    let held = format!("{HEAD}heldout = {{ path = 'more.jsonl', weight = 2 }}\n");
    check(&held, &[], "r.toml:5: `data.heldout`", "more.jsonl gives `weight`, which has no meaning here", "held-out rows");
    below("[data.replay]\nfraction = 0.5\n", "r.toml:5: `data.replay.sources`", "is missing, and there is no default", "");
    below(
        "[data.replay]\nsources = 'more.jsonl'\nfraction = 1.0\n",
        "r.toml:7: `data.replay.fraction`",
        "is 1.0, but must be below 1",
        "",
    );
    below(
        "[data.replay]\nsources = 'more.jsonl'\nfraction = -0.1\n",
        "r.toml:7: `data.replay.fraction`",
        "is -0.1, but must be at least 0",
        "",
    );
}

/// The run without replay is the same recipe with `--set data.replay.fraction=0`.
#[test]
fn a_replay_of_nothing_is_none() {
    let dir = folder();
    let text = format!("{HEAD}[data.replay]\nsources = 'more.jsonl'\nfraction = 0.5\n");
    let with = parse_in(dir.path(), &text, &[]).unwrap();
    assert_eq!(with.data.replay.map(|replay| replay.fraction), Some(0.5));
    let without = parse_in(dir.path(), &text, &["data.replay.fraction=0"]).unwrap();
    assert_eq!(without, parse_in(dir.path(), HEAD, &[]).unwrap());
    let missing = text.replace("more.jsonl", "none.jsonl").replace("0.5", "0");
    assert!(parse_in(dir.path(), &missing, &[]).unwrap_err().to_string().contains("none.jsonl"));
}
