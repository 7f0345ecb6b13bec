//! The accept loop: bounded connections, a limit on the time that a head may take, and an end within the grace time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::app::App;
use super::auth::Guard;
use super::events::{ServeEvent, Tell};
use super::settings::ServeSettings;
use super::signals::{Signal, Signals};
use super::stalling::Stalling;
use super::{openapi, router, watch as watching};
use crate::error::{Error, Result};
use crate::job::OpenedBase;

/// Threads for what takes its time beside the model: texts into tokens, adapters, constraints.
const BLOCKING: usize = 8;
/// Connections at once.
const CONNECTIONS: usize = 2048;
/// How long the head of a request may take, and how long a connection may do nothing.
const HEAD_TIME: Duration = Duration::from_secs(8);
/// How long a peer may take nothing of what is sent to it.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Largest head in bytes, and most of its lines.
const HEAD_BYTES: usize = 32 << 10;
const HEAD_LINES: usize = 64;
/// Of the grace time, kept for closing events to be sent.
const LAST: Duration = Duration::from_millis(500);

/// Serves until the process is asked to end (SIGTERM, SIGINT), and then until what was begun is answered, or the grace time is over.
///
/// # Errors
/// Whatever is wrong with the settings, and when the address cannot be listened at.
pub fn serve(opened: OpenedBase, settings: ServeSettings, tell: Tell) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .thread_name("http")
        .build();
    let runtime = runtime.map_err(|e| Error::usage("the server's threads", e.to_string(), "free some memory or processes"))?;
    let outcome = runtime.block_on(run(opened, settings, tell));
    // Work that nobody waits for any more is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn run(opened: OpenedBase, settings: ServeSettings, tell: Tell) -> Result<()> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.map_err(|e| {
        Error::usage(format!("--listen {}", settings.listen), e.to_string(), "choose another address or port, e.g. 127.0.0.1:0")
    })?;
    let address = listener.local_addr().map_err(|e| Error::usage("--listen", e.to_string(), "choose another address"))?;
    let app = Arc::new(App::start(opened, settings)?);
    for (name, why) in &app.registry.broken {
        tell(ServeEvent::Broken(name.clone(), why.clone()));
    }
    let settings = &app.settings;
    let hosts = settings.allowed_hosts(address.port());
    let origins = settings.allowed_origins(address.port());
    let named = settings.origins.clone();
    let guard = Guard::new(settings.keys.clone(), settings.admin_keys.clone(), hosts, origins, named);
    app.document.get_or_init(openapi::document);
    let router = router::router(&app, guard);
    let assistants = settings.assistants.as_deref();
    let _assistants = assistants.map(|path| watching::assistants(&app, path, tell.clone())).transpose()?;
    let _runs = settings.watch.as_deref().map(|dir| watching::runs(&app, dir, tell.clone())).transpose()?;
    let (ending, ends) = watch::channel(false);
    tell(ServeEvent::Listening(address));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        tokio::select! {
            accepted = accept(&listener, &connections) => {
                let (stream, permit) = accepted;
                let (router, ends) = (router.clone(), ends.clone());
                tokio::spawn(async move {
                    connection(stream, router, ends).await;
                    drop(permit);
                });
            }
            signal = signals.next() => match signal {
                Signal::Reload => watching::reload_assistants(&app, &tell),
                Signal::End => break,
            },
        }
    }
    drop(listener);
    drain(&app, &ending, &connections, &tell).await;
    Ok(())
}

async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // Never closed, so there always is a permit in the end.
    let permit = connections.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            // Too many files are open, or the peer is gone already: the next one may do better.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, mut ends: watch::Receiver<bool>) {
    // Tokens are small: each is sent at once.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES);
    let stream = TokioIo::new(Stalling::new(stream, WRITE_TIME));
    let connection = builder.serve_connection(stream, TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // How a peer goes away is its own affair.
        _ = connection.as_mut() => return,
        _ = ends.wait_for(|ends| *ends) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Takes no more requests, lets those that were taken be answered, and cuts what is not by the end of the grace time.
async fn drain(app: &App, ending: &watch::Sender<bool>, connections: &Semaphore, tell: &Tell) {
    app.engine.end();
    tell(ServeEvent::Ending(app.engine.taken()));
    ending.send_replace(true);
    let idle = async {
        while connections.available_permits() < CONNECTIONS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::pin!(idle);
    if tokio::time::timeout(app.settings.grace.saturating_sub(LAST), idle.as_mut()).await.is_err() {
        tell(ServeEvent::Cut(app.engine.taken()));
        app.closing.send_replace(true);
        let _ = tokio::time::timeout(LAST, idle).await;
    }
}
