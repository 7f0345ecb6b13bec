//! Cleaning of ShareGPT conversations as Vicuna's were (FastChat's `clean_sharegpt.py`).
//!
//! Leading turns of the assistant and a last turn of the user go; user and assistant must take turns; HTML becomes
//! Markdown; what the web page wrote around an answer is removed. Otherwise than there, only turns that are HTML (they
//! begin with one of its tags) are converted: Markdown that was Markdown already stays as it is.

use std::sync::LazyLock;

use htmd::HtmlToMarkdown;
use regex::Regex;

use super::Message;
use crate::data::read::reason::Reason;

/// Words of identity that FastChat leaves out whole conversations for.
const BLOCKED: [&str; 2] = ["openai", "chatgpt"];
/// Beginnings of answers that the web page gave, not the model.
const PAGE: [&str; 3] =
    ["Too many requests in 1 hour", "!Too many requests in 1 hour", "An error occurred. If this issue persists"];

// The patterns are constants of this file, and a test runs each of them; one that failed to compile would match nothing.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

static HTML: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?i)^\s*<(div|p|pre|ul|ol|table|blockquote|h[1-6])(\s[^>]*)?>"));
static BUTTON: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?is)<(button|svg)\b.*?</(button|svg)>"));
static HEAD: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?is)(<pre[^>]*>).*?(<code)"));
static PAGES: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"^\s*\d+ / \d+\s*"));
static COPIED: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"Copy\d+ chars / \d+ words"));
static EMPTY_CODE: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"```\s*(Copy code)?\s*```"));
static CODE_LABEL: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"```[ \t]*([\w+#-]*?)[ \t]*Copy code[ \t]*\n?"));
static SHARE: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?m)^[ \t]*(Share Prompt|Copy code|Regenerate response)[ \t]*$\n?"));

/// The conversation cleaned, or why it is not used.
pub(super) fn clean(mut messages: Vec<Message>) -> Result<Vec<Message>, Reason> {
    let start = messages.iter().take_while(|m| m.role == "system").count();
    let leading = messages[start..].iter().take_while(|m| m.role == "assistant").count();
    messages.drain(start..start + leading);
    if messages.last().is_some_and(|m| m.role == "user") {
        messages.pop();
    }
    let mut kept: Vec<Message> = messages.drain(..start.min(messages.len())).collect();
    for (i, mut message) in messages.into_iter().enumerate() {
        if message.role != ["user", "assistant"][i % 2] {
            return Err(Reason::Alternation);
        }
        message.content = markdown(&message.content);
        let lower = message.content.to_lowercase();
        let page = message.role == "assistant" && PAGE.iter().any(|p| message.content.starts_with(p));
        if page || BLOCKED.iter().any(|word| lower.contains(word)) {
            return Err(Reason::Blocked);
        }
        // FastChat keeps what comes before an answer that is nothing.
        if message.content.is_empty() {
            break;
        }
        kept.push(message);
    }
    let turns = kept.len() - start.min(kept.len());
    kept.truncate(start + turns / 2 * 2);
    if turns < 2 { Err(Reason::TooShort) } else { Ok(kept) }
}

/// A turn as Markdown, without remnants of the page.
fn markdown(text: &str) -> String {
    let html = HTML.as_ref().is_some_and(|r| r.is_match(text));
    let mut text = if html { converted(text) } else { text.to_string() };
    for (found, with) in [(&PAGES, ""), (&COPIED, ""), (&EMPTY_CODE, ""), (&CODE_LABEL, "```$1\n"), (&SHARE, "")] {
        if let Some(found) = found.as_ref() {
            text = found.replace_all(&text, with).into_owned();
        }
    }
    text.trim().to_string()
}

/// HTML as Markdown; text that cannot be converted stays as it is.
fn converted(text: &str) -> String {
    let without = BUTTON.as_ref().map_or(text.into(), |r| r.replace_all(text, ""));
    let bare = HEAD.as_ref().map_or(without.clone(), |r| r.replace_all(&without, "$1$2"));
    let options = htmd::options::Options {
        bullet_list_marker: htmd::options::BulletListMarker::Dash,
        ul_bullet_spacing: 1,
        ol_number_spacing: 1,
        ..Default::default()
    };
    let converter = HtmlToMarkdown::builder().skip_tags(vec!["script", "style", "img"]).options(options).build();
    converter.convert(&bare).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(turns: &[(&str, &str)]) -> Result<Vec<(String, String)>, Reason> {
        let messages = turns.iter().map(|(r, c)| Message::new(*r, *c)).collect();
        clean(messages).map(|m| m.into_iter().map(|m| (m.role, m.content)).collect())
    }

    #[test]
    fn html_becomes_markdown() {
        let table = [
            ("<div class=\"markdown prose\"><p>Hi <strong>you</strong></p></div>", "Hi **you**"),
            ("<p>a</p><ul><li>one</li><li>two</li></ul>", "a\n\n- one\n- two"),
            ("<p>See <a href=\"https://example.org\">here</a>.</p>", "See [here](https://example.org)."),
            (
                "<pre><div class=\"flex\"><span>python</span><button>Copy code</button></div><div><code class=\"hljs \
                 language-python\"><span>print</span>(1)\n</code></div></pre>",
                "```python\nprint(1)\n```",
            ),
        ];
        for (html, expect) in table {
            assert_eq!(markdown(html), expect, "{html}");
        }
    }

    #[test]
    fn what_is_markdown_stays_and_the_page_goes() {
        let table = [
            ("a *b* _c_ <div> in text", "a *b* _c_ <div> in text"),
            ("2 / 2 Here it is", "Here it is"),
            ("Text Copy12 chars / 3 words", "Text"),
            ("```pythonCopy code\nprint(1)\n```", "```python\nprint(1)\n```"),
            ("Question\nShare Prompt", "Question"),
            ("x ```Copy code```", "x"),
        ];
        for (text, expect) in table {
            assert_eq!(markdown(text), expect, "{text}");
        }
    }

    #[test]
    fn roles_alternate_or_the_row_goes() {
        let pair = |r: &str, c: &str| (r.to_string(), c.to_string());
        let kept = cleaned(&[("assistant", "Hello!"), ("user", "q"), ("assistant", "a"), ("user", "thanks")]).unwrap();
        assert_eq!(kept, [pair("user", "q"), pair("assistant", "a")]);
        let kept = cleaned(&[("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", " ")]).unwrap();
        assert_eq!(kept, [pair("system", "s"), pair("user", "q"), pair("assistant", "a")]);
        let wrong = [
            (vec![("user", "q"), ("user", "q"), ("assistant", "a")], Reason::Alternation),
            (vec![("assistant", "a")], Reason::TooShort),
            (vec![("user", "q"), ("assistant", "I am ChatGPT.")], Reason::Blocked),
            (vec![("user", "q"), ("assistant", "Too many requests in 1 hour. Try again later.")], Reason::Blocked),
        ];
        for (turns, expect) in wrong {
            assert_eq!(cleaned(&turns), Err(expect), "{turns:?}");
        }
    }
}
