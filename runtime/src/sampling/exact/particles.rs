//! Many texts at once, one forward pass a token for all: masked draws with weights, and sequential Monte
//! Carlo.
//!
//! A masked draw has weight `W = Π Z`; `P(x) = q(x)·W(x)`, so the mean weight estimates `P(L)` without bias,
//! and weights correct masked draws towards `p*`. Sequential Monte Carlo corrects on the way: when the
//! weights have become too uneven it replaces light texts by copies of heavy ones. A finished text keeps its
//! weight and takes part. Consistent in the number of particles, not exact for any number.

use super::softmax::Softmax;
use super::{MaskSource, Start, check_start, limited_mask};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::next_logits::{BatchItem, NextLogits, Want};
use crate::sampling::params::bad;
use crate::sampling::random::{Purpose, Random};
use crate::token::{TokenId, TokenSet};

/// A text drawn under the mask.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedDraw {
    /// The tokens, the end included unless it met a dead end.
    pub tokens: Vec<TokenId>,
    /// `ln W`; minus infinity after a dead end.
    pub log_weight: f64,
    /// Log-probability under the model at the temperature, natural log.
    pub logprob: f64,
}

/// Settings of [`Smc`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmcParams {
    /// Seed of all draws.
    pub seed: u64,
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// Most tokens of a text, its end included.
    pub max_tokens: usize,
    /// Texts at once.
    pub particles: usize,
    /// Resamples when the effective number of particles is below this share.
    pub resample_below: f64,
}

impl Default for SmcParams {
    fn default() -> Self {
        Self { seed: 0, temperature: 1.0, max_tokens: 512, particles: 8, resample_below: 0.5 }
    }
}

/// A text whose law tends to the conditioned one.
#[derive(Clone, Debug, PartialEq)]
pub struct SmcSample {
    /// The tokens, the end included.
    pub tokens: Vec<TokenId>,
    /// Log-probability under the model at the temperature, natural log.
    pub logprob: f64,
    /// `ln Ẑ`; `Ẑ` estimates `P(L)` without bias.
    pub log_z: f64,
    /// Effective number of particles at the end.
    pub ess: f64,
}

/// Sequential Monte Carlo over masked proposals.
#[derive(Clone, Copy, Debug)]
pub struct Smc {
    params: SmcParams,
}

/// One text on its way.
struct Particle<B> {
    branch: B,
    draw: MaskedDraw,
    ended: bool,
    /// Its row of the last batch; none for the row of the start.
    row: Option<usize>,
}

impl<B> Particle<B> {
    fn is_open(&self) -> bool {
        !self.ended && self.draw.log_weight > f64::NEG_INFINITY
    }
}

/// All texts.
struct Particles<'a, M: NextLogits, S> {
    model: &'a mut M,
    start: Start<'a, M::Branch>,
    source: &'a mut S,
    all: Vec<Particle<M::Branch>>,
    softmax: Softmax,
    random: Random,
    max_tokens: usize,
    mask: TokenSet,
}

/// `n` independent masked draws, evaluated together; number `i` is that of draw `first_draw + i`.
/// # Errors `InvalidArgument` if a setting is out of range; those of the model and the source.
pub fn masked_draws<M: NextLogits>(
    model: &mut M,
    start: Start<'_, M::Branch>,
    source: &mut impl MaskSource,
    params: &SmcParams,
    first_draw: u32,
) -> Result<Vec<MaskedDraw>> {
    let mut p = Particles::new(model, start, source, params)?;
    for n in 0..params.max_tokens {
        if !p.step(n, first_draw)? {
            break;
        }
    }
    Ok(p.all.into_iter().map(|p| p.draw).collect())
}

impl Smc {
    /// # Errors `InvalidArgument` naming the field.
    pub fn new(params: SmcParams) -> Result<Self> {
        if params.max_tokens == 0 || params.particles == 0 {
            return Err(bad("max_tokens, particles", "at least 1", format!("{params:?}")));
        }
        if !(0.0..=1.0).contains(&params.resample_below) {
            return Err(bad("resample_below", "0 to 1", params.resample_below));
        }
        Softmax::new(params.temperature, 1)?;
        Ok(Self { params })
    }

    /// One text. `draw`: the number of the sample; samples of different numbers are independent.
    /// # Errors `Unsatisfiable` if every particle met a dead end; those of the model and the source.
    pub fn sample<M: NextLogits>(
        &self,
        model: &mut M,
        start: Start<'_, M::Branch>,
        source: &mut impl MaskSource,
        draw: u32,
    ) -> Result<SmcSample> {
        let n = self.params.particles;
        let mut p = Particles::new(model, start, source, &self.params)?;
        // Each sample has its own numbers: one for each particle.
        let first_draw = draw.wrapping_mul(n as u32);
        for step in 0..self.params.max_tokens {
            if !p.step(step, first_draw)? {
                break;
            }
            let weights = p.weights();
            if ess(&weights) < self.params.resample_below * n as f64 {
                p.resample(&weights, p.random.with_draw(draw).uniform(step as u64, Purpose::Resample))?;
            }
        }
        self.pick(p, draw)
    }

