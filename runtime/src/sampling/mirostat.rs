//! Mirostat 2: keeps the surprise of the chosen tokens near a target.
//!
//! Tokens with surprise `-log2 P` above `mu` are cut (one is always kept); after the draw
//! `mu -= eta * (surprise - tau)`, the surprise taken under the truncated law, `mu` starting at `2 tau`.
//! It loses where the text should have no steady surprise, as in code or lists.
//! Source: Basu et al. 2020, arXiv 2007.14966; llama.cpp's `mirostat_v2`.

use super::candidates::Candidates;
use super::params::bad;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Settings of Mirostat 2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirostat {
    /// Target surprise, bits a token.
    pub tau: f32,
    /// Learning rate.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

impl Mirostat {
    pub(super) fn validate(&self) -> Result<()> {
        if !(self.tau > 0.0 && self.tau.is_finite()) {
            return Err(bad("mirostat.tau", "a finite number above 0", self.tau));
        }
        if !(self.eta > 0.0 && self.eta <= 1.0) {
            return Err(bad("mirostat.eta", "a number above 0, at most 1", self.eta));
        }
        Ok(())
    }

    /// `mu` before the first token, bits.
    pub(super) fn start(&self) -> f32 {
        2.0 * self.tau
    }

    /// Cuts tokens more surprising than `mu` bits.
    pub(super) fn truncate(&self, c: &mut Candidates<'_>, mu: f32) {
        let log_z = c.total().ln();
        let depth = f64::from(mu) * std::f64::consts::LN_2 - log_z;
        let threshold = f64::from(c.best()) - depth / f64::from(c.scale());
        c.keep_above(threshold as f32, 1);
    }

    /// `mu` after a token of probability `p` under the truncated law.
    pub(super) fn next(&self, mu: f32, p: f64) -> f32 {
        mu - self.eta * (-p.log2() as f32 - self.tau)
    }
}
