//! From a prompt to its continuation: sampling, batches of prompts, conversations with a cache, text as it comes.
//!
//! Every answer is a function of model, adapter, prompt, [`Sampling`] and the prompt's place in the list; what else was
//! in the batch does not matter. Refuses to know: templates, HTTP, the terminal.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `sampling`, `stream` | the next token from its logits; text as its tokens come |
//! | 1 | `batch`, `cached_conversation` | many prompts; one conversation |

mod sampling;
mod batch;
mod cached_conversation;
mod stream;
#[cfg(test)]
pub(crate) mod tiny_model;

pub use batch::{batch, batch_until};
pub use cached_conversation::CachedConversation;
pub use sampling::Sampling;
pub use stream::TextStream;

/// Runs one pass of the model on a thread of the pool: a pass has hundreds of parallel loops, and a thread from outside
/// would wait for the pool's at each of them.
fn in_pool<T: Send>(pass: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| pass())
}

/// When an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_new_tokens: usize,
    /// Ids that end an answer; they are not part of it.
    pub stop: Vec<u32>,
}
