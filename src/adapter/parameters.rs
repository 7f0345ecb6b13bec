//! Which parameters of all experts get low-rank matrices: PEFT's `target_parameters` (`_inject_parameters`,
//! `peft/tuners/tuners_utils.py`, and `ParamWrapper`, `peft/tuners/lora/layer.py`, of PEFT 0.21).

use super::config::PeftConfig;
use crate::error::{Error, Result, nearest};
use crate::model::FusedParameter;

pub(super) const KEY: &str = "target_parameters";

pub(super) fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether `path` is `name` or ends in `.name`.
pub(super) fn ends_in(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

/// What a configuration names.
#[derive(Default)]
pub(super) struct Named<'a> {
    pub parameters: Vec<&'a FusedParameter>,
    /// Why a name does nothing, and what to do.
    pub vain: Vec<(String, String)>,
}

/// Those of `fused` that `config` names, in every layer and whatever it excludes. `modules` is the key that names modules.
///
/// # Errors
/// [`Error::Usage`] where the base has no such parameters, and beside dropout or DoRA, which PEFT has none of on them.
pub(super) fn named<'a>(config: &PeftConfig, fused: &'a [FusedParameter], modules: &str) -> Result<Named<'a>> {
    let names = &config.target_parameters;
    let Some(name) = names.first() else { return Ok(Named::default()) };
    let fail = |why: String, help: String| Err(Error::usage(format!("`{KEY}`"), why, help));
    if fused.is_empty() {
        let why = format!("`{name}` cannot be adapted: the base has no parameters of experts");
        return fail(why, format!("name modules in `{modules}`"));
    }
    for (there, what, help) in [
        (config.use_dora, "DoRA", "leave one of the two out"),
        (config.lora_dropout > 0.0, "dropout", "set the dropout to 0, or leave the parameters out"),
    ] {
        if there {
            return fail(format!("it stands beside {what}, which PEFT has none of on parameters of experts"), help.into());
        }
    }
    let named = |parameter: &FusedParameter, name: &str| ends_in(&parameter.path(), name);
    let vain = names.iter().filter(|name| !fused.iter().any(|parameter| named(parameter, name)));
    let vain = vain.map(|name| (format!("`{name}` matches no parameter of experts"), known(fused, name))).collect();
    let parameters = fused.iter().filter(|parameter| names.iter().any(|name| named(parameter, name))).collect();
    Ok(Named { parameters, vain })
}

/// What there is, the nearest to `name` before.
fn known(fused: &[FusedParameter], name: &str) -> String {
    let mut all: Vec<String> = Vec::new();
    for parameter in fused {
        let short = format!("{}.{}", last(&parameter.module), parameter.name);
        if !all.contains(&short) {
            all.push(short);
        }
    }
    let ends: Vec<&str> = all.iter().map(|short| last(short)).collect();
    let near = nearest(last(name), ends).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    format!("{near}the model's are: {}", all.join(", "))
}
