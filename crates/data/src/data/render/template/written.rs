//! Numbers of rows in templates: they count as Python's do and are printed with the text that they were written with.
//!
//! Python's `json` makes `1.50` a float, which is printed as 1.5; here text stays as it was written, whether a template prints a
//! number, joins it or writes it as JSON. While a template runs, such a number is the float that it is for Python, and its text
//! stands in a table beside it. Two texts of one float in one conversation (`1.5` and `1.50`), and integers beyond 128 bits,
//! are values of their own ([`Written`]), which a template can print and cannot add.
//! What a template calculates is printed as Python prints it, unless it is the very float that the conversation has a text for.
//! Refuses to know templates.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic;
use std::sync::atomic::AtomicBool;

use minijinja::value::{DynObject, Object, ObjectRepr, Value, ValueKind};

use crate::json::{Number, float_text};

/// A number that is not printed as Python would print it.
#[derive(Debug)]
struct Written {
    text: String,
    /// The nearest float.
    float: f64,
    is_integer: bool,
}

impl Object for Written {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.float != 0.0
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        Some(self.float.total_cmp(&other.float))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether any number of this process is such a one: if not, no conversation is looked through for them.
static MET: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Bits of a float and its text, for the template that runs.
    static TEXTS: RefCell<HashMap<u64, String>> = RefCell::default();
}

/// A number as a template sees it.
pub(super) fn value(number: &Number) -> Value {
    if let Some(n) = number.as_i64() {
        return Value::from(n);
    }
    let (text, x, is_integer) = (number.to_string(), number.as_f64(), number.is_integer());
    match (text.parse::<i128>(), text.parse::<u128>()) {
        (Ok(n), _) if text != "-0" => return Value::from(n),
        (_, Ok(n)) => return Value::from(n),
        _ if !is_integer && float_text(x) == text => return Value::from(x),
        _ => {}
    }
    MET.store(true, atomic::Ordering::Relaxed);
    Value::from_object(Written { text, float: x, is_integer })
}

/// Its text, if a value is a number that is printed in its own way.
pub(super) fn text(value: &Value) -> Option<String> {
    if let Some(written) = value.downcast_object_ref::<Written>() {
        return Some(written.text.clone());
    }
    let bits = bits(value)?;
    TEXTS.with_borrow(|texts| texts.get(&bits).cloned())
}

/// A value as a plain number, if it is one of ours.
pub(super) fn plain(value: &Value) -> Option<Value> {
    value.downcast_object_ref::<Written>().map(|written| Value::from(written.float))
}

/// Whether it is a number that is printed in its own way; of integers, or of others.
pub(super) fn is(value: &Value, integer: bool) -> bool {
    value.downcast_object_ref::<Written>().is_some_and(|written| written.is_integer == integer)
}

/// Runs a template with the numbers of a context as Python's, their texts being known to [`text`] meanwhile.
pub(super) fn with_texts<T>(context: Value, run: impl FnOnce(Value) -> T) -> T {
    if !MET.load(atomic::Ordering::Relaxed) {
        return run(context);
    }
    let mut found = Found::default();
    found.gather(&context);
    found.texts.retain(|_, text| text.is_some());
    let context = match found.any {
        true => found.plain(&context).unwrap_or(context),
        false => return run(context),
    };
    TEXTS.set(found.texts.into_iter().filter_map(|(bits, text)| Some((bits, text?))).collect());
    let done = run(context);
    TEXTS.take();
    done
}

/// The bits of a float.
fn bits(value: &Value) -> Option<u64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten().map(f64::to_bits)
}

/// The floats of a context.
#[derive(Default)]
struct Found {
    /// Bits and text; none where there are two texts.
    texts: HashMap<u64, Option<String>>,
    any: bool,
}

impl Found {
    fn gather(&mut self, value: &Value) {
        if let Some(written) = value.downcast_object_ref::<Written>() {
            self.any = true;
            // An integer beyond all numbers of templates would be another as a float.
            if !written.is_integer || written.float == 0.0 {
                self.meet(written.float.to_bits(), &written.text);
            }
            return;
        }
        match value.kind() {
            ValueKind::Number => {
                if let Some(bits) = bits(value) {
                    self.meet(bits, &float_text(f64::from_bits(bits)));
                }
            }
            ValueKind::Seq => value.try_iter().into_iter().flatten().for_each(|item| self.gather(&item)),
            ValueKind::Map => {
                value.try_iter().into_iter().flatten().for_each(|key| self.gather(&value.get_item(&key).unwrap_or_default()))
            }
            _ => {}
        }
    }

