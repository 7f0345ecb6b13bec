//! What the generator is asked, in our own words: texts to be continued.
//!
//! The order of the work is Self-Instruct's (instructions from 6 tasks of people and 2 of the model; whether a task is
//! classification; instances, input first or, for classification, output first so that labels do not all come out the same)
//! or Alpaca's (whole tasks at once). Refuses to know who answers.

use std::fmt::Write;

use super::seeds::{Instance, SeedTask};

/// Stands for an input that is not needed.
pub(super) const NO_INPUT: &str = "(none)";
/// Self-Instruct's lists are numbered to here.
pub(super) const LIST_END: usize = 16;
/// Alpaca's.
pub(super) const TASKS_END: usize = 20;

/// How the next token is chosen, for every request of a stage.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Choice {
    /// 0: the most likely token.
    pub temperature: f64,
    /// 1: all tokens.
    pub top_p: f64,
    /// 1: off; only the local generator has it.
    pub repetition_penalty: f64,
    pub max_new_tokens: usize,
}

/// A text to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is wanted.
    pub head: String,
    /// The text so far, which shows the form.
    pub body: String,
    /// Its last characters, with which the answer begins.
    pub cue: String,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    pub choice: Choice,
    /// Same seed, same answer, where the generator can promise that.
    pub seed: u64,
}

impl Request {
    /// As one text for a model that continues texts.
    pub fn text(&self) -> String {
        format!("{}\n\n{}{}", self.head, self.body, self.cue)
    }

    /// As a message for a model that answers messages.
    pub fn message(&self) -> String {
        let Request { head, body, cue, .. } = self;
        format!("{head}\n\n{body}\nGo on from here in the same form, beginning with \"{cue}\"; write nothing else.")
    }
}

/// More instructions like these.
pub(super) fn instructions(shown: &[String], choice: Choice, seed: u64) -> Request {
    let mut body = String::new();
    for (i, text) in shown.iter().enumerate() {
        _ = writeln!(body, "{}. {}", i + 1, one_line(text));
    }
    Request {
        head: format!(
            "A list of {LIST_END} tasks for an assistant that works with text. Every task is different from all others in what it \
             asks for, and says all that is needed to do it."
        ),
        body,
        cue: format!("{}.", shown.len() + 1),
        stop: vec!["\n\n".into(), format!("\n{}.", LIST_END + 1)],
        choice,
        seed,
    }
}

/// Whether a task is classification, from examples of both kinds.
pub(super) fn classification(examples: &[&SeedTask], instruction: &str, choice: Choice, seed: u64) -> Request {
    let mut body = String::new();
    for task in examples {
        let answer = if task.is_classification { "Yes" } else { "No" };
        _ = writeln!(body, "Task: {}\nFixed answers: {answer}\n", one_line(&task.instruction));
    }
    _ = writeln!(body, "Task: {}", one_line(instruction));
    Request {
        head: "For each task: is the right output always one of a few fixed answers, such as Yes or No, or a label out of a \
               short list?"
            .into(),
        body,
        cue: "Fixed answers:".into(),
        stop: vec!["\n".into(), "Task:".into()],
        choice,
        seed,
    }
}

/// Instances of a task; `classification` asks for the output first. `most`: more than this many are not used.
pub(super) fn instances(
    examples: &[&SeedTask],
    instruction: &str,
    classification: bool,
    most: usize,
    choice: Choice,
    seed: u64,
) -> Request {
    let (first, second) = if classification { ("Output", "Input") } else { ("Input", "Output") };
    let mut body = String::new();
    for task in examples {
        _ = writeln!(body, "Task: {}", one_line(&task.instruction));
        for Instance { input, output } in task.instances.iter().take(most) {
            let (input, output) = (shown(input), output.trim());
            let (a, b) = if classification { (output, input) } else { (input, output) };
            _ = writeln!(body, "{first}: {a}\n{second}: {b}");
        }
        body.push('\n');
    }
    _ = writeln!(body, "Task: {}", one_line(instruction));
    let head = if classification {
        "Each task with an example: an output that the task allows, then an input for which this output is right."
    } else {
        "Each task with an example: an input (or (none), where the task needs no further text), then the right output, complete."
    };
    let mut stop = vec!["\nTask:".to_string()];
    if most == 1 {
        stop.push(format!("\n{first}:"));
    }
    Request { head: head.into(), body, cue: format!("{first}:"), stop, choice, seed }
}

/// Whole tasks like these, all parts at once.
pub(super) fn tasks(shown_tasks: &[&SeedTask], choice: Choice, seed: u64) -> Request {
    let mut body = String::new();
    for (i, task) in shown_tasks.iter().enumerate() {
        let Some(Instance { input, output }) = task.instances.first() else { continue };
        let (n, instruction) = (i + 1, one_line(&task.instruction));
        _ = writeln!(body, "Task {n}\nInstruction: {instruction}\nInput: {}\nOutput: {}\n", shown(input), output.trim());
    }
    Request {
        head: format!(
            "{TASKS_END} tasks for an assistant that works with text, to see whether it understands instructions. No verb and no \
             kind of task comes twice: questions, rewriting, sorting into classes, planning, code, reasoning and more. The \
             instruction is one or two sentences. The input is a realistic text of the task, at most 100 words, or {NO_INPUT} \
             where the instruction says it all. The output is a complete and correct answer, at most 100 words. An assistant that \
             only reads and writes text must be able to do it."
        ),
        body,
        cue: format!("Task {}\nInstruction:", shown_tasks.len() + 1),
        stop: vec![format!("\nTask {}", TASKS_END + 1)],
        choice,
        seed,
    }
}

fn shown(input: &str) -> &str {
    if input.trim().is_empty() { NO_INPUT } else { input.trim() }
}

/// White space of every kind becomes one space.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
