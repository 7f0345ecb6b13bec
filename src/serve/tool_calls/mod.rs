//! Calls of tools in what a model answers: found in its text, whole or as it comes, and forced by a grammar.
//!
//! A model writes calls in the form that its chat template shows it. What looks like a call and is none (no valid JSON, a
//! tool that nobody offered) stays part of the text: of an answer nothing is lost but white space beside calls.
//! Refuses to know: HTTP, tokens, templates beyond the markers in their source.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `form`, `tool` | how calls are written; what may be called |
//! | 1 | `call`, `grammar` | one call, read from JSON or XML's texts; a grammar that admits calls alone |
//! | 2 | `step` | what is known of a block of calls so far |
//! | 3 | `json_block`, `xml_block` | from a marker to the end of its calls |
//! | 4 | `stream` | text as it comes: what is content, what is a call |

mod form;
mod tool;
mod call;
mod grammar;
mod step;
mod json_block;
mod xml_block;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use call::Call;
pub(crate) use form::Form;
pub(crate) use grammar::{Forced, grammar};
pub(crate) use stream::{Event, Parsed, ToolCallStream, parse};
pub(crate) use tool::Tool;
