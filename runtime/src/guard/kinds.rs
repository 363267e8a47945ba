//! What every guard is asked, and the two kinds there are.

use super::probe::{Position, Probe, Thresholds};
use super::smooth::Smoothed;
use crate::align::{HoldBack, Phrase};
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Hidden states of one token: after each layer that was asked for, `[n_embd]`.
pub type States<'a> = dyn Fn(u32) -> Option<&'a [f32]> + 'a;

/// What happens when a guard objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The text is taken back to a safe point and goes on another way.
    Backtrack,
    /// The text is taken back and ends with the refusal.
    Refuse,
    /// The text is taken back and ends.
    Stop,
}

/// An objection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alarm {
    /// First token of the answer that is objected to.
    pub from: usize,
    /// The score, if there is one.
    pub score: Option<f32>,
    /// What it exceeded.
    pub threshold: Option<f32>,
}

/// Judges one answer as it is decoded. A guard is made for one request and sees everything in order; what it
/// does not care about it need not implement.
///
/// Errors are objections: whoever asks must not go on as if nothing had been said.
pub trait Guard: Send {
    /// What it is called in reports.
    fn name(&self) -> Arc<str>;

    /// What happens when it objects.
    fn action(&self) -> Action;

    /// Layers whose hidden states it reads.
    fn layers(&self) -> &[u32] {
        &[]
    }

    /// Makes room for `n` tokens.
    fn reserve(&mut self, _n: usize) {}

    /// The last token of the prompt.
    fn see_prompt(&mut self, _states: &States<'_>) -> Result<Option<Alarm>> {
        Ok(None)
    }

    /// Layers it reads of the prompt, if it can end the request by them alone.
    fn prompt_layers(&self) -> &[u32] {
        &[]
    }

    /// Whether it objects to the prompt; asked of states that [`Guard::see_prompt`] gets later or never.
    fn peek_prompt(&self, _states: &States<'_>) -> bool {
        false
    }

    /// Score and thresholds of the prompt, if it has some.
    fn prompt_level(&self) -> Option<(f32, Thresholds)> {
        None
    }

    /// The next token and its bytes.
    fn see_token(&mut self, _token: TokenId, _bytes: &[u8]) -> Result<Option<Alarm>> {
        Ok(None)
    }

    /// The states of token `at` of the answer. They come in order; after the text was cut, the last token's may
    /// come again.
    fn see_state(&mut self, _at: usize, _states: &States<'_>) -> Result<Option<Alarm>> {
        Ok(None)
    }

    /// Whether it wants to see the states after assistant headers.
    fn reads_headers(&self) -> bool {
        false
    }

    /// The states after an assistant header put after all tokens so far.
    fn see_header(&mut self, _states: &States<'_>) -> Result<Option<Alarm>> {
        Ok(None)
    }

    /// The text ends.
    fn see_end(&mut self) -> Result<Option<Alarm>> {
        Ok(None)
    }

    /// Tokens, from the first, that it has nothing against, whatever comes.
    fn n_clear(&self) -> usize;

    /// The answer was cut to its first `n` tokens.
    /// # Errors Never for an answer that had as many.
    fn rewind(&mut self, n: usize) -> Result<()>;
}

/// Objects to phrases in the text, however it was tokenised.
pub struct PhraseGuard {
    name: Arc<str>,
    action: Action,
    /// As it is at the beginning of a text.
    fresh: HoldBack,
    filter: HoldBack,
    /// The text so far, and where each token ends in it.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// What the filter let out; of no use.
    out: String,
    n_clear: usize,
}

impl PhraseGuard {
    /// A guard against `phrases`.
    /// # Errors As [`HoldBack::new`].
    pub fn new(name: Arc<str>, action: Action, phrases: &[Phrase]) -> Result<Self> {
        Ok(Self::with_filter(name, action, HoldBack::by_push(phrases)?))
    }

    /// A guard with a filter that is ready and has seen nothing; it must release whole pushes.
    pub fn with_filter(name: Arc<str>, action: Action, filter: HoldBack) -> Self {
        Self {
            name,
            action,
            fresh: filter.clone(),
            filter,
            bytes: Vec::new(),
            ends: Vec::new(),
            out: String::new(),
            n_clear: 0,
        }
    }

    fn found(&mut self, found: Option<crate::align::Match>) -> Option<Alarm> {
        self.out.clear();
        let released = self.filter.n_released() as usize;
        while self.ends.get(self.n_clear).is_some_and(|end| *end <= released) {
            self.n_clear += 1;
        }
        let found = found?;
        let from = self.ends.partition_point(|end| *end as u64 <= found.start);
        Some(Alarm { from, score: None, threshold: None })
    }
}

impl Guard for PhraseGuard {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn action(&self) -> Action {
        self.action
    }

    fn reserve(&mut self, n: usize) {
        self.ends.reserve(n);
        self.bytes.reserve(8 * n);
    }

    fn see_token(&mut self, _: TokenId, bytes: &[u8]) -> Result<Option<Alarm>> {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        let found = self.filter.push(bytes, &mut self.out);
        Ok(self.found(found))
    }

    fn see_end(&mut self) -> Result<Option<Alarm>> {
        let found = self.filter.finish(&mut self.out);
        Ok(self.found(found))
    }

    fn n_clear(&self) -> usize {
        self.n_clear
    }

