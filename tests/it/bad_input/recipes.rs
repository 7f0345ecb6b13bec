//! Recipes and their overrides.

use super::{Case, TRAIN, case, check};

const CHECK: &[&str] = &["recipe", "check", "recipe.toml"];

#[test]
fn recipes() {
    let cases: &[Case] = &[
        case("no such recipe", |_| (), &["train", "none.toml"], &["none.toml", "there is no such recipe", "recipe ls"]),
        case("a folder as recipe", |_| (), &["train", "model"], &["model: this is a folder, not a recipe", "help:"]),
        case("not TOML", |s| s.write("recipe.toml", "[base\nmodel = 1"), CHECK, &["recipe.toml:1", "help:"]),
        case("not text", |s| s.write("recipe.toml", [0xff, 0xfe, 0x00]), CHECK, &["recipe.toml", "UTF-8", "help:"]),
        case("an empty recipe", |s| s.write("recipe.toml", ""), CHECK, &["recipe.toml", "`base", "is missing", "help:"]),
        case(
            "a key twice",
            |s| s.edit("recipe.toml", "rank = 2", "rank = 2\nrank = 3"),
            CHECK,
            &["recipe.toml:7", "rank", "help:"],
        ),
        case(
            "unknown section",
            |s| s.edit("recipe.toml", "[train]", "[training]"),
            CHECK,
            &["recipe.toml", "`training`", "did you mean `[train]`?", "help:"],
        ),
        case(
            "unknown key",
            |s| s.edit("recipe.toml", "warmup = 0", "learning_rate = 1e-4"),
            CHECK,
            &["recipe.toml:15", "`train.learning_rate`", "help:", "lr"],
        ),
        case(
            "wrong type",
            |s| s.edit("recipe.toml", "rank = 2", "rank = \"two\""),
            CHECK,
            &["recipe.toml:6", "`adapter.rank`", "whole number", "help:"],
        ),
        case("rank 0", |s| s.edit("recipe.toml", "rank = 2", "rank = 0"), CHECK, &["recipe.toml:6", "`adapter.rank`", "help:"]),
        case(
            "a rank beyond any model",
            |s| s.edit("recipe.toml", "rank = 2", "rank = 4000000000"),
            TRAIN,
            &["recipe.toml:6", "`adapter.rank`", "help:"],
        ),
        case(
            "a batch beyond any memory",
            |s| s.edit("recipe.toml", "batch_size = 2", "batch_size = 9000000000000000000"),
            TRAIN,
            &["recipe.toml:14", "`train.batch_size`", "help:"],
        ),
        case(
            "dropout 1",
            |s| s.edit("recipe.toml", "rank = 2", "dropout = 1.0"),
            CHECK,
            &["recipe.toml:6", "`adapter.dropout`", "help:"],
        ),
        case(
            "a rate of zero",
            |s| s.edit("recipe.toml", "warmup = 0", "lr = 0.0"),
            CHECK,
            &["recipe.toml:15", "`train.lr`", "help:"],
        ),
        case(
            "a rate that is no number",
            |s| s.edit("recipe.toml", "warmup = 0", "lr = nan"),
            CHECK,
            &["recipe.toml:15", "`train.lr`", "help:"],
        ),
        case(
            "steps and epochs",
            |s| s.edit("recipe.toml", "warmup = 0", "epochs = 2.0"),
            CHECK,
            &["`train.epochs`", "`train.steps`", "keep one of the two"],
        ),
        case(
            "a warm-up longer than the run",
            |s| s.edit("recipe.toml", "warmup = 0", "warmup = 7"),
            CHECK,
            &["recipe.toml:15", "`train.warmup`", "help:"],
        ),
        case(
            "early stop without evaluations",
            |s| s.edit("recipe.toml", "warmup = 0", "early_stop = 2"),
            CHECK,
            &["`train.early_stop`", "eval_every", "help:"],
        ),
        case(
            "a template of unknown name",
            |s| s.edit("recipe.toml", "[output]", "[template]\nkind = \"alpacca\"\n[output]"),
            CHECK,
            &["`template.kind`", "did you mean \"alpaca\"?"],
        ),
        case(
            "held-out rows twice",
            |s| s.edit("recipe.toml", "[train]", "heldout_fraction = 0.2\n[train]"),
            CHECK,
            &["`data.heldout_fraction`", "keep one of the two"],
        ),
        case(
            "a fallback of another form",
            |s| s.edit("recipe.toml", "compute = \"f32\"", "fallback = \"pip install it\""),
            CHECK,
            &["`base.fallback`", "pypi:"],
        ),
        case(
            "a base that is an address",
            |s| s.edit("recipe.toml", "model = \"model\"", "model = \"https://a.b/c/d\""),
            CHECK,
            &["`base.model`", "OWNER/NAME"],
        ),
        case(
            "a revision that leaves its folder",
            |s| s.edit("recipe.toml", "compute = \"f32\"", "revision = \"../../x\""),
            TRAIN,
            &["base.revision", "help:"],
        ),
        case(
            "targets that are no expression",
            |s| s.edit("recipe.toml", "rank = 2", "targets = \"(q_proj\""),
            CHECK,
            &["`adapter.targets`", "no regular expression", "help:"],
        ),
        case("no data file", |s| s.remove("rows.jsonl"), CHECK, &["recipe.toml:9", "`data.train`", "there is no file", "help:"]),
        case(
            "a folder without data",
            |s| {
                s.write("empty/rows.bin", "");
                s.edit("recipe.toml", "rows.jsonl", "empty");
            },
            CHECK,
            &["`data.train`", "holds no file of data"],
        ),
        case(
            "a column of an unknown field",
            |s| s.edit("recipe.toml", "train = \"rows.jsonl\"", "train = { path = \"rows.jsonl\", columns = { promt = \"q\" } }"),
            CHECK,
            &["promt", "did you mean `prompt`?"],
        ),
        case("an override without a value", |_| (), &["train", "recipe.toml", "--set", "train.lr"], &["--set train.lr", "help:"]),
        case(
            "an override of an unknown key",
            |_| (),
            &["train", "recipe.toml", "--set", "train.lrr=1e-4"],
            &["train.lrr", "`train.lr`", "help:"],
        ),
        case(
            "an impossible override",
            |_| (),
            &["train", "recipe.toml", "--set", "train.lr=-1"],
            &["--set train.lr=-1", "`train.lr`", "help:"],
        ),
    ];
    check(cases, 30);
}

