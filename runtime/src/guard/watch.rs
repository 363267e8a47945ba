//! All guards of one request, and what happens when one of them objects.
//!
//! The loop tells a [`Watch`] what it does: the prompt was read, a token was taken, a token's hidden state is
//! there, the text ends. The watch answers with an [`Order`]. It also says how much may be shown: a token is
//! let out when every guard has judged it and [`Policy::hold_tokens`] more have come, so that there is
//! something to take back. Cost per token: one call a guard. A guard that fails, or whose score is no
//! number, counts as one that objects: nothing passes unjudged.
//!
//! It loses to harm that is seen only after more than `hold_tokens` tokens: what is shown cannot be recalled,
//! the report then says so (`retract_advised`).

use super::kinds::{Action, Alarm, Guard, States};
use super::refusal;
use crate::config::Recovery;
use crate::error::{Error, Result};
use crate::token::TokenId;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens after which a safe point is set if no sentence ends.
const SAFE_EVERY: usize = 32;
/// Tokens after which an assistant header is tried if no sentence ends.
const HEADER_EVERY: usize = 16;
/// Tries of `resample` before the next way out.
const MAX_RESAMPLES: u32 = 3;
/// Most events in a report.
const MAX_EVENTS: usize = 64;

/// What all guards of a request share.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What follows when text was taken back.
    pub recovery: Recovery,
    /// Times text is taken back before the answer ends.
    pub max_recoveries: u32,
    /// Tokens that are held so that they can be taken back.
    pub hold_tokens: usize,
    /// What is said instead.
    pub refusal: Arc<str>,
    /// Its tokens, at the beginning of an answer and after other text.
    pub refusal_ids: Arc<[TokenId]>,
    /// See `refusal_ids`.
    pub refusal_after: Arc<[TokenId]>,
    /// Tokens that end the assistant's turn and open a new one; empty without a template.
    pub header: Arc<[TokenId]>,
    /// First tokens of this model's refusals.
    pub starts: Arc<[TokenId]>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            recovery: Recovery::default(),
            max_recoveries: 2,
            hold_tokens: 16,
            refusal: "I'm sorry, but I can't help with that.".into(),
            refusal_ids: Arc::new([]),
            refusal_after: Arc::new([]),
            header: Arc::new([]),
            starts: Arc::new([]),
        }
    }
}

/// What the loop is to do. Token numbers count from the beginning of the answer, a forced prefix among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Go,
    /// Take back everything from this token on and draw another one there.
    Resample(usize),
    /// Take back, then end the turn and open a new one.
    Header(usize),
    /// Take back, then say the refusal's words and go on.
    Prefix(usize),
    /// Take back and end with the refusal.
    Refuse(usize),
    /// Take back and end.
    Stop(usize),
}

/// What a guard objected to and what was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardEvent {
    /// The guard.
    pub guard: String,
    /// What was judged: `prompt`, `token`, `state`, `header`, `end`.
    pub at: &'static str,
    /// Tokens of the answer at that time.
    pub n_tokens: usize,
    /// The score; none for phrases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// The threshold it exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// What was done: `resample`, `header`, `prefix`, `refuse`, `stop`.
    pub action: &'static str,
    /// Tokens that were kept.
    pub kept: usize,
    /// What should have been taken back was shown already.
    #[serde(skip_serializing_if = "is_false")]
    pub retract_advised: bool,
    /// The guard failed: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// What the guards did in one generation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GuardReport {
    /// `normal`, or `guarded` once something was suspicious.
    pub level: &'static str,
    /// Score of the prompt, the highest of all prompt probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_score: Option<f32>,
    /// Log-odds that the answer begins as a refusal does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal_log_odds: Option<f32>,
    /// Times text was taken back.
    pub n_recoveries: u32,
    /// The prompt was refused after this layer; those above were not computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_after_layer: Option<u32>,
    /// The first 64 objections.
    pub events: Vec<GuardEvent>,
    /// Share of the generation's time, 0..=1.
    pub time_share: f64,
}

/// Below these log-odds of a refusal the model is about to comply.
const LOW_ODDS: f32 = 0.0;

/// The guards of one request.
pub struct Watch {
    guards: Vec<Box<dyn Guard>>,
    policy: Arc<Policy>,
    /// Tokens of the answer so far.
    n_tokens: usize,
    /// Tokens that cannot be taken back.
    n_shown: usize,
    /// Where the text may be cut, ascending.
    safe: Vec<usize>,
    /// Where headers were tried last.
    header_at: usize,
    header_due: bool,
    /// Tokens before this are the refusal's own words: nobody objects to them.
    exempt: usize,
    is_guarded: bool,
    n_recoveries: u32,
    n_resamples: u32,
    report: GuardReport,
    spent: Duration,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("n_tokens", &self.n_tokens).finish_non_exhaustive()
    }
}

