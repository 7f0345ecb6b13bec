//! Many prompts under one adapter.

use std::sync::Arc;

use super::request::{Ended, Request};
use super::scheduler::Scheduler;
use super::{Limits, Sampling};
use crate::error::{Error, Result};
use crate::model::{Adapt, Model};

/// Answers to `prompts` in their order: new tokens only, without the one that ended each. `rows` prompts are worked on at
/// once; `progress` is told how many answers are complete, after every token of the batch; an error of its own ends the work.
///
/// # Errors
/// [`Error::Usage`] for an empty prompt, one longer than the model takes, or impossible sampling; [`Error::NonFinite`] when the
/// model's output is not a number; what `progress` returns.
pub fn batch(
    model: &Model,
    adapt: &dyn Adapt,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    limits: &Limits,
    rows: usize,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    batch_until(model, adapt, prompts, sampling, limits, rows, &mut |_, _| Ok(false), progress)
}

/// As [`batch`]; an answer also ends, its last token included, when `ended` says so of it: it is asked after every token,
/// with the prompt's place and the answer so far.
///
/// # Errors
/// As [`batch`], and what `ended` returns.
#[allow(clippy::too_many_arguments, reason = "what to run, how to choose and how to lay it out are three separate things")]
pub fn batch_until(
    model: &Model,
    adapt: &dyn Adapt,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    limits: &Limits,
    rows: usize,
    ended: &mut dyn FnMut(usize, &[u32]) -> Result<bool>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    check(model, prompts)?;
    let mut answers = vec![Vec::new(); prompts.len()];
    if limits.max_new_tokens == 0 || prompts.is_empty() {
        return Ok(answers);
    }
    let adapter = Arc::new(model.prepare(adapt)?);
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0).saturating_add(limits.max_new_tokens);
    let mut scheduler = Scheduler::new(model, rows, Scheduler::tokens_for(model, rows, longest));
    // Long ones first, so that no long one is left alone at the end.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(prompts[*i].len()), *i));
    for i in order {
        let (id, adapter, prompt) = (i as u64, adapter.clone(), prompts[i].clone());
        scheduler.submit(Request::new(id, adapter, prompt, sampling.clone(), limits.clone()))?;
    }
    let mut complete = 0;
    while !scheduler.is_idle() {
        for turn in scheduler.turn()? {
            let prompt = turn.request as usize;
            if let Some(Ended::Failed(error)) = turn.ended {
                return Err(error);
            }
            if turn.ended.is_some() || (turn.token.is_some() && ended(prompt, scheduler.answer(turn.request))?) {
                answers[prompt] = scheduler.finish(turn.request);
                complete += 1;
            }
        }
        progress(complete)?;
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

#[cfg(test)]
mod tests {
    use super::super::{CachedConversation, tiny_model};
    use super::*;

    fn prompts() -> Vec<Vec<u32>> {
        (0..19).map(|i| tiny_model::prompt(i, 1 + (i as usize * 7) % 23)).collect()
    }

    fn run(adapt: &dyn Adapt, sampling: &Sampling, limits: &Limits, rows: usize) -> Vec<Vec<u32>> {
        let mut told = Vec::new();
        let answers = batch(&tiny_model::model(1), adapt, &prompts(), sampling, limits, rows, &mut |n| {
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
        let limits = Limits { min_new_tokens: 0, max_new_tokens: 40, stop: (0..6).collect() };
        let adapter = tiny_model::adapter(&tiny_model::model(1), 3);
        let sampled = Sampling { temperature: 1.0, top_k: Some(20), seed: 9, ..Sampling::GREEDY };
        let penalised = Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY };
        for sampling in [Sampling::GREEDY, sampled, penalised] {
            let adapts: [&dyn Adapt; 2] = [&(), &adapter];
            for adapt in adapts {
                let alone = run(adapt, &sampling, &limits, 1);
                let lengths: std::collections::HashSet<usize> = alone.iter().map(Vec::len).collect();
                assert!(lengths.len() > 2, "{lengths:?}");
                for rows in [2, 8, 64] {
                    assert_eq!(run(adapt, &sampling, &limits, rows), alone, "{rows} rows, {sampling:?}");
                }
            }
        }
    }

    #[test]
    fn a_batch_says_what_a_conversation_says() {
        let model = tiny_model::model(1);
        let limits = Limits { min_new_tokens: 0, max_new_tokens: 20, stop: vec![3, 4] };
        let answers = run(&(), &Sampling::GREEDY, &limits, 8);
        for (prompt, answer) in prompts().iter().zip(&answers) {
            let mut session = CachedConversation::new(&model, 256);
            assert_eq!(
                &session
                    .generate(&Arc::new(model.prepare(&()).unwrap()), prompt, &Sampling::GREEDY, &limits, &mut |_| true)
                    .unwrap(),
                answer
            );
        }
    }

    #[test]
    fn an_answer_ends_where_it_is_told_to() {
        let (model, limits) = (tiny_model::model(1), Limits { min_new_tokens: 0, max_new_tokens: 20, stop: Vec::new() });
        let whole = run(&(), &Sampling::GREEDY, &limits, 8);
        let mut ended = |prompt: usize, answer: &[u32]| Ok(answer.len() > prompt);
        let ids = prompts();
        let cut = batch_until(&model, &(), &ids, &Sampling::GREEDY, &limits, 8, &mut ended, &mut |_| Ok(())).unwrap();
        for (i, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
            assert_eq!(cut, &whole[..i + 1]);
        }
        let mut fails = |_: usize, _: &[u32]| Err(Error::usage("x", "y", "z"));
        assert!(batch_until(&model, &(), &ids, &Sampling::GREEDY, &limits, 8, &mut fails, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn the_models_last_position_ends_an_answer() {
        let model = tiny_model::model(1);
        let prompts = [tiny_model::prompt(1, 250), tiny_model::prompt(2, 256), tiny_model::prompt(3, 100)];
        let limits = Limits { min_new_tokens: 0, max_new_tokens: 30, stop: Vec::new() };
        let answers = batch(&model, &(), &prompts, &Sampling::GREEDY, &limits, 3, &mut |_| Ok(())).unwrap();
        assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [7, 1, 30]);
    }

    #[test]
    fn impossible_prompts_are_refused_before_any_work() {
        let model = tiny_model::model(1);
        let limits = Limits { min_new_tokens: 0, max_new_tokens: 3, stop: Vec::new() };
        for bad in [Vec::new(), tiny_model::prompt(1, 257)] {
            let outcome = batch(&model, &(), &[vec![1], bad], &Sampling::GREEDY, &limits, 3, &mut |_| Ok(()));
            assert!(outcome.unwrap_err().to_string().starts_with("prompt 2"));
        }
        let none = Limits { min_new_tokens: 0, max_new_tokens: 0, ..limits };
        assert_eq!(batch(&model, &(), &[vec![1]], &Sampling::GREEDY, &none, 3, &mut |_| Ok(())).unwrap(), [Vec::<u32>::new()]);
        assert!(batch(&model, &(), &[], &Sampling::GREEDY, &none, 3, &mut |_| Ok(())).unwrap().is_empty());
    }
}
