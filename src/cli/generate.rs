//! `lorakit generate`: one answer, streamed to standard output.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::said::Said;
use super::talk::{self, AnswerArgs, BaseArgs, Speaker};
use crate::data::{Message, Tokenizer};
use crate::error::Result;
use crate::generate::{Limits, Session, TextStream};

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
    let (opened, speakers) = talk::open(&args.base, &adapters, args.json)?;
    let Some(speaker) = speakers.last() else { unreachable!("the base is always among the speakers") };
    let ids = args.ids(speaker, &opened.tokenizer)?;
    // The text of a chat's answer begins anew; a continued one begins where the prompt ends.
    let before = if args.prompt.is_some() { ids.as_slice() } else { &[] };
    let stop = if args.prompt.is_some() { opened.tokenizer.eos_ids().to_vec() } else { speaker.renderer.stop_ids() };
    let limits = Limits { max_new_tokens: args.answer.max_new_tokens, stop };
    let room = talk::room(&opened.model, ids.len(), limits.max_new_tokens);
    let mut stdout = std::io::stdout().lock();
    let out: Option<&mut dyn Write> = if args.json { None } else { Some(&mut stdout) };
    let mut said = Said::new(TextStream::new(opened.tokenizer.clone(), before), out);
    let mut session = Session::new(&opened.model, room)?;
    let answer = session.generate(speaker.adapt(), &speaker.name, &ids, &sampling, &limits, &mut |id| said.token(id))?;
    let text = said.finish()?;
    if args.json {
        let whole = answer.len() < limits.max_new_tokens && ids.len() + answer.len() <= room;
        let line = json!({
            "text": text, "ids": answer, "finish_reason": if whole { "stop" } else { "length" },
            "prompt_tokens": ids.len(), "completion_tokens": answer.len(),
            "base": opened.resolved.id.clone().unwrap_or_else(|| opened.resolved.path.display().to_string()),
            "adapter": args.adapter,
        });
        return super::print(&format!("{line}\n"));
    }
    super::print("\n")
}

impl GenerateArgs {
    fn ids(&self, speaker: &Speaker, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let Some(message) = &self.chat else {
            let bos = tokenizer.bos_id().filter(|_| tokenizer.special().add_bos);
            let text = tokenizer.encode(self.prompt.as_deref().unwrap_or_default())?;
            // A prompt that writes its own BOS does not get a second one.
            return Ok(bos.into_iter().filter(|bos| text.first() != Some(bos)).chain(text.iter().copied()).collect());
        };
        let mut messages: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        messages.push(Message::new("user", message));
        speaker.renderer.chat(&messages, true)
    }
}