#[test]
fn targets() {
    let cases: &[Case] = &[
        case(
            "targets that match nothing",
            |s| s.edit("recipe.toml", "rank = 2", "targets = [\"query\"]"),
            TRAIN,
            &["recipe.toml", "`adapter.targets`", "`query` matches no module", "q_proj"],
        ),
        case(
            "one wrong target among right ones",
            |s| s.edit("recipe.toml", "rank = 2", "targets = [\"q_proj\", \"v_prj\"]"),
            TRAIN,
            &["`adapter.targets`", "`v_prj` matches no module", "did you mean `v_proj`?"],
        ),
        case(
            "an expression that matches nothing",
            |s| s.edit("recipe.toml", "rank = 2", "targets = 'q_proj|v_proj'"),
            TRAIN,
            &["`adapter.targets`", "matches no module", "whole path"],
        ),
        case(
            "a rank for nothing",
            |s| s.edit("recipe.toml", "rank = 2", "rank_pattern = { down_proj = 4 }"),
            TRAIN,
            &["`adapter.rank_pattern`", "`down_proj` matches no adapted module", "help:"],
        ),
        case(
            "an alpha for nothing",
            |s| s.edit("recipe.toml", "rank = 2", "alpha_pattern = { 'layers\\.9\\..*' = 4.0 }"),
            TRAIN,
            &["`adapter.alpha_pattern`", "matches no adapted module"],
        ),
        case(
            "a layer that is not there",
            |s| s.edit("recipe.toml", "rank = 2", "targets = [\"q_proj\"]\nlayers = [0, 17]"),
            TRAIN,
            &["`adapter.layers`", "no layer 17", "0 to"],
        ),
        case(
            "everything excluded again",
            |s| s.edit("recipe.toml", "rank = 2", "targets = [\"q_proj\"]\nexclude = [\"q_proj\"]"),
            TRAIN,
            &["`adapter.targets`", "excluded again", "`exclude`"],
        ),
        case(
            "an exclusion of nothing",
            |s| s.edit("recipe.toml", "rank = 2", "exclude = [\"gate\"]"),
            TRAIN,
            &["`adapter.exclude`", "`gate` matches no module", "did you mean `gate_proj`?"],
        ),
        case(
            "an unknown module to save",
            |s| s.edit("recipe.toml", "rank = 2", "modules_to_save = [\"score\"]"),
            TRAIN,
            &["`adapter.modules_to_save`", "`score` matches no module"],
        ),
        case(
            "a projection as module to save",
            |s| s.edit("recipe.toml", "rank = 2", "modules_to_save = [\"q_proj\"]"),
            TRAIN,
            &["`adapter.modules_to_save`", "not the output head or the embedding", "targets"],
        ),
    ];
    check(cases, 10);
}
