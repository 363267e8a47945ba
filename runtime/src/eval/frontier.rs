//! What a reward costs in divergence from the model, and what is left of it when one more best-of-N follows.
//!
//! Of `n` texts drawn from a model one is taken with a chance that grows with its score: `q ∝ exp(score/τ)`. Going from
//! large `τ` to small traces a frontier of reward against `KL(q‖uniform) = ln n − H(q)`, which bounds the divergence
//! from the model. The score is the reward itself, or the reward turned into its quantile and then into `exp(t·u)`
//! (InfAlign): that one is made for the case that the texts go through another best-of-N, whose win rate is computed
//! here as well, exactly for the drawn texts. Cost: `n ln n` a point. It loses where `n` is small: no point is more
//! than `ln n` nats from the model.
//! Source: Balashankar et al. 2025 (InfAlign); Beirami et al. 2024 for the bound of best-of-N.

/// A point of a frontier, for one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Nats from drawing a text at random.
    pub kl: f64,
    /// Mean reward of the taken text.
    pub reward: f64,
    /// Mean quantile of the best of `n_final` taken texts among the model's own.
    pub win_rate: f64,
}

/// The point of taking one of the texts with `rewards` by `scores` at `tau`, and the best of `n_final` so taken.
/// Ties count half, so that at `n_final` 1 and large `tau` the win rate is a half. All zero without texts.
pub fn frontier(rewards: &[f64], scores: &[f64], tau: f64, n_final: u32) -> Point {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| ((s - most) / tau).exp()).collect();
    let total: f64 = weights.iter().sum();
    let n = rewards.len().min(weights.len());
    if n == 0 || total.is_nan() || total <= 0.0 {
        return Point { kl: 0.0, reward: 0.0, win_rate: 0.0 };
    }
    let q: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let entropy: f64 = q.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    let reward = q.iter().zip(rewards).map(|(p, r)| p * r).sum();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| rewards[*a].total_cmp(&rewards[*b]));
    let (mut below, mut mass, mut win_rate) = (0, 0.0f64, 0.0);
    while below < n {
        let value = rewards[order[below]];
        let same = order[below..].iter().take_while(|i| rewards[**i] == value).count();
        let here: f64 = order[below..below + same].iter().map(|i| q[*i]).sum();
        let power = |x: f64| x.min(1.0).powi(n_final.min(i32::MAX as u32) as i32);
        // the best of several is this value if none is above it and not all are below it
        let chance = power(mass + here) - power(mass);
        win_rate += chance * (below as f64 + same as f64 / 2.0) / n as f64;
        (below, mass) = (below + same, mass + here);
    }
    Point { kl: ((n as f64).ln() - entropy).max(0.0), reward, win_rate }
}

/// Most nats that best-of-`n` is from the model: `ln n − (n−1)/n`.
pub fn kl_bound(n: u32) -> f64 {
    let n = f64::from(n.max(1));
    n.ln() - (n - 1.0) / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Purpose, Random};

    #[test]
    fn ends_of_the_frontier_are_drawing_at_random_and_the_best() {
        let rewards = [0.0, 1.0, 2.0, 5.0];
        let flat = frontier(&rewards, &rewards, 1e9, 1);
        assert!(flat.kl < 1e-9 && (flat.reward - 2.0).abs() < 1e-6 && (flat.win_rate - 0.5).abs() < 1e-6);
        let best = frontier(&rewards, &rewards, 1e-6, 3);
        assert!((best.kl - 4f64.ln()).abs() < 1e-9 && best.reward == 5.0 && best.win_rate == 0.875);
        assert!(frontier(&[1.0; 5], &[1.0; 5], 0.1, 4).win_rate == 0.5, "nothing to tell apart");
        assert_eq!(frontier(&[], &[], 1.0, 1), Point { kl: 0.0, reward: 0.0, win_rate: 0.0 });
        assert!((kl_bound(4) - 0.636294).abs() < 1e-6 && kl_bound(1) == 0.0);
    }

    #[test]
    fn the_win_rate_is_that_of_all_tuples() {
        for seed in 0..40 {
            let u = |i: u64, scale: f64| (Random::new(seed).uniform(i, Purpose::Report) * scale).floor();
            let rewards: Vec<f64> = (0..5).map(|i| u(i, 4.0)).collect();
            let scores: Vec<f64> = (0..5).map(|i| u(10 + i, 6.0) / 2.0).collect();
            let point = frontier(&rewards, &scores, 0.8, 3);
            let total: f64 = scores.iter().map(|s| (s / 0.8).exp()).sum();
            let q: Vec<f64> = scores.iter().map(|s| (s / 0.8).exp() / total).collect();
            let quantile = |r: f64| {
                let of = |x: &f64| {
                    if *x < r {
                        1.0
                    } else if *x == r {
                        0.5
                    } else {
                        0.0
                    }
                };
                rewards.iter().map(of).sum::<f64>() / 5.0
            };
            let mut expected = 0.0;
            for i in 0..125 {
                let picks = [i % 5, i / 5 % 5, i / 25];
                let best = picks.iter().map(|p| rewards[*p]).fold(f64::NEG_INFINITY, f64::max);
                expected += picks.iter().map(|p| q[*p]).product::<f64>() * quantile(best);
            }
            assert!((point.win_rate - expected).abs() < 1e-9, "seed {seed}");
        }
    }
}
