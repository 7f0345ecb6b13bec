//! A folder to serve, and the program that serves it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Client;
use crate::tiny_folder;

/// How long anything may take on a slow machine before a test gives up.
const LONGEST: Duration = Duration::from_secs(90);
/// Tokens that the base takes.
pub(super) const POSITIONS: usize = 2048;

/// A base in `base`, and adapters on it below `adapters`.
pub(super) struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// With an adapter for each name, drawn by the number beside it.
    pub(super) fn new(adapters: &[(&str, u64)]) -> World {
        let world = World { dir: tempfile::tempdir().unwrap() };
        tiny_folder::base(&world.base(), POSITIONS);
        std::fs::create_dir(world.root()).unwrap();
        for (name, seed) in adapters {
            world.adapter(name, *seed);
        }
        world
    }

    /// As [`World::new`], but the base takes so many tokens that an answer may last as long as a test does.
    pub(super) fn long(adapters: &[(&str, u64)]) -> World {
        let world = World::new(adapters);
        tiny_folder::base(&world.base(), 1 << 17);
        world
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn base(&self) -> PathBuf {
        self.path().join("base")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.path().join("adapters")
    }

    /// An adapter on all matrices of the base.
    pub(super) fn adapter(&self, name: &str, seed: u64) -> PathBuf {
        self.adapter_with(name, "[adapter]\ntargets = 'all-linear'\n", seed)
    }

    pub(super) fn adapter_with(&self, name: &str, sections: &str, seed: u64) -> PathBuf {
        let dir = self.root().join(name);
        tiny_folder::adapter(&self.base(), &dir, sections, seed * 1000);
        dir
    }

    /// A server of the base and the adapters.
    pub(super) fn serve(&self, args: &[&str]) -> Server {
        Server::start(self.command(&[&["--adapters", "adapters"], args].concat()))
    }

    /// The command that serves the base.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(self.path()).args(["serve", "--model", "base", "--name", "tiny", "--compute", "f32"]);
        command.args(args).env("HF_HUB_OFFLINE", "1").env_remove("LORAKIT_KEY").env_remove("LORAKIT_ADMIN_KEY");
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
    }
}

/// A running server; killed when it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (stderr, to) = (BufReader::new(child.stderr.take().unwrap()), lines.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                to.lock().unwrap().push(line);
            }
        });
        let mut server = Server { child, address: "127.0.0.1:0".parse().unwrap(), lines };
        let said = server.told("listening on http://");
        let address = said.split("http://").nth(1).and_then(|rest| rest.split([' ', '/']).next());
        server.address = address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address: {said}"));
        server
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The first line with `text` in it that the server tells, or has told.
    pub(super) fn told(&mut self, text: &str) -> String {
        let lines = self.lines.clone();
        until(&format!("{text:?} in {:?}", lines.lock().unwrap()), || {
            let found = lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned();
            // It may have ended with its last line still on the way.
            let ended = found.is_none() && self.child.try_wait().unwrap().is_some();
            if ended {
                std::thread::sleep(Duration::from_millis(200));
                let all = lines.lock().unwrap().join("\n");
                assert!(all.contains(text), "the server ended without {text:?}:\n{all}");
            }
            found
        })
    }

    /// All that it told.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub(super) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// How it ended, and how long that took.
    pub(super) fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        (until("the server's end", || self.child.try_wait().unwrap()), began.elapsed())
    }

    /// The value of a gauge or counter of one series.
    pub(super) fn metric(&self, client: &mut Client, name: &str) -> f64 {
        let text = client.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// Waits until nothing is worked on.
    pub(super) fn idle(&self, client: &mut Client) {
        until("an idle server", || {
            let mut of = |name| self.metric(client, name);
            (of("vllm:num_requests_running") + of("vllm:num_requests_waiting") == 0.0).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server told:\n{}", self.lines().join("\n"));
        }
    }
}

/// Asks again until there is an answer.
pub(super) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(began.elapsed() < LONGEST, "{what}: not within {LONGEST:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A chat of one message.
pub(super) fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

/// A chat whose answer goes on for many seconds, of a base that is long.
pub(super) fn endless(model: &str) -> Value {
    with(chat(model, "hello"), json!({"max_tokens": 100_000, "ignore_eos": true}))
}

/// `value` with further fields.
pub(super) fn with(mut value: Value, more: Value) -> Value {
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    value
}

/// The body of `/v1/load_lora_adapter`.
pub(super) fn load(name: &str, folder: &str) -> Value {
    json!({"lora_name": name, "lora_path": folder})
}

/// As [`load`], in place of what is there.
pub(super) fn replace(name: &str, folder: &str) -> Value {
    json!({"lora_name": name, "lora_path": folder, "load_inplace": true})
}

/// The ids of what answers under each name, from `GET /v1/lora_adapters`.
pub(super) fn generation(client: &mut Client, name: &str) -> Option<String> {
    let all = client.get("/v1/lora_adapters").ok();
    let found = all["data"].as_array().unwrap().iter().find(|one| one["id"] == name)?;
    Some(found["generation"].as_str().unwrap().to_string())
}
