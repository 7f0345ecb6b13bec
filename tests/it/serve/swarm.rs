//! Many askers, many adapters, and somebody who exchanges them all the time: every answer is that of the generation it names.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lorakit::random;
use serde_json::{Value, json};

use super::client::{Client, Event};
use super::harness::{Server, World, replace, until, with};
use super::oracle::Oracle;

const NAMES: usize = 16;
const VERSIONS: usize = 3;
const ASKERS: usize = 64;
/// Of an answer.
const TOKENS: usize = 12;
/// Time between two exchanges.
const PAUSE: Duration = Duration::from_millis(50);
/// A beginning that all prompts share, some blocks of keys and values long.
const SYSTEM: &str = "You answer as shortly as possible, and never about anything else than what you were asked; what you do not know, you say so. Today is Sunday.";
const QUESTIONS: [&str; 4] = ["Who are you?", "Who are they?", "What is the fourth of the seven seas called?", "Bye."];

fn name(bot: usize) -> String {
    format!("bot{bot:02}")
}

fn folder(bot: usize, version: usize) -> String {
    format!("bot{bot:02}.v{version}")
}

/// What each generation answers to each question.
struct Expected {
    ids: HashMap<(String, usize), Vec<u32>>,
    base: Vec<Vec<u32>>,
    oracle: Oracle,
}

/// An exchange: what stands for a name from then on.
struct Act {
    name: String,
    generation: Option<String>,
    began: Instant,
    done: Instant,
}

/// An answer: who was asked, what, when, and what came.
struct Answer {
    name: String,
    question: usize,
    generation: String,
    text: String,
    /// Where log-probabilities came along.
    bytes: Option<Vec<u8>>,
    asked: Instant,
    answered: Instant,
}

/// What both sides write down.
#[derive(Default)]
struct Log {
    acts: Mutex<Vec<Act>>,
    answers: Mutex<Vec<Answer>>,
    away: AtomicUsize,
    ended: AtomicBool,
}

impl Expected {
    fn new(world: &World, client: &mut Client) -> Expected {
        let oracle = Oracle::new(&world.base());
        let prompt = |q: &&str| oracle.conversation(&[("system", SYSTEM), ("user", q)]);
        let prompts: Vec<Vec<u32>> = QUESTIONS.iter().map(prompt).collect();
        let base: Vec<Vec<u32>> = prompts.iter().map(|prompt| oracle.unending(None, prompt, TOKENS)).collect();
        let served = client.get("/v1/lora_adapters").ok();
        assert_eq!(served["broken"], json!([]));
        let mut ids = HashMap::new();
        for one in served["data"].as_array().unwrap() {
            let dir = world.root().join(one["id"].as_str().unwrap());
            let generation = one["generation"].as_str().unwrap();
            for (question, prompt) in prompts.iter().enumerate() {
                ids.insert((generation.to_string(), question), oracle.unending(Some(&dir), prompt, TOKENS));
            }
        }
        assert_eq!(ids.len(), NAMES * VERSIONS * QUESTIONS.len());
        // Otherwise an exchanged answer could pass for the right one.
        for (question, base) in base.iter().enumerate() {
            let all = ids.iter().filter(|((_, q), _)| *q == question).map(|(_, answer)| answer).chain([base]);
            assert_eq!(
                all.collect::<HashSet<_>>().len(),
                NAMES * VERSIONS + 1,
                "two answers to question {question} are the same"
            );
        }
        Expected { ids, base, oracle }
    }
}

