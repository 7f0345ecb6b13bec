//! Figures of a load point, all requests together and by model.

use serde::Serialize;

use super::exchange::{Exchange, Outcome};
use super::quantiles::Quantiles;
use super::schedule::Load;

/// What a load point came to. Rates are over `seconds`, which end with the last answer: a closed loop's last requests, with
/// less company, are in them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointReport {
    #[serde(flatten)]
    pub load: Load,
    /// From the beginning to the last answer.
    pub seconds: f64,
    #[serde(flatten)]
    pub all: Figures,
    pub models: Vec<ModelFigures>,
}

/// The figures of one model's requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelFigures {
    pub model: String,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Counts, rates, and times in seconds. In an open loop times count from the intended time of arrival, so that waiting before
/// a slow server is in them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub answered: usize,
    /// Status 429.
    pub refused: usize,
    pub failed: usize,
    /// Under way when the user asked to stop; in no other figure.
    pub unfinished: usize,
    /// Answered requests a second.
    pub requests_per_s: f64,
    /// Tokens of the answers, a second.
    pub tokens_per_s: f64,
    /// Tokens of the answered prompts, a second; of those whose server counts them.
    pub prompt_tokens_per_s: Option<f64>,
    pub tokens: usize,
    pub prompt_tokens: Option<usize>,
    /// What tokens of answers were counted by.
    pub counted_by: CountedBy,
    /// To the first text.
    pub ttft_s: Option<Quantiles>,
    /// Between pieces of text that follow each other, which are tokens where a server sends each by itself.
    pub itl_s: Option<Quantiles>,
    /// From the first text to the end, by tokens behind the first, of each answer.
    pub tpot_s: Option<Quantiles>,
    /// To the end of the answer.
    pub e2e_s: Option<Quantiles>,
    /// To a refusal.
    pub refusal_s: Option<Quantiles>,
    /// From the intended time of arrival until the request was begun: what the generator itself was late.
    pub delay_s: Option<Quantiles>,
    pub errors: Vec<ErrorCount>,
}

/// What tokens of answers were counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CountedBy {
    /// The server's own counts.
    Usage,
    /// Pieces of text, since the server sent no counts.
    Chunks,
    /// Usage of some answers, pieces of text of others.
    Both,
    /// There are no answers.
    Nothing,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// `connect`, `lost`, `timeout`, `status NNN`, `malformed` or `reported`.
    pub kind: String,
    pub count: usize,
    /// What the first one said.
    pub first: String,
}

/// What was measured at a load point.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) exchanges: Vec<Exchange>,
    /// The models of requests that were under way at a stop.
    pub(super) unfinished: Vec<usize>,
    /// Whether the user asked to stop, after so many seconds.
    pub(super) stopped: Option<f64>,
}

impl Measured {
    /// The figures of the load point.
    pub(super) fn report(&self, load: Load, models: &[String]) -> PointReport {
        let last = self.exchanges.iter().map(|e| e.ended).fold(0.0, f64::max);
        let seconds = self.stopped.unwrap_or(last);
        let of_model = |(place, model): (usize, &String)| ModelFigures {
            model: model.clone(),
            figures: self.figures(seconds, &|model| model == place),
        };
        let by_model = models.iter().enumerate().map(of_model).collect();
        PointReport { load, seconds, all: self.figures(seconds, &|_| true), models: by_model }
    }