    /// One particle by its weight.
    fn pick<M: NextLogits, S>(&self, p: Particles<'_, M, S>, draw: u32) -> Result<SmcSample> {
        let weights = p.weights();
        let log_z = p.log_mean_weight();
        let u = p.random.with_draw(draw).uniform(self.params.max_tokens as u64, Purpose::Resample);
        let mut target = u * weights.iter().sum::<f64>();
        let chosen = p.all.iter().zip(&weights).filter(|(_, w)| **w > 0.0).find(|(_, w)| {
            target -= **w;
            target < 0.0
        });
        let last = || p.all.iter().zip(&weights).rfind(|(_, w)| **w > 0.0);
        let Some((particle, _)) = chosen.or_else(last) else {
            let message = format!("expected one of {} particles to end, found only dead ends", p.all.len());
            return Err(Error::new(ErrorKind::Unsatisfiable, message));
        };
        let MaskedDraw { tokens, logprob, .. } = particle.draw.clone();
        Ok(SmcSample { tokens, logprob, log_z, ess: ess(&weights) })
    }
}

/// Effective number of weights, `(Σw)² / Σw²`; 0 if all are 0.
pub(super) fn ess(weights: &[f64]) -> f64 {
    let (sum, squares) = weights.iter().fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

impl<'a, M: NextLogits, S: MaskSource> Particles<'a, M, S> {
    fn new(
        model: &'a mut M,
        start: Start<'a, M::Branch>,
        source: &'a mut S,
        params: &SmcParams,
    ) -> Result<Self> {
        check_start(model, &start, source)?;
        let n_vocab = model.n_vocab();
        let particle = |model: &mut M| {
            let draw = MaskedDraw { tokens: Vec::new(), log_weight: 0.0, logprob: 0.0 };
            Ok(Particle { branch: model.fork(start.branch)?, draw, ended: false, row: None })
        };
        Ok(Self {
            all: (0..params.particles).map(|_| particle(model)).collect::<Result<_>>()?,
            model,
            start,
            source,
            softmax: Softmax::new(params.temperature, n_vocab)?,
            random: Random::new(params.seed),
            max_tokens: params.max_tokens,
            mask: TokenSet::none(n_vocab),
        })
    }

    /// Draws a token for every open particle and evaluates those that go on. False if none does.
    fn step(&mut self, n: usize, first_draw: u32) -> Result<bool> {
        for (i, particle) in self.all.iter_mut().enumerate().filter(|(_, p)| p.is_open()) {
            let row = particle.row.map_or(self.start.logits, |i| self.model.row(i));
            limited_mask(self.source, &particle.draw.tokens, self.max_tokens, &mut self.mask)?;
            let u =
                self.random.with_draw(first_draw.wrapping_add(i as u32)).uniform(n as u64, Purpose::Token);
            let draw = &mut particle.draw;
            match self.softmax.masked(row, &self.mask, u)? {
                Some((token, log_mass, logprob)) => {
                    draw.tokens.push(token);
                    draw.log_weight += log_mass;
                    draw.logprob += logprob;
                    particle.ended = self.source.ends().contains(token);
                }
                None => draw.log_weight = f64::NEG_INFINITY,
            }
        }
        self.eval()
    }

    /// Evaluates the last token of every open particle.
    fn eval(&mut self) -> Result<bool> {
        let mut items = Vec::with_capacity(self.all.len());
        for p in self.all.iter_mut().filter(|p| p.is_open()) {
            p.row = Some(items.len());
            let tokens = p.draw.tokens.last_chunk::<1>().map_or(&[][..], |last| last);
            items.push(BatchItem { branch: &p.branch, tokens, want: Want::Last });
        }
        if !items.is_empty() {
            self.model.eval(&items)?;
        }
        Ok(!items.is_empty())
    }
}

impl<M: NextLogits, S> Particles<'_, M, S> {
    fn max_log_weight(&self) -> f64 {
        self.all.iter().fold(f64::NEG_INFINITY, |m, p| m.max(p.draw.log_weight))
    }

    /// Weights relative to the greatest.
    fn weights(&self) -> Vec<f64> {
        let max = self.max_log_weight();
        let relative = |p: &Particle<M::Branch>| {
            if max > f64::NEG_INFINITY { (p.draw.log_weight - max).exp() } else { 0.0 }
        };
        self.all.iter().map(relative).collect()
    }

    fn log_mean_weight(&self) -> f64 {
        self.max_log_weight() + (self.weights().iter().sum::<f64>() / self.all.len() as f64).ln()
    }

    /// Systematic resampling: particle `i` is copied for every point `(u + k)·Σw/N` in its share of the
    /// cumulated weight. All weights become their mean.
    fn resample(&mut self, weights: &[f64], u: f64) -> Result<()> {
        let mean = self.log_mean_weight();
        if mean == f64::NEG_INFINITY {
            return Ok(());
        }
        let n = self.all.len();
        let total: f64 = weights.iter().sum();
        let Self { model, all, .. } = self;
        let mut copy = |p: &Particle<M::Branch>| -> Result<_> {
            let draw = MaskedDraw { log_weight: mean, ..p.draw.clone() };
            Ok(Particle { branch: model.fork(&p.branch)?, draw, ..*p })
        };
        let (mut next, mut cumulated) = (Vec::with_capacity(n), 0.0);
        for (particle, w) in all.iter().zip(weights) {
            cumulated += w;
            while *w > 0.0 && next.len() < n && (u + next.len() as f64) * total < cumulated * n as f64 {
                next.push(copy(particle)?);
            }
        }
        // Rounding may leave the last point out.
        let last = all.iter().zip(weights).rfind(|(_, w)| **w > 0.0);
        while let Some((particle, _)) = last.filter(|_| next.len() < n) {
            next.push(copy(particle)?);
        }
        self.all = next;
        Ok(())
    }
}
