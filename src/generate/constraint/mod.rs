//! Answers held to a form: a JSON schema, a regular expression, a choice, a Lark grammar.
//!
//! A [`Grammar`] is checked against bounds of its own, compiled once off the model's thread, and asked before each token which
//! ids may come next. Whoever sent it is not trusted: what it may cost is bounded before, while it is compiled, and at each token.
//! Refuses to know: logits, requests, HTTP.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `vocabulary`, `bounds` | the bytes of every token; what a text, a pattern, a choice may cost |
//! | 1 | `schema` | the same of a JSON schema, place by place |
//! | 2 | `lark` | the same of a Lark grammar |

mod bounds;
mod lark;
mod schema;
mod vocabulary;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{InferenceCapabilities, SimpleVob, TokEnv};

use self::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Stack of the thread that compiles, in bytes: readers of grammars call themselves for what is nested.
const STACK: usize = 256 << 20;
/// Longest message of the library that is passed on, in bytes.
const MESSAGE: usize = 400;
/// White space between the parts of a JSON answer: bounded, or a model that likes it would write nothing else.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that this schema accepts, properties in the schema's order.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A text that this regular expression (syntax of the crate `regex`) matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in `llguidance`'s dialect of Lark.
    Lark(String),
    /// The same, made here: it may name special tokens by their ids, as `<[5]>`. Schemas in it may be anybody's.
    OwnLark(String),
}

/// Compiles grammars for one tokenizer; cloning shares it. The trie of its tokens is built when the first grammar comes.
#[derive(Clone)]
pub struct Grammars {
    tokenizer: Tokenizer,
    width: usize,
    factory: Arc<OnceLock<Arc<ParserFactory>>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("vocab", &self.width).finish_non_exhaustive()
    }
}

impl Grammars {
    /// For a model with `vocab` logits, which may be more than the tokenizer has ids.
    ///
    /// # Errors
    /// [`Error::Usage`] when the tokenizer has no token that ends a text.
    pub fn new(tokenizer: &Tokenizer, vocab: usize) -> Result<Grammars> {
        vocabulary::eos(tokenizer, vocab)?;
        Ok(Grammars { tokenizer: tokenizer.clone(), width: vocab, factory: Arc::default() })
    }

    /// Compiles a grammar, in at most seconds; not for the model's thread.
    ///
    /// # Errors
    /// [`Error::Usage`] when the grammar is wrong, asks for what is not supported, or is too large; of a JSON schema it names the
    /// place.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint> {
        let factory = self.factory()?;
        let work = || {
            let parser = factory.create_parser(self.checked(grammar)?).map_err(|e| unusable(grammar, &e.to_string()))?;
            Ok(Constraint::new(Matcher::new(Ok(parser)), &factory))
        };
        let compiled = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn_scoped(scope, work);
            thread.map(std::thread::ScopedJoinHandle::join)
        });
        match compiled {
            Ok(Ok(constraint)) => constraint,
            Ok(Err(_)) => Err(unusable(grammar, "its compiler failed")),
            Err(e) => Err(unusable(grammar, &format!("no thread to compile it: {e}"))),
        }
    }

    fn factory(&self) -> Result<Arc<ParserFactory>> {
        if let Some(factory) = self.factory.get() {
            return Ok(Arc::clone(factory));
        }
        let vocabulary: TokEnv = Arc::new(Vocabulary::new(&self.tokenizer, self.width)?);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices)
            .map_err(|e| Error::usage("tokenizer", shortened(&e.to_string()), "ask this model for unconstrained answers"))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Arc::clone(self.factory.get_or_init(|| Arc::new(factory))))
    }

    fn checked(&self, grammar: &Grammar) -> Result<TopLevelGrammar> {
        match grammar {
            Grammar::JsonSchema(schema) => {
                schema::check(schema, "")?;
                Ok(json_grammar(schema.clone()))
            }
            Grammar::JsonObject => Ok(json_grammar(json!({"type": "object"}))),
            Grammar::Regex(text) => {
                bounds::pattern("regex", text)?;
                Ok(regex_grammar(text))
            }
            Grammar::Choice(choices) => Ok(regex_grammar(&bounds::choice(choices)?)),
            Grammar::Lark(text) | Grammar::OwnLark(text) => {
                let own = matches!(grammar, Grammar::OwnLark(_));
                let special = |text: &str| vocabulary::special(&self.tokenizer, text).filter(|_| !own);
                lark::check(text, own, special)?;
                Ok(TopLevelGrammar::from_lark(text.clone()))
            }
        }
    }
}

