//! Tokens a second of greedy decoding, of equal rows that go through the model together, under one adapter or several.

use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;
use crate::generate::{Limits, Request, Sampling, Scheduler};
use crate::model::{Adapt, MachineKind, Model};
use crate::{device, random};

/// Tokens of a row's prompt.
const PROMPT: usize = 16;
/// Tokens of a row before the clock starts.
const WARM_UP: usize = 8;

/// What came out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DecodeReport {
    /// As `--device` names it.
    pub device: String,
    pub machine: MachineKind,
    pub rows: usize,
    /// Adapters that the rows are under, in turn.
    pub adapters: usize,
    /// Tokens of each row that were timed.
    pub tokens: usize,
    /// Tokens a second, of all rows together.
    pub tok_s: f64,
}

/// Times `tokens` tokens of each of `rows` rows, behind a prompt of random ids and a few tokens that are not timed; the rows are under
/// `adapts` in turn, under the bare base where there are none.
///
/// # Errors
/// As [`Scheduler::turn`].
pub fn decode(model: &Model, adapts: &[&dyn Adapt], rows: usize, tokens: usize) -> Result<DecodeReport> {
    let prompt: Vec<u32> = (0..PROMPT as u64).map(|i| (random::indexed(1, i) % model.config.vocab as u64) as u32).collect();
    let limits = Limits { min_new_tokens: 0, max_new_tokens: WARM_UP + tokens, stop: Vec::new() };
    let bare: [&dyn Adapt; 1] = [&()];
    let acting = if adapts.is_empty() { &bare } else { adapts };
    let prepared = acting.iter().map(|adapt| model.prepare(*adapt).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    let longest = PROMPT + WARM_UP + tokens;
    let mut scheduler = Scheduler::new(model, rows, Scheduler::tokens_for(model, rows, longest));
    for row in 0..rows {
        let adapter = prepared[row % prepared.len()].clone();
        scheduler.submit(Request::new(row as u64, adapter, prompt.clone(), Sampling::GREEDY, limits.clone()))?;
    }
    let (mut turns, mut began, mut ended) = (0, Instant::now(), Instant::now());
    while !scheduler.is_idle() {
        // Only turns that bring every row a token are counted.
        let found = scheduler.turn()?;
        found.iter().filter(|turn| turn.ended.is_some()).for_each(|turn| drop(scheduler.finish(turn.request)));
        if found.len() == rows {
            turns += 1;
            model.device.synchronize()?;
            ended = Instant::now();
        }
        if turns <= WARM_UP {
            began = ended;
        }
    }
    let tokens = turns - WARM_UP.min(turns);
    let (device, machine) = (device::name(&model.device), model.machine());
    let tok_s = (tokens * rows) as f64 / (ended - began).as_secs_f64();
    Ok(DecodeReport { device, machine, rows, adapters: adapts.len(), tokens, tok_s })
}
