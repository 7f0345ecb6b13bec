//! Bodies of requests by tables: which fields there are, what each may hold, and what it means. A request is checked against the
//! table, and OpenAPI is made of the same, so that neither can differ from the other.

use serde_json::{Map, Value, json};

use super::error::ApiError;

/// What a field may hold. Numbers have both bounds, texts and lists a longest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bool,
    Integer(i64, i64),
    Number(f64, f64),
    /// Of at most so many bytes.
    Text(usize),
    /// One text or a list of at most `.0` of them, of `.1` bytes each.
    Texts(usize, usize),
    Choice(&'static [&'static str]),
    /// A list of at most so many of whatever the handler takes.
    List(usize),
    Object,
    /// A text, or an object: `.0` says which.
    TextOrObject(usize),
    /// A text, lists of texts, of token ids, or of lists of token ids.
    Prompt,
}

/// One field of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    pub(super) doc: &'static str,
}

pub(super) const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, required: false, doc }
}

pub(super) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, required: true, doc }
}

/// Fields that clients send by habit and that change no answer: they are passed over.
pub(super) const HARMLESS: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "verbosity",
    "stream_obfuscation",
];

/// A body whose fields are those of its table.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body. A field that is null counts as not given.
    ///
    /// # Errors
    /// 400, naming the field that is not there, not known or not possible.
    pub(super) fn read(bytes: &[u8], tables: &[&[Field]]) -> Result<Fields, ApiError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| ApiError::field("body", format!("the body is not JSON: {e}")))?;
        let Value::Object(mut map) = value else {
            return Err(ApiError::field("body", "the body is not a JSON object"));
        };
        map.retain(|name, value| !value.is_null() && !HARMLESS.contains(&name.as_str()));
        let fields = || tables.iter().copied().flatten();
        if let Some(name) = map.keys().find(|name| !fields().any(|f| f.name == name.as_str())) {
            let near = crate::error::nearest(name, fields().map(|f| f.name)).map(|n| format!("; did you mean `{n}`?"));
            return Err(ApiError::unsupported(
                name,
                format!("it is not supported here and could change the answer{}", near.unwrap_or_default()),
            ));
        }
        for field in fields() {
            match map.get(field.name) {
                Some(value) => field.kind.check(field.name, value)?,
                None if field.required => return Err(ApiError::field(field.name, format!("`{}` is missing", field.name))),
                None => {}
            }
        }
        Ok(Fields(map))
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.value(name)?.as_bool()
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        let value = self.value(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|x| x as i64))
    }

    /// Of a field whose least is not negative.
    pub(super) fn count(&self, name: &str) -> Option<usize> {
        self.integer(name).and_then(|n| usize::try_from(n).ok())
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.value(name)?.as_f64()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str()
    }

    /// Of a field of one text or many.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_string).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn list(&self, name: &str) -> &[Value] {
        self.value(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(super) fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.value(name)?.as_object()
    }
}

impl Kind {
    fn check(self, name: &str, value: &Value) -> Result<(), ApiError> {
        let text = |value: &Value, most: usize| value.as_str().is_some_and(|s| s.len() <= most);
        let fits = match self {
            Kind::Bool => value.is_boolean(),
            // 3.0 is an integer in JSON Schema.
            Kind::Integer(least, most) => match (value.as_i64(), value.as_f64()) {
                (Some(n), _) => n >= least && n <= most,
                (None, Some(x)) => x.fract() == 0.0 && x >= least as f64 && x <= most as f64,
                _ => false,
            },
            Kind::Number(least, most) => value.as_f64().is_some_and(|x| x >= least && x <= most),
            Kind::Text(most) => text(value, most),
            Kind::Texts(many, most) => {
                text(value, most) || value.as_array().is_some_and(|l| l.len() <= many && l.iter().all(|v| text(v, most)))
            }
            Kind::Choice(choices) => value.as_str().is_some_and(|s| choices.contains(&s)),
            Kind::List(most) => value.as_array().is_some_and(|list| list.len() <= most),
            Kind::Object => value.is_object(),
            Kind::TextOrObject(most) => text(value, most) || value.is_object(),
            Kind::Prompt => value.is_string() || value.is_array(),
        };
        if fits { Ok(()) } else { Err(ApiError::field(name, format!("`{name}` must be {}", self.said()))) }
    }

