//! Adapters at other scales and sums of several, as requests ask for them: made once and one at a time, the last few kept as their bytes
//! allow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::cache::lock;
use super::registry::Lease;
use crate::adapter::mix::Mix;
use crate::error::{Error, Result};
use crate::model::{Model, PreparedAdapter};

/// The last sums that were asked for.
#[derive(Debug)]
pub(super) struct Mixes {
    last: Mutex<VecDeque<Kept>>,
    /// Held by who makes one.
    making: Mutex<()>,
    /// Of all that are kept, and of one.
    most_bytes: u64,
}

#[derive(Debug)]
struct Kept {
    key: String,
    mix: Arc<PreparedAdapter>,
    bytes: u64,
}

impl Mixes {
    pub(super) fn new(most_bytes: u64) -> Mixes {
        Mixes { last: Mutex::default(), making: Mutex::default(), most_bytes }
    }

    /// The sum of adapters at scales, each by name; takes its time where it is not there.
    ///
    /// # Errors
    /// For adapters whose deltas do not add, or that are too large together.
    pub(super) fn get(&self, parts: &[(String, Lease, f64)], model: &Model) -> Result<Arc<PreparedAdapter>> {
        let one = |(_, lease, scale): &(String, Lease, f64)| {
            let hash = lease.generation.as_ref().map_or("", |g| g.version.hash.as_str());
            format!("{hash}*{:016x}", scale.to_bits())
        };
        let key = parts.iter().map(one).collect::<Vec<_>>().join("+");
        let find = || lock(&self.last).iter().find(|kept| kept.key == key).map(|kept| kept.mix.clone());
        if let Some(mix) = find() {
            return Ok(mix);
        }
        let _making = lock(&self.making);
        // Another request may have asked for the same meanwhile.
        if let Some(mix) = find() {
            return Ok(mix);
        }
        let bytes: u64 = parts.iter().map(|(_, lease, _)| lease.loaded.bytes).sum();
        if bytes > self.most_bytes {
            let why = format!("their sum takes {bytes} bytes, there is room for {}", self.most_bytes);
            return Err(Error::usage("the sum of adapters", why, "sum fewer, or start the server with more --adapter-memory"));
        }
        let named: Vec<_> = parts.iter().map(|(name, lease, scale)| (name.as_str(), &*lease.loaded.prepared, *scale)).collect();
        let mix = Arc::new(model.prepare(&Mix::new(&named, model)?)?);
        mix.content()?;
        let mut last = lock(&self.last);
        last.push_front(Kept { key, mix: mix.clone(), bytes });
        while last.iter().map(|kept| kept.bytes).sum::<u64>() > self.most_bytes {
            last.pop_back();
        }
        Ok(mix)
    }
}
