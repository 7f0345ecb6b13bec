//! Values of the arguments: a precision, targets, an endpoint.

use std::convert::Infallible;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::bench::serve::Api;
use crate::device::Compute;
use crate::recipe::TargetModules;

/// A precision by its name.
pub(super) fn precision() -> impl TypedValueParser<Value = Compute> {
    PossibleValuesParser::new(["auto", "f32", "bf16"]).map(|name| match name.as_str() {
        "f32" => Compute::F32,
        "bf16" => Compute::Bf16,
        _ => Compute::Auto,
    })
}

/// Names separated by commas, or all-linear.
pub(super) fn targets(text: &str) -> Result<TargetModules, Infallible> {
    Ok(match text {
        "all-linear" => TargetModules::AllLinear,
        _ => TargetModules::Names(text.split(',').map(|t| t.trim().to_string()).collect()),
    })
}

/// An endpoint by its name.
pub(super) fn api() -> impl TypedValueParser<Value = Api> {
    PossibleValuesParser::new(["completions", "chat"]).map(|name| if name == "chat" { Api::Chat } else { Api::Completions })
}
