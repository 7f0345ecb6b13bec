//! What `lorakit chat` does with a line: a message for the conversation, or a command about it.

use std::io::Write;

use super::generation_args::show;
use crate::error::{Result, nearest};
use crate::job::{Chat, Control, JobEvent};

/// What can be typed instead of a message.
const COMMANDS: [(&str, &str); 6] = [
    ("/adapter", "list the adapters and assistants; with a NAME, let that one answer from here on"),
    ("/base", "let the base alone answer"),
    ("/system", "set the system message to what follows; alone, take it away"),
    ("/reset", "forget the conversation; adapter and system message stay"),
    ("/help", "this list"),
    ("/quit", "leave (so does the end of the input)"),
];

/// Every name, the one that answers marked.
pub(super) fn list(talk: &Chat) -> String {
    let mark = |name: &str| format!("{} {name}", if name == talk.name() { "*" } else { " " });
    talk.names().into_iter().map(mark).collect::<Vec<_>>().join("\n")
}

/// Handles a line; false ends the conversation. Text goes to `out`; `goes_on` is asked after every token.
///
/// # Errors
/// When the message cannot be answered; it is then forgotten.
pub(super) fn line(talk: &mut Chat, line: &str, out: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> Result<bool> {
    if line.is_empty() {
        return Ok(true);
    }
    let Some(rest) = line.strip_prefix('/') else {
        ask(talk, line, out, goes_on)?;
        return Ok(true);
    };
    let (command, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if command == "quit" {
        return Ok(false);
    }
    let reply = reply(talk, command, argument.trim());
    super::write(out, &format!("{reply}\n"))?;
    Ok(true)
}

fn ask(talk: &mut Chat, message: &str, out: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> Result<()> {
    talk.ask(message, &mut |event| match event {
        JobEvent::Text(piece) => show(out, piece).map(|answer| if goes_on() { answer } else { Control::Stop }),
        _ => Ok(Control::Go),
    })?;
    super::write(out, "\n")
}

fn reply(talk: &mut Chat, command: &str, argument: &str) -> String {
    match (command, argument) {
        ("adapter", "") => list(talk),
        ("adapter", name) => switch(talk, name),
        ("base", _) => switch(talk, "base"),
        ("system", "") => {
            talk.system = None;
            "no system message".into()
        }
        ("system", text) => {
            talk.system = Some(text.into());
            "system message set".into()
        }
        ("reset", _) => {
            talk.messages.clear();
            "conversation forgotten".into()
        }
        ("help", _) => COMMANDS.map(|(name, what)| format!("{name:9} {what}")).join("\n"),
        (wrong, _) => {
            let names = COMMANDS.map(|(name, _)| name);
            let hint = nearest(&format!("/{wrong}"), names).map(|n| format!(", did you mean {n}?")).unwrap_or_default();
            format!("there is no /{wrong}{hint}\ncommands: {}", names.join(" "))
        }
    }
}

fn switch(talk: &mut Chat, name: &str) -> String {
    if talk.switch(name) {
        let greeting = talk.greeting().map(|greeting| format!("\n{greeting}")).unwrap_or_default();
        return format!("{name} answers from here on{greeting}");
    }
    format!("there is no adapter `{name}`; there is: {}", talk.names().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Renderer;
    use crate::generate::{Sampling, tiny_model};
    use crate::job::{Assistants, OpenedBase, Speaker};
    use crate::model::resolve::{How, Resolved};
    use crate::recipe::Template;
    use crate::tokenizer::byte_level as text;

    fn opened() -> OpenedBase {
        let resolved = Resolved { path: "tiny".into(), id: None, how: How::Path };
        OpenedBase { model: tiny_model::model(1), tokenizer: text::chatml(), resolved }
    }

    /// The base and the adapters x and y.
    fn speakers(opened: &OpenedBase) -> Vec<Speaker> {
        let renderer = || Renderer::new(opened.tokenizer.clone(), &Template::default()).unwrap();
        let adapter = |seed| Some(tiny_model::adapter(&opened.model, seed));
        let speaker = |(name, adapter): (&str, _)| Speaker { name: name.into(), adapter, renderer: renderer() };
        [("base", None), ("x", adapter(5)), ("y", adapter(6))].map(speaker).into()
    }

    /// What is written for each line, with 8 tokens an answer.
    fn said(talk: &mut Chat, lines: &[&str]) -> Vec<String> {
        let written = |line: &&str| {
            let mut out = Vec::new();
            assert!(super::line(talk, line, &mut out, &|| true).unwrap());
            String::from_utf8(out).unwrap()
        };
        lines.iter().map(written).collect()
    }

    fn talk() -> Chat {
        with(Assistants::default())
    }

    fn with(assistants: Assistants) -> Chat {
        let opened = opened();
        let speakers = speakers(&opened);
        Chat::new(opened, speakers, assistants, 200, Sampling::GREEDY, 8).unwrap()
    }

    #[test]
    fn assistants_answer_with_prompts_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        let text = "[[assistant]]\nname = \"bot\"\nadapter = \"y\"\nsystem = \"Be {{ how }}.\"\ngreeting = \"Yes?\"\nmax_tokens = 5\nvariables = { how = \"brief\" }\n";
        std::fs::write(&file, text).unwrap();
        let mut bot = with(Assistants::load(&file).unwrap());
        let answers = said(&mut bot, &["/adapter", "/adapter bot", "hello"]);
        assert_eq!(answers[..2], ["  base\n* x\n  y\n  bot\n", "bot answers from here on\nYes?\n"]);
        let mut other = talk();
        assert!(other.switch("y"));
        let longer = said(&mut other, &["/system Be brief.", "hello"]).pop().unwrap();
        assert!(longer.starts_with(answers[2].trim_end()) && longer.len() > answers[2].len(), "{longer:?} {answers:?}");
        std::fs::write(&file, text.replace("\"y\"", "\"z\"")).unwrap();
        let opened = opened();
        let speakers = speakers(&opened);
        let refused = Chat::new(opened, speakers, Assistants::load(&file).unwrap(), 200, Sampling::GREEDY, 8).err().unwrap();
        assert!(refused.to_string().contains("assistant `bot`: its adapter `z` is not here"), "{refused}");
    }

    #[test]
    fn the_answer_comes_from_who_was_switched_to() {
        let answer = |switch: &str| said(&mut talk(), &[switch, "hello"]).pop().unwrap();
        let [base, x, y] = [answer("/base"), answer("/adapter x"), answer("/adapter y")];
        assert!(base != x && x != y && base != y, "{base:?} {x:?} {y:?}");
        let mut talk = talk();
        assert_eq!(talk.name(), "x");
        for (switch, expected) in [("/adapter y", &y), ("/base", &base), ("/adapter x", &x), ("/adapter base", &base)] {
            assert_eq!(&said(&mut talk, &["/reset", switch, "hello"])[2], expected, "{switch}");
        }
    }

    #[test]
    fn a_switch_keeps_the_conversation_and_computes_it_anew() {
        let mut one = talk();
        let first = said(&mut one, &["hello", "/adapter y", "and now?"]);
        assert_eq!(one.messages.len(), 4);
        // The same messages told to y from the start of a session.
        let mut other = talk();
        assert!(other.switch("y"));
        other.messages = one.messages[..2].to_vec();
        assert_eq!(said(&mut other, &["and now?"])[0], first[2]);
    }

    #[test]
    fn commands_say_what_they_did_and_what_there_is() {
        let mut talk = talk();
        let replies = said(&mut talk, &["/adapter", "/adapter z", "/adaptor x", "/system Be brief.", "/help", "/zzz"]);
        assert_eq!(replies[0], "  base\n* x\n  y\n");
        assert_eq!(replies[1], "there is no adapter `z`; there is: base, x, y\n");
        assert!(
            replies[2].starts_with("there is no /adaptor, did you mean /adapter?\ncommands: /adapter /base"),
            "{}",
            replies[2]
        );
        assert!(COMMANDS.iter().all(|(name, _)| replies[4].contains(name)), "{}", replies[4]);
        assert!(replies[5].starts_with("there is no /zzz\n"), "{}", replies[5]);
        let with = said(&mut talk, &["hello"]);
        let without = said(&mut talk, &["/reset", "/system", "hello"]);
        assert_ne!(with[0], without[2]);
        assert_eq!((talk.system.clone(), talk.messages.len()), (None, 2));
        assert!(!line(&mut talk, "/quit", &mut Vec::new(), &|| true).unwrap());
    }

    #[test]
    fn a_stopped_answer_is_kept_and_one_that_does_not_fit_is_forgotten() {
        let mut talk = talk();
        let whole = said(&mut talk, &["hello", "/reset"]).remove(0);
        let mut out = Vec::new();
        line(&mut talk, "hello", &mut out, &|| false).unwrap();
        let stopped = String::from_utf8(out).unwrap();
        assert!(stopped.len() < whole.len() && whole.starts_with(stopped.trim_end()), "{stopped:?} of {whole:?}");
        assert_eq!(talk.messages.len(), 2);
        let error = line(&mut talk, &"long ".repeat(60), &mut Vec::new(), &|| true).unwrap_err();
        assert!(error.to_string().contains("there is room for 200"), "{error}");
        assert_eq!(talk.messages.len(), 2);
    }
}
