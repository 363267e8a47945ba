//! Rewards: one number for how well a text does what the caller wants, and bounds on what it can become.
//!
//! Why: every decoder that looks for good texts (look-ahead, best of N, rejection, value-guided sampling) scores
//! them through one interface, so a regular expression, a judge model and a length limit can be mixed and none
//! drowns the others. The bounds are what makes search affordable: a candidate whose best possible score is below
//! one already in hand is dropped unseen, and nothing about the result changes.
//!
//! Cost: rules read the whole text, 20 to 100 ns a character; rewards that ask a model cost its forward passes.
//! It loses where what is wanted cannot be put as a number of the text: use a hard constraint then, a reward
//! guarantees nothing.
//! Source: Huang et al., DeAL, arXiv 2402.06147; Wang et al., arXiv 2402.00742; Balashankar et al., InfAlign.

mod agreement;
mod combine;
mod implicit;
mod json;
mod judge;
mod keywords;
mod length;
mod pattern;
mod repetition;
#[cfg(test)]
mod tests;
mod transform;

pub use agreement::agreement;
pub use combine::{Combine, Combined, GATE_CLOSED, Part};
pub use implicit::{Implicit, PromptTokens, Reader};
pub use json::JsonReward;
pub use judge::{AskTokens, Asker, Pairwise, YesNo};
pub use keywords::Keywords;
pub use length::LengthReward;
pub use pattern::{PatternMode, PatternReward};
pub use repetition::Repetition;
pub use transform::{Calibration, Exponential, LogSigmoid, Transform, log_sigmoid, quantile};

use crate::error::{Error, ErrorKind, Result};

/// Whether a text does what a reward asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It does, and whatever follows cannot change that.
    Satisfied,
    /// It does not, and whatever follows cannot change that.
    Violated,
    /// What follows decides.
    Open,
}

/// What a reward says of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The reward.
    pub value: f64,
    /// No continuation of the text, open or closed, has less; `value` if the text is closed.
    pub lo: f64,
    /// No continuation has more; `value` if the text is closed.
    pub hi: f64,
    /// Whether the text does what is asked.
    pub status: Status,
}

impl Score {
    /// The score of a text that nothing follows, or that nothing can change.
    pub fn fixed(value: f64, satisfied: bool) -> Self {
        let status = if satisfied { Status::Satisfied } else { Status::Violated };
        Self { value, lo: value, hi: value, status }
    }

    /// The score of a text that goes on.
    pub fn open(value: f64, (lo, hi): (f64, f64)) -> Self {
        Self { value, lo, hi, status: Status::Open }
    }

    /// Whether nothing that follows can change the value.
    pub fn is_decided(&self) -> bool {
        self.lo == self.hi
    }
}

/// What the numbers of a reward mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewardUnit {
    /// Between 0 and 1, read as a probability.
    Probability,
    /// A log-odds, or the score of a model trained on comparisons.
    Logit,
    /// Anything else.
    Raw,
}

/// A text to score.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The text, whole characters only.
    pub text: &'a str,
    /// Whether nothing follows it.
    pub is_closed: bool,
}

/// Scores texts that answer a prompt. The same text always gets the same score.
pub trait Reward {
    /// What it is called in reports.
    fn name(&self) -> &str;

    /// What its numbers mean.
    fn unit(&self) -> RewardUnit {
        RewardUnit::Probability
    }

    /// Bounds on every score; infinite where there is none.
    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    /// The smallest difference of values that means something; what a search takes its weight from.
    fn step(&self) -> f64 {
        1.0
    }

    /// Whether asking costs microseconds, so that texts may be scored while they grow.
    fn is_cheap(&self) -> bool {
        true
    }

    /// Whether an open text says too little about its end to be scored.
    fn needs_closed(&self) -> bool {
        false
    }

    /// The score of one text.
    /// # Errors those of a model behind it; `TooComplex` if an automaton outgrew its limits.
    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score>;

    /// The scores of several texts, in their order. Models answer them together.
    /// # Errors as [`Reward::score`].
    fn score_all(&mut self, prompt: &str, candidates: &[Candidate<'_>]) -> Result<Vec<Score>> {
        candidates.iter().map(|c| self.score(prompt, *c)).collect()
    }

    /// Names and weights of the rewards inside, if it combines some.
    fn part_names(&self) -> Vec<(String, f64)> {
        vec![(self.name().to_owned(), 1.0)]
    }

    /// The rewards of `text` one by one, untransformed, for reports.
    /// # Errors as [`Reward::score`].
    fn parts(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Vec<Score>> {
        Ok(vec![self.score(prompt, candidate)?])
    }
}

/// Refuses scores that are no numbers: never silently taken for 0.
/// # Errors `Reward` naming the reward and a hash of the text.
pub fn check_finite(name: &str, score: Score, text: &str) -> Result<Score> {
    let is_ordered = score.lo <= score.value && score.value <= score.hi;
    if score.value.is_finite() && is_ordered {
        return Ok(score);
    }
    use std::hash::{Hash, Hasher};
    let mut hash = rustc_hash::FxHasher::default();
    text.hash(&mut hash);
    let found = format!("found {} in [{}, {}]", score.value, score.lo, score.hi);
    let message =
        format!("expected a finite number within its bounds, {found} for text {:016x}", hash.finish());
    Err(Error::new(ErrorKind::Reward, message).at(format!("reward {name}")))
}

/// An argument out of range, named.
pub(crate) fn bad(field: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{field}: expected {expected}, found {found}"))
}
