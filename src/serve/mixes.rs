//! Adapters at other scales and sums of several, as requests ask for them: made once, the last few kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::cache::lock;
use super::registry::Lease;
use crate::adapter::mix::Mix;
use crate::error::Result;
use crate::model::{Model, PreparedAdapter};

/// Sums that are kept.
const KEPT: usize = 16;

/// The last sums that were asked for.
#[derive(Debug, Default)]
pub(super) struct Mixes {
    last: Mutex<VecDeque<(String, Arc<PreparedAdapter>)>>,
}

impl Mixes {
    /// The sum of adapters at scales, each by name; takes its time where it is not there.
    ///
    /// # Errors
    /// For adapters whose deltas do not add.
    pub(super) fn get(&self, parts: &[(String, Lease, f64)], model: &Model) -> Result<Arc<PreparedAdapter>> {
        let one = |(_, lease, scale): &(String, Lease, f64)| {
            let hash = lease.generation.as_ref().map_or("", |g| g.version.hash.as_str());
            format!("{hash}*{:016x}", scale.to_bits())
        };
        let key = parts.iter().map(one).collect::<Vec<_>>().join("+");
        if let Some((_, mix)) = lock(&self.last).iter().find(|(known, _)| *known == key) {
            return Ok(mix.clone());
        }
        let named: Vec<_> = parts.iter().map(|(name, lease, scale)| (name.as_str(), &*lease.loaded.prepared, *scale)).collect();
        let mix = Arc::new(model.prepare(&Mix::new(&named, model)?)?);
        let mut last = lock(&self.last);
        last.push_front((key, mix.clone()));
        last.truncate(KEPT);
        Ok(mix)
    }
}
