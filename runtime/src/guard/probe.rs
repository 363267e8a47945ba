//! A linear probe: one direction a layer, read from the hidden state that is there anyway.
//!
//! What a model takes a text to be is nearly linear in its residual stream. A probe scales a hidden state
//! dimension by dimension, takes one dot product and compares with a threshold. Cost: `n_embd`
//! multiplications a layer and token. It loses to inputs optimised against it, and it means nothing under
//! another quantisation, template or adapter: the file names what it was made for, see [`super::file`].

use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;

/// Which hidden states a probe reads. They are never interchanged: directions from different positions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The last token of the prompt, where the answer begins.
    Prompt,
    /// Every token of the answer.
    Response,
    /// The last token of an assistant header put after the answer so far, on a fork.
    Header,
}

impl Position {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Prompt, Self::Response, Self::Header];

    /// Its name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Response => "response",
            Self::Header => "header",
        }
    }
}

/// The probe of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// The layer after which the residual stream is read, from 0.
    pub layer: u32,
    /// Weights of the standardised state, `[n_embd]`.
    pub weight: Vec<f32>,
    /// Mean of each dimension where it was trained, `[n_embd]`.
    pub mean: Vec<f32>,
    /// One over the standard deviation of each dimension, `[n_embd]`.
    pub inv_std: Vec<f32>,
    /// Added to the product.
    pub bias: f32,
}

impl Direction {
    /// Weights and bias that read the state as it is: the scaling is put into them.
    fn folded(&self) -> Reader {
        let weight: Vec<f32> = self.weight.iter().zip(&self.inv_std).map(|(w, s)| w * s).collect();
        let shift: f64 = weight.iter().zip(&self.mean).map(|(w, m)| f64::from(*w) * f64::from(*m)).sum();
        Reader { weight, bias: (f64::from(self.bias) - shift) as f32 }
    }
}

/// A direction made ready.
#[derive(Clone, Debug)]
struct Reader {
    weight: Vec<f32>,
    bias: f32,
}

/// Numbers added up side by side: few enough to stay in registers, fixed so that sums have the same bits
/// everywhere.
const LANES: usize = 8;

/// Dot product with a fixed order of additions.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in whole_a.zip(whole_b) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(s, (x, y))| *s += x * y);
    }
    sums.iter().sum::<f32>() + rest
}

/// Where scores count as high.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    /// From here on a score belongs to an excursion.
    pub lo: f32,
    /// Above this the guard acts.
    pub hi: f32,
}

/// What is known of how a probe was made and how well it does, all measured on examples it had not seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Share of benign examples that may trigger.
    pub alpha: f32,
    /// Benign examples the threshold was set with.
    pub n_calibration: u32,
    /// Positive examples of the training.
    pub n_positive: u32,
    /// Negative examples of the training.
    pub n_negative: u32,
    /// Area under the curve of hits against false alarms.
    pub auroc: f32,
    /// Hits at 1 % false alarms.
    pub tpr_at_1fpr: f32,
}

/// A probe of one or more layers; their scores are averaged.
#[derive(Clone, Debug)]
pub struct Probe {
    position: Position,
    directions: Vec<Direction>,
    readers: Vec<Reader>,
    layers: Vec<u32>,
    /// Where scores count as high.
    pub thresholds: Thresholds,
    /// How it was made.
    pub quality: Quality,
}

impl Probe {
    /// A probe from its parts, in ascending order of layers.
    /// # Errors `BadFile` if there is no direction, if widths differ, if layers are not ascending, or if a
    /// number is not finite.
    pub fn new(
        position: Position,
        directions: Vec<Direction>,
        thresholds: Thresholds,
        quality: Quality,
    ) -> Result<Self> {
        let layers: Vec<u32> = directions.iter().map(|d| d.layer).collect();
        let n_embd = directions.first().map_or(0, |d| d.weight.len());
        if n_embd == 0 || !layers.is_sorted_by(|a, b| a < b) {
            let message = format!("expected directions of ascending layers, found layers {layers:?}");
            return Err(bad(message));
        }
        for d in &directions {
            check(d, n_embd).map_err(|e| e.at(format!("layer {}", d.layer)))?;
        }
        let Thresholds { lo, hi } = thresholds;
        if !(lo.is_finite() && hi.is_finite() && lo <= hi) {
            return Err(bad(format!("expected finite thresholds, lo at most hi, found {lo} and {hi}")));
        }
        let readers = directions.iter().map(Direction::folded).collect();
        Ok(Self { position, directions, readers, layers, thresholds, quality })
    }

