//! cli

pub mod data;
pub mod recipe;
