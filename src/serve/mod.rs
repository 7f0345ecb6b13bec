//! One base, many adapters, over HTTP: requests for any of them in one batch, adapters exchanged while it runs.
//!
//! What a request is answered with is decided once, when it comes: a generation of an adapter that it holds a lease on until its end.
//! Refuses to know: the terminal, how adapters are trained, how tokens are made ([`crate::generate`]).
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `settings`, `events`, `error`, `tool_calls`, `metrics`, `stalling`, `signals` | what a server is started with, and tells; refusals in OpenAI's form; calls of tools in an answer; what is counted; connections whose peer must take what is sent; signals of the system |
//! | 1 | `fields`, `beneath`, `auth`, `page` | bodies by tables; files below one folder; who may ask; the built-in page |
//! | 2 | `cache`, `messages`, `versions` | adapters in memory; conversations as clients send them; versions that names have had |
//! | 3 | `registry` | adapters by name, and their generations |
//! | 4 | `mixes` | sums of adapters |
//! | 5 | `app` | what all requests share |
//! | 6 | `target`, `sse`, `scrape` | who answers; events that a server sends; what was counted, for Prometheus |
//! | 7 | `params` | how an answer is to be |
//! | 8 | `answer` | from a prompt to its choices |
//! | 9 | `together`, `tools`, `logprobs`, `usage` | several choices at once; tools of a chat; log-probabilities and numbers of tokens as OpenAI spells them |
//! | 10 | `chat`, `completions`, `responses`, `texts`, `models`, `adapters` | what routes do |
//! | 11 | `routes` | the table of all routes |
//! | 12 | `openapi`, `router` | what is made of it |
//! | 13 | `watch` | what changes on disk |
//! | 14 | `listen` | the accept loop, and the end |

mod adapters;
mod answer;
mod app;
mod auth;
mod beneath;
mod cache;
mod chat;
mod completions;
mod error;
mod events;
mod fields;
mod listen;
mod logprobs;
mod messages;
mod metrics;
mod mixes;
mod models;
mod openapi;
mod page;
mod params;
mod registry;
mod responses;
mod router;
mod routes;
mod scrape;
mod settings;
mod signals;
mod sse;
mod stalling;
mod target;
mod texts;
mod together;
mod tool_calls;
mod tools;
mod usage;
mod versions;
mod watch;

pub use events::{ServeEvent, Tell};
pub use listen::serve;
pub use openapi::{document, routes_in_markdown};
pub use settings::{Key, ServeSettings};
