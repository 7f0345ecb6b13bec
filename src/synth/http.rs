//! The generator behind an address: any server that speaks OpenAI's `/v1/chat/completions` or `/v1/completions`.
//!
//! What passes by itself (429, 5xx, a lost connection, a reply that is not JSON) is tried again with longer and longer waits;
//! everything else is one error. The key stands in the header of a request and nowhere else.
//! Refuses to know what is asked, and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::generator::{Generator, GoOn, Identity, PromptStyle, Reply, until_stop};
use super::prompts::Request;
use crate::error::{Error, Result};

/// Larger replies are refused.
const LARGEST: u64 = 16 << 20;
/// Characters of a server's message that are shown.
const SHOWN: usize = 300;
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// How often a wait looks whether it shall end.
const GLANCE: Duration = Duration::from_millis(50);

/// How a server is asked.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// With `/v1`, e.g. `http://127.0.0.1:8080/v1`.
    pub url: String,
    pub model: String,
    pub key: Option<String>,
    pub style: PromptStyle,
    /// For one attempt, from connecting to the last byte.
    pub timeout: Duration,
    /// Attempts for one request.
    pub attempts: usize,
    /// Before the second attempt; doubled before each further one.
    pub wait: Duration,
    /// Requests at once.
    pub parallel: usize,
}

/// A server, ready to be asked.
pub struct Http {
    line: Arc<Connection>,
    parallel: usize,
    identity: Identity,
}

/// What the threads share.
struct Connection {
    agent: ureq::Agent,
    url: String,
    endpoint: Endpoint,
    /// The server has answered, so that what fails now may pass.
    reached: AtomicBool,
}

/// One batch under way.
struct BatchInFlight {
    bodies: Vec<String>,
    next: AtomicUsize,
    ended: AtomicBool,
}

/// Why an attempt failed.
enum Failure {
    Passes { why: String, wait: Option<Duration> },
    Stays(Error),
}

impl Http {
    /// # Errors
    /// [`Error::Usage`] for an address that is none or holds a password, and a key that cannot stand in a header.
    pub fn new(endpoint: Endpoint) -> Result<Http> {
        let base = checked(&endpoint.url)?;
        if endpoint.key.as_ref().is_some_and(|key| key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic())) {
            return Err(Error::usage("the key", "it is empty, or has spaces or other odd characters", "set the variable again"));
        }
        let path = if endpoint.style == PromptStyle::Chat { "chat/completions" } else { "completions" };
        let url = format!("{base}/{path}");
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(endpoint.timeout))
            .max_redirects(0)
            .user_agent(concat!("lorakit/", env!("CARGO_PKG_VERSION")));
        let identity = Identity {
            model: endpoint.model.clone(),
            base_sha256: None,
            adapter_sha256: None,
            url: Some(url.clone()),
            style: endpoint.style,
        };
        let parallel = endpoint.parallel.max(1);
        let line = Connection { agent: config.build().into(), url, endpoint, reached: AtomicBool::new(false) };
        Ok(Http { line: Arc::new(line), parallel, identity })
    }
}

/// The address without a slash at its end.
fn checked(url: &str) -> Result<&str> {
    let fail = |why: &str| {
        // What may hold a password is not repeated.
        Err(Error::usage("--endpoint", why, "write it as http://HOST:PORT/v1 or https://HOST/v1; a key belongs into a variable"))
    };
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        None => fail("the address begins neither with http:// nor with https://"),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => fail("the address names no host"),
        Some(rest) if rest.contains(['@', '?', '#']) => fail("the address may hold no name, password or parameters"),
        Some(rest) if rest.contains(char::is_whitespace) => fail("the address has a space in it"),
        Some(_) => Ok(url.trim_end_matches('/')),
    }
}

impl Generator for Http {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn in_company(&self) -> bool {
        false
    }

    fn answer(&mut self, requests: &[Request], go_on: GoOn, answered: &mut dyn FnMut(usize, Reply) -> Result<()>) -> Result<()> {
        let bodies = requests.iter().map(|r| self.line.body(r)).collect();
        let work = Arc::new(BatchInFlight { bodies, next: AtomicUsize::new(0), ended: AtomicBool::new(false) });
        let (send, receive) = mpsc::channel();
        // The threads are not waited for: one that waits for a server must not hold up the end.
        for _ in 0..self.parallel.min(requests.len()) {
            let (line, work, send) = (self.line.clone(), work.clone(), send.clone());
            std::thread::spawn(move || line.serve(&work, &send));
        }
        drop(send);
        let outcome = collect(requests, &receive, go_on, answered);
        work.ended.store(true, Ordering::SeqCst);
        outcome
    }
}

fn collect(
    requests: &[Request],
    receive: &mpsc::Receiver<(usize, Result<Reply>)>,
    go_on: GoOn,
    answered: &mut dyn FnMut(usize, Reply) -> Result<()>,
) -> Result<()> {
    let mut open = requests.len();
    while open > 0 {
        go_on()?;
        match receive.recv_timeout(GLANCE) {
            Ok((i, reply)) => {
                let reply = reply?;
                let (text, stop) = until_stop(&reply.text, &stops(&requests[i]));
                answered(i, Reply { text: text.to_string(), whole: stop || reply.whole })?;
                open -= 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(fetch("the generator", "a thread that asked it ended early", "run again: what was answered is kept"));
            }
        }
    }
    Ok(())
}

