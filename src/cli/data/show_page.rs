//! Rows as one page: who says what in colours, what is learnt marked, both sides of preferences. Nothing is loaded, nothing runs.
//!
//! Refuses to know how rows are read.

use minijinja::context;
use minijinja::value::Value;

use super::html;
use crate::data::{Piece, PreviewRow};
use crate::error::Result;

/// The page; `account` is what became of all rows.
///
/// # Errors
/// As [`html::page`].
pub(super) fn page(rows: &[PreviewRow], account: &str) -> Result<String> {
    let rows: Vec<Value> = rows.iter().map(row).collect();
    html::page(include_str!("show_page.html"), &context! { rows, account })
}

fn row(row: &PreviewRow) -> Value {
    context! {
        side => row.side.unwrap_or_default(),
        path => row.path.display().to_string(),
        line => row.line,
        tokens => row.tokens,
        trained => row.trained,
        what => if row.heldout { "judged by (held out)" } else { "learnt" },
        pieces => row.pieces.iter().map(piece).collect::<Vec<_>>(),
    }
}

fn piece(piece: &Piece) -> Value {
    let role = piece.role.as_deref().unwrap_or("template");
    let class = match role {
        "template" | "system" | "user" | "assistant" | "tool" => role,
        // Plain text is learnt as an answer is.
        "text" => "assistant",
        _ => "other",
    };
    context! { class, role, trained => piece.trained, text => &piece.text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_its_role_and_its_mark_and_stays_text() {
        let piece =
            |role: Option<&str>, trained, text: &str| Piece { role: role.map(str::to_string), trained, text: text.into() };
        let pieces = vec![
            piece(None, false, "<|im_start|>"),
            piece(Some("assistant"), true, "<b>"),
            piece(Some("narrator\""), false, "x"),
        ];
        let row =
            PreviewRow { path: "a.jsonl".into(), line: 3, side: Some("rejected"), tokens: 5, trained: 2, heldout: false, pieces };
        let held = PreviewRow { line: 4, side: None, heldout: true, ..row.clone() };
        let rejected = PreviewRow { line: 5, trained: 0, ..row.clone() };
        let page = page(&[row, held, rejected], "1 of 1 rows <are> used").unwrap();
        for part in [
            "<article class=\"rejected\"><p>a.jsonl:3, rejected: 5 tokens, 2 learnt</p>",
            "<p>a.jsonl:4: 5 tokens, 2 judged by (held out)</p>",
            "<p>a.jsonl:5, rejected: 5 tokens, none learnt</p>",
            "<span class=\"template\" title=\"template\">&lt;|im_start|&gt;</span>",
            "<span class=\"assistant\" title=\"assistant\"><mark>&lt;b&gt;</mark></span>",
            "<span class=\"other\" title=\"narrator&quot;\">x</span>",
            "1 of 1 rows &lt;are&gt; used",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("http") && !page.contains("<script"));
    }
}
