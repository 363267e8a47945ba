//! Control vectors: found from two lists of prompts, and how strong they may be.
//!
//! A direction is the difference between what two lists leave in the residual stream after the last prompt token:
//! of their means, or the first principal component of paired differences. A strength of 1 adds 1 % of the median
//! norm of the states there, so strengths mean the same for every model and layer. Alignment gained grows about
//! linearly with the strength, helpfulness lost about quadratically, so small strengths pay and there is a knee:
//! [`fit`] finds it, or says that there is none. Cost: one forward pass over all prompts for training, one for
//! each strength of a sweep. It loses where a model does not know the difference, as small ones often do not.
//! Sources: Wolf et al. 2024, arXiv 2401.16332 (trade-off); Zou et al. 2023, arXiv 2310.01405 (directions).

use super::Position;
use super::refusal;
use super::train::{Sample, read_rows, read_states};
use crate::adapters::ControlVector;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::NextLogits;
use crate::token::TokenId;
use serde::Serialize;

/// Strengths of a sweep: 0 to 24 % of the median norm.
pub const GRID: [f32; 13] = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 24.0];
/// Nats of divergence that cost as much as the whole of the gain: 0.1 nats weigh as 10 points.
pub const DEFAULT_KAPPA: f64 = 1.0;
/// Most divergence from the unsteered model, nats.
pub const MAX_COST: f64 = 0.1;
/// Least gain that is worth anything: 5 points.
pub const LEAST_GAIN: f64 = 0.05;
/// Fits that explain less of the variance are not used.
pub const LEAST_R2: f64 = 0.8;
/// Fewest prompts of each list.
pub const LEAST_PROMPTS: usize = 8;
const ITERATIONS: usize = 100;

/// How a direction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMethod {
    /// Difference of the means.
    MeanDifference,
    /// First principal component of the differences of pairs, in order of the lists; its sign is that of the mean.
    Pca,
}

