//! `lorakit chat`: the terminal end of a conversation.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::chat_commands;
use super::generation_args::{self, AnswerArgs, BaseArgs};
use super::input_lines::InputLines;
use crate::error::Result;
use crate::job::{Assistants, Chat};

/// Talk to a base model and to adapters on it.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// An adapter to switch to; the first one answers at the start
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    adapters: Vec<String>,
    /// Assistants on the base and these adapters: a TOML file, or a folder of such, as `serve` takes them
    #[arg(long, value_name = "FILE|DIR")]
    assistants: Option<PathBuf>,
    /// System message
    #[arg(long, value_name = "S")]
    system: Option<String>,
    /// Longest conversation in tokens
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: usize,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// While an answer is being written; Ctrl-C takes it back, and ends the program when none is.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the base or an adapter.
pub fn run(args: &ChatArgs) -> Result<()> {
    let sampling = args.answer.sampling()?;
    let adapters = generation_args::names(&args.adapters)?;
    let (opened, speakers) = generation_args::open(&args.base, &adapters, false)?;
    let assistants = args.assistants.as_deref().map(Assistants::load).transpose()?.unwrap_or_default();
    let mut talk = Chat::new(opened, speakers, assistants, args.context, sampling, args.answer.max_new_tokens)?;
    talk.system.clone_from(&args.system);
    let mut lines = InputLines::open()?;
    // After the line editor, which takes SIGINT for itself when it is made.
    listen();
    if lines.is_terminal() {
        super::print(&format!("{}\n/help lists the commands\n", chat_commands::list(&talk)))?;
    }
    while let Some(line) = lines.next(&format!("{}> ", talk.name()))? {
        ANSWERING.store(true, Ordering::SeqCst);
        let outcome = chat_commands::line(&mut talk, line.trim(), &mut std::io::stdout(), &|| ANSWERING.load(Ordering::SeqCst));
        ANSWERING.store(false, Ordering::SeqCst);
        match outcome {
            Ok(true) => {}
            Ok(false) => break,
            // A message that cannot be answered does not end the conversation.
            Err(error) => eprintln!("error: {error}"),
        }
    }
    Ok(())
}

fn listen() {
    let installed = ctrlc::set_handler(|| {
        if !ANSWERING.swap(false, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if let Err(e) = installed {
        eprintln!("warning: Ctrl-C will end the conversation, not the answer: {e}");
    }
}