/// The stops that a message's answer may have: a chat model sets its items apart by empty lines.
fn stops(request: &Request) -> Vec<String> {
    request.stop.iter().filter(|stop| *stop != "\n\n").cloned().collect()
}

fn fetch(what: &str, why: impl Into<String>, help: &str) -> Error {
    Error::Fetch { what: what.into(), why: why.into(), help: help.into() }
}

impl Connection {
    fn body(&self, request: &Request) -> String {
        let (endpoint, choice) = (&self.endpoint, request.choice);
        let mut body = json!({
            "model": endpoint.model, "max_tokens": choice.max_new_tokens, "temperature": choice.temperature,
            "top_p": choice.top_p, "seed": request.seed >> 33,
        });
        match endpoint.style {
            PromptStyle::Chat => body["messages"] = json!([{"role": "user", "content": request.message()}]),
            PromptStyle::Completion => body["prompt"] = json!(request.text()),
        }
        let stops = stops(request);
        if !stops.is_empty() {
            body["stop"] = json!(stops);
        }
        body.to_string()
    }

    /// Works on what is open until nothing is, or nobody listens any more.
    fn serve(&self, work: &BatchInFlight, send: &mpsc::Sender<(usize, Result<Reply>)>) {
        while !work.ended.load(Ordering::SeqCst) {
            let i = work.next.fetch_add(1, Ordering::SeqCst);
            let Some(body) = work.bodies.get(i) else { return };
            let Some(reply) = self.persist(body, &work.ended) else { return };
            // Here and not only where it is heard: until then this thread would ask what nobody waits for.
            if reply.is_err() {
                work.ended.store(true, Ordering::SeqCst);
            }
            if send.send((i, reply)).is_err() {
                return;
            }
        }
    }

    /// The answer, after as many attempts as it may take; `None` when it is not wanted any more.
    fn persist(&self, body: &str, ended: &AtomicBool) -> Option<Result<Reply>> {
        let mut wait = self.endpoint.wait;
        for attempt in 1.. {
            let (why, asked) = match self.attempt(body) {
                Ok(reply) => return Some(Ok(reply)),
                Err(Failure::Stays(error)) => return Some(Err(error)),
                Err(Failure::Passes { why, wait }) => (why, wait),
            };
            if attempt >= self.endpoint.attempts {
                let why = format!("{why} ({attempt} attempts)");
                return Some(Err(fetch(&self.url, why, "what was answered is kept: run the same command again to go on")));
            }
            let until = std::time::Instant::now() + asked.unwrap_or(wait).min(LONGEST);
            while std::time::Instant::now() < until {
                if ended.load(Ordering::SeqCst) {
                    return None;
                }
                std::thread::sleep(GLANCE.min(until.saturating_duration_since(std::time::Instant::now())));
            }
            wait = (wait * 2).min(LONGEST);
        }
        None
    }

    fn attempt(&self, body: &str) -> std::result::Result<Reply, Failure> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.endpoint.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| self.lost(&error))?;
        let status = response.status().as_u16();
        let wait =
            response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
        let text = response.body_mut().with_config().limit(LARGEST).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.lost(&error))?;
        if status == 200 {
            self.reached.store(true, Ordering::SeqCst);
            return self.reply(&text).ok_or_else(|| Failure::Passes {
                why: format!("its reply is not that of a completion: {}", self.excerpt(&text)),
                wait,
            });
        }
        let why = format!("the server says {status}: {}", self.excerpt(&text));
        if status == 429 || status == 408 || status >= 500 {
            return Err(Failure::Passes { why, wait });
        }
        let help = match status {
            401 | 403 => "name the variable that holds your key with --key-env",
            404 => "check --endpoint (it usually ends in /v1) and --model; --style chat or completion",
            _ => "check --endpoint, --model and the settings of sampling",
        };
        Err(Failure::Stays(fetch(&self.url, why, help)))
    }

    fn lost(&self, error: &ureq::Error) -> Failure {
        use ureq::Error::*;
        let why = self.hidden(&error.to_string());
        let passes = matches!(error, Io(_) | Timeout(_) | ConnectionFailed | Protocol(_) | HostNotFound | BodyStalled);
        // What never was there is likelier a wrong address than a server that sleeps.
        let wrong = matches!(error, ConnectionFailed | HostNotFound)
            || matches!(error, Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused);
        if passes && (!wrong || self.reached.load(Ordering::SeqCst)) {
            return Failure::Passes { why, wait: None };
        }
        Failure::Stays(fetch(&self.url, why, "check the address, and that the server runs"))
    }

    /// `None` when it is none.
    fn reply(&self, text: &str) -> Option<Reply> {
        let value: Value = serde_json::from_str(text).ok()?;
        let choice = value.get("choices")?.get(0)?;
        let content = match self.endpoint.style {
            PromptStyle::Chat => choice.get("message")?.get("content")?,
            PromptStyle::Completion => choice.get("text")?,
        };
        // A refusal may come as null.
        let text = content.as_str().or(content.is_null().then_some(""))?.to_string();
        Some(Reply { text, whole: choice.get("finish_reason").and_then(Value::as_str) != Some("length") })
    }

    /// The beginning of what a server said.
    fn excerpt(&self, text: &str) -> String {
        let text = self.hidden(&super::prompts::one_line(text));
        if text.is_empty() { "nothing".into() } else { text.chars().take(SHOWN).collect() }
    }

    fn hidden(&self, text: &str) -> String {
        self.endpoint.key.as_ref().map_or_else(|| text.to_string(), |key| text.replace(key.as_str(), "[key]"))
    }
}
