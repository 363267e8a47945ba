//! A sampler chain: from a row of logits to one token, with state that can be taken back.
//!
//! Order: mask, logit bias, the samplers of [`SamplingParams::samplers`], one draw. The mask comes first,
//! else truncation could leave nothing the mask allows. All randomness is keyed by (seed, draw, position),
//! so a chain that is asked twice for the same position gives the same token. State is the accepted tokens
//! and Mirostat's `mu` by position: rollback is exact and costs what is taken back.
//!
//! A step allocates nothing once [`Chain::reserve`] has made room for the sequence. Cost: see `candidates`.

use super::candidates::{Candidates, Workspace};
use super::dry::{DryBreakers, Repeats};
use super::params::{SamplerKind, SamplingParams, bad};
use super::penalties::{Counts, window_tokens};
use super::random::{Purpose, Random};
use super::temperature;
use super::truncate;
use crate::error::Result;
use crate::token::{TokenId, TokenSet};
use std::sync::Arc;

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Its probability under the law it was drawn from: masked, truncated, at temperature.
    pub prob: f64,
    /// Its log-probability (natural log) under the softmax of the row as the model wrote it: no mask, no
    /// penalty, no truncation, temperature 1. If asked for.
    pub logprob: Option<f64>,
    /// `ln Σ P(t)` over the tokens the mask allows, under the same softmax; 0 without a mask. If asked for.
    pub log_z: Option<f64>,
}

/// What to report about a token beside its id. Each costs a pass over the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// [`Sampled::logprob`].
    pub logprob: bool,
    /// [`Sampled::log_z`].
    pub log_z: bool,
}

/// How a token is drawn from the final law.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draw {
    /// Inverse cumulative distribution over tokens in id order: one number a position.
    #[default]
    Cumulative,
    /// Gumbel noise keyed by (position, token): couples draws from different laws, one number a candidate.
    Gumbel,
}

/// Settings, checked, shared by all forks of a chain.
#[derive(Debug)]
struct Plan {
    params: SamplingParams,
    /// Samplers that do something, in order.
    samplers: Vec<SamplerKind>,
    /// By token.
    bias: Vec<(TokenId, f32)>,
    breakers: DryBreakers,
    n_vocab: usize,
}

/// A sampler chain over one sequence.
#[derive(Debug)]
pub struct Chain {
    plan: Arc<Plan>,
    random: Random,
    extras: Extras,
    draw: Draw,
    n_accepted: usize,
    /// Accepted tokens; kept only for penalties and DRY.
    history: Vec<TokenId>,
    /// Of the penalty window.
    counts: Counts,
    /// Mirostat's `mu` after each accepted token, `mus[0]` before the first; empty without Mirostat.
    mus: Vec<f32>,
    /// `mu` if the sampled token is accepted.
    pending_mu: Option<(TokenId, f32)>,
    repeats: Repeats,
    /// Added to logits at the next steps, by token.
    step_bias: Vec<(TokenId, f32)>,
    ws: Workspace,
}

impl Chain {
    /// A chain for rows of `n_vocab` logits. DRY has no breakers until [`Chain::set_dry_breakers`].
    /// # Errors `InvalidArgument` naming the field.
    pub fn new(params: &SamplingParams, n_vocab: usize) -> Result<Self> {
        if n_vocab == 0 || n_vocab > TokenId::MAX as usize {
            return Err(bad("n_vocab", format!("1 to {}", TokenId::MAX), n_vocab));
        }
        params.validate(n_vocab)?;
        let mut plan = Plan {
            samplers: active(params),
            bias: merged(&params.logit_bias),
            params: params.clone(),
            breakers: DryBreakers::default(),
            n_vocab,
        };
        plan.params.logit_bias = Vec::new();
        Ok(Self::start(Arc::new(plan)))
    }

    fn start(plan: Arc<Plan>) -> Self {
        let mut ws = Workspace::new(plan.n_vocab);
        ws.reserve_edits(plan.bias.len());
        Self {
            random: Random::new(plan.params.seed),
            extras: Extras::default(),
            draw: Draw::default(),
            n_accepted: 0,
            history: Vec::new(),
            counts: Counts::default(),
            mus: plan.params.mirostat.iter().map(|m| m.start()).collect(),
            pending_mu: None,
            repeats: Repeats::default(),
            step_bias: Vec::new(),
            ws,
            plan,
        }
    }

