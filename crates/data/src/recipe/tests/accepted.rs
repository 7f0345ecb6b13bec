//! What is read, with which defaults, and what is written.

use std::path::Path;

use super::{FULL, HEAD, folder, good, message, parse_in};
use crate::recipe::*;

#[test]
fn least_recipe_has_the_documented_defaults() {
    let recipe = good("", &[]);
    assert_eq!(recipe.adapter.alpha, 2.0 * recipe.adapter.rank as f64);
    assert_eq!(recipe.adapter.targets, TargetModules::Attention);
    assert_eq!(recipe.output.dir, Path::new("runs/r"));
    assert_eq!(recipe.output.name, "r");
    let tree = recipe.to_json();
    let documented: Vec<KeyDoc> =
        keys().into_iter().filter(|key| key.default.is_some() && key.key.matches('.').count() == 1).collect();
    assert_eq!(documented.len(), 39, "keys that document a default");
    for key in documented {
        let (section, name) = key.key.split_once('.').unwrap();
        let value = tree[section].get(name).unwrap_or_else(|| panic!("{} is not written", key.key));
        assert_eq!(Some(write::toml_value(value)), key.default, "{}", key.key);
    }
}

#[test]
fn every_key_is_read() {
    let dir = folder();
    let recipe = parse_in(dir.path(), FULL, &[]).unwrap();
    let root = dir.path().canonicalize().unwrap();
    assert_eq!(recipe.adapter.method, Method::RsLora);
    assert_eq!(recipe.adapter.alpha, 12.0);
    assert_eq!(recipe.adapter.targets, TargetModules::Names(vec!["q_proj".into(), "mlp.down_proj".into()]));
    assert_eq!(recipe.adapter.exclude, Some(TargetModules::Regex("model\\.layers\\.0\\..*".into())));
    assert_eq!(recipe.adapter.target_parameters, ["experts.gate_up_proj", "experts.down_proj"]);
    let ranks: Vec<_> = recipe.adapter.rank_pattern.iter().map(|(key, rank)| (key.as_str(), *rank)).collect();
    assert_eq!(ranks, [("v_proj", 2), ("layers.1.q_proj", 8), (".*k_proj", 1)], "in the order written");
    assert_eq!(recipe.adapter.alpha_pattern, [("z".to_string(), 1.5), ("a".to_string(), 3.0)]);
    assert_eq!(recipe.adapter.layers_pattern, ["layers"]);
    let second = &recipe.data.train[1];
    assert_eq!((second.path.clone(), second.shape, second.limit), (root.join("more.jsonl"), Some(Shape::Alpaca), Some(10)));
    assert_eq!(second.malformed, Malformed::Drop);
    assert_eq!(second.columns[1], ("output".to_string(), "the answer".to_string()));
    assert_eq!(recipe.data.heldout[0].path, root.join("heldout.jsonl"));
    assert_eq!(recipe.data.heldout_fraction, 0.0);
    assert_eq!((second.name.as_deref(), second.weight), (Some("more"), Some(2.5)));
    assert_eq!(recipe.data.heldout_tasks, ["arithmetic", "word_*"]);
    assert_eq!(recipe.data.cache, Keep::In(root.join("kept")));
    assert_eq!((good("", &[]).data.cache, good("", &["data.cache=off"]).data.cache), (Keep::Default, Keep::Off));
    let mixture = Mixture { strategy: Strategy::Weights, rows: Some(500), unit: MixtureUnit::Tokens, ..Mixture::default() };
    assert_eq!(recipe.data.mixture, mixture);
    let replay = recipe.data.replay.as_ref().unwrap();
    assert_eq!((replay.fraction, replay.sources.len(), replay.sources[1].weight), (0.25, 2, Some(3.0)));
    assert_eq!(recipe.template.kind, TemplateKind::File(root.join("chat.jinja")));
    assert_eq!(recipe.template.system.as_deref(), Some("Two lines with \"quotes\",\na tab\tand a \\ backslash."));
    assert_eq!((recipe.train.steps, recipe.train.warmup), (Some(30), Warmup::Steps(3)));
    let set = &recipe.eval.sets[0];
    assert_eq!((set.name.as_str(), set.rows[0].path.clone(), set.limit), ("more", root.join("more.jsonl"), Some(5)));
    assert_eq!((set.rows[1].path.clone(), set.rows[1].limit), (root.join("heldout.jsonl"), Some(3)));
    let quiz = ChoiceSet {
        name: "quiz".into(),
        paths: vec![root.join("more.jsonl"), root.join("heldout.jsonl")],
        limit: Some(7),
        prompt: "Q: {question}\nA:".into(),
        chat: true,
        delimiter: " ".into(),
    };
    assert_eq!(recipe.eval.choices, [quiz]);
    assert!(recipe.eval.normalize && recipe.eval.rouge_l);
    assert_eq!(recipe.output.dir, Path::new("out/x"));
}

