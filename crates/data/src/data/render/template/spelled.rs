//! Templates in Jinja that render conversations as training does: what is kept beside an adapter and in a merged model.
//!
//! A fixed template becomes an equal one in Jinja; a system message of the recipe becomes part of the template, which puts
//! it before conversations that have none. Refuses to know where the templates are kept.

use super::fixed::{Style, WITHOUT_INPUT};
use crate::tokenizer::ChatTemplates;

/// Apart: the system message, and the turns after it, which must be of user and assistant in turn.
const TURNS: &str = "\
{%- set system = messages[0]['content'] if messages and messages[0]['role'] == 'system' else none -%}
{%- set turns = (messages[1:] | list) if system is not none else messages -%}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('this template takes user and assistant in turn') -}}
{%- endif -%}
{%- endfor -%}
";

const ALPACA: &str = "\
{%- if turns | length > 2 -%}
{{- raise_exception('Alpaca prompts have one turn') -}}
{%- endif -%}
{{- system if system is not none else PREAMBLE -}}
{{- '\\n\\n### Instruction:\\n' -}}
{%- if turns -%}
{{- turns[0]['content'] -}}
{%- endif -%}
{{- '\\n\\n### Response:' -}}
{%- if turns | length > 1 -%}
{{- turns[1]['content'] -}}
{{- eos_token -}}
{%- endif -%}
";

const INSTRUCTION: &str = "\
{%- if system is not none -%}
{{- system + '\\n\\n' -}}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'assistant' -%}
{{- message['content'] -}}
{{- eos_token -}}
{%- else -%}
{{- '### Instruction:\\n' if loop.first else '\\n\\n### Instruction:\\n' -}}
{{- message['content'] -}}
{%- if not loop.last or add_generation_prompt -%}
{{- '\\n\\n### Response:\\n' -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
";

/// A fixed template in Jinja; `bos`: the tokenizer puts BOS before every text, which nobody else does for a template.
/// A row's separate input, which a conversation does not have, is not spoken of.
pub(crate) fn fixed(style: Style, bos: bool) -> ChatTemplates {
    let body = match style {
        Style::Alpaca => ALPACA.replace("PREAMBLE", &literal(WITHOUT_INPUT)),
        Style::Instruction => INSTRUCTION.to_string(),
    };
    let bos = if bos { "{{- bos_token -}}\n" } else { "" };
    ChatTemplates::from(Some(format!("{TURNS}{bos}{body}")))
}

/// Templates that put `system` before conversations without a system message.
pub(crate) fn with_system(templates: &ChatTemplates, system: &str) -> ChatTemplates {
    let said = literal(system);
    let start = format!(
        "{{%- if not messages or messages[0]['role'] != 'system' %}}{{%- set messages = ([{{'role': 'system', 'content': {said}}}] + messages) | list %}}{{%- endif %}}{{{{ '' }}}}"
    );
    templates.map(|source| format!("{start}{source}"))
}

/// A text as Jinja writes it; nothing in it looks like a tag.
fn literal(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '{' | '}' | '%' | '#' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if c.is_control() && c.is_ascii() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "'"
}
