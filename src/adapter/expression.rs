//! Regular expressions as Python's `re` reads them, look-around and references included, with a bound on their work.
//!
//! Refuses to know what they are matched for.

use fancy_regex::{Captures, Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Steps back that one match may take; a sane expression needs a few hundred.
const MAX_STEPS: usize = 200_000;
/// Longest expression, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// Largest automaton of one part, in bytes.
const MAX_AUTOMATON: usize = 4 << 20;

/// A compiled expression and the field that it stands in.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    regex: Regex,
    key: String,
    pattern: String,
}

impl Expression {
    /// Compiles `wrapped`, which holds `pattern`, as the field `key` has it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the field when it is no expression or too large.
    fn new(key: &str, pattern: &str, wrapped: &str) -> Result<Expression> {
        let help = "write a valid regular expression";
        let cut: String = pattern.chars().take(200).collect();
        let fail = |why: String| Error::usage(format!("`{key}`"), format!("`{cut}` is not a regular expression: {why}"), help);
        if pattern.len() > MAX_BYTES {
            return Err(fail(format!("{} bytes are too many", pattern.len())));
        }
        let mut builder = RegexBuilder::new(wrapped);
        builder.backtrack_limit(MAX_STEPS).delegate_size_limit(MAX_AUTOMATON);
        let regex = builder.build().map_err(|e| fail(e.to_string()))?;
        Ok(Expression { regex, key: key.into(), pattern: cut })
    }

    /// The whole text, as `re.fullmatch`.
    ///
    /// # Errors
    /// As all of these: [`Error::Usage`] when it is no expression.
    pub(super) fn whole(key: &str, pattern: &str) -> Result<Expression> {
        Expression::new(key, pattern, &format!(r"\A(?:{pattern})\z"))
    }

    /// A key of `rank_pattern` or `alpha_pattern`: a path's end, from a dot on (`get_pattern_key`, `peft/utils/other.py`).
    pub(super) fn ending(key: &str, pattern: &str) -> Result<Expression> {
        Expression::new(key, pattern, &format!(r"\A(.*\.)?({pattern})\z"))
    }

    /// What stands before a layer's number in a path; without a pattern, anything (`check_target_module_exists`,
    /// `peft/tuners/tuners_utils.py`). The first number counts.
    pub(super) fn before_layer(key: &str, pattern: Option<&str>) -> Result<Expression> {
        match pattern {
            None => Expression::new(key, "", r"\A.*?\.[^.]*\.(?P<idx>\d+)\."),
            Some(pattern) => Expression::new(key, pattern, &format!(r"\A(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)")),
        }
    }

    /// Whether it matches.
    ///
    /// # Errors
    /// [`Error::Usage`] when it takes too many steps.
    pub(super) fn matches(&self, text: &str) -> Result<bool> {
        self.regex.is_match(text).map_err(|e| self.stuck(&e))
    }

    /// The layer's number that [`Expression::before_layer`] finds.
    ///
    /// # Errors
    /// As [`Expression::matches`].
    pub(super) fn layer(&self, text: &str) -> Result<Option<usize>> {
        let found: Option<Captures<'_>> = self.regex.captures(text).map_err(|e| self.stuck(&e))?;
        Ok(found.and_then(|c| c.name("idx")?.as_str().parse().ok()))
    }

    fn stuck(&self, error: &fancy_regex::Error) -> Error {
        let help = "write it without nested repetitions, e.g. without `(.*)*`";
        Error::usage(format!("`{}`", self.key), format!("`{}` cannot be matched: {error}", self.pattern), help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_reads_them() {
        let path = "model.layers.3.self_attn.q_proj";
        let whole = |p: &str| Expression::whole("k", p).unwrap().matches(path).unwrap();
        assert!(whole(r"^(model)(?!.*(lm_head|output|emb|wte|shared)).*\.(q_proj|v_proj)$"));
        assert!(whole(r"^(model(?=\.).*\.(q_proj|v_proj))$"));
        assert!(whole(r".*(?<=_attn)\.q_proj") && whole(r"(?P<m>m)odel.*") && whole("x|.*q_proj"));
        assert!(!whole("q_proj") && !whole(r"(?!model).*") && !whole(r"model|q"));
        let ending = |p: &str| Expression::ending("k", p).unwrap().matches(path).unwrap();
        assert!(ending("q_proj") && ending(r"self_attn\.q_proj") && ending("v_proj|q_proj") && ending(r".*3.*"));
        assert!(!ending("proj") && !ending("q_pro"));
        let layer = |p: Option<&str>| Expression::before_layer("k", p).unwrap().layer(path).unwrap();
        assert_eq!([layer(None), layer(Some("layers")), layer(Some("model.layers"))], [Some(3); 3]);
        assert_eq!([layer(Some("h")), layer(Some("ayers"))], [None; 2]);
    }

    #[test]
    fn a_hostile_one_ends() {
        let error = Expression::whole("target_modules", "(").unwrap_err().to_string();
        assert!(error.contains("`target_modules`") && error.contains("not a regular expression"), "{error}");
        assert!(Expression::whole("k", &"(".repeat(100_000)).is_err());
        assert!(Expression::whole("k", "(a{1000}){1000}{1000}").is_err());
        let slow = Expression::whole("k", r"(?:(?=a)a|(?=a)a)*b").unwrap();
        assert!(slow.matches(&"a".repeat(60)).unwrap_err().to_string().contains("cannot be matched"));
    }
}
