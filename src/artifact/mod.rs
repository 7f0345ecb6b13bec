//! Files that others can read: merged models, cards, traces, loss curves, checkpoints. Refuses to know: how training
//! works, HTTP.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `card`, `chat_template`, `checkpoints`, `fingerprint`, `svg` | each its own file or folder; what an SVG is made of |
//! | 1 | `curve`, `merge` | the loss curve; a merged model |

pub mod card;
pub mod chat_template;
pub mod checkpoints;
pub mod fingerprint;
pub mod curve;
pub mod merge;
pub mod svg;
