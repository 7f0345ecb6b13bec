//! Base against adapter on held-out rows: loss, perplexity, generated answers against the references, and multiple choice.
//!
//! [`measure`] and [`measure_choices`] judge one of the two, [`compare()`] sets both side by side: over all rows, as a mean over tasks and task by
//! task, with intervals of the difference. Refuses to know where rows come from and how a verdict is shown.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 1 | `compare`, `normalisation` | two measures side by side; when two answers are the same |
//! | 2 | `choices` | the likeliest choice of a question |

mod choices;
mod compare;
mod normalisation;
#[cfg(test)]
mod tests;

pub use self::choices::measure_choices;
pub use self::compare::{ClusterResult, Compared, Comparison, Label, Metric, Over, RESAMPLES, TaskResult, compare};
pub use self::normalisation::normalised;
use crate::data::{ExampleRef, Examples, Prompt, Prompts, Tokenizer};
use crate::error::Result;
use crate::generate::{self, Limits, Sampling};
use crate::model::{Adapt, Marked, Model};
use crate::{recipe, rouge};

/// Held-out rows and how to judge them.
pub struct EvalRows<'a> {
    pub examples: &'a Examples,
    /// One for each example that has a prompt, in the same order.
    pub prompts: &'a Prompts,
    pub tokenizer: &'a Tokenizer,
    /// Ids that end an answer.
    pub stop: &'a [u32],
    pub settings: &'a recipe::Eval,
    /// Judge at most this many rows, spread evenly over all.
    pub limit: Option<usize>,
}

/// What was measured for one adapter (or the base).
#[derive(Debug, Clone, serde::Serialize)]
pub struct Measure {
    /// Mean cross-entropy per trained token, nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Share of generated answers that equal one of the row's references, white space at the ends apart (or, with
    /// `eval.normalize`, as [`normalised`]); `None` when not asked for, or no row has a prompt.
    pub exact_match: Option<f64>,
    /// Mean ROUGE-L (F-measure, stemmed) against the most similar reference, 0 to 1; `None` as above.
    pub rouge_l: Option<f64>,
    /// Rows judged.
    pub rows: usize,
    /// The same for each row, in the order of [`EvalRows::judged`].
    #[serde(skip)]
    pub each: Vec<RowScore>,
    /// Generated answers: index into the prompts, text.
    #[serde(skip)]
    pub answers: Vec<(usize, String)>,
}

/// What was measured on one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowScore {
    /// Sum of the cross-entropies of its trained tokens, nats.
    pub nats: f64,
    /// Its trained tokens.
    pub tokens: usize,
    /// 1 where the answer is right, else 0.
    pub exact_match: Option<f64>,
    pub rouge_l: Option<f64>,
    /// Of a multiple-choice question: 1 where the right choice is the likeliest, else 0.
    pub acc: Option<f64>,
    /// The same by log-probability per character.
    pub acc_norm: Option<f64>,
    /// The same by log-probability per byte of UTF-8.
    pub acc_bytes: Option<f64>,
}

impl Measure {
    /// The means of `each`.
    fn of(each: Vec<RowScore>, answers: Vec<(usize, String)>) -> Measure {
        let mean = |metric: Metric| metric.over(each.iter());
        let loss = mean(Metric::Loss).unwrap_or(f64::NAN);
        let (exact_match, rouge_l) = (mean(Metric::ExactMatch), mean(Metric::RougeL));
        Measure { loss, perplexity: loss.exp(), exact_match, rouge_l, rows: each.len(), each, answers }
    }
}

impl EvalRows<'_> {
    /// The rows that are judged: index of the example and, where it has one, of its prompt.
    pub fn judged(&self) -> Vec<(usize, Option<usize>)> {
        let all = self.examples.len();
        let count = self.limit.map_or(all, |limit| limit.min(all));
        let mut next = 0;
        let prompts: Vec<Option<usize>> = self
            .examples
            .iter()
            .map(|example| {
                let mine = next < self.prompts.len() && self.prompts.place(next) == (example.source, example.line);
                next += usize::from(mine);
                mine.then_some(next.wrapping_sub(1))
            })
            .collect();
        (0..count).map(|i| i * all / count).map(|i| (i, prompts[i])).collect()
    }

    /// The task of each judged row.
    pub fn labels(&self) -> Vec<Label> {
        let label = |(_, prompt): (usize, Option<usize>)| {
            let prompt = prompt.map(|at| self.prompts.get(at));
            prompt.map_or_else(Label::default, |p| Label { task: p.task, cluster: p.cluster })
        };
        self.judged().into_iter().map(label).collect()
    }
}

/// Judges `adapt` on the rows. `progress` hears (what, done, all); an error of its own ends the work.
///
/// # Errors
/// As the model's forward pass, and what `progress` returns.
pub fn measure(
    model: &Model,
    adapt: &dyn Adapt,
    rows: &EvalRows,
    progress: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
) -> Result<Measure> {
    let judged = rows.judged();
    let examples: Vec<ExampleRef> = judged.iter().map(|(i, _)| rows.examples.get(*i)).collect();
    let ids: Vec<&[u32]> = examples.iter().map(|e| e.ids).collect();
    let texts = Marked { ids: &ids, trained: &|text, i| examples[text].trained.get(i) };
    let (size, all) = (rows.settings.batch_size, examples.len());
    let scores = model.score_each(adapt, texts, size, &mut |done| progress("loss", done, all))?;
    let mut each: Vec<RowScore> =
        scores.iter().map(|s| RowScore { nats: s.sum, tokens: s.tokens, ..RowScore::default() }).collect();
    let mut answers = Vec::new();
    if rows.settings.generates() {
        let asked: Vec<usize> = judged.iter().filter_map(|(_, prompt)| *prompt).collect();
        let texts = generated(model, adapt, rows, &asked, progress)?;
        let with_prompt = each.iter_mut().zip(&judged).filter(|(_, (_, prompt))| prompt.is_some());
        for (((score, _), prompt), text) in with_prompt.zip(&asked).zip(&texts) {
            judge(score, &rows.prompts.get(*prompt), text, rows.settings);
        }
        answers = asked.into_iter().zip(texts).collect();
    }
    Ok(Measure::of(each, answers))
}

/// Greedy answers to the prompts.
fn generated(
    model: &Model,
    adapt: &dyn Adapt,
    rows: &EvalRows,
    asked: &[usize],
    progress: &mut dyn FnMut(&str, usize, usize) -> Result<()>,
) -> Result<Vec<String>> {
    let prompts: Vec<Vec<u32>> = asked.iter().map(|i| rows.prompts.get(*i).ids).collect();
    let limits = Limits { min_new_tokens: 0, max_new_tokens: rows.settings.max_new_tokens, stop: rows.stop.to_vec() };
    let (size, all) = (rows.settings.batch_size, prompts.len());
    let ids =
        generate::batch(model, adapt, &prompts, &Sampling::GREEDY, &limits, size, &mut |done| progress("answers", done, all))?;
    ids.iter().map(|ids| rows.tokenizer.decode(ids, true)).collect()
}

/// Sets what is asked for about an answer.
fn judge(score: &mut RowScore, prompt: &Prompt, answer: &str, settings: &recipe::Eval) {
    let references = prompt.references.iter().map(String::as_str);
    if settings.exact_match {
        let right = match settings.normalize {
            true => references.clone().any(|r| normalised(r) == normalised(answer)),
            false => references.clone().any(|r| r.trim() == answer.trim()),
        };
        score.exact_match = Some(f64::from(u8::from(right)));
    }
    if settings.rouge_l {
        score.rouge_l = Some(rouge::best(references, answer, true));
    }
}
