//! `lorakit serve`: one base and many adapters, over HTTP.

use std::path::Path;
use std::sync::Arc;

pub use super::serve_args::ServeArgs;
use crate::adapter::inspect;
use crate::error::Result;
use crate::job;
use crate::recipe::Recipe;
use crate::serve::{self, ServeEvent};

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the base, the settings or the address.
pub fn run(args: &ServeArgs) -> Result<()> {
    let recipe = first_recipe(args.adapters.as_deref())?;
    let opened = args.base.open(recipe.as_ref())?;
    let settings = args.settings(&opened)?;
    serve::serve(opened, settings, Arc::new(tell))
}

/// The first recipe that is saved beside an adapter of the folder: it names the base where nothing else does.
fn first_recipe(root: Option<&Path>) -> Result<Option<Recipe>> {
    let Some(root) = root else { return Ok(None) };
    inspect::find(root)?.iter().find_map(|dir| job::saved_recipe(dir).transpose()).transpose()
}

fn tell(event: ServeEvent) {
    match event {
        ServeEvent::Listening(address) => eprintln!("listening on http://{address} (page, API and /openapi.json)"),
        ServeEvent::Reloaded(n) => eprintln!("assistants: {n} are there now"),
        ServeEvent::NotReloaded(why) => eprintln!("warning: assistants stay as they were: {why}"),
        ServeEvent::Published { name, id, version } => {
            eprintln!("adapter {name}: version {version} (generation {id}) answers now")
        }
        ServeEvent::NotPublished(name, why) => eprintln!("warning: adapter {name} was not published: {why}"),
        ServeEvent::Broken(name, why) => eprintln!("warning: adapter {name} could not be loaded and does not answer: {why}"),
        ServeEvent::Ending(n) => eprintln!("ending: no more requests are taken, {n} are being answered"),
        ServeEvent::Cut(n) => eprintln!("ending: the grace time is over, {n} answers are cut"),
    }
}
