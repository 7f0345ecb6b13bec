use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{Constraint, Grammar, Grammars};
use crate::tokenizer::{Special, Tokenizer, byte_level};

/// More logits than the tokenizer has ids, as many models have.
const WIDTH: usize = 300;

fn grammars() -> Grammars {
    Grammars::new(&byte_level::chatml(), WIDTH).unwrap()
}

fn compile(grammar: &Grammar) -> Constraint {
    grammars().compile(grammar).unwrap()
}

fn schema(schema: Value) -> Grammar {
    Grammar::JsonSchema(schema)
}

fn regex(text: &str) -> Grammar {
    Grammar::Regex(text.into())
}

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mask = constraint.mask().unwrap();
    (0..32 * mask.len() as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
    tokenizer.inner().token_to_id(token).unwrap()
}

/// A text by random tokens of the mask. After `long` tokens the end and closing characters are preferred.
fn walk(mut constraint: Constraint, seed: u64, long: usize) -> String {
    let tokenizer = byte_level::chatml();
    let end = id(&tokenizer, "<|im_end|>");
    let (mut rng, mut ids) = (ChaCha8Rng::seed_from_u64(seed), Vec::new());
    loop {
        let may = allowed(&mut constraint);
        assert_eq!(may.contains(&end), constraint.may_end().unwrap(), "after {:?}", tokenizer.decode(&ids, false));
        assert!(may.iter().all(|id| *id == end || !tokenizer.is_control(*id) && (*id as usize) < tokenizer.vocab_size()));
        let close: Vec<u32> = ["\"", "}", "]"].iter().map(|t| id(&tokenizer, t)).filter(|id| may.contains(id)).collect();
        let next = match () {
            () if ids.len() > long && may.contains(&end) => end,
            () if ids.len() > long && !close.is_empty() => close[0],
            () => *may.choose(&mut rng).unwrap(),
        };
        constraint.accept(next).unwrap();
        if next == end {
            assert!(constraint.must_end());
            return tokenizer.decode(&ids, false).unwrap();
        }
        ids.push(next);
        assert!(ids.len() < 3000, "{:?}", tokenizer.decode(&ids, false));
    }
}

/// Whether the grammar takes exactly this text, a byte at a time.
fn takes(grammar: &Grammar, text: &str) -> bool {
    let (tokenizer, mut constraint) = (byte_level::chatml(), compile(grammar));
    let ids = text.chars().flat_map(|c| tokenizer.encode_text(&c.to_string()).unwrap());
    ids.into_iter().all(|id| constraint.accept(id).is_ok()) && constraint.may_end().unwrap()
}

/// Compiles or refuses in bounded time; what it says when it refuses.
fn bounded(grammar: &Grammar) -> Result<(), String> {
    let (grammars, began) = (grammars(), Instant::now());
    let compiled = grammars.compile(grammar);
    if let Ok(mut constraint) = compiled.as_ref().cloned() {
        for _ in 0..20 {
            let Ok(mask) = constraint.mask() else { break };
            let Some(word) = mask.iter().position(|word| *word != 0) else { panic!("nothing may follow") };
            let next = 32 * word as u32 + mask[word].trailing_zeros();
            if constraint.must_end() || constraint.accept(next).is_err() {
                break;
            }
        }
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    compiled.map(drop).map_err(|e| e.to_string())
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["cat", "dog", 3, null]},
            "scores": {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "maxItems": 2}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "kind", "scores"],
        "additionalProperties": false,
    })
}

#[test]
fn random_walks_under_a_schema_are_what_it_describes() {
    let constraint = compile(&schema(person()));
    for seed in 0..20 {
        let text = walk(constraint.clone(), seed, 60);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "age", "kind", "scores"]);
        assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
        assert!(value["age"].as_u64().unwrap() <= 130, "{text}");
        assert!([json!("cat"), json!("dog"), json!(3), json!(null)].contains(&value["kind"]), "{text}");
        let scores = value["scores"].as_array().unwrap();
        assert!((1..=3).contains(&scores.len()), "{text}");
        let rows = scores.iter().map(|row| row.as_array().unwrap());
        assert!(rows.clone().all(|row| row.len() <= 2 && row.iter().all(Value::is_number)), "{text}");
    }
}

