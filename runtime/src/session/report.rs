//! What a generation did, for people and programs.

use super::conditioned::ExactReport;
use crate::align::Verdict;
use crate::guard::GuardReport;
use crate::search::SearchReport;
use crate::steer::NudgeReport;
use serde::Serialize;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended its turn.
    Eos,
    /// `max_tokens` was reached.
    Length,
    /// A stop string was reached.
    Stop,
    /// The context is full.
    ContextFull,
    /// An excluded phrase came and could not be taken back, or was to end the text.
    Excluded,
    /// Nothing more was allowed, and the text does not satisfy the constraint.
    DeadEnd,
    /// The caller cancelled; the text so far stands.
    Cancelled,
    /// The deadline passed; the text so far stands.
    Deadline,
    /// A guard objected; the text ends with the refusal.
    Refused,
    /// A guard objected, and under the constraints there is no refusal to write.
    RefusedUnderGrammar,
    /// A guard objected and was to end the text.
    Guarded,
}

/// How the text relates to the model's own distribution (design, promise 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exactness {
    /// Drawn from the model's distribution as the sampling settings shape it; no constraint.
    Unconstrained,
    /// Drawn from that distribution conditioned on the constraints.
    Exact,
    /// Every token was masked on its own: valid, but not conditioned exactly.
    Biased,
    /// Approaches the conditioned distribution as the number of particles grows.
    Asymptotic,
}

/// Wall times of one generation, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timings {
    /// Evaluating the prompt.
    pub prefill_s: f64,
    /// Producing tokens, from the first one's logits to the end.
    pub decode_s: f64,
    /// Share of both spent on sampling and constraints, 0..=1.
    pub alignment_share: f64,
}

/// What a generation did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Why it ended.
    pub finish: Finish,
    /// The stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Prompt tokens whose keys and values were there already.
    pub n_cached: usize,
    /// Tokens produced, the end token not counted.
    pub n_generated: usize,
    /// Tokens produced without a draw, because nothing else was allowed.
    #[serde(skip_serializing_if = "is_zero")]
    pub n_forced: usize,
    /// Times the text was taken back.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub n_backtracks: u32,
    /// Rows the model evaluated.
    pub n_evals: u64,
    /// Sum of the natural log-probabilities of the produced tokens (and the end token, if it came) under the
    /// model's untruncated distribution at temperature 1.
    pub logprob: f64,
    /// `-Σ ln Z`, `Z` the probability of what was allowed at each token (untruncated, temperature 1): what
    /// the constraint has cost, in nats. For masked texts only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_nats: Option<f64>,
    /// How the text relates to the model's distribution.
    pub exactness: Exactness,
    /// What a conditioned draw took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactReport>,
    /// What the text did with each constraint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Verdict>,
    /// What guards did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardReport>,
    /// What a search did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// What a nudger did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nudge: Option<NudgeReport>,
    /// The seed of the draws.
    pub seed: u64,
    /// Identity of the model file.
    pub model: String,
    /// Wall times.
    pub timings: Timings,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}