    /// Which hidden states it reads.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The layers it reads, ascending.
    pub fn layers(&self) -> &[u32] {
        &self.layers
    }

    /// Its directions, by layer.
    pub fn directions(&self) -> &[Direction] {
        &self.directions
    }

    /// Width of the hidden states it reads.
    pub fn n_embd(&self) -> usize {
        self.readers.first().map_or(0, |r| r.weight.len())
    }

    /// Score of one token: the mean over layers of `w·(h−μ)/σ + b`; for logistic probes the log-odds.
    /// `state(i)`: the hidden state after layer `self.layers()[i]`, `[n_embd]`.
    /// # Errors `Internal` if a state is missing or of another width; a guard must not pass what it cannot read.
    pub fn score<'h>(&self, state: impl Fn(usize) -> Option<&'h [f32]>) -> Result<f32> {
        let mut sum = 0.0;
        for (i, reader) in self.readers.iter().enumerate() {
            let h = state(i).filter(|h| h.len() == reader.weight.len());
            let Some(h) = h else {
                let message = format!("expected a hidden state of layer {}, found none", self.layers[i]);
                return Err(Error::new(ErrorKind::Internal, message));
            };
            sum += dot(h, &reader.weight) + reader.bias;
        }
        Ok(sum / self.readers.len() as f32)
    }
}

fn check(d: &Direction, n_embd: usize) -> Result<()> {
    let widths = [d.weight.len(), d.mean.len(), d.inv_std.len()];
    if widths != [n_embd; 3] {
        return Err(bad(format!("expected {n_embd} weights, means and scales, found {widths:?}")));
    }
    let all = d.weight.iter().chain(&d.mean).chain(&d.inv_std).chain([&d.bias]);
    match all.copied().find(|v| !v.is_finite()) {
        Some(v) => Err(bad(format!("expected finite numbers, found {v}"))),
        None => Ok(()),
    }
}

fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadFile, message).at("probe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(layer: u32, n: usize) -> Direction {
        Direction {
            layer,
            weight: (0..n).map(|i| (i as f32 * 0.7).sin()).collect(),
            mean: (0..n).map(|i| i as f32 * 0.1).collect(),
            inv_std: (0..n).map(|i| 1.0 / (1.0 + i as f32)).collect(),
            bias: 0.25,
        }
    }

    #[test]
    fn scores_are_those_of_the_formula() {
        let quality = Quality::default();
        let directions = vec![direction(1, 13), direction(4, 13)];
        let probe =
            Probe::new(Position::Prompt, directions.clone(), Thresholds { lo: 0.0, hi: 1.0 }, quality)
                .unwrap();
        let states: Vec<Vec<f32>> =
            (0..2).map(|l| (0..13).map(|i| (i + l) as f32 * 0.3 - 1.0).collect()).collect();
        let naive: f64 = directions
            .iter()
            .zip(&states)
            .map(|(d, h)| {
                let z = (0..13).map(|i| f64::from((h[i] - d.mean[i]) * d.inv_std[i] * d.weight[i]));
                z.sum::<f64>() + f64::from(d.bias)
            })
            .sum::<f64>()
            / 2.0;
        let score = probe.score(|i| Some(&states[i])).unwrap();
        assert!((f64::from(score) - naive).abs() < 1e-5, "{score} {naive}");
        assert!(probe.score(|i| (i == 0).then_some(&states[0][..])).is_err(), "a state is missing");
        assert!(probe.score(|i| Some(&states[i][..12])).is_err(), "a state is too short");
    }

    #[test]
    fn broken_probes_are_refused() {
        let ok = Thresholds { lo: 0.0, hi: 1.0 };
        let make = |d: Vec<Direction>, t| Probe::new(Position::Prompt, d, t, Quality::default());
        let mut nan = direction(1, 3);
        nan.mean[2] = f32::NAN;
        let mut short = direction(2, 3);
        short.inv_std.pop();
        assert!(make(vec![], ok).is_err());
        assert!(make(vec![nan], ok).unwrap_err().to_string().contains("layer 1"));
        assert!(make(vec![short], ok).is_err());
        assert!(make(vec![direction(2, 3), direction(2, 3)], ok).is_err());
        assert!(make(vec![direction(2, 3)], Thresholds { lo: 2.0, hi: 1.0 }).is_err());
        assert!(make(vec![direction(2, 3)], Thresholds { lo: 0.0, hi: f32::NAN }).is_err());
    }
}