    fn figures(&self, seconds: f64, counts: &dyn Fn(usize) -> bool) -> Figures {
        let chosen: Vec<&Exchange> = self.exchanges.iter().filter(|e| counts(e.model)).collect();
        let mut answers = Vec::new();
        let mut refusals = Vec::new();
        let mut errors: Vec<ErrorCount> = Vec::new();
        for exchange in &chosen {
            match &exchange.outcome {
                Outcome::Answered(answer) => answers.push(answer),
                Outcome::Refused(after) => refusals.push(*after),
                Outcome::Failed(failure) => {
                    let kind = failure.kind.name();
                    match errors.iter_mut().find(|e| e.kind == kind) {
                        Some(known) => known.count += 1,
                        None => errors.push(ErrorCount { kind, count: 1, first: failure.why.clone() }),
                    }
                }
            }
        }
        let tokens = answers.iter().map(|a| a.tokens()).sum();
        let with_usage = answers.iter().filter(|a| a.usage.is_some()).count();
        let prompt_tokens = (with_usage > 0).then(|| answers.iter().filter_map(|a| a.usage).map(|u| u.prompt_tokens).sum());
        let tpot = |(first, end, tokens): (f64, f64, usize)| (tokens > 1).then(|| (end - first) / (tokens - 1) as f64);
        let per_s = |n: usize| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Figures {
            answered: answers.len(),
            refused: refusals.len(),
            failed: chosen.len() - answers.len() - refusals.len(),
            unfinished: self.unfinished.iter().filter(|model| counts(**model)).count(),
            requests_per_s: per_s(answers.len()),
            tokens_per_s: per_s(tokens),
            prompt_tokens_per_s: prompt_tokens.map(per_s),
            tokens,
            prompt_tokens,
            counted_by: CountedBy::of(with_usage, answers.len()),
            ttft_s: Quantiles::of(answers.iter().filter_map(|a| a.first).collect()),
            itl_s: Quantiles::of(answers.iter().flat_map(|a| a.gaps.iter().copied()).collect()),
            tpot_s: Quantiles::of(answers.iter().filter_map(|a| tpot((a.first?, a.end, a.tokens()))).collect()),
            e2e_s: Quantiles::of(answers.iter().map(|a| a.end).collect()),
            refusal_s: Quantiles::of(refusals),
            delay_s: Quantiles::of(chosen.iter().map(|e| e.delay).collect()),
            errors,
        }
    }
}

impl CountedBy {
    fn of(with_usage: usize, answers: usize) -> CountedBy {
        match (with_usage, answers) {
            (_, 0) => CountedBy::Nothing,
            (0, _) => CountedBy::Chunks,
            _ if with_usage == answers => CountedBy::Usage,
            _ => CountedBy::Both,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::serve::exchange::{Answer, Kind, Usage};

    fn answered(model: usize, ended: f64, usage: Option<Usage>) -> Exchange {
        let answer = Answer { first: Some(1.0), end: 3.0, gaps: vec![0.5, 1.5], chunks: 3, usage };
        Exchange { model, delay: 0.0, ended, outcome: Outcome::Answered(answer) }
    }

    #[test]
    fn figures_count_each_request_once() {
        let usage = Some(Usage { prompt_tokens: 10, completion_tokens: 5 });
        let failed = |why: &str| Exchange { outcome: Outcome::Failed(Kind::Status(500).because(why)), ..answered(1, 2.0, None) };
        let refused = Exchange { outcome: Outcome::Refused(0.25), ..answered(0, 1.0, None) };
        let exchanges = vec![answered(0, 3.0, usage), answered(1, 4.0, None), refused, failed("x"), failed("y")];
        let measured = Measured { exchanges, unfinished: vec![1], stopped: None };
        let report = measured.report(Load::Closed { concurrency: 2 }, &["a".into(), "b".into()]);
        let all = &report.all;
        assert_eq!((all.answered, all.refused, all.failed, all.unfinished), (2, 1, 2, 1));
        assert_eq!((report.seconds, all.requests_per_s, all.tokens_per_s, all.prompt_tokens_per_s), (4.0, 0.5, 2.0, Some(2.5)));
        assert_eq!((all.tokens, all.prompt_tokens, all.counted_by), (8, Some(10), CountedBy::Both));
        assert_eq!(all.errors, [ErrorCount { kind: "status 500".into(), count: 2, first: "x".into() }]);
        assert_eq!((all.itl_s.unwrap().count, all.refusal_s.unwrap().p50), (4, 0.25));
        // Two seconds for four tokens behind the first, and for two.
        assert_eq!(all.tpot_s.unwrap().mean, 0.75);
        let [a, b] = [&report.models[0].figures, &report.models[1].figures];
        assert_eq!((a.answered, a.refused, a.failed, a.counted_by), (1, 1, 0, CountedBy::Usage));
        assert_eq!((b.answered, b.failed, b.unfinished, b.counted_by), (1, 2, 1, CountedBy::Chunks));
    }

    #[test]
    fn nothing_measured_is_no_division_by_nothing() {
        let report = Measured::default().report(Load::Open { rate: 1.0 }, &["a".into()]);
        assert_eq!((report.all.tokens_per_s, report.all.ttft_s, report.all.counted_by), (0.0, None, CountedBy::Nothing));
    }
}
