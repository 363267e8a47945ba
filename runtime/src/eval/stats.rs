//! Figures with their 95 % intervals.

use serde::Serialize;

use crate::sampling::{Purpose, Random};

/// Two-sided 95 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Resamples of a bootstrap.
const N_RESAMPLES: u32 = 2000;

/// A figure and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Estimate {
    /// A figure that is known, not estimated.
    pub const fn exact(value: f64) -> Self {
        Self { value, lo: value, hi: value }
    }
}

/// The share `k / n` with Wilson's score interval; `None` without cases.
/// Source: Wilson, JASA 22 (1927).
pub fn rate(k: usize, n: usize) -> Option<Estimate> {
    if n == 0 {
        return None;
    }
    let (n, p) = (n as f64, k as f64 / n as f64);
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Some(Estimate {
        value: p,
        lo: if k == 0 { 0.0 } else { ((centre - half) / scale).max(0.0) },
        hi: if p >= 1.0 { 1.0 } else { ((centre + half) / scale).min(1.0) },
    })
}

/// The mean with a percentile bootstrap interval; `None` without values. The same seed gives the same ends.
/// Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
pub fn mean(values: &[f64], seed: u64) -> Option<Estimate> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let average = |sum: f64| sum / n as f64;
    let random = Random::new(seed);
    let mut means: Vec<f64> = (0..N_RESAMPLES)
        .map(|round| {
            let random = random.with_draw(round);
            let pick = |i: usize| {
                let at = (random.uniform(i as u64, Purpose::Report) * n as f64) as usize;
                values[at.min(n - 1)]
            };
            average((0..n).map(pick).sum())
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| means[((share * means.len() as f64) as usize).min(means.len() - 1)];
    Some(Estimate { value: average(values.iter().sum()), lo: at(0.025), hi: at(0.975) })
}

/// Exact two-sided McNemar test: the chance, if two arms are equally good, of discordant pairs as uneven as
/// `b` against `c`. 1 without discordant pairs.
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let n = b + c;
    let (mut term, mut tail) = (0.5f64.powi(n.min(i32::MAX as usize) as i32), 0.0);
    for k in 0..=b.min(c) {
        tail += term;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wilson_gives_the_published_ends() {
        for (k, n, lo, hi) in [(30, 30, 0.886, 1.0), (80, 100, 0.711, 0.867), (160, 200, 0.739, 0.850)] {
            let e = rate(k, n).unwrap();
            assert!((e.lo - lo).abs() < 6e-4 && (e.hi - hi).abs() < 6e-4, "{k}/{n}: {e:?}");
        }
        assert_eq!(rate(0, 10).unwrap().lo, 0.0);
        assert_eq!(rate(0, 0), None);
    }

    #[test]
    fn mcnemar_gives_the_published_value() {
        assert!((mcnemar(10, 2) - 0.0386).abs() < 5e-5, "{}", mcnemar(10, 2));
        assert_eq!((mcnemar(0, 0), mcnemar(3, 3)), (1.0, 1.0));
    }

    #[test]
    fn the_bootstrap_covers_the_true_mean_as_often_as_it_says() {
        // uniform on 0..1, 40 values, mean 0.5
        let covered = (0..400u64)
            .filter(|&trial| {
                let random = Random::new(1000 + trial);
                let values: Vec<f64> = (0..40).map(|i| random.uniform(i, Purpose::Search)).collect();
                let e = mean(&values, trial).unwrap();
                assert!(e.lo <= e.value && e.value <= e.hi);
                (e.lo..=e.hi).contains(&0.5)
            })
            .count();
        // 95 % of 400 is 380; the percentile interval is a little narrow at this size
        assert!((358..=396).contains(&covered), "{covered} of 400");
        assert_eq!(mean(&[1.0, 2.0], 3), mean(&[1.0, 2.0], 3));
        assert_eq!(mean(&[], 3), None);
        assert_eq!(mean(&[4.0; 5], 1).unwrap(), Estimate::exact(4.0));
    }
}
