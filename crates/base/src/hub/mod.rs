//! The hub as this machine knows it: where its cache is, how the hub is asked, and how data sets on it are named.
//!
//! Refuses to know: the network (`model::resolve`), models, rows.

mod dataset;
mod places;

pub use dataset::{Dataset, address_of};
pub use places::Places;

use std::path::{Component, Path};

/// Whether `name` is one path component that stays where it is.
pub fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains('\\')
}
