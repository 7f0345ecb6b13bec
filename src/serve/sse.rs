//! Events that a server sends (WHATWG HTML, "Server-sent events"), from a task that ends as soon as nobody reads.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use hyper::body::{Bytes, Frame};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::error::ApiError;

/// Events that wait for a slow reader, before the task waits too.
const WAITING: usize = 64;

/// Where a task puts its events.
pub(super) struct Events {
    to: Sender<Bytes>,
}

/// Nobody reads any more.
#[derive(Debug)]
pub(super) struct Gone;

impl Events {
    /// # Errors
    /// [`Gone`].
    pub(super) async fn data(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// With a name, as the API of responses has it.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn named(&self, name: &str, value: &Value) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// The last event of OpenAI's streams.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".into()).await
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.to.send(Bytes::from(text)).await.map_err(|_| Gone)
    }
}

/// The body of a stream.
struct Reader(Receiver<Bytes>);

impl hyper::body::Body for Reader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Answers with the events of `task`. An error of it is the last event but the closing one. The task is dropped where it stands
/// as soon as nobody reads.
pub(super) fn stream<F>(task: impl FnOnce(Events) -> F + Send + 'static) -> Response<Body>
where
    F: Future<Output = Result<Result<(), ApiError>, Gone>> + Send + 'static,
{
    let (to, reader) = channel(WAITING);
    tokio::spawn(async move {
        let gone = to.clone();
        let work = async {
            if let Err(error) = task(Events { to: to.clone() }).await? {
                let events = Events { to };
                events.data(&error.body()).await?;
                events.done().await?;
            }
            Ok::<_, Gone>(())
        };
        tokio::select! {
            _ = work => {}
            () = gone.closed() => {}
        }
    });
    let mut response = Response::new(Body::new(Reader(reader)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
