//! The rooms together: from files to examples.

mod cache;
mod common_mistakes;
mod formats;
mod load;
mod over_long;
mod stream;
mod templates;
