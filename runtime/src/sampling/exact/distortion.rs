//! How far masked sampling is from the conditioned law, from the weights of masked draws alone.
//!
//! `ln P̂(L) = ln mean W`; `KL(q ‖ p*) = ln mean W - mean ln W`; `KL(p* ‖ q) = Σ w̄ ln W - ln mean W` with
//! `w̄ = W / ΣW`; `ESS = (ΣW)² / ΣW²`. No further model calls. A dead end has `W = 0`: `q` goes where `p*`
//! has nothing, the first divergence is infinite there, so it is taken over the draws that ended and the
//! share of dead ends is reported beside it. One draw tells `-ln W`, the removed mass, and no divergence.
//! Source: the identities follow from `P(x) = q(x)·W(x)`.

use super::particles::ess;
use crate::sampling::random::{Purpose, Random};
use serde::Serialize;

/// Resamples of the bootstrap.
const N_BOOTSTRAP: u32 = 1000;

/// A range that holds the truth in 95 of 100 cases, about: a percentile bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The distortion report; everything in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distortion {
    /// Masked draws.
    pub n_draws: usize,
    /// Share of them that met a dead end.
    pub dead_share: f64,
    /// `ln P̂(L)`.
    pub log_p_language: f64,
    /// `KL(masked ‖ target)` of the draws that ended.
    pub kl_masked_target: f64,
    /// Interval of [`Distortion::kl_masked_target`].
    pub kl_interval: Interval,
    /// `KL(target ‖ masked)`.
    pub kl_target_masked: f64,
    /// Effective number of draws.
    pub ess: f64,
}

impl Distortion {
    /// From the log-weights of at least two independent masked draws, one of which ended; else none.
    /// Cost: a thousand passes over the weights, for the interval.
    pub fn new(log_weights: &[f64], seed: u64) -> Option<Self> {
        let kl_interval = |ended: &[f64]| bootstrap(ended, seed);
        Self::estimate(log_weights, kl_interval)
    }

    /// The report with an interval by `kl_interval` of the log-weights that ended.
    pub(super) fn estimate(log_weights: &[f64], kl_interval: impl Fn(&[f64]) -> Interval) -> Option<Self> {
        let ended: Vec<f64> = log_weights.iter().copied().filter(|w| *w > f64::NEG_INFINITY).collect();
        if log_weights.len() < 2 || ended.is_empty() || ended.iter().any(|w| !w.is_finite()) {
            return None;
        }
        let n = log_weights.len();
        // Relative to the greatest, so that tiny masses neither vanish nor divide by 0.
        let max = ended.iter().fold(f64::NEG_INFINITY, |m, w| m.max(*w));
        let weights: Vec<f64> = ended.iter().map(|w| (w - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let log_mean_ended = max + (total / ended.len() as f64).ln();
        let tilted: f64 = ended.iter().zip(&weights).map(|(l, w)| w * l).sum::<f64>() / total;
        Some(Self {
            n_draws: n,
            dead_share: 1.0 - ended.len() as f64 / n as f64,
            log_p_language: max + (total / n as f64).ln(),
            kl_masked_target: divergence(ended.iter().copied()),
            kl_interval: kl_interval(&ended),
            // Both means over all draws: dead ends have no share of the target.
            kl_target_masked: tilted - log_mean_ended - (ended.len() as f64 / n as f64).ln(),
            ess: ess(&weights),
        })
    }

    /// Whether the effective number of draws is so low that the estimates are poor.
    pub fn is_poor(&self) -> bool {
        self.ess < self.n_draws as f64 / 4.0
    }
}

/// `ln mean W - mean ln W`.
fn divergence(log_weights: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = log_weights.clone().fold(f64::NEG_INFINITY, f64::max);
    let (mut n, mut sum, mut logs) = (0.0, 0.0, 0.0);
    for w in log_weights {
        n += 1.0;
        sum += (w - max).exp();
        logs += w - max;
    }
    (sum / n).ln() - logs / n
}

fn bootstrap(ended: &[f64], seed: u64) -> Interval {
    let random = Random::new(seed);
    let n = ended.len();
    let pick = |round: u32, i: usize| {
        let u = random.with_draw(round).uniform(i as u64, Purpose::Report);
        ended[((u * n as f64) as usize).min(n - 1)]
    };
    let resampled = |round| divergence((0..n).map(move |i| pick(round, i)));
    let mut all: Vec<f64> = (0..N_BOOTSTRAP).map(resampled).collect();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((share * f64::from(N_BOOTSTRAP)) as usize).min(all.len() - 1)];
    Interval { low: at(0.025), high: at(0.975) }
}
