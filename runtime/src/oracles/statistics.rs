//! Tests of samplers whose false-alarm rate holds for every sample size, not only in the limit.
//!
//! Draws must be independent: for chains and growing tries, make fresh objects and test the k-th sample.
//! Cells with an expected count below 20 are put together before looking, by probability alone.
//! Sources: Chernoff 1952 and Hoeffding 1963 (cells, means), McDiarmid 1989 (total variation).

use std::fmt;

/// A test that failed: what was measured and what it may not exceed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    what: String,
    found: f64,
    limit: f64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected at most {:.6}, found {:.6}", self.what, self.limit, self.found)
    }
}

impl std::error::Error for Failure {}

fn at_most(what: impl Into<String>, found: f64, limit: f64) -> Result<(), Failure> {
    // Negated, so that NaN fails.
    if found <= limit { Ok(()) } else { Err(Failure { what: what.into(), found, limit }) }
}

/// Half the sum of the absolute differences.
pub fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
}

/// Divergence between coins of `p` and `q`, nats.
fn coin_divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

/// Observed shares and probabilities of the cells, rare ones as one.
/// # Errors A draw of probability 0, or laws of different sizes.
fn cells(counts: &[u64], probs: &[f64]) -> Result<(u64, Vec<(f64, f64)>), Failure> {
    at_most("number of outcomes", (counts.len() as f64 - probs.len() as f64).abs(), 0.0)?;
    let n: u64 = counts.iter().sum();
    let mut cells = Vec::new();
    let mut rare = (0, 0.0);
    for (i, (&count, &p)) in counts.iter().zip(probs).enumerate() {
        if p <= 0.0 {
            at_most(format!("draws of impossible outcome {i}"), count as f64, 0.0)?;
        } else if p * (n as f64) < 20.0 {
            rare = (rare.0 + count, rare.1 + p);
        } else {
            cells.push((count as f64 / n as f64, p));
        }
    }
    if rare.1 > 0.0 {
        cells.push((rare.0 as f64 / n as f64, rare.1));
    }
    Ok((n, cells))
}

/// Whether independent draws with these counts may come from `probs`: every cell by Chernoff's bound,
/// together at false-alarm rate `alpha`.
/// # Errors The first cell that may not, or a draw outside the support.
pub fn cell_test(counts: &[u64], probs: &[f64], alpha: f64) -> Result<(), Failure> {
    let (n, cells) = cells(counts, probs)?;
    let limit = (2.0 * cells.len() as f64 / alpha).ln();
    for (i, (share, p)) in cells.iter().enumerate() {
        at_most(format!("cell {i} of {}", cells.len()), n as f64 * coin_divergence(*share, *p), limit)?;
    }
    Ok(())
}

/// Whether independent draws with these counts may come from `probs`, by their total variation.
/// # Errors It is too great, or there is a draw outside the support.
pub fn tv_test(counts: &[u64], probs: &[f64], alpha: f64) -> Result<(), Failure> {
    let (n, cells) = cells(counts, probs)?;
    let (shares, probs): (Vec<f64>, Vec<f64>) = cells.into_iter().unzip();
    at_most("total variation", total_variation(&shares, &probs), tv_limit(probs.len(), n, alpha))
}

/// The total variation that `n` draws over `k` cells exceed with probability at most `alpha`: a bound on its
/// mean, and bounded differences.
pub(super) fn tv_limit(k: usize, n: u64, alpha: f64) -> f64 {
    ((k as f64 - 1.0) / n as f64).sqrt() / 2.0 + ((1.0 / alpha).ln() / (2.0 * n as f64)).sqrt()
}

/// Whether `n` independent values in `0..=1` with this mean may have the expectation `truth`.
/// # Errors They may not, at false-alarm rate `alpha`.
pub fn mean_test(mean: f64, truth: f64, n: u64, alpha: f64) -> Result<(), Failure> {
    at_most("mean", n as f64 * coin_divergence(mean, truth), (2.0 / alpha).ln())
}

/// Draws after which [`tv_test`] over `k` cells at rate `alpha` misses a law at total variation `delta`
/// with probability at most `beta`.
pub fn power(k: usize, delta: f64, alpha: f64, beta: f64) -> u64 {
    let part = |rate: f64| ((1.0 / rate).ln() / 2.0).sqrt();
    let root = ((k as f64 - 1.0).sqrt() / 2.0 + part(alpha) + part(beta)) / delta;
    (root * root).ceil() as u64
}