    /// Breakers for DRY. Call before the first token.
    pub fn set_dry_breakers(&mut self, breakers: DryBreakers) {
        let old = &self.plan;
        self.plan = Arc::new(Plan {
            params: old.params.clone(),
            samplers: old.samplers.clone(),
            bias: old.bias.clone(),
            breakers,
            n_vocab: old.n_vocab,
        });
    }

    /// What [`Chain::sample`] reports beside the token.
    pub fn set_extras(&mut self, extras: Extras) {
        self.extras = extras;
    }

    /// How tokens are drawn.
    pub fn set_draw(&mut self, draw: Draw) {
        self.draw = draw;
    }

    /// The draw or attempt number, part of the key of every random number. Raise it after a backtrack:
    /// the same number at the same position gives the same token again.
    pub fn set_attempt(&mut self, attempt: u32) {
        self.random = self.random.with_draw(attempt);
    }

    /// What is added to the logits of some tokens from now on, beside the bias of the settings: natural log.
    /// Replaces what was set before.
    pub fn set_step_bias(&mut self, bias: impl IntoIterator<Item = (TokenId, f32)>) {
        self.step_bias.clear();
        self.step_bias.extend(bias.into_iter().filter(|b| (b.0 as usize) < self.plan.n_vocab));
        self.step_bias.sort_unstable_by_key(|b| b.0);
        self.ws.reserve_edits(self.step_bias.len());
    }

    /// Makes room for a sequence of `n_tokens`, so that no step allocates.
    pub fn reserve(&mut self, n_tokens: usize) {
        let p = &self.plan.params;
        let (seen, dry) = (self.penalises(), self.repeats_matter());
        let room = |have: usize| n_tokens.saturating_sub(have);
        if seen || dry {
            self.history.reserve(room(self.history.len()));
        }
        let n_seen = if seen { window_tokens(p.penalties.last_n).min(n_tokens) + 1 } else { 0 };
        let n_dry = if dry { window_tokens(p.dry.last_n).min(n_tokens) } else { 0 };
        self.counts.reserve(n_seen);
        self.repeats.reserve(n_dry);
        self.ws.reserve_edits(self.plan.bias.len() + n_seen + n_dry);
        if !self.mus.is_empty() {
            self.mus.reserve(room(self.mus.len()) + 1);
        }
    }

    /// Number of accepted tokens.
    pub fn n_accepted(&self) -> usize {
        self.n_accepted
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.plan.n_vocab
    }

    /// Chooses the token of position `pos` (the index it will have in its sequence). `logits`: natural
    /// log, unnormalised, `[n_vocab]`; NaN counts as minus infinity. State changes only by
    /// [`Chain::accept`], so asking again gives the same answer.
    /// # Errors `VocabMismatch`; `Unsatisfiable` if the mask is empty; `InvalidArgument` if a logit is
    /// plus infinity or no allowed one is above minus infinity.
    pub fn sample(&mut self, logits: &[f32], mask: Option<&TokenSet>, pos: u64) -> Result<Sampled> {
        let (token, prob) = self.choose(logits, mask, pos)?;
        let mut out = Sampled { token, prob, logprob: None, log_z: None };
        if self.extras.logprob || self.extras.log_z {
            let all = self.ws.log_sum_exp(logits);
            out.logprob = self.extras.logprob.then(|| f64::from(logits[token as usize]) - all);
            if self.extras.log_z {
                let mass = |m| (self.ws.masked_log_sum_exp(logits, m) - all).min(0.0);
                out.log_z = Some(mask.map_or(0.0, mass));
            }
        }
        Ok(out)
    }

    /// Log-probability (natural log) of `token` under the softmax of the row as the model wrote it.
    /// # Errors `VocabMismatch`, `InvalidArgument` if row or token are not of this vocabulary.
    pub fn logprob(&mut self, logits: &[f32], token: TokenId) -> Result<f64> {
        if logits.len() != self.plan.n_vocab || token as usize >= logits.len() {
            let found = format!("{} logits and token {token}", logits.len());
            return Err(bad(
                "logits",
                format!("{} logits and one of their tokens", self.plan.n_vocab),
                found,
            ));
        }
        Ok(f64::from(logits[token as usize]) - self.ws.log_sum_exp(logits))
    }

