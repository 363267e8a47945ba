//! Drawing one token from the candidates.

use super::Candidates;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels::{self, BLOCK, Candidate};
use crate::sampling::random::{Purpose, Random};
use crate::token::TokenId;

impl Candidates<'_> {
    /// One token by inverse cumulative distribution in id order: the first whose cumulated weight
    /// exceeds `u` of the total, `u` the number of the position. Also its probability among the candidates.
    /// # Errors as [`Candidates::check`].
    pub(in crate::sampling) fn draw(&mut self, random: &Random, position: u64) -> Result<(TokenId, f64)> {
        self.check()?;
        let u = random.uniform(position, Purpose::Token);
        if self.listed {
            self.ws.list.sort_unstable_by_key(|c| c.id);
            self.sorted = false;
            let total = self.total();
            let (i, w) = pick(&self.ws.weights, u * total);
            return self.ws.list.get(i).map(|c| (c.id, w / total)).ok_or_else(nothing_left);
        }
        let total = self.total();
        let (block, before) = pick_block(&self.ws.sums, u * total);
        let (id, w) = self.draw_in_block(block, u * total - before);
        Ok((id, w / total))
    }

    /// The token of a dense block at `target` of its weight, and its weight.
    fn draw_in_block(&mut self, block: usize, target: f64) -> (TokenId, f64) {
        let (best, scale, start) = (self.best(), self.scale, block * BLOCK);
        let row = &self.row[start..self.row.len().min(start + BLOCK)];
        let mut weights = [0f32; BLOCK];
        let weights = &mut weights[..row.len()];
        kernels::exp_block(row, start, self.mask(), best, scale, weights);
        let first = self.ws.edits.partition_point(|c| (c.id as usize) < start);
        for c in &self.ws.edits[first..] {
            match weights.get_mut(c.id as usize - start) {
                Some(w) => *w = kernels::exp_one((c.logit - best) * scale),
                None => break,
            }
        }
        let (i, w) = pick(weights, target);
        ((start + i) as TokenId, w)
    }

    /// One token by Gumbel noise: the greatest `logit + noise`. Same law as [`Candidates::draw`]; the
    /// noise of a token does not depend on which others are in play, at one number per candidate.
    pub(in crate::sampling) fn draw_gumbel(
        &mut self,
        random: &Random,
        position: u64,
    ) -> Result<(TokenId, f64)> {
        self.check()?;
        if !self.listed {
            self.collect(f32::NEG_INFINITY);
        }
        let total = self.total();
        let (best, scale) = (self.best(), self.scale);
        let noisy = |c: &Candidate| f64::from((c.logit - best) * scale) + random.gumbel(position, c.id);
        let scored = self.ws.list.iter().map(|c| (noisy(c), c));
        let (_, c) =
            scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.id.cmp(&a.1.id))).ok_or_else(nothing_left)?;
        Ok((c.id, f64::from(kernels::exp_one((c.logit - best) * scale)) / total))
    }

    /// The candidates with their probabilities, by id: for tests and reports.
    pub(in crate::sampling) fn law(&mut self) -> Vec<(TokenId, f64)> {
        if !self.listed {
            self.collect(f32::NEG_INFINITY);
        }
        self.ws.list.sort_unstable_by_key(|c| c.id);
        self.sorted = false;
        let total = self.total();
        self.ws.list.iter().zip(&self.ws.weights).map(|(c, w)| (c.id, f64::from(*w) / total)).collect()
    }
}

fn nothing_left() -> Error {
    Error::new(ErrorKind::Internal, "expected a candidate to draw, found none")
}

/// The first index whose cumulated weight exceeds `target`, and its weight. Rounding may leave the
/// sum short of the target: then the last index with a weight above 0.
pub(in crate::sampling) fn pick(weights: &[f32], target: f64) -> (usize, f64) {
    let (mut cumulated, mut last) = (0.0, (0, 0.0));
    for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        cumulated += f64::from(*w);
        last = (i, f64::from(*w));
        if cumulated > target {
            break;
        }
    }
    last
}

/// The block in which the cumulated sum exceeds `target` and the sum before it.
pub(in crate::sampling) fn pick_block(sums: &[f64], target: f64) -> (usize, f64) {
    let (mut cumulated, mut last) = (0.0, (0, 0.0));
    for (b, s) in sums.iter().enumerate().filter(|(_, s)| **s > 0.0) {
        last = (b, cumulated);
        cumulated += s;
        if cumulated > target {
            break;
        }
    }
    last
}
