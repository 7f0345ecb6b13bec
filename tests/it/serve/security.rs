//! Who may ask what, and what leads nowhere.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::client::{Client, Reply};
use super::harness::{Server, World, chat, generation, load, replace, with};

const KEY: &str = "inference-0123456789abcdef";
const OTHER: &str = "inference-fedcba9876543210";
const ADMIN: &str = "administration-0123456789";

/// A server with two keys to ask with and one to act with.
fn with_keys(world: &World, args: &[&str]) -> Server {
    let keys = format!("# who asks\nann:{KEY}\n\nbob: {OTHER}\n");
    std::fs::write(world.path().join("keys"), keys).unwrap();
    std::fs::write(world.path().join("admin"), ADMIN).unwrap();
    world.serve(&[&["--key-file", "keys", "--admin-key-file", "admin"], args].concat())
}

/// Method, path and class of every route.
fn routes(client: &mut Client) -> Vec<(String, String, String)> {
    let document = client.get("/openapi.json").ok();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let class = operation["description"].as_str().unwrap().trim_start_matches("Class: ").trim_end_matches('.');
            let path = path.replace("{id}", "x").replace("{file}", "app.js");
            all.push((method.to_uppercase(), path, class.to_string()));
        }
    }
    all
}

fn ask(server: &Server, key: Option<&str>, (method, path, _): &(String, String, String)) -> Reply {
    let client = server.client();
    let mut client = if let Some(key) = key { client.with_key(key) } else { client };
    client.send(method, path, &[], if method == "POST" { b"{}" } else { b"" }).unwrap()
}

#[test]
fn every_route_asks_for_its_key() {
    let world = World::new(&[("x", 1)]);
    let server = with_keys(&world, &[]);
    let routes = routes(&mut server.client());
    assert!(
        routes.len() >= 20 && ["open", "inference key", "admin key"].iter().all(|class| routes.iter().any(|r| r.2 == *class))
    );
    for route in &routes {
        let expected: [Option<(u16, &str)>; 5] = match route.2.as_str() {
            "open" => [None; 5],
            "inference key" => [Some((401, "missing_api_key")), Some((401, "invalid_api_key")), None, None, None],
            "admin key" => [
                Some((401, "missing_api_key")),
                Some((401, "invalid_api_key")),
                Some((403, "admin_key_required")),
                Some((403, "admin_key_required")),
                None,
            ],
            other => panic!("a class without a rule: {other}"),
        };
        let wrong = &KEY[..KEY.len() - 1];
        for (key, expected) in [None, Some(wrong), Some(KEY), Some(OTHER), Some(ADMIN)].into_iter().zip(expected) {
            let reply = ask(&server, key, route);
            match expected {
                Some((status, code)) => {
                    assert_eq!(reply.refused(status)["code"], code, "{route:?} {key:?}");
                    assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
                }
                None => assert!(![401, 403, 405, 500].contains(&reply.status), "{route:?} {key:?}: {}", reply.text()),
            }
        }
    }
    // Keys are taken as bearers alone.
    let mut client = server.client();
    for (name, value) in
        [("authorization", KEY.to_string()), ("authorization", format!("Basic {KEY}")), ("x-api-key", KEY.to_string())]
    {
        assert_eq!(client.send("GET", "/v1/models", &[(name, &value)], b"").unwrap().status, 401, "{name}: {value}");
    }
    assert_eq!(client.send("GET", &format!("/v1/models?key={KEY}"), &[], b"").unwrap().status, 401);
}

#[test]
fn without_an_admin_key_nobody_who_needs_a_key_acts() {
    let world = World::new(&[("x", 1)]);
    let mut command = world.command(&["--adapters", "adapters"]);
    command.env("LORAKIT_KEY", KEY);
    let server = Server::start(command);
    let routes = routes(&mut server.client());
    for route in routes.iter().filter(|route| route.2 == "admin key") {
        assert_eq!((ask(&server, None, route).status, ask(&server, Some(KEY), route).status), (401, 403), "{route:?}");
    }
    server.client().with_key(KEY).get("/v1/models").ok();
}