    fn choose(&mut self, logits: &[f32], mask: Option<&TokenSet>, pos: u64) -> Result<(TokenId, f64)> {
        self.pending_mu = None;
        let mut c = Candidates::new(logits, mask, &mut self.ws)?;
        let step = Step {
            plan: &self.plan,
            step_bias: &self.step_bias,
            random: &self.random,
            history: &self.history,
            pos,
        };
        step.narrow(&mut c, &self.counts, &mut self.repeats)?;
        let mirostat = self.plan.params.mirostat.as_ref().zip(self.mus.last().copied());
        if let Some((m, mu)) = mirostat {
            m.truncate(&mut c, mu);
        }
        let (token, prob) = match self.draw {
            Draw::Cumulative => c.draw(&self.random, pos)?,
            Draw::Gumbel => c.draw_gumbel(&self.random, pos)?,
        };
        self.pending_mu = mirostat.map(|(m, mu)| (token, m.next(mu, prob)));
        Ok((token, prob))
    }

    /// The law [`Chain::sample`] would draw from at `pos`: tokens in play and their probabilities, by id.
    /// Allocates; for reports, exact algorithms and tests.
    /// # Errors as [`Chain::sample`].
    pub fn law(&mut self, logits: &[f32], mask: Option<&TokenSet>, pos: u64) -> Result<Vec<(TokenId, f64)>> {
        let mut c = Candidates::new(logits, mask, &mut self.ws)?;
        let step = Step {
            plan: &self.plan,
            step_bias: &self.step_bias,
            random: &self.random,
            history: &self.history,
            pos,
        };
        step.narrow(&mut c, &self.counts, &mut self.repeats)?;
        if let Some((m, mu)) = self.plan.params.mirostat.as_ref().zip(self.mus.last()) {
            m.truncate(&mut c, *mu);
        }
        c.check()?;
        Ok(c.law())
    }

    /// Takes `token`, sampled, forced or of the prompt, into the state.
    /// # Errors `InvalidArgument` if it is not in the vocabulary; nothing has changed then.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if token as usize >= self.plan.n_vocab {
            return Err(bad("token", format!("a token below {}", self.plan.n_vocab), token));
        }
        if self.remembers() {
            self.history.push(token);
        }
        if self.penalises() {
            self.counts.add(token);
            if let Some(gone) = self.behind_window() {
                self.counts.remove(gone);
            }
        }
        if let Some(&mu) = self.mus.last() {
            let next = self.pending_mu.filter(|(t, _)| *t == token).map_or(mu, |(_, next)| next);
            self.mus.push(next);
        }
        self.pending_mu = None;
        self.n_accepted += 1;
        Ok(())
    }

    /// Takes back the last `n` accepted tokens.
    /// # Errors `InvalidArgument` if fewer were accepted; nothing has changed then.
    pub fn rollback(&mut self, n: usize) -> Result<()> {
        if n > self.n_accepted {
            return Err(bad("rollback", format!("at most {} accepted tokens", self.n_accepted), n));
        }
        for _ in 0..n {
            self.take_back_one();
        }
        self.pending_mu = None;
        Ok(())
    }

    fn take_back_one(&mut self) {
        self.n_accepted -= 1;
        if self.penalises() {
            if let Some(back) = self.behind_window() {
                self.counts.add(back);
            }
            if let Some(&token) = self.history.last() {
                self.counts.remove(token);
            }
        }
        self.history.pop();
        if self.mus.len() > 1 {
            self.mus.pop();
        }
    }

    /// The token just before the penalty window.
    fn behind_window(&self) -> Option<TokenId> {
        let window = window_tokens(self.plan.params.penalties.last_n);
        let end = self.history.len().checked_sub(window)?.checked_sub(1)?;
        self.history.get(end).copied()
    }

    /// A chain in the same state that goes its own way. Settings are shared; buffers are its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            random: self.random,
            extras: self.extras,
            draw: self.draw,
            n_accepted: self.n_accepted,
            history: self.history.clone(),
            counts: self.counts.clone(),
            mus: self.mus.clone(),
            pending_mu: self.pending_mu,
            step_bias: self.step_bias.clone(),
            ..Self::start(self.plan.clone())
        }
    }

    fn penalises(&self) -> bool {
        self.plan.samplers.contains(&SamplerKind::Penalties)
    }

    fn repeats_matter(&self) -> bool {
        self.plan.samplers.contains(&SamplerKind::Dry)
    }

    fn remembers(&self) -> bool {
        self.penalises() || self.repeats_matter()
    }
}

