//! Hints at personal data and secrets: e-mail addresses, telephone numbers, IBANs, payment cards, IP addresses, keys.
//!
//! Numbers with a check digit are checked: IBAN by ISO 13616 (mod 97), cards by Luhn and the issuer's first digits. What cannot be
//! somebody's is not reported: reserved domains (RFC 2606), private and documentation addresses, telephone numbers of films.
//! Hints: a name or a street is not found, and a long number may be anything. Refuses to know rows.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::OnceLock;

use regex::Regex;

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pii {
    Secret,
    Email,
    Iban,
    Card,
    Ip,
    Phone,
}

impl Pii {
    /// Every kind, in the order in which they are looked for: what the first finds is not looked at by the next.
    pub const ALL: [Pii; 6] = [Pii::Secret, Pii::Email, Pii::Iban, Pii::Card, Pii::Ip, Pii::Phone];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Pii::Secret => "secret",
            Pii::Email => "email",
            Pii::Iban => "iban",
            Pii::Card => "card",
            Pii::Ip => "ip",
            Pii::Phone => "phone",
        }
    }

    /// What stands in its place when it is masked.
    pub fn mask(self) -> &'static str {
        match self {
            Pii::Secret => "[SECRET]",
            Pii::Email => "[EMAIL]",
            Pii::Iban => "[IBAN]",
            Pii::Card => "[CARD]",
            Pii::Ip => "[IP]",
            Pii::Phone => "[PHONE]",
        }
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }

    fn pattern(self) -> &'static str {
        match self {
            Pii::Secret => SECRET,
            Pii::Email => {
                r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,18}\b"
            }
            Pii::Iban => r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
            Pii::Card => r"\b[3-6][0-9]{3}(?:[ -]?[0-9]{2,6}){2,4}\b",
            Pii::Ip => r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|\b(?:[0-9A-Fa-f]{1,4}:){3,7}(?::|[0-9A-Fa-f]{1,4})(?:[0-9A-Fa-f:]*)",
            Pii::Phone => {
                r"(?:\+|\b00)[1-9][0-9]{0,2}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9](?:[ .-]?[0-9]){6,11}\b|\(?\b[2-9][0-9]{2}\)?[ .-][0-9]{3}[ .-][0-9]{4}\b|\b0[1-9][0-9]?(?:[ .-][0-9]{2}){4}\b|\b0[1-9][0-9]{1,4}[ /-][0-9]{3,4}[ -]?[0-9]{3,5}\b"
            }
        }
    }

    /// Whether what the pattern found, with the text on both sides of it, is one.
    fn holds(self, found: &str, before: &str, after: &str) -> bool {
        match self {
            Pii::Secret => true,
            Pii::Email => email(found),
            Pii::Iban => iban(found),
            Pii::Card => card(found),
            Pii::Ip => address(found, before, after),
            Pii::Phone => phone(found, before),
        }
    }
}

