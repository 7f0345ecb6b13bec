//! Runs against a small server that streams a known number of tokens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::result::Result;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// A body whose parts come as they are sent.
struct Parts(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Tokens of every answer.
const TOKENS: usize = 5;
/// Tokens of every prompt, as the server says.
const PROMPT: usize = 11;

/// What the server does, and what it saw.
#[derive(Default)]
struct Served {
    requests: AtomicUsize,
    connections: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    by_model: Mutex<BTreeMap<String, usize>>,
    bodies: Mutex<Vec<Value>>,
    keys: Mutex<Vec<String>>,
    /// Every so many requests one is refused; 0: none.
    refuse_every: usize,
    /// Every so many requests one ends in the middle; 0: none.
    break_every: usize,
    without_usage: bool,
    /// Nothing comes after the first token until the test ends.
    hang: bool,
    closes: bool,
}

/// A server on a port of its own, on a thread that ends with the process.
fn serve(served: Served) -> (String, Arc<Served>) {
    let served = Arc::new(served);
    let (send, receive) = std::sync::mpsc::channel();
    let shared = served.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, closes) = (shared.clone(), shared.closes);
                let service = service_fn(move |request| answer(shared.clone(), request));
                tokio::spawn(async move {
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.keep_alive(!closes).serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
    });
    (format!("http://{}", receive.recv().unwrap()), served)
}

