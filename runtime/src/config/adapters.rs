//! `[adapters.NAME]`, `[control]` and `[expert]` of a profile.

use crate::guard::ExpertRule;
use serde::Deserialize;
use std::collections::BTreeMap;

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

/// `[expert]`: the same model under a safety system message, or under adapters, has its say in the first tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpertSection {
    /// The expert's system message.
    pub system: Option<String>,
    /// Weights of adapters, by name, under which the expert runs.
    pub adapters: BTreeMap<String, f32>,
    /// Strength; 0 is off.
    pub alpha: f32,
    /// Tokens that are mixed.
    pub tokens: usize,
    /// Fewest tokens that both rank highly.
    pub least: usize,
}

impl Default for ExpertSection {
    fn default() -> Self {
        let ExpertRule { alpha, n_tokens, least } = ExpertRule::default();
        Self { system: None, adapters: BTreeMap::new(), alpha, tokens: n_tokens, least }
    }
}

impl ExpertSection {
    /// How strongly and how long it counts.
    pub fn rule(&self) -> ExpertRule {
        ExpertRule { alpha: self.alpha, n_tokens: self.tokens, least: self.least }
    }
}
