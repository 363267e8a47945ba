//! Masses and draws of one row at a temperature, under masks.

use crate::error::Result;
use crate::kernels::{self, BLOCK};
use crate::sampling::candidates::{pick, pick_block};
use crate::sampling::params::bad;
use crate::token::{TokenId, TokenSet};

/// Scratch for rows of one vocabulary, and the factor of the logits.
#[derive(Debug)]
pub(super) struct Softmax {
    scale: f32,
    sums: Vec<f64>,
}

/// What normalises a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// The greatest logit.
    max: f32,
    /// `Σ exp((logit - max) * scale)`.
    total: f64,
}

impl Softmax {
    /// # Errors `InvalidArgument` if the temperature is not a finite number above 0.
    pub(super) fn new(temperature: f32, n_vocab: usize) -> Result<Self> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(bad("temperature", "a finite number above 0", temperature));
        }
        let scale = temperature.recip().min(f32::MAX);
        Ok(Self { scale, sums: vec![0.0; n_vocab.div_ceil(BLOCK)] })
    }

    /// # Errors `InvalidArgument` if the row has no finite logit, or plus infinity.
    pub(super) fn norm(&mut self, row: &[f32]) -> Result<Norm> {
        let max = kernels::max(row, None);
        if !max.is_finite() {
            return Err(bad("logits", "a greatest logit that is finite", max));
        }
        Ok(Norm { max, total: kernels::exp_sums(row, None, max, self.scale, &mut self.sums) })
    }

    /// `P(token)`.
    pub(super) fn prob(&self, row: &[f32], norm: Norm, token: TokenId) -> f64 {
        let logit = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        f64::from(kernels::exp_one((logit - norm.max) * self.scale)) / norm.total
    }

    /// `Σ P` over `mask`.
    pub(super) fn mass(&mut self, row: &[f32], norm: Norm, mask: &TokenSet) -> f64 {
        kernels::exp_sums(row, Some(mask), norm.max, self.scale, &mut self.sums) / norm.total
    }

    /// The token of `mask` (of all, without) at `target` of its cumulated probability in id order.
    pub(super) fn token_at(
        &mut self,
        row: &[f32],
        norm: Norm,
        mask: Option<&TokenSet>,
        target: f64,
    ) -> TokenId {
        kernels::exp_sums(row, mask, norm.max, self.scale, &mut self.sums);
        let target = target * norm.total;
        let (block, before) = pick_block(&self.sums, target);
        let start = block * BLOCK;
        let part = &row[start..row.len().min(start + BLOCK)];
        let mut weights = [0f32; BLOCK];
        let weights = &mut weights[..part.len()];
        kernels::exp_block(part, start, mask, norm.max, self.scale, weights);
        (start + pick(weights, target - before).0) as TokenId
    }

    /// A token of `mask` by `u` in `0..1`, the logarithm of the mass of `mask`, and the log-probability of
    /// the token under the whole row; none if the mask allows nothing. Masks far below the best token are
    /// resolved, too: they are normalised by themselves.
    pub(super) fn masked(
        &mut self,
        row: &[f32],
        mask: &TokenSet,
        u: f64,
    ) -> Result<Option<(TokenId, f64, f64)>> {
        let whole = self.norm(row)?;
        let max = kernels::max(row, Some(mask));
        if max == f32::NEG_INFINITY {
            return Ok(None);
        }
        let total = kernels::exp_sums(row, Some(mask), max, self.scale, &mut self.sums);
        let token = self.token_at(row, Norm { max, total }, Some(mask), u);
        let log_total = |n: Norm| f64::from(n.max) * f64::from(self.scale) + n.total.ln();
        let logprob = f64::from(row[token as usize]) * f64::from(self.scale) - log_total(whole);
        Ok(Some((token, log_total(Norm { max, total }) - log_total(whole), logprob)))
    }
}