impl Watch {
    /// The guards of a request, made for it alone.
    pub fn new(guards: Vec<Box<dyn Guard>>, policy: Arc<Policy>) -> Self {
        Self {
            guards,
            policy,
            n_tokens: 0,
            n_shown: 0,
            safe: vec![0],
            header_at: 0,
            header_due: false,
            exempt: 0,
            is_guarded: false,
            n_recoveries: 0,
            n_resamples: 0,
            report: GuardReport { level: "normal", ..GuardReport::default() },
            spent: Duration::ZERO,
        }
    }

    /// One more guard; it is asked after the others.
    pub fn add(&mut self, guard: Box<dyn Guard>) {
        self.guards.push(guard);
    }

    /// What the guards share.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Layers whose hidden states the guards read.
    pub fn layers(&self) -> impl Iterator<Item = u32> + '_ {
        self.guards.iter().flat_map(|g| g.layers().iter().copied())
    }

    /// Makes room for `n` tokens, so that no step allocates.
    pub fn reserve(&mut self, n: usize) {
        self.safe.reserve(n / 2 + 2);
        self.guards.iter_mut().for_each(|g| g.reserve(n));
    }

    /// The layer after which a prompt may be refused, if there are probes that can.
    pub fn early_layer(&self) -> Option<u32> {
        self.guards.iter().filter_map(|g| g.prompt_layers().last().copied()).max()
    }

    /// Whether some guard would end the request by these states of the prompt.
    pub fn refuses_early(&self, states: &States<'_>) -> bool {
        self.guards.iter().any(|g| g.peek_prompt(states))
    }

    /// Layers above this one were not computed.
    pub fn set_left_after(&mut self, layer: u32) {
        self.report.left_after_layer = Some(layer);
    }

    /// The prompt was read. `logits`: what comes first, natural log, unnormalised; empty if it was not computed.
    pub fn at_prompt(&mut self, states: &States<'_>, logits: &[f32]) -> Order {
        if !(self.policy.starts.is_empty() || logits.is_empty()) {
            self.report.refusal_log_odds = Some(refusal::log_odds(logits, &self.policy.starts));
        }
        let order = self.ask("prompt", |g| g.see_prompt(states));
        let scores = self.guards.iter().filter_map(|g| g.prompt_level());
        let high = scores.clone().map(|(score, _)| score).reduce(f32::max);
        self.report.prompt_score = high;
        let suspicious = scores.clone().any(|(score, t)| score > t.lo);
        let complies = self.report.refusal_log_odds.is_none_or(|odds| odds < LOW_ODDS);
        if suspicious && complies {
            self.is_guarded = true;
        }
        order
    }

    /// A token was taken; `bytes`: what it adds to the text.
    pub fn at_token(&mut self, token: TokenId, bytes: &[u8]) -> Order {
        self.n_tokens += 1;
        let order = self.ask("token", |g| g.see_token(token, bytes));
        let ends = ends_sentence(bytes);
        let last = self.safe.last().copied().unwrap_or(0);
        // the refusal's own words are taken back whole or not at all
        let is_safe = (ends || self.n_tokens - last >= SAFE_EVERY) && self.n_tokens > self.exempt;
        if is_safe || self.n_tokens == self.exempt {
            self.safe.push(self.n_tokens);
        }
        if ends || self.n_tokens - self.header_at >= HEADER_EVERY {
            self.header_due = true;
        }
        order
    }

    /// The hidden state of token `at` of the answer is there. What was seen before is not judged again.
    pub fn at_state(&mut self, at: usize, states: &States<'_>) -> Order {
        self.ask("state", |g| g.see_state(at, states))
    }

    /// Whether the state after an assistant header is wanted now.
    pub fn wants_header(&self) -> bool {
        self.header_due && self.n_tokens > self.exempt && self.guards.iter().any(|g| g.reads_headers())
    }

    /// The hidden state after an assistant header that was put after all tokens so far.
    pub fn at_header(&mut self, states: &States<'_>) -> Order {
        self.header_due = false;
        self.header_at = self.n_tokens;
        self.ask("header", |g| g.see_header(states))
    }

    /// The text ends.
    pub fn at_end(&mut self) -> Order {
        self.ask("end", |g| g.see_end())
    }

    /// Tokens that may be shown; `is_finished`: no more are coming and all were judged.
    pub fn n_clear(&self, is_finished: bool) -> usize {
        if is_finished {
            return self.n_tokens;
        }
        let judged = self.guards.iter().map(|g| g.n_clear()).min().unwrap_or(self.n_tokens);
        judged.min(self.n_tokens.saturating_sub(self.policy.hold_tokens))
    }

    /// The first `n` tokens were shown.
    pub fn set_shown(&mut self, n: usize) {
        self.n_shown = self.n_shown.max(n);
    }

    /// The answer was cut to its first `n` tokens.
    /// # Errors Those of the guards.
    pub fn rewind(&mut self, n: usize) -> Result<()> {
        self.n_tokens = self.n_tokens.min(n);
        self.safe.retain(|s| *s <= n);
        self.exempt = self.exempt.min(n);
        self.header_at = self.header_at.min(n);
        self.guards.iter_mut().try_for_each(|g| g.rewind(n))
    }

    /// The next `n` tokens are the refusal's words.
    pub fn exempt_next(&mut self, n: usize) {
        self.exempt = self.n_tokens + n;
    }

    /// A forced beginning was dropped: from here on the answer is watched as one under suspicion.
    pub fn set_guarded(&mut self) {
        self.is_guarded = true;
    }

    /// What was done. `total_s`: seconds of the whole generation.
    pub fn into_report(self, total_s: f64) -> GuardReport {
        let spent = self.spent.as_secs_f64();
        GuardReport {
            level: if self.is_guarded { "guarded" } else { "normal" },
            n_recoveries: self.n_recoveries,
            time_share: if total_s > 0.0 { (spent / total_s).min(1.0) } else { 0.0 },
            ..self.report
        }
    }

    /// Asks all guards; the first objection decides.
    fn ask(
        &mut self,
        at: &'static str,
        mut question: impl FnMut(&mut dyn Guard) -> Result<Option<Alarm>>,
    ) -> Order {
        let started = Instant::now();
        let mut first: Option<(usize, Alarm, Option<Error>)> = None;
        for (i, guard) in self.guards.iter_mut().enumerate() {
            let (alarm, failed) = match question(&mut **guard) {
                Ok(None) => continue,
                Ok(Some(alarm)) => (alarm, None),
                Err(e) => (Alarm { from: 0, score: None, threshold: None }, Some(e)),
            };
            if first.is_none() {
                first = Some((i, alarm, failed));
            }
        }
        self.spent += started.elapsed();
        match first {
            Some((i, alarm, failed))
                if self.exempt == 0 || self.n_tokens > self.exempt || failed.is_some() =>
            {
                self.object(i, at, alarm, failed)
            }
            _ => Order::Go,
        }
    }

    fn object(&mut self, guard: usize, at: &'static str, alarm: Alarm, failed: Option<Error>) -> Order {
        self.is_guarded = true;
        let action = match failed {
            Some(_) => Action::Refuse,
            None => self.guards[guard].action(),
        };
        let target = self.target(alarm.from);
        let (order, name) = match action {
            Action::Stop => (Order::Stop(target), "stop"),
            Action::Refuse => (Order::Refuse(target), "refuse"),
            Action::Backtrack => self.recover(target),
        };
        if self.report.events.len() < MAX_EVENTS {
            self.report.events.push(GuardEvent {
                guard: self.guards[guard].name().to_string(),
                at,
                n_tokens: self.n_tokens,
                score: alarm.score,
                threshold: alarm.threshold,
                action: name,
                kept: target,
                retract_advised: alarm.from < self.n_shown,
                failed: failed.map(|e| e.to_string()),
            });
        }
        order
    }

    /// The last safe point at or before token `from` that is not shown yet; else all that is shown.
    fn target(&self, from: usize) -> usize {
        let i = self.safe.partition_point(|s| *s <= from);
        let safe = i.checked_sub(1).map_or(0, |i| self.safe[i]);
        safe.max(self.n_shown).min(self.n_tokens)
    }

    fn recover(&mut self, target: usize) -> (Order, &'static str) {
        let can_resample = self.policy.recovery == Recovery::Resample && self.n_resamples < MAX_RESAMPLES;
        if can_resample && target < self.n_tokens {
            self.n_resamples += 1;
            return (Order::Resample(target), "resample");
        }
        self.n_recoveries += 1;
        if self.n_recoveries > self.policy.max_recoveries {
            return (Order::Refuse(target), "refuse");
        }
        let has_header = !self.policy.header.is_empty();
        let has_words = !self.policy.refusal_ids.is_empty();
        match self.policy.recovery {
            Recovery::Resample | Recovery::Header if has_header => (Order::Header(target), "header"),
            Recovery::Prefix if has_words => (Order::Prefix(target), "prefix"),
            _ => (Order::Refuse(target), "refuse"),
        }
    }
}

/// Whether a sentence ends with these bytes.
fn ends_sentence(bytes: &[u8]) -> bool {
    bytes.contains(&b'\n') || matches!(bytes.trim_ascii_end().last(), Some(b'.' | b'!' | b'?' | b';'))
}
