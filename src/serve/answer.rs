//! From a prompt to its choices: tokens from the engine, text with stop strings held back, and log-probabilities.

use std::sync::Arc;
use std::time::Instant;

use super::app::App;
use super::error::ApiError;
use super::params::Params;
use super::registry::Held;
use super::target::Target;
use crate::generate::{Answering, Constraint, Ended, Event, Refused, Request, StopFilter, TextStream, TokenLogp, WantedLogps};

/// All that the choices of a prompt need.
pub(super) struct Plan<'a> {
    pub(super) target: &'a Target,
    pub(super) prompt: Vec<u32>,
    /// The field that the prompt came in.
    pub(super) param: &'static str,
    pub(super) params: &'a Params,
    pub(super) logps: WantedLogps,
    pub(super) constraint: Option<Constraint>,
    pub(super) salt: [u8; 32],
    /// The answer's text goes on with the prompt's, and the token that ends it is scored like the others.
    pub(super) continues: bool,
    /// Control tokens are part of the answer's text: markers of calls may be such.
    pub(super) control: bool,
}

/// A token of an answer.
#[derive(Debug, Clone)]
pub(super) struct AnswerToken {
    pub(super) id: u32,
    pub(super) logp: Option<TokenLogp>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
}

impl Finish {
    pub(super) fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// What comes of a choice.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tokens: Vec<AnswerToken>,
    /// Scores of the prompt's tokens.
    pub(super) prompt: Vec<TokenLogp>,
    /// Its last piece.
    pub(super) finish: Option<Finish>,
}

/// One answer as it comes.
pub(super) struct Choice {
    answering: Answering,
    text: TextStream,
    filter: StopFilter<Option<AnswerToken>>,
    /// The token that ends the answer is told with those of its text.
    tells_end: bool,
    ending: Option<AnswerToken>,
    /// The generation that it began with stays as long as it goes on.
    _leases: Vec<Held>,
    pub(super) prompt_tokens: usize,
    pub(super) reused: usize,
    pub(super) answer_tokens: usize,
    began: Instant,
    last: Option<Instant>,
    app: Arc<App>,
    ended: bool,
}

/// Submits the choices of all `plans`, all or none.
///
/// # Errors
/// 400 for a prompt that does not fit, 429 where too many wait, 503 while the server ends.
pub(super) fn start(app: &Arc<App>, plans: Vec<Plan>) -> Result<Vec<Choice>, ApiError> {
    let asked: usize = plans.iter().map(|plan| plan.params.n).sum();
    let most = app.settings.engine.rows + app.settings.engine.queue;
    if asked > most {
        let message = format!("{asked} answers in one request are more than the {most} that this server takes at once");
        return Err(ApiError::field("n", message));
    }
    let longest = app.engine.longest();
    let (mut requests, mut texts) = (Vec::new(), Vec::new());
    for plan in plans {
        let mut limits = plan.params.limits.clone();
        let n = plan.prompt.len();
        let answers = limits.max_new_tokens > 0;
        if n + usize::from(answers) > longest {
            let message = format!(
                "the prompt has {n} tokens and an answer at least one, there is room for {longest}; nothing is cut here: shorten it"
            );
            return Err(ApiError::too_long(plan.param, message));
        }
        limits.max_new_tokens = limits.max_new_tokens.min(longest - n);
        for at in 0..plan.params.n {
            let request = Request {
                stream: at as u64,
                logps: plan.logps,
                constraint: plan.constraint.clone(),
                salt: plan.salt,
                ..Request::new(0, plan.target.acting.clone(), plan.prompt.clone(), plan.params.sampling.clone(), limits.clone())
            };
            let before: &[u32] = if plan.continues { &plan.prompt } else { &[] };
            let text = TextStream::new(app.tokenizer.clone(), before).with_control(plan.control);
            let filter = StopFilter::new(plan.params.stop.clone(), plan.params.include_stop);
            requests.push(request);
            texts.push((text, filter, plan.continues, plan.target.leases.iter().cloned().map(Held::new).collect::<Vec<_>>(), n));
        }
    }
    let answering = app.engine.submit(requests).map_err(|refused| match refused {
        Refused::Full(waiting) => {
            app.metrics.refused();
            ApiError::busy("queue_full", format!("{waiting} requests wait already; try again in a moment"))
        }
        Refused::Ending => ApiError::ending(),
        Refused::Bad(error) => ApiError::from(error),
    })?;
    let choice = |(answering, (text, filter, tells_end, leases, prompt_tokens))| Choice {
        answering,
        text,
        filter,
        tells_end,
        ending: None,
        _leases: leases,
        prompt_tokens,
        reused: 0,
        answer_tokens: 0,
        began: Instant::now(),
        last: None,
        app: app.clone(),
        ended: false,
    };
    Ok(answering.into_iter().zip(texts).map(choice).collect())
}

