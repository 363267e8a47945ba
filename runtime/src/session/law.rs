//! The law of a finite language, by walking all of it: what exact sampling is measured against.
//!
//! Every spelling of every text in tokens is visited, one model row a prefix. Cost: as many rows as there are prefixes,
//! so it is for languages of some thousand spellings at most, and refuses larger ones.

use super::{AlignPlan, Setting, Source};
use crate::align::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::{TokenId, TokenSet};
use std::collections::BTreeMap;

/// Most prefixes walked.
const MAX_PREFIXES: usize = 20_000;
/// Most tokens of a text.
const MAX_TOKENS: usize = 256;

/// How likely a text is, all its spellings together. Natural, not logarithmic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Under the model left free, its end included.
    pub free: f64,
    /// When every token is masked on its own.
    pub masked: f64,
}

/// The texts of a finite language, by their bytes, with their likelihoods at the temperature of `source`. Divided by
/// their sum, the free ones are the conditioned law.
/// # Errors `TooComplex` if the language is too large; as [`super::draw`].
pub fn law<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    plan: &AlignPlan,
    source: Source<L::Branch>,
) -> Result<BTreeMap<Vec<u8>, Likelihood>> {
    let max_tokens = source.max_tokens.min(MAX_TOKENS);
    let Some(mut constraint) = plan.aligned(max_tokens)?.constraint else {
        return Err(Error::new(ErrorKind::BadProfile, "expected a constraint whose texts can be listed"));
    };
    lm.eval(&[BatchItem { branch: &source.branch, tokens: &source.tokens, want: Want::Last }])?;
    let mut walk = Walk {
        lm,
        setting,
        temperature: f64::from(source.temperature),
        n_prefixes: 0,
        text: Vec::new(),
        found: BTreeMap::new(),
    };
    walk.explore(&mut *constraint, &source.branch, Likelihood { free: 1.0, masked: 1.0 })?;
    Ok(walk.found)
}

struct Walk<'a, L: NextLogits> {
    lm: &'a mut L,
    setting: &'a Setting<'a>,
    temperature: f64,
    n_prefixes: usize,
    text: Vec<u8>,
    found: BTreeMap<Vec<u8>, Likelihood>,
}

impl<L: NextLogits> Walk<'_, L> {
    /// Adds every text that goes on from `branch`, whose row was just evaluated. As deep as a text has tokens.
    fn explore(
        &mut self,
        constraint: &mut dyn Constraint,
        branch: &L::Branch,
        so_far: Likelihood,
    ) -> Result<()> {
        self.n_prefixes += 1;
        if self.n_prefixes > MAX_PREFIXES {
            let message = format!("more than {MAX_PREFIXES} beginnings of texts: too many to list");
            return Err(Error::new(ErrorKind::TooComplex, message));
        }
        for (token, next) in self.choices(constraint, so_far)? {
            if self.setting.vocab.is_eog(token) {
                let entry = self.found.entry(self.text.clone()).or_default();
                entry.free += next.free;
                entry.masked += next.masked;
                continue;
            }
            if !constraint.accept(token)? {
                continue;
            }
            let len = self.text.len();
            self.text.extend_from_slice(self.setting.vocab.token_bytes(token));
            let fork = self.lm.fork(branch)?;
            self.lm.eval(&[BatchItem { branch: &fork, tokens: &[token], want: Want::Last }])?;
            self.explore(constraint, &fork, next)?;
            self.text.truncate(len);
            constraint.rollback(1)?;
        }
        Ok(())
    }

    /// The allowed tokens, each with the likelihoods of the text up to it.
    fn choices(
        &mut self,
        constraint: &mut dyn Constraint,
        so_far: Likelihood,
    ) -> Result<Vec<(TokenId, Likelihood)>> {
        let row = self.lm.row(0);
        let mut set = TokenSet::all(row.len());
        constraint.mask(&mut set)?;
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weight = |logit: f32| ((f64::from(logit) - max) / self.temperature).exp();
        let total: f64 = row.iter().map(|&x| weight(x)).sum();
        let prob = |t: TokenId| weight(row[t as usize]) / total;
        let allowed: f64 = set.iter().map(prob).sum();
        Ok(set
            .iter()
            .map(|t| (t, prob(t)))
            .map(|(t, p)| (t, Likelihood { free: so_far.free * p, masked: so_far.masked * p / allowed }))
            .collect())
    }
}

/// Half the sum of absolute differences of two laws over the same texts: 0 for equal ones, at most 1.
pub fn total_variation(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

/// What the distance of `n` honest draws from their own law `p` exceeds with probability 0.001 at most: its mean is
/// below `Σ √(p(1-p)/n) / 2`, and it leaves its mean by McDiarmid's inequality.
pub fn sampling_bound(p: &[f64], n: usize) -> f64 {
    let n = n.max(1) as f64;
    let mean = p.iter().map(|p| (p * (1.0 - p) / n).max(0.0).sqrt()).sum::<f64>() / 2.0;
    mean + (1000f64.ln() / (2.0 * n)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_and_bound() {
        assert_eq!(total_variation(&[0.5, 0.5, 0.0], &[0.0, 0.5, 0.5]), 0.5);
        assert_eq!(total_variation(&[1.0], &[1.0]), 0.0);
        // a single text cannot be missed, but the inequality does not know
        assert!((sampling_bound(&[1.0], 1000) - 0.05876).abs() < 1e-4);
        let fair = sampling_bound(&[0.5, 0.5], 1000);
        assert!((fair - 0.05876 - 0.01581).abs() < 1e-4, "{fair}");
    }
}