#[test]
fn pages_of_other_sites_get_nothing() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&["--host", "Chat.Example:80", "--origin", "https://app.example"]);
    let port = server.address.port();
    let mut foreign: Vec<String> = (0..16).map(|i| format!("attacker{i}.example:{port}")).collect();
    let odd = [
        "",
        "localhost:1",
        "127.0.0.1.nip.io",
        "127.1",
        "0.0.0.0",
        "[::]",
        "[::1]:1",
        "localhost.",
        "2130706433",
        "0x7f.1",
        "chat.example",
    ];
    foreign.extend(odd.map(String::from));
    foreign.extend([
        format!("localhost:{port}.evil.example"),
        format!("localhost:{port}@evil.example"),
        format!("evil.example#localhost:{port}"),
    ]);
    assert!(foreign.len() >= 30);
    let mut client = server.client();
    let own = server.address.to_string();
    for host in &foreign {
        for path in ["/", "/health", "/v1/models", "/openapi.json", "/nowhere"] {
            let refused = client.send("GET", path, &[("host", host)], b"").unwrap();
            // What is no host at all does not reach the routes.
            assert!(refused.status == 400 || refused.refused(403)["code"] == "host_not_allowed", "{host} {path}");
            let origin = format!("http://{host}");
            let refused = client.send("GET", path, &[("host", &own), ("origin", &origin)], b"").unwrap();
            assert_eq!(refused.refused(403)["code"], "origin_not_allowed", "{origin} {path}");
            assert_eq!(refused.header("access-control-allow-origin"), None);
        }
        let before = [("host", own.as_str()), ("origin", &format!("https://{host}")), ("access-control-request-method", "POST")];
        let refused = client.send("OPTIONS", "/v1/chat/completions", &before, b"").unwrap();
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
    }
    for origin in ["null", "file://", "https://app.example.evil.example", "http://app.example", "https://app.example:444"] {
        assert_eq!(client.send("GET", "/health", &[("origin", origin)], b"").unwrap().status, 403, "{origin}");
    }
    assert_eq!(client.send("GET", "/health", &[("host", &own), ("host", &own)], b"").unwrap().status, 403);
    let local = format!("http://localhost:{}", server.address.port());
    for (host, origin) in
        [("chat.example:80", "http://chat.example:80"), ("LOCALHOST", local.as_str()), (&own, &format!("http://{own}"))]
    {
        client.send("GET", "/health", &[("host", host), ("origin", origin)], b"").unwrap().ok();
    }
    let named = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let allowed = client.send("OPTIONS", "/v1/chat/completions", &named, b"").unwrap();
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, Some("https://app.example")));
    let answer = client.send("GET", "/v1/models", &named[..1], b"").unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
    let page = client.get("/");
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert_eq!((page.header("x-frame-options"), page.header("x-content-type-options")), (Some("DENY"), Some("nosniff")));
}

/// Names of folders that there are not, or that may not be opened.
fn elsewhere(world: &World) -> Vec<String> {
    let (root, secret) = (world.root(), world.path().join("secret"));
    std::fs::rename(world.adapter("secret", 9), &secret).unwrap();
    let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
    link(&secret, "link");
    link(Path::new("x"), "inner-link");
    std::fs::create_dir(root.join("linked-file")).unwrap();
    std::fs::copy(secret.join("adapter_config.json"), root.join("linked-file/adapter_config.json")).unwrap();
    link(&secret.join("adapter_model.safetensors"), "linked-file/adapter_model.safetensors");
    let secret = secret.display().to_string();
    let ups = (1..60).map(|n| format!("{}secret", "../".repeat(n)));
    let within = (1..60).map(|n| format!("x/{}secret", "../".repeat(n)));
    let absolute = (0..30).map(|n| format!("{}{secret}", "/".repeat(n)));
    let long = (0..20).map(|n| "a".repeat(120 + n * 97));
    let odd = [
        "",
        ".",
        "..",
        "...",
        ".git",
        ".lorakit",
        ".lorakit/store",
        "x/",
        "/x",
        "x/.",
        "x\0",
        "\0",
        "a\nb",
        "a b",
        "x\\..\\secret",
        "%2e%2e",
        "..%2fsecret",
        "~root",
        "link",
        "inner-link",
        "linked-file",
        "link/.",
        "ｘ",
        "x;y",
        "C:",
        "con:",
        "file:///etc",
        "http://127.0.0.1/x",
        "missing",
        "*",
        "?",
        "x ",
        " x",
        "\u{202e}x",
        "/etc/passwd",
        "/proc/self/environ",
    ];
    ups.chain(within).chain(absolute).chain(long).chain(odd.map(String::from)).collect()
}

