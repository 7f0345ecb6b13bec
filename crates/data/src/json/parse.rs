//! From text to values. `serde_json` reads the text; the digits of what it takes for a float are looked up in the text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Error;

use super::number::Number;
use super::text::{Floats, end_of_value, without_size};
use super::value::{Map, Value};

/// The value that a text is.
///
/// # Errors
/// What `serde_json` says of a text that is no JSON; a number is never too large.
pub fn parse(text: &str) -> Result<Value, Error> {
    from(text, text).or_else(|error| sized(text, text, error)).and_then(|(value, mut rest)| {
        rest.end()?;
        Ok(value)
    })
}

/// The value that a text begins with, and where it ends.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_first(text: &str) -> Result<(Value, usize), Error> {
    let end = || end_of_value(text);
    match from(text, text) {
        Ok((value, _)) => Ok((value, end())),
        Err(error) => sized(&text[..end()], text, error).map(|(value, _)| (value, end())),
    }
}

type Rest<'a> = serde_json::Deserializer<serde_json::de::StrRead<'a>>;

/// Reads `text`; the digits come from `written`, which is the same but for numbers, and as long.
fn from<'a>(text: &'a str, written: &str) -> Result<(Value, Rest<'a>), Error> {
    let mut rest = serde_json::Deserializer::from_str(text);
    let value = Seed(Some(&mut Floats::of(written))).deserialize(&mut rest)?;
    Ok((value, rest))
}

/// Reads a text once more, with a small number in the place of each that is too large for a float.
fn sized<'a>(text: &str, written: &str, error: Error) -> Result<(Value, Rest<'a>), Error> {
    let Cow::Owned(small) = without_size(text) else { return Err(error) };
    let (value, mut rest) = from(&small, written)?;
    rest.end()?;
    Ok((value, serde_json::Deserializer::from_str("")))
}

/// Reads a value; without the text that it is read from, a float has the fewest digits that say it.
struct Seed<'s, 't>(Option<&'s mut Floats<'t>>);

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_f64<E: serde::de::Error>(self, x: f64) -> Result<Value, E> {
        match self.0 {
            None => Ok(x.into()),
            Some(floats) => {
                let text = floats.next().ok_or_else(|| E::custom("a number without digits"))?;
                Ok(Value::Number(Number::written(text)))
            }
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element_seed(Seed(self.0.as_deref_mut()))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Seed(self.0.as_deref_mut()))?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        Seed(None).deserialize(from)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
        match Value::deserialize(from)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(D::Error::custom("expected a table")),
        }
    }
}
