//! `data synthesize` through the program: a scripted server on loopback, and the small model of the repository.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lorakit::synth::Seeds;
use serde_json::{Value, json};

use crate::tiny_models;

const KEY: &str = "secret-key-of-the-test";

/// What the server does with the n-th request: status, further header, body.
type Script = fn(usize, &Value) -> (u16, &'static str, String);

/// A server that speaks just enough HTTP; it ends with the test's process.
struct Server {
    url: String,
    /// Head and body of every request.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    fn start(script: Script, delay: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || serve(stream, script, delay, &log));
            }
        });
        Server { url, seen }
    }

    fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// Answers one request and closes; an error means that the client has gone.
fn serve(stream: TcpStream, script: Script, delay: Duration, log: &Mutex<Vec<(String, Value)>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).ok()?;
    let n = {
        let mut log = log.lock().unwrap();
        log.push((head, body.clone()));
        log.len() - 1
    };
    std::thread::sleep(delay);
    let (status, header, text) = script(n, &body);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{header}connection: close\r\n\r\n{text}", text.len()).ok()
}

/// What a model would say, by the form that is asked for; lists differ by the request's seed.
fn model(body: &Value) -> (u16, &'static str, String) {
    let asked = body["messages"][0]["content"].as_str().or(body["prompt"].as_str()).unwrap();
    let seed = body["seed"].as_u64().unwrap();
    let (text, finish) = if asked.contains("Fixed answers:") {
        (if seed.is_multiple_of(2) { "Yes" } else { "No" }.to_string(), "stop")
    } else if asked.contains("numbered") || asked.contains("A list of 16 tasks") {
        let words = ["apple", "bridge", "candle", "desert", "engine", "forest", "guitar", "harbour", "island", "jungle"];
        let word = |i: u64| words[((seed >> (4 * i)) % 10) as usize];
        let item = |i: u64| format!("{} the {} {} {} {}", word(i), word(i + 1), word(i + 2), seed % 97, word(i + 3));
        (format!("Sure!\n\n9. {}\n10. Show an image of it now.\n11. {}\n12. cut off in the", item(0), item(3)), "length")
    } else if asked.contains("First the output") || asked.contains("an output that the task allows") {
        ("Output: yes\nInput: something".to_string(), "stop")
    } else {
        ("Input: (none)\nOutput: an answer".to_string(), "stop")
    };
    let choice = match body.get("messages") {
        Some(_) => json!({"message": {"role": "assistant", "content": text}, "finish_reason": finish}),
        None => json!({"text": text, "finish_reason": finish}),
    };
    (200, "", json!({"choices": [choice]}).to_string())
}

/// Busy, broken, half a reply and no JSON before each kind of request works.
fn moody(n: usize, body: &Value) -> (u16, &'static str, String) {
    match n {
        0 => (429, "retry-after: 0\r\n", "{\"error\": \"slow down\"}".into()),
        1 => (500, "", String::new()),
        2 => (200, "retry-after: 0\r\n", "{\"choices\": [{\"mess".into()),
        3 => (200, "retry-after: 0\r\n", "<html>".into()),
        4 => (200, "retry-after: 0\r\n", "{\"choices\": []}".into()),
        _ => model(body),
    }
}

/// Twelve tasks, four of them classification.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let task = |i: usize| {
        json!({"id": format!("s{i}"), "instruction": format!("Do {i}."), "instances": [{"input": "", "output": "x"}],
            "is_classification": i.is_multiple_of(3)})
    };
    let text: String = (0..12).map(|i| format!("{}\n", task(i))).collect();
    std::fs::write(dir.path().join("seeds.jsonl"), text).unwrap();
    dir
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
    command.current_dir(dir).args(["data", "synthesize", "--seeds", "seeds.jsonl"]).args(args);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1").env("TEST_KEY", KEY).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn asks<'a>(server: &'a Server, out: &'a str, count: &'a str) -> Vec<&'a str> {
    vec!["--endpoint", &server.url, "--model", "m", "--out", out, "--count", count, "--key-env", "TEST_KEY", "--json"]
}

