//! A value of a Parquet file as JSON Lines of the same rows say it.
//!
//! Numbers have their digits; dates and times are texts as Python's `isoformat` writes them; text without the mark of text is
//! text. A null inside a structure is left out: all rows of a file have the same structure, so that a key which a row lacks (an
//! argument of another tool) comes back as a null. Nulls of lists and of columns stay.
//! Refuses to know files.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use crate::json::{Map, Number, Value};

/// What cannot be said: a column (`messages.content`) and why.
#[derive(Debug, PartialEq)]
pub(super) struct Unsaid {
    pub(super) column: String,
    pub(super) why: &'static str,
}

/// The columns of a row; `schema` is the file's.
pub(super) fn columns(row: Row, schema: &Type) -> Result<Map, Unsaid> {
    let column = |(name, field): (String, Field)| {
        let kind = child(Some(schema), &name);
        value(field, kind).map(|value| (name.clone(), value)).map_err(|inner| under(&name, inner))
    };
    row.into_columns().into_iter().map(column).collect()
}

fn under(name: &str, inner: Unsaid) -> Unsaid {
    let column = if inner.column.is_empty() { name.to_string() } else { format!("{name}.{}", inner.column) };
    Unsaid { column, ..inner }
}

fn child<'t>(kind: Option<&'t Type>, name: &str) -> Option<&'t Type> {
    kind.filter(|kind| kind.is_group())?.get_fields().iter().find(|field| field.name() == name).map(AsRef::as_ref)
}

/// What a list holds: inside a group that repeats, or the group itself.
fn element(kind: Option<&Type>) -> Option<&Type> {
    let repeated = kind.filter(|kind| kind.is_group())?.get_fields().first()?;
    match repeated.is_group() && repeated.get_fields().len() == 1 {
        true => repeated.get_fields().first().map(AsRef::as_ref),
        false => Some(repeated),
    }
}

fn value(field: Field, kind: Option<&Type>) -> Result<Value, Unsaid> {
    let logical = kind.and_then(|kind| kind.get_basic_info().logical_type_ref());
    let utc = matches!(logical, Some(LogicalType::Timestamp(kind)) if kind.is_adjusted_to_u_t_c);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(yes) => Value::Bool(yes),
        Field::Byte(n) => i64::from(n).into(),
        Field::Short(n) => i64::from(n).into(),
        Field::Int(n) => i64::from(n).into(),
        Field::Long(n) => match logical {
            Some(LogicalType::Timestamp(kind)) if kind.unit == TimeUnit::NANOS => instant(i128::from(n), utc),
            Some(LogicalType::Time(kind)) if kind.unit == TimeUnit::NANOS => time(i128::from(n)),
            _ => n.into(),
        },
        Field::UByte(n) => i64::from(n).into(),
        Field::UShort(n) => i64::from(n).into(),
        Field::UInt(n) => i64::from(n).into(),
        Field::ULong(n) => n.into(),
        Field::Float16(x) => Number::from_f32(f32::from(x)).map_or(Value::Null, Value::Number),
        Field::Float(x) => Number::from_f32(x).map_or(Value::Null, Value::Number),
        Field::Double(x) => x.into(),
        decimal @ Field::Decimal(_) => {
            let text = decimal.to_string();
            Number::parse(text.trim_end_matches('.')).map_or(Value::String(text), Value::Number)
        }
        Field::Str(text) => Value::String(text),
        Field::Bytes(bytes) => bytes_as_text(bytes.data(), logical)?,
        Field::Date(days) => date(days),
        Field::TimeMillis(n) => time(i128::from(n) * 1_000_000),
        Field::TimeMicros(n) => time(i128::from(n) * 1000),
        Field::TimestampMillis(n) => instant(i128::from(n) * 1_000_000, utc),
        Field::TimestampMicros(n) => instant(i128::from(n) * 1000, utc),
        Field::Group(row) => structure(row, kind)?,
        Field::ListInternal(list) => {
            let kind = element(kind);
            list.elements().iter().map(|field| value(field.clone(), kind)).collect::<Result<Value, _>>()?
        }
        Field::MapInternal(map) => {
            let pairs = kind.filter(|kind| kind.is_group()).and_then(|kind| kind.get_fields().first()).map(AsRef::as_ref);
            let [of_keys, of_values] =
                [0, 1].map(|at| pairs.filter(|pairs| pairs.is_group())?.get_fields().get(at).map(AsRef::as_ref));
            let entry = |(key, field): &(Field, Field)| {
                let key = match value(key.clone(), of_keys)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                value(field.clone(), of_values).map(|value| (key.clone(), value)).map_err(|inner| under(&key, inner))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

fn structure(row: Row, kind: Option<&Type>) -> Result<Value, Unsaid> {
    let mut fields = Map::new();
    for (name, field) in row.into_columns() {
        if !matches!(field, Field::Null) {
            let value = value(field, child(kind, &name)).map_err(|inner| under(&name, inner))?;
            fields.insert(name, value);
        }
    }
    Ok(fields.into())
}

fn bytes_as_text(bytes: &[u8], logical: Option<&LogicalType>) -> Result<Value, Unsaid> {
    if logical == Some(&LogicalType::Uuid) && bytes.len() == 16 {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|place| &hex[place]);
        return Ok(parts.join("-").into());
    }
    let unsaid = |_| Unsaid { column: String::new(), why: "bytes that are not text in UTF-8" };
    std::str::from_utf8(bytes).map(Value::from).map_err(unsaid)
}

fn date(days: i32) -> Value {
    let date = Timestamp::from_second(i64::from(days) * 86_400).map(|at| TimeZone::UTC.to_datetime(at).date());
    date.map_or_else(|_| i64::from(days).into(), |date| date.to_string().into())
}

/// Nanoseconds since midnight.
fn time(nanoseconds: i128) -> Value {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}{}", seconds % 60, fraction(nanoseconds)).into()
}

/// Nanoseconds since 1970.
fn instant(nanoseconds: i128, utc: bool) -> Value {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let Some(at) = at else { return Value::Number(Number::parse(&nanoseconds.to_string()).unwrap_or(0i64.into())) };
    let zone = if utc { "+00:00" } else { "" };
    format!("{}{}{zone}", TimeZone::UTC.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%S"), fraction(nanoseconds)).into()
}

/// Six digits of a second, nine where there are nanoseconds, none where there is nothing.
fn fraction(nanoseconds: i128) -> String {
    match nanoseconds.rem_euclid(1_000_000_000) {
        0 => String::new(),
        rest if rest % 1000 == 0 => format!(".{:06}", rest / 1000),
        rest => format!(".{rest:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_those_of_python() {
        let text = |value: Value| value.as_str().unwrap().to_string();
        assert_eq!(text(date(-1)), "1969-12-31");
        assert_eq!(text(instant(1_700_000_000_500_000_000, true)), "2023-11-14T22:13:20.500000+00:00");
        assert_eq!(text(instant(-1, false)), "1969-12-31T23:59:59.999999999");
        assert_eq!(text(time(3_723_000_000_000)), "01:02:03");
    }

    #[test]
    fn bytes_are_text_or_nothing() {
        assert_eq!(bytes_as_text("ä".as_bytes(), None), Ok("ä".into()));
        assert!(bytes_as_text(&[0xff], None).is_err());
        let id = (0..16).collect::<Vec<u8>>();
        assert_eq!(bytes_as_text(&id, Some(&LogicalType::Uuid)), Ok("00010203-0405-0607-0809-0a0b0c0d0e0f".into()));
    }
}
