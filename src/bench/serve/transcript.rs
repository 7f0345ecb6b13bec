//! The events of a streamed completion, read with the times at which they came.

use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::exchange::{Answer, Failure, Kind, Usage};

/// What ends a stream.
const DONE: &str = "[DONE]";

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

/// What a chat's chunk adds. Servers name reasoning either way.
#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Value>>,
}

impl Choice {
    /// Whether it brings text, or part of a call.
    fn speaks(&self) -> bool {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let delta = |d: &Delta| {
            let calls = d.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
            said(&d.content) || said(&d.reasoning_content) || said(&d.reasoning) || calls
        };
        said(&self.text) || self.delta.as_ref().is_some_and(delta)
    }
}

/// An answer under way.
pub(super) struct Transcript {
    /// What times are counted from.
    intended: Instant,
    /// When the first and the latest text came.
    first: Option<Instant>,
    latest: Instant,
    end: Instant,
    gaps: Vec<f64>,
    chunks: usize,
    usage: Option<Usage>,
    /// The server gave a reason to end.
    finished: bool,
    done: bool,
}

impl Transcript {
    pub(super) fn new(intended: Instant) -> Transcript {
        let (latest, end) = (intended, intended);
        Transcript { intended, first: None, latest, end, gaps: Vec::new(), chunks: 0, usage: None, finished: false, done: false }
    }

    /// Takes in the data of an event that came at `now`.
    pub(super) fn take(&mut self, data: &str, now: Instant) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        self.end = now;
        if data.trim() == DONE {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|e| Kind::Malformed.because(format!("{e}: {data}")))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(Kind::Reported.because(error["message"].as_str().map_or_else(|| error.to_string(), String::from)));
        }
        self.usage = chunk.usage.or(self.usage);
        let choices = chunk.choices.unwrap_or_default();
        self.finished |= choices.iter().any(|choice| choice.finish_reason.is_some());
        if choices.iter().any(Choice::speaks) {
            match self.first {
                None => self.first = Some(now),
                Some(_) => self.gaps.push((now - self.latest).as_secs_f64()),
            }
            self.latest = now;
            self.chunks += 1;
        }
        Ok(())
    }

    /// The server said that this is all.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The answer, when it came to its end.
    pub(super) fn answer(self) -> Result<Answer, Failure> {
        if !self.done && !self.finished {
            return Err(Kind::Lost.because("the stream ended before the answer did"));
        }
        let since = |time: Instant| time.saturating_duration_since(self.intended).as_secs_f64();
        let Transcript { gaps, chunks, usage, .. } = self;
        Ok(Answer { first: self.first.map(since), end: since(self.end), gaps, chunks, usage })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The answer of events a second apart, the first after a second.
    fn read(events: &[&str]) -> Result<Answer, Failure> {
        let began = Instant::now();
        let mut transcript = Transcript::new(began);
        for (i, event) in events.iter().enumerate() {
            transcript.take(event, began + Duration::from_secs(i as u64 + 1))?;
        }
        transcript.answer()
    }

    #[test]
    fn times_are_those_of_text() {
        let answer = read(&[
            r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"b"}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4,"total_tokens":11}}"#,
            "[DONE]",
            "what comes behind it",
        ])
        .unwrap();
        let usage = Some(Usage { prompt_tokens: 7, completion_tokens: 4 });
        assert_eq!(answer, Answer { first: Some(2.0), end: 6.0, gaps: vec![1.0], chunks: 2, usage });
        assert_eq!(answer.tokens(), 4);
    }

    #[test]
    fn without_usage_pieces_of_text_are_counted() {
        let answer = read(&[r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[{"text":"b","finish_reason":"length"}]}"#]).unwrap();
        assert_eq!((answer.tokens(), answer.usage), (2, None));
        assert_eq!(read(&["[DONE]"]).unwrap().first, None);
    }

    #[test]
    fn what_is_no_answer_is_told_by_kind() {
        let kind = |events: &[&str]| read(events).unwrap_err().kind;
        assert_eq!(kind(&[r#"{"choices":[{"text":"a"}]}"#]), Kind::Lost);
        assert_eq!(kind(&["{"]), Kind::Malformed);
        assert_eq!(read(&[r#"{"error":{"message":"no memory"}}"#]).unwrap_err(), Kind::Reported.because("no memory"));
    }
}
