//! From rows to tokens with a loss mask.
//!
//! The loss falls on the tokens of every assistant turn, the token that ends the turn included; where these lie is
//! found from the rendering itself. Special tokens come from templates only: written in a message they stay text.
//! Refuses to know files, and how many rows there are.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 1 | [`example`] | a row as tokens, a prompt as tokens |
//! | 1 | [`template`] | conversations to text |
//! | 2 | [`spans`] | where in that text each message lies |
//! | 2 | [`spoken`] | calls of tools as text |
//! | 2 | [`encode`] | text to tokens and mask |
//! | 3 | [`loss_mask`] | which turns carry loss |
//! | 3 | [`foreign`] | special tokens that someone wrote |
//! | 4 | [`context`] | a template and a context, without a tokenizer |
//! | 4 | [`renderer`] | a template and a tokenizer |
//! | 4 | [`exchanges`] | where a conversation that is too long is cut |

pub(crate) mod example;
pub(crate) mod template;
pub(crate) mod spans;
pub(crate) mod spoken;
pub(crate) mod encode;
pub(crate) mod loss_mask;
pub(crate) mod foreign;
pub(crate) mod context;
pub(crate) mod renderer;
pub(crate) mod exchanges;
