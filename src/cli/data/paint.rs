//! Pieces of rows on a terminal: who speaks in colours, what is learnt underlined; without colours it stands between ⟦ and ⟧.
//!
//! Refuses to know where the pieces come from.

use crate::data::Piece;

/// Role → colour; what the template writes itself is faint.
const COLOURS: [(&str, &str); 6] =
    [("template", "2"), ("system", "35"), ("user", "36"), ("assistant", "32"), ("text", "32"), ("tool", "33")];
const OTHER: &str = "34";

/// What the colours mean, in themselves.
pub(super) fn legend() -> String {
    let piece = |role: &str, trained, text: &str| painted(&Piece { role: Some(role.into()), trained, text: text.into() }, true);
    let roles: Vec<_> = ["system", "user", "assistant", "tool", "template"].map(|role| piece(role, false, role)).into();
    format!("{}; {}\n\n", roles.join(" "), piece("assistant", true, "what is learnt"))
}

/// The text of a piece.
pub(super) fn painted(piece: &Piece, colour: bool) -> String {
    let text = &piece.text;
    if !colour {
        return if piece.trained { format!("⟦{text}⟧") } else { text.clone() };
    }
    let role = piece.role.as_deref().unwrap_or("template");
    let code = COLOURS.iter().find(|(name, _)| *name == role).map_or(OTHER, |(_, code)| code);
    format!("\x1b[{code}{}m{text}\x1b[0m", if piece.trained { ";1;4" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_its_colour_and_what_is_learnt_is_underlined() {
        let table = [
            (None, false, "\x1b[2mx\x1b[0m", "x"),
            (Some("system"), false, "\x1b[35mx\x1b[0m", "x"),
            (Some("user"), true, "\x1b[36;1;4mx\x1b[0m", "⟦x⟧"),
            (Some("assistant"), true, "\x1b[32;1;4mx\x1b[0m", "⟦x⟧"),
            (Some("assistant"), false, "\x1b[32mx\x1b[0m", "x"),
            (Some("tool"), false, "\x1b[33mx\x1b[0m", "x"),
            (Some("narrator"), false, "\x1b[34mx\x1b[0m", "x"),
        ];
        for (role, trained, coloured, plain) in table {
            let piece = Piece { role: role.map(str::to_string), trained, text: "x".into() };
            assert_eq!((painted(&piece, true).as_str(), painted(&piece, false).as_str()), (coloured, plain));
        }
        assert!(legend().contains("\x1b[33mtool\x1b[0m") && legend().contains("\x1b[32;1;4mwhat is learnt\x1b[0m"));
    }
}