#[test]
fn two_hundred_names_lead_nowhere() {
    let world = World::new(&[("x", 1)]);
    let names = elsewhere(&world);
    assert!(names.len() >= 200, "{}", names.len());
    let server = world.serve(&[]);
    let mut client = server.client();
    let before = client.get("/v1/lora_adapters").ok();
    assert_eq!(before["data"].as_array().unwrap().len(), 1, "{before}");
    let secret = world.path().display().to_string();
    for name in &names {
        let reply = client.post("/v1/load_lora_adapter", &load("new", name));
        assert!([400, 404].contains(&reply.status), "{name:?}: {}", reply.text());
        let refused = reply.refused(reply.status);
        assert!(!refused["message"].as_str().unwrap().contains(&secret) || name.contains(&secret), "a path is told: {refused}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !name.chars().all(plain) || name.is_empty() || name.starts_with('.') || name.len() > 128 {
            assert_eq!(client.post("/v1/load_lora_adapter", &replace(name, "x")).status, 400, "{name:?}");
        }
    }
    let after = client.get("/v1/lora_adapters").ok();
    assert_eq!((&after["data"], &after["generations"]), (&before["data"], &before["generations"]));
    // What is loaded at the start is beneath the folder, too.
    let models = client.get("/v1/models").ok();
    assert_eq!(models["data"].as_array().unwrap().len(), 2, "{models}");
}

#[test]
fn adapters_over_the_limits_and_pickles_are_refused() {
    let world = World::new(&[("x", 1)]);
    world.adapter_with("wide", "[adapter]\ntargets = 'all-linear'\nrank = 16\n", 2);
    let pickle = world.adapter("pickle", 4);
    std::fs::rename(pickle.join("adapter_model.safetensors"), pickle.join("adapter_model.bin")).unwrap();
    let mut server = world.serve(&["--max-rank", "8"]);
    for name in ["wide", "pickle"] {
        server.told(&format!("adapter {name} could not be loaded"));
    }
    let mut client = server.client();
    for name in ["wide", "pickle"] {
        let reply = client.post("/v1/load_lora_adapter", &load("new", name));
        assert!([400, 404].contains(&reply.status), "{name}: {}", reply.text());
    }
    assert_eq!(generation(&mut client, "new"), None);
    client.post("/v1/load_lora_adapter", &load("new", "x"));
    assert!(generation(&mut client, "new").is_some());
}

#[test]
fn without_a_folder_of_adapters_nothing_is_loaded() {
    let world = World::new(&[("x", 1)]);
    let server = Server::start(world.command(&[]));
    let mut client = server.client();
    for (path, body) in [
        ("/v1/load_lora_adapter", load("x", "x")),
        ("/v1/unload_lora_adapter", json!({"lora_name": "x"})),
        ("/v1/rollback_lora_adapter", json!({"lora_name": "x", "generation": "0123456789abcdef"})),
    ] {
        assert_eq!(client.post(path, &body).refused(400)["code"], "adapters_off", "{path}");
    }
    client.post("/v1/chat/completions", &chat("x", "hello")).refused(404);
    assert!(!world.path().join(".lorakit").exists() && !world.root().join(".lorakit").exists());
}

