//! Multiple choice as lm-eval judges it: the likeliest choice behind its question, by the sum of its tokens' log-probabilities.
//! Refuses to know how a question becomes tokens.

use super::{Measure, RowScore};
use crate::data::Question;
use crate::error::Result;
use crate::model::{Adapt, LossSum, Marked, Model};

/// Judges `adapt` on questions, `batch_size` choices at a time: [`Metric::Acc`](super::Metric::Acc), `AccNorm` and `AccBytes`,
/// and the loss of the right choices. `progress` hears how many choices are scored; an error of its own ends the work.
///
/// # Errors
/// As the model's forward pass, and what `progress` returns.
pub fn measure_choices(
    model: &Model,
    adapt: &dyn Adapt,
    questions: &[Question],
    batch_size: usize,
    progress: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
) -> Result<Measure> {
    let choices: Vec<_> = questions.iter().flat_map(|question| &question.choices).collect();
    let ids: Vec<&[u32]> = choices.iter().map(|choice| choice.ids.as_slice()).collect();
    let texts = Marked { ids: &ids, trained: &|text, i| i >= choices[text].prompt };
    let scores = model.score_each(adapt, texts, batch_size, &mut |done| progress("choices", done, ids.len()))?;
    let mut scores = scores.as_slice();
    let each = questions.iter().map(|question| {
        let (own, rest) = scores.split_at(question.choices.len());
        scores = rest;
        judged(question, own)
    });
    Ok(Measure::of(each.collect(), Vec::new()))
}

/// What a question's scores say, a sum of cross-entropies for each choice.
pub(super) fn judged(question: &Question, scores: &[LossSum]) -> RowScore {
    let right = |lengths: &dyn Fn(usize) -> usize| {
        let logps = scores.iter().enumerate().map(|(i, score)| -score.sum / lengths(i) as f64);
        Some(f64::from(u8::from(likeliest(logps) == Some(question.answer))))
    };
    let of = &question.choices;
    RowScore {
        nats: scores[question.answer].sum,
        tokens: scores[question.answer].tokens,
        acc: right(&|_| 1),
        acc_norm: right(&|i| of[i].characters),
        acc_bytes: right(&|i| of[i].bytes),
        ..RowScore::default()
    }
}

/// The place of the largest; of equal ones the first, as NumPy's `argmax`.
fn likeliest(values: impl Iterator<Item = f64>) -> Option<usize> {
    values.enumerate().reduce(|best, one| if one.1 > best.1 { one } else { best }).map(|(at, _)| at)
}