impl Choice {
    /// The next piece that says something; none after the last one.
    ///
    /// # Errors
    /// 500 where the answer could not go on, 503 where the server ends.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        let mut closing = self.app.closing.subscribe();
        while !self.ended {
            let event = tokio::select! {
                event = self.answering.next() => event,
                _ = closing.wait_for(|closing| *closing) => return Err(self.fail(ApiError::ending())),
            };
            if let Some(piece) = self.piece(event)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn piece(&mut self, event: Option<Event>) -> Result<Option<Piece>, ApiError> {
        match event {
            None => Err(self.fail(ApiError::fault("the model's thread is gone"))),
            Some(Event::Begun { reused }) => {
                self.reused = reused;
                Ok(None)
            }
            Some(Event::Prompt(prompt)) => Ok(Some(Piece { prompt, ..Piece::default() })),
            Some(Event::Token { id, logp }) => self.token(AnswerToken { id, logp }),
            Some(Event::EndToken { id, logp }) => {
                self.ending = self.tells_end.then_some(AnswerToken { id, logp });
                Ok(None)
            }
            Some(Event::Ended(Ended::Failed(error))) => Err(self.fail(ApiError::from(error))),
            Some(Event::Ended(how)) => {
                let finish = if matches!(how, Ended::Length | Ended::Room) { Finish::Length } else { Finish::Stop };
                let rest = self.text.finish().map_err(ApiError::from)?;
                let released = self.filter.push(&rest, None);
                let stopped = released.stopped.is_some();
                let mut piece = Piece::of(released.pieces);
                if !stopped {
                    piece.add(self.filter.finish());
                    piece.tokens.extend(self.ending.take());
                }
                piece.finish = Some(if stopped { Finish::Stop } else { finish });
                self.end();
                Ok(Some(piece))
            }
        }
    }

    fn token(&mut self, token: AnswerToken) -> Result<Option<Piece>, ApiError> {
        self.count();
        let text = self.text.push(token.id).map_err(ApiError::from)?;
        let released = self.filter.push(&text, Some(token));
        let mut piece = Piece::of(released.pieces);
        if released.stopped.is_some() {
            piece.finish = Some(Finish::Stop);
            self.end();
        }
        let says = piece.finish.is_some() || !piece.text.is_empty() || !piece.tokens.is_empty();
        Ok(says.then_some(piece))
    }

    fn count(&mut self) {
        self.answer_tokens += 1;
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.app.metrics.first_token(now - self.began),
            Some(before) => self.app.metrics.next_token(now - before),
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.app.metrics.answered(self.began.elapsed());
        // Nobody listens any more: the row is free at the next turn.
        self.answering.close();
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.ended = true;
        self.answering.close();
        error
    }
}

impl Piece {
    fn of(released: Vec<(String, Option<AnswerToken>)>) -> Piece {
        let mut piece = Piece::default();
        piece.add(released);
        piece
    }

    fn add(&mut self, released: Vec<(String, Option<AnswerToken>)>) {
        for (text, token) in released {
            self.text.push_str(&text);
            self.tokens.extend(token);
        }
    }

    /// Puts another piece of the same choice behind this one.
    pub(super) fn append(&mut self, more: Piece) {
        self.text.push_str(&more.text);
        self.tokens.extend(more.tokens);
        self.prompt.extend(more.prompt);
        self.finish = more.finish;
    }
}

/// A choice to its end.
///
/// # Errors
/// As [`Choice::next`].
pub(super) async fn whole(choice: &mut Choice) -> Result<Piece, ApiError> {
    let mut all = Piece::default();
    while let Some(piece) = choice.next().await? {
        all.append(piece);
    }
    Ok(all)
}