#[test]
fn what_is_too_large_is_refused_and_the_next_is_served() {
    let world = World::new(&[("x", 1)]);
    let server = world.serve(&[]);
    let body = with(chat("x", "hello"), json!({"max_tokens": 1}));
    let padded = |bytes: usize| {
        let mut text = body.to_string();
        text.insert_str(1, &" ".repeat(bytes - text.len()));
        text
    };
    let mut client = server.client();
    client.send("POST", "/v1/chat/completions", &[], padded(8 << 20).as_bytes()).unwrap().ok();
    let refused = client.send("POST", "/v1/chat/completions", &[], padded((8 << 20) + 1).as_bytes()).unwrap();
    assert_eq!(refused.refused(413)["code"], "body_too_large");
    let (many, long) = (vec![("x-header", "1"); 100], "h".repeat(100 << 10));
    let path = format!("/{}", "p".repeat(100 << 10));
    for (path, headers) in [("/health", many), ("/health", vec![("x-header", &long)]), (&path, Vec::new())] {
        // The rest of the head is not read: the connection may be gone before the answer is.
        if let Ok(reply) = server.client().send("GET", path, &headers, b"") {
            assert!([400, 414, 431].contains(&reply.status), "{}", reply.status);
        }
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    client.send("POST", "/v1/chat/completions", &[], deep.as_bytes()).unwrap().refused(400);
    client.post("/v1/chat/completions", &body).ok();
}

#[test]
fn what_was_computed_for_one_owner_is_not_shared_with_another() {
    let world = World::new(&[("x", 1)]);
    let server = with_keys(&world, &[]);
    let long = "The same beginning, long enough for some blocks of keys and values, over and over again. ".repeat(3);
    let body = with(chat("x", &long), json!({"max_tokens": 1}));
    let reused = |key: &str, more: Value| {
        let answer = server.client().with_key(key).post("/v1/chat/completions", &with(body.clone(), more)).ok();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let salt = |salt: &str| json!({"cache_salt": salt});
    assert_eq!(reused(KEY, json!({})), 0);
    assert!(reused(KEY, json!({})) > 200);
    assert_eq!((reused(OTHER, json!({})), reused(ADMIN, json!({}))), (0, 0));
    assert_eq!((reused(KEY, salt("a")), reused(KEY, salt("bob")), reused(OTHER, salt("a"))), (0, 0, 0));
    assert!(reused(KEY, salt("a")) > 200 && reused(OTHER, json!({})) > 200);
    // Another adapter's are another's.
    assert_eq!(reused(KEY, json!({"model": "tiny"})), 0);
}

#[test]
fn other_machines_are_let_in_with_keys_alone() {
    let world = World::new(&[("x", 1)]);
    let path = |name: &str| world.path().join(name);
    std::fs::write(path("keys"), KEY).unwrap();
    std::fs::write(path("short"), "0123456789").unwrap();
    std::fs::write(path("none"), "# nobody\n").unwrap();
    let outcome = |args: &[&str]| -> Output { world.command(args).output().unwrap() };
    for (args, said) in [
        (&["--listen", "0.0.0.0:0"][..], "there is no key"),
        (&["--listen", "[::]:0"], "there is no key"),
        (&["--listen", "0.0.0.0:0", "--adapters", "adapters", "--key-file", "keys"], "there is no key"),
        (&["--listen", "0.0.0.0:0", "--adapters", "adapters", "--admin-key-file", "keys"], "there is no key"),
        (&["--key-file", "keys", "--admin-key-file", "keys"], "admin key too"),
        (&["--key-file", "short"], "short line 1"),
        (&["--key-file", "none"], "it holds no key"),
        (&["--key-file", "nowhere"], "nowhere"),
        (&["--watch", "adapters"], "--adapters"),
        (&["--api-key", KEY], "--api-key"),
        (&["--kv-tokens", "0"], "--kv-tokens"),
    ] {
        let outcome = outcome(args);
        let stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(outcome.status.code() == Some(2) && stderr.contains(said), "{args:?}: {:?} {stderr}", outcome.status);
        assert!(!stderr.contains("listening"), "{args:?}: {stderr}");
    }
}

#[test]
fn the_documents_of_the_routes_are_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let (security, openapi) = (docs.join("security.md"), docs.join("openapi.json"));
    let document = format!("{:#}\n", lorakit::serve::document());
    let text = std::fs::read_to_string(&security).unwrap();
    let (head, rest) = text.split_once("<!-- routes: begin -->\n").unwrap();
    let (_, tail) = rest.split_once("<!-- routes: end -->\n").unwrap();
    let current = format!("{head}<!-- routes: begin -->\n{}<!-- routes: end -->\n{tail}", lorakit::serve::routes_in_markdown());
    if std::env::var_os("LORAKIT_WRITE_DOCS").is_some() {
        std::fs::write(&security, &current).unwrap();
        std::fs::write(&openapi, &document).unwrap();
    }
    let help = "run: LORAKIT_WRITE_DOCS=1 cargo test --test it the_documents_of_the_routes_are_current";
    assert!(std::fs::read_to_string(&security).unwrap() == current, "docs/security.md is out of date; {help}");
    assert!(std::fs::read_to_string(&openapi).unwrap_or_default() == document, "docs/openapi.json is out of date; {help}");
}
