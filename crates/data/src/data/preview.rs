//! The first rows of every file as pieces of text: who says each, and whether it is learnt. For a person to look at.
//!
//! Of preferences both answers are given, of labelled rows what their label says. Refuses to know how it is shown.

use std::path::PathBuf;

use super::read::Split;
use super::read::row::{Row, RowKind};
use super::read::shape::{Converted, Reader};
use super::read::source::RawRow;
use super::render::encode::Encoded;
use super::render::exchanges::Exchanges;
use super::render::renderer::Renderer;
use super::set::examples::{ExampleRef, Examples};
use super::set::tokenize::at_row;
use crate::error::Result;
use crate::recipe::{Data, Source, Take};

/// A row, or one side of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRow {
    pub path: PathBuf,
    pub line: usize,
    /// `chosen`, `rejected`, `desirable` or `undesirable`, where the row has such a side.
    pub side: Option<&'static str>,
    pub tokens: usize,
    /// Tokens that carry loss: none where this side of the row is not the one that is learnt.
    pub trained: usize,
    /// They are judged by, not learnt.
    pub heldout: bool,
    pub pieces: Vec<Piece>,
}

/// Text of one turn, or of the template between turns, all of it learnt or none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// `None`: the template's.
    pub role: Option<String>,
    pub trained: bool,
    pub text: String,
}

/// Up to `n` rows of each file, those to train on before held-out ones, as the template writes them and not cut.
///
/// # Errors
/// [`crate::Error::Data`] with file and line for what cannot be read or rendered.
pub fn preview(data: &Data, renderer: &Renderer, seed: u64, n: usize) -> Result<Vec<PreviewRow>> {
    let mut shown = Vec::new();
    let train = data.train.iter().chain(data.replayed()).map(|source| (source, Split::Train));
    for (source, split) in train.chain(data.heldout.iter().map(|source| (source, Split::Heldout))) {
        // With `take` a row would have one side alone.
        let whole = Source { take: None, ..source.clone() };
        let (mut reader, rows) = Reader::open(&whole, split, seed)?;
        let mut left = n;
        for raw in &rows {
            if left == 0 {
                break;
            }
            for (line, kind) in kinds(&mut reader, raw)?.into_iter().take(left) {
                left -= 1;
                for (side, kind) in sides(kind) {
                    let mut row = row(renderer, &source.path, line, side, kind)?;
                    row.heldout = split == Split::Heldout;
                    if !is_learnt(side, source.take) {
                        row.trained = 0;
                        row.pieces.iter_mut().for_each(|piece| piece.trained = false);
                    }
                    shown.push(row);
                }
            }
        }
    }
    Ok(shown)
}

