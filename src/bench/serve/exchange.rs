//! What an exchange with the server came to: times and tokens of an answer, a refusal, or what went wrong.

/// One request that was sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exchange {
    /// Place in the list of models.
    pub(super) model: usize,
    /// Seconds from the intended time of arrival until the request was begun.
    pub(super) delay: f64,
    /// Seconds from the beginning of the load point until this one ended.
    pub(super) ended: f64,
    pub(super) outcome: Outcome,
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Answered(Answer),
    /// Status 429, after so many seconds from the intended time of arrival.
    Refused(f64),
    Failed(Failure),
}

/// A whole answer. Times are in seconds from the intended time of arrival.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// When the first text came; `None` of an answer without text.
    pub(super) first: Option<f64>,
    /// When the last event came.
    pub(super) end: f64,
    /// Seconds between pieces of text.
    pub(super) gaps: Vec<f64>,
    /// Pieces of text.
    pub(super) chunks: usize,
    /// As the server counts them, when it says so.
    pub(super) usage: Option<Usage>,
}

/// A server's own counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
}

impl Answer {
    /// Tokens of the answer.
    pub(super) fn tokens(&self) -> usize {
        self.usage.map_or(self.chunks, |usage| usage.completion_tokens)
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) why: String,
}

/// Failures that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection.
    Connect,
    /// The connection broke, or the answer ended before its end.
    Lost,
    /// Nothing came for too long.
    Timeout,
    /// Any status but 200 and 429.
    Status(u16),
    /// What came is no stream of completions.
    Malformed,
    /// The stream says that there was an error.
    Reported,
}

impl Kind {
    /// As it stands in a report.
    pub(super) fn name(self) -> String {
        match self {
            Kind::Connect => "connect".into(),
            Kind::Lost => "lost".into(),
            Kind::Timeout => "timeout".into(),
            Kind::Status(status) => format!("status {status}"),
            Kind::Malformed => "malformed".into(),
            Kind::Reported => "reported".into(),
        }
    }

    /// A failure of this kind.
    pub(super) fn because(self, why: impl Into<String>) -> Failure {
        Failure { kind: self, why: why.into() }
    }
}
