//! Where a server is, and how it is asked.

use hyper::Uri;
use serde::Serialize;

use crate::error::{Error, Result};

/// Which of OpenAI's endpoints is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

/// A server and what every request says.
#[derive(Clone)]
pub struct Target {
    pub(super) address: Address,
    pub api: Api,
    /// Names of models or adapters, at least one; requests are spread over them in turn.
    pub models: Vec<String>,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Answers go on to their longest (`ignore_eos`, which vLLM and llama.cpp know).
    pub ignore_eos: bool,
    /// Stands in the header of a request and nowhere else.
    pub(super) key: Option<String>,
}

/// An address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// As it is shown.
    pub(super) url: String,
    /// Host and port as a socket is opened to them.
    pub(super) socket: String,
    /// The `Host` header.
    pub(super) authority: String,
    /// Path of the endpoint.
    pub(super) path: String,
}

impl Target {
    /// `url`: `http://HOST[:PORT]`, with or without `/v1`. Answers end by themselves, at the latest after `max_tokens`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that is none, no model, and a key that cannot stand in a header.
    pub fn new(url: &str, api: Api, models: Vec<String>, max_tokens: usize, key: Option<String>) -> Result<Target> {
        if models.is_empty() {
            return Err(Error::usage("--model", "none is named", "give the name that the server has for a model or an adapter"));
        }
        if key.as_ref().is_some_and(|key| key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic())) {
            return Err(Error::usage("the key", "it is empty, or has spaces or other odd characters", "set the variable again"));
        }
        Ok(Target { address: Address::of(url, api)?, api, models, max_tokens, ignore_eos: false, key })
    }

    /// The address that requests go to.
    pub fn url(&self) -> &str {
        &self.address.url
    }
}

impl Address {
    fn of(url: &str, api: Api) -> Result<Address> {
        // What may hold a password is not repeated.
        let fail = |why: &str| {
            let help = "write it as http://HOST:PORT; a key belongs into a variable, see --key-env";
            Err(Error::usage("--url", why, help))
        };
        if !url.starts_with("http://") {
            return fail("the address does not begin with http://");
        }
        let Ok(uri) = url.parse::<Uri>() else { return fail("it is no address") };
        let Some(authority) = uri.authority() else { return fail("the address names no host") };
        if url.contains(['@', '#']) || uri.query().is_some() {
            return fail("the address may hold no name, password or parameters");
        }
        if authority.host().is_empty() || (authority.as_str() != authority.host() && authority.port_u16().is_none()) {
            return fail("the address names no host, or a port that is none");
        }
        let base = uri.path().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let path = format!("{base}/v1/{}", if api == Api::Chat { "chat/completions" } else { "completions" });
        let socket = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Address { url: format!("http://{authority}{path}"), socket, authority: authority.to_string(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, socket, path) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000", "/v1/completions"),
            ("http://localhost/v1/", "localhost:80", "/v1/completions"),
            ("http://[::1]:80/a/", "[::1]:80", "/a/v1/completions"),
        ] {
            let address = Address::of(url, Api::Completions).unwrap();
            assert_eq!((&*address.socket, &*address.path), (socket, path));
        }
        assert_eq!(Address::of("http://a:1", Api::Chat).unwrap().url, "http://a:1/v1/chat/completions");
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_repeated() {
        for url in [
            "https://a",
            "a:80",
            "http://",
            "http:///v1",
            "http://me:secret@a",
            "http://a?key=secret",
            "http://a b",
            "http://a:99999",
        ] {
            let error = Address::of(url, Api::Chat).unwrap_err().to_string();
            assert!(error.starts_with("--url: ") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_must_fit_into_a_header() {
        let with = |key: &str| Target::new("http://a", Api::Chat, vec!["m".into()], 1, Some(key.into())).is_ok();
        assert!(with("abc") && !with("") && !with("a b") && !with("a\n"));
        assert!(Target::new("http://a", Api::Chat, Vec::new(), 1, None).is_err());
    }
}
