//! What a search may be told, checked once.

use crate::error::{Error, ErrorKind, Result};
use crate::reward::bad;
use crate::sampling::SamplingParams;
use serde::{Deserialize, Serialize};

/// How texts are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMethod {
    /// Each of the likeliest tokens is followed a few tokens ahead; the best outlook wins, and one token is kept.
    #[default]
    Deal,
    /// The same, but several tokens of the best outlook are kept at once.
    DealBlock,
    /// Each of the likeliest tokens is scored as it stands.
    Args,
    /// Whole texts are drawn and the best is kept.
    BestOf,
    /// Blocks are drawn and the best is kept, again and again.
    Block,
    /// Texts are drawn until one does what the rewards ask.
    Rejection,
    /// Texts are drawn and accepted by chance, so that accepted ones follow the tilted law exactly.
    RejectionExact,
    /// Tokens weighed by the mean reward of texts drawn behind them.
    Controlled,
    /// Tokens weighed by the reward of what an aligned model would say behind them.
    TransferQ,
    /// The same where that model was aligned for another reward: its texts are weighted.
    TransferQIndirect,
    /// The aligned model's own law, tilted exactly from its reward to the wanted one.
    TransferQExact,
}

impl SearchMethod {
    /// Whether texts or blocks are drawn, instead of tokens being weighed.
    pub fn draws_texts(self) -> bool {
        matches!(self, Self::BestOf | Self::Block | Self::Rejection | Self::RejectionExact)
    }
}

/// How one of several weighed tokens is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// The best.
    #[default]
    Best,
    /// Drawn by weight.
    Draw,
}

/// Settings of a search. Counts are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchParams {
    /// How texts are looked for.
    pub method: SearchMethod,
    /// `k`: tokens tried at a place.
    pub candidates: usize,
    /// `l`: tokens looked ahead.
    pub lookahead: usize,
    /// `m`: tokens kept of the best outlook.
    pub commit: usize,
    /// `B`: texts side by side.
    pub beams: usize,
    /// Nats a reward of 1 is worth; `None`: one step of the reward is worth a probability ratio of 50.
    pub lambda: Option<f64>,
    /// Texts or blocks drawn at once.
    pub samples: usize,
    /// Tokens of a drawn block.
    pub block: usize,
    /// Texts drawn behind a token to estimate its value.
    pub rollouts: usize,
    /// Reward units of a nat: small is strong. The inverse of `lambda`; stands in for it where given.
    pub alpha: Option<f64>,
    /// Strength at which the model of `TransferQ…` was aligned, in units of its reward.
    pub beta: f64,
    /// How one of weighed tokens is taken.
    pub choose: Choose,
    /// Divides weights before a draw.
    pub tau: f64,
    /// Most texts drawn by rejection.
    pub max_tries: usize,
    /// `best_of`: rewards become quantiles among the samples, then `exp(t·u)`.
    pub calibrate: Option<f64>,
    /// Longest text.
    pub max_tokens: usize,
    /// Rows the model may evaluate; then the text is finished greedily.
    pub budget_evals: Option<u64>,
    /// Search only where the likeliest token has less than this probability.
    pub gate: Option<f64>,
    /// Candidates compete by log-probability a token.
    pub is_normed: bool,
    /// The winner's outlook is kept. Saves work, changes nothing.
    pub reuses: bool,
    /// Candidates that cannot win are dropped unseen. Saves work, changes nothing.
    pub prunes: bool,
    /// Texts that end the search; not part of the result.
    pub stop: Vec<String>,
    /// How blocks and texts are drawn; its seed is that of all draws.
    pub sampling: SamplingParams,
}

impl Default for SearchParams {
    fn default() -> Self {
        Self {
            method: SearchMethod::default(),
            candidates: 5,
            lookahead: 16,
            commit: 1,
            beams: 1,
            lambda: None,
            samples: 4,
            block: 16,
            rollouts: 1,
            alpha: None,
            beta: 0.5,
            choose: Choose::Best,
            tau: 1.0,
            max_tries: 16,
            calibrate: None,
            max_tokens: 256,
            budget_evals: None,
            gate: None,
            is_normed: false,
            reuses: true,
            prunes: true,
            stop: Vec::new(),
            sampling: SamplingParams::default(),
        }
    }
}

/// Most texts at once.
pub const MAX_SAMPLES: usize = 256;

impl SearchParams {
    /// The defaults of a method.
    pub fn of(method: SearchMethod) -> Self {
        let base = Self { method, ..Self::default() };
        match method {
            SearchMethod::DealBlock => Self { commit: 8, ..base },
            SearchMethod::Args => Self { candidates: 10, lookahead: 0, lambda: Some(1.0), tau: 0.7, ..base },
            SearchMethod::Controlled => Self { candidates: 20, rollouts: 4, alpha: Some(0.25), ..base },
            SearchMethod::TransferQ => Self { candidates: 10, lookahead: 20, lambda: Some(1.0), ..base },
            SearchMethod::TransferQIndirect | SearchMethod::TransferQExact => {
                Self { candidates: 10, lookahead: 20, rollouts: 4, lambda: Some(1.0), ..base }
            }
            _ => base,
        }
    }