/// The first `n` examples as pieces, as they are trained: their rows are read again. `None` for one that is not found again.
///
/// # Errors
/// As [`preview`].
pub fn preview_examples(
    examples: &Examples,
    n: usize,
    data: &Data,
    renderer: &Renderer,
    max_length: usize,
    seed: u64,
) -> Result<Vec<Option<Vec<Piece>>>> {
    let mut found = vec![None; n.min(examples.len())];
    for (index, source) in data.train.iter().chain(data.replayed()).enumerate() {
        let mut wanted: Vec<usize> = (0..found.len()).filter(|i| examples.source(*i) == index).collect();
        if wanted.is_empty() {
            continue;
        }
        let (mut reader, rows) = Reader::open(source, Split::Train, seed)?;
        for raw in &rows {
            for (line, kind) in kinds(&mut reader, raw)? {
                let row = Row::new(0, line, kind);
                for i in wanted.clone().into_iter().filter(|i| examples.line(*i) == line) {
                    found[i] = again(renderer, &row, &examples.get(i), max_length).map_err(|e| at_row(e, &source.path, line))?;
                    wanted.retain(|other| *other != i || found[i].is_none());
                }
            }
            if wanted.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}

/// The rows in a row of a file; none where it is not used.
fn kinds(reader: &mut Reader, raw: &RawRow) -> Result<Vec<(usize, RowKind)>> {
    Ok(match reader.convert(raw) {
        Ok(Converted::Row(kind)) => vec![(raw.line, kind)],
        Ok(Converted::Rows(pieces)) => pieces.into_iter().filter_map(|p| Some((p.line, p.became.ok()?))).collect(),
        Ok(Converted::Empty | Converted::Dropped(_)) => Vec::new(),
        Err(error) => {
            reader.faults.put(error)?;
            Vec::new()
        }
    })
}

/// The pieces of `example` if it was made of `row`.
fn again(renderer: &Renderer, row: &Row, example: &ExampleRef, max_length: usize) -> Result<Option<Vec<Piece>>> {
    let (mut encoded, mut roles) = renderer.encoded_with_roles(row)?;
    if let (RowKind::Chat(chat), 1..) = (&row.kind, example.part) {
        let parts = Exchanges::of(row, chat).cut(encoded.ids.len(), max_length, |part| {
            let tokens = renderer.encoded_with_roles(part)?;
            Ok((tokens.0.ids.len() <= max_length, tokens))
        })?;
        match parts.into_iter().nth(example.part - 1) {
            Some((_, part)) => (encoded, roles) = part,
            None => return Ok(None),
        }
    }
    // A long row may have been cut.
    encoded.ids.truncate(example.ids.len());
    if encoded.ids == example.ids { pieces(renderer, &encoded, &roles).map(Some) } else { Ok(None) }
}

fn sides(kind: RowKind) -> Vec<(Option<&'static str>, RowKind)> {
    match kind {
        RowKind::Preference(pair) => {
            let with = |answer| {
                let mut conversation = pair.prompt.clone();
                conversation.messages.extend(answer);
                RowKind::Chat(conversation)
            };
            vec![(Some("chosen"), with(pair.chosen)), (Some("rejected"), with(pair.rejected))]
        }
        RowKind::Labelled { conversation, desirable } => {
            vec![(Some(if desirable { "desirable" } else { "undesirable" }), RowKind::Chat(conversation))]
        }
        other => vec![(None, other)],
    }
}

/// Whether a side of a row is the one whose answer is learnt, or would be.
fn is_learnt(side: Option<&str>, take: Option<Take>) -> bool {
    match side {
        Some("chosen") => take != Some(Take::Rejected),
        Some("rejected") => take == Some(Take::Rejected),
        Some("undesirable") => false,
        _ => true,
    }
}

fn row(
    renderer: &Renderer,
    path: &std::path::Path,
    line: usize,
    side: Option<&'static str>,
    kind: RowKind,
) -> Result<PreviewRow> {
    let (encoded, roles) = renderer.encoded_with_roles(&Row::new(0, line, kind)).map_err(|e| at_row(e, path, line))?;
    let pieces = pieces(renderer, &encoded, &roles)?;
    let (tokens, trained) = (encoded.ids.len(), encoded.trained.iter().filter(|t| **t).count());
    Ok(PreviewRow { path: path.to_path_buf(), line, side, tokens, trained, heldout: false, pieces })
}

fn pieces(renderer: &Renderer, encoded: &Encoded, roles: &[String]) -> Result<Vec<Piece>> {
    let is = |i: usize| (encoded.turn[i], encoded.trained[i]);
    let piece = |(start, text): (usize, String)| {
        let role = encoded.turn[start].map(|turn| roles[turn].clone());
        Piece { role, trained: encoded.trained[start], text }
    };
    Ok(renderer.tokenizer().runs(&encoded.ids, |a, b| is(a) == is(b))?.into_iter().map(piece).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Template;
    use crate::tokenizer::byte_level::{chatml, with_file};

    fn shown(text: &str, take: Option<Take>) -> Vec<PreviewRow> {
        with_file("rows.jsonl", text, |path| {
            let source = Source { path: path.to_path_buf(), take, ..Source::default() };
            let data = Data { heldout_fraction: 0.0, ..Data::of(vec![source]) };
            preview(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 0, 1).unwrap()
        })
    }

    fn said<'a>(shown: &'a PreviewRow, role: &str) -> Vec<(&'a str, bool)> {
        shown.pieces.iter().filter(|p| p.role.as_deref() == Some(role)).map(|p| (p.text.as_str(), p.trained)).collect()
    }

    #[test]
    fn pieces_say_who_speaks_and_together_are_the_row() {
        let rows = shown("{\"prompt\": \"a\", \"completion\": \"yes\"}\n{\"prompt\": \"b\", \"completion\": \"no\"}\n", None);
        assert_eq!((rows.len(), rows[0].line, rows[0].side), (1, 1, None));
        assert_eq!(said(&rows[0], "user"), [("a", false)]);
        assert_eq!(said(&rows[0], "assistant").concat_text(), "yes<|im_end|>");
        let all: String = rows[0].pieces.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(all, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n");
        let trained: String = rows[0].pieces.iter().filter(|p| p.trained).map(|p| p.text.as_str()).collect();
        assert_eq!(trained, "yes<|im_end|>");
    }

    /// Instances of a task, a row cut and one split among them: each example is found again, with who speaks in it.
    #[test]
    fn examples_are_found_again_as_they_are_trained() {
        let turn = |role: &str, n: usize| format!("{{\"role\": \"{role}\", \"content\": \"{}\"}}", "y".repeat(n));
        let row = |sizes: &[usize]| {
            let pairs: Vec<_> = sizes.iter().flat_map(|n| [turn("user", *n), turn("assistant", 9)]).collect();
            format!("{{\"messages\": [{}]}}\n", pairs.join(", "))
        };
        for over_long in [crate::recipe::OverLong::Split, crate::recipe::OverLong::Truncate] {
            let text = row(&[3]) + &row(&[30, 20, 10, 40]) + &row(&[5]);
            with_file("rows.jsonl", &text, |path| {
                let source = Source { path: path.to_path_buf(), ..Source::default() };
                let data = Data { heldout_fraction: 0.0, over_long, ..Data::of(vec![source]) };
                let renderer = Renderer::new(chatml(), &Template::default()).unwrap();
                let loaded = super::super::set::load::load(&data, &renderer, 100, 0).unwrap();
                let found = preview_examples(&loaded.train, 9, &data, &renderer, 100, 0).unwrap();
                assert!(found.len() == loaded.train.len() && found.len() >= 3);
                for (example, pieces) in loaded.train.iter().zip(&found) {
                    let pieces = pieces.as_ref().unwrap();
                    let text: String = pieces.iter().map(|p| p.text.as_str()).collect();
                    assert_eq!(text, chatml().decode(example.ids, false).unwrap());
                    assert!(pieces.iter().all(|p| !p.trained || p.role.as_deref() == Some("assistant")));
                    assert!(["user", "assistant"].iter().all(|role| pieces.iter().any(|p| p.role.as_deref() == Some(role))));
                }
            });
        }
    }

    #[test]
    fn held_out_files_are_shown_as_such() {
        with_file("rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"yes\"}\n", |path| {
            let source = || Source { path: path.to_path_buf(), ..Source::default() };
            let data = Data { heldout: vec![source()], ..Data::of(vec![source()]) };
            let rows = preview(&data, &Renderer::new(chatml(), &Template::default()).unwrap(), 0, 1).unwrap();
            assert_eq!(rows.iter().map(|r| r.heldout).collect::<Vec<_>>(), [false, true]);
        });
    }

    trait Text {
        fn concat_text(&self) -> String;
    }

    impl Text for Vec<(&str, bool)> {
        fn concat_text(&self) -> String {
            self.iter().map(|(text, _)| *text).collect()
        }
    }

    #[test]
    fn preferences_have_both_sides_whatever_is_taken() {
        let text = "{\"prompt\": \"a\", \"chosen\": \"good\", \"rejected\": \"bad\"}\n";
        let rows = shown(text, Some(Take::Chosen));
        assert_eq!(rows.iter().map(|r| r.side).collect::<Vec<_>>(), [Some("chosen"), Some("rejected")]);
        assert_eq!(said(&rows[1], "assistant").concat_text(), "bad<|im_end|>");
        // Only the side that is learnt is said to be.
        assert!(rows[0].trained > 0 && rows[0].pieces.iter().any(|p| p.trained));
        assert!(rows[1].trained == 0 && rows[1].pieces.iter().all(|p| !p.trained));
        assert!(shown(text, Some(Take::Rejected)).iter().map(|r| r.trained > 0).eq([false, true]));
        let labelled = shown("{\"prompt\": \"a\", \"completion\": \"b\", \"label\": false}\n", Some(Take::Desirable));
        assert_eq!(labelled[0].side, Some("undesirable"));
    }
}