#[test]
fn every_key_has_an_example_in_the_full_recipe_and_a_doc() {
    let written = Written::parse(FULL, Path::new("r.toml")).unwrap();
    for key in keys() {
        let excluded =
            ["train.epochs", "data.heldout_fraction", "data.mixture.cap", "data.mixture.temperature"].contains(&key.key.as_str());
        // Of tables in lists, the other tests read every key.
        let excluded = excluded || key.key.contains("[]");
        assert!(excluded || written.places.contains_key(&key.key), "{} is not in FULL", key.key);
        assert!(key.doc.ends_with('.') && !key.expects.is_empty(), "{key:?}");
    }
}

#[test]
fn what_is_written_reads_back_equal() {
    let dir = folder();
    for text in [
        FULL,
        HEAD,
        &format!("{HEAD}heldout_fraction = 0.25\n[train]\nepochs = 2\nwarmup = 0.0\n[adapter]\ntargets = '.*q'"),
        &format!("{HEAD}[adapter]\ntarget_parameters = ['down_proj']"),
    ] {
        let recipe = parse_in(dir.path(), text, &[]).unwrap();
        let alone = text.contains("['down_proj']");
        assert_eq!(recipe.adapter.targets == TargetModules::Names(Vec::new()), alone, "they alone where nothing else is named");
        let again = Recipe::parse(&recipe.to_toml(), &recipe.path, &[]).unwrap();
        assert_eq!(recipe, again, "{}", recipe.to_toml());
        assert_eq!(recipe.to_toml(), again.to_toml());
    }
}

#[test]
fn a_recipe_saved_elsewhere_finds_its_files() {
    let dir = folder();
    let recipe = parse_in(dir.path(), FULL, &[]).unwrap();
    let place = dir.path().join("adapters/full");
    let text = recipe.to_toml_in(&place);
    assert!(text.contains("\"../../train.jsonl\"") && text.contains("kind = \"../../chat.jinja\""), "{text}");
    let path = place.join("recipe.toml");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(&path, &text).unwrap();
    let again = Recipe::load(&path, &[]).unwrap();
    assert_eq!(Recipe { path: recipe.path.clone(), ..again }, recipe);
    std::fs::remove_file(dir.path().join("train.jsonl")).unwrap();
    assert_eq!(Recipe { path: recipe.path.clone(), ..Recipe::load_saved(&path).unwrap() }, recipe);
    assert!(Recipe::load(&path, &[]).unwrap_err().to_string().contains("there is no file"));
}

proptest::proptest! {
    #[test]
    fn any_text_and_number_survives(
        system in ".{0,40}", name in "x.{0,20}", column in "\\PC{1,12}", seed in 0..=i64::MAX as u64,
        lr in 1e-12f64..1.0, alpha in 1e-6f64..1e6, rank in 1usize..100,
    ) {
        let dir = folder();
        let mut recipe = parse_in(dir.path(), FULL, &[]).unwrap();
        recipe.template.system = Some(system);
        recipe.output.name = name;
        recipe.data.train[1].columns[0].1 = column.clone();
        recipe.adapter.rank_pattern = vec![(regex::escape(&column), rank)];
        recipe.adapter.alpha = alpha;
        (recipe.train.seed, recipe.train.lr) = (seed, lr);
        let again = Recipe::parse(&recipe.to_toml(), &recipe.path, &[]).map_err(|e| e.to_string());
        proptest::prop_assert_eq!(again, Ok(recipe));
    }
}

