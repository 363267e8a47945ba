//! `[[guard]]` of a profile.

use super::PhraseEntry;
use serde::Deserialize;

/// What a guard reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardKind {
    /// The text, for phrases.
    Phrases,
    /// Hidden states, with a probe.
    Probe,
}

/// What happens when a guard objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Phrases alone: what would complete one is never drawn.
    Mask,
    /// The text is taken back to a safe point and goes on another way.
    Backtrack,
    /// The text is taken back and ends with the refusal.
    Refuse,
    /// The text is taken back and ends.
    Stop,
}

/// What follows when text was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Another token is drawn there, up to three times; then the header is tried.
    Resample,
    /// The answer's turn is ended and a new one opened, so that the model decides again.
    Header,
    /// The answer goes on with the refusal's words.
    #[default]
    Prefix,
    /// The text ends with the refusal.
    Stop,
}

/// One `[[guard]]`. What all guards of a request share (`recovery` and below) may be said by any; those that say
/// it must agree.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardSection {
    /// What it reads.
    pub kind: GuardKind,
    /// What it is called in reports; its kind and place otherwise.
    pub name: Option<String>,
    /// A probe's file, beside the profile.
    pub path: Option<String>,
    /// Phrases that must not come.
    #[serde(default)]
    pub phrases: Vec<PhraseEntry>,
    /// What happens; `refuse` for probes, `mask` for phrases if nothing is said.
    pub action: Option<GuardAction>,
    /// A threshold in place of the probe's own.
    pub threshold: Option<f32>,
    /// What follows when text was taken back.
    pub recovery: Option<Recovery>,
    /// Times text is taken back before the answer ends.
    pub max_recoveries: Option<u32>,
    /// Tokens held so that they can be taken back.
    pub hold_tokens: Option<usize>,
    /// What is said instead.
    pub refusal: Option<String>,
}

/// What becomes of an answer's beginning that the caller gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefillPolicy {
    /// It is an error to give one.
    Reject,
    /// The guards read it as if it had been generated; if one objects it is dropped.
    Inspect,
    /// It is taken as it is.
    Trust,
}
