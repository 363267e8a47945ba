//! `[adapters.NAME]` and `[control]` of a profile.

use serde::Deserialize;

/// A LoRA adapter or a control vector with its strength.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSection {
    /// Its file, beside the profile.
    pub path: String,
    /// Strength; 0 is off.
    #[serde(default = "one")]
    pub scale: f32,
}

fn one() -> f32 {
    1.0
}