#[test]
fn random_walks_under_json_object_are_objects() {
    let constraint = compile(&Grammar::JsonObject);
    for seed in 0..20 {
        let text = walk(constraint.clone(), seed, 40);
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    }
    assert!(takes(&Grammar::JsonObject, "{\n  \"a\" : [1, {}]\n}"));
    assert!(!takes(&Grammar::JsonObject, "[1]"));
    assert!(!takes(&Grammar::JsonObject, &format!("{{{}}}", " ".repeat(200))), "white space has a bound");
}

#[test]
fn random_walks_under_a_regex_match_it() {
    for text in ["[a-c]{2,5}(hell|he)*x?", "a|bc|", r"\d{3}-[^\n]{1,4}/\\", "é+|ü.", r"(?i)hello\.\n?"] {
        let constraint = compile(&regex(text));
        let whole = regex::Regex::new(&format!("^(?:{text})$")).unwrap();
        for seed in 0..20 {
            let walked = walk(constraint.clone(), seed, 20);
            assert!(whole.is_match(&walked), "{text}: {walked:?}");
        }
    }
}

#[test]
fn a_choice_is_one_of_its_texts_to_the_character() {
    let choices = ["yes", "yes, but", "no", "a|b", "(", "é", "/", "\\", "line\nbreak", "\"", "<|im_end|>"];
    let constraint = compile(&Grammar::Choice(choices.map(Into::into).to_vec()));
    let walked: std::collections::BTreeSet<String> = (0..200).map(|seed| walk(constraint.clone(), seed, 20)).collect();
    assert_eq!(walked, choices.map(Into::into).into());
    assert!(bounded(&Grammar::Choice(Vec::new())).unwrap_err().contains("nothing to choose"));
    assert!(bounded(&Grammar::Choice(vec!["a".into(); 1025])).unwrap_err().contains("1025 choices"));
    assert!(bounded(&Grammar::Choice(vec!["a".repeat(40_000); 2])).unwrap_err().contains("80000 bytes"));
}

#[test]
fn a_lark_grammar_is_followed() {
    let grammar = Grammar::Lark("start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]{1,3}/\n".into());
    let constraint = compile(&grammar);
    let sum = regex::Regex::new(r"^[0-9]{1,3}(\+[0-9]{1,3})*$").unwrap();
    for seed in 0..20 {
        let text = walk(constraint.clone(), seed, 20);
        assert!(sum.is_match(&text), "{text}");
    }
    let open = compile(&Grammar::Lark("start: text\ntext[stop=\"\"]: /[a-z]{2,9}/\n".into()));
    for seed in 0..20 {
        assert!((2..=9).contains(&walk(open.clone(), seed, 20).len()));
    }
    assert!(takes(&Grammar::Lark("start: \"[\" %json {\"type\": \"integer\"} \"]\"".into()), "[12]"));
}

#[test]
fn what_is_forced_is_forced_in_the_tokenizers_own_tokens() {
    let tokenizer = byte_level::chatml();
    let mut constraint = compile(&regex("hello"));
    for token in ["he", "ll", "o"] {
        assert!(!constraint.may_end().unwrap() && !constraint.must_end());
        assert_eq!(allowed(&mut constraint), [id(&tokenizer, token)]);
        constraint.accept(id(&tokenizer, token)).unwrap();
    }
    assert!(constraint.must_end() && constraint.may_end().unwrap());
    assert_eq!(allowed(&mut constraint), [id(&tokenizer, "<|im_end|>")]);
    constraint.accept(id(&tokenizer, "<|im_end|>")).unwrap();
}

#[test]
fn any_tokens_of_a_text_are_taken_and_no_others() {
    let tokenizer = byte_level::chatml();
    for tokens in [&["he", "ll", "o"][..], &["h", "e", "l", "l", "o"], &["he", "l", "l", "o"]] {
        let mut constraint = compile(&regex("hello|help"));
        for token in tokens {
            constraint.accept(id(&tokenizer, token)).unwrap();
        }
        assert!(constraint.must_end(), "{tokens:?}");
    }
    let mut constraint = compile(&regex("hello"));
    assert!(constraint.accept(id(&tokenizer, "<|im_end|>")).is_err(), "it may not end here");
    let mut constraint = compile(&regex("hello"));
    assert!(constraint.accept(id(&tokenizer, "x")).is_err());
    assert!(constraint.accept(id(&tokenizer, "he")).is_err(), "it stays wrong");
    assert!(constraint.mask().is_err() && constraint.may_end().is_err() && !constraint.must_end());
    assert!(compile(&regex("hello")).accept(WIDTH as u32 + 7).is_err());
}

