//! What all requests share.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use rand::Rng;
use serde_json::Value;
use tokio::sync::watch;

use super::cache::{AdapterLimits, Cache};
use super::metrics::Metrics;
use super::mixes::Mixes;
use super::registry::Registry;
use super::settings::ServeSettings;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::generate::{Engine, Grammars, token_bytes};
use crate::job::{Assistants, OpenedBase, unix_time};

/// Tensors of an adapter at most.
const MAX_TENSORS: usize = 100_000;

/// A server's state.
pub(super) struct App {
    pub(super) settings: ServeSettings,
    pub(super) engine: Engine,
    pub(super) registry: Registry,
    pub(super) assistants: ArcSwap<Assistants>,
    pub(super) mixes: Mixes,
    /// Adapters that act on the base where a request gives none.
    pub(super) scales: ArcSwap<Vec<(String, f64)>>,
    /// Acts on adapters that go on or wait.
    pub(super) acts: AtomicUsize,
    pub(super) tokenizer: Tokenizer,
    /// Bytes of the longest text that may fit: more is refused before it is tokenised.
    pub(super) longest_text: usize,
    /// Names base and version in answers.
    pub(super) fingerprint: String,
    /// Seconds since 1970.
    pub(super) started: u64,
    pub(super) metrics: Metrics,
    /// The OpenAPI document, once the routes are there.
    pub(super) document: OnceLock<Value>,
    /// True once answers shall end at once.
    pub(super) closing: watch::Sender<bool>,
    /// Requests of each assistant that has a limit.
    pub(super) by_assistant: Mutex<std::collections::HashMap<String, Arc<AtomicUsize>>>,
    grammars: OnceLock<std::result::Result<Arc<Grammars>, String>>,
}

impl App {
    /// Loads adapters and assistants and starts the model's thread.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the folder of adapters or the assistants.
    pub(super) fn start(opened: OpenedBase, settings: ServeSettings) -> Result<App> {
        settings.check()?;
        let OpenedBase { model, tokenizer, .. } = opened;
        let model = Arc::new(model);
        let limits = AdapterLimits {
            file_bytes: settings.max_adapter_bytes,
            rank: settings.max_rank,
            tensors: MAX_TENSORS,
            budget: settings.adapter_budget,
        };
        let cache = Cache::new(model.clone(), tokenizer.clone(), limits);
        let assistants = settings.assistants.as_deref().map(Assistants::load).transpose()?.unwrap_or_default();
        let reserved = assistants.iter().map(|a| a.name.clone()).chain(["base".into(), settings.base_name.clone()]).collect();
        let registry = Registry::open(settings.adapters.as_deref(), cache, reserved)?;
        registry.cache.base()?;
        let engine = Engine::start(model, settings.engine)?;
        let longest_token = (0..tokenizer.vocab_size() as u32).map(|id| token_bytes(&tokenizer, id).len()).max().unwrap_or(1);
        let longest_text = engine.longest().saturating_mul(longest_token);
        let (closing, _) = watch::channel(false);
        let fingerprint = format!("lorakit-{}-{}", env!("CARGO_PKG_VERSION"), settings.base_name);
        Ok(App {
            engine,
            registry,
            assistants: ArcSwap::from_pointee(assistants),
            mixes: Mixes::new(settings.adapter_budget / 4),
            scales: ArcSwap::default(),
            acts: AtomicUsize::new(0),
            tokenizer,
            longest_text,
            fingerprint,
            started: unix_time(),
            metrics: Metrics::default(),
            document: OnceLock::new(),
            closing,
            by_assistant: Mutex::default(),
            grammars: OnceLock::new(),
            settings,
        })
    }

    /// A name for an answer that no other has.
    pub(super) fn new_id(&self, kind: &str) -> String {
        format!("{kind}-{:032x}", rand::rng().random::<u128>())
    }

    /// Ids of a text, special tokens in it read as such; with `bos` as a prompt begins.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub(super) fn with_bos(&self, text: &str, bos: bool) -> Result<Vec<u32>> {
        if bos { self.tokenizer.encode_prompt(text) } else { self.tokenizer.encode(text) }
    }

    /// Constraints over the base's tokens, made when first asked for.
    ///
    /// # Errors
    /// When the tokenizer's tokens cannot be read.
    pub(super) fn grammars(&self) -> Result<Arc<Grammars>> {
        let made = self.grammars.get_or_init(|| {
            Grammars::new(&self.tokenizer, self.engine.model().config.vocab).map(Arc::new).map_err(|e| e.to_string())
        });
        made.clone().map_err(|why| crate::error::Error::usage("response_format", why, "ask without a constraint"))
    }
}
