//! One load point: requests begun as the schedule says, until all have ended or the user asks to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};

use super::client::Client;
use super::exchange::{Exchange, Kind, Outcome};
use super::prompts::Place;
use super::report::Measured;
use super::schedule::Schedule;

/// How often a stop is looked for and progress told.
const GLANCE: Duration = Duration::from_millis(50);

/// How far a load point is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadProgress {
    /// The load point, from 1; 0 is the warm-up.
    pub point: usize,
    pub ended: usize,
    /// `None` where time alone ends the load point.
    pub total: Option<usize>,
    pub in_flight: usize,
    pub refused: usize,
    pub failed: usize,
    /// Tokens of the answers that have ended.
    pub tokens: usize,
    /// Since the beginning.
    pub seconds: f64,
}

/// Who is told how far it is, and asked whether to stop.
pub(super) struct Watch<'a> {
    pub(super) stop: &'a dyn Fn() -> bool,
    pub(super) progress: &'a mut dyn FnMut(LoadProgress),
}

/// A load point under way.
struct Point<'a> {
    client: &'a Arc<Client>,
    began: Instant,
    tasks: JoinSet<Exchange>,
    /// The models of the requests under way.
    models: HashMap<Id, usize>,
    next: usize,
    measured: Measured,
    progress: LoadProgress,
}

/// Runs load point `point`.
pub(super) async fn drive(client: &Arc<Client>, schedule: &Schedule, point: usize, watch: &mut Watch<'_>) -> Measured {
    let mut under_way = Point {
        client,
        began: Instant::now(),
        tasks: JoinSet::new(),
        models: HashMap::new(),
        next: 0,
        measured: Measured::default(),
        progress: LoadProgress { point, total: schedule.total(), ..LoadProgress::default() },
    };
    let mut glance = tokio::time::interval(GLANCE);
    loop {
        while let Some(intended) = schedule.due(under_way.next, under_way.tasks.len(), under_way.seconds()) {
            under_way.begin(intended);
        }
        let arrival = schedule.arrival(under_way.next).map(|at| under_way.began + Duration::from_secs_f64(at));
        if under_way.tasks.is_empty() && arrival.is_none() {
            break;
        }
        tokio::select! {
            Some(ended) = under_way.tasks.join_next_with_id() => under_way.end(ended),
            () = tokio::time::sleep_until(arrival.unwrap_or(under_way.began).into()), if arrival.is_some() => {}
            _ = glance.tick() => {
                (watch.progress)(under_way.progress());
                if (watch.stop)() {
                    under_way.measured.stopped = Some(under_way.seconds());
                    break;
                }
            }
        }
    }
    (watch.progress)(under_way.progress());
    under_way.measured.unfinished = under_way.models.into_values().collect();
    under_way.measured
}

impl Point<'_> {
    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Sends the next request, which was to begin at `intended` seconds.
    fn begin(&mut self, intended: f64) {
        let place = Place { point: self.progress.point, index: self.next };
        let (client, began, model) = (self.client.clone(), self.began, self.client.model(place));
        let task = self.tasks.spawn(async move {
            let intended = began + Duration::from_secs_f64(intended);
            let delay = intended.elapsed().as_secs_f64();
            let outcome = client.exchange(place, intended).await;
            Exchange { model, delay, ended: began.elapsed().as_secs_f64(), outcome }
        });
        self.models.insert(task.id(), model);
        self.next += 1;
    }

    fn end(&mut self, ended: Result<(Id, Exchange), JoinError>) {
        let (id, exchange) = match ended {
            Ok((id, exchange)) => (id, Some(exchange)),
            Err(e) => (e.id(), None),
        };
        let model = self.models.remove(&id).unwrap_or_default();
        // A task that did not come to its end was the generator's own fault, and still is no answer.
        let lost = || Outcome::Failed(Kind::Lost.because("the request's task ended early"));
        let exchange = exchange.unwrap_or_else(|| Exchange { model, delay: 0.0, ended: self.seconds(), outcome: lost() });
        let progress = &mut self.progress;
        progress.ended += 1;
        match &exchange.outcome {
            Outcome::Answered(answer) => progress.tokens += answer.tokens(),
            Outcome::Refused(_) => progress.refused += 1,
            Outcome::Failed(_) => progress.failed += 1,
        }
        self.measured.exchanges.push(exchange);
    }

    fn progress(&self) -> LoadProgress {
        LoadProgress { in_flight: self.tasks.len(), seconds: self.seconds(), ..self.progress }
    }
}
