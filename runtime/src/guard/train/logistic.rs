//! Directions from examples: logistic regression and the difference of means.
//!
//! Logistic: minimises `½‖w‖² + C Σ cᵢ ln(1 + exp(−yᵢ(w·zᵢ + b)))` over standardised states `z`, `cᵢ` making
//! both classes weigh the same, by L-BFGS: a few dozen passes over the examples, each `2·n·n_embd`
//! multiplications, single precision within a block of examples and double between blocks. Difference of means: `w = (μ₊ − μ₋) / (σ² + 0.1·mean σ²)`, one pass, no fit;
//! it needs fewer examples and loses where classes differ in direction but not in mean.
//! Source: Liu and Nocedal, Mathematical Programming 45 (1989); Fisher shrinkage as in the spec.

use super::super::probe::{Direction, dot};

/// Inverse strength of the penalty.
pub const DEFAULT_C: f64 = 0.1;
/// Examples whose gradients are added up in single precision before they join the rest.
const BLOCK: usize = 64;
/// Most passes over the examples.
const MAX_ITERATIONS: usize = 100;
/// Pairs of steps and gradient changes kept.
const MEMORY: usize = 8;
/// The search ends when the gradient is this much smaller than it was.
const TOLERANCE: f64 = 1e-4;
/// Standard deviations below this share of the mean one are raised to it.
const LEAST_DEVIATION: f64 = 1e-3;

/// How a direction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Logistic regression.
    Logistic,
    /// Difference of means, Fisher-shrunk.
    MeanDifference,
}

/// Examples of one layer.
pub struct Examples<'a> {
    /// Hidden states, each `[n_embd]`.
    pub states: Vec<&'a [f32]>,
    /// Whether each is a positive one.
    pub labels: Vec<bool>,
}

impl Examples<'_> {
    fn n_embd(&self) -> usize {
        self.states.first().map_or(0, |s| s.len())
    }

    /// Mean and standard deviation of each dimension.
    fn moments(&self, of: impl Fn(bool) -> bool) -> (Vec<f64>, Vec<f64>) {
        let d = self.n_embd();
        let (mut n, mut sum, mut squares) = (0.0f64, vec![0.0; d], vec![0.0; d]);
        for (state, label) in self.states.iter().zip(&self.labels) {
            if of(*label) {
                n += 1.0;
                sum.iter_mut().zip(*state).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
        sum.iter_mut().for_each(|s| *s /= n.max(1.0));
        for (state, label) in self.states.iter().zip(&self.labels) {
            if of(*label) {
                let terms = squares.iter_mut().zip(*state).zip(&sum);
                terms.for_each(|((q, x), m)| *q += (f64::from(*x) - m).powi(2));
            }
        }
        let deviations = squares.iter().map(|q| (q / n.max(1.0)).sqrt()).collect();
        (sum, deviations)
    }
}

/// The direction of `layer` that tells positive from negative examples.
pub fn fit(examples: &Examples<'_>, layer: u32, method: Method, c: f64) -> Direction {
    let (mean, mut deviation) = examples.moments(|_| true);
    let least = LEAST_DEVIATION * deviation.iter().sum::<f64>() / deviation.len().max(1) as f64;
    deviation.iter_mut().for_each(|s| *s = s.max(least).max(f64::MIN_POSITIVE));
    let inv_std: Vec<f32> = deviation.iter().map(|s| (1.0 / s).min(1e30) as f32).collect();
    let mean: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    let standard: Vec<Vec<f32>> = examples
        .states
        .iter()
        .map(|h| h.iter().zip(&mean).zip(&inv_std).map(|((x, m), s)| (x - m) * s).collect())
        .collect();
    let (weight, bias) = match method {
        Method::Logistic => Logistic::new(&standard, &examples.labels, c).minimise(),
        Method::MeanDifference => difference(&standard, &examples.labels),
    };
    Direction { layer, weight, mean, inv_std, bias }
}

fn difference(standard: &[Vec<f32>], labels: &[bool]) -> (Vec<f32>, f32) {
    let examples = Examples { states: standard.iter().map(Vec::as_slice).collect(), labels: labels.to_vec() };
    let (positive, plus) = examples.moments(|l| l);
    let (negative, minus) = examples.moments(|l| !l);
    let variance: Vec<f64> = plus.iter().zip(&minus).map(|(a, b)| (a * a + b * b) / 2.0).collect();
    let shrink = 0.1 * variance.iter().sum::<f64>() / variance.len().max(1) as f64;
    let floor = shrink.max(f64::MIN_POSITIVE);
    let weight: Vec<f64> = (0..positive.len())
        .map(|i| (positive[i] - negative[i]) / (variance[i] + shrink).max(floor))
        .collect();
    let middle: f64 = (0..weight.len()).map(|i| weight[i] * (positive[i] + negative[i]) / 2.0).sum();
    (weight.iter().map(|w| *w as f32).collect(), -middle as f32)
}

/// The objective over `n_embd` weights and the bias, the last.
struct Logistic<'a> {
    z: &'a [Vec<f32>],
    /// `C cᵢ yᵢ`, its sign the label's.
    weighted: Vec<f64>,
}