#[test]
fn special_tokens_are_neither_text_nor_named() {
    let tokenizer = byte_level::chatml();
    let mut constraint = compile(&regex("(?s).*"));
    let may = allowed(&mut constraint);
    for special in byte_level::SPECIAL {
        assert_eq!(may.contains(&id(&tokenizer, special)), special == "<|im_end|>", "{special}");
    }
    for lark in ["start: <|im_start|> \"a\"", "start: <[3]> \"a\"", "start: \"a\" <|im_end|> \"b\""] {
        assert!(bounded(&Grammar::Lark(lark.into())).is_err(), "{lark}");
    }
    assert!(bounded(&Grammar::Lark("%llguidance {\"allow_invalid_utf8\": true}\nstart: \"a\"".into())).is_err());
}

#[test]
fn clones_go_their_own_ways() {
    let tokenizer = byte_level::chatml();
    let mut first = compile(&regex("ab|cd"));
    let mut second = first.clone();
    first.accept(id(&tokenizer, "a")).unwrap();
    second.accept(id(&tokenizer, "c")).unwrap();
    assert_eq!(allowed(&mut first), [id(&tokenizer, "b")]);
    assert_eq!(allowed(&mut second), [id(&tokenizer, "d")]);
    fn sent<T: Send>(_: T) {}
    sent(first);
}

#[test]
fn sentence_pieces_and_bytes_are_read() {
    use tokenizers::models::bpe::{BPE, Vocab};
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "h", "i", "▁hi"];
    let vocab: Vocab = tokens.iter().enumerate().map(|(i, t)| (t.to_string(), i as u32)).collect();
    let model = BPE::builder().vocab_and_merges(vocab, vec![]).byte_fallback(true).build().unwrap();
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_decoder(Some(tokenizers::decoders::byte_fallback::ByteFallback::new()));
    inner.add_special_tokens(["<unk>", "<s>", "</s>"].map(|t| tokenizers::AddedToken::from(t, true))).unwrap();
    let tokenizer = ended(inner, "</s>");
    let mut constraint = Grammars::new(&tokenizer, tokens.len()).unwrap().compile(&regex(" hié| h| é")).unwrap();
    assert_eq!(allowed(&mut constraint), [5, 8]);
    for next in [8, 3, 4] {
        constraint.accept(next).unwrap();
    }
    assert_eq!(allowed(&mut constraint), [2]);
}

#[test]
fn a_tokenizer_of_unknown_writing_or_without_an_end_is_refused() {
    let mut inner = byte_level::bpe();
    inner.with_decoder(None::<tokenizers::DecoderWrapper>);
    inner.with_pre_tokenizer(None::<tokenizers::PreTokenizerWrapper>);
    let grammars = Grammars::new(&ended(inner, "</s>"), WIDTH).unwrap();
    assert!(grammars.compile(&regex("a")).unwrap_err().to_string().contains("alphabet"));
    assert!(Grammars::new(&byte_level::chatml(), 100).unwrap_err().to_string().contains("ends a text"));
}

