//! What every part of lorakit stands on; each module is free to all, and none knows recipes, rows or models.
//!
//! | # | module | knows |
//! |---|---|---|
//! | 0 | [`error`], [`device`], [`files`], [`random`], [`machine`], [`rouge`], [`hub`], [`piped`] | errors by what a user can fix; accelerators; atomic writes; named random streams; memory; how alike two texts are; the hub's cache; standard input |

pub mod error;
pub mod device;
pub mod files;
pub mod random;
pub mod machine;
pub mod rouge;
pub mod hub;
pub mod piped;
