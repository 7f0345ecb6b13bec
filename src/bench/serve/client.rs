//! Requests over HTTP/1.1, each timed from the moment that it was meant to be sent.
//!
//! A connection whose answer was read to its end serves the next request; there is one connection for each request under way.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::event_stream::EventStream;
use super::exchange::{Failure, Kind, Outcome};
use super::prompts::{Place, Prompts};
use super::target::Target;
use super::transcript::Transcript;

/// For opening a connection, and for what belongs to an error.
const CONNECT: Duration = Duration::from_secs(10);
/// For the next bytes of an answer, the first ones too: a queue before an overloaded server is long.
const SILENCE: Duration = Duration::from_secs(300);
/// For the rest of a body whose content is known.
const REST: Duration = Duration::from_millis(500);
/// Longest answer of an error that is read, in bytes.
const LARGEST_ERROR: usize = 64 << 10;
/// Characters of a server's message that are shown.
const SHOWN: usize = 300;

type Sender = SendRequest<Full<Bytes>>;

/// A server that is asked, and the connections to it that are idle.
pub(super) struct Client {
    target: Target,
    prompts: Prompts,
    seed: u64,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(super) fn new(target: Target, prompts: Prompts, seed: u64) -> Client {
        Client { target, prompts, seed, idle: Mutex::new(Vec::new()) }
    }

    /// Place of the model that answers a request.
    pub(super) fn model(&self, place: Place) -> usize {
        place.index % self.target.models.len()
    }

    /// What the server is told to answer.
    fn body(&self, place: Place) -> String {
        let Target { api, models, max_tokens, ignore_eos, .. } = &self.target;
        let (key, prompt) = self.prompts.member(*api, self.seed, place, models.len());
        let mut body = json!({
            "model": models[self.model(place)], "max_tokens": max_tokens, "temperature": 0,
            "stream": true, "stream_options": {"include_usage": true},
        });
        body[key] = prompt;
        if *ignore_eos {
            body["ignore_eos"] = Value::Bool(true);
        }
        body.to_string()
    }

    /// Sends a request now and reads the answer; times count from `intended`.
    pub(super) async fn exchange(&self, place: Place, intended: Instant) -> Outcome {
        match self.attempt(self.body(place), intended).await {
            Ok(outcome) => outcome,
            Err(Failure { kind, why }) => Outcome::Failed(kind.because(self.excerpt(&why))),
        }
    }

    async fn attempt(&self, body: String, intended: Instant) -> Result<Outcome, Failure> {
        let (sender, response) = self.send(body.into()).await?;
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        if status != 200 {
            let refused = intended.elapsed().as_secs_f64();
            let (text, whole) = beginning(body).await;
            if whole {
                self.give_back(sender).await;
            }
            return if status == 429 { Ok(Outcome::Refused(refused)) } else { Err(Kind::Status(status).because(message(&text))) };
        }
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("text/event-stream") {
            return Err(Kind::Malformed.because(format!("the content is of type {kind:?}, not text/event-stream")));
        }
        let mut body = body;
        let answer = read(&mut body, Transcript::new(intended)).await?.answer()?;
        if timeout(REST, body.collect()).await.is_ok_and(|rest| rest.is_ok()) {
            self.give_back(sender).await;
        }
        Ok(Outcome::Answered(answer))
    }

    /// Over an idle connection, or a new one. A server may close a connection while it is idle, which shows only when it is
    /// used: then a new one is opened.
    async fn send(&self, body: Bytes) -> Result<(Sender, Response<Incoming>), Failure> {
        if let Some(mut sender) = self.take()
            && let Ok(response) = within(SILENCE, sender.send_request(self.request(body.clone())?)).await?
        {
            return Ok((sender, response));
        }
        let mut sender = self.connect().await?;
        match within(SILENCE, sender.send_request(self.request(body)?)).await? {
            Ok(response) => Ok((sender, response)),
            Err(e) => Err(Kind::Lost.because(e.to_string())),
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let lost = |e: &dyn std::fmt::Display| Kind::Connect.because(format!("{}: {e}", self.target.address.socket));
        let stream = within(CONNECT, TcpStream::connect(&self.target.address.socket)).await?.map_err(|e| lost(&e))?;
        stream.set_nodelay(true).map_err(|e| lost(&e))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        // What goes wrong with the connection, its request is told.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let address = &self.target.address;
        let mut request = Request::post(&address.path)
            .header(header::HOST, &address.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .header(header::USER_AGENT, concat!("lorakit/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = &self.target.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request.body(Full::new(body)).map_err(|e| Kind::Connect.because(e.to_string()))
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(Sender::is_ready);
        idle.pop()
    }

    async fn give_back(&self, mut sender: Sender) {
        if timeout(REST, sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
    }

    /// The beginning of a message on one line, without the key.
    fn excerpt(&self, text: &str) -> String {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = self.target.key.as_ref().map_or(line.clone(), |key| line.replace(key.as_str(), "[key]"));
        line.chars().take(SHOWN).collect()
    }
}

async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Failure> {
    let late = |_| Kind::Timeout.because(format!("nothing came for {} s", limit.as_secs()));
    timeout(limit, future).await.map_err(late)
}

/// Reads events until the last one.
async fn read(body: &mut Incoming, mut transcript: Transcript) -> Result<Transcript, Failure> {
    let mut stream = EventStream::default();
    while !transcript.is_done() {
        let Some(frame) = within(SILENCE, body.frame()).await? else { break };
        let now = Instant::now();
        let frame = frame.map_err(|e| Kind::Lost.because(e.to_string()))?;
        let Ok(bytes) = frame.into_data() else { continue };
        for data in stream.feed(&bytes).map_err(|_| Kind::Malformed.because("an event is longer than 16 MiB"))? {
            transcript.take(&data, now)?;
        }
    }
    Ok(transcript)
}

/// The beginning of a body, and whether that is all of it.
async fn beginning(mut body: Incoming) -> (String, bool) {
    let mut bytes = Vec::new();
    let mut whole = false;
    while let Ok(next) = timeout(CONNECT, body.frame()).await {
        match next {
            None => whole = true,
            Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break,
        }
        if whole || bytes.len() > LARGEST_ERROR {
            break;
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned(), whole)
}

/// What a server says of an error, in whichever of the usual places.
fn message(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let said = [&value["error"]["message"], &value["message"], &value["detail"], &value["error"]];
    said.into_iter().find_map(Value::as_str).map_or_else(|| text.to_string(), String::from)
}
