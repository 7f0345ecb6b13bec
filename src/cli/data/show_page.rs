//! Rows as one page: who says what in colours, what is learnt marked, both sides of preferences. Nothing is loaded, nothing runs.
//!
//! Refuses to know how rows are read.

use std::fmt::Write;

use crate::artifact::svg::escape;
use crate::data::{Piece, Shown};

const STYLE: &str = "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace}article{border:1px solid #8886;border-radius:6px;\
    padding:.2rem .9rem;margin:1rem 0}article.rejected,article.undesirable{border-left:5px solid #c55}article.chosen,article.desirable{border-left:5px \
    solid #5a5}.template{opacity:.55}.system{background:#a8a8}.user{background:#58c4}.assistant{background:#5a54}.tool{background:#d924}\
    .other{background:#8884}mark{background:none;color:inherit;text-decoration:underline 2px #2a2;font-weight:600}</style>";

/// The page; `account` is what became of all rows.
pub(super) fn page(rows: &[Shown], account: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Rows as the model sees them</title>{STYLE}</head><body>\n\
         <h1>Rows as the model sees them</h1>\n<p>Said by <span class=\"system\">system</span>, <span class=\"user\">user</span>, \
         <span class=\"assistant\">assistant</span>, <span class=\"tool\">tool</span>, <span class=\"other\">others</span>; \
         <span class=\"template\">the template's own</span>; <mark>what is learnt</mark>.</p>\n"
    );
    for row in rows {
        let side = row.side.unwrap_or_default();
        let name = if side.is_empty() { String::new() } else { format!(", {side}") };
        let path = escape(&row.path.display().to_string());
        let _ = writeln!(
            out,
            "<article class=\"{side}\"><p>{path}:{}{name}: {} tokens, {} learnt</p><pre>{}</pre></article>",
            row.line,
            row.tokens,
            row.trained,
            row.pieces.iter().map(piece).collect::<String>()
        );
    }
    format!("{out}<h2>All rows</h2><pre>{}</pre></body></html>\n", escape(account))
}

fn piece(piece: &Piece) -> String {
    let (text, role) = (escape(&piece.text), piece.role.as_deref().unwrap_or("template"));
    let class = match role {
        "template" | "system" | "user" | "assistant" | "tool" => role,
        // Plain text is learnt as an answer is.
        "text" => "assistant",
        _ => "other",
    };
    let text = if piece.trained { format!("<mark>{text}</mark>") } else { text };
    format!("<span class=\"{class}\" title=\"{}\">{text}</span>", escape(role))
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
        let row = Shown { path: "a.jsonl".into(), line: 3, side: Some("rejected"), tokens: 5, trained: 2, pieces };
        let page = page(&[row], "1 of 1 rows <are> used");
        for part in [
            "<article class=\"rejected\"><p>a.jsonl:3, rejected: 5 tokens, 2 learnt</p>",
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
