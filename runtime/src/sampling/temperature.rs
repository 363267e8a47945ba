//! Temperature: `logit / T`, and dynamic temperature, which follows the entropy.
//!
//! Dynamic temperature: `T = low + (high - low) * (H / ln n)^exponent` with `low = max(0, T0 - range)`,
//! `high = T0 + range`, `H` the entropy of the `n` candidates; with one candidate it does nothing. A sure
//! model is sharpened, an unsure one loosened. It costs one more pass over the candidates.
//! `T = 0` keeps the best token. Source: llama.cpp's `temp_ext`; the entropy rule is kalomaze's.

use super::candidates::Candidates;
use serde::{Deserialize, Serialize};

/// Temperature that follows the entropy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dynatemp {
    /// The temperature varies by this to either side; 0 is off.
    pub range: f32,
    /// Bends the map from entropy to temperature.
    pub exponent: f32,
}

impl Default for Dynatemp {
    fn default() -> Self {
        Self { range: 0.0, exponent: 1.0 }
    }
}

/// Applies a temperature of at least 0.
pub(super) fn apply(c: &mut Candidates<'_>, temperature: f32) {
    if temperature > 0.0 { c.divide_by(temperature) } else { c.keep_best() }
}

/// Applies the temperature that the entropy asks for.
pub(super) fn apply_dynamic(c: &mut Candidates<'_>, temperature: f32, dynamic: &Dynatemp) {
    let n = c.n_possible();
    if n > 1 {
        let (_, entropy) = c.entropy();
        apply(c, dynamic_temperature(temperature, dynamic, entropy / (n as f64).ln()));
    }
}

/// The temperature for an entropy in units of its maximum.
fn dynamic_temperature(temperature: f32, dynamic: &Dynatemp, entropy: f64) -> f32 {
    let low = (temperature - dynamic.range).max(0.0);
    let high = temperature + dynamic.range;
    low + (high - low) * (entropy.clamp(0.0, 1.0) as f32).powf(dynamic.exponent)
}
