//! One thread that owns the loop; requests come from any other, and each gets its tokens through a channel of its own.
//!
//! The queue is bounded. Who no longer listens is taken out at the next turn, during its prompt too. Prompts are read in pieces
//! as long as a turn may take, by the rate that was measured. A turn that panics costs the texts that were in it, and nobody else.
//! Refuses to know: HTTP, text.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::request::{Ended, Request, TokenLogp, Turn};
use super::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::kernels::attention::cached::BLOCK_TOKENS;
use crate::model::Model;

/// How long the prompts' part of a turn shall take: what everybody waits for a token, and nobody is taken out in.
const PROMPT_TIME: Duration = Duration::from_millis(80);

/// How much is worked on at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Texts at once.
    pub rows: usize,
    /// Tokens that they may hold together.
    pub tokens: usize,
    /// Requests that may wait for a row.
    pub queue: usize,
}

/// What comes of a request, in this order: begun, scores of the prompt, tokens, ended.
#[derive(Debug)]
pub enum Event {
    /// Its prompt is being read; so many of its tokens were there already.
    Begun {
        reused: usize,
    },
    /// Of the next tokens of its prompt.
    Prompt(Vec<TokenLogp>),
    Token {
        id: u32,
        logp: Option<TokenLogp>,
    },
    /// The token that ended it, which is no part of it.
    EndToken {
        id: u32,
        logp: Option<TokenLogp>,
    },
    /// The last event.
    Ended(Ended),
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum Refused {
    /// So many wait already.
    Full(usize),
    /// No more are taken: the engine ends.
    Ending,
    /// It can't be answered as it is.
    Bad(Error),
}

/// The events of one request. Dropped before the last one, the request is given up.
#[derive(Debug)]
pub struct Answering {
    events: UnboundedReceiver<Event>,
}

impl Answering {
    /// The next event; none after the last one, or where the engine is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Gives the request up, if it has not ended.
    pub fn close(&mut self) {
        self.events.close();
    }

    /// As [`Answering::next`], on a thread that may wait.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}

/// What the engine counts. Reading takes no lock of the loop.
#[derive(Debug, Default)]
pub struct EngineStats {
    /// Texts that are worked on.
    pub running: AtomicUsize,
    /// Requests that wait.
    pub waiting: AtomicUsize,
    /// Tokens of keys and values that texts hold, and could hold.
    pub held_tokens: AtomicUsize,
    pub most_tokens: AtomicUsize,
    /// Of prompts, read; taken from what was there; and tokens of answers, since the start.
    pub prompt_tokens: AtomicU64,
    pub reused_tokens: AtomicU64,
    pub answer_tokens: AtomicU64,
    /// Requests that were given up by who asked, and turns that failed.
    pub given_up: AtomicU64,
    pub failed_turns: AtomicU64,
}

/// A request on its way to the loop.
struct Job {
    request: Request,
    events: UnboundedSender<Event>,
}

/// The loop on a thread of its own.
#[derive(Debug)]
pub struct Engine {
    jobs: Sender<Job>,
    stats: Arc<EngineStats>,
    settings: EngineSettings,
    longest: usize,
    next: AtomicU64,
    /// Requests that were taken and have not ended.
    taken: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    model: Arc<Model>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(model: Arc<Model>, settings: EngineSettings) -> Result<Engine> {
        let (jobs, queue) = channel();
        let (stats, taken, ending) = (Arc::<EngineStats>::default(), Arc::default(), Arc::<AtomicBool>::default());
        let longest = model.config.max_positions.min(settings.tokens);
        let state = (model.clone(), stats.clone(), Arc::clone(&taken), ending.clone());
        let run = move || {
            let (model, stats, taken, ending) = state;
            Loop::new(&model, settings, &stats, &taken, &ending).run(&queue);
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(run);
        let thread = thread.map_err(|e| Error::usage("the model's thread", e.to_string(), "free some memory or processes"))?;
        let (next, thread) = (AtomicU64::new(0), Mutex::new(Some(thread)));
        Ok(Engine { jobs, stats, settings, longest, next, taken, ending, thread, model })
    }

    /// The model that answers.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What is counted.
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// How much is worked on at once.
    pub fn settings(&self) -> EngineSettings {
        self.settings
    }

    /// Tokens that a text has at most, prompt and answer.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Takes all of `requests` (their ids are given here) or none.
    ///
    /// # Errors
    /// [`Refused`]; what is wrong with one of them is found here, not by the loop.
    pub fn submit(&self, requests: Vec<Request>) -> std::result::Result<Vec<Answering>, Refused> {
        if self.ending.load(Ordering::SeqCst) {
            return Err(Refused::Ending);
        }
        for request in &requests {
            request.check(&self.model, self.longest).map_err(Refused::Bad)?;
        }
        let (n, most) = (requests.len(), self.settings.rows + self.settings.queue);
        let taken = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |t| (t + n <= most).then_some(t + n));
        if let Err(taken) = taken {
            return Err(Refused::Full(taken.saturating_sub(self.settings.rows)));
        }
        let mut answering = Vec::new();
        for request in requests {
            let (events, receiver) = unbounded_channel();
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            self.jobs.send(Job { request: Request { id, ..request }, events }).map_err(|_| Refused::Ending)?;
            answering.push(Answering { events: receiver });
        }
        Ok(answering)
    }

