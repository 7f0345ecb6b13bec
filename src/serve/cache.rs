//! Adapters in memory, by the hash of their files: read when first asked for, and the longest unused let go when their bytes are
//! more than the budget.
//!
//! What a request runs with cannot be let go: it counts against the budget, which is exceeded only by what is in use.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::adapter::Adapter;
use crate::adapter::inspect::RECIPE;
use crate::adapter::peft;
use crate::artifact::chat_template;
use crate::data::{Renderer, Tokenizer};
use crate::error::{Error, Result};
use crate::job;
use crate::model::{Model, PreparedAdapter};
use crate::recipe::TemplateKind;

/// An adapter that is ready to run.
pub(super) struct Loaded {
    pub(super) prepared: Arc<PreparedAdapter>,
    /// Conversations as it was trained on them.
    pub(super) renderer: Renderer,
    /// The largest of its pairs.
    pub(super) rank: usize,
    /// That it takes in memory.
    pub(super) bytes: u64,
    /// What its files ask for in vain, and which base they were made for, if another.
    pub(super) notes: Vec<String>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("rank", &self.rank).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What adapters may be at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdapterLimits {
    /// Of the tensors' file.
    pub(super) file_bytes: u64,
    pub(super) rank: usize,
    pub(super) tensors: usize,
    /// Of all that are in memory.
    pub(super) budget: u64,
}

/// One place: filled by who asks first, while others who want the same wait.
#[derive(Debug, Default)]
struct Place {
    loaded: Mutex<Option<Arc<Loaded>>>,
    used: AtomicU64,
}

/// Adapters in memory.
pub(super) struct Cache {
    model: Arc<Model>,
    tokenizer: Tokenizer,
    pub(super) limits: AdapterLimits,
    places: Mutex<HashMap<String, Arc<Place>>>,
    clock: AtomicU64,
    /// Adapters that were read from disk, and let go.
    pub(super) loads: AtomicU64,
    pub(super) evictions: AtomicU64,
    base: OnceLock<Arc<Loaded>>,
}

impl Cache {
    pub(super) fn new(model: Arc<Model>, tokenizer: Tokenizer, limits: AdapterLimits) -> Cache {
        let (clock, loads, evictions) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Cache { model, tokenizer, limits, places: Mutex::default(), clock, loads, evictions, base: OnceLock::new() }
    }

    /// The base alone, which needs no place.
    ///
    /// # Errors
    /// When its chat template does not parse.
    pub(super) fn base(&self) -> Result<Arc<Loaded>> {
        if let Some(base) = self.base.get() {
            return Ok(base.clone());
        }
        let renderer = job::Speaker::base(&self.tokenizer)?.renderer;
        let prepared = Arc::new(self.model.prepare(&())?);
        Ok(self.base.get_or_init(|| Arc::new(Loaded { prepared, renderer, rank: 0, bytes: 0, notes: Vec::new() })).clone())
    }

    /// The adapter `hash`, to run with, if it is in memory and nobody is reading it in just now.
    pub(super) fn there(&self, hash: &str) -> Option<Arc<Loaded>> {
        let loaded = self.look(hash)?;
        if let Some(place) = lock(&self.places).get(hash) {
            place.used.store(self.tick(), Ordering::Relaxed);
        }
        Some(loaded)
    }

    /// The same, only to be looked at: that is no use of it.
    pub(super) fn look(&self, hash: &str) -> Option<Arc<Loaded>> {
        let place = lock(&self.places).get(hash).cloned()?;
        place.loaded.try_lock().ok()?.clone()
    }