#[test]
fn sources_may_be_spelled_in_four_ways() {
    let dir = folder();
    let base = "[base]\nmodel = \"owner/name\"\n";
    for (text, paths) in [
        ("[data]\ntrain = \"train.jsonl\"", 1),
        ("[data]\ntrain = [\"train.jsonl\", \"more.jsonl\"]", 2),
        ("[data]\ntrain = { path = \"train.jsonl\", limit = 3 }", 1),
        ("[[data.train]]\npath = \"train.jsonl\"\n[[data.train]]\npath = \"more.jsonl\"\nshape = \"sharegpt\"", 2),
    ] {
        let recipe = parse_in(dir.path(), &format!("{base}{text}"), &[]).unwrap();
        assert_eq!(recipe.data.train.len(), paths, "{text}");
        assert_eq!(recipe, parse_in(dir.path(), &recipe.to_toml(), &[]).unwrap(), "{text}");
    }
}

#[test]
fn tasks_choose_among_the_files_of_a_folder() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("tasks")).unwrap();
    for name in ["task1_a.json", "task2_b.json.gz", "task3_c.json", "fi_task1_a.json"] {
        std::fs::write(dir.path().join("tasks").join(name), "{}").unwrap();
    }
    std::fs::write(dir.path().join("test.txt"), "task3_c\r\n\ntask9_elsewhere\n").unwrap();
    let source = |keys: &str| format!("[base]\nmodel = 'a'\n[data]\ntrain = {{ path = 'tasks', {keys} }}\n");
    let paths = |keys: &str| {
        let recipe = parse_in(dir.path(), &source(keys), &[]).unwrap_or_else(|e| panic!("{keys}: {e}"));
        assert_eq!(recipe, parse_in(dir.path(), &recipe.to_toml(), &[]).unwrap());
        let name = |source: &Source| source.path.file_name().unwrap().to_string_lossy().split('.').next().unwrap().to_string();
        recipe.data.train.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(paths("tasks = 'test.txt'"), ["task3_c"]);
    assert_eq!(paths("except_tasks = 'test.txt'"), ["fi_task1_a", "task1_a", "task2_b"]);
    assert_eq!(paths("tasks = ['task*'], except_tasks = ['task3_c']"), ["task1_a", "task2_b"]);
    assert_eq!(paths("tasks = ['task*', 'task1_a']"), ["task1_a", "task2_b", "task3_c"]);
    for (keys, why) in [
        ("tasks = ['task1']", "no file of the task \"task1\"; the nearest is \"task1_a\""),
        ("tasks = ['task[']", "\"task[\" is no name of tasks"),
        ("except_tasks = ['*']", "leaves no file"),
        ("tasks = 'none.txt'", "there is no file"),
        ("tasks = []", "is an empty list"),
    ] {
        let error = parse_in(dir.path(), &source(keys), &[]).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("r.toml:4"), "{keys}: {error}");
    }
    std::fs::write(dir.path().join("test.txt"), "task9_elsewhere\n").unwrap();
    let error = parse_in(dir.path(), &source("tasks = 'test.txt'"), &[]).unwrap_err().to_string();
    assert!(error.contains("none of the tasks in"), "{error}");
}

