//! Examples as the model sees them, with what is trained marked: on the terminal, and as JSON.
//!
//! Refuses to know how rows become examples.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::account::{account, place};
use super::paint;
use crate::data::{ExampleRef, Loaded, Piece, Tokenizer};
use crate::error::{Error, Result};

/// Prints the first `n` examples with what is trained between ⟦ and ⟧, then the account of all rows. With `said`, who speaks in the
/// examples, in colours, what is trained underlined.
///
/// # Errors
/// [`Error::Io`] when writing fails, [`Error::Usage`] when ids cannot be decoded.
pub(super) fn show(
    loaded: &Loaded,
    tokenizer: &Tokenizer,
    n: usize,
    out: &mut dyn Write,
    said: Option<&[Option<Vec<Piece>>]>,
) -> Result<()> {
    let mut text = said.map(|_| paint::legend()).unwrap_or_default();
    for (i, example) in loaded.train.iter().take(n).enumerate() {
        let trained = example.trained.count();
        text += &format!(
            "── {}: {} tokens, {trained} trained\n",
            place(&loaded.report, example.source, example.line, example.part),
            example.ids.len()
        );
        let found = said.and_then(|said| said.get(i)).and_then(Option::as_ref);
        let bare = || {
            let piece = |(text, trained)| Piece { role: None, trained, text };
            Ok::<Vec<_>, Error>(pieces(&example, tokenizer)?.into_iter().map(piece).collect())
        };
        let pieces = found.map_or_else(bare, |pieces| Ok(pieces.clone()))?;
        pieces.iter().for_each(|piece| text += &paint::painted(piece, said.is_some()));
        text += if text.ends_with('\n') { "\n" } else { "\n\n" };
    }
    write(out, &text)?;
    write(out, &account(&loaded.report))
}

/// The text of an example, cut where training begins and ends.
fn pieces(example: &ExampleRef, tokenizer: &Tokenizer) -> Result<Vec<(String, bool)>> {
    let trained = |i: usize| example.trained.get(i);
    let runs = tokenizer.runs(example.ids, |a, b| trained(a) == trained(b))?;
    Ok(runs.into_iter().map(|(start, text)| (text, trained(start))).collect())
}

/// The first `n` examples with the account of all rows.
///
/// # Errors
/// [`Error::Usage`] when ids cannot be decoded.
pub(super) fn as_json(loaded: &Loaded, tokenizer: &Tokenizer, n: usize) -> Result<Value> {
    let example = |e: ExampleRef| {
        let pieces: Vec<_> =
            pieces(&e, tokenizer)?.into_iter().map(|(text, trained)| json!({"text": text, "trained": trained})).collect();
        Ok(json!({"source": e.source, "line": e.line, "part": e.part, "tokens": e.ids.len(), "pieces": pieces}))
    };
    let examples: Vec<Value> = loaded.train.iter().take(n).map(example).collect::<Result<_>>()?;
    Ok(
        json!({"rows": loaded.report.rows_read(), "used": loaded.report.rows_used(), "report": loaded.report, "examples": examples}),
    )
}

/// Writes to `out`.
///
/// # Errors
/// [`Error::Io`] when that fails.
pub(super) fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(Error::io("write", Path::new("standard output")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Renderer, load};
    use crate::recipe::{Data, Source, Template};
    use crate::tokenizer::byte_level::{chatml, with_file};

    const ROWS: &str =
        "{\"prompt\": \"a\", \"completion\": \"yes <|im_end|>\", \"id\": 1}\n{\"prompt\": \"b\", \"completion\": \" \"}\n";

    fn loaded(tokenizer: &Tokenizer) -> Loaded {
        let long = format!("{ROWS}{{\"prompt\": \"c\", \"completion\": \"{}\"}}\n", "x".repeat(200));
        with_file("rows.jsonl", &long, |path| {
            let source = Source { path: path.to_path_buf(), ..Source::default() };
            let data = Data::of(vec![source]);
            let template = Template::default();
            load(&data, &Renderer::new(tokenizer.clone(), &template).unwrap(), 100, 0).unwrap()
        })
    }

    #[test]
    fn show_marks_what_is_trained_and_accounts_for_every_row() {
        let tokenizer = chatml();
        let loaded = loaded(&tokenizer);
        let mut out = Vec::new();
        show(&loaded, &tokenizer, 5, &mut out, None).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = [
            "rows.jsonl:1: 36 tokens, 15 trained\n",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦yes <|im_end|><|im_end|>⟧\n",
            "rows.jsonl (train): shape completion, 3 rows, not used: id (1 rows)\n",
            "1 of 3 rows are used\n",
            "train: 1 examples, 36 tokens (assistant 15, template 20, user 1), 15 trained = 41.7 %\n",
            "dropped, empty answer: 1 rows of ",
            "rows.jsonl: lines 2\n",
            "lines 3 (222 tokens)\n",
            "kept as text: special token <|im_end|> written 1× at ",
            "longest rows\n      36 tokens  ",
        ];
        for piece in expected {
            assert!(out.contains(piece), "{piece:?} is not in\n{out}");
        }
        let mut out = Vec::new();
        let piece =
            |role: Option<&str>, text: &str| Piece { role: role.map(str::to_string), trained: role.is_some(), text: text.into() };
        let said = [Some(vec![piece(None, "assistant\n"), piece(Some("assistant"), "yes")])];
        show(&loaded, &tokenizer, 5, &mut out, Some(&said)).unwrap();
        assert!(String::from_utf8(out).unwrap().contains(" trained\n\x1b[2massistant\n\x1b[0m\x1b[32;1;4myes\x1b[0m\n\n"));
    }

    #[test]
    fn json_holds_the_same() {
        let tokenizer = chatml();
        let value = as_json(&loaded(&tokenizer), &tokenizer, 1).unwrap();
        assert_eq!((value["rows"].as_u64(), value["used"].as_u64()), (Some(3), Some(1)));
        assert_eq!(value["examples"][0]["pieces"][1], json!({"text": "yes <|im_end|><|im_end|>", "trained": true}));
        assert_eq!(value["report"]["dropped"][1]["reason"]["over_long"]["tokens"], 222);
    }
}
