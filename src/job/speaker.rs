//! A base and adapters that are ready to talk, each spoken to as it was trained. Refuses to know who listens.

use std::path::{Path, PathBuf};

use super::events::{JobEvent, Listener, tell};
use super::open::{self, OpenedBase};
use super::template;
use crate::adapter::Adapter;
use crate::data::{Renderer, Tokenizer};
use crate::error::Result;
use crate::model::Adapt;
use crate::recipe::{Base, Recipe, Template, TemplateKind};

/// The base alone or an adapter on it, with the template it is spoken to in.
pub struct Speaker {
    pub name: String,
    pub adapter: Option<Adapter>,
    pub renderer: Renderer,
}

impl Speaker {
    /// The base with its own chat template.
    ///
    /// # Errors
    /// When the template does not parse.
    pub fn base(tokenizer: &Tokenizer) -> Result<Speaker> {
        Speaker::base_in(tokenizer, None)
    }

    /// The base with a template that was asked for.
    fn base_in(tokenizer: &Tokenizer, asked: Option<&TemplateKind>) -> Result<Speaker> {
        let kind = asked.cloned().unwrap_or(TemplateKind::Model);
        let renderer = Renderer::new(tokenizer.clone(), &Template { kind, ..Template::default() })?;
        Ok(Speaker { name: "base".into(), adapter: None, renderer })
    }

    /// The adapter in `dir`, spoken to as it was trained, unless another template was `asked` for.
    fn adapter(
        (name, dir): (&str, &Path),
        recipe: Option<&Recipe>,
        opened: &OpenedBase,
        asked: Asked<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Speaker> {
        let adapter = open::adapter(dir, asked.ignored, opened, listener)?.frozen();
        let (said, used) = (&adapter.config.base_model_name_or_path, &opened.resolved.id);
        if let (Some(said), Some(used)) = (said, used)
            && said != used
        {
            let other = format!("adapter {name} says that its base is {said}, this one is {used}");
            tell(listener, JobEvent::Remark(other))?;
        }
        let renderer = template::chosen((name, dir), recipe, &opened.tokenizer, asked.template, listener)?;
        Ok(Speaker { name: name.into(), adapter: Some(adapter), renderer })
    }

    /// What the model is run with.
    pub fn adapt(&self) -> &dyn Adapt {
        match &self.adapter {
            Some(adapter) => adapter,
            None => &(),
        }
    }
}

/// What was asked for all adapters alike.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The template they are spoken to in, whatever they were trained in.
    pub template: Option<&'a TemplateKind>,
    /// Fields of their configurations that are passed over although nobody here knows what they change.
    pub ignored: &'a [String],
}

/// Opens a base, then every adapter (name, directory); the base is the first speaker. `base` chooses the base with the first
/// recipe that is saved beside an adapter.
///
/// # Errors
/// Whatever is wrong with the base or an adapter; when the listener ends the job.
pub fn speakers(
    adapters: &[(String, PathBuf)],
    base: &dyn Fn(Option<&Recipe>) -> Result<Base>,
    asked: Asked<'_>,
    listener: &mut Listener<'_>,
) -> Result<(OpenedBase, Vec<Speaker>)> {
    let recipes = adapters.iter().map(|(_, dir)| template::saved_recipe(dir)).collect::<Result<Vec<_>>>()?;
    let opened = open::open(&base(recipes.iter().flatten().next())?, listener)?;
    let mut speakers = vec![Speaker::base_in(&opened.tokenizer, asked.template)?];
    for ((name, dir), recipe) in adapters.iter().zip(&recipes) {
        speakers.push(Speaker::adapter((name, dir), recipe.as_ref(), &opened, asked, listener)?);
    }
    Ok((opened, speakers))
}
