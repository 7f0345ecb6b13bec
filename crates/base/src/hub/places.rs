//! The caches and programs that a search uses, from the environment.
//!
//! Variables of Hugging Face's tools: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_TOKEN_PATH`.
//! Ours: `LORAKIT_CACHE` and `LORAKIT_PIP`. Refuses to know: models.

use std::path::PathBuf;
use std::time::Duration;

/// Where to look and what to run.
#[derive(Clone, Default)]
pub struct Places {
    pub home: Option<PathBuf>,
    /// The `hub` directory of the Hugging Face cache.
    pub hub_cache: Option<PathBuf>,
    /// Another address of the hub.
    pub endpoint: Option<String>,
    pub token: Option<String>,
    /// The hub must not be asked.
    pub offline: bool,
    /// Longest wait for the hub's first answer.
    pub patience: Duration,
    /// Our own cache.
    pub cache: Option<PathBuf>,
    /// Command lines that start `pip`, the first that exists is used.
    pub pip: Vec<Vec<String>>,
}

/// Does not show the token.
impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places")
            .field("hub_cache", &self.hub_cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("offline", &self.offline)
            .field("cache", &self.cache)
            .field("pip", &self.pip)
            .finish_non_exhaustive()
    }
}

impl Places {
    /// As the environment says.
    pub fn from_env() -> Self {
        Self::from(&|name| std::env::var(name).ok())
    }

    /// As `var` says; empty values count as unset.
    pub fn from(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|v| !v.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = path("HOME").or_else(|| path("USERPROFILE"));
        let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|h| h.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| caches.as_ref().map(|c| c.join("huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| hf_home.as_ref().map(|h| h.join("token")));
        let stored = || token_file.and_then(|file| std::fs::read_to_string(file).ok());
        let token = var("HF_TOKEN").or_else(stored).map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
        let words = |line: &[&str]| line.iter().map(ToString::to_string).collect();
        Self {
            hub_cache: path("HF_HUB_CACHE").or_else(|| hf_home.map(|h| h.join("hub"))),
            endpoint: var("HF_ENDPOINT").map(|e| e.trim_end_matches('/').to_string()),
            token,
            offline: var("HF_HUB_OFFLINE").is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str())),
            patience: Duration::from_secs(8),
            cache: path("LORAKIT_CACHE").or_else(|| caches.map(|c| c.join("lorakit"))),
            pip: match var("LORAKIT_PIP") {
                Some(program) => vec![vec![program]],
                None => [&["pip"][..], &["pip3"], &["python3", "-m", "pip"]].map(words).to_vec(),
            },
            home,
        }
    }
}
