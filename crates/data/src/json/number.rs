//! A number as it was written.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A number of JSON with the text that it was written with; two are equal when their texts are.
#[derive(Clone, PartialEq, Eq)]
pub struct Number(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    /// Written as Rust (and everybody) writes it.
    Int(i64),
    Text(Box<str>),
}

impl Number {
    /// A number of this text, which is valid JSON.
    pub(super) fn written(text: &str) -> Number {
        match text.parse::<i64>() {
            Ok(n) if text != "-0" => Number(Repr::Int(n)),
            _ => Number(Repr::Text(text.into())),
        }
    }

    /// A finite float, in the fewest digits that say it, as Python writes it; `None` for others, which JSON has no text for.
    pub fn from_f64(x: f64) -> Option<Number> {
        x.is_finite().then(|| Number::written(&float_text(x)))
    }

    /// As [`Number::from_f64`] of 32 bits: fewer digits say them.
    pub fn from_f32(x: f32) -> Option<Number> {
        x.is_finite().then(|| Number::written(&laid_out(f64::from(x.abs()), format!("{x:e}"), format!("{x:?}"))))
    }

    /// A number of this text, if it is JSON's.
    pub fn parse(text: &str) -> Option<Number> {
        super::text::is_number(text).then(|| Number::written(text))
    }

    /// Its text where it is not that of an integer of 64 bits with a sign.
    pub fn text(&self) -> Option<&str> {
        match &self.0 {
            Repr::Int(_) => None,
            Repr::Text(text) => Some(text),
        }
    }

    /// The integer, where it is one of these bits.
    pub fn as_i64(&self) -> Option<i64> {
        match &self.0 {
            Repr::Int(n) => Some(*n),
            Repr::Text(_) => None,
        }
    }

    /// The integer, where it is one of these bits.
    pub fn as_u64(&self) -> Option<u64> {
        match &self.0 {
            Repr::Int(n) => u64::try_from(*n).ok(),
            Repr::Text(text) => text.parse().ok(),
        }
    }

    /// The nearest float; infinite for what is larger than any.
    pub fn as_f64(&self) -> f64 {
        match &self.0 {
            Repr::Int(n) => *n as f64,
            Repr::Text(text) => text.parse().unwrap_or(f64::NAN),
        }
    }

    /// Whether it is written without a point and an exponent.
    pub fn is_integer(&self) -> bool {
        self.text().is_none_or(|text| !text.contains(['.', 'e', 'E']))
    }
}

/// A float as Python's `repr` writes it.
pub(crate) fn float_text(x: f64) -> String {
    match x {
        _ if x.is_nan() => "nan".into(),
        _ if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
        _ => laid_out(x.abs(), format!("{x:e}"), format!("{x:?}")),
    }
}

/// With an exponent from 16 digits and from four zeros on; `size` is what is written without its sign.
fn laid_out(size: f64, exponential: String, plain: String) -> String {
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return plain;
    }
    let (mantissa, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}e{sign}{digits:0>2}")
}

impl From<i64> for Number {
    fn from(n: i64) -> Number {
        Number(Repr::Int(n))
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Number {
        i64::try_from(n).map_or_else(|_| Number(Repr::Text(n.to_string().into())), Number::from)
    }
}

impl From<&serde_json::Number> for Number {
    fn from(n: &serde_json::Number) -> Number {
        Number::written(&n.to_string())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(n) => n.fmt(f),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Its digits, where JSON is written by `serde_json`.
impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Repr::Int(n) => serializer.serialize_i64(*n),
            Repr::Text(text) => RawValue::from_string(text.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer),
        }
    }
}
