//! Multiple-choice questions as tokens: a prompt, and each choice behind it.
//!
//! Refuses to know how likely a model finds them.

use std::path::{Path, PathBuf};

use super::read::source::{Faults, RawRow, kind, read};
use super::render::renderer::Renderer;
use crate::error::{Error, Result};
use crate::json::Value;
use crate::recipe::ChoiceSet;

const FORM: &str = "a row is {\"question\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}; an answer is the place of a choice, from 0, or its text";

/// A question with its choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// At least two.
    pub choices: Vec<Choice>,
    /// The place of the right one.
    pub answer: usize,
    /// Where it is written.
    pub path: PathBuf,
    pub line: usize,
}

/// A choice behind its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Tokens of the prompt and of the choice.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's: at least one, and fewer than all.
    pub prompt: usize,
    /// Unicode scalar values of the choice's text, without the delimiter before it.
    pub characters: usize,
    /// Bytes of that text in UTF-8.
    pub bytes: usize,
}

/// The questions of `set` that are judged: as many as its limit says, spread evenly over all.
///
/// # Errors
/// [`Error::Data`] with file and line for a row that is no question with choices and an answer among them; [`Error::Template`]
/// when the template refuses a question.
pub fn load_questions(set: &ChoiceSet, renderer: &Renderer) -> Result<Vec<Question>> {
    let mut rows = Vec::new();
    for path in &set.paths {
        let found = read(path, &mut Faults::default())?;
        rows.extend(found.into_iter().map(|row| WrittenQuestion::of(path, row)).collect::<Result<Vec<_>>>()?);
    }
    let (all, count) = (rows.len(), set.limit.map_or(rows.len(), |limit| limit.min(rows.len())));
    (0..count).map(|i| rows[i * all / count].rendered(set, renderer)).collect()
}

/// A question as text.
struct WrittenQuestion<'a> {
    question: String,
    choices: Vec<String>,
    answer: usize,
    path: &'a Path,
    line: usize,
}

impl<'a> WrittenQuestion<'a> {
    fn of(path: &'a Path, row: RawRow) -> Result<WrittenQuestion<'a>> {
        let wrong = |why: String| Error::data(path, Some(row.line), why, FORM);
        let field = |name: &str| row.fields.get(name).ok_or_else(|| wrong(format!("the question has no `{name}`")));
        let no_text = |what: &str, value: &Value| wrong(format!("{what} must be a text, this is {}", kind(value)));
        let text = |what: String, value: &Value| match value.as_str() {
            Some(text) if text.trim().is_empty() => Err(wrong(format!("{what} is empty"))),
            Some(text) => Ok(text.to_string()),
            None => Err(no_text(&what, value)),
        };
        let question = text("`question`".into(), field("question")?)?;
        let list = field("choices")?;
        let list = list.as_array().ok_or_else(|| wrong(format!("`choices` must be a list, this is {}", kind(list))))?;
        if list.len() < 2 {
            return Err(wrong(format!("`choices` has {}: there is nothing to choose from", list.len())));
        }
        let each = list.iter().enumerate().map(|(i, choice)| text(format!("`choices[{i}]`"), choice));
        let choices = each.collect::<Result<Vec<_>>>()?;
        let answer = field("answer")?;
        let found = match answer.as_str() {
            Some(text) => choices.iter().position(|choice| choice == text),
            None => answer.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < choices.len()),
        };
        let among = || wrong(format!("`answer` is {answer}, which is none of the {} choices", choices.len()));
        let answer = found.ok_or_else(among)?;
        Ok(WrittenQuestion { question, choices, answer, path, line: row.line })
    }

    fn rendered(&self, set: &ChoiceSet, renderer: &Renderer) -> Result<Question> {
        let asked = set.prompt.replace(ChoiceSet::QUESTION, &self.question);
        let texts: Vec<String> = self.choices.iter().map(|choice| format!("{}{choice}", set.delimiter)).collect();
        let (prompt, ids) = renderer.followed(&asked, set.chat, &texts)?;
        let choice = |(ids, text): (Vec<u32>, &String)| {
            if prompt == 0 || prompt >= ids.len() {
                let why = format!("the choice \"{text}\" has no token of its own behind the question");
                return Err(Error::data(self.path, Some(self.line), why, "set `delimiter = \" \"`, or end the prompt otherwise"));
            }
            Ok(Choice { ids, prompt, characters: text.chars().count(), bytes: text.len() })
        };
        let choices = ids.into_iter().zip(&self.choices).map(choice).collect::<Result<_>>()?;
        Ok(Question { choices, answer: self.answer, path: self.path.to_path_buf(), line: self.line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(row: &str) -> Result<usize> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quiz.jsonl");
        std::fs::write(&path, format!("\n{row}\n")).unwrap();
        let row = read(&path, &mut Faults::default())?.remove(0);
        Ok(WrittenQuestion::of(&path, row)?.answer)
    }

    #[test]
    fn an_answer_is_a_place_or_a_text() {
        let row =
            |answer: &str| format!("{{\"question\": \"q\", \"choices\": [\"a\", \"2\", \"c\", \"a\"], \"answer\": {answer}}}");
        let table = [("0", 0), ("3", 3), ("\"c\"", 2), ("\"2\"", 1), ("\"a\"", 0)];
        for (answer, at) in table {
            assert_eq!(parsed(&row(answer)).unwrap(), at, "{answer}");
        }
        for answer in ["4", "-1", "1.5", "\"b\"", "null", "[0]"] {
            let error = parsed(&row(answer)).unwrap_err().to_string();
            assert!(error.contains(&format!("quiz.jsonl:2: `answer` is {answer}, which is none of the 4 choices")), "{error}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused_with_its_line() {
        let table = [
            (r#"{"choices": ["a", "b"], "answer": 0}"#, "has no `question`"),
            (r#"{"question": "q", "answer": 0}"#, "has no `choices`"),
            (r#"{"question": "q", "choices": ["a", "b"]}"#, "has no `answer`"),
            (r#"{"question": " ", "choices": ["a", "b"], "answer": 0}"#, "`question` is empty"),
            (r#"{"question": "q", "choices": "ab", "answer": 0}"#, "`choices` must be a list, this is a string"),
            (r#"{"question": "q", "choices": ["a"], "answer": 0}"#, "`choices` has 1"),
            (r#"{"question": "q", "choices": ["a", ""], "answer": 0}"#, "`choices[1]` is empty"),
            (r#"{"question": "q", "choices": ["a", 1], "answer": 0}"#, "`choices[1]` must be a text, this is a number"),
        ];
        for (row, why) in table {
            let error = parsed(row).unwrap_err().to_string();
            assert!(error.contains("quiz.jsonl:2: ") && error.contains(why), "{row}: {error}");
        }
    }
}
