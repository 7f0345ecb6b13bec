//! Every way in which a recipe is refused, with place, reason and remedy.

use super::{FULL, HEAD, folder, message, parse_in};
use crate::error::Error;
use crate::recipe::Recipe;

/// The complaint about `text` starts with `place` (file, line and key), goes on with `why` and offers `help`.
pub(super) fn check(text: &str, set: &[&str], place: &str, why: &str, help: &str) {
    let message = message(text, set);
    let (said, advice) = message.split_once("\n  help: ").unwrap_or_else(|| panic!("no help in {message}"));
    assert!(said.starts_with(&format!("{place}: {why}")), "{text} {set:?}\n  said {said}\n  not  {place}: {why}");
    assert!(advice.contains(help), "{text} {set:?}\n  advice {advice}\n  not    {help}");
}

/// As [`check`], for lines below a good head of four lines.
pub(super) fn below(text: &str, place: &str, why: &str, help: &str) {
    check(&format!("{HEAD}{text}"), &[], place, why, help);
}

/// As [`check`], for one `--set` over a good recipe.
fn set(argument: &str, key: &str, why: &str, help: &str) {
    check(HEAD, &[argument], &format!("--set {argument}: `{key}`"), why, help);
}

#[test]
fn text_that_is_not_toml() {
    check("[base\n", &[], "r.toml:1: `[base`", "not valid TOML: unclosed table", "a section is written `[train]`");
    check("# x\n[base]\nmodel = \n", &[], "r.toml:3: `model =`", "not valid TOML: ", "write a value after the `=`");
    check("[base]\nmodel = tiny\n", &[], "r.toml:2: `model = tiny`", "not valid TOML: ", "put texts in double quotes");
    check("base:\n  model: x\n", &[], "r.toml:1: `base:`", "not valid TOML: key with no value", "not YAML");
    check(
        "[base]\nmodel = 'a/b'\nmodel = 'c'\n",
        &[],
        "r.toml:3: `model = 'c'`",
        "not valid TOML: duplicate key",
        "each key once",
    );
    check("[base]\nmodel = 'a/b'\n[base]\n", &[], "r.toml:3: `[base]`", "not valid TOML: duplicate key", "once in a file");
    below("[train]\nlr = 1 e-4\n", "r.toml:6: `lr = 1 e-4`", "not valid TOML: ", "numbers plain");
    below("[train]\nlr = nan\n", "r.toml:6: `train.lr`", "`NaN` is not a finite number", "write a plain number");
    below("[train]\nlr = 2024-01-01\n", "r.toml:6: `train.lr`", "`2024-01-01` is a date", "in quotes: \"2024-01-01\"");
}

#[test]
fn keys_that_do_not_exist() {
    below(
        "[adapter]\nranc = 3\n",
        "r.toml:6: `adapter.ranc`",
        "there is no such key",
        "did you mean `adapter.rank`? keys of `adapter`: method, dora, rank, alpha,",
    );
    below("[train]\nrank = 3\n", "r.toml:6: `train.rank`", "there is no such key", "did you mean `adapter.rank`?");
    below(
        "[adapter]\nlora_alpha = 3\n",
        "r.toml:6: `adapter.lora_alpha`",
        "there is no such key",
        "write `adapter.alpha` instead",
    );
    below(
        "[adapter]\nuse_rslora = true\n",
        "r.toml:6: `adapter.use_rslora`",
        "there is no such key",
        "write `adapter.method = \"rslora\"` instead",
    );
    below(
        "[trian]\nlr = 1e-4\n",
        "r.toml:5: `trian`",
        "there is no such section",
        "did you mean `[train]`? sections: [base] [adapter]",
    );
    check(&format!("lr = 1\n{HEAD}"), &[], "r.toml:1: `lr`", "there is no such key", "did you mean `train.lr`?");
    below("[train.more]\nx = 1\n", "r.toml:5: `train.more`", "there is no such key", "keys of `train`: steps, epochs,");
    let source = "[base]\nmodel = 'a/b'\n[[data.train]]\npath = 'train.jsonl'\n\n[[data.train]]\npath = 'more.jsonl'\nlimt = 3\n";
    check(
        source,
        &[],
        "r.toml:8: `data.train[1].limt`",
        "there is no such key",
        "did you mean `data.train[1].limit`? keys of `data.train[1]`: path, shape, columns, limit",
    );
    let column = HEAD.replace("\"train.jsonl\"", "{ path = \"train.jsonl\", columns = { instructions = \"q\" } }");
    check(&column, &[], "r.toml:4: `data.train.columns.instructions`", "there is no such field", "did you mean `instruction`?");
}