#[test]
fn a_moody_server_is_asked_until_it_answers() {
    for style in ["chat", "completion"] {
        let (dir, server) = (folder(), Server::start(moody, Duration::ZERO));
        let args = [&asks(&server, "out", "10")[..], &["--style", style, "--parallel", "1", "--per-round", "2"]].concat();
        let output = run(dir.path(), &args);
        assert!(output.status.success(), "{}", said(&output));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&summary["rows"], &summary["ended"]), (&10.into(), &"complete".into()));
        assert!(summary["rejected"]["keyword"].as_u64() > Some(0) && summary["rejected"]["truncated"].as_u64() > Some(0));
        let seen = server.seen.lock().unwrap();
        let path = if style == "chat" { "POST /v1/chat/completions " } else { "POST /v1/completions " };
        let authorised = |head: &str| head.to_lowercase().contains(&format!("authorization: bearer {KEY}"));
        assert!(seen.iter().all(|(head, body)| head.starts_with(path) && authorised(head) && body["model"] == "m"));
        // The first request was sent until it was answered, five attempts in vain.
        assert!(seen[..6].iter().all(|(_, body)| *body == seen[0].1) && seen[6].1 != seen[0].1);
        for file in ["run.json", "replies.jsonl", "candidates.jsonl", "rows.jsonl"] {
            let text = std::fs::read_to_string(dir.path().join("out").join(file)).unwrap();
            assert!(!text.contains(KEY) && text.contains("\"") && text.ends_with('\n'), "{file}");
        }
        assert!(!said(&output).contains(KEY));
    }
}