    /// Whether a request now would be refused because so many wait.
    pub fn is_full(&self) -> bool {
        self.taken() >= self.settings.rows + self.settings.queue
    }

    /// Requests that were taken and have not ended.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Takes no more requests. Those that were taken go on.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Whether no more are taken.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Waits for the thread, which ends once nothing is worked on after [`Engine::end`].
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its panics were caught inside.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread works with.
struct Loop<'a> {
    model: &'a Model,
    settings: EngineSettings,
    stats: &'a EngineStats,
    taken: &'a AtomicUsize,
    ending: &'a AtomicBool,
    scheduler: Scheduler<'a>,
    listeners: HashMap<u64, Listener>,
    /// Tokens of prompts a second, as measured.
    rate: Option<f64>,
}

struct Listener {
    events: UnboundedSender<Event>,
    prompt: usize,
    begun: bool,
}

impl<'a> Loop<'a> {
    fn new(
        model: &'a Model,
        settings: EngineSettings,
        stats: &'a EngineStats,
        taken: &'a AtomicUsize,
        ending: &'a AtomicBool,
    ) -> Loop<'a> {
        let scheduler = Loop::scheduler(model, settings);
        Loop { model, settings, stats, taken, ending, scheduler, listeners: HashMap::new(), rate: None }
    }

