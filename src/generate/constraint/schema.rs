//! What a JSON schema may cost, asked before it is compiled; every refusal names its place as a JSON pointer.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use serde_json::{Map, Value};

use super::bounds::{self, refused};
use crate::error::Result;

/// Levels of JSON inside each other; a schema inside a schema takes one or two.
const DEPTH: usize = 64;
/// Most properties, required names or definitions of one object.
const PROPERTIES: usize = 512;
/// Most patterns of one object: each pair is compared.
const PATTERNS: usize = 16;
/// Most alternatives (`anyOf`, `oneOf`) or parts (`allOf`, `prefixItems`) of one schema.
const PARTS: usize = 256;
/// Most values of one `enum`.
const VALUES: usize = 1024;
/// Greatest count (`maxItems`, `minLength`, …).
const COUNT: u64 = 1 << 31;
/// Greatest bound of a number: up to it every integer is exact.
const NUMBER: f64 = (1u64 << 53) as f64;
/// Greatest `multipleOf`, after its decimals are made whole: as many remainders are told apart.
const MULTIPLE: f64 = 1e4;
/// Most properties of an object that bounds their number: the ways to leave some out are quadratic in them.
const COUNTED: usize = 64;
/// Longest place that is named, in bytes.
const PLACE: usize = 200;
/// Most bytes of schema after parts that must hold together (`allOf`, `$ref` beside other keys) are multiplied out.
const EXPANDED: u64 = 1 << 20;

/// Refuses a schema that is too large, too deep or beyond the bounds above; `whole` begins the name of each place.
///
/// # Errors
/// [`crate::error::Error::Usage`] naming the place.
pub(super) fn check(schema: &Value, whole: &str) -> Result<()> {
    let mut walk = Walk {
        root: schema,
        whole,
        pointer: String::new(),
        targets: HashSet::new(),
        together: false,
        expanded: 0,
        sizes: HashMap::new(),
        multiples: HashSet::new(),
    };
    walk.depth(schema, 0)?;
    let mut room = Room { left: bounds::TEXT };
    if serde_json::to_writer(&mut room, schema).is_err() {
        return Err(walk.refused(format!("more than {} bytes of JSON", bounds::TEXT), "ask for less in one answer"));
    }
    if schema.get("x-guidance").is_some() {
        return Err(walk.refused("`x-guidance` sets options of the server", "remove the key"));
    }
    walk.schema(schema)?;
    if walk.together && walk.multiples.len() > 1 {
        let why = "different multipleOf may have to hold together";
        return Err(walk.refused(why, "give one multipleOf, or write the schema without allOf and without keys beside $ref"));
    }
    Ok(())
}

/// Takes a number of bytes and no more.
struct Room {
    left: usize,
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How large a schema becomes when it is multiplied out.
#[derive(Debug, Clone, Copy)]
struct Size {
    alternatives: u64,
    /// Of the largest alternative.
    bytes: u64,
}

impl Size {
    fn all(self) -> u64 {
        self.alternatives.saturating_mul(self.bytes)
    }

    fn and(self, other: Size) -> Size {
        let alternatives = self.alternatives.saturating_mul(other.alternatives);
        Size { alternatives, bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn or(self, other: Size) -> Size {
        let alternatives = self.alternatives.saturating_add(other.alternatives);
        Size { alternatives, bytes: self.bytes.max(other.bytes) }
    }

    fn of_bytes(bytes: usize) -> Size {
        Size { alternatives: 1, bytes: bytes as u64 }
    }
}

struct Walk<'a> {
    root: &'a Value,
    whole: &'a str,
    pointer: String,
    /// Targets of `$ref` that were walked.
    targets: HashSet<&'a str>,
    /// Whether parts of it must hold together.
    together: bool,
    /// What such parts come to, in bytes.
    expanded: u64,
    /// Sizes of the targets of `$ref`; `None` while one is being measured.
    sizes: HashMap<&'a str, Option<Size>>,
    /// The different `multipleOf`.
    multiples: HashSet<String>,
}

impl<'a> Walk<'a> {
    fn refused(&self, why: impl Into<String>, help: &str) -> crate::error::Error {
        refused(&self.place(), why, help)
    }

    fn place(&self) -> String {
        let cut = self.pointer.floor_char_boundary(PLACE);
        let (place, rest) = self.pointer.split_at(cut);
        let place = if place.is_empty() { "the root" } else { place };
        format!("{}schema at {place}{}", self.whole, if rest.is_empty() { "" } else { "…" })
    }

