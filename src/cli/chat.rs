//! `lorakit chat`: the terminal end of a conversation.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use rustyline::error::ReadlineError;

use super::conversation::Conversation;
use super::talk::{self, AnswerArgs, BaseArgs};
use crate::error::{Error, Result};

/// Talk to a base model and to adapters on it.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    base: BaseArgs,
    /// An adapter to switch to; the first one answers at the start
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    adapters: Vec<String>,
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
    let adapters = names(&args.adapters)?;
    let (opened, speakers) = talk::open(&args.base, &adapters, false)?;
    let mut talk = Conversation::new(&opened, speakers, args.context, sampling, args.answer.max_new_tokens)?;
    talk.system.clone_from(&args.system);
    let mut lines = Lines::open()?;
    // After the line editor, which takes SIGINT for itself when it is made.
    listen();
    if lines.is_terminal() {
        super::print(&format!("{}\n/help lists the commands\n", talk.list()))?;
    }
    while let Some(line) = lines.next(&format!("{}> ", talk.speaker().name))? {
        ANSWERING.store(true, Ordering::SeqCst);
        let outcome = talk.line(line.trim(), &mut std::io::stdout(), &|| ANSWERING.load(Ordering::SeqCst));
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

/// `NAME=DIR`, or `DIR` alone, which is called by its last part.
fn names(adapters: &[String]) -> Result<Vec<(String, PathBuf)>> {
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

/// Where lines come from.
enum Lines {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Lines {
    fn open() -> Result<Lines> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Lines::Pipe(stdin.lock().lines()));
        }
        let editor = rustyline::DefaultEditor::new().map_err(|e| broken(&e.to_string()))?;
        Ok(Lines::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    /// The next line, or `None` at the end of the input.
    fn next(&mut self, prompt: &str) -> Result<Option<String>> {
        match self {
            Lines::Pipe(lines) => lines.next().transpose().map_err(Error::io("read", Path::new("standard input"))),
            Lines::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => {
                    // Only the arrow keys lose by a line that is not remembered.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(e) => Err(broken(&e.to_string())),
            },
        }
    }
}

fn broken(why: &str) -> Error {
    Error::usage("terminal", why, "pipe the messages in instead, one a line")
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
