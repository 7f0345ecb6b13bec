//! Too much at once, askers who never finish asking, and the end under load.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Event, connect};
use super::harness::{Server, World, chat, endless, until, with};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_full_queue_refuses_and_says_when_to_come_again() {
    let world = World::long(&[("x", 1)]);
    let server = world.serve(&["--rows", "1", "--queue", "2", "--kv-tokens", "200000"]);
    let mut client = server.client();
    let body = with(endless("x"), json!({"stream": true}));
    let asking: Vec<TcpStream> = (0..3).map(|_| server.client().only_ask(CHAT, &body)).collect();
    until("a full queue", || {
        let [running, waiting] =
            ["running", "waiting"].map(|what| server.metric(&mut client, &format!("vllm:num_requests_{what}")));
        (running == 1.0 && waiting == 2.0).then_some(())
    });
    for stream in [false, true] {
        let refused = client.post(CHAT, &with(chat("x", "hello"), json!({"stream": stream})));
        assert_eq!((refused.refused(429)["code"].as_str(), refused.header("retry-after")), (Some("queue_full"), Some("1")));
    }
    drop(asking);
    server.idle(&mut client);
    let four = client.post(CHAT, &with(chat("x", "hello"), json!({"n": 4, "max_tokens": 2}))).refused(400);
    assert_eq!(four["param"], "n", "there is never room for it: {four}");
    let three = client.post(CHAT, &with(chat("x", "hello"), json!({"n": 3, "max_tokens": 2}))).ok();
    assert_eq!(three["choices"].as_array().unwrap().len(), 3);
    assert_eq!(server.metric(&mut client, "lorakit:requests_refused_total"), 2.0);
}

/// Whether the other side has closed a connection that nothing is expected from.
fn closed(connection: &mut TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    loop {
        match connection.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn who_never_finishes_asking_is_cut_off_and_others_are_served() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let began = [&b""[..], b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"GET / HTTP/1.1\r\n"];
    let mut open: Vec<TcpStream> = (0..500)
        .map(|i| {
            let mut connection = connect(server.address).unwrap().into_inner();
            connection.write_all(began[i % began.len()]).unwrap();
            connection
        })
        .collect();
    let opened = Instant::now();
    let mut client = server.client();
    let mut served = 0;
    while !open.is_empty() {
        client.post(CHAT, &with(chat("x", "hello"), json!({"max_tokens": 4}))).ok();
        served += 1;
        open.retain_mut(|connection| !closed(connection));
        assert!(opened.elapsed() < Duration::from_secs(10), "{} are still open, {served} were served", open.len());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(served > 10, "{served}");
}

/// How a stream that was under way ended.
fn last_words(server: &Server, body: &Value) -> Vec<Event> {
    let mut stream = server.client().stream(CHAT, &with(body.clone(), json!({"stream": true})));
    let mut last = Vec::new();
    while let Some(event) = stream.try_next().unwrap() {
        last.push(event);
        last.drain(..last.len().saturating_sub(2));
    }
    last
}

#[test]
fn asked_to_end_it_closes_what_goes_on_and_ends_well() {
    const GRACE: u64 = 4;
    let world = World::long(&[("x", 1), ("y", 2)]);
    let mut server = world.serve(&["--grace", &GRACE.to_string(), "--kv-tokens", "2000000"]);
    let signalled = std::thread::scope(|scope| {
        let shared = &server;
        let streams: Vec<_> =
            (0..8).map(|i| scope.spawn(move || last_words(shared, &endless(["x", "y", "tiny"][i % 3])))).collect();
        let whole: Vec<_> = (0..4).map(|_| scope.spawn(|| shared.client().post(CHAT, &endless("x")))).collect();
        let mut client = shared.client();
        until("answers under way", || (shared.metric(&mut client, "vllm:num_requests_running") == 12.0).then_some(()));
        shared.signal("-TERM");
        let signalled = Instant::now();
        until("no more to be taken", || connect(shared.address).is_err().then_some(()));
        for stream in streams {
            let last = stream.join().unwrap();
            let [Event::Data(error), Event::Done] = last.as_slice() else { panic!("it ended with {last:?}") };
            assert_eq!(error["error"]["code"], "shutting_down", "{error}");
        }
        for reply in whole {
            let reply = reply.join().unwrap();
            assert_eq!((reply.refused(503)["code"].as_str(), reply.header("retry-after")), (Some("shutting_down"), Some("5")));
        }
        signalled
    });
    let (status, _) = server.ended();
    assert_eq!(status.code(), Some(0), "{:?}", server.lines());
    assert!(signalled.elapsed() < Duration::from_secs(GRACE + 2), "{:?}", signalled.elapsed());
    let lines = server.lines();
    assert!(
        lines.iter().any(|line| line.contains("12 are being answered"))
            && lines.iter().any(|line| line.contains("12 answers are cut")),
        "{lines:?}"
    );
}

#[test]
fn asked_to_end_it_lets_be_answered_what_is_short() {
    let world = World::long(&[("x", 1)]);
    let mut server = world.serve(&["--grace", "80", "--kv-tokens", "300000"]);
    let body = with(chat("x", "hello"), json!({"max_tokens": 10_000, "logit_bias": {"257": -100}}));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let shared = &server;
        let stream = scope.spawn(|| last_words(shared, &body));
        let whole = scope.spawn(|| shared.client().post(CHAT, &body).ok());
        let mut client = shared.client();
        until("answers under way", || (shared.metric(&mut client, "vllm:num_requests_running") == 2.0).then_some(()));
        shared.signal("-TERM");
        let last = stream.join().unwrap();
        let [Event::Data(chunk), Event::Done] = last.as_slice() else { panic!("it ended with {last:?}") };
        assert_eq!(chunk["choices"][0]["finish_reason"], "length", "{chunk}");
        assert_eq!(whole.join().unwrap()["usage"]["completion_tokens"], 10_000);
    });
    assert_eq!(server.ended().0.code(), Some(0));
    // It does not wait for the end of the time that it has.
    assert!(began.elapsed() < Duration::from_secs(80), "{:?}", began.elapsed());
    let idle = world.serve(&["--grace", "80"]);
    let kept = connect(idle.address).unwrap();
    let mut idle = idle;
    idle.signal("-INT");
    let (status, took) = idle.ended();
    assert!(status.code() == Some(0) && took < Duration::from_secs(60), "{status} {took:?}");
    drop(kept);
}