    /// Calls `f` one level below, at `key`.
    fn below<T>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let found = f(self)?;
        self.pointer.truncate(length);
        Ok(found)
    }

    fn depth(&mut self, value: &Value, level: usize) -> Result<()> {
        if level > DEPTH {
            return Err(self.refused(format!("more than {DEPTH} levels of JSON inside each other"), "nest less deep"));
        }
        match value {
            Value::Array(items) => {
                items.iter().enumerate().try_for_each(|(i, item)| self.below(&i.to_string(), |walk| walk.depth(item, level + 1)))
            }
            Value::Object(map) => map.iter().try_for_each(|(key, item)| self.below(key, |walk| walk.depth(item, level + 1))),
            _ => Ok(()),
        }
    }

    fn schema(&mut self, schema: &'a Value) -> Result<()> {
        let Value::Object(map) = schema else {
            return if schema.is_boolean() {
                Ok(())
            } else {
                Err(self.refused("a schema is an object, true or false", "correct the schema"))
            };
        };
        for (key, value) in map {
            self.below(key, |walk| walk.keyword(key, value))?;
        }
        let counted = map.contains_key("minProperties") || map.contains_key("maxProperties");
        if counted && map.get("properties").and_then(Value::as_object).is_some_and(|named| named.len() > COUNTED) {
            let why = format!("the number of more than {COUNTED} properties is bounded");
            return Err(self.refused(why, "remove minProperties and maxProperties, or name fewer properties"));
        }
        if conjuncts(map) > 1 {
            self.together = true;
            self.expanded = self.expanded.saturating_add(self.size(schema).all());
            if self.expanded > EXPANDED {
                let why = format!("its parts that must hold together come to more than {EXPANDED} bytes when multiplied out");
                return Err(self.refused(why, "combine fewer alternatives with allOf, or write the combined schema itself"));
            }
        }
        Ok(())
    }

    fn keyword(&mut self, key: &str, value: &'a Value) -> Result<()> {
        match key {
            "properties" | "$defs" | "definitions" => self.named(value, PROPERTIES),
            "patternProperties" => {
                for pattern in value.as_object().into_iter().flat_map(Map::keys) {
                    bounds::pattern(&format!("{}: pattern {pattern:.80?}", self.place()), pattern)?;
                }
                self.named(value, PATTERNS)
            }
            "items" if !value.is_array() => self.schema(value),
            "items" | "prefixItems" | "allOf" | "anyOf" | "oneOf" => self.parts(value),
            "additionalProperties" | "additionalItems" => self.schema(value),
            "required" => self.at_most(value, PROPERTIES).map(drop),
            "enum" => self.at_most(value, VALUES).map(drop),
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => self.count(value),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => self.number(value),
            "multipleOf" => self.multiple(value),
            "pattern" => value.as_str().map_or(Ok(()), |text| bounds::pattern(&self.place(), text)),
            "$ref" => self.reference(value),
            _ => Ok(()),
        }
    }

    fn named(&mut self, value: &'a Value, most: usize) -> Result<()> {
        let Some(map) = value.as_object() else { return Err(self.refused("it is no object", "correct the schema")) };
        if map.len() > most {
            return Err(self.refused(format!("{} entries are more than {most}", map.len()), "ask for less in one answer"));
        }
        map.iter().try_for_each(|(key, schema)| self.below(key, |walk| walk.schema(schema)))
    }

