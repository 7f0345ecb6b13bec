//! Unknown keys of a base's `config.json` that are left out of account.

use clap::Args;

use crate::recipe::Base;

/// Which keys.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct IgnoreArg {
    /// Go on although this key of the base's config.json is unknown, at your own risk; once for each key
    #[arg(long, value_name = "KEY")]
    pub(super) ignore_config: Vec<String>,
}

impl IgnoreArg {
    /// Adds them to those of a base.
    pub(super) fn add_to(&self, base: &mut Base) {
        for key in &self.ignore_config {
            if !base.ignore_config.contains(key) {
                base.ignore_config.push(key.clone());
            }
        }
    }

    /// As they are typed.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        self.ignore_config.iter().flat_map(|key| ["--ignore-config".to_string(), key.clone()])
    }
}