    fn scheduler(model: &'a Model, settings: EngineSettings) -> Scheduler<'a> {
        Scheduler::new(model, settings.rows, settings.tokens).with_prompt_tokens(4 * BLOCK_TOKENS)
    }

    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            // An idle engine looks from time to time whether it shall end.
            let idle = self.scheduler.is_idle();
            if idle {
                match queue.recv_timeout(Duration::from_millis(100)) {
                    Ok(job) => self.take(job),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) if self.ending.load(Ordering::SeqCst) => return,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
                }
            }
            while let Ok(job) = queue.try_recv() {
                self.take(job);
            }
            self.give_up();
            self.turn();
            self.count();
        }
    }

    fn take(&mut self, Job { request, events }: Job) {
        let (id, prompt) = (request.id, request.prompt.len());
        match self.scheduler.submit(request) {
            Ok(()) => {
                self.listeners.insert(id, Listener { events, prompt, begun: false });
            }
            Err(error) => {
                let _ = events.send(Event::Ended(Ended::Failed(error)));
                self.taken.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Takes out those to whom nobody listens.
    fn give_up(&mut self) {
        let gone: Vec<u64> = self.listeners.iter().filter(|(_, l)| l.events.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.stats.given_up.fetch_add(1, Ordering::Relaxed);
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        self.scheduler.finish(id);
        if self.listeners.remove(&id).is_some() {
            self.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn turn(&mut self) {
        let began = Instant::now();
        let before = self.scheduler.unread();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.scheduler.turn()));
        let turns = match outcome {
            Ok(Ok(turns)) => turns,
            Ok(Err(error)) => return self.failed(&error.to_string()),
            Err(_) => return self.failed("the pass panicked: a fault in lorakit, please report it"),
        };
        self.begin();
        self.adapt(before.saturating_sub(self.scheduler.unread()), began.elapsed());
        for turn in turns {
            self.tell(turn);
        }
    }

    /// What was in a turn that failed is lost, keys and values of it too: all who were in it are told, all who wait go on.
    fn failed(&mut self, why: &str) {
        self.stats.failed_turns.fetch_add(1, Ordering::Relaxed);
        let mut old = std::mem::replace(&mut self.scheduler, Loop::scheduler(self.model, self.settings));
        let waiting = old.take_waiting();
        let wait: HashSet<u64> = waiting.iter().map(|request| request.id).collect();
        let lost: Vec<u64> = self.listeners.keys().copied().filter(|id| !wait.contains(id)).collect();
        for id in lost {
            if let Some(listener) = self.listeners.remove(&id) {
                let error = Error::from(candle_core::Error::msg(why));
                let _ = listener.events.send(Event::Ended(Ended::Failed(error)));
                self.taken.fetch_sub(1, Ordering::SeqCst);
            }
        }
        for request in waiting {
            let id = request.id;
            if self.scheduler.submit(request).is_err() {
                self.forget(id);
            }
        }
    }

    /// Tells those whose prompts are being read since this turn.
    fn begin(&mut self) {
        for (id, listener) in &mut self.listeners {
            if !listener.begun
                && let Some(reused) = self.scheduler.reused(*id)
            {
                listener.begun = true;
                self.stats.reused_tokens.fetch_add(reused as u64, Ordering::Relaxed);
                self.stats.prompt_tokens.fetch_add(listener.prompt as u64, Ordering::Relaxed);
                let _ = listener.events.send(Event::Begun { reused });
            }
        }
    }

    /// Sets how much of the prompts the next turns read, by how long it took.
    fn adapt(&mut self, read: usize, took: Duration) {
        if read < BLOCK_TOKENS {
            return;
        }
        let now = read as f64 / took.as_secs_f64().max(1e-6);
        let rate = self.rate.map_or(now, |rate| 0.7 * rate + 0.3 * now);
        self.rate = Some(rate);
        let blocks = (rate * PROMPT_TIME.as_secs_f64() / BLOCK_TOKENS as f64) as usize;
        self.scheduler.set_prompt_tokens(blocks.clamp(2, 16) * BLOCK_TOKENS);
    }

    fn tell(&mut self, turn: Turn) {
        let Some(listener) = self.listeners.get(&turn.request) else { return };
        // Nobody listening is seen at the next turn.
        if !turn.prompt.is_empty() {
            let _ = listener.events.send(Event::Prompt(turn.prompt));
        }
        if let Some(id) = turn.token {
            self.stats.answer_tokens.fetch_add(1, Ordering::Relaxed);
            let _ = listener.events.send(Event::Token { id, logp: turn.logp });
        } else if let Some(Ended::Stop(id)) = turn.ended {
            let _ = listener.events.send(Event::EndToken { id, logp: turn.logp });
        }
        if let Some(ended) = turn.ended {
            let _ = listener.events.send(Event::Ended(ended));
            self.forget(turn.request);
        }
    }

    fn count(&self) {
        let (running, waiting) = self.scheduler.load();
        let (held, most) = self.scheduler.room();
        self.stats.running.store(running, Ordering::Relaxed);
        self.stats.waiting.store(waiting, Ordering::Relaxed);
        self.stats.held_tokens.store(held, Ordering::Relaxed);
        self.stats.most_tokens.store(most, Ordering::Relaxed);
    }
}
