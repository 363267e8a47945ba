//! From rewards of continuations to weights of tokens: the arithmetic of the value-guided family.
//!
//! All of them aim at `π*(y) ∝ π(y)·exp(r(y)/α)`. Token by token that is `π(z|s)·exp(V(s·z)/α)` with
//! `V = α·ln E[exp(r/α)]`, a log-mean-exp. The estimators of the literature are means instead and have another
//! optimum; both are here, by name. Source: specification of the family; Mudgal et al. 2024, arXiv 2310.17022;
//! Chakraborty et al. 2024, arXiv 2405.20495.

use crate::sampling::{Purpose, Random};

/// A continuation behind a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollout {
    /// Its weight before normalisation: 1 if it was drawn, its probability if continuations were enumerated.
    pub weight: f64,
    /// The reward that is wanted.
    pub reward: f64,
    /// The reward that the model which wrote it was aligned for.
    pub baseline: f64,
}

/// How rewards of continuations become the value of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Estimate {
    /// `E[r]/α`: Controlled Decoding, Transfer Q* direct, DeAL with one continuation.
    Mean,
    /// `ln E[exp(r/α)]`: reproduces the target if continuations are drawn from the model itself.
    Soft,
    /// `Σ ω r / Σ ω / α` with `ω = exp((r − r_b)/β)`: Transfer Q* indirect.
    Weighted {
        /// Strength of the other model's alignment.
        beta: f64,
    },
    /// `ln E[exp(r/α − r_b/β)]`: exact, if the other model's law is `π·exp(r_b/β)` and is also the prior.
    Exact {
        /// Strength of the other model's alignment.
        beta: f64,
    },
}

impl Estimate {
    /// The value of a token in nats, from its continuations; 0 without any. `lambda`: `1/α`.
    pub fn nats(self, rollouts: &[Rollout], lambda: f64) -> f64 {
        match self {
            Self::Mean => lambda * weighted_mean(rollouts, |_| 0.0),
            Self::Weighted { beta } => lambda * weighted_mean(rollouts, |r| (r.reward - r.baseline) / beta),
            Self::Soft => log_mean_exp(rollouts, |r| lambda * r.reward),
            Self::Exact { beta } => log_mean_exp(rollouts, |r| lambda * r.reward - r.baseline / beta),
        }
    }

    /// Effective number of continuations under the estimate's weights: `(Σω)²/Σω²`.
    pub fn ess(self, rollouts: &[Rollout], lambda: f64) -> f64 {
        let log_weight = |r: &Rollout| match self {
            Self::Mean => 0.0,
            Self::Weighted { beta } => (r.reward - r.baseline) / beta,
            Self::Soft => lambda * r.reward,
            Self::Exact { beta } => lambda * r.reward - r.baseline / beta,
        };
        let most = rollouts.iter().map(log_weight).fold(f64::NEG_INFINITY, f64::max);
        let weights = || rollouts.iter().map(|r| r.weight * (log_weight(r) - most).exp());
        let (sum, squares) = (weights().sum::<f64>(), weights().map(|w| w * w).sum::<f64>());
        if squares > 0.0 { sum * sum / squares } else { 0.0 }
    }
}

fn weighted_mean(rollouts: &[Rollout], log_weight: impl Fn(&Rollout) -> f64) -> f64 {
    let most = rollouts.iter().map(&log_weight).fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut total) = (0.0, 0.0);
    for r in rollouts {
        let w = r.weight * (log_weight(r) - most).exp();
        sum += w * r.reward;
        total += w;
    }
    if total > 0.0 { sum / total } else { 0.0 }
}

fn log_mean_exp(rollouts: &[Rollout], exponent: impl Fn(&Rollout) -> f64) -> f64 {
    let most = rollouts.iter().map(&exponent).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = rollouts.iter().map(|r| r.weight).sum();
    let sum: f64 = rollouts.iter().map(|r| r.weight * (exponent(r) - most).exp()).sum();
    if total > 0.0 { most + (sum / total).ln() } else { 0.0 }
}

/// The law over tokens with these weights in nats: their softmax at `tau`.
pub fn law(weights: &[f64], tau: f64) -> Vec<f64> {
    let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probs: Vec<f64> = weights.iter().map(|w| ((w - most) / tau).exp()).collect();
    let total: f64 = probs.iter().sum();
    probs.iter_mut().for_each(|p| *p /= total);
    probs
}

/// Index of the greatest weight; of equal ones the first.
pub fn best(weights: &[f64]) -> usize {
    let mut best = 0;
    for (i, w) in weights.iter().enumerate() {
        if *w > weights[best] {
            best = i;
        }
    }
    best
}

/// Index drawn from `probs` for a place of the text.
pub fn pick(probs: &[f64], random: Random, place: usize) -> usize {
    let mut u = random.uniform(place as u64, Purpose::Search);
    let last = probs.iter().rposition(|p| *p > 0.0).unwrap_or(0);
    let found = probs.iter().position(|p| {
        u -= p;
        u < 0.0
    });
    found.unwrap_or(last).min(last)
}