/// Exchanges adapters until all is answered.
fn exchange(client: &mut Client, log: &Log) {
    let mut known: HashMap<String, Vec<String>> = HashMap::new();
    for i in 0.. {
        if log.ended.load(Ordering::SeqCst) {
            return;
        }
        let draw = random::indexed(7, i);
        let (bot, version, kind) = ((draw % 16) as usize, (draw >> 8) as usize % VERSIONS, (draw >> 16) % 10);
        let name = name(bot);
        let mut act = |path: &str, body: Value| {
            let began = Instant::now();
            let reply = client.post(path, &body);
            assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
            let generation = reply.header("x-adapter-generation").map(str::to_string);
            let act = Act { name: name.clone(), generation: generation.clone(), began, done: Instant::now() };
            log.acts.lock().unwrap().push(act);
            generation
        };
        let before = known.entry(name.clone()).or_default();
        match kind {
            0..2 => {
                act("/v1/unload_lora_adapter", json!({"lora_name": name}));
                before.extend(act("/v1/load_lora_adapter", json!({"lora_name": name, "lora_path": folder(bot, version)})));
            }
            2..4 if !before.is_empty() => {
                // One of the last few: older ones are forgotten in the end.
                let last = &before[before.len().saturating_sub(6)..];
                let generation = last[(draw >> 24) as usize % last.len()].clone();
                act("/v1/rollback_lora_adapter", json!({"lora_name": name, "generation": generation}));
            }
            _ => before.extend(act("/v1/load_lora_adapter", replace(&name, &folder(bot, version)))),
        }
        std::thread::sleep(PAUSE);
    }
}

/// The `i`th request: those of about the same time go to a few names, so that adapters come and go.
fn request(i: usize) -> (String, usize, bool, bool, Value) {
    let draw = random::indexed(11, i as u64);
    let name = name((i / 40 + (draw % 4) as usize) % NAMES);
    let question = (draw >> 8) as usize % QUESTIONS.len();
    let (chats, streams) = (draw >> 16 & 1 == 0, draw >> 17 & 1 == 0);
    let common = json!({"model": name, "max_tokens": TOKENS, "stream": streams, "temperature": 0, "logit_bias": {"257": -100}});
    let messages = json!([{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTIONS[question]}]);
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let prompt = turn("system", SYSTEM) + &turn("user", QUESTIONS[question]) + "<|im_start|>assistant\n";
    let body = match chats {
        true => with(common, json!({"messages": messages, "logprobs": true})),
        false => with(common, json!({"prompt": prompt})),
    };
    (name, question, chats, streams, body)
}