#[test]
fn further_sets_have_names_of_their_own() {
    let sets = format!(
        "{HEAD}{}",
        "[[eval.sets]]\nname = 'a'\nrows = 'more.jsonl'\n[[eval.sets]]\nname = 'b'\nrows = ['heldout.jsonl']\n"
    );
    let recipe = parse_in(folder().path(), &sets, &[]).unwrap();
    assert_eq!(recipe.eval.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let error = message(&sets.replace("'b'", "'a'"), &[]);
    assert!(error.contains("r.toml:9: `eval.sets[1].name`: \"a\" is the name of another set"), "{error}");
    assert!(message(&sets.replace("more.jsonl", "none.jsonl"), &[]).contains("r.toml:7: `eval.sets[0].rows`: there is no file"));
    assert!(message(&format!("{HEAD}[[eval.sets]]\nname = 'a'\n"), &[]).contains("`eval.sets[0].rows`"));
}

#[test]
fn questions_have_a_name_of_their_own_and_a_place_in_their_prompt() {
    let quiz = |keys: &str| format!("{HEAD}[[eval.choices]]\nname = 'a'\nrows = 'more.jsonl'\n{keys}\n");
    let recipe = parse_in(folder().path(), &quiz(""), &[]).unwrap();
    let set = &recipe.eval.choices[0];
    assert_eq!((set.prompt.as_str(), set.delimiter.as_str(), set.chat, set.limit), ("{question}", " ", false, None));
    assert_eq!(parse_in(folder().path(), &quiz("chat = true"), &[]).unwrap().eval.choices[0].delimiter, "");
    let error = message(&quiz("prompt = 'Answer:'"), &[]);
    assert!(error.contains("r.toml:8: `eval.choices[0].prompt`: does not say where the question stands"), "{error}");
    let error = message(&quiz("[[eval.sets]]\nname = 'a'\nrows = 'more.jsonl'"), &[]);
    assert!(error.contains("`eval.choices[0].name`: \"a\" is the name of another set"), "{error}");
    let error = message(&quiz("").replace("more.jsonl", "none.jsonl"), &[]);
    assert!(error.contains("r.toml:7: `eval.choices[0].rows`: there is no file"), "{error}");
}

#[test]
fn a_model_is_an_id_or_a_path() {
    let dir = folder();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(dir.path().join("models/small")).unwrap();
    let model = |model: &str| {
        let text = HEAD.replace("owner/name", model);
        parse_in(dir.path(), &text, &[]).unwrap_or_else(|e| panic!("{e}")).base.model
    };
    assert_eq!(model("owner/name-1.5_b"), "owner/name-1.5_b");
    assert_eq!(model("gpt2"), "gpt2");
    assert_eq!(model("models/small"), root.join("models/small").display().to_string());
    assert_eq!(model("./not/there"), root.join("not/there").display().to_string());
    assert_eq!(model("small.gguf"), root.join("small.gguf").display().to_string());
    assert_eq!(model("/some/where"), "/some/where");
}

#[test]
fn overrides_win() {
    let full = "[adapter]\nrank = 4\nrank_pattern = { q = 3 }\n[train]\nsteps = 100\nlr = 1e-3\n";
    let recipe = good(
        full,
        &["adapter.rank=32", "train.lr = 5e-5", "output.name=my run", "adapter.targets=['q_proj']", "eval.exact_match=true"],
    );
    assert_eq!((recipe.adapter.rank, recipe.train.lr, recipe.output.name.as_str()), (32, 5e-5, "my run"));
    assert_eq!(recipe.adapter.targets, TargetModules::Names(vec!["q_proj".into()]));
    assert!(recipe.eval.exact_match);
    assert_eq!(good("", &["adapter.targets=all-linear"]).adapter.targets, TargetModules::AllLinear);
    assert_eq!(good("", &["adapter.targets=All-Linear"]).adapter.targets, TargetModules::AllLinear, "as PEFT, in any case");
    assert_eq!(good("", &["adapter.targets=[qk]_proj"]).adapter.targets, TargetModules::Regex("[qk]_proj".into()));
    assert_eq!(good("", &["output.name=2024-01-01"]).output.name, "2024-01-01");
    assert_eq!(good("", &["template.system="]).template.system.as_deref(), Some(""));
    assert_eq!(good("", &["template.system=a = b"]).template.system.as_deref(), Some("a = b"));
    assert_eq!(
        good(full, &["adapter.rank_pattern.'a.b'=7"]).adapter.rank_pattern,
        [("q".to_string(), 3), ("a.b".to_string(), 7)]
    );
    let recipe = good(full, &["train.epochs=3"]);
    assert_eq!((recipe.train.steps, recipe.train.epochs), (None, 3.0), "the command line wins over `steps`");
    let recipe = good("heldout = 'heldout.jsonl'\n", &["data.heldout_fraction=0.2"]);
    assert_eq!((recipe.data.heldout.len(), recipe.data.heldout_fraction), (0, 0.2));
}

#[test]
fn names_of_other_tools_lead_to_keys_that_exist() {
    let keys: Vec<String> = keys().into_iter().map(|key| key.key).collect();
    for (theirs, ours) in key_synonyms::NAMES {
        let key = ours.split(' ').next().unwrap();
        assert!(keys.iter().any(|known| known == key), "{theirs} → {ours}");
    }
}

#[test]
fn schema_in_docs_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipe.schema.json");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let current = format!("{:#}\n", schema());
    assert!(
        written == current,
        "docs/recipe.schema.json is out of date; run: cargo run -- recipe schema > docs/recipe.schema.json"
    );
}

#[test]
fn dora_is_trained_without_dropout() {
    assert!(good("[adapter]\ndora = true\n", &[]).adapter.dora);
    let said = message(&format!("{HEAD}[adapter]\ndora = true\ndropout = 0.1\n"), &[]);
    assert!(said.contains("r.toml:7: `adapter.dropout`: is above 0 beside `adapter.dora`"), "{said}");
}
