//! `--template`: the chat template in which a model is spoken to, whatever it was trained in.

use std::path::Path;

use crate::recipe::TemplateKind;

/// `model`, `alpaca`, `instruction`, or the path of a Jinja file; the error says what it is instead.
pub(super) fn parse(given: &str) -> Result<TemplateKind, String> {
    match given {
        "model" => Ok(TemplateKind::Model),
        "alpaca" => Ok(TemplateKind::Alpaca),
        "instruction" => Ok(TemplateKind::Instruction),
        path if Path::new(path).is_file() => Ok(TemplateKind::File(path.into())),
        _ => Err("there is no such file; give a Jinja file, `model`, `alpaca` or `instruction`".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_kind_or_a_file_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.jinja");
        assert!(parse(&file.display().to_string()).unwrap_err().contains("no such file"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(parse(&file.display().to_string()), Ok(TemplateKind::File(file)));
        assert_eq!(parse("alpaca"), Ok(TemplateKind::Alpaca));
    }
}
