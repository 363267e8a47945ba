//! XTC ("exclude top choices"): with some probability, drops every token that is probable enough but the
//! least of them, so that the model leaves its favourite path while staying plausible.
//!
//! Acts when `u < probability` (its own random number, so the token's number is untouched), at least two
//! candidates have `P >= threshold`, and `min_keep` would be left. A threshold above 0.5 turns it off: two
//! tokens cannot both reach it. Source: p-e-w, oobabooga/text-generation-webui #6335; llama.cpp's `xtc`.

use super::candidates::Candidates;
use super::params::within;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Settings of XTC.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Xtc {
    /// How often it acts; 0 is off.
    pub probability: f32,
    /// The probability from which a token is a top choice; above 0.5 is off.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

impl Xtc {
    pub(super) fn validate(&self) -> Result<()> {
        within("xtc.probability", self.probability, 0.0, 1.0)?;
        within("xtc.threshold", self.threshold, 0.0, 1.0)
    }

    pub(super) fn is_on(&self) -> bool {
        self.probability > 0.0 && self.threshold <= 0.5
    }

    /// `u`: a number in `0..1` of this position, for XTC alone.
    pub(super) fn apply(&self, c: &mut Candidates<'_>, u: f64, min_keep: usize) {
        if u < f64::from(self.probability) {
            c.drop_top_choices(f64::from(self.threshold), min_keep);
        }
    }
}