fn strings(n: usize) -> Value {
    Value::Object((0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect())
}

/// Inside `levels` arrays.
fn nested(levels: usize) -> Value {
    let array = |items: Value| Value::Object([("type".into(), json!("array")), ("items".into(), items)].into_iter().collect());
    (0..levels).fold(json!({"type": "null"}), |items, _| array(items))
}

#[test]
fn a_schema_beyond_bounds_is_refused_with_its_place() {
    let cases = [
        (json!({"properties": {"a/b": {"maxItems": u64::MAX}}}), "/properties/a~1b/maxItems"),
        (json!({"items": {"minLength": -1}}), "/items/minLength"),
        (json!({"anyOf": [true, {"minimum": 1e300}]}), "/anyOf/1/minimum"),
        (json!({"multipleOf": 1e-300}), "/multipleOf"),
        (json!({"multipleOf": 0}), "/multipleOf"),
        (json!({"pattern": "a{1000000}"}), "/pattern"),
        (json!({"patternProperties": {"a{1000000}": true}}), "/patternProperties"),
        (json!({"$ref": "http://example.com/schema"}), "/$ref"),
        (json!({"$ref": "#/$defs/none", "$defs": {}}), "/$ref"),
        (json!({"$ref": "#/hidden", "hidden": {"maxItems": u64::MAX}}), "/hidden/maxItems"),
        (json!({"properties": {"a": 3}}), "/properties/a"),
        (json!({"enum": vec![1; 2000]}), "/enum"),
        (json!({"required": vec!["a"; 2000]}), "/required"),
        (json!({"x-guidance": {"whitespace_pattern": "x*"}}), "x-guidance"),
        (json!({"const": "a".repeat(70_000)}), "65536 bytes"),
        (json!({"oneOf": [{"type": "string"}, {"const": "a"}]}), "oneOf"),
        (json!({"type": "string", "format": "limerick"}), "limerick"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (nested(70), "/items/items"),
        (json!({"properties": strings(600)}), "600 entries"),
        (json!({"properties": strings(65), "minProperties": 1}), "64 properties"),
        (json!({"allOf": [{"multipleOf": 7}, {"multipleOf": 9}]}), "multipleOf"),
        (json!(false), "json_schema"),
    ];
    for (case, place) in cases {
        let why = bounded(&schema(case)).expect_err(place);
        assert!(why.contains(place), "{place}: {why}");
        assert!(why.len() < 1000, "{why}");
    }
}

#[test]
fn ten_thousand_levels_are_refused_without_descending_them() {
    let grammar = schema(nested(10_000));
    let why = bounded(&grammar).unwrap_err();
    assert!(why.contains("/items/items") && why.len() < 1000, "{why}");
    // To drop it takes as deep a stack.
    std::mem::forget(grammar);
}

#[test]
fn schema_bombs_end_soon() {
    let chain = |n: usize, body: fn(String) -> Value| {
        let defs = (0..n).map(|i| (format!("d{i}"), body(format!("#/$defs/d{}", i + 1))));
        let last = (format!("d{n}"), json!({"type": "string", "maxLength": 5}));
        json!({"$ref": "#/$defs/d0", "$defs": Value::Object(defs.chain([last]).collect())})
    };
    let doubled =
        |reference: String| json!({"type": "object", "properties": {"a": {"$ref": reference}, "b": {"$ref": reference}}});
    let both = |reference: String| json!({"allOf": [{"$ref": reference}, {"$ref": reference}]});
    let either = |reference: String| json!({"allOf": [{"anyOf": [{"$ref": reference}, {"$ref": reference}]}, {"anyOf": [{"$ref": reference}, true]}]});
    let sides = json!({"anyOf": vec![json!({"type": "array"}); 30]});
    let large = json!({"type": "array", "items": {"enum": (0..1000).map(|i| format!("a large value {i}")).collect::<Vec<_>>()}});
    let cases = [
        chain(60, doubled),
        chain(400, doubled),
        chain(40, both),
        chain(20, either),
        json!({"allOf": [large, sides, sides, sides]}),
        json!({"type": "array", "items": {"type": "array", "maxItems": 2_000_000_000}, "minItems": 1_000_000_000}),
        json!({"type": "string", "minLength": 1_000_000_000}),
        json!({"type": "string", "minLength": 100_000, "pattern": "^(a|b)*$"}),
        json!({"type": "string", "pattern": "^(.*a.{500})(.*b.{500})$"}),
        json!({"type": "object", "properties": strings(500)}),
        json!({"type": "object", "properties": strings(500), "patternProperties": {"^p": {"type": "string"}}, "additionalProperties": false}),
        json!({"type": "object", "properties": strings(64), "minProperties": 1, "additionalProperties": false}),
        json!({"enum": (0..1000).map(|i| "é".repeat(20) + &i.to_string()).collect::<Vec<_>>()}),
        json!({"type": "integer", "multipleOf": 9973}),
        json!({"type": "number", "multipleOf": 0.9973}),
        json!({"type": "number", "minimum": 1e-300, "maximum": 3.3e-299}),
        json!({"$ref": "#"}),
        json!({"$ref": "#", "type": "object"}),
        json!({"const": "é".repeat(30_000)}),
        json!({"type": "string", "pattern": "é".repeat(1500), "format": "é".repeat(150)}),
    ];
    for case in cases {
        let _ = bounded(&schema(case)).inspect_err(|why| assert!(why.len() < 1000 && !why.contains("panic"), "{why}"));
    }
}

#[test]
fn regex_bombs_end_soon() {
    let refused = ["(a|a)*{1000000}", ".{0,100000}", "(", "a\\", "(?=a)a", r"(a)\1", &"a".repeat(5000), &r"\w".repeat(1000)];
    for text in refused {
        assert!(bounded(&regex(text)).is_err(), "{text:.40}");
    }
    let nests = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
    let wide: String = (0..800).map(|i| format!("{i:03}|")).collect();
    let costly = [
        "(a|a)*{1000}",
        "((a{0,1000}){0,1000}){0,1000}",
        ".{0,10000}",
        "(.*a){50}.{200}",
        "(x+x+)+y",
        "(?i)[^a]*(ß|ẞ|.){1000}",
        r"(\p{L}\w){100}",
        &nests,
        &wide,
        &"[^a]".repeat(1000),
        &"(a?)".repeat(1000),
    ];
    for text in costly {
        let _ = bounded(&regex(text)).inspect_err(|why| assert!(why.len() < 1000 && !why.contains("panic"), "{why}"));
    }
}

#[test]
fn only_our_own_grammars_say_how_json_is_spaced() {
    let text = r#"start: %json {"type": "integer", "x-guidance": {"whitespace_flexible": false}}"#.to_string();
    let why = bounded(&Grammar::Lark(text.clone())).unwrap_err();
    assert!(why.contains("x-guidance"), "{why}");
    bounded(&Grammar::OwnLark(text)).unwrap();
}

#[test]
fn lark_bombs_end_soon() {
    let lines = |n: usize, line: fn(usize) -> String| (0..n).map(line).collect::<String>();
    let refused = [
        "start: \"a\"".repeat(10_000),
        format!("start: {}\"a\"", "(".repeat(5000)),
        "start: %json {\"type\": \"array\", \"maxItems\": 18446744073709551615}".into(),
        "start: /a{1000000}/".into(),
        "start: \"é".repeat(3),
        String::new(),
    ];
    for text in refused {
        assert!(bounded(&Grammar::Lark(text.clone())).is_err(), "{text:.60}");
    }
    let costly = [
        format!("start: {}\"a\"{}", "(".repeat(4000), ")".repeat(4000)),
        format!("start: A\nA: {}\"a\"{}", "(".repeat(4000), ")".repeat(4000)),
        format!("start: a0\n{}a2500: \"x\"\n", lines(2500, |i| format!("a{i}: a{} \"x\"\n", i + 1))),
        format!("start: A0\n{}A2500: \"x\"\n", lines(2500, |i| format!("A{i}: A{} \"x\"\n", i + 1))),
        format!("start: a0\n{}a2000: \"x\"\n", lines(2000, |i| format!("a{i}: a{j} a{j}\n", j = i + 1))),
        format!("start: A0\n{}A2000: \"x\"\n", lines(2000, |i| format!("A{i}: A{j} A{j}\n", j = i + 1))),
        "start: a\na: a a | \"x\" |\n".into(),
        format!("start: ({})*\n", lines(2000, |i| format!("{}/{i}.*/", if i > 0 { "|" } else { "" }))),
        "start: \"a\"~0..2147483647\n".into(),
        "start: (\"a\" | b)~1000000..2147483647\nb: start | \"c\"\n".into(),
        format!("start: {}\"a\"\n", "\"a\"? ".repeat(4000)),
        format!("start: /{}/\n", "(a|b)".repeat(4000)),
    ];
    for text in costly {
        let _ = bounded(&Grammar::Lark(text)).inspect_err(|why| assert!(why.len() < 1000 && !why.contains("panic"), "{why}"));
    }
}

/// This tokenizer with `eos` at the end of texts.
fn ended(inner: tokenizers::Tokenizer, eos: &str) -> Tokenizer {
    Tokenizer::new(inner, Special { eos: Some(eos.into()), ..Special::default() }, None).unwrap()
}
