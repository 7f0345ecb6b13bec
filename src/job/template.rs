//! In which chat template an adapter is spoken to: the one that was asked for, else the one it was trained with. Refuses to
//! know what is said.

use std::path::Path;

use super::events::{JobEvent, Listener, tell};
use crate::adapter::inspect::RECIPE;
use crate::artifact::chat_template;
use crate::data::{Renderer, Tokenizer};
use crate::error::{Error, Result};
use crate::recipe::{Recipe, Template, TemplateKind};

/// The recipe saved beside an adapter, if there is one.
///
/// # Errors
/// As [`Recipe::load_saved`].
pub fn saved_recipe(dir: &Path) -> Result<Option<Recipe>> {
    let path = dir.join(RECIPE);
    if path.is_file() { Recipe::load_saved(&path).map(Some) } else { Ok(None) }
}

/// The recipe saved beside an adapter where its template is not kept, so that a recipe is needed to know it.
pub(super) fn recipe_for(dir: &Path) -> Result<Option<Recipe>> {
    if chat_template::kept(dir)?.is_empty() { saved_recipe(dir) } else { Ok(None) }
}

/// Conversations as the adapter in `dir` was trained on them: in the template kept beside it (or a fixed one of its recipe),
/// with its recipe's system message. Without any of these, in the base's own.
///
/// # Errors
/// [`Error::Template`] when the template does not parse; [`Error::Usage`] when its file is gone.
pub fn as_trained(dir: &Path, recipe: Option<&Recipe>, tokenizer: &Tokenizer) -> Result<Renderer> {
    let template = recipe.map(|r| r.template.clone()).unwrap_or_default();
    let fixed = matches!(template.kind, TemplateKind::Alpaca | TemplateKind::Instruction);
    let kept = chat_template::kept(dir)?;
    if !kept.is_empty() && !fixed {
        // The system message is in what is kept.
        let template = Template { kind: TemplateKind::Model, system: None, ..template };
        return Renderer::new(tokenizer.with_chat_templates(kept), &template);
    }
    match &template.kind {
        TemplateKind::File(path) if !path.is_file() => Err(Error::usage(
            format!("chat template of {}", dir.display()),
            format!("{} is gone, with which it was trained, and no {} is kept beside it", path.display(), chat_template::FILE),
            "say which to use: --template FILE.jinja (or --template model, for the base's own)",
        )),
        _ => Renderer::new(tokenizer.clone(), &template),
    }
}

/// As [`as_trained`], or in the template that was `asked` for; which one it is is told where it might surprise. `name` is what
/// the adapter is called.
///
/// # Errors
/// As [`as_trained`]; when the listener ends the job.
pub(super) fn chosen(
    (name, dir): (&str, &Path),
    recipe: Option<&Recipe>,
    tokenizer: &Tokenizer,
    asked: Option<&TemplateKind>,
    listener: &mut Listener<'_>,
) -> Result<Renderer> {
    let template = recipe.map(|r| r.template.clone()).unwrap_or_default();
    let (used, told) = match asked {
        Some(kind) => {
            let used = Renderer::new(tokenizer.clone(), &Template { kind: kind.clone(), ..template })?;
            // What it was trained with need not be there any more.
            let trained = as_trained(dir, recipe, tokenizer).ok();
            let other = trained.is_some_and(|trained| trained.chat_templates() != used.chat_templates());
            let told =
                format!("{name} was trained in another chat template than the one asked for with --template, which is used");
            (used, other.then_some(told))
        }
        None => {
            let used = as_trained(dir, recipe, tokenizer)?;
            let kept = chat_template::kept(dir)?;
            let own = Renderer::new(tokenizer.clone(), &Template { kind: TemplateKind::Model, ..template });
            let other = !kept.is_empty() && own.map_or(true, |own| *own.chat_templates() != kept);
            let told =
                format!("{name} is spoken to in the chat template it was trained in ({}), not the base's own", dir.display());
            (used, other.then_some(told))
        }
    };
    told.map_or(Ok(()), |told| tell(listener, JobEvent::Remark(told)))?;
    Ok(used)
}