    fn meet(&mut self, bits: u64, text: &str) {
        let known = self.texts.entry(bits).or_insert_with(|| Some(text.to_string()));
        if known.as_deref().is_some_and(|known| known != text) {
            *known = None;
        }
    }

    /// The value with floats in the place of numbers whose text is known; `None` where there is none in it.
    fn plain(&self, value: &Value) -> Option<Value> {
        if let Some(written) = value.downcast_object_ref::<Written>() {
            let known = self.texts.get(&written.float.to_bits()).and_then(Option::as_ref);
            return known.filter(|text| **text == written.text).map(|_| Value::from(written.float));
        }
        match value.kind() {
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
                let new: Vec<Option<Value>> = items.iter().map(|item| self.plain(item)).collect();
                let any = new.iter().any(Option::is_some);
                any.then(|| items.into_iter().zip(new).map(|(old, new)| new.unwrap_or(old)).collect())
            }
            ValueKind::Map => {
                let keys = value.try_iter().into_iter().flatten();
                let items: Vec<(Value, Value)> =
                    keys.map(|key| (key.clone(), value.get_item(&key).unwrap_or_default())).collect();
                let new: Vec<Option<Value>> = items.iter().map(|(_, item)| self.plain(item)).collect();
                let any = new.iter().any(Option::is_some);
                any.then(|| Value::from_pairs(items.into_iter().zip(new).map(|((key, old), new)| (key, new.unwrap_or(old)))))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::super::jinja::Jinja;
    use crate::json;
    use crate::tokenizer::Special;

    fn render(source: &str, context: &str) -> String {
        let json::Value::Object(context) = json::parse(context).unwrap() else { panic!("no object") };
        let template = Jinja::new("test", source, &Special::default(), Clock::default()).unwrap();
        template.render_json(&context).unwrap_or_else(|e| e.to_string())
    }

    const LONG: &str = "123456789012345678901234567890123456789012345678901234567890";

    #[test]
    fn a_number_is_printed_with_its_text_wherever_it_is_printed() {
        for text in [
            "1.50",
            "1e3",
            "-0",
            "1E400",
            "0.30000000000000004",
            "0.12345678901234567",
            "18446744073709551616",
            LONG,
            "7",
            "1e16",
        ] {
            let context = format!("{{\"x\": {text}, \"m\": {{\"a\": [{text}]}}}}");
            let source = "{{ x }} {{ x | tojson }} {{ m }} {{ m | tojson }} {{ x | string }} {{ [x, 2] | join('/') }}";
            let expected = format!("{text} {text} {{'a': [{text}]}} {{\"a\": [{text}]}} {text} {text}/2");
            assert_eq!(render(source, &context), expected);
        }
        assert_eq!(
            render("{{ x ~ '' }} {{ y ~ '' }}", &format!("{{\"x\": {LONG}, \"y\": 18446744073709551616}}")),
            format!("{LONG} 18446744073709551616")
        );
    }

    /// What Python 3.12 makes of it, with the numbers that its `json` reads.
    #[test]
    fn numbers_count_as_those_of_python() {
        let table = [
            ("{{ x + 1 }} {{ x * 2 }} {{ x - 0.5 }} {{ -x }}", "2.5 3.0 1.0 -1.5"),
            ("{{ x > 1 }} {{ x == 1.5 }} {{ x < 1 }} {{ 1 < x < 2 }} {{ k == 1000 }}", "True True False True True"),
            (
                "{{ x is number }} {{ x is float }} {{ k is integer }} {{ big is integer }} {{ long is number }}",
                "True True False True True",
            ),
            ("{{ x | int }} {{ k | int }} {{ x | round }} {{ big + 1 }}", "1 1000 2.0 18446744073709551617"),
            ("{{ huge > 10 }} {% if zero %}yes{% else %}no{% endif %} {{ long is integer }}", "True no True"),
            ("{{ n + 1 }} {{ n / 4 }} {{ f + 1 }} {{ f * 10 }}", "4 0.75 1.25 2.5"),
        ];
        let context = format!(
            "{{\"x\": 1.50, \"k\": 1e3, \"huge\": 1E400, \"zero\": 0.00, \"big\": 18446744073709551616, \"n\": 3, \"f\": 0.25, \"long\": {LONG}}}"
        );
        for (source, expected) in table {
            assert_eq!(render(source, &context), expected, "{source}");
        }
    }

    #[test]
    fn two_texts_of_one_number_stay_apart() {
        assert_eq!(
            render("{{ m | tojson }} {{ m.a is number }}", r#"{"m": {"a": 1.50, "b": 1.5, "c": 1.500}}"#),
            r#"{"a": 1.50, "b": 1.5, "c": 1.500} True"#
        );
    }
}