/// What the samplers of one step look at.
struct Step<'a> {
    plan: &'a Plan,
    step_bias: &'a [(TokenId, f32)],
    random: &'a Random,
    history: &'a [TokenId],
    pos: u64,
}

impl Step<'_> {
    /// Applies bias and samplers.
    fn narrow(&self, c: &mut Candidates<'_>, counts: &Counts, repeats: &mut Repeats) -> Result<()> {
        c.edit(&self.plan.bias, |logit, bias| logit + bias);
        c.edit(self.step_bias, |logit, bias| logit + bias);
        for kind in &self.plan.samplers {
            self.apply(*kind, c, counts, repeats);
            if c.n() <= 1 {
                break;
            }
        }
        c.check()
    }

    fn apply(&self, kind: SamplerKind, c: &mut Candidates<'_>, counts: &Counts, repeats: &mut Repeats) {
        let p = &self.plan.params;
        match kind {
            SamplerKind::Penalties => p.penalties.apply(c, counts),
            SamplerKind::Dry => {
                let n = window_tokens(p.dry.last_n).min(self.history.len());
                let window = &self.history[self.history.len() - n..];
                let found = repeats.find(&p.dry, &self.plan.breakers, window);
                c.edit(found, |logit, n| logit - p.dry.penalty(n));
            }
            SamplerKind::TopNSigma => truncate::top_n_sigma(c, p.top_n_sigma),
            SamplerKind::TopK => truncate::top_k(c, p.top_k),
            SamplerKind::TypicalP => truncate::typical(c, p.typical_p, p.min_keep),
            SamplerKind::TopP => truncate::top_p(c, p.top_p, p.min_keep),
            SamplerKind::MinP => truncate::min_p(c, p.min_p, p.min_keep),
            SamplerKind::Xtc => p.xtc.apply(c, self.random.uniform(self.pos, Purpose::Xtc), p.min_keep),
            SamplerKind::Temperature if p.dynatemp.range > 0.0 && p.mirostat.is_none() => {
                temperature::apply_dynamic(c, p.temperature, &p.dynatemp);
            }
            SamplerKind::Temperature => temperature::apply(c, p.temperature),
        }
    }
}

/// The samplers of `params` that do something, in order. Mirostat leaves temperature alone.
fn active(params: &SamplingParams) -> Vec<SamplerKind> {
    if params.mirostat.is_some() {
        return vec![SamplerKind::Temperature];
    }
    let on = |kind: &SamplerKind| match kind {
        SamplerKind::Penalties => params.penalties.is_on(),
        SamplerKind::Dry => params.dry.is_on(),
        SamplerKind::Xtc => params.xtc.is_on(),
        SamplerKind::Temperature => params.temperature != 1.0 || params.dynatemp.range > 0.0,
        SamplerKind::TypicalP => params.typical_p < 1.0,
        SamplerKind::TopNSigma => params.top_n_sigma > 0.0,
        SamplerKind::TopK => params.top_k > 0,
        SamplerKind::TopP => params.top_p < 1.0,
        SamplerKind::MinP => params.min_p > 0.0,
    };
    let mut samplers: Vec<_> = params.samplers.iter().copied().filter(on).collect();
    if params.temperature == 0.0 && params.dynatemp.range == 0.0 {
        drop_needless(&mut samplers);
    }
    samplers
}

/// Takes out what stands right before a greedy choice and cannot drop the best token.
fn drop_needless(samplers: &mut Vec<SamplerKind>) {
    use SamplerKind::{MinP, TopK, TopNSigma, TopP};
    let Some(greedy) = samplers.iter().position(|k| *k == SamplerKind::Temperature) else { return };
    let before = samplers.iter().take(greedy).rev();
    let needless = before.take_while(|k| matches!(k, TopK | TopP | MinP | TopNSigma)).count();
    samplers.drain(greedy - needless..greedy);
}

/// Biases by token; those of one token add up.
fn merged(bias: &[(TokenId, f32)]) -> Vec<(TokenId, f32)> {
    let mut out: Vec<(TokenId, f32)> = Vec::with_capacity(bias.len());
    let mut sorted = bias.to_vec();
    sorted.sort_by_key(|b| b.0);
    for (token, b) in sorted {
        match out.last_mut() {
            Some(last) if last.0 == token => last.1 += b,
            _ => out.push((token, b)),
        }
    }
    out
}