/// Asks until there is an answer: a name may be away for a moment.
fn ask(client: &mut Client, i: usize, log: &Log) {
    let (name, question, chats, streams, body) = request(i);
    let path = if chats { "/v1/chat/completions" } else { "/v1/completions" };
    let answer = until("an answer", || {
        let asked = Instant::now();
        let parts = if streams { streamed(client, path, &body) } else { whole(client, path, &body) };
        let Some(parts) = parts else {
            log.away.fetch_add(1, Ordering::SeqCst);
            return None;
        };
        let answered = Instant::now();
        let generations: HashSet<&str> = parts.iter().map(|p| p["adapter_generation"].as_str().unwrap()).collect();
        assert_eq!(generations.len(), 1, "a mixed answer: {parts:?}");
        assert!(parts.iter().all(|p| p["model"] == name), "{parts:?}");
        let text = |p: &Value| {
            let choice = &p["choices"][0];
            let text = [&choice["text"], &choice["delta"]["content"], &choice["message"]["content"]];
            text.into_iter().filter_map(Value::as_str).collect::<String>()
        };
        let tokens = parts.iter().flat_map(|p| p["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default());
        let bytes = tokens.flat_map(|t| t["bytes"].as_array().cloned().unwrap()).map(|b| b.as_u64().unwrap() as u8);
        Some(Answer {
            name: name.clone(),
            question,
            generation: generations.into_iter().next().unwrap().to_string(),
            text: parts.iter().map(text).collect(),
            bytes: chats.then(|| bytes.collect()),
            asked,
            answered,
        })
    });
    log.answers.lock().unwrap().push(answer);
}

fn whole(client: &mut Client, path: &str, body: &Value) -> Option<Vec<Value>> {
    let reply = client.post(path, body);
    if reply.status == 404 {
        return None;
    }
    Some(vec![reply.ok()])
}

fn streamed(client: &Client, path: &str, body: &Value) -> Option<Vec<Value>> {
    let stream = client.stream(path, body);
    if stream.status == 404 {
        return None;
    }
    assert_eq!(stream.status, 200);
    let mut parts = Vec::new();
    let mut done = false;
    for event in stream {
        match event {
            Event::Data(value) => {
                assert!(value["error"].is_null() && !done, "{value}");
                parts.push(value);
            }
            Event::Done => done = true,
        }
    }
    assert!(done, "a stream ended without its end");
    Some(parts)
}

/// What is wrong with an answer.
fn wrong(answer: &Answer, expected: &Expected, acts: &[Act]) -> Option<String> {
    let said = format!("{} {:?} of {}: {:?}", answer.name, QUESTIONS[answer.question], answer.generation, answer.text);
    let Some(ids) = expected.ids.get(&(answer.generation.clone(), answer.question)) else {
        return Some(format!("an unknown generation: {said}"));
    };
    if expected.oracle.tokenizer.decode(&expected.base[answer.question], true).unwrap() == answer.text {
        return Some(format!("the base answered: {said}"));
    }
    let text = expected.oracle.tokenizer.decode(ids, true).unwrap();
    if text != answer.text || answer.bytes.as_ref().is_some_and(|bytes| *bytes != expected.oracle.bytes(ids)) {
        return Some(format!("not {text:?}: {said}"));
    }
    // A name stands for what an act made of it from some moment of that act to some moment of the next.
    let of_name: Vec<&Act> = acts.iter().filter(|act| act.name == answer.name).collect();
    let stood = (0..of_name.len()).any(|k| {
        let (act, next) = (of_name[k], of_name.get(k + 1));
        let there = act.generation.as_ref() == Some(&answer.generation);
        there && act.began <= answer.answered && next.is_none_or(|next| next.done >= answer.asked)
    });
    (!stood).then(|| format!("the name did not stand for it at that time: {said}"))
}

fn world() -> World {
    let world = World::new(&[]);
    // About 240 kB in memory each.
    let sections = "[adapter]\ntargets = 'all-linear'\nrank = 64\nalpha = 64\n";
    for bot in 0..NAMES {
        for version in 0..VERSIONS {
            world.adapter_with(&folder(bot, version), sections, (1 + bot * VERSIONS + version) as u64);
        }
    }
    world
}

fn begin(server: &Server, log: &Log) {
    let mut client = server.client();
    for bot in 0..NAMES {
        let began = Instant::now();
        let reply = client.post("/v1/load_lora_adapter", &replace(&name(bot), &folder(bot, 0)));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let generation = reply.header("x-adapter-generation").map(str::to_string);
        log.acts.lock().unwrap().push(Act { name: name(bot), generation, began, done: Instant::now() });
    }
}

#[test]
fn a_swarm_gets_the_answers_of_the_generations_that_they_name() {
    let requests: usize = std::env::var("LORAKIT_SWARM").map_or(8000, |n| n.parse().unwrap());
    let world = world();
    // Four adapters fit.
    let server = world.serve(&["--adapter-memory", "1", "--rows", "16", "--queue", "128"]);
    let mut client = server.client();
    let (expected, log) = (Expected::new(&world, &mut client), Log::default());
    begin(&server, &log);
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&mut server.client(), &log));
        let askers: Vec<_> = (0..ASKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.client();
                    while let Some(i) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|i| *i < requests) {
                        ask(&mut client, i, &log);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = askers.into_iter().map(|asker| asker.join()).collect();
        log.ended.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "an asker failed");
    });
    let took = began.elapsed();
    let (acts, answers) = (log.acts.into_inner().unwrap(), log.answers.into_inner().unwrap());
    let wrong: Vec<String> = answers.iter().filter_map(|answer| wrong(answer, &expected, &acts)).collect();
    let generations: HashSet<&str> = answers.iter().map(|a| a.generation.as_str()).collect();
    let hits = server.metric(&mut client, "vllm:prefix_cache_hits_total");
    let evictions = server.metric(&mut client, "lorakit:adapter_evictions_total");
    println!(
        "{} answers of {} generations in {:.1} s, {} exchanges, {} times a name was away, {hits} tokens of prompts reused, {evictions} adapters let go: {} wrong",
        answers.len(),
        generations.len(),
        took.as_secs_f64(),
        acts.len(),
        log.away.into_inner(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    assert_eq!(answers.len(), requests);
    assert!(generations.len() > NAMES && acts.len() > NAMES && hits > 0.0 && evictions > 0.0);
}