    /// # Errors `InvalidArgument` naming the field.
    pub fn validate(&self, n_vocab: usize) -> Result<()> {
        let count = |name: &str, n: usize, least: usize, most: usize| match (least..=most).contains(&n) {
            true => Ok(()),
            false => Err(bad(name, &format!("{least} to {most}"), n)),
        };
        if !self.method.draws_texts() {
            count("candidates", self.candidates, 1, n_vocab)?;
        }
        count("lookahead", self.lookahead, 0, 1 << 16)?;
        count("commit", self.commit, 1, self.lookahead + 1)?;
        count("beams", self.beams, 1, 64)?;
        count("samples", self.samples, 1, MAX_SAMPLES)?;
        count("block", self.block, 1, usize::MAX)?;
        count("rollouts", self.rollouts, 1, MAX_SAMPLES)?;
        count("max_tries", self.max_tries, 1, 1 << 20)?;
        count("max_tokens", self.max_tokens, 1, usize::MAX)?;
        let number = |name: &str, x: f64, is_good: bool| match is_good && x.is_finite() {
            true => Ok(()),
            false => Err(bad(name, "a finite number in its range", x)),
        };
        for (name, x) in [("alpha", self.alpha.unwrap_or(1.0)), ("beta", self.beta), ("tau", self.tau)] {
            number(name, x, x > 0.0)?;
        }
        let lambda = self.lambda.unwrap_or(0.0);
        number("lambda", lambda, lambda >= 0.0)?;
        let gate = self.gate.unwrap_or(1.0);
        number("gate", gate, (0.0..=1.0).contains(&gate))?;
        self.fits()
    }

    /// What does not go together.
    fn fits(&self) -> Result<()> {
        if self.lambda.is_some() && self.alpha.is_some_and(|a| self.lambda != Some(1.0 / a)) {
            return Err(bad("alpha", "lambda or alpha, not both", "both"));
        }
        if self.method == SearchMethod::TransferQIndirect && self.rollouts < 2 {
            return Err(bad("rollouts", "2 or more where they are weighted: the weight of one cancels", 1));
        }
        if self.beams > 1 && self.is_drawn() {
            return Err(bad("beams", "1 where tokens or rollouts are drawn", self.beams));
        }
        if self.method == SearchMethod::RejectionExact && !is_plain(&self.sampling) {
            let message = "rejection_exact draws from the model's own law: expected temperature 1 and no truncation, \
                           penalty or bias";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }

    /// Whether tokens are weighed by more than one outlook, or taken by chance.
    fn is_drawn(&self) -> bool {
        self.rollouts > 1 || self.choose == Choose::Draw
    }

    /// Nats a reward of 1 is worth. `step`: of the reward.
    pub fn lambda_for(&self, step: f64) -> f64 {
        let auto = || if step > 0.0 && step.is_finite() { AUTO_RATIO.ln() / step } else { 1.0 };
        self.alpha.map(f64::recip).or(self.lambda).unwrap_or_else(auto)
    }
}

/// Probability ratio that one step of the reward may override.
const AUTO_RATIO: f64 = 50.0;

/// The model's own law.
pub fn plain_sampling(seed: u64) -> SamplingParams {
    SamplingParams {
        seed,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        samplers: vec![crate::sampling::SamplerKind::Temperature],
        ..SamplingParams::default()
    }
}

/// Whether `sampling` leaves the model's law as it is.
fn is_plain(sampling: &SamplingParams) -> bool {
    use crate::sampling::SamplerKind as S;
    let s = sampling;
    let is_on = |kind| s.samplers.contains(&kind);
    let cut = s.top_k != 0 && is_on(S::TopK)
        || s.top_p < 1.0 && is_on(S::TopP)
        || s.min_p > 0.0 && is_on(S::MinP)
        || s.typical_p < 1.0 && is_on(S::TypicalP)
        || s.top_n_sigma > 0.0 && is_on(S::TopNSigma)
        || s.xtc.probability > 0.0 && is_on(S::Xtc);
    let p = &s.penalties;
    let penalised = is_on(S::Penalties) && (p.repeat != 1.0 || p.frequency != 0.0 || p.presence != 0.0)
        || s.dry.multiplier > 0.0 && is_on(S::Dry);
    let same = s.temperature == 1.0 && s.dynatemp == SamplingParams::default().dynatemp;
    same && !cut && !penalised && s.mirostat.is_none() && s.logit_bias.is_empty()
}
