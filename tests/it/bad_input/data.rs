//! Files of rows and templates.

use super::{Case, SHOW, TRAIN, case, check};

const GOOD: &str = r#"{"prompt": "a", "completion": "b"}"#;

#[test]
fn rows() {
    let cases: &[Case] = &[
        case("an empty file", |s| s.write("rows.jsonl", ""), TRAIN, &["rows.jsonl", "no rows", "help:"]),
        case("blank lines only", |s| s.write("rows.jsonl", "\n \n"), SHOW, &["rows.jsonl", "no rows", "help:"]),
        case(
            "malformed JSON",
            |s| s.rows(&[GOOD, "{\"prompt\": \"a\","]),
            TRAIN,
            &["rows.jsonl:2", "malformed JSON at column", "help:"],
        ),
        case(
            "a row that is a list",
            |s| s.rows(&[GOOD, GOOD, "[1, 2]"]),
            TRAIN,
            &["rows.jsonl:3", "must be an object, this is an array"],
        ),
        case(
            "rows of two shapes",
            |s| s.rows(&[GOOD, "{\"text\": \"x\"}"]),
            TRAIN,
            &["rows.jsonl:2", "line 1 is `completion`, line 2 is `text`", "help:"],
        ),
        case(
            "columns of no known shape",
            |s| s.rows(&["{\"question\": \"a\", \"answer\": \"b\"}"]),
            TRAIN,
            &["rows.jsonl:1", "no known shape", "`answer`", "columns ="],
        ),
        case(
            "an unknown role",
            |s| s.rows(&[r#"{"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}"#]),
            TRAIN,
            &["rows.jsonl:1", "message 1", "unknown role `usr`", "did you mean `user`?"],
        ),
        case(
            "no assistant turn",
            |s| s.rows(&[r#"{"messages": [{"role": "user", "content": "a"}]}"#]),
            TRAIN,
            &["rows.jsonl:1", "no assistant turn", "help:"],
        ),
        case(
            "no message at all",
            |s| s.rows(&[r#"{"messages": []}"#]),
            TRAIN,
            &["rows.jsonl:1", "the conversation is empty", "help:"],
        ),
        case(
            "content that is a number",
            |s| s.rows(&[r#"{"messages": [{"role": "user", "content": 5}]}"#]),
            TRAIN,
            &["rows.jsonl:1", "message 1", "must be a string, this is a number"],
        ),
        case(
            "a column that is not there",
            |s| {
                s.edit(
                    "recipe.toml",
                    "train = \"rows.jsonl\"",
                    "train = { path = \"rows.jsonl\", columns = { prompt = \"question\" } }",
                )
            },
            TRAIN,
            &["rows.jsonl", "no row has the column `question`", "columns of the file: `completion`, `prompt`"],
        ),
        case(
            "the wrong shape asked for",
            |s| s.edit("recipe.toml", "train = \"rows.jsonl\"", "train = { path = \"rows.jsonl\", shape = \"messages\" }"),
            TRAIN,
            &["rows.jsonl:1", "shape `messages` needs `messages`", "help:"],
        ),
        case(
            "rows too long, all of them",
            |s| s.edit("recipe.toml", "max_length = 64", "max_length = 8"),
            TRAIN,
            &["rows.jsonl", "no row is left to train on", "6 over-long", "train.max_length"],
        ),
        case(
            "a row too long, and the recipe is strict",
            |s| {
                s.edit("recipe.toml", "[train]", "over_long = \"error\"\n[train]");
                s.edit("recipe.toml", "max_length = 64", "max_length = 8");
            },
            TRAIN,
            &["rows.jsonl:1", "`train.max_length` is 8", "help:"],
        ),
        case(
            "answers of nothing",
            |s| s.rows(&[r#"{"prompt": "a", "completion": "  "}"#]),
            TRAIN,
            &["rows.jsonl", "no row is left to train on", "help:"],
        ),
        case(
            "a table of another kind",
            |s| {
                s.write("rows.xlsx", "a,b\n1,2\n");
                s.edit("recipe.toml", "rows.jsonl", "rows.xlsx");
            },
            TRAIN,
            &["rows.xlsx", "`.xlsx` are not read", "JSON Lines"],
        ),
        case(
            "a table with a short row",
            |s| {
                s.write("rows.csv", "prompt,completion\na,b\nc\n");
                s.edit("recipe.toml", "rows.jsonl", "rows.csv");
            },
            TRAIN,
            &["rows.csv:3", "1 fields, the header has 2", "help:"],
        ),
        case(
            "a damaged archive",
            |s| {
                s.write("rows.jsonl.gz", "{}");
                s.edit("recipe.toml", "rows.jsonl", "rows.jsonl.gz");
            },
            TRAIN,
            &["rows.jsonl.gz", "not a gzip file, or a damaged one", "help:"],
        ),
        case(
            "bytes that are no text",
            |s| s.write("rows.jsonl", [b'{', 0xff, 0xfe, b'}']),
            TRAIN,
            &["rows.jsonl", "UTF-8", "help:"],
        ),
        case(
            "brackets without end",
            |s| s.write("rows.jsonl", "[".repeat(100_000)),
            TRAIN,
            &["rows.jsonl:1", "malformed JSON", "help:"],
        ),
        case(
            "a broken held-out row",
            |s| s.write("heldout.jsonl", format!("{GOOD}\nnull\n")),
            TRAIN,
            &["heldout.jsonl:2", "must be an object, this is null"],
        ),
    ];
    check(cases, 19);
}

/// Puts a template file into the recipe.
fn template(shop: &super::ValidSetup, source: &str) {
    shop.write("chat.jinja", source);
    shop.edit("recipe.toml", "[output]", "[template]\nkind = \"chat.jinja\"\n[output]");
}

#[test]
fn templates() {
    let cases: &[Case] = &[
        case(
            "a template with an open block",
            |s| template(s, "{% for m in messages %}\n{{ m['content'] }}"),
            TRAIN,
            &["chat.jinja", "line 2", "help:"],
        ),
        case(
            "a template that refuses",
            |s| template(s, "{{ raise_exception('only tools') }}"),
            TRAIN,
            &["chat.jinja", "only tools", "help:"],
        ),
        case(
            "a template without end",
            |s| {
                template(
                    s,
                    "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
                )
            },
            TRAIN,
            &["chat.jinja", "help:"],
        ),
        case(
            "a template that drops the answer",
            |s| template(s, "{{ messages[0]['content'] }}"),
            TRAIN,
            &["chat.jinja", "help:"],
        ),
        case(
            "a template file that is not there",
            |s| s.edit("recipe.toml", "[output]", "[template]\nkind = \"none.jinja\"\n[output]"),
            TRAIN,
            &["`template.kind`", "there is no file", "help:"],
        ),
        case(
            "a model without a template",
            |s| {
                s.write("model/tokenizer_config.json", "{}");
                s.rows(&[r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#]);
            },
            TRAIN,
            &["template", "help:"],
        ),
        case(
            "a model whose template is broken",
            |s| s.set("model/tokenizer_config.json", "chat_template", "{{ x".into()),
            TRAIN,
            &["chat template", "help:"],
        ),
    ];
    check(cases, 7);
}
