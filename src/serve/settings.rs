//! What a server is started with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::generate::EngineSettings;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// What the base is called in `model`.
    pub base_name: String,
    /// The folder whose folders are adapters; without it none can be loaded.
    pub adapters: Option<PathBuf>,
    pub listen: SocketAddr,
    /// Of those who may ask; each has an owner's name.
    pub keys: Vec<Key>,
    /// Of those who may change adapters.
    pub admin_keys: Vec<Key>,
    /// Further names under which the server may be asked (`Host`), and further origins of pages that may ask it.
    pub hosts: Vec<String>,
    pub origins: Vec<String>,
    /// A file of assistants, or a folder of such.
    pub assistants: Option<PathBuf>,
    /// A folder of runs whose adapters are published when they are complete.
    pub watch: Option<PathBuf>,
    pub engine: EngineSettings,
    /// Bytes of adapters in memory.
    pub adapter_budget: u64,
    /// Largest rank of an adapter, and largest file of its tensors in bytes.
    pub max_rank: usize,
    pub max_adapter_bytes: u64,
    /// How long answers may go on after the server was asked to end.
    pub grace: Duration,
    /// Longest answer where a request does not say.
    pub default_max_tokens: usize,
}

/// A key and whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub owner: String,
    pub secret: String,
}

impl std::fmt::Debug for Key {
    /// The secret is never shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Key {
    /// Keys of a file's text: one a line, `SECRET` or `OWNER:SECRET`; empty lines and those that begin with # are passed over.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the line of a key that is too short, or has signs that no header can carry.
    pub fn parse(text: &str, origin: &str) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for (i, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (owner, secret) = line.split_once(':').map_or((format!("key {i}"), line), |(o, s)| (o.trim().into(), s.trim()));
            if secret.len() < 16 || !secret.chars().all(|c| c.is_ascii_graphic()) {
                let help = "make one with: openssl rand -hex 32";
                return Err(Error::usage(format!("{origin} line {i}"), "a key has at least 16 visible ASCII signs", help));
            }
            keys.push(Key { owner, secret: secret.into() });
        }
        match keys.is_empty() {
            true => Err(Error::usage(origin, "it holds no key", "put one into it, a line each")),
            false => Ok(keys),
        }
    }
}

impl ServeSettings {
    /// # Errors
    /// [`Error::Usage`] for an address that others reach without a key for each of the two classes, for one secret in both, and for sizes of nothing.
    pub fn check(&self) -> Result<()> {
        let loopback = self.listen.ip().is_loopback();
        if !loopback && (self.keys.is_empty() || (self.adapters.is_some() && self.admin_keys.is_empty())) {
            let why = format!("{} is reached from other machines, and there is no key", self.listen.ip());
            let help = "give --key-file, and --admin-key-file where --adapters is given, or listen on 127.0.0.1";
            return Err(Error::usage("--listen", why, help));
        }
        if let Some(key) = self.keys.iter().find(|key| self.admin_keys.iter().any(|admin| admin.secret == key.secret)) {
            let why = format!("the key of `{}` is an admin key too", key.owner);
            return Err(Error::usage("--admin-key-file", why, "give each class keys of its own"));
        }
        let nothing =
            [("--rows", self.engine.rows), ("--kv-tokens", self.engine.tokens), ("--max-new-tokens", self.default_max_tokens)];
        match nothing.iter().find(|(_, n)| *n == 0) {
            Some((flag, _)) => Err(Error::usage(*flag, "0 is not possible", "give at least 1")),
            None => Ok(()),
        }
    }

    /// Hosts that requests may name: how this address is spelled, and those that were given.
    pub(super) fn allowed_hosts(&self, port: u16) -> Vec<String> {
        let mut names: Vec<String> = self.own_names().into_iter().flat_map(|name| [format!("{name}:{port}"), name]).collect();
        names.extend(self.hosts.iter().map(|host| host.to_ascii_lowercase()));
        names
    }

    /// Origins of pages that may ask: the server's own page at this port and under the names that were given, and those that were given. A
    /// page of another port of this machine is another's.
    pub(super) fn allowed_origins(&self, port: u16) -> Vec<String> {
        let own = |name: &String| match port {
            80 => format!("http://{name}"),
            _ => format!("http://{name}:{port}"),
        };
        let mut origins: Vec<String> = self.own_names().iter().map(own).collect();
        let given = self.hosts.iter().map(|host| host.to_ascii_lowercase());
        origins.extend(given.flat_map(|host| [format!("http://{host}"), format!("https://{host}")]));
        origins.extend(self.origins.iter().cloned());
        origins
    }

    fn own_names(&self) -> Vec<String> {
        match self.listen.ip() {
            ip if ip.is_loopback() => vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()],
            IpAddr::V4(ip) if !ip.is_unspecified() => vec![ip.to_string()],
            IpAddr::V6(ip) if !ip.is_unspecified() => vec![format!("[{ip}]")],
            _ => vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()],
        }
    }
}
