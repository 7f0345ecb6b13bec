//! `lorakit data`: one file a verb.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `account`, `context_lines`, `curate_values`, `curated`, `draw_args`, `generator_args`, `html`, `paint`, `phrases`, `plots`, `rows_args`, `scan_progress`, `synthesis_progress`, `synthesized` | what is drawn, arguments and their values |
//! | 1 | `curate`, `examples`, `page`, `prepare`, `render`, `report_text`, `show_page`, `synthesize` | verbs and pages made of these |
//! | 2 | `check`, `show` | verbs made of pages |

mod account;
mod check;
mod context_lines;
mod curate;
mod curate_values;
mod curated;
mod draw_args;
mod examples;
mod generator_args;
mod html;
mod scan_progress;
mod synthesis_progress;
mod page;
mod paint;
mod phrases;
mod plots;
mod prepare;
mod render;
mod report_text;
mod rows_args;
mod show;
mod show_page;
mod synthesize;
mod synthesized;

use clap::{Args, Subcommand};

use crate::data::Tokenizer;
use crate::error::Result;
use crate::recipe::Recipe;

/// Look at training data as the model will see it, and make some.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print rendered examples with their trained tokens marked, and what became of every row
    Show(show::ShowArgs),
    /// Read, tokenise and pack all rows now and keep the tokens, so that `train` starts at once; say what it would use
    Prepare(prepare::PrepareArgs),
    /// Render contexts with a chat template and say which bytes are trained
    Render(render::RenderArgs),
    /// Find copies, leaks, refusals, garbage, personal data; languages, lengths, spread, quality
    Check(check::CheckArgs),
    /// Write the rows worth keeping to a new file
    Curate(curate::CurateArgs),
    /// Write instruction data with a model: Self-Instruct's loop, or Alpaca's one call for whole tasks
    Synthesize(Box<synthesize::SynthesizeArgs>),
}

/// Runs the verb; `open` finds the tokenizer of a recipe's base model.
///
/// # Errors
/// What is wrong with the arguments, the recipe, the tokenizer or the data; writing failed.
pub fn run(args: &DataArgs, open: impl Fn(&Recipe) -> Result<Tokenizer>) -> Result<()> {
    match &args.verb {
        Verb::Show(args) => show::run(args, open),
        Verb::Prepare(args) => prepare::run(args, open),
        Verb::Render(args) => render::run(args, open),
        Verb::Check(args) => check::run(args),
        Verb::Curate(args) => curate::run(args),
        Verb::Synthesize(args) => synthesize::run(args),
    }
}
