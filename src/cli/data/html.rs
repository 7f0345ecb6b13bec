//! Pages from templates: what is put into one stays text, unless it is a plot.
//!
//! Refuses to know what a page shows.

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Output, State};

use crate::artifact::svg::escape;
use crate::error::{Error, Result};

/// Fills a template with the values of `context`.
///
/// # Errors
/// [`Error::Usage`] when the template and its values do not fit, which a user cannot cause.
pub(super) fn page(template: &str, context: &Value) -> Result<String> {
    filled(template, context).map_err(|e| Error::usage("the page", format!("{e:#}"), "report this"))
}

fn filled(template: &str, context: &Value) -> std::result::Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(environment.syntax().to_builder().keep_trailing_newline(true).build()?);
    // Values are HTML's text whatever the template is called.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(written);
    environment.add_test("figure", is_figure);
    environment.template_from_str(template)?.render(context)
}

/// SVG that stands in a page as it is.
pub(super) fn plot(svg: String) -> Value {
    Value::from_safe_string(svg)
}

fn written(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> std::result::Result<(), minijinja::Error> {
    if value.is_safe() || *state.auto_escape() != AutoEscape::Html {
        return minijinja::escape_formatter(out, state, value);
    }
    Ok(out.write_str(&escape(&value.to_string()))?)
}

/// Whether a cell of a table holds a number, which stands on the right.
fn is_figure(cell: &str) -> bool {
    !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'%' | b' ' | b'-'))
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    #[test]
    fn values_stay_text_and_plots_are_marks() {
        let values = context! { text => "<b>'\u{1}", plot => plot("<svg/>".into()), cells => ["1.5 %", "a1", ""] };
        let template = "{{ text }}{{ plot }}{% for c in cells if c is figure %} {{ c }}{% endfor %}\n";
        assert_eq!(page(template, &values).unwrap(), "&lt;b&gt;&#39;\u{fffd}<svg/> 1.5 %\n");
    }

    #[test]
    fn a_template_that_does_not_parse_is_an_error() {
        assert!(page("{% if %}", &Value::UNDEFINED).unwrap_err().to_string().starts_with("the page: "));
    }
}
