//! A checked recipe back to TOML, complete with its defaults.
//!
//! Refuses to know: where the text will be stored; the caller says how paths are to be spelled.

use std::path::Path;

use serde_json::{Map, Value};

use super::locate::join;
use super::raw::{
    OrderedTable, RawAdapter, RawBase, RawChoices, RawData, RawEval, RawEvalSet, RawMixture, RawNames, RawOutput, RawRecipe,
    RawReplay, RawSource, RawSourceTable, RawSources, RawTemplate, RawTrain, RawWarmup,
};
use super::{Recipe, Source, Strategy, TargetModules, TemplateKind, Warmup};

/// How a path of the recipe is spelled in the file.
type Spell<'a> = &'a dyn Fn(&Path) -> String;

/// The recipe as a tree of plain values: section → key → value.
pub(super) fn tree(recipe: &Recipe, spell: Spell<'_>) -> Value {
    // The raw form is maps with text keys, lists and scalars, which always have a JSON form.
    let mut tree = serde_json::to_value(raw(recipe, spell)).unwrap_or_default();
    drop_nulls(&mut tree);
    tree
}

/// The tree as TOML: one `[section]` a table, one line a key.
pub(super) fn toml(tree: &Value) -> String {
    let mut text = String::new();
    for (section, keys) in tree.as_object().into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{section}]\n"));
        for (key, value) in keys.as_object().into_iter().flatten() {
            text.push_str(&format!("{} = {}\n", join("", key), toml_value(value)));
        }
    }
    text
}

