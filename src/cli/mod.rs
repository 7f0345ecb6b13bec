//! cli

pub mod recipe;