    /// The adapter `hash`, read from `dir` where it is not there. May take as long as reading takes.
    ///
    /// # Errors
    /// Whatever is wrong with its files, and where it is over a limit.
    pub(super) fn get(&self, hash: &str, dir: &Path) -> Result<Arc<Loaded>> {
        let place = lock(&self.places).entry(hash.to_string()).or_default().clone();
        let mut slot = lock(&place.loaded);
        place.used.store(self.tick(), Ordering::Relaxed);
        if let Some(loaded) = slot.as_ref() {
            return Ok(loaded.clone());
        }
        let loaded = match self.load(dir) {
            Ok(loaded) => Arc::new(loaded),
            Err(error) => {
                drop(slot);
                self.remove(hash);
                return Err(error);
            }
        };
        *slot = Some(loaded.clone());
        drop(slot);
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.make_room(hash);
        Ok(loaded)
    }

    /// Bytes of all that are in memory, and how many they are.
    pub(super) fn occupied(&self) -> (u64, usize) {
        let loaded = self.all().into_iter().map(|(_, _, loaded, _)| loaded.bytes);
        loaded.fold((0, 0), |(bytes, n), more| (bytes + more, n + 1))
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn remove(&self, hash: &str) {
        lock(&self.places).remove(hash);
    }

    /// Hash, last use, and what is loaded, of all that nobody is reading in; whether a request runs with it.
    fn all(&self) -> Vec<(String, u64, Arc<Loaded>, bool)> {
        let places = lock(&self.places);
        let one = |(hash, place): (&String, &Arc<Place>)| {
            let loaded = place.loaded.try_lock().ok()?.clone()?;
            // Here and in the place.
            let used = Arc::strong_count(&loaded) > 2 || Arc::strong_count(&loaded.prepared) > 1;
            Some((hash.clone(), place.used.load(Ordering::Relaxed), loaded, used))
        };
        places.iter().filter_map(one).collect()
    }

    /// Lets the longest unused go until the rest is within the budget.
    fn make_room(&self, but: &str) {
        let mut all = self.all();
        all.sort_by_key(|(_, last, _, _)| *last);
        let mut bytes: u64 = all.iter().map(|(_, _, loaded, _)| loaded.bytes).sum();
        for (hash, _, loaded, used) in all {
            if bytes <= self.limits.budget {
                break;
            }
            if !used && hash != but {
                self.remove(&hash);
                self.evictions.fetch_add(1, Ordering::Relaxed);
                bytes -= loaded.bytes;
            }
        }
    }

    fn load(&self, dir: &Path) -> Result<Loaded> {
        let config = peft::read_config(dir)?;
        if config.r > self.limits.rank {
            return Err(too_large(dir, "its rank", config.r, self.limits.rank));
        }
        let adapter = Adapter::load(dir, &self.model)?.frozen();
        let tensors = adapter.params().len();
        if tensors > self.limits.tensors {
            return Err(too_large(dir, "its tensors", tensors, self.limits.tensors));
        }
        let rank = adapter.ranks().max().unwrap_or(0);
        if rank > self.limits.rank {
            return Err(too_large(dir, "its rank", rank, self.limits.rank));
        }
        let recipe = job::saved_recipe(dir)?;
        let named = recipe.as_ref().is_some_and(|recipe| matches!(recipe.template.kind, TemplateKind::File(_)));
        if named && chat_template::kept(dir)?.is_empty() {
            let why = "it names a chat template in a file elsewhere, which a server does not read";
            let help = format!("keep the template beside the adapter, as {}", chat_template::FILE);
            return Err(Error::adapter(dir, RECIPE, why, help));
        }
        let renderer = job::as_trained(dir, recipe.as_ref(), &self.tokenizer)?;
        let prepared = Arc::new(self.model.prepare(&adapter)?);
        // Asked for by the model's thread at the first request.
        prepared.content()?;
        // As tensors, and as the kernels take them.
        let bytes = 2 * 4 * adapter.param_count() as u64;
        Ok(Loaded { prepared, renderer, rank, bytes, notes: adapter.notes.clone() })
    }
}

fn too_large(dir: &Path, what: &str, is: usize, most: usize) -> Error {
    Error::adapter(dir, what, format!("{is}, at most {most} here"), "start the server with a higher limit")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
