//! From a prompt to its continuation: sampling, batches of prompts, conversations with a cache, text as it comes.
//!
//! Every answer is a function of model, adapter, prompt, [`Sampling`] and the prompt's place in the list, to the bit; what else
//! was in the batch does not matter. Refuses to know: templates, HTTP, the terminal.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `sampling`, `stop`, `token_bytes` | the next token from its logits; strings that end a text; bytes of tokens |
//! | 1 | `stream`, `constraint` | text as its tokens come; what an answer must be |
//! | 2 | `request` | what is asked of the loop, and what a turn brings |
//! | 3 | `text` | one text that is worked on |
//! | 4 | `scheduler` | the loop: texts join, get a token a turn, and leave |
//! | 5 | `batch`, `cached_conversation`, `engine` | many prompts; one conversation; requests from other threads, as they come |

mod batch;
mod cached_conversation;
mod constraint;
mod engine;
mod request;
mod sampling;
mod scheduler;
mod stop;
mod stream;
mod text;
mod token_bytes;
#[cfg(test)]
pub(crate) mod tiny_model;

pub use batch::{batch, batch_until};
pub use cached_conversation::CachedConversation;
pub use constraint::{Constraint, Grammar, Grammars};
pub use engine::{Answering, Engine, EngineSettings, EngineStats, Event, Refused};
pub use request::{Ended, Request, TokenLogp, Turn, WantedLogps};
pub use sampling::{Sampling, logp_of, top_logps};
pub use scheduler::Scheduler;
pub use stop::{Released, StopFilter, StopStrings};
pub use stream::TextStream;
pub use token_bytes::token_bytes;

/// When an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_new_tokens: usize,
    /// Before so many tokens, none of `stop` is chosen.
    pub min_new_tokens: usize,
    /// Ids that end an answer; they are not part of it.
    pub stop: Vec<u32>,
}
