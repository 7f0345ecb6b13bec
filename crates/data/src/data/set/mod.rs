//! A set of rows as tokens, in memory and on disk, with an account of every row.
//!
//! Refuses to know models, and the order in which rows are trained on.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 1 | [`column`] | numbers end to end, in memory or in a mapped file |
//! | 1 | [`draw`] | draws by seed |
//! | 1 | [`chunks`] | the chunks of a file, several at a time |
//! | 2 | [`report`] | what became of every row |
//! | 2 | [`examples`] | rows as tokens |
//! | 2 | [`request`] | what is to be loaded |
//! | 2 | [`truncation`] | what becomes of rows that are too long |
//! | 3 | [`account`] | what became of the rows, in sentences |
//! | 3 | [`spool`] | columns as they are filled |
//! | 3 | [`counts`] | numbers over rows |
//! | 3 | [`loaded`] | what comes of it |
//! | 4 | [`tokenize`] | some rows of a file to tokens |
//! | 4 | [`cache`] | tokens kept for the next start |
//! | 5 | [`split`] | which rows are held out |
//! | 5 | [`filling`] | columns of a load, filled chunk by chunk |
//! | 6 | [`gather`] | the rows of all sources in such columns |
//! | 7 | [`finish`] | parted, counted, with their prompts |
//! | 8 | [`load`] | all of it, from kept tokens where there are some |

pub(crate) mod account;
pub(crate) mod column;
pub(crate) mod draw;
pub(crate) mod chunks;
pub(crate) mod report;
pub(crate) mod examples;
pub(crate) mod request;
pub(crate) mod truncation;
pub(crate) mod spool;
pub(crate) mod counts;
pub(crate) mod loaded;
pub(crate) mod tokenize;
pub(crate) mod cache;
pub(crate) mod split;
pub(crate) mod filling;
pub(crate) mod gather;
pub(crate) mod finish;
pub(crate) mod load;
