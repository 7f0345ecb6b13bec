//! Whether a message carries loss, as a row says it: `train` (or `training`), `weight`, `train_detail`.
//!
//! The keys are those of axolotl's chat data sets (`train`, `train_detail`) and of OpenAI's (`weight`).
//! Refuses to know roles and recipes; what is said nowhere is [`Loss::ByRole`].

use std::ops::Range;

use crate::json::{Map, Value};

use super::row::Loss;

/// The keys of a message that say whether it carries loss.
pub(crate) const LOSS_KEYS: [&str; 4] = ["train", "training", "weight", "train_detail"];

/// What the fields of a message say of its loss; the error says what is wrong and what to write instead.
pub(crate) fn read(fields: &Map) -> Result<Loss, (String, &'static str)> {
    let mut loss = Loss::ByRole;
    for key in &LOSS_KEYS[..3] {
        let said = match fields.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(yes)) => *yes,
            Some(Value::Number(n)) if n.as_f64() == 1.0 => true,
            Some(Value::Number(n)) if n.as_f64() == 0.0 => false,
            Some(other) => {
                return Err((format!("`{key}` is {other}"), "write true or false (or the weights 1 and 0)"));
            }
        };
        let said = if said { Loss::Yes } else { Loss::No };
        if loss != Loss::ByRole && loss != said {
            return Err((format!("`{key}` says otherwise than the other key for the loss"), "write one of `train` and `weight`"));
        }
        loss = said;
    }
    match fields.get("train_detail") {
        None | Some(Value::Null) => Ok(loss),
        Some(Value::Array(list)) if list.is_empty() => Ok(loss),
        Some(_) if loss == Loss::No => Ok(loss),
        Some(Value::Array(list)) => spans(list).map(Loss::Spans),
        Some(_) => Err(("`train_detail` is not a list".into(), DETAIL_HELP)),
    }
}

const DETAIL_HELP: &str =
    "write [{\"begin_offset\": 0, \"end_offset\": 4, \"train\": true}, …]: characters of the content, the last one included";

/// The ranges of characters that are trained, ascending; `end_offset` counts in, as in axolotl.
fn spans(list: &[Value]) -> Result<Vec<Range<usize>>, (String, &'static str)> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (i, detail) in list.iter().enumerate() {
        let wrong = |why: &str| (format!("`train_detail` number {}: {why}", i + 1), DETAIL_HELP);
        let offset = |key: &str| {
            detail[key]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| wrong(&format!("`{key}` is not a whole number")))
        };
        let (begin, end) = (offset("begin_offset")?, offset("end_offset")?);
        let train = detail["train"].as_bool().ok_or_else(|| wrong("`train` is neither true nor false"))?;
        if end < begin {
            return Err(wrong("it ends before it begins"));
        }
        if train {
            out.push(begin..end.saturating_add(1));
        }
    }
    out.sort_by_key(|r| r.start);
    match out.windows(2).find(|pair| pair[1].start < pair[0].end) {
        Some(pair) => Err((format!("`train_detail`: two ranges overlap at character {}", pair[1].start), DETAIL_HELP)),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Loss, String> {
        read(crate::json::parse(json).unwrap().as_object().unwrap()).map_err(|e| e.0)
    }

    #[test]
    fn the_keys_of_a_message_say_whether_it_carries_loss() {
        let table = [
            (r#"{"content": "a"}"#, Loss::ByRole),
            (r#"{"train": true}"#, Loss::Yes),
            (r#"{"training": false}"#, Loss::No),
            (r#"{"weight": 0}"#, Loss::No),
            (r#"{"weight": 1.0, "train": null}"#, Loss::Yes),
            (
                r#"{"train_detail": [{"begin_offset": 4, "end_offset": 5, "train": true}, {"begin_offset": 0, "end_offset": 1, "train": true}, {"begin_offset": 2, "end_offset": 3, "train": false}]}"#,
                Loss::Spans(vec![0..2, 4..6]),
            ),
            (r#"{"train": false, "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": true}]}"#, Loss::No),
        ];
        for (json, expected) in table {
            assert_eq!(of(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let table = [
            (r#"{"train": "yes"}"#, "`train` is \"yes\""),
            (r#"{"weight": 0.5}"#, "`weight` is 0.5"),
            (r#"{"weight": 1, "train": false}"#, "says otherwise"),
            (r#"{"train_detail": "a"}"#, "not a list"),
            (r#"{"train_detail": [{"begin_offset": 3, "end_offset": 1, "train": true}]}"#, "number 1: it ends before"),
            (r#"{"train_detail": [{"begin_offset": -3, "end_offset": 1, "train": true}]}"#, "`begin_offset` is not"),
            (
                r#"{"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": true}, {"begin_offset": 3, "end_offset": 4, "train": true}]}"#,
                "overlap at character 3",
            ),
        ];
        for (json, expected) in table {
            let error = of(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
