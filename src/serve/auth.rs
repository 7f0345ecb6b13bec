//! Who may ask: keys, compared in constant time; exact lists of hosts and origins against pages of other sites.

use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::settings::Key;

/// What a route asks of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing.
    Open,
    /// A key, where there are any; an admin key is one.
    Inference,
    /// An admin key where there are any; else only where there are no keys at all, so on loopback alone.
    Admin,
}

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Class::Open => "open",
            Class::Inference => "inference key",
            Class::Admin => "admin key",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker {
    /// Empty where there are no keys.
    owner: String,
}

impl Asker {
    /// What its keys and values are shared under: only with the same owner, and the same salt.
    pub(super) fn salt(&self, own: Option<&str>) -> [u8; 32] {
        if self.owner.is_empty() && own.is_none() {
            return [0; 32];
        }
        // Tagged, so that no owner's name is another's salt.
        let mut hash = Sha256::new();
        hash.update(b"owner");
        hash.update((self.owner.len() as u64).to_le_bytes());
        hash.update(&self.owner);
        if let Some(own) = own {
            hash.update(b"salt");
            hash.update(own);
        }
        hash.finalize().into()
    }
}

/// Keys and lists of a server.
#[derive(Debug)]
pub(super) struct Guard {
    keys: Vec<Key>,
    admin_keys: Vec<Key>,
    hosts: Vec<String>,
    /// Of pages that may ask, the server's own among them, and of those to which an answer may be shown beside it.
    origins: Vec<String>,
    named: Vec<String>,
}

impl Guard {
    /// All in lower case, with ports where they have one; `named` are the origins that are not the server's own.
    pub(super) fn new(
        keys: Vec<Key>,
        admin_keys: Vec<Key>,
        hosts: Vec<String>,
        origins: Vec<String>,
        named: Vec<String>,
    ) -> Guard {
        Guard { keys, admin_keys, hosts, origins, named }
    }

    /// Lets a request pass, or says why not.
    ///
    /// # Errors
    /// 403 for a host or origin that is not on its list, 401 without a key that is known, 403 where it is of the other class.
    pub(super) fn pass(&self, class: Class, headers: &HeaderMap) -> Result<Asker, ApiError> {
        self.host(headers)?;
        self.origin(headers)?;
        if class == Class::Open {
            return Ok(Asker::default());
        }
        let given = bearer(headers);
        let (inference, admin) = (find(&self.keys, given), find(&self.admin_keys, given));
        let denied = |status, code, message: &str| Err(ApiError::new(status, code, message));
        let asker = |key: &Key| Asker { owner: key.owner.clone() };
        match (class, inference, admin) {
            (Class::Inference | Class::Admin, _, Some(key)) => Ok(Asker { owner: format!("admin {}", key.owner) }),
            (Class::Inference, Some(key), None) => Ok(asker(key)),
            (Class::Inference, None, None) if self.keys.is_empty() => Ok(Asker::default()),
            // Without admin keys, nobody who needs a key to ask may change anything.
            (Class::Admin, None, None) if self.keys.is_empty() && self.admin_keys.is_empty() => Ok(Asker::default()),
            (Class::Admin, Some(_), None) => {
                denied(StatusCode::FORBIDDEN, "admin_key_required", "this needs an admin key, and the one that was given is none")
            }
            _ if given.is_none() => denied(StatusCode::UNAUTHORIZED, "missing_api_key", "give a key: Authorization: Bearer KEY"),
            _ => denied(StatusCode::UNAUTHORIZED, "invalid_api_key", "the key is not known here"),
        }
    }

    fn host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut given = headers.get_all(header::HOST).iter();
        let host = given.next().and_then(|h| h.to_str().ok()).map(str::to_ascii_lowercase);
        match host {
            Some(host) if given.next().is_none() && self.hosts.contains(&host) => Ok(()),
            _ => {
                let message = "the request's Host is not one of this server's names; name further ones with --host";
                Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
            }
        }
    }

    fn origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return Ok(());
        }
        let message = "pages of this origin may not ask here; name further ones with --origin";
        Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message))
    }

    /// The origin that may read an answer, where the request came from one that was named.
    pub(super) fn named_origin(&self, headers: &HeaderMap) -> Option<String> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?.to_ascii_lowercase();
        self.named.contains(&origin).then_some(origin)
    }
}