    fn rewind(&mut self, n: usize) -> Result<()> {
        self.ends.truncate(n);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
        self.n_clear = 0;
        // read again from the start: the same text gives the same state, whatever was let out before
        self.filter = self.fresh.clone();
        let mut from = 0;
        for &end in &self.ends {
            self.filter.push(&self.bytes[from..end], &mut self.out);
            from = end;
        }
        self.found(None);
        Ok(())
    }
}

/// Objects to what a probe reads from hidden states.
pub struct ProbeGuard {
    name: Arc<str>,
    action: Action,
    probe: Arc<Probe>,
    thresholds: Thresholds,
    prompt: Option<f32>,
    /// Scores of the answer's tokens.
    scores: Vec<f32>,
    smoothed: Smoothed,
    /// First token of the current run of scores above the lower threshold.
    excursion: Option<usize>,
    /// Tokens so far, and those that a header was read after.
    n_tokens: usize,
    n_read: usize,
}

impl ProbeGuard {
    /// A guard that reads `probe`; `threshold` takes the place of the probe's own.
    pub fn new(name: Arc<str>, action: Action, probe: Arc<Probe>, threshold: Option<f32>) -> Self {
        let hi = threshold.unwrap_or(probe.thresholds.hi);
        let thresholds = Thresholds { lo: probe.thresholds.lo.min(hi), hi };
        Self {
            name,
            action,
            probe,
            thresholds,
            prompt: None,
            scores: Vec::new(),
            smoothed: Smoothed::default(),
            excursion: None,
            n_tokens: 0,
            n_read: 0,
        }
    }

    fn score(&self, states: &States<'_>) -> Result<f32> {
        let layers = self.probe.layers();
        let score = self.probe.score(|i| states(layers[i]))?;
        match score.is_nan() {
            true => Err(Error::new(ErrorKind::Internal, "expected a score, found NaN").at(&*self.name)),
            false => Ok(score),
        }
    }

    fn take(&mut self, score: f32) {
        let at = self.scores.len();
        self.scores.push(score);
        self.smoothed.push(score);
        self.excursion = match score > self.thresholds.lo {
            true => Some(self.excursion.unwrap_or(at)),
            false => None,
        };
    }

    fn alarm(&self, from: usize, score: f32) -> Option<Alarm> {
        (score > self.thresholds.hi).then_some(Alarm {
            from,
            score: Some(score),
            threshold: Some(self.thresholds.hi),
        })
    }
}

impl Guard for ProbeGuard {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn action(&self) -> Action {
        self.action
    }

    fn layers(&self) -> &[u32] {
        self.probe.layers()
    }

    fn reserve(&mut self, n: usize) {
        self.scores.reserve(n);
    }

    fn see_prompt(&mut self, states: &States<'_>) -> Result<Option<Alarm>> {
        if self.probe.position() != Position::Prompt {
            return Ok(None);
        }
        let score = self.score(states)?;
        self.prompt = Some(score);
        Ok(self.alarm(0, score))
    }

    fn prompt_layers(&self) -> &[u32] {
        match (self.probe.position(), self.action) {
            (Position::Prompt, Action::Refuse | Action::Stop) => self.probe.layers(),
            _ => &[],
        }
    }

    fn peek_prompt(&self, states: &States<'_>) -> bool {
        // what cannot be read is left to the judgement proper, which fails closed
        !self.prompt_layers().is_empty() && self.score(states).is_ok_and(|score| score > self.thresholds.hi)
    }

    fn prompt_level(&self) -> Option<(f32, Thresholds)> {
        self.prompt.map(|score| (score, self.thresholds))
    }

    fn see_token(&mut self, _: TokenId, _: &[u8]) -> Result<Option<Alarm>> {
        self.n_tokens += 1;
        Ok(None)
    }

    fn see_state(&mut self, at: usize, states: &States<'_>) -> Result<Option<Alarm>> {
        if self.probe.position() != Position::Response || at < self.scores.len() {
            return Ok(None);
        }
        if at > self.scores.len() {
            let message = format!("expected the state of token {}, found that of {at}", self.scores.len());
            return Err(Error::new(ErrorKind::Internal, message).at(&*self.name));
        }
        let score = self.score(states)?;
        self.take(score);
        let level = self.smoothed.level();
        // the mean trails the scores: an excursion of the mean begins where the scores rose
        Ok(self.alarm(self.excursion.unwrap_or(at), level))
    }

    fn reads_headers(&self) -> bool {
        self.probe.position() == Position::Header
    }

    fn see_header(&mut self, states: &States<'_>) -> Result<Option<Alarm>> {
        if self.probe.position() != Position::Header {
            return Ok(None);
        }
        let score = self.score(states)?;
        let from = std::mem::replace(&mut self.n_read, self.n_tokens);
        Ok(self.alarm(from, score))
    }

    fn n_clear(&self) -> usize {
        match self.probe.position() {
            Position::Response => self.scores.len(),
            Position::Prompt => self.n_tokens,
            Position::Header => self.n_read,
        }
    }

    fn rewind(&mut self, n: usize) -> Result<()> {
        self.n_tokens = self.n_tokens.min(n);
        self.n_read = self.n_read.min(n);
        let kept: Vec<f32> = self.scores.drain(..).take(n).collect();
        self.smoothed = Smoothed::default();
        self.excursion = None;
        kept.into_iter().for_each(|score| self.take(score));
        Ok(())
    }
}
