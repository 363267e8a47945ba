//! Putting rewards of different scales on one.

use crate::error::Result;

/// A non-decreasing map of a reward; bounds go through it, too.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Transform {
    /// As it is.
    #[default]
    None,
    /// `log σ(r − reference)`.
    LogSigmoid(LogSigmoid),
    /// Its quantile among rewards of base texts.
    Calibrated(Calibration),
    /// Its quantile, through an exponential.
    Exponential(Calibration, Exponential),
}

impl Transform {
    /// The reward after it.
    pub fn apply(&self, r: f64) -> f64 {
        match self {
            Self::None => r,
            Self::LogSigmoid(t) => log_sigmoid(r - t.reference),
            Self::Calibrated(c) => c.quantile_of(r),
            Self::Exponential(c, e) => e.apply(c.quantile_of(r)),
        }
    }

    /// Whether its values are logarithms of probabilities.
    pub fn is_log(&self) -> bool {
        matches!(self, Self::LogSigmoid(_))
    }
}

/// Log-sigmoid centred at a reference: read as the log-probability that the text is good, that is, better than the
/// reference. Its gain fades above the reference, which limits what gaming one reward can bring.
/// Source: Wang et al. 2024, "Transforming and Combining Rewards", arXiv 2402.00742.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSigmoid {
    /// The reward that counts as just good, such as the 85th percentile of base texts.
    pub reference: f64,
}

/// `ln σ(x)`, finite for every finite `x`.
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// The `q`-quantile of `values` by linear interpolation between order statistics; 0 without values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
    match part {
        0.0 => value(low),
        _ => value(low) + (value(low + 1) - value(low)) * part,
    }
}

/// Where a reward stands among those of base texts: 0 to 1. Under the base model the result is uniform, whatever
/// the reward's scale, if no two texts tie.
/// Source: Balashankar et al. 2025 (InfAlign).
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Rewards of base texts, ascending.
    sorted: Vec<f64>,
}

impl Calibration {
    /// From rewards of base texts: 8 or more of the same prompt, or some hundreds of many prompts.
    /// # Errors `InvalidArgument` without rewards or with one that is no number.
    pub fn new(rewards: &[f64]) -> Result<Self> {
        if rewards.is_empty() || rewards.iter().any(|r| !r.is_finite()) {
            return Err(super::bad(
                "calibration",
                "rewards of base texts, all finite",
                format!("{rewards:?}"),
            ));
        }
        let mut sorted = rewards.to_vec();
        sorted.sort_by(f64::total_cmp);
        Ok(Self { sorted })
    }

    /// Share of base rewards below `r`, those equal counting half.
    pub fn quantile_of(&self, r: f64) -> f64 {
        let less = self.sorted.partition_point(|x| *x < r);
        let equal = self.sorted.partition_point(|x| *x <= r) - less;
        (less as f64 + 0.5 * equal as f64) / self.sorted.len() as f64
    }

    /// As [`quantile_of`](Self::quantile_of) for one of the base rewards, itself left out: for the samples of a
    /// best-of-N, calibrated by one another. 0.5 if it is the only one.
    pub fn quantile_without(&self, r: f64) -> f64 {
        let others = self.sorted.len() as f64 - 1.0;
        if others == 0.0 { 0.5 } else { (self.quantile_of(r) * (others + 1.0) - 0.5) / others }
    }
}

/// `exp(t·u)` for `t > 0`: what to maximise when the best of several texts is kept. `−exp(t·u)` for `t < 0`: when
/// the worst counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    /// Sharpness; 10 for best-of-N.
    pub t: f64,
}

impl Exponential {
    /// # Errors `InvalidArgument` for 0 or what is no number.
    pub fn new(t: f64) -> Result<Self> {
        match t.is_finite() && t != 0.0 && t.abs() <= 500.0 {
            true => Ok(Self { t }),
            false => Err(super::bad("t", "a number from -500 to 500 other than 0", t)),
        }
    }

    /// The transform of a quantile.
    pub fn apply(self, u: f64) -> f64 {
        (self.t * u).exp() * self.t.signum()
    }
}