/// The forms of well-known keys and tokens, key blocks, and assignments of long values to names that say key.
const SECRET: &str = concat!(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_[A-Za-z0-9_]{40,}",
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{24,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{35}\b|\bhf_[A-Za-z0-9]{30,}\b",
    r"|\bglpat-[A-Za-z0-9_-]{20,}|\b[rs]k_live_[A-Za-z0-9]{20,}|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    r#"|(?i:\b(?:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token)\b["']?\s*[:=]\s*["']?[A-Za-z0-9/+_-]*[0-9][A-Za-z0-9/+_-]{19,})"#,
);

/// What is in a text, in order; no two overlap.
pub(super) fn find(text: &str) -> Vec<(Pii, Range<usize>)> {
    static BUILT: OnceLock<Vec<(Pii, Regex)>> = OnceLock::new();
    let patterns = BUILT.get_or_init(|| Pii::ALL.into_iter().filter_map(|p| Some((p, Regex::new(p.pattern()).ok()?))).collect());
    let mut found: Vec<(Pii, Range<usize>)> = Vec::new();
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    for (kind, regex) in patterns {
        let possible = match kind {
            Pii::Email => text.contains('@'),
            Pii::Secret => digits || text.contains("-----BEGIN"),
            _ => digits,
        };
        if !possible {
            continue;
        }
        for m in regex.find_iter(text) {
            let taken = found.iter().any(|(_, r)| r.start < m.end() && m.start() < r.end);
            if !taken && kind.holds(m.as_str(), &text[..m.start()], &text[m.end()..]) {
                found.push((*kind, m.range()));
            }
        }
    }
    found.sort_by_key(|(_, r)| r.start);
    found
}

fn email(found: &str) -> bool {
    let domain = found.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    let top = domain.rsplit('.').next().unwrap_or_default();
    let reserved =
        ["example.com", "example.org", "example.net"].iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
    !reserved && !matches!(top, "test" | "example" | "invalid" | "localhost" | "png" | "jpg" | "jpeg" | "gif" | "svg")
}

fn iban(found: &str) -> bool {
    let plain: String = found.chars().filter(|c| !c.is_whitespace()).collect();
    if !(15..=34).contains(&plain.len()) {
        return false;
    }
    let turned = plain.chars().skip(4).chain(plain.chars().take(4));
    let rest =
        turned.filter_map(|c| c.to_digit(36)).fold(0u32, |r, d| if d > 9 { (r * 100 + d) % 97 } else { (r * 10 + d) % 97 });
    rest == 1
}

fn card(found: &str) -> bool {
    let digits: Vec<u32> = found.chars().filter_map(|c| c.to_digit(10)).collect();
    let first = digits.iter().take(4).fold(0, |n, d| n * 10 + d);
    let issuer = match digits.len() {
        16 => matches!(first, 4000..=4999 | 5100..=5599 | 2221..=2720 | 6011 | 6440..=6599 | 3528..=3589),
        13 | 19 => matches!(first, 4000..=4999),
        15 => matches!(first / 100, 34 | 37),
        14 => matches!(first / 10, 300..=305 | 360..=369 | 380..=399),
        _ => false,
    };
    let luhn = |(i, d): (usize, &u32)| match (i % 2, d * 2) {
        (0, _) => *d,
        (_, twice) => twice / 10 + twice % 10,
    };
    let distinct: std::collections::BTreeSet<&u32> = digits.iter().collect();
    issuer && distinct.len() > 2 && digits.iter().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

/// A public address; what looks like one after "version" is a version.
fn address(found: &str, before: &str, after: &str) -> bool {
    if after.starts_with(|c: char| c == '.' && after[1..].starts_with(|d: char| d.is_ascii_digit())) {
        return false;
    }
    let word = before.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap_or_default();
    if matches!(word.to_ascii_lowercase().trim_end_matches('.'), "version" | "v" | "release" | "ver" | "section" | "chapter") {
        return false;
    }
    match found.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => public(ip),
        Ok(IpAddr::V6(ip)) => {
            let first = ip.segments()[0];
            !ip.is_loopback()
                && !ip.is_unspecified()
                && first & 0xfe00 != 0xfc00
                && first & 0xffc0 != 0xfe80
                && ip.segments()[..2] != [0x2001, 0xdb8]
        }
        Err(_) => false,
    }
}

fn public(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let known = matches!(ip.octets(), [8, 8, 8, 8] | [8, 8, 4, 4] | [1, 1, 1, 1] | [1, 2, 3, 4]);
    !(known || ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation() || ip.is_broadcast())
        && a != 0
        && a < 224
        && !(a == 100 && (64..128).contains(&b))
}

fn phone(found: &str, before: &str) -> bool {
    let digits: String = found.chars().filter(char::is_ascii_digit).collect();
    // A number that goes on to the left is part of something longer; 555-01xx is kept for films.
    let glued = before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '=' | '/' | '$' | '€' | '£'))
        || before.strip_suffix([' ', '-']).is_some_and(|b| b.ends_with(|c: char| c.is_ascii_digit()));
    let film = digits.len() >= 7 && digits[..digits.len() - 4].ends_with("555");
    let distinct: std::collections::BTreeSet<char> = digits.chars().collect();
    let counting =
        "01234567890123456789".contains(&digits) || "98765432109876543210".contains(&digits) || digits.contains("123456789");
    !glued && !film && !counting && distinct.len() > 3 && (9..=15).contains(&digits.len())
}

/// The text with masks in place of what [`Pii`] names, and how many there are; `None` when there is nothing to mask.
pub fn mask(text: &str) -> Option<(String, usize)> {
    let found = find(text);
    if found.is_empty() {
        return None;
    }
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (kind, range) in &found {
        out += &text[at..range.start];
        out += kind.mask();
        at = range.end;
    }
    out += &text[at..];
    Some((out, found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Pii> {
        find(text).into_iter().map(|(k, _)| k).collect()
    }

    #[test]
    fn what_is_personal_is_found() {
        let table = [
            ("Write to anna.meier+shop@mail-server.de, please.", Pii::Email),
            ("Ma carte: 4539 1488 0343 6467", Pii::Card),
            ("Amex 378282246310005", Pii::Card),
            ("IBAN DE89 3704 0044 0532 0130 00.", Pii::Iban),
            ("GB29NWBK60161331926819", Pii::Iban),
            ("from 93.184.216.34 at noon", Pii::Ip),
            ("2a00:1450:4001:81b::200e answered", Pii::Ip),
            ("Call +49 30 901820 today", Pii::Phone),
            ("call (212) 736-5000.", Pii::Phone),
            ("appelez le 01 44 27 60 00", Pii::Phone),
            ("AKIAIOSFODNN7EXAMPLE", Pii::Secret),
            ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789", Pii::Secret),
            ("-----BEGIN RSA PRIVATE KEY-----", Pii::Secret),
            ("api_key = \"9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c\"", Pii::Secret),
        ];
        for (text, kind) in table {
            assert_eq!(kinds(text), [kind], "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "someone@example.com",
            "a @ b",
            "logo@2x.png",
            "4539 1488 0343 6468",
            "1234567890123456",
            "DE89 3704 0044 0532 0130 01",
            "version 10.2.33.4",
            "192.168.1.1",
            "127.0.0.1",
            "999.1.2.3",
            "555-0123",
            "(212) 555-0199",
            "2024-05-17",
            "1,000,000,000",
            "3.14159265358979",
            "1234567890",
            "order 113542617735902",
            "10:30:45",
            "1914-1918 and 1939-1945",
            "sk-learn",
            "0000 0000 0000 0000",
            "$299 000 000 000",
            "ISBN 978-3-16-148410-0",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn masks_take_the_place_of_what_was_found() {
        let (masked, n) = mask("Mail bo@firma.se or call +46 8 545 172 00!").unwrap();
        assert_eq!((masked.as_str(), n), ("Mail [EMAIL] or call [PHONE]!", 2));
        assert_eq!(mask("nothing here"), None);
    }
}
