//! `lorakit generate`: one answer, streamed to standard output.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::event_printer::EventPrinter;
use super::generation_args::{self, AnswerArgs, BaseArgs};
use crate::error::Result;
use crate::job::{self, Control, JobEvent, Question};

/// Continue a text or answer a message.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("ask").required(true).args(["prompt", "chat"]))]
pub struct GenerateArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// Directory of an adapter
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Continue this text as it is (special tokens in it count as such)
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Answer this message, in the chat template
    #[arg(long, value_name = "TEXT")]
    chat: Option<String>,
    /// System message before it
    #[arg(long, value_name = "S", requires = "chat")]
    system: Option<String>,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Print one JSON line at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the base, the adapter or the prompt.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let sampling = args.answer.sampling()?;
    let adapters: Vec<(String, PathBuf)> = args.adapter.iter().map(|dir| ("adapter".to_string(), dir.clone())).collect();
    let (opened, speakers) = generation_args::open(&args.base, &adapters, args.json)?;
    let Some(speaker) = speakers.last() else { unreachable!("the base is always among the speakers") };
    let question = match &args.chat {
        Some(message) => Question::Chat { system: args.system.as_deref(), message },
        None => Question::Continue(args.prompt.as_deref().unwrap_or_default()),
    };
    let mut stdout = std::io::stdout().lock();
    let printer = EventPrinter::new(args.json);
    let mut told = printer.listener();
    let mut listener = |event: JobEvent<'_>| match event {
        JobEvent::Text(piece) if !args.json => generation_args::show(&mut stdout, piece),
        JobEvent::Text(_) => Ok(Control::Go),
        other => told(other),
    };
    let answer = job::answer(&opened, speaker, question, &sampling, args.answer.max_new_tokens, &mut listener)?;
    if !args.json {
        return super::print("\n");
    }
    let line = json!({
        "text": answer.text, "ids": answer.ids, "finish_reason": if answer.whole { "stop" } else { "length" },
        "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.ids.len(),
        "base": opened.resolved.id.clone().unwrap_or_else(|| opened.resolved.path.display().to_string()),
        "adapter": args.adapter,
    });
    super::print(&format!("{line}\n"))
}