#[test]
fn keys_that_are_missing() {
    check(
        "",
        &[],
        "r.toml: `base.model`",
        "is missing",
        "write e.g. `model = \"HuggingFaceTB/SmolLM2-135M-Instruct\"` below `[base]`",
    );
    check("# x\n[base]\ncompute = 'f32'\n", &[], "r.toml:2: `base.model`", "is missing", "`model = ");
    check("[base]\nmodel = 'a/b'\n", &[], "r.toml: `data.train`", "is missing", "`train = \"data/train.jsonl\"` below `[data]`");
    check("[base]\nmodel = 'a/b'\n[data]\nheldout = 'heldout.jsonl'", &[], "r.toml:3: `data.train`", "is missing", "`train = ");
    check(
        &HEAD.replace("\"train.jsonl\"", "[\n{ limit = 3 }]"),
        &[],
        "r.toml:5: `data.train[0].path`",
        "is missing",
        "write e.g. `path = \"data/train.jsonl\"`. A file, a folder",
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn values_of_the_wrong_type() {
    below(
        "[adapter]\nrank = \"16\"\n",
        "r.toml:6: `adapter.rank`",
        "is the text \"16\", but must be a whole number (at least 1, at most 65536)",
        "write it without quotes: `rank = 16`",
    );
    below(
        "[adapter]\nrank = 1.5\n",
        "r.toml:6: `adapter.rank`",
        "is the fractional number 1.5, but must be a whole number",
        "write e.g. `rank = 16`. Rank of the update matrices.",
    );
    below(
        "[adapter]\nmethod = 3\n",
        "r.toml:6: `adapter.method`",
        "is the number 3, but must be one of \"lora\", \"rslora\"",
        "`method = \"lora\"`",
    );
    below(
        "[adapter]\ntargets = 3\n",
        "r.toml:6: `adapter.targets`",
        "is the number 3, but must be a string or a list of strings",
        "write e.g. `targets = [\"q_proj\", \"v_proj\"]`",
    );
    below(
        "[adapter]\ntargets = [\n  'q',\n  3]\n",
        "r.toml:8: `adapter.targets[1]`",
        "is the number 3, but must be a string",
        "every entry of the list is a string",
    );
    below(
        "[adapter]\nlayers = 3\n",
        "r.toml:6: `adapter.layers`",
        "is the number 3, but must be a list of whole numbers",
        "`layers = [0, 1, 2]`",
    );
    below(
        "[adapter]\nlayers = [0, -1]\n",
        "r.toml:6: `adapter.layers[1]`",
        "is -1, but must be at least 0",
        "every entry of the list is a whole number",
    );
    below(
        "[adapter]\nrank_pattern = 3\n",
        "r.toml:6: `adapter.rank_pattern`",
        "is the number 3, but must be a table",
        "`rank_pattern = { v_proj = 4 }`",
    );
    below(
        "[adapter]\nalpha_pattern = { 'q.r' = 'x' }\n",
        "r.toml:6: `adapter.alpha_pattern.\"q.r\"`",
        "is the text \"x\", but must be a number",
        "write a number (above 0)",
    );
    below(
        "[train]\nwarmup = 'x'\n",
        "r.toml:6: `train.warmup`",
        "is the text \"x\", but must be a whole number (at least 0) or a number",
        "`warmup = 0.03` or `warmup = 20`",
    );
    below("[train]\nlr = []\n", "r.toml:6: `train.lr`", "is a list, but must be a number", "`lr = 0.0002`");
    below(
        "[eval]\nexact_match = 'true'\n",
        "r.toml:6: `eval.exact_match`",
        "is the text \"true\", but must be true or false",
        "without quotes: `exact_match = true`",
    );
    below(
        "[output]\nname = 3\n",
        "r.toml:6: `output.name`",
        "is the number 3, but must be a string",
        "write it with quotes: `name = \"3\"`",
    );
    below("[output]\nname = {}\n", "r.toml:6: `output.name`", "is a table, but must be a string", "`name = \"quickstart\"`");
    check(
        &HEAD.replace("\"train.jsonl\"", "true"),
        &[],
        "r.toml:4: `data.train`",
        "is true, but must be a string or a table or a list",
        "`train = \"data/train.jsonl\"`",
    );
    check("base = 3", &[], "r.toml:1: `base`", "is the number 3, but must be a table", "below a line `[base]`");
}

#[test]
fn values_out_of_range() {
    for (section, line, bound) in [
        ("adapter", "rank = 0", "is 0, but must be at least 1"),
        ("adapter", "rank = -4", "is -4, but must be at least 1"),
        ("adapter", "alpha = 0", "is 0, but must be above 0"),
        ("adapter", "alpha = -1.5", "is -1.5, but must be above 0"),
        ("adapter", "dropout = 1.0", "is 1.0, but must be below 1"),
        ("adapter", "dropout = -0.1", "is -0.1, but must be at least 0"),
        ("train", "steps = 0", "is 0, but must be at least 1"),
        ("train", "epochs = 0", "is 0, but must be above 0"),
        ("train", "lr = 0.0", "is 0.0, but must be above 0"),
        ("train", "lr = -1e-4", "is -0.0001, but must be above 0"),
        ("train", "lr = 2e4", "is 20000.0, but must be at most 1"),
        ("train", "warmup = -1", "is -1, but must be at least 0"),
        ("train", "warmup = -0.5", "is -0.5, but must be at least 0"),
        ("train", "warmup = 1.0", "is 1.0, but a share must be below 1.0"),
        ("train", "batch_size = 0", "is 0, but must be at least 1"),
        ("train", "accumulate = 0", "is 0, but must be at least 1"),
        ("train", "max_length = 7", "is 7, but must be at least 8"),
        ("train", "save_every = -1", "is -1, but must be at least 0"),
        ("train", "eval_every = -1", "is -1, but must be at least 0"),
        ("train", "early_stop = 0", "is 0, but must be at least 1"),
        ("train", "seed = -1", "is -1, but must be at least 0"),
        ("train", "weight_decay = -0.01", "is -0.01, but must be at least 0"),
        ("train", "beta1 = 1.0", "is 1.0, but must be below 1"),
        ("train", "beta2 = -0.1", "is -0.1, but must be at least 0"),
        ("train", "eps = 0.0", "is 0.0, but must be above 0"),
        ("train", "clip = -1", "is -1, but must be at least 0"),
        ("eval", "max_new_tokens = 0", "is 0, but must be at least 1"),
        ("eval", "batch_size = 0", "is 0, but must be at least 1"),
        ("eval", "limit = 0", "is 0, but must be at least 1"),
        ("output", "name = ''", "is an empty text"),
        ("output", "dir = ' '", "is an empty text"),
        ("adapter", "targets = []", "is an empty list"),
        ("adapter", "layers = []", "is an empty list"),
        ("adapter", "modules_to_save = []", "is an empty list"),
    ] {
        let name = line.split(' ').next().unwrap();
        below(&format!("[{section}]\n{line}\n"), &format!("r.toml:6: `{section}.{name}`"), bound, &format!("`{name} = "));
    }
    below(
        "heldout_fraction = 0.0\n",
        "r.toml:5: `data.heldout_fraction`",
        "is 0.0, but must be above 0",
        "`heldout_fraction = 0.1`",
    );
    below("heldout_fraction = 1\n", "r.toml:5: `data.heldout_fraction`", "is 1, but must be below 1", "`heldout_fraction = 0.1`");
    below("heldout = []\n", "r.toml:5: `data.heldout`", "is an empty list", "or leave the key out");
    below(
        "[adapter]\nrank_pattern = { q = 0 }\n",
        "r.toml:6: `adapter.rank_pattern.q`",
        "is 0, but must be at least 1",
        "a whole number",
    );
    below(
        "[adapter]\ntargets = ['']\n",
        "r.toml:6: `adapter.targets[0]`",
        "is an empty text",
        "every entry of the list is a string",
    );
}

#[test]
fn words_that_are_not_a_choice() {
    below(
        "[adapter]\nmethod = 'loar'\n",
        "r.toml:6: `adapter.method`",
        "\"loar\" is not one of the choices",
        "did you mean \"lora\"? choices: \"lora\", \"rslora\"",
    );
    below("[adapter]\ninit = 'gausian'\n", "r.toml:6: `adapter.init`", "\"gausian\" is not", "did you mean \"gaussian\"?");
    below(
        "[train]\nschedule = 'Cosine'\n",
        "r.toml:6: `train.schedule`",
        "\"Cosine\" is not",
        "did you mean \"cosine\"? choices: \"constant\", \"linear\", \"cosine\"",
    );
    check(
        &HEAD.replace("\"train.jsonl\"", "{ path = \"train.jsonl\", malformed = \"skip\" }"),
        &[],
        "r.toml:4: `data.train.malformed`",
        "\"skip\" is not",
        "choices: \"error\", \"drop\"",
    );
    below(
        "over_long = 'cut'\n",
        "r.toml:5: `data.over_long`",
        "\"cut\" is not",
        "choices: \"drop\", \"split\", \"truncate\", \"error\"",
    );
    below(
        "[template]\nkind = 'alpacca'\n",
        "r.toml:6: `template.kind`",
        "\"alpacca\" is not",
        "did you mean \"alpaca\"? choices: \"model\", \"alpaca\", \"instruction\", or the path",
    );
    check(
        &HEAD.replace("[data]", "compute = 'fp16'\n[data]"),
        &[],
        "r.toml:3: `base.compute`",
        "\"fp16\" is not",
        "\"auto\", \"f32\", \"bf16\"",
    );
    let shape = HEAD.replace("\"train.jsonl\"", "{ path = 'train.jsonl', shape = 'share_gpt' }");
    check(&shape, &[], "r.toml:4: `data.train.shape`", "\"share_gpt\" is not", "did you mean \"sharegpt\"?");
}

#[test]
fn patterns_that_cannot_work() {
    below(
        "[adapter]\ntargets = '(q'\n",
        "r.toml:6: `adapter.targets`",
        "\"(q\" is no regular expression: unclosed group",
        "'.*\\.(q|v)_proj'",
    );
    below(
        "[adapter]\ntargets = '(?!q).*'\n",
        "r.toml:6: `adapter.targets`",
        "\"(?!q).*\" is no regular expression: look-around",
        "`adapter.exclude`",
    );
    below(
        "[adapter]\ntargets = 'all_linear'\n",
        "r.toml:6: `adapter.targets`",
        "\"all_linear\" is no module's path",
        "did you mean \"all-linear\"?",
    );
    below(
        "[adapter]\ntargets = ['all-linear']\n",
        "r.toml:6: `adapter.targets`",
        "has \"all-linear\" in a list",
        "write `targets = \"all-linear\"`",
    );
    let embedding = "[adapter]\ntargets = ['q_proj', 'embed_tokens']\n";
    below(embedding, "r.toml:6: `adapter.targets`", "\"embed_tokens\" is the token embedding", "leave the embedding out");
    below(
        "[adapter]\nexclude = 'all-linear'\n",
        "r.toml:6: `adapter.exclude`",
        "\"all-linear\" would leave nothing",
        "`exclude = [\"lm_head\"]`",
    );
    below("[adapter]\nexclude = '['\n", "r.toml:6: `adapter.exclude`", "\"[\" is no regular expression", "or a list of names");
    below(
        "[adapter]\nrank_pattern = { '(q.r' = 3 }\n",
        "r.toml:6: `adapter.rank_pattern.\"(q.r\"`",
        "\"(q.r\" is no regular expression",
        "_proj' = 4 }",
    );
    below(
        "[adapter]\nalpha_pattern = { '*' = 3 }\n",
        "r.toml:6: `adapter.alpha_pattern.\"*\"`",
        "\"*\" is no regular expression: repetition operator",
        "_proj' = 4 }",
    );
}

#[test]
fn layers_pattern_is_a_pattern() {
    below(
        "[adapter]\nlayers = [1]\nlayers_pattern = ['h', '(']\n",
        "r.toml:7: `adapter.layers_pattern`",
        "\"(\" is no regular expression: unclosed group",
        "`layers_pattern = \"h\"`",
    );
}

proptest::proptest! {
    /// Whatever is cut out of a good recipe or put into it: a recipe, or a complaint about a line that exists.
    #[test]
    fn damage_is_reported_never_a_panic(at in 0usize..1500, cut in 0usize..30, noise in "[\\PC\n\"'=\\[\\]{}.#,-]{0,6}") {
        let dir = folder();
        let chars: Vec<char> = FULL.chars().collect();
        let at = at.min(chars.len());
        let rest = &chars[(at + cut).min(chars.len())..];
        let text: String = chars[..at].iter().copied().chain(noise.chars()).chain(rest.iter().copied()).collect();
        match parse_in(dir.path(), &text, &[]) {
            Ok(_) => {}
            Err(Error::Recipe { line, why, help, .. }) => {
                proptest::prop_assert!(line.is_none_or(|line| line >= 1 && line <= text.lines().count() + 1));
                proptest::prop_assert!(!why.is_empty() && !help.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn keys_that_exclude_each_other() {
    below("[train]\nsteps = 10\n\nepochs = 2\n", "r.toml:8: `train.epochs`", "is given although `train.steps`", "keep one");
    below(
        "heldout = 'heldout.jsonl'\nheldout_fraction = 0.2\n",
        "r.toml:6: `data.heldout_fraction`",
        "is given although `data.heldout`",
        "keep one",
    );
    below(
        "[train]\nsteps = 20\nwarmup = 20\n",
        "r.toml:7: `train.warmup`",
        "is 20 steps, but the run has 20 (`train.steps`)",
        "`warmup = 1` or `warmup = 0.03`",
    );
    below("[train]\nearly_stop = 2\n", "r.toml:6: `train.early_stop`", "needs evaluations", "`eval_every = 50`");
    below("[train]\nearly_stop = 2\neval_every = 0\n", "r.toml:6: `train.early_stop`", "needs evaluations", "`eval_every = 50`");
    below(
        "[adapter]\nlayers = [1]\ntargets = 'all-linear'\n",
        "r.toml:6: `adapter.layers`",
        "works only with targets that are a list",
        "`targets = [\"q_proj\", \"v_proj\"]`",
    );
    below(
        "[adapter]\nlayers_pattern = 'h'\n",
        "r.toml:6: `adapter.layers_pattern`",
        "is given without `adapter.layers`",
        "`layers = [0, 1]`",
    );
}

#[test]
fn files_that_are_not_there() {
    let train = |value: &str| HEAD.replace("\"train.jsonl\"", value);
    check(&train("'no.jsonl'"), &[], "r.toml:4: `data.train`", "there is no file no.jsonl", "starts at the recipe's folder");
    check(
        &train("[\n'train.jsonl',\n'no.jsonl']"),
        &[],
        "r.toml:6: `data.train[1]`",
        "there is no file no.jsonl",
        "starts at the recipe's folder",
    );
    check(
        &train("{ path = 'no.jsonl' }"),
        &[],
        "r.toml:4: `data.train.path`",
        "there is no file no.jsonl",
        "starts at the recipe's folder",
    );
    check(&train("'~/x.jsonl'"), &[], "r.toml:4: `data.train`", "there is no file", "write the home folder out");
    check(&train("'/dev'"), &[], "r.toml:4: `data.train`", "/dev holds no file of data", "files of data end in");
    below("cache = 'train.jsonl'\n", "r.toml:5: `data.cache`", "train.jsonl is a file, not a folder", "or write \"off\"");
    below("cache = '~/kept'\n", "r.toml:5: `data.cache`", "\"~/kept\" begins with `~`", "write the home folder out");
    below("cache = ''\n", "r.toml:5: `data.cache`", "is an empty text", "`cache = \"cache\"`");
    below("heldout = 'no.jsonl'\n", "r.toml:5: `data.heldout`", "there is no file no.jsonl", "correct the path");
    below("[template]\nkind = 'no.jinja'\n", "r.toml:6: `template.kind`", "there is no file no.jinja", "correct the path");
    set("data.train=no/where.jsonl", "data.train", "there is no file", "in --set starts at the current directory");
}

#[test]
fn bases_that_cannot_be_found() {
    let model = |model: &str| HEAD.replace("owner/name", model);
    check(
        &model("a/b/c"),
        &[],
        "r.toml:2: `base.model`",
        "\"a/b/c\" is neither a hub id nor an existing path",
        "write OWNER/NAME",
    );
    check(
        &model("https://hub.example/a/b"),
        &[],
        "r.toml:2: `base.model`",
        "\"https://hub.example/a/b\" is neither",
        "write the id alone",
    );
    check(&model("~/models/x"), &[], "r.toml:2: `base.model`", "\"~/models/x\" is neither", "write the home folder out");
    check(&model("a/.."), &[], "r.toml:2: `base.model`", "\"a/..\"", "OWNER/NAME");
    check(&model(""), &[], "r.toml:2: `base.model`", "is an empty text", "write e.g. `model = ");
    for fallback in
        ["x", "pypi:x", "pypi:x==1", "pypi:x#y", "pypi:x==1#", "pypi:x==1#../y", "pypi:x==1#/y", "pypi:-r==1#y", "pypi:x y==1#y"]
    {
        let text = HEAD.replace("[data]", &format!("fallback = '{fallback}'\n[data]"));
        check(&text, &[], "r.toml:3: `base.fallback`", &format!("\"{fallback}\" is not of the form pypi:"), "fallback = \"pypi:");
    }
}

#[test]
fn overrides_that_cannot_be_used() {
    set("train.lr", "train.lr", "there is no `=` in it", "write --set KEY=VALUE");
    set("=3", "", "this is not a dotted key", "write --set KEY=VALUE");
    set("train..lr=3", "train..lr", "this is not a dotted key", "write --set KEY=VALUE");
    set("data.train.limit=3", "data.train.limit", "what stands there is a single value or a list", "write --set KEY=VALUE");
    set(
        "adapter.targets=[q_proj,v_proj]",
        "adapter.targets",
        "the value looks like a list",
        "'adapter.targets=[\"q_proj\", \"v_proj\"]'",
    );
    set("train.lr=0", "train.lr", "is 0, but must be above 0", "`lr = 0.0002`");
    set("train.lr=fast", "train.lr", "is the text \"fast\", but must be a number", "`lr = 0.0002`");
    set("lr=1e-4", "lr", "there is no such key", "did you mean `train.lr`?");
    set("train.stps=3", "train.stps", "there is no such key", "did you mean `train.steps`?");
    set("adapter={ rank = 0 }", "adapter.rank", "is 0, but must be at least 1", "`rank = 16`");
    check(&format!("{HEAD}[adapter]\nrank = 0\n"), &["adapter.alpha=3"], "r.toml:6: `adapter.rank`", "is 0", "`rank = 16`");
}

#[test]
fn recipes_that_are_not_there() {
    let dir = folder();
    for (path, why, help) in [
        (dir.path().join("no.toml"), "there is no such recipe", "recipe ls"),
        (dir.path().into(), "this is a folder", "recipe ls DIR"),
    ] {
        let error = Recipe::load(&path, &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.starts_with(&format!("{}: {why}", path.display())) && message.contains(help), "{message}");
    }
}