/// A text as TOML writes it.
pub fn toml_text(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// One value as TOML.
pub(super) fn toml_value(value: &Value) -> String {
    match value {
        Value::String(text) => toml_text(text),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            // `{:?}` keeps the point or the exponent that makes it a float, and the shortest digits that read back equal.
            Some(float) => format!("{float:?}"),
            None => number.to_string(),
        },
        Value::Array(list) => format!("[{}]", list.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => inline_table(map),
        Value::Bool(_) | Value::Null => value.to_string(),
    }
}

fn inline_table(map: &Map<String, Value>) -> String {
    let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{} = {}", join("", key), toml_value(value))).collect();
    if pairs.is_empty() { "{}".to_string() } else { format!("{{ {} }}", pairs.join(", ")) }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
    if let Value::Array(list) = value {
        list.iter_mut().for_each(drop_nulls);
    }
}

fn raw(recipe: &Recipe, spell: Spell<'_>) -> RawRecipe {
    RawRecipe {
        base: base(&recipe.base, spell),
        adapter: Some(adapter(&recipe.adapter)),
        data: data(&recipe.data, spell),
        template: Some(RawTemplate {
            kind: Some(match &recipe.template.kind {
                TemplateKind::Model => "model".to_string(),
                TemplateKind::Alpaca => "alpaca".to_string(),
                TemplateKind::Instruction => "instruction".to_string(),
                TemplateKind::File(path) => spell(path),
            }),
            system: recipe.template.system.clone(),
            roles_to_train: Some(recipe.template.roles_to_train.clone()),
            train_on_eos: Some(recipe.template.train_on_eos),
            train_turns: Some(recipe.template.train_turns),
            special_tokens_in_data: Some(recipe.template.special_tokens_in_data),
        }),
        train: Some(train(&recipe.train)),
        eval: Some(eval(&recipe.eval, spell)),
        output: Some(RawOutput {
            dir: Some(recipe.output.dir.display().to_string()),
            name: Some(recipe.output.name.clone()),
            description: Some(recipe.output.description.clone()),
            license: Some(recipe.output.license.clone()),
        }),
    }
}

fn eval(eval: &super::Eval, spell: Spell<'_>) -> RawEval {
    let set = |set: &super::EvalSet| RawEvalSet { name: set.name.clone(), rows: sources(&set.rows, spell), limit: set.limit };
    let choices = |set: &super::ChoiceSet| RawChoices {
        name: set.name.clone(),
        rows: RawNames::List(set.paths.iter().map(|path| super::origin(path).unwrap_or_else(|| spell(path))).collect()),
        limit: set.limit,
        prompt: Some(set.prompt.clone()),
        chat: Some(set.chat),
        delimiter: Some(set.delimiter.clone()),
    };
    RawEval {
        exact_match: Some(eval.exact_match),
        normalize: Some(eval.normalize),
        rouge_l: Some(eval.rouge_l),
        max_new_tokens: Some(eval.max_new_tokens),
        batch_size: Some(eval.batch_size),
        limit: eval.limit,
        samples: Some(eval.samples),
        sets: (!eval.sets.is_empty()).then(|| eval.sets.iter().map(set).collect()),
        choices: (!eval.choices.is_empty()).then(|| eval.choices.iter().map(choices).collect()),
    }
}

fn base(base: &super::Base, spell: Spell<'_>) -> RawBase {
    let path = Path::new(&base.model);
    RawBase {
        model: if path.is_absolute() { spell(path) } else { base.model.clone() },
        fallback: base.fallback.clone(),
        revision: Some(base.revision.clone()),
        compute: Some(base.compute),
        ignore_config: (!base.ignore_config.is_empty()).then(|| base.ignore_config.clone()),
    }
}

fn adapter(adapter: &super::Adapter) -> RawAdapter {
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    // A rank of zero cannot be checked in and is left out.
    let ranks = adapter.rank_pattern.iter().filter_map(|(key, rank)| Some((key.clone(), (*rank).try_into().ok()?))).collect();
    RawAdapter {
        method: Some(adapter.method),
        dora: Some(adapter.dora),
        rank: Some(adapter.rank),
        alpha: Some(adapter.alpha),
        dropout: Some(adapter.dropout),
        init: Some(adapter.init),
        targets: names(&adapter.targets),
        exclude: adapter.exclude.as_ref().and_then(names),
        target_parameters: some(&adapter.target_parameters),
        rank_pattern: (!adapter.rank_pattern.is_empty()).then_some(OrderedTable(ranks)),
        alpha_pattern: (!adapter.alpha_pattern.is_empty()).then(|| OrderedTable(adapter.alpha_pattern.clone())),
        layers: adapter.layers.clone(),
        layers_pattern: some(&adapter.layers_pattern).map(RawNames::List),
        modules_to_save: some(&adapter.modules_to_save),
    }
}

fn names(targets: &TargetModules) -> Option<RawNames> {
    match targets {
        TargetModules::Attention => None,
        TargetModules::Names(list) => (!list.is_empty()).then(|| RawNames::List(list.clone())),
        TargetModules::Regex(pattern) => Some(RawNames::Text(pattern.clone())),
        TargetModules::AllLinear => Some(RawNames::Text("all-linear".to_string())),
    }
}

fn data(data: &super::Data, spell: Spell<'_>) -> RawData {
    let has_heldout = !data.heldout.is_empty();
    RawData {
        train: sources(&data.train, spell),
        heldout: has_heldout.then(|| sources(&data.heldout, spell)),
        heldout_fraction: (!has_heldout).then_some(data.heldout_fraction),
        over_long: Some(data.over_long),
        heldout_tasks: (!data.heldout_tasks.is_empty()).then(|| data.heldout_tasks.clone()),
        mixture: mixture(&data.mixture),
        replay: data
            .replay
            .as_ref()
            .map(|replay| RawReplay { sources: sources(&replay.sources, spell), fraction: Some(replay.fraction) }),
        cache: match &data.cache {
            super::Keep::Default => None,
            super::Keep::Off => Some("off".into()),
            super::Keep::In(folder) => Some(spell(folder)),
        },
    }
}

fn mixture(mixture: &super::Mixture) -> Option<RawMixture> {
    let proportional = mixture.strategy == Strategy::Proportional;
    (mixture.strategy != Strategy::All).then(|| RawMixture {
        strategy: Some(mixture.strategy),
        cap: mixture.cap,
        temperature: proportional.then_some(mixture.temperature),
        rows: mixture.rows,
        unit: (!proportional).then_some(mixture.unit),
    })
}

fn sources(sources: &[Source], spell: Spell<'_>) -> RawSources {
    let mut raw: Vec<RawSource> = sources.iter().map(|one| source(one, spell)).collect();
    match raw.len() {
        1 => RawSources::One(raw.remove(0)),
        _ => RawSources::Many(raw),
    }
}

fn source(source: &Source, spell: Spell<'_>) -> RawSource {
    // What came from the hub is found there again, whatever the machine.
    let path = super::origin(&source.path).unwrap_or_else(|| spell(&source.path));
    if *source == (Source { path: source.path.clone(), ..Source::default() }) {
        return RawSource::Path(path);
    }
    RawSource::Table(Box::new(RawSourceTable {
        path,
        shape: source.shape,
        columns: (!source.columns.is_empty()).then(|| OrderedTable(source.columns.clone())),
        limit: source.limit,
        // Each file is written by its path.
        tasks: None,
        except_tasks: None,
        malformed: (source.malformed != super::Malformed::Error).then_some(source.malformed),
        name: source.name.clone(),
        weight: source.weight,
        rows: source.rows,
        epochs: source.epochs,
        take: source.take,
        pairs: source.pairs,
        clean: source.clean,
        ghost_attention: source.ghost_attention.then_some(true),
        positive_examples: source.positive_examples,
        negative_examples: source.negative_examples,
        templates: source.templates,
    }))
}

fn train(train: &super::Train) -> RawTrain {
    RawTrain {
        steps: train.steps,
        epochs: train.steps.is_none().then_some(train.epochs),
        lr: Some(train.lr),
        schedule: Some(train.schedule),
        warmup: Some(match train.warmup {
            Warmup::Steps(steps) => RawWarmup::Steps(steps),
            Warmup::Ratio(ratio) => RawWarmup::Ratio(ratio),
        }),
        batch_size: Some(train.batch_size),
        accumulate: Some(train.accumulate),
        max_length: Some(train.max_length),
        packing: Some(train.packing),
        checkpoint: Some(train.recomputation),
        save_every: Some(train.save_every),
        eval_every: Some(train.eval_every),
        early_stop: train.early_stop,
        seed: Some(train.seed),
        weight_decay: Some(train.weight_decay),
        beta1: Some(train.beta1),
        beta2: Some(train.beta2),
        eps: Some(train.eps),
        clip: Some(train.clip),
    }
}