    /// For people.
    fn said(self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Number(least, most) => format!("a number from {least} to {most}"),
            Kind::Text(most) => format!("a text of at most {most} bytes"),
            Kind::Texts(many, most) => format!("a text, or a list of at most {many} texts, of at most {most} bytes each"),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::List(most) => format!("a list of at most {most} entries"),
            Kind::Object => "an object".into(),
            Kind::TextOrObject(most) => format!("a text of at most {most} bytes or an object"),
            Kind::Prompt => "a text, or a list of texts, of token ids, or of lists of token ids".into(),
        }
    }

    /// For OpenAPI.
    fn schema(self) -> Value {
        match self {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Kind::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
            Kind::Text(most) => json!({"type": "string", "maxLength": most}),
            Kind::Texts(many, most) => {
                let text = json!({"type": "string", "maxLength": most});
                json!({"anyOf": [text, {"type": "array", "maxItems": many, "items": text}]})
            }
            Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
            Kind::List(most) => json!({"type": "array", "maxItems": most}),
            Kind::Object => json!({"type": "object"}),
            Kind::TextOrObject(most) => json!({"anyOf": [{"type": "string", "maxLength": most}, {"type": "object"}]}),
            Kind::Prompt => {
                let ids = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
                json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, ids, {"type": "array", "items": ids}]})
            }
        }
    }
}

/// The schema of a body.
pub(super) fn schema(tables: &[&[Field]]) -> Value {
    let fields = || tables.iter().copied().flatten();
    let mut properties = Map::new();
    for field in fields() {
        let mut schema = field.kind.schema();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".into(), json!(field.doc));
        }
        // Clients send null for what they do not set.
        properties.insert(field.name.into(), if field.required { schema } else { json!({"anyOf": [schema, {"type": "null"}]}) });
    }
    for name in HARMLESS {
        properties.insert(name.into(), json!({"description": "Accepted and not read: it changes no answer."}));
    }
    let required: Vec<&str> = fields().filter(|f| f.required).map(|f| f.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Field; 3] = [
        required("model", Kind::Text(10), "m"),
        field("n", Kind::Integer(1, 8), "n"),
        field("top_p", Kind::Number(0.0, 1.0), "p"),
    ];

    fn refused(body: &str) -> (u16, Option<String>) {
        let error = Fields::read(body.as_bytes(), &[&TABLE]).unwrap_err();
        (error.status.as_u16(), error.param)
    }

    #[test]
    fn each_impossible_field_is_named() {
        let cases = [
            (r#"{"n": 1}"#, "model"),
            (r#"{"model": null}"#, "model"),
            (r#"{"model": "01234567890"}"#, "model"),
            (r#"{"model": "m", "n": 0}"#, "n"),
            (r#"{"model": "m", "n": -1}"#, "n"),
            (r#"{"model": "m", "n": 18446744073709551616}"#, "n"),
            (r#"{"model": "m", "n": 1.5}"#, "n"),
            (r#"{"model": "m", "n": "2"}"#, "n"),
            (r#"{"model": "m", "top_p": 1e400}"#, "body"),
            (r#"{"model": "m", "top_p": NaN}"#, "body"),
            (r#"{"model": "m", "top_p": 1.01}"#, "top_p"),
            (r#"{"model": "m", "topp": 1}"#, "topp"),
            ("[]", "body"),
            ("", "body"),
        ];
        for (body, param) in cases {
            assert_eq!(refused(body), (400, Some(param.to_string())), "{body}");
        }
        let deep = format!("{}1{}", r#"{"model":"#.repeat(10_000), "}".repeat(10_000));
        assert_eq!(refused(&deep).0, 400);
    }

    #[test]
    fn what_is_given_is_read_and_harmless_fields_are_passed_over() {
        let fields = Fields::read(br#"{"model": "m", "n": 2.0, "top_p": null, "user": 7}"#, &[&TABLE]).unwrap();
        assert_eq!((fields.text("model"), fields.count("n"), fields.number("top_p")), (Some("m"), Some(2), None));
        assert!(fields.value("user").is_none());
    }
}