    fn at_most(&mut self, value: &'a Value, most: usize) -> Result<&'a [Value]> {
        let Some(values) = value.as_array() else { return Err(self.refused("it is no array", "correct the schema")) };
        if values.len() > most {
            return Err(self.refused(format!("{} entries are more than {most}", values.len()), "ask for less in one answer"));
        }
        Ok(values)
    }

    fn parts(&mut self, value: &'a Value) -> Result<()> {
        let parts = self.at_most(value, PARTS)?;
        parts.iter().enumerate().try_for_each(|(i, schema)| self.below(&i.to_string(), |walk| walk.schema(schema)))
    }

    fn count(&mut self, value: &Value) -> Result<()> {
        match value.as_u64() {
            Some(count) if count <= COUNT => Ok(()),
            _ => {
                Err(self
                    .refused(format!("{:.40} is no count of at most {COUNT}", value.to_string()), "give a smaller count or none"))
            }
        }
    }

    fn number(&mut self, value: &Value) -> Result<()> {
        match value.as_f64() {
            Some(number) if number.abs() > NUMBER => {
                Err(self.refused(format!("{value} is beyond {NUMBER} either way"), "give a bound nearer to 0 or none"))
            }
            None if !value.is_boolean() => Err(self.refused("it is no number", "correct the schema")),
            _ => Ok(()),
        }
    }

    fn multiple(&mut self, value: &Value) -> Result<()> {
        let number = value.as_f64().unwrap_or_default();
        let whole = [1.0, 1e1, 1e2, 1e3, 1e4].into_iter().map(|scale| number * scale).find(|n| n.fract() == 0.0);
        if number > 0.0 && whole.is_some_and(|n| n <= MULTIPLE) {
            self.multiples.insert(value.to_string());
            return Ok(());
        }
        let why = format!("{value} is no positive number of at most {MULTIPLE} without its decimal point");
        Err(self.refused(why, "give a simpler number, or check the multiple afterwards"))
    }

    fn reference(&mut self, value: &'a Value) -> Result<()> {
        let Some(reference) = value.as_str() else { return Err(self.refused("it is no text", "correct the schema")) };
        let Some(target) = self.target(reference) else {
            let why = format!("{reference:.80?} is no place in this schema");
            return Err(self.refused(why, "point inside this schema (#/$defs/NAME), with neither ~ nor % in names"));
        };
        if !self.targets.insert(reference) {
            return Ok(());
        }
        let from = std::mem::replace(&mut self.pointer, reference.trim_start_matches('#').to_string());
        self.schema(target)?;
        self.pointer = from;
        Ok(())
    }

    fn target(&self, reference: &str) -> Option<&'a Value> {
        let pointer = reference.strip_prefix('#')?;
        if pointer.is_empty() || pointer == "/" {
            return Some(self.root);
        }
        if pointer.contains(['~', '%']) { None } else { self.root.pointer(pointer) }
    }

    fn size(&mut self, schema: &'a Value) -> Size {
        let Value::Object(map) = schema else { return Size::of_bytes(8) };
        let mut size = Size::of_bytes(8);
        for (key, value) in map {
            let parts = value.as_array().map_or(&[][..], Vec::as_slice);
            size = size.and(match key.as_str() {
                "anyOf" | "oneOf" => self.sizes(parts, Size { alternatives: 0, bytes: 0 }, Size::or),
                "allOf" => self.sizes(parts, Size::of_bytes(0), Size::and),
                "enum" => parts.iter().fold(Size { alternatives: 0, bytes: 0 }, |size, v| size.or(Size::of_bytes(text_bytes(v)))),
                "$ref" => self.size_of_target(value.as_str().unwrap_or_default()),
                "$defs" | "definitions" => Size::of_bytes(0),
                "properties" | "patternProperties" => {
                    let all = value.as_object().into_iter().flatten().map(|(name, v)| self.size(v).all() + name.len() as u64);
                    Size { alternatives: 1, bytes: all.fold(0, u64::saturating_add) }
                }
                "items" | "prefixItems" | "additionalProperties" | "additionalItems" => {
                    let schemas = if value.is_array() { parts } else { std::slice::from_ref(value) };
                    let all = schemas.iter().map(|v| self.size(v).all());
                    Size { alternatives: 1, bytes: all.fold(0, u64::saturating_add) }
                }
                _ => Size::of_bytes(text_bytes(value)),
            });
        }
        size
    }

    fn sizes(&mut self, schemas: &'a [Value], none: Size, join: impl Fn(Size, Size) -> Size) -> Size {
        schemas.iter().fold(none, |size, schema| join(size, self.size(schema)))
    }

    /// A target inside itself counts once: what compiles it stops at such a ring.
    fn size_of_target(&mut self, reference: &'a str) -> Size {
        if let Some(size) = self.sizes.get(reference) {
            return size.unwrap_or(Size::of_bytes(8));
        }
        self.sizes.insert(reference, None);
        let size = self.target(reference).map_or(Size::of_bytes(0), |target| self.size(target));
        self.sizes.insert(reference, Some(size));
        size
    }
}

/// How many parts of a schema must hold together, each of them possibly large.
fn conjuncts(map: &Map<String, Value>) -> usize {
    let all = map.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
    let inside = ["properties", "patternProperties", "additionalProperties", "items", "prefixItems", "additionalItems"];
    let patterns = usize::from(map.contains_key("patternProperties") && map.contains_key("properties"));
    let others = ["anyOf", "oneOf", "$ref", "enum", "const"].iter().filter(|key| map.contains_key(**key)).count();
    all + patterns + others + usize::from(inside.iter().any(|key| map.contains_key(*key)))
}

fn text_bytes(value: &Value) -> usize {
    value.to_string().len()
}
