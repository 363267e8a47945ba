//! Repetition, frequency and presence penalties over a window of recent tokens.
//!
//! For a token seen `n > 0` times in the window: `logit <= 0 ? logit * repeat : logit / repeat`, then
//! `logit -= n * frequency + presence`. Sources: Keskar et al. 2019, arXiv 1909.05858 (repetition, with the
//! usual cure for negative logits); OpenAI's frequency and presence penalties; llama.cpp's `penalties`.
//! The counts follow the window as tokens come and go, so a step costs the distinct tokens in it, not its
//! length. It loses on text that must repeat itself, such as code and tables.

use super::candidates::Candidates;
use super::params::bad;
use crate::error::Result;
use crate::token::TokenId;
use serde::{Deserialize, Serialize};

/// Settings of the penalties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Penalties {
    /// Window in tokens, prompt included; 0 is off, -1 everything accepted so far.
    pub last_n: i32,
    /// Divides (or multiplies, if negative) the logits of seen tokens; 1 is off.
    pub repeat: f32,
    /// Taken off a logit for every time the token was seen; 0 is off.
    pub frequency: f32,
    /// Taken off the logit of a token that was seen at all; 0 is off.
    pub presence: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { last_n: 64, repeat: 1.0, frequency: 0.0, presence: 0.0 }
    }
}

impl Penalties {
    pub(super) fn validate(&self) -> Result<()> {
        window("penalties.last_n", self.last_n)?;
        if !(self.repeat > 0.0 && self.repeat.is_finite()) {
            return Err(bad("penalties.repeat", "a finite number above 0", self.repeat));
        }
        for (field, x) in [("penalties.frequency", self.frequency), ("penalties.presence", self.presence)] {
            if !x.is_finite() {
                return Err(bad(field, "a finite number", x));
            }
        }
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        self.last_n != 0 && (self.repeat != 1.0 || self.frequency != 0.0 || self.presence != 0.0)
    }

    pub(super) fn apply(&self, c: &mut Candidates<'_>, counts: &Counts) {
        c.edit(&counts.0, |logit, n| self.penalised(logit, n));
    }

    fn penalised(&self, logit: f32, n: u32) -> f32 {
        let repeated = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
        repeated - (n as f32 * self.frequency + self.presence)
    }
}

/// Checks the length of a window: -1 or more.
pub(super) fn window(field: &str, last_n: i32) -> Result<()> {
    if last_n >= -1 { Ok(()) } else { Err(bad(field, "-1 or more", last_n)) }
}

/// The length of a window in tokens.
pub(super) fn window_tokens(last_n: i32) -> usize {
    usize::try_from(last_n).unwrap_or(usize::MAX)
}

/// How often each token is in the window; by id, counts above 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Vec<(TokenId, u32)>);

impl Counts {
    pub(super) fn reserve(&mut self, n: usize) {
        self.0.reserve(n);
    }

    pub(super) fn add(&mut self, token: TokenId) {
        match self.0.binary_search_by_key(&token, |e| e.0) {
            Ok(i) => self.0[i].1 += 1,
            Err(i) => self.0.insert(i, (token, 1)),
        }
    }

    pub(super) fn remove(&mut self, token: TokenId) {
        if let Ok(i) = self.0.binary_search_by_key(&token, |e| e.0) {
            self.0[i].1 -= 1;
            if self.0[i].1 == 0 {
                self.0.remove(i);
            }
        }
    }
}
