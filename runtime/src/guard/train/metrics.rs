//! How well scores tell two classes apart, and thresholds with a promise.

use crate::error::{Error, ErrorKind, Result};

/// Scores of both classes, sorted.
#[derive(Clone, Debug)]
pub struct Curve {
    positive: Vec<f32>,
    negative: Vec<f32>,
}

impl Curve {
    /// A curve over scores with their labels; scores must not be NaN.
    pub fn new(scores: &[f32], labels: &[bool]) -> Self {
        let of = |wanted: bool| {
            let picked = scores.iter().zip(labels).filter(|(_, l)| **l == wanted).map(|(s, _)| *s);
            let mut picked: Vec<f32> = picked.collect();
            picked.sort_unstable_by(f32::total_cmp);
            picked
        };
        Self { positive: of(true), negative: of(false) }
    }

    /// Probability that a positive example scores above a negative one, ties counted half.
    pub fn auroc(&self) -> f64 {
        let wins: f64 = self
            .positive
            .iter()
            .map(|p| {
                let below = self.negative.partition_point(|n| n < p);
                let upto = self.negative.partition_point(|n| n <= p);
                (below + upto) as f64 / 2.0
            })
            .sum();
        wins / (self.positive.len() * self.negative.len()).max(1) as f64
    }

    /// Shares of negative and of positive examples above `threshold`.
    pub fn rates(&self, threshold: f32) -> (f64, f64) {
        let above = |sorted: &[f32]| {
            let n = sorted.len() - sorted.partition_point(|s| *s <= threshold);
            n as f64 / sorted.len().max(1) as f64
        };
        (above(&self.negative), above(&self.positive))
    }

    /// Share of positive examples above the threshold that lets at most `fpr` of the negative ones pass.
    pub fn tpr_at(&self, fpr: f64) -> f64 {
        let n = self.negative.len();
        let allowed = (fpr * n as f64).floor() as usize;
        match n.checked_sub(allowed + 1) {
            Some(i) => self.rates(self.negative[i]).1,
            None => 1.0,
        }
    }

    /// Points (false alarms, hits) from the highest threshold down, (0, 0) and (1, 1) among them.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let mut points = vec![(0.0, 0.0)];
        let mut all: Vec<f32> = self.positive.iter().chain(&self.negative).copied().collect();
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        all.dedup();
        points.extend(all.iter().map(|t| self.rates(*t)));
        points.push((1.0, 1.0));
        points
    }
}

/// The threshold that a new benign example, exchangeable with these, exceeds with probability at most `alpha`:
/// the `⌈(n+1)(1−alpha)⌉`-th smallest of their scores.
/// # Errors `CalibrationTooSmall` if there are fewer than `1/alpha − 1`.
/// Source: conformal prediction, Vovk, Gammerman and Shafer (2005).
pub fn conformal(scores: &[f32], alpha: f64) -> Result<f32> {
    let n = scores.len();
    let rank = ((n + 1) as f64 * (1.0 - alpha) - 1e-9).ceil().max(1.0) as usize;
    if !(alpha > 0.0 && alpha < 1.0) {
        let message = format!("alpha: expected a share above 0 and below 1, found {alpha}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    if rank > n {
        let least = (1.0 / alpha - 1.0).ceil();
        let message =
            format!("expected at least {least} benign examples for a false-alarm rate of {alpha}, found {n}");
        return Err(Error::new(ErrorKind::CalibrationTooSmall, message));
    }
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    Ok(sorted[rank - 1])
}

/// The `q`-quantile of `scores` (nearest rank); 0 without any.
pub fn quantile(scores: &[f32], q: f64) -> f32 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_counts_pairs_and_ties() {
        let curve = Curve::new(&[1.0, 2.0, 3.0, 2.0], &[false, true, true, false]);
        assert_eq!(curve.auroc(), 3.5 / 4.0);
        assert_eq!(curve.tpr_at(0.01), 0.5);
        assert_eq!(curve.tpr_at(0.5), 1.0);
        assert_eq!(curve.rates(0.0), (1.0, 1.0));
        assert_eq!(curve.points().last(), Some(&(1.0, 1.0)));
    }

    #[test]
    fn a_conformal_threshold_is_the_promised_rank_or_an_error() {
        let scores: Vec<f32> = (1..=99).map(|i| i as f32).collect();
        assert_eq!(conformal(&scores, 0.01).unwrap(), 99.0);
        assert_eq!(conformal(&scores, 0.1).unwrap(), 90.0);
        let short = conformal(&scores[..98], 0.01).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::CalibrationTooSmall);
        assert!(conformal(&scores, 0.0).is_err() && conformal(&scores, f64::NAN).is_err());
    }

    #[test]
    fn a_threshold_for_single_tokens_alarms_too_often_on_whole_responses() {
        use crate::sampling::{Purpose, Random};
        // 200 tokens a response, independent uniform scores
        let score = |response: u64, token: u64| Random::new(response).uniform(token, Purpose::Search) as f32;
        let most = |r: u64| (0..200).map(|t| score(r, t)).fold(0.0, f32::max);
        let tokens: Vec<f32> = (0..999).map(|i| score(5000 + i, 0)).collect();
        let responses: Vec<f32> = (0..199).map(most).collect();
        let rate = |tau: f32| (1000..1400).filter(|&r| most(r) > tau).count() as f64 / 400.0;
        assert!(rate(conformal(&tokens, 0.01).unwrap()) > 0.5, "calibrated by token");
        assert!(rate(conformal(&responses, 0.01).unwrap()) < 0.04, "calibrated by response");
    }
}
