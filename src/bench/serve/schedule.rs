//! When requests begin: as others end (closed loop), or at times that are fixed beforehand (open loop).

use rand::Rng;
use serde::Serialize;

use crate::random;

/// How a server is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "loop", rename_all = "lowercase")]
pub enum Load {
    /// As many requests at once; the next begins when one ends.
    Closed { concurrency: usize },
    /// As many requests a second on average, a Poisson process, however fast the server answers.
    Open { rate: f64 },
}

/// When a load point ends: after whichever comes first. Requests under way are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Until {
    pub requests: Option<usize>,
    /// No request begins after so many seconds.
    pub seconds: Option<f64>,
}

/// The beginnings of a load point's requests.
#[derive(Debug)]
pub(super) enum Schedule {
    Closed {
        concurrency: usize,
        until: Until,
    },
    /// Seconds from the beginning, ascending.
    Open {
        arrivals: Vec<f64>,
    },
}

impl Schedule {
    /// Of load point `point`; its arrivals are a function of `seed` and `point`. Nothing limits a load without an end.
    pub(super) fn new(load: Load, until: Until, seed: u64, point: usize) -> Schedule {
        match load {
            Load::Closed { concurrency } => Schedule::Closed { concurrency, until },
            Load::Open { rate } => Schedule::Open { arrivals: arrivals(rate, until, seed, point) },
        }
    }

    /// When request `next` was to begin, if it is to begin by now: `in_flight` are under way, `now` seconds have passed.
    pub(super) fn due(&self, next: usize, in_flight: usize, now: f64) -> Option<f64> {
        match self {
            Schedule::Closed { concurrency, until } => {
                let over = until.requests.is_some_and(|n| next >= n) || until.seconds.is_some_and(|s| now >= s);
                (in_flight < *concurrency && !over).then_some(now)
            }
            Schedule::Open { arrivals } => arrivals.get(next).copied().filter(|at| *at <= now),
        }
    }

    /// When request `next` begins, if that hangs on time alone.
    pub(super) fn arrival(&self, next: usize) -> Option<f64> {
        match self {
            Schedule::Closed { .. } => None,
            Schedule::Open { arrivals } => arrivals.get(next).copied(),
        }
    }

    /// Requests of the load point, where that is known beforehand.
    pub(super) fn total(&self) -> Option<usize> {
        match self {
            Schedule::Closed { until, .. } => until.requests.filter(|_| until.seconds.is_none()),
            Schedule::Open { arrivals } => Some(arrivals.len()),
        }
    }
}

/// The gaps of a Poisson process are exponentially distributed.
fn arrivals(rate: f64, until: Until, seed: u64, point: usize) -> Vec<f64> {
    let mut rng = random::stream(seed, "bench serve arrivals", &[point as u64]);
    let (mut at, seconds) = (0.0, until.seconds.unwrap_or(f64::INFINITY));
    let next = std::iter::from_fn(|| {
        at += -(1.0 - rng.random::<f64>()).ln() / rate;
        (at < seconds).then_some(at)
    });
    next.take(until.requests.unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_poisson_process_of_the_seed() {
        let until = Until { requests: Some(20_000), seconds: None };
        let times = arrivals(4.0, until, 1, 1);
        assert_eq!(times, arrivals(4.0, until, 1, 1));
        assert!(times != arrivals(4.0, until, 2, 1) && times != arrivals(4.0, until, 1, 2));
        let gaps: Vec<f64> = std::iter::once(times[0]).chain(times.windows(2).map(|w| w[1] - w[0])).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        // Mean and standard deviation of an exponential distribution are the same.
        assert!((mean * 4.0 - 1.0).abs() < 0.05 && (deviation * 4.0 - 1.0).abs() < 0.05, "{mean} {deviation}");
        let some = arrivals(4.0, Until { requests: None, seconds: Some(10.0) }, 1, 1);
        assert!(some.iter().all(|at| *at < 10.0) && some == times[..some.len()] && times[some.len()] >= 10.0);
    }

    #[test]
    fn a_closed_loop_begins_as_requests_end() {
        let until = Until { requests: Some(3), seconds: Some(5.0) };
        let schedule = Schedule::new(Load::Closed { concurrency: 2 }, until, 0, 1);
        assert_eq!(schedule.due(0, 0, 0.5), Some(0.5));
        assert_eq!(schedule.due(2, 2, 0.5), None);
        assert_eq!((schedule.due(3, 1, 0.5), schedule.due(2, 1, 5.0)), (None, None));
        assert_eq!((schedule.arrival(0), schedule.total()), (None, None));
    }

    #[test]
    fn an_open_loop_does_not_ask_how_many_are_under_way() {
        let schedule = Schedule::new(Load::Open { rate: 1.0 }, Until { requests: Some(2), seconds: None }, 0, 1);
        let first = schedule.arrival(0).unwrap();
        assert_eq!(schedule.due(0, 1000, first + 9.0), Some(first));
        assert_eq!((schedule.due(0, 0, first - 1e-9), schedule.due(2, 0, 1e9), schedule.total()), (None, None, Some(2)));
    }
}