/// Whether it is a browser's question before a request of another origin.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// The key that is the given one. Every key is compared, as hashes of one length, so that time tells nothing.
fn find<'k>(keys: &'k [Key], given: Option<&str>) -> Option<&'k Key> {
    let given = Sha256::digest(given?);
    let mut found = None;
    for key in keys {
        if bool::from(Sha256::digest(&key.secret).ct_eq(&given)) {
            found = Some(key);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn guard(keys: &[&str], admin: &[&str]) -> Guard {
        let key = |s: &&str| Key { owner: format!("owner of {s}"), secret: (*s).into() };
        let hosts = vec!["localhost:8000".to_string(), "127.0.0.1:8000".into()];
        Guard::new(
            keys.iter().map(key).collect(),
            admin.iter().map(key).collect(),
            hosts,
            ["http://localhost:8000", "http://127.0.0.1:8000", "https://app.example"].map(String::from).into(),
            vec!["https://app.example".into()],
        )
    }

    #[test]
    fn keys_open_their_own_class_alone() {
        let both = guard(&["inference-key"], &["admin-key"]);
        let status = |guard: &Guard, class, key: Option<&str>| {
            let mut given = vec![("host", "localhost:8000")];
            let value = key.map(|k| format!("Bearer {k}"));
            given.extend(value.as_deref().map(|v| ("authorization", v)));
            guard.pass(class, &headers(&given)).map_or_else(|e| e.status.as_u16(), |_| 200)
        };
        let cases = [
            (Class::Open, None, 200),
            (Class::Inference, None, 401),
            (Class::Inference, Some("wrong"), 401),
            (Class::Inference, Some("inference-key"), 200),
            (Class::Inference, Some("admin-key"), 200),
            (Class::Admin, None, 401),
            (Class::Admin, Some("wrong"), 401),
            (Class::Admin, Some("inference-key"), 403),
            (Class::Admin, Some("admin-key"), 200),
        ];
        for (class, key, expected) in cases {
            assert_eq!(status(&both, class, key), expected, "{class:?} {key:?}");
        }
        // Where asking needs a key, and there is no admin key, nobody changes anything.
        let half = guard(&["inference-key"], &[]);
        assert_eq!((status(&half, Class::Admin, None), status(&half, Class::Admin, Some("inference-key"))), (401, 403));
        let none = guard(&[], &[]);
        assert_eq!((status(&none, Class::Admin, None), status(&none, Class::Inference, Some("any"))), (200, 200));
        let admin = guard(&[], &["admin-key"]);
        assert_eq!((status(&admin, Class::Admin, None), status(&admin, Class::Inference, None)), (401, 200));
    }

    #[test]
    fn thirty_foreign_hosts_and_origins_are_refused() {
        let guard = guard(&[], &[]);
        let mut foreign: Vec<String> = (0..16).map(|i| format!("attacker{i}.example:8000")).collect();
        foreign.extend(
            [
                "",
                "localhost",
                "localhost:8001",
                "localhost.evil.example:8000",
                "127.0.0.1.nip.io:8000",
                "127.1:8000",
                "0.0.0.0:8000",
                "[::1]:80",
                "localhost:8000.evil.example",
                "localhost:8000@evil.example",
                "evil.example#localhost:8000",
                "2130706433:8000",
                "0x7f.1:8000",
                "localhost.:8000",
            ]
            .map(String::from),
        );
        assert!(foreign.len() >= 30);
        for host in &foreign {
            let refused = guard.pass(Class::Open, &headers(&[("host", host)])).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.code), (403, "host_not_allowed"), "{host}");
            let origin = format!("http://{host}");
            let refused = guard.pass(Class::Open, &headers(&[("host", "localhost:8000"), ("origin", &origin)])).unwrap_err();
            assert_eq!(refused.code, "origin_not_allowed", "{origin}");
        }
        assert!(guard.pass(Class::Open, &headers(&[])).is_err());
        assert!(guard.pass(Class::Open, &headers(&[("host", "localhost:8000"), ("host", "localhost:8000")])).is_err());
        assert!(guard.pass(Class::Open, &headers(&[("host", "LOCALHOST:8000"), ("origin", "null")])).is_err());
        for origin in ["http://localhost:8000", "https://app.example", "http://127.0.0.1:8000"] {
            guard.pass(Class::Open, &headers(&[("host", "LOCALHOST:8000"), ("origin", origin)])).unwrap();
        }
    }

    #[test]
    fn no_owner_has_the_salt_of_another() {
        let one = |owner: &str, salt: Option<&str>| Asker { owner: owner.into() }.salt(salt);
        let all = [
            one("", None),
            one("a", None),
            one("b", None),
            one("a", Some("b")),
            one("", Some("a")),
            one("ab", None),
            one("a", Some("")),
            one("asaltb", None),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[0], [0; 32]);
    }
}
