//! Tokens a second of greedy decoding, of equal rows that go through the model together.

use std::time::Instant;

use crate::error::Result;
use crate::generate::{self, Limits, Sampling};
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
    /// Tokens of each row that were timed.
    pub tokens: usize,
    /// Tokens a second, of all rows together.
    pub tok_s: f64,
}

/// Times `tokens` tokens of each of `rows` rows, behind a prompt of random ids and a few tokens that are not timed.
///
/// # Errors
/// As [`generate::batch`].
pub fn decode(model: &Model, adapt: &dyn Adapt, rows: usize, tokens: usize) -> Result<DecodeReport> {
    let prompt: Vec<u32> = (0..PROMPT as u64).map(|i| (random::indexed(1, i) % model.config.vocab as u64) as u32).collect();
    let limits = Limits { max_new_tokens: WARM_UP + tokens, stop: Vec::new() };
    let (mut steps, mut began, mut ended) = (0, Instant::now(), Instant::now());
    let mut step = |_| {
        steps += 1;
        model.device.synchronize()?;
        ended = Instant::now();
        if steps == WARM_UP {
            began = ended;
        }
        Ok(())
    };
    generate::batch(model, adapt, &vec![prompt; rows], &Sampling::GREEDY, &limits, rows, &mut step)?;
    let tokens = steps - WARM_UP.min(steps);
    let (device, machine) = (device::name(&model.device), model.machine());
    Ok(DecodeReport { device, machine, rows, tokens, tok_s: (tokens * rows) as f64 / (ended - began).as_secs_f64() })
}
