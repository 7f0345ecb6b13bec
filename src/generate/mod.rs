//! From a prompt to its continuation: sampling, batches of prompts, conversations with a cache, text as it comes.
//!
//! Every answer is a function of model, adapter, prompt, [`Sampling`] and the prompt's place in the list, to the bit; what else
//! was in the batch does not matter. Refuses to know: templates, HTTP, the terminal.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `sampling`, `stream` | the next token from its logits; text as its tokens come |
//! | 1 | `scheduler` | the loop: texts join, get a token a turn, and leave |
//! | 2 | `batch`, `cached_conversation` | many prompts; one conversation |

mod sampling;
mod batch;
mod cached_conversation;
mod scheduler;
mod stream;
#[cfg(test)]
pub(crate) mod tiny_model;

pub use batch::{batch, batch_until};
pub use cached_conversation::CachedConversation;
pub use sampling::Sampling;
pub use scheduler::{Request, Scheduler, Turn};
pub use stream::TextStream;

/// When an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_new_tokens: usize,
    /// Ids that end an answer; they are not part of it.
    pub stop: Vec<u32>,
}