/// What the rooms above do not bound; one unit of fuel is about 100 ns.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1000,
        initial_lexer_fuel: 500_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        // It walks the whole trie once for each large pattern, which bounds nothing and repays only over many answers.
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

fn json_grammar(mut schema: Value) -> TopLevelGrammar {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Value::Object(map) = &mut schema {
        map.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE}));
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// In a group of its own, so that neither alternatives nor a backslash at the end reach beyond it.
fn regex_grammar(text: &str) -> TopLevelGrammar {
    TopLevelGrammar::from_regex(&format!("(?:{text})"))
}

/// Where one answer stands in its grammar. A clone goes its own way from there, sharing nothing that either of them changes.
pub struct Constraint {
    matcher: Matcher,
    factory: Arc<ParserFactory>,
    mask: SimpleVob,
}

impl Clone for Constraint {
    fn clone(&self) -> Constraint {
        Constraint { matcher: self.matcher.deep_clone(), factory: Arc::clone(&self.factory), mask: self.mask.clone() }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("stop", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

impl Constraint {
    fn new(matcher: Matcher, factory: &Arc<ParserFactory>) -> Constraint {
        Constraint { matcher, factory: Arc::clone(factory), mask: SimpleVob::new() }
    }

    /// The ids that may come next: bit `id % 32` of word `id / 32`. The ids that end a text are among them exactly where the
    /// answer may end.
    ///
    /// # Errors
    /// [`Error::Usage`] when the grammar costs too much at this place or no token can go on.
    pub fn mask(&mut self) -> Result<&[u32]> {
        self.mask = self.matcher.compute_mask_or_eos().map_err(|e| stuck(&e.to_string()))?;
        let words = self.factory.tok_env().tok_trie().vocab_size().div_ceil(32);
        Ok(&self.mask.as_slice()[..words])
    }

    /// Goes on by one token, whether or not [`Constraint::mask`] was asked before: any tokens of a text that the grammar allows
    /// are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] when the grammar does not allow the token here; the answer cannot go on after that.
    pub fn accept(&mut self, id: u32) -> Result<()> {
        let ends = self.factory.tok_env().tok_trie().eos_tokens().contains(&id);
        if ends && self.must_end() {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|e| stuck(&e.to_string()))
    }

    /// Whether nothing but the end may follow.
    pub fn must_end(&self) -> bool {
        let reason = self.matcher.stop_reason();
        reason.is_ok() && reason != StopReason::NotStopped
    }

    /// Whether the answer may end here.
    ///
    /// # Errors
    /// [`Error::Usage`] when the grammar failed before.
    pub fn may_end(&mut self) -> Result<bool> {
        Ok(self.must_end() || self.matcher.is_accepting().map_err(|e| stuck(&e.to_string()))?)
    }
}

fn unusable(grammar: &Grammar, why: &str) -> Error {
    let (what, help) = match grammar {
        Grammar::JsonSchema(_) | Grammar::JsonObject => ("json_schema", "simplify the schema"),
        Grammar::Regex(_) => ("regex", "simplify the regular expression"),
        Grammar::Choice(_) => ("choice", "give fewer or shorter choices"),
        Grammar::Lark(_) | Grammar::OwnLark(_) => ("grammar", "correct or simplify the grammar"),
    };
    Error::usage(what, shortened(why), help)
}

fn stuck(why: &str) -> Error {
    Error::usage("constrained answer", shortened(why), "simplify the grammar")
}

/// What the library says, without its own state and traces.
fn shortened(message: &str) -> String {
    let said = message.split("\n<").next().unwrap_or_default().trim();
    let end = said.floor_char_boundary(MESSAGE);
    if end < said.len() { format!("{} …", &said[..end]) } else { said.to_string() }
}
