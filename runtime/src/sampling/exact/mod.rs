//! Sampling from a model conditioned on a constraint, and how far masking is from that.
//!
//! A mask makes every text valid but not every valid text as likely as the model has it: with
//! `W(x) = Π Z(x_<t)`, `Z` the mass the mask allows, masked sampling draws `q(x) = P(x) / W(x)`, so texts
//! that pass where the model disliked the constraint are over-drawn. What is wanted is
//! `p*(x) = P(x | x in L)`, `L` the texts the constraint accepts.
//!
//! | | law of one draw | when it wins | when it loses |
//! |---|---|---|---|
//! | [`Cars`] | exactly `p*` | many samples of one prompt; `P(L)` not tiny | `P(L)` tiny: draws are rejected |
//! | [`Smc`] | tends to `p*` with particles | `P(L)` tiny | few particles: close to masking |
//! | [`Metropolis`] | tends to `p*` with steps | cheap improvement of masked draws | `P(L)` tiny: no step accepted |
//! | [`masked_draws`] | `q` | one pass, and the weights for [`Distortion`] | biased |
//!
//! `P` is the softmax of the logits at a temperature; truncation and penalties have no place in it.
//! Sources: Park et al. 2024 (grammar-aligned decoding), arXiv 2405.21047; constrained adaptive rejection
//! sampling (CARS), arXiv 2510.01902; Loula et al. 2025 (SMC for constraints), arXiv 2504.13139.

mod cars;
mod distortion;
mod metropolis;
mod particles;
mod rows;
mod softmax;
mod trie;

#[cfg(test)]
mod tests;

pub use cars::{Cars, CarsParams, ExactSample};
pub use distortion::{Distortion, Interval};
pub use metropolis::Metropolis;
pub use particles::{MaskedDraw, Smc, SmcParams, SmcSample, masked_draws};

use super::next_logits::NextLogits;
use crate::error::Result;
use crate::token::{TokenId, TokenSet};

/// A constraint as exact algorithms see it: which tokens may follow a text.
pub trait MaskSource {
    /// The tokens that end a text.
    fn ends(&self) -> &TokenSet;

    /// Takes out of `set`, full on entry, what may not follow `prefix`: the tokens since the prompt. Tokens
    /// that end a text stay only where the text is accepted. Leaving a token that no accepted text goes on
    /// with costs draws, never exactness; taking out one that some accepted text has is wrong. The answer
    /// depends on the prefix alone.
    /// # Errors those of the constraint.
    fn mask(&mut self, prefix: &[TokenId], set: &mut TokenSet) -> Result<()>;
}

/// Where texts begin: a branch that holds the prompt, and the logits after it.
#[derive(Debug)]
pub struct Start<'a, B> {
    /// The prompt, evaluated.
    pub branch: &'a B,
    /// Logits of the token after it, `[n_vocab]`.
    pub logits: &'a [f32],
}

impl<B> Clone for Start<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Start<'_, B> {}

/// The mask after `prefix`; with one token left of `max_tokens`, only ends.
fn limited_mask(
    source: &mut impl MaskSource,
    prefix: &[TokenId],
    max_tokens: usize,
    set: &mut TokenSet,
) -> Result<()> {
    set.fill();
    source.mask(prefix, set)?;
    if prefix.len() + 1 >= max_tokens {
        set.intersect(source.ends());
    }
    Ok(())
}

/// Checks that a start and a source belong to the model.
fn check_start<M: NextLogits>(
    model: &M,
    start: &Start<'_, M::Branch>,
    source: &impl MaskSource,
) -> Result<()> {
    use crate::error::{Error, ErrorKind};
    for (what, n) in [("start logits", start.logits.len()), ("end tokens", source.ends().n_vocab())] {
        if n != model.n_vocab() {
            let message = format!("expected {} tokens, found {n}", model.n_vocab());
            return Err(Error::new(ErrorKind::VocabMismatch, message).at(what));
        }
    }
    Ok(())
}
