//! What `lorakit serve` is asked for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::generation_args::BaseArgs;
use crate::error::Result;
use crate::files;
use crate::generate::{EngineSettings, Scheduler};
use crate::job::OpenedBase;
use crate::model::resolve::Resolved;
use crate::serve::{Key, ServeSettings};

/// Tokens of keys and values a row, where nothing else is said.
const TOKENS_A_ROW: usize = 2048;

/// Serve one base and many adapters over HTTP, as OpenAI's API has it, with a page at /.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub(super) base: BaseArgs,
    /// Folder whose folders are adapters: served from the start, and loaded and replaced while it runs
    #[arg(long, value_name = "ROOT")]
    pub(super) adapters: Option<PathBuf>,
    /// Address and port; other than loopback only with keys
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// What the base is called in requests (default: the last part of --model)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File of keys of those who may ask, one a line, KEY or OWNER:KEY (or the variable LORAKIT_KEY)
    #[arg(long, value_name = "F")]
    key_file: Option<PathBuf>,
    /// File of keys of those who may change adapters (or the variable LORAKIT_ADMIN_KEY)
    #[arg(long, value_name = "F")]
    admin_key_file: Option<PathBuf>,
    /// A further name of this server in requests, with its port, e.g. chat.example:8000; once for each
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Origin of pages that may ask from a browser, e.g. https://app.example; once for each
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// Assistants: a TOML file, or a folder of such; read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE|DIR")]
    assistants: Option<PathBuf>,
    /// Folder of runs: each is published under its folder's name when it is complete
    #[arg(long, value_name = "DIR", requires = "adapters")]
    watch: Option<PathBuf>,
    /// Answers at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rows: u16,
    /// Requests that may wait for a row; more are refused (429)
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(0..=16384))]
    queue: u16,
    /// Tokens of keys and values that all answers together may hold (default: 2048 a row, as memory goes)
    #[arg(long, value_name = "N")]
    kv_tokens: Option<usize>,
    /// Memory for adapters in MB; those unused for the longest are read again when they are asked for
    #[arg(long, value_name = "MB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    adapter_memory: u32,
    /// Largest rank of an adapter
    #[arg(long, value_name = "R", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    max_rank: u16,
    /// Largest file of an adapter in MB
    #[arg(long, value_name = "MB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_adapter_size: u32,
    /// Seconds that answers may go on after SIGTERM
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    grace: u16,
    /// Longest answer in tokens where a request does not say
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
}

impl ServeArgs {
    /// What the server is started with over an open base.
    ///
    /// # Errors
    /// For a file of keys that cannot be read or holds none.
    pub(super) fn settings(&self, opened: &OpenedBase) -> Result<ServeSettings> {
        let rows = usize::from(self.rows);
        let tokens = self.kv_tokens.unwrap_or_else(|| Scheduler::tokens_for(&opened.model, rows, TOKENS_A_ROW));
        let mega = |mb: u32| u64::from(mb) << 20;
        Ok(ServeSettings {
            base_name: self.name.clone().unwrap_or_else(|| name_of(&opened.resolved)),
            adapters: self.adapters.clone(),
            listen: self.listen,
            keys: keys(self.key_file.as_deref(), "LORAKIT_KEY")?,
            admin_keys: keys(self.admin_key_file.as_deref(), "LORAKIT_ADMIN_KEY")?,
            hosts: self.hosts.clone(),
            origins: self.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            assistants: self.assistants.clone(),
            watch: self.watch.clone(),
            engine: EngineSettings { rows, tokens, queue: usize::from(self.queue) },
            adapter_budget: mega(self.adapter_memory),
            max_rank: usize::from(self.max_rank),
            max_adapter_bytes: mega(self.max_adapter_size),
            grace: Duration::from_secs(self.grace.into()),
            default_max_tokens: self.max_new_tokens as usize,
        })
    }
}

/// Keys of a file, or of a variable.
fn keys(file: Option<&Path>, variable: &str) -> Result<Vec<Key>> {
    match (file, std::env::var(variable)) {
        (Some(file), _) => Key::parse(&files::read_text(file)?, &file.display().to_string()),
        (None, Ok(text)) => Key::parse(&text, variable),
        (None, Err(_)) => Ok(Vec::new()),
    }
}

/// The last part of its id on the hub, or of its path.
fn name_of(resolved: &Resolved) -> String {
    let path = resolved.path.with_extension("");
    let last = path.file_name().map_or_else(|| "base".to_string(), |name| name.to_string_lossy().into_owned());
    resolved.id.as_deref().and_then(|id| id.rsplit('/').next()).map_or(last, str::to_string)
}