async fn answer(served: Arc<Served>, request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Parts>>, Infallible> {
    let number = served.requests.fetch_add(1, Ordering::SeqCst) + 1;
    let key = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_string());
    served.keys.lock().unwrap().extend(key);
    let chat = request.uri().path() == "/v1/chat/completions";
    let body: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let model = body["model"].as_str().unwrap().to_string();
    served.bodies.lock().unwrap().push(body);
    let whole = |status, text: &str| {
        let body = Either::Left(Full::new(Bytes::from(text.to_string())));
        Ok(Response::builder().status(status).body(body).unwrap())
    };
    if model == "unknown" {
        return whole(StatusCode::NOT_FOUND, r#"{"error": {"message": "there is no model unknown"}}"#);
    }
    let every = |n: usize| n > 0 && number.is_multiple_of(n);
    if every(served.refuse_every) {
        return whole(StatusCode::TOO_MANY_REQUESTS, "{}");
    }
    *served.by_model.lock().unwrap().entry(model).or_default() += 1;
    let breaks = every(served.break_every);
    let under_way = served.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    served.most_under_way.fetch_max(under_way, Ordering::SeqCst);
    let (sender, parts) = mpsc::channel(4);
    tokio::spawn(async move {
        stream(&served, sender, chat, breaks).await;
        served.under_way.fetch_sub(1, Ordering::SeqCst);
    });
    Ok(Response::builder().header("content-type", "text/event-stream").body(Either::Right(Parts(parts))).unwrap())
}

/// Writes the events of an answer, cut in the middle of one.
async fn stream(served: &Served, sender: mpsc::Sender<Bytes>, chat: bool, breaks: bool) {
    let event = |value: Value| format!("data: {value}\r\n\r\n");
    for i in 0..TOKENS {
        let reason = if i + 1 == TOKENS { json!("length") } else { Value::Null };
        let choice = match chat {
            true => json!({"delta": {"content": "é"}, "finish_reason": reason}),
            false => json!({"text": "é", "finish_reason": reason}),
        };
        let bytes = event(json!({"choices": [choice]})).into_bytes();
        let (a, b) = bytes.split_at(bytes.len() / 2);
        for part in [a, b] {
            if sender.send(Bytes::copy_from_slice(part)).await.is_err() {
                return;
            }
        }
        if served.hang {
            std::future::pending::<()>().await;
        }
        if breaks {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let usage = json!({"prompt_tokens": PROMPT, "completion_tokens": TOKENS, "total_tokens": PROMPT + TOKENS});
    let usage = if served.without_usage { String::new() } else { event(json!({"choices": [], "usage": usage})) };
    drop(sender.send(Bytes::from(format!("{usage}: the end\n\ndata: [DONE]\n\n"))).await);
}

fn load(url: &str, models: &[&str], loads: &[Load], requests: usize) -> LoadRun {
    let models = models.iter().map(ToString::to_string).collect();
    let target = Target::new(url, Api::Completions, models, 7, Some("secret".into())).unwrap();
    let until = Until { requests: Some(requests), seconds: None };
    LoadRun { target, prompts: Prompts::MadeUp { words: 4 }, loads: loads.to_vec(), until, warmup: 0, seed: 3 }
}

fn measured(load: &LoadRun) -> LoadReport {
    run(load, &|| false, &mut |_| {}).unwrap()
}

#[test]
fn a_closed_loop_keeps_so_many_under_way_and_spreads_the_models() {
    let (url, served) = serve(Served { refuse_every: 6, ..Served::default() });
    let mut load = load(&url, &["a", "b"], &[Load::Closed { concurrency: 1 }, Load::Closed { concurrency: 3 }], 12);
    load.warmup = 5;
    let mut told = Vec::new();
    let report = run(&load, &|| false, &mut |p| told.push(p)).unwrap();
    // Of 29 requests the 6th, 12th, 18th and 24th are refused; 5 are warm-up.
    assert_eq!(served.requests.load(Ordering::SeqCst), 29);
    let counts: Vec<_> = report.points.iter().map(|p| (p.all.answered, p.all.refused, p.all.failed, p.all.unfinished)).collect();
    assert_eq!(counts, [(10, 2, 0, 0), (10, 2, 0, 0)]);
    for point in &report.points {
        let all = &point.all;
        assert_eq!((all.tokens, all.prompt_tokens, all.counted_by), (50, Some(110), CountedBy::Usage));
        let counts = [all.ttft_s, all.itl_s, all.tpot_s, all.e2e_s, all.refusal_s, all.delay_s].map(|q| q.unwrap().count);
        assert_eq!(counts, [10, 40, 10, 10, 2, 12]);
        let asked: Vec<usize> = point.models.iter().map(|m| m.figures.answered + m.figures.refused).collect();
        assert_eq!(asked, [6, 6]);
        assert!(all.e2e_s.unwrap().p50 >= all.ttft_s.unwrap().p50 && point.seconds > 0.0);
    }
    assert_eq!(served.most_under_way.load(Ordering::SeqCst), 3);
    assert_eq!(served.connections.load(Ordering::SeqCst), 3, "connections are used again");
    let last = told.last().unwrap();
    assert_eq!((last.point, last.ended, last.total, last.in_flight, last.tokens), (2, 12, Some(12), 0, 50));
}

#[test]
fn an_open_loop_sends_what_was_planned() {
    let (url, served) = serve(Served { refuse_every: 4, break_every: 5, without_usage: true, ..Served::default() });
    let report = measured(&load(&url, &["a"], &[Load::Open { rate: 400.0 }], 30));
    // Of 30 requests 7 are refused; of the rest, the 5th, 10th, 15th, 25th and 30th break.
    let all = &report.points[0].all;
    assert_eq!((all.answered, all.refused, all.failed), (18, 7, 5));
    assert_eq!((all.tokens, all.prompt_tokens, all.counted_by), (90, None, CountedBy::Chunks));
    assert_eq!((all.errors.len(), &*all.errors[0].kind, all.errors[0].count), (1, "lost", 5));
    let planned = Schedule::new(Load::Open { rate: 400.0 }, Until { requests: Some(30), seconds: None }, 3, 1);
    assert!(report.points[0].seconds > planned.arrival(29).unwrap(), "the last request is sent at its time");
    assert_eq!(served.requests.load(Ordering::SeqCst), 30);
}

#[test]
fn every_request_says_what_it_must() {
    let (url, served) = serve(Served::default());
    let mut load = load(&format!("{url}/v1/"), &["a", "b"], &[Load::Closed { concurrency: 1 }], 4);
    load.target = Target::new(&url, Api::Chat, vec!["a".into(), "b".into()], 7, Some("secret".into())).unwrap();
    load.target.ignore_eos = true;
    load.prompts = Prompts::Rows(vec![json!("one"), json!([{"role": "system", "content": "two"}])]);
    let report = measured(&load);
    assert_eq!((report.points[0].all.answered, report.points[0].all.tokens), (4, 20));
    let bodies = served.bodies.lock().unwrap();
    let asked: Vec<_> =
        bodies.iter().map(|b| (b["model"].as_str().unwrap(), b["messages"][0]["content"].as_str().unwrap())).collect();
    assert_eq!(asked, [("a", "one"), ("b", "one"), ("a", "two"), ("b", "two")]);
    let fixed =
        (&bodies[0]["max_tokens"], &bodies[0]["stream"], &bodies[0]["stream_options"]["include_usage"], &bodies[0]["ignore_eos"]);
    assert_eq!(fixed, (&json!(7), &json!(true), &json!(true), &json!(true)));
    assert_eq!(*served.keys.lock().unwrap(), ["Bearer secret"; 4]);
    assert!(!serde_json::to_string(&report).unwrap().contains("secret"));
}

#[test]
fn a_server_that_closes_connections_is_connected_to_again() {
    let (url, served) = serve(Served { closes: true, ..Served::default() });
    let report = measured(&load(&url, &["a"], &[Load::Closed { concurrency: 2 }], 8));
    assert_eq!((report.points[0].all.answered, report.points[0].all.failed), (8, 0));
    assert_eq!(served.connections.load(Ordering::SeqCst), 8);
}

#[test]
fn a_stop_keeps_what_was_measured() {
    let (url, _) = serve(Served { hang: true, refuse_every: 2, ..Served::default() });
    let asked = AtomicBool::new(false);
    let load = load(&url, &["a", "b"], &[Load::Closed { concurrency: 3 }, Load::Closed { concurrency: 1 }], 100);
    let report =
        run(&load, &|| asked.load(Ordering::SeqCst), &mut |p| asked.store(p.in_flight == 3 && p.refused >= 2, Ordering::SeqCst));
    let report = report.unwrap();
    assert!(report.stopped && report.points.len() == 1);
    let all = &report.points[0].all;
    assert_eq!((all.answered, all.refused, all.failed, all.unfinished), (0, 2, 0, 3));
    assert!(report.points[0].seconds > 0.0);
}

#[test]
fn time_ends_a_closed_loop() {
    let (url, _) = serve(Served::default());
    let mut load = load(&url, &["a"], &[Load::Closed { concurrency: 1 }], 1);
    load.until = Until { requests: None, seconds: Some(0.2) };
    let report = measured(&load);
    assert!(report.points[0].all.answered > 1 && report.points[0].seconds >= 0.2);
}

#[test]
fn a_run_without_any_answer_is_an_error_that_says_why() {
    let (url, _) = serve(Served::default());
    let failed = |load: &LoadRun| run(load, &|| false, &mut |_| {}).unwrap_err().to_string();
    let closed = Load::Closed { concurrency: 1 };
    let unknown = failed(&load(&url, &["unknown"], &[closed], 2));
    assert!(unknown.contains("status 404: there is no model unknown") && unknown.contains("--model"), "{unknown}");
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = failed(&load(&format!("http://{free}"), &["a"], &[closed], 2));
    assert!(nobody.contains("connect: ") && nobody.contains("that the server runs"), "{nobody}");
}

#[test]
fn loads_without_sense_are_refused() {
    let refused = |change: &dyn Fn(&mut LoadRun)| {
        let mut load = load("http://127.0.0.1:9", &["a"], &[Load::Closed { concurrency: 1 }], 1);
        change(&mut load);
        run(&load, &|| false, &mut |_| {}).unwrap_err().to_string()
    };
    assert!(refused(&|l| l.until = Until::default()).contains("no end"));
    assert!(refused(&|l| l.loads = vec![Load::Closed { concurrency: 0 }]).starts_with("--concurrency"));
    assert!(refused(&|l| l.loads = vec![Load::Open { rate: 0.0 }]).starts_with("--rate"));
    assert!(refused(&|l| l.until.seconds = Some(f64::NAN)).starts_with("--seconds"));
    let many = Until { requests: None, seconds: Some(1e6) };
    assert!(refused(&|l| (l.until, l.loads) = (many, vec![Load::Open { rate: 1e3 }])).contains("would be planned"));
}