#[test]
fn a_server_that_stays_broken_is_one_error() {
    fn unknown(_: usize, _: &Value) -> (u16, &'static str, String) {
        (401, "", format!("{{\"error\": \"bad key {KEY}\"}}"))
    }
    fn down(_: usize, _: &Value) -> (u16, &'static str, String) {
        (503, "retry-after: 0\r\n", "maintenance".into())
    }
    for (script, expected, asked) in [(unknown as Script, "says 401", 1), (down, "says 503: maintenance (3 attempts)", 3)] {
        let (dir, server) = (folder(), Server::start(script, Duration::ZERO));
        let args = [&asks(&server, "out", "5")[..], &["--parallel", "1", "--attempts", "3"]].concat();
        let output = run(dir.path(), &args);
        let said = said(&output);
        assert_eq!((output.status.code(), server.asked()), (Some(2), asked), "{said}");
        assert!(said.contains(expected) && said.matches("error:").count() == 1 && !said.contains(KEY), "{said}");
    }
    // Nobody listens there any more.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}/v1");
    let output = run(folder().path(), &["--endpoint", &url, "--model", "m", "--out", "out", "--count", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("check the address"), "{}", said(&output));
}

#[test]
fn a_silent_server_is_given_up() {
    fn late(_: usize, body: &Value) -> (u16, &'static str, String) {
        model(body)
    }
    let (dir, server) = (folder(), Server::start(late, Duration::from_secs(30)));
    let args = [&asks(&server, "out", "5")[..], &["--timeout", "1", "--attempts", "1"]].concat();
    let output = run(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("timeout") && said(&output).contains("(1 attempts)"), "{}", said(&output));
}

#[test]
fn a_killed_run_asks_only_for_what_it_lacks() {
    fn plain(_: usize, body: &Value) -> (u16, &'static str, String) {
        model(body)
    }
    let (dir, server) = (folder(), Server::start(plain, Duration::from_millis(20)));
    let args = |out| [&asks(&server, out, "25")[..], &["--per-round", "3"]].concat();
    let whole = run(dir.path(), &args("whole"));
    assert!(whole.status.success(), "{}", said(&whole));
    let needed = server.asked();
    let journal = dir.path().join("killed/replies.jsonl");
    let lines = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let mut kills = 0;
    for least in [1, needed / 3, needed / 2] {
        let mut child = command(dir.path(), &args("killed")).spawn().unwrap();
        let begun = Instant::now();
        while lines() < least && child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(kills, 3);
    let rest = run(dir.path(), &args("killed"));
    assert!(rest.status.success(), "{}", said(&rest));
    let read = |out: &str, name: &str| std::fs::read_to_string(dir.path().join(out).join(name)).unwrap();
    assert_eq!(read("killed", "rows.jsonl"), read("whole", "rows.jsonl"));
    assert_eq!(read("killed", "replies.jsonl").lines().count(), needed);
    // Those under way at each kill, at most four, were asked for again.
    assert!(server.asked() <= 2 * needed + 3 * 4, "{} for {needed}", server.asked());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_ends_at_once_and_goes_on_to_the_same_rows() {
    fn plain(_: usize, body: &Value) -> (u16, &'static str, String) {
        model(body)
    }
    let (dir, server) = (folder(), Server::start(plain, Duration::from_millis(20)));
    let args = |out| [&asks(&server, out, "12")[..], &["--per-round", "3"]].concat();
    assert!(run(dir.path(), &args("whole")).status.success());
    let journal = dir.path().join("cut/replies.jsonl");
    let child = command(dir.path(), &args("cut")).spawn().unwrap();
    let begun = Instant::now();
    while std::fs::read(&journal).map_or(0, |b| b.len()) == 0 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(said(&output).contains("the same command goes on"), "{}", said(&output));
    assert!(run(dir.path(), &args("cut")).status.success());
    let read = |out: &str| std::fs::read_to_string(dir.path().join(out).join("rows.jsonl")).unwrap();
    assert_eq!(read("cut"), read("whole"));
}

#[test]
fn the_seed_tasks_of_the_repository_are_read() {
    let seeds =
        Seeds::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/data/self-instruct/seed_tasks.jsonl"))).unwrap();
    assert!(seeds.tasks.len() >= 175);
    assert!(seeds.tasks.iter().filter(|t| t.is_classification).count() >= 30);
}

#[test]
fn the_local_model_is_resumed_to_the_same_candidates() {
    let dir = folder();
    let base = tiny_models::dir("llama").display().to_string();
    let args = |out: &'static str| {
        let fixed = ["--count", "3", "--patience", "3", "--per-round", "2", "--batch", "2", "--max-new-tokens", "40"];
        let more = ["--answer-tokens", "10", "--style", "completion", "--temperature", "1.5", "--top-p", "1", "--seed", "5"];
        [&["--base", &base, "--out", out][..], &fixed, &more].concat().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let start = |out| {
        let args = args(out);
        command(dir.path(), &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let whole = start("whole").output().unwrap();
    // A random model writes nothing that is kept.
    assert_eq!(whole.status.code(), Some(2), "{}", said(&whole));
    assert!(said(&whole).contains("0 rows of 3, and none more in 3 rounds"), "{}", said(&whole));
    let strip = |out: &str, name: &str| {
        let text = std::fs::read_to_string(dir.path().join(out).join(name)).unwrap();
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let mut lines: Vec<Value> = text.lines().map(parse).collect();
        lines.iter_mut().for_each(|line| _ = line.as_object_mut().unwrap().remove("time"));
        lines
    };
    assert!(!strip("whole", "candidates.jsonl").is_empty());
    // As a kill leaves it: some replies, half a line.
    std::fs::create_dir(dir.path().join("half")).unwrap();
    let copy = |name: &str| std::fs::copy(dir.path().join("whole").join(name), dir.path().join("half").join(name)).unwrap();
    copy("run.json");
    let replies = std::fs::read_to_string(dir.path().join("whole/replies.jsonl")).unwrap();
    let mut lines = replies.lines();
    let half = format!("{}\n{}", lines.next().unwrap(), &lines.next().unwrap()[..20]);
    std::fs::write(dir.path().join("half/replies.jsonl"), half).unwrap();
    assert_eq!(start("half").output().unwrap().status.code(), Some(2));
    assert_eq!(strip("half", "candidates.jsonl"), strip("whole", "candidates.jsonl"));
    assert_eq!(strip("half", "replies.jsonl"), strip("whole", "replies.jsonl"));
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = folder();
    std::fs::write(dir.path().join("bad.jsonl"), "{}\n").unwrap();
    let good = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", "o"];
    let cases: [(&[&str], &str); 11] = [
        (&["--count", "0"], "--count: 0 is not possible"),
        (&["--count", "1", "--similarity", "0"], "--similarity: 0 is not possible"),
        (&["--count", "1", "--top-p", "1.5"], "--top-p: 1.5 is not possible"),
        (&["--count", "1", "--temperature", "-1"], "temperature"),
        (&["--count", "1", "--answer-tokens", "0"], "tokens: 0 is not possible"),
        (&["--count", "1", "--repetition-penalty", "1.1"], "only a base on this machine has it"),
        (&["--count", "1", "--key-env", "NO_SUCH_VARIABLE"], "there is no such environment variable"),
        (&["--count", "1", "--seeds", "nowhere.jsonl"], "nowhere.jsonl"),
        (&["--count", "1", "--seeds", "bad.jsonl"], "bad.jsonl:1: not a seed task: missing field"),
        (&["--count", "1", "--base", "x"], "cannot be used with"),
        (&["--count", "1", "--per-round", "0"], "--per-round"),
    ];
    for (more, expected) in cases {
        let seeds: &[&str] = if more.contains(&"--seeds") { &[] } else { &["--seeds", "seeds.jsonl"] };
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(dir.path()).args(["data", "synthesize"]).args(seeds).args(good).args(more);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{more:?}: {}", said(&output));
    }
    for (url, expected) in [
        ("127.0.0.1:9/v1", "neither with http://"),
        ("http:///v1", "names no host"),
        ("http://me:pass@host/v1", "may hold no name, password"),
        ("http://host/v1?key=hidden", "may hold no name, password"),
    ] {
        let output = run(dir.path(), &["--endpoint", url, "--model", "m", "--out", "o", "--count", "1"]);
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{url}: {said}");
        assert!(!said.contains("pass@") && !said.contains("hidden"), "{said}");
    }
    assert!(!dir.path().join("o").exists());
}