/// Directions from the first to the second label: towards positive samples. `layers` ascending, from 1.
/// # Errors `InvalidArgument` for too few samples or no difference between them; those of the model.
pub fn train<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    layers: &[u32],
    method: ControlMethod,
    progress: &mut dyn FnMut(usize),
) -> Result<ControlVector> {
    let n_positive = samples.iter().filter(|s| s.label).count();
    if n_positive.min(samples.len() - n_positive) < LEAST_PROMPTS || layers.first().is_none_or(|l| *l == 0) {
        let found = format!("found {n_positive} of {} and layers {layers:?}", samples.len());
        let message = format!("expected {LEAST_PROMPTS} prompts of each kind and layers from 1, {found}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut states: Vec<Vec<Vec<f32>>> = vec![vec![Vec::new(); samples.len()]; layers.len()];
    let mut visit = |place: super::train::Place, found: &[&[f32]]| {
        for (layer, h) in states.iter_mut().zip(found) {
            layer[place.sample] = h.to_vec();
        }
    };
    read_states(lm, samples, (Position::Prompt, &[]), layers, &mut visit, progress)?;
    let labels: Vec<bool> = samples.iter().map(|s| s.label).collect();
    let directions = layers.iter().zip(&states).map(|(&layer, states)| {
        let unit = match method {
            ControlMethod::MeanDifference => mean_difference(states, &labels),
            ControlMethod::Pca => principal(states, &labels),
        };
        let one_percent = 0.01 * median_norm(states);
        let scaled: Vec<f32> = unit.iter().map(|x| (x * one_percent) as f32).collect();
        match scaled.iter().all(|x| x.is_finite()) && scaled.iter().any(|x| *x != 0.0) {
            true => Ok((layer, scaled)),
            false => {
                let message = format!("layer {layer}: expected lists that differ, found none");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    });
    Ok(ControlVector { directions: directions.collect::<Result<_>>()? })
}

/// Unit vector along the difference of the means.
pub fn mean_difference(states: &[Vec<f32>], labels: &[bool]) -> Vec<f64> {
    let mut d = vec![0.0; states.first().map_or(0, Vec::len)];
    let n = |wanted: bool| labels.iter().filter(|l| **l == wanted).count().max(1) as f64;
    for (h, &label) in states.iter().zip(labels) {
        let factor = if label { 1.0 / n(true) } else { -1.0 / n(false) };
        d.iter_mut().zip(h).for_each(|(d, x)| *d += factor * f64::from(*x));
    }
    unit(d)
}

/// First principal component of the differences of pairs, by power iteration from their mean.
pub fn principal(states: &[Vec<f32>], labels: &[bool]) -> Vec<f64> {
    let of = |wanted: bool| states.iter().zip(labels).filter(move |(_, l)| **l == wanted).map(|(h, _)| h);
    let differences: Vec<Vec<f64>> = of(true)
        .zip(of(false))
        .map(|(p, n)| p.iter().zip(n).map(|(p, n)| f64::from(*p) - f64::from(*n)).collect())
        .collect();
    let mean = mean_difference(states, labels);
    let mut v = mean.clone();
    for _ in 0..ITERATIONS {
        let mut next = vec![0.0; v.len()];
        for d in &differences {
            let along = product(d, &v);
            next.iter_mut().zip(d).for_each(|(x, d)| *x += along * d);
        }
        v = unit(next);
    }
    match product(&v, &mean) < 0.0 {
        true => v.iter().map(|x| -x).collect(),
        false => v,
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(mut v: Vec<f64>) -> Vec<f64> {
    let norm = product(&v, &v).sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    v
}

fn median_norm(states: &[Vec<f32>]) -> f64 {
    let mut norms: Vec<f64> =
        states.iter().map(|h| h.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()).collect();
    norms.sort_unstable_by(f64::total_cmp);
    norms.get(norms.len() / 2).copied().unwrap_or(0.0)
}

/// What one strength does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Percent of the median norm.
    pub strength: f32,
    /// Mean probability that answers to the positive prompts begin otherwise than with `starts`.
    pub comply: f64,
    /// How much lower that is than at strength 0.
    pub gain: f64,
    /// Mean divergence of benign next-token laws, KL(unsteered ‖ steered), nats.
    pub cost: f64,
}

/// Measures all strengths of `grid`, the first of which must be 0. `set` gives the model a strength. `prompts`:
/// those that should be answered otherwise, and benign ones; `starts`: first tokens of what is wanted.
/// # Errors Those of the model.
pub fn sweep<L: NextLogits>(
    lm: &mut L,
    (positive, benign): (&[Sample], &[Sample]),
    starts: &[TokenId],
    grid: &[f32],
    set: &mut dyn FnMut(&mut L, f32) -> Result<()>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Point>> {
    let mut unsteered: Vec<Vec<f64>> = vec![Vec::new(); benign.len()];
    let mut points: Vec<Point> = Vec::with_capacity(grid.len());
    for &strength in grid {
        set(lm, strength)?;
        let mut comply = 0.0;
        let mut count = |_: usize, row: &[f32]| {
            comply += 1.0 / (1.0 + f64::from(refusal::log_odds(row, starts)).exp());
        };
        read_rows(lm, positive, &mut count, progress)?;
        let mut cost = 0.0;
        let mut compare = |i: usize, row: &[f32]| {
            let law = log_law(row);
            match unsteered[i].is_empty() {
                true => unsteered[i] = law,
                false => cost += divergence(&unsteered[i], &law),
            }
        };
        read_rows(lm, benign, &mut compare, progress)?;
        let comply = comply / positive.len().max(1) as f64;
        let gain = points.first().map_or(0.0, |p: &Point| p.comply - comply);
        points.push(Point { strength, comply, gain, cost: cost / benign.len().max(1) as f64 });
    }
    Ok(points)
}

/// Natural logs of the probabilities of a row.
fn log_law(row: &[f32]) -> Vec<f64> {
    let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|z| (f64::from(*z) - top).exp()).sum();
    row.iter().map(|z| f64::from(*z) - top - sum.ln()).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).filter(|(p, _)| p.is_finite()).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

/// Where strengthening stops to pay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// `gain ≈ a·strength` on the rising part, and the share of the variance that explains.
    pub a: f64,
    /// See `a`.
    pub r2_gain: f64,
    /// `cost ≈ b·strength²`, and the share of the variance that explains.
    pub b: f64,
    /// See `b`.
    pub r2_cost: f64,
    /// The best strength; none if the fits are too poor to tell: go by the table then.
    pub best: Option<f64>,
    /// What the fits say of it.
    pub gain: f64,
    /// See `gain`.
    pub cost: f64,
}

/// The strength at which `gain − kappa·cost` is greatest, the cost capped at [`MAX_COST`].
/// # Errors `NoUsefulRegime` if the fits are good and the best strength gains less than [`LEAST_GAIN`].
pub fn fit(points: &[Point], kappa: f64) -> Result<Fit> {
    let peak = points.iter().enumerate().max_by(|a, b| a.1.gain.total_cmp(&b.1.gain)).map_or(0, |(i, _)| i);
    let rising: Vec<(f64, f64)> = points[..=peak.min(points.len().saturating_sub(1))]
        .iter()
        .map(|p| (f64::from(p.strength), p.gain))
        .collect();
    // beyond the cap the quadratic is of no interest and no longer one
    let near = points.iter().filter(|p| p.cost <= 5.0 * MAX_COST);
    let costs: Vec<(f64, f64)> = near.map(|p| (f64::from(p.strength).powi(2), p.cost)).collect();
    let ((a, r2_gain), (b, r2_cost)) = (slope(&rising), slope(&costs));
    let cap = if b > 0.0 { (MAX_COST / b).sqrt() } else { f64::INFINITY };
    let strongest = points.last().map_or(0.0, |p| f64::from(p.strength));
    let best = (a / (2.0 * kappa * b).max(f64::MIN_POSITIVE)).min(cap).min(strongest).max(0.0);
    let (gain, cost) = (a * best, b * best * best);
    let is_good = rising.len() > 2 && costs.len() > 2 && r2_gain.min(r2_cost) >= LEAST_R2;
    let useless =
        gain < LEAST_GAIN && (is_good || points.iter().all(|p| p.cost > MAX_COST || p.gain < LEAST_GAIN));
    if useless {
        let message = format!(
            "expected a strength that gains {:.0} points at a divergence of at most {MAX_COST} nats, found {:.1} points \
             at strength {best:.1}",
            100.0 * LEAST_GAIN,
            100.0 * gain
        );
        return Err(Error::new(ErrorKind::NoUsefulRegime, message));
    }
    Ok(Fit { a, r2_gain, b, r2_cost, best: is_good.then_some(best), gain, cost })
}

/// Least squares through the origin: slope, and the share of the variance that it explains.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let xx: f64 = points.iter().map(|(x, _)| x * x).sum();
    let k = if xx > 0.0 { points.iter().map(|(x, y)| x * y).sum::<f64>() / xx } else { 0.0 };
    let mean = points.iter().map(|(_, y)| y).sum::<f64>() / points.len().max(1) as f64;
    let total: f64 = points.iter().map(|(_, y)| (y - mean).powi(2)).sum();
    let left: f64 = points.iter().map(|(x, y)| (y - k * x).powi(2)).sum();
    (k, if total > 0.0 { 1.0 - left / total } else { 0.0 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn points(gain: impl Fn(f64) -> f64, cost: impl Fn(f64) -> f64) -> Vec<Point> {
        let one = |&s: &f32| {
            let x = f64::from(s);
            Point { strength: s, comply: 1.0 - gain(x), gain: gain(x), cost: cost(x) }
        };
        GRID.iter().map(one).collect()
    }

    #[test]
    fn the_knee_is_that_of_the_formula() {
        // a = 0.02, b = 0.001: the peak of 0.02 λ − κ·0.001 λ² is at 10/κ, where the cost is 0.1
        let f = fit(&points(|x| 0.02 * x, |x| 0.001 * x * x), 1.0).unwrap();
        assert!((f.best.unwrap() - 10.0).abs() < 1e-9 && (f.gain - 0.2).abs() < 1e-9, "{f:?}");
        let f = fit(&points(|x| 0.02 * x, |x| 0.001 * x * x), 2.0).unwrap();
        assert!((f.best.unwrap() - 5.0).abs() < 1e-9, "{f:?}");
        // the cap on the divergence comes first
        let f = fit(&points(|x| 0.05 * x, |x| 0.001 * x * x), 0.1).unwrap();
        assert!((f.best.unwrap() - 10.0).abs() < 1e-6 && f.cost <= MAX_COST + 1e-9, "{f:?}");
    }

    #[test]
    fn no_useful_regime_is_an_error_and_poor_fits_name_no_strength() {
        let error = fit(&points(|x| 0.001 * x, |x| 0.001 * x * x), 1.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoUsefulRegime);
        assert_eq!(fit(&points(|_| 0.0, |x| x * x), 1.0).unwrap_err().kind(), ErrorKind::NoUsefulRegime);
        let jumpy = points(|x| if (x as u32 / 2).is_multiple_of(2) { 0.0 } else { 0.4 }, |x| 1e-4 * x * x);
        assert_eq!(fit(&jumpy, 1.0).unwrap().best, None);
    }

    #[test]
    fn directions_point_where_the_classes_differ() {
        let noise = |i: usize, k: usize| ((i * 31 + k * 17) % 13) as f32 / 13.0 - 0.5;
        let labels: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
        let states: Vec<Vec<f32>> = (0..40)
            .map(|i| (0..8).map(|k| noise(i, k) + if k == 3 && labels[i] { 3.0 } else { 0.0 }).collect())
            .collect();
        for v in [mean_difference(&states, &labels), principal(&states, &labels)] {
            assert!(v[3] > 0.95, "{v:?}");
            assert!((product(&v, &v) - 1.0).abs() < 1e-9);
        }
    }
}
