//! Many prompts under one adapter.
//!
//! Prompts of similar length go through the model together, padded on the left; rows whose answer has ended leave the
//! batch, and what is left is moved together so that they cost nothing.

use super::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::model::{Adapt, Batch, Ctx, KvCache, Model};

/// The batch is moved together when this share of its rows has ended.
const ENDED: f64 = 1.0 / 8.0;

/// Answers to `prompts` in their order: new tokens only, without the one that ended each. `rows` prompts are worked on at
/// once; `pad` is any id of the vocabulary; `progress` is told how many answers are complete, after every
/// token of the batch; an error of its own ends the work.
/// Hand over an adapter's [`crate::adapter::Adapter::frozen`] form, or every step prepares a gradient.
///
/// # Errors
/// [`Error::Usage`] for an empty prompt, one longer than the model takes, or impossible sampling; [`Error::NonFinite`] when the
/// model's output is not a number; what `progress` returns.
#[allow(clippy::too_many_arguments, reason = "what to run, how to choose and how to lay it out are three separate things")]
pub fn batch(
    model: &Model,
    adapt: &dyn Adapt,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    limits: &Limits,
    rows: usize,
    pad: u32,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    batch_until(model, adapt, prompts, sampling, limits, rows, pad, &mut |_, _| Ok(false), progress)
}

/// As [`batch`]; an answer also ends, its last token included, when `ended` says so of it: it is asked after every token,
/// with the prompt's place and the answer so far.
///
/// # Errors
/// As [`batch`], and what `ended` returns.
#[allow(clippy::too_many_arguments, reason = "as batch")]
pub fn batch_until(
    model: &Model,
    adapt: &dyn Adapt,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    limits: &Limits,
    rows: usize,
    pad: u32,
    ended: &mut dyn FnMut(usize, &[u32]) -> Result<bool>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    check(model, prompts)?;
    if limits.max_new_tokens == 0 {
        return Ok(vec![Vec::new(); prompts.len()]);
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| (prompts[*i].len(), *i));
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut complete = 0;
    for group in order.chunks(rows.max(1)) {
        let mut running = Running::start(model, prompts, group, limits)?;
        let mut logits = running.prefill(model, adapt, pad)?;
        loop {
            let most = model.config.max_positions;
            complete += running.choose(&mut logits, sampling, limits, most, ended, &mut answers)?;
            progress(complete)?;
            if running.rows.iter().all(|row| row.ended) {
                break;
            }
            running.compact()?;
            logits = running.step(model, adapt, pad)?;
        }
    }
    Ok(answers)
}

/// Refuses what would fail after minutes of work.
fn check(model: &Model, prompts: &[Vec<u32>]) -> Result<()> {
    let most = model.config.max_positions;
    match prompts.iter().enumerate().find(|(_, p)| p.is_empty() || p.len() > most) {
        None => Ok(()),
        Some((i, p)) if p.is_empty() => {
            Err(Error::usage(format!("prompt {}", i + 1), "it has no tokens, so nothing can follow", "give it some text"))
        }
        Some((i, p)) => Err(Error::usage(
            format!("prompt {}", i + 1),
            format!("{} tokens, the model takes at most {most}", p.len()),
            "shorten the text",
        )),
    }
}

/// A prompt and its answer so far.
struct AnswerRow {
    prompt: usize,
    text: Vec<u32>,
    asked: usize,
    /// Pad tokens before it in the cache.
    gap: usize,
    ended: bool,
}

/// The rows in the model at one time.
struct Running {
    rows: Vec<AnswerRow>,
    cache: KvCache,
}

impl Running {
    fn start(model: &Model, prompts: &[Vec<u32>], group: &[usize], limits: &Limits) -> Result<Running> {
        let longest = group.iter().map(|i| prompts[*i].len()).max().unwrap_or(0);
        let row = |i: &usize| AnswerRow {
            prompt: *i,
            text: prompts[*i].clone(),
            asked: prompts[*i].len(),
            gap: longest - prompts[*i].len(),
            ended: false,
        };
        // The last token of an answer is never fed.
        let capacity = longest + limits.max_new_tokens.min(model.config.max_positions);
        let cache = KvCache::new(&model.config, group.len(), capacity, &model.device)?;
        Ok(Running { rows: group.iter().map(row).collect(), cache })
    }

