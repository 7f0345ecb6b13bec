//! `lorakit data render`: contexts through a chat template, and where in the text the loss falls.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::context_lines::{context, rendered};
use crate::data::{ByTools, ChatTemplates, Clock, Jinja, Special, Tokenizer};
use crate::error::{Error, Result};
use crate::recipe::{self, Recipe, TemplateKind};

/// Render contexts with a chat template and say which bytes are trained, one JSON object a line.
#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Jinja file of the template
    #[arg(long, value_name = "T.jinja", required_unless_present = "template_of")]
    template: Option<PathBuf>,
    /// Recipe whose template (and special tokens) to use
    #[arg(long, value_name = "RECIPE", conflicts_with = "template")]
    template_of: Option<PathBuf>,
    /// JSON lines, each a context as the template gets it: `messages`, `tools`, `add_generation_prompt`, `bos_token` …;
    /// - reads standard input
    #[arg(long, value_name = "C.jsonl")]
    contexts: PathBuf,
    /// What a template is told when it asks for the time, e.g. 2025-07-10 or 2025-07-10T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = Clock::parse, default_value = "2024-07-26")]
    now: Clock,
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the template or a line of the contexts; writing failed. What a template refuses is a line of the output.
pub(super) fn run(args: &RenderArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    let (template, rules) = template(args, open)?;
    let path = &args.contexts;
    let reader: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        Box::new(BufReader::new(file))
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = |source| Error::Io { action: "write", path: "standard output".into(), source };
    for (i, line) in reader.split(b'\n').enumerate() {
        let line = line.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let context = context(path, i + 1, &line)?;
        // As transformers: by whether tools are given, of whatever kind.
        let tools = context.get("tools").is_some_and(|tools| !tools.is_null());
        writeln!(out, "{}", rendered(template.choose(tools)?, &context, &rules)).map_err(written)?;
    }
    out.flush().map_err(written)
}

fn template(args: &RenderArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<(ByTools<Jinja>, recipe::Template)> {
    let compiled = |templates: &ChatTemplates, special: &Special| {
        ByTools::of(templates, |name, source| Jinja::new(name, source, special, args.now))
    };
    let file = |path: &Path, special: &Special| compiled(&ChatTemplates::of_file(path)?, special);
    match (&args.template, &args.template_of) {
        (Some(path), _) => Ok((file(path, &Special::default())?, recipe::Template::default())),
        (None, Some(path)) => {
            let recipe = Recipe::load(path, &[])?;
            let tokenizer = open(&recipe)?;
            let own = tokenizer.chat_templates();
            let template = match &recipe.template.kind {
                TemplateKind::File(path) => file(path, tokenizer.special())?,
                TemplateKind::Model if !own.is_empty() => compiled(own, tokenizer.special())?,
                _ => {
                    let why = "its template is not Jinja";
                    return Err(Error::usage(path.display().to_string(), why, "give a Jinja file with --template"));
                }
            };
            Ok((template, recipe.template))
        }
        (None, None) => Err(Error::usage("--template", "no template is given", "e.g. --template chat.jinja")),
    }
}