impl<'a> Logistic<'a> {
    fn new(z: &'a [Vec<f32>], labels: &[bool], c: f64) -> Self {
        let n = labels.len() as f64;
        let n_positive = labels.iter().filter(|l| **l).count() as f64;
        let share = |l: bool| if l { n_positive } else { n - n_positive };
        let weighted =
            labels.iter().map(|&l| c * n / (2.0 * share(l).max(1.0)) * if l { 1.0 } else { -1.0 }).collect();
        Self { z, weighted }
    }

    /// The objective at `x`, its gradient into `g`.
    fn eval(&self, x: &[f64], g: &mut [f64]) -> f64 {
        let d = x.len() - 1;
        g[..d].copy_from_slice(&x[..d]);
        g[d] = 0.0;
        let mut f = 0.5 * x[..d].iter().map(|w| w * w).sum::<f64>();
        let w: Vec<f32> = x[..d].iter().map(|w| *w as f32).collect();
        let mut block = vec![0f32; d];
        for (z, weighted) in self.z.chunks(BLOCK).zip(self.weighted.chunks(BLOCK)) {
            block.fill(0.0);
            for (z, weighted) in z.iter().zip(weighted) {
                let score = f64::from(dot(z, &w)) + x[d];
                let margin = score * weighted.signum();
                f += weighted.abs() * softplus(-margin);
                let slope = -weighted / (1.0 + margin.exp());
                let small = slope as f32;
                block.iter_mut().zip(z).for_each(|(g, z)| *g += small * z);
                g[d] += slope;
            }
            g.iter_mut().zip(&block).for_each(|(g, b)| *g += f64::from(*b));
        }
        f
    }

    fn minimise(&self) -> (Vec<f32>, f32) {
        let n = self.z.first().map_or(0, Vec::len) + 1;
        let (mut x, mut g) = (vec![0.0; n], vec![0.0; n]);
        let mut f = self.eval(&x, &mut g);
        let start = norm(&g);
        let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
        for _ in 0..MAX_ITERATIONS {
            if norm(&g) <= TOLERANCE * start {
                break;
            }
            let direction = descent(&g, &pairs);
            let Some((next, next_g, next_f)) = self.search(&x, f, &g, &direction) else { break };
            let step: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
            let change: Vec<f64> = next_g.iter().zip(&g).map(|(a, b)| a - b).collect();
            if product(&step, &change) > 0.0 {
                pairs.push((step, change));
                if pairs.len() > MEMORY {
                    pairs.remove(0);
                }
            }
            (x, g, f) = (next, next_g, next_f);
        }
        let bias = x.pop().unwrap_or(0.0) as f32;
        (x.iter().map(|w| *w as f32).collect(), bias)
    }

    /// Halves the step until the objective falls enough (Armijo's rule).
    fn search(&self, x: &[f64], f: f64, g: &[f64], d: &[f64]) -> Option<(Vec<f64>, Vec<f64>, f64)> {
        let slope = product(g, d);
        let mut t = 1.0;
        let mut next_g = vec![0.0; x.len()];
        for _ in 0..40 {
            let next: Vec<f64> = x.iter().zip(d).map(|(x, d)| x + t * d).collect();
            let next_f = self.eval(&next, &mut next_g);
            if next_f <= f + 1e-4 * t * slope {
                return Some((next, next_g, next_f));
            }
            t *= 0.5;
        }
        None
    }
}

/// Minus the inverse Hessian, as the pairs tell, times the gradient.
fn descent(g: &[f64], pairs: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut q: Vec<f64> = g.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for (s, y) in pairs.iter().rev() {
        let alpha = product(s, &q) / product(s, y);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    let scale = match pairs.last() {
        Some((s, y)) => product(s, y) / product(y, y),
        None => 1.0 / norm(g).max(1.0),
    };
    q.iter_mut().for_each(|q| *q *= scale);
    for ((s, y), alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = product(y, &q) / product(s, y);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    product(a, a).sqrt()
}

/// `ln(1 + eˣ)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