    /// Logits after the prompts, row by row.
    fn prefill(&mut self, model: &Model, adapt: &dyn Adapt, pad: u32) -> Result<Vec<f32>> {
        let texts: Vec<&[u32]> = self.rows.iter().map(|row| row.text.as_slice()).collect();
        forward(model, adapt, &mut self.cache, &Batch::left_padded(&texts, pad))
    }

    /// Logits after one more token of each row.
    fn step(&mut self, model: &Model, adapt: &dyn Adapt, pad: u32) -> Result<Vec<f32>> {
        let last = |row: &AnswerRow| if row.ended { pad } else { row.text.last().copied().unwrap_or(pad) };
        let ids = self.rows.iter().map(last).collect();
        let gaps: Vec<usize> = self.rows.iter().map(|row| row.gap).collect();
        let mut batch = Batch::next(ids, self.cache.len(), &gaps);
        // A row that has ended counts on beyond its last position until it leaves; what it computes is not read.
        let most = model.config.max_positions as u32 - 1;
        batch.positions.iter_mut().for_each(|position| *position = (*position).min(most));
        forward(model, adapt, &mut self.cache, &batch)
    }

    /// Chooses a token for every row that goes on; returns how many ended.
    fn choose(
        &mut self,
        logits: &mut [f32],
        sampling: &Sampling,
        limits: &Limits,
        max_positions: usize,
        until: &mut dyn FnMut(usize, &[u32]) -> Result<bool>,
        answers: &mut [Vec<u32>],
    ) -> Result<usize> {
        let (width, mut ended) = (logits.len() / self.rows.len(), 0);
        for (row, logits) in self.rows.iter_mut().zip(logits.chunks_exact_mut(width)).filter(|(row, _)| !row.ended) {
            let id = sampling.choose(logits, &row.text, row.prompt as u64)?;
            let stop = limits.stop.contains(&id);
            if !stop {
                row.text.push(id);
            }
            let full = row.text.len() - row.asked >= limits.max_new_tokens || row.text.len() > max_positions;
            if stop || full || until(row.prompt, &row.text[row.asked..])? {
                row.ended = true;
                answers[row.prompt] = row.text.split_off(row.asked);
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Lets the rows go that have ended, once they are enough to be worth moving the others.
    fn compact(&mut self) -> Result<()> {
        let going: Vec<usize> = (0..self.rows.len()).filter(|i| !self.rows[*i].ended).collect();
        let ended = self.rows.len() - going.len();
        if ended == 0 || (ended as f64) < ENDED * self.rows.len() as f64 {
            return Ok(());
        }
        self.cache.keep_rows(&going)?;
        self.rows.retain(|row| !row.ended);
        Ok(())
    }
}

fn forward(model: &Model, adapt: &dyn Adapt, cache: &mut KvCache, batch: &Batch) -> Result<Vec<f32>> {
    super::in_pool(|| {
        let logits = model.forward_last(&mut Ctx::cached(adapt, cache), batch)?; // (b, v)
        Ok(logits.flatten_all()?.to_vec1()?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{CachedConversation, tiny_model};
    use super::*;

    fn prompts() -> Vec<Vec<u32>> {
        (0..19).map(|i| tiny_model::prompt(i, 1 + (i as usize * 7) % 23)).collect()
    }

    fn run(adapt: &dyn Adapt, sampling: Sampling, limits: &Limits, rows: usize) -> Vec<Vec<u32>> {
        let mut told = Vec::new();
        let answers = batch(&tiny_model::model(1), adapt, &prompts(), &sampling, limits, rows, 0, &mut |n| {
            told.push(n);
            Ok(())
        })
        .unwrap();
        assert!(told.is_sorted() && told.last() == Some(&prompts().len()), "{told:?}");
        answers
    }

    #[test]
    fn answers_do_not_depend_on_the_batch() {
        // Many stops, so that rows end at different times and the batch is moved together.
        let limits = Limits { max_new_tokens: 40, stop: (0..6).collect() };
        let adapter = tiny_model::adapter(&tiny_model::model(1), 3);
        let sampled = Sampling { temperature: 1.0, top_k: Some(20), seed: 9, ..Sampling::GREEDY };
        let penalised = Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY };
        for sampling in [Sampling::GREEDY, sampled, penalised] {
            let adapts: [&dyn Adapt; 2] = [&(), &adapter];
            for adapt in adapts {
                let alone = run(adapt, sampling, &limits, 1);
                let lengths: std::collections::HashSet<usize> = alone.iter().map(Vec::len).collect();
                assert!(lengths.len() > 2, "{lengths:?}");
                for rows in [2, 8, 64] {
                    assert_eq!(run(adapt, sampling, &limits, rows), alone, "{rows} rows, {sampling:?}");
                }
            }
        }
    }

    #[test]
    fn a_batch_says_what_a_conversation_says() {
        let model = tiny_model::model(1);
        let limits = Limits { max_new_tokens: 20, stop: vec![3, 4] };
        let answers = run(&(), Sampling::GREEDY, &limits, 8);
        for (prompt, answer) in prompts().iter().zip(&answers) {
            let mut session = CachedConversation::new(&model, 256).unwrap();
            assert_eq!(&session.generate(&(), "", prompt, &Sampling::GREEDY, &limits, &mut |_| true).unwrap(), answer);
        }
    }

    #[test]
    fn an_answer_ends_where_it_is_told_to() {
        let (model, limits) = (tiny_model::model(1), Limits { max_new_tokens: 20, stop: Vec::new() });
        let whole = run(&(), Sampling::GREEDY, &limits, 8);
        let mut ended = |prompt: usize, answer: &[u32]| Ok(answer.len() > prompt);
        let ids = prompts();
        let cut = batch_until(&model, &(), &ids, &Sampling::GREEDY, &limits, 8, 0, &mut ended, &mut |_| Ok(())).unwrap();
        for (i, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
            assert_eq!(cut, &whole[..i + 1]);
        }
        let mut fails = |_: usize, _: &[u32]| Err(Error::usage("x", "y", "z"));
        assert!(batch_until(&model, &(), &ids, &Sampling::GREEDY, &limits, 8, 0, &mut fails, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn the_models_last_position_ends_an_answer() {
        let model = tiny_model::model(1);
        let prompts = [tiny_model::prompt(1, 250), tiny_model::prompt(2, 256), tiny_model::prompt(3, 100)];
        let limits = Limits { max_new_tokens: 30, stop: Vec::new() };
        let answers = batch(&model, &(), &prompts, &Sampling::GREEDY, &limits, 3, 0, &mut |_| Ok(())).unwrap();
        assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [7, 1, 30]);
    }

    #[test]
    fn impossible_prompts_are_refused_before_any_work() {
        let model = tiny_model::model(1);
        let limits = Limits { max_new_tokens: 3, stop: Vec::new() };
        for bad in [Vec::new(), tiny_model::prompt(1, 257)] {
            let outcome = batch(&model, &(), &[vec![1], bad], &Sampling::GREEDY, &limits, 3, 0, &mut |_| Ok(()));
            assert!(outcome.unwrap_err().to_string().starts_with("prompt 2"));
        }
        let none = Limits { max_new_tokens: 0, ..limits };
        assert_eq!(batch(&model, &(), &[vec![1]], &Sampling::GREEDY, &none, 3, 0, &mut |_| Ok(())).unwrap(), [Vec::<u32>::new()]);
        assert!(batch(&model, &(), &[], &Sampling::GREEDY, &none, 3, 0, &mut |_| Ok(())).unwrap().is_empty());
    }
}
