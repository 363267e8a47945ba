//! Texts drawn from the model's own law conditioned on the constraints, and how far masking is from it.
//!
//! Nothing is streamed: a draw may be rejected at its last token. All draws from one prompt share the rows of the
//! prefixes they visit, so many samples cost little more than one; each sample depends on its seed alone.

use super::{AlignPlan, Event, Exactness, Finish, Outcome, Report, Setting, Timings};
use crate::align::ConstraintMasks;
use crate::config::{Mode, OnExhausted};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::exact::{Cars, CarsParams, Distortion, Smc, SmcParams, Start, masked_draws};
use crate::sampling::{BatchItem, Memo, MemoBranch, NextLogits, Want};
use crate::token::TokenId;
use crate::vocab::Utf8Stream;
use serde::Serialize;
use std::time::Instant;

/// Settings of exact sampling and its fallback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExactOptions {
    /// Masked draws made first.
    pub seed_draws: u32,
    /// Draws a text may take.
    pub max_draws: u32,
    /// Memory for visited prefixes.
    pub node_cache_bytes: usize,
    /// What to do when draws run out.
    pub on_exhausted: OnExhausted,
    /// `smc`: texts at once.
    pub particles: usize,
}

impl Default for ExactOptions {
    fn default() -> Self {
        let cars = CarsParams::default();
        Self {
            seed_draws: cars.seed_draws,
            max_draws: cars.max_draws,
            node_cache_bytes: cars.node_cache_bytes,
            on_exhausted: OnExhausted::default(),
            particles: SmcParams::default().particles,
        }
    }
}

/// What a conditioned draw took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExactReport {
    /// Draws it took, the accepted one counted; particles, for `smc`.
    pub draws: u32,
    /// Upper bound on the probability of a valid text, natural; 1 for `smc`.
    pub theta_root: f64,
    /// Estimate of `ln P(L)`, the log-probability that an unconstrained text is valid.
    pub log_p_language: f64,
    /// Effective number of particles at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ess: Option<f64>,
    /// Log-probability of the text at the temperature of the draw, natural.
    pub logprob_at_temperature: f64,
}

/// A prompt to draw from.
#[derive(Debug)]
pub struct Source<B> {
    /// A branch whose past is the start of the prompt (possibly empty).
    pub branch: B,
    /// The rest of the prompt, at least one token.
    pub tokens: Vec<TokenId>,
    /// Divides the logits; above 0. Truncation and penalties have no place in the law that is conditioned.
    pub temperature: f32,
    /// Most tokens of a text, its end counted.
    pub max_tokens: usize,
}

struct Drawing<'a, 'm, L: NextLogits> {
    memo: Memo<'m, L>,
    start: MemoBranch<L::Branch>,
    logits: Vec<f32>,
    masks: ConstraintMasks,
    plan: &'a AlignPlan,
    source: (f32, usize),
    n_prompt: usize,
}

/// One text for each seed. `sink` gets each text whole.
/// # Errors `Unsatisfiable` if no text within the limit is accepted; `TooComplex` if draws run out and nothing else is
/// to be tried; `InvalidArgument` for a temperature of 0; the executor's errors.
pub fn draw<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    plan: &AlignPlan,
    source: Source<L::Branch>,
    seeds: &[u64],
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    let started = Instant::now();
    let mut drawing = Drawing::new(lm, setting, plan, source)?;
    let prefill_s = started.elapsed().as_secs_f64();
    let mut outcomes = Vec::with_capacity(seeds.len());
    for (i, &seed) in seeds.iter().enumerate() {
        let mut outcome = drawing.sample(setting, seed)?;
        outcome.report.timings.prefill_s = if i == 0 { prefill_s } else { 0.0 };
        sink(i, Event::Text(&outcome.text));
        sink(i, Event::Done(&outcome));
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// How far masked sampling of this prompt is from the conditioned law, from `n` masked draws; `None` if all met
/// dead ends.
/// # Errors As [`draw`].
pub fn distortion<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    plan: &AlignPlan,
    source: Source<L::Branch>,
    n: usize,
    seed: u64,
) -> Result<Option<Distortion>> {
    let mut d = Drawing::new(lm, setting, plan, source)?;
    let params = SmcParams {
        seed,
        temperature: d.source.0,
        max_tokens: d.source.1,
        particles: n,
        ..SmcParams::default()
    };
    let start = Start { branch: &d.start, logits: &d.logits };
    let draws = masked_draws(&mut d.memo, start, &mut d.masks, &params, 0)?;
    let weights: Vec<f64> = draws.iter().map(|d| d.log_weight).collect();
    Ok(Distortion::new(&weights, seed))
}

impl<'a, 'm, L: NextLogits> Drawing<'a, 'm, L> {
    fn new(
        lm: &'m mut L,
        setting: &Setting<'_>,
        plan: &'a AlignPlan,
        source: Source<L::Branch>,
    ) -> Result<Self> {
        if source.temperature <= 0.0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "exact sampling draws: expected a temperature above 0, found 0",
            ));
        }
        let n_prompt = lm.len(&source.branch) + source.tokens.len();
        if n_prompt >= setting.n_ctx || source.tokens.is_empty() {
            let message = format!("expected a prompt of 1 to {} tokens, found {n_prompt}", setting.n_ctx - 1);
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        let max_tokens = source.max_tokens.min(setting.n_ctx - n_prompt);
        let aligned = plan.aligned(max_tokens)?;
        let Some(constraint) = aligned.constraint.filter(|_| aligned.bans.is_none()) else {
            return Err(Error::new(
                ErrorKind::BadProfile,
                "exact sampling needs a constraint to condition on, and on_exclude = \"mask\"",
            ));
        };
        let masks = ConstraintMasks::new(constraint, setting.vocab.eog_ids())?;
        lm.eval(&[BatchItem { branch: &source.branch, tokens: &source.tokens, want: Want::Last }])?;
        let logits = lm.row(0).to_vec();
        let memo = Memo::new(lm, n_prompt, plan.exact().node_cache_bytes);
        let start = memo.adopt(source.branch);
        Ok(Self { memo, start, logits, masks, plan, source: (source.temperature, max_tokens), n_prompt })
    }

    fn sample(&mut self, setting: &Setting<'_>, seed: u64) -> Result<Outcome> {
        let started = Instant::now();
        let before = self.memo.n_evals();
        let (tokens, exact, exactness) = match self.plan.mode() {
            Mode::Smc => self.smc(seed)?,
            _ => match self.cars(seed) {
                Err(e)
                    if e.kind() == ErrorKind::TooComplex
                        && self.plan.exact().on_exhausted == OnExhausted::Smc =>
                {
                    self.smc(seed)?
                }
                done => done?,
            },
        };
        let ids: Vec<TokenId> = tokens.iter().copied().filter(|&t| !setting.vocab.is_eog(t)).collect();
        let logprob = self.logprob(&tokens)?;
        let decode_s = started.elapsed().as_secs_f64();
        let text = text_of(setting, &ids);
        let report = Report {
            guard: None,
            finish: Finish::Eos,
            stop: None,
            n_prompt: self.n_prompt,
            n_cached: 0,
            n_generated: ids.len(),
            n_forced: 0,
            n_backtracks: 0,
            n_evals: self.memo.n_evals() - before,
            logprob,
            removed_nats: None,
            exactness,
            exact: Some(exact),
            constraints: self.plan.judge().verdict(&text).ok(),
            search: None,
            nudge: None,
            seed,
            model: setting.model_id.clone(),
            timings: Timings { decode_s, ..Timings::default() },
        };
        Ok(Outcome { text, ids, report })
    }

    fn cars(&mut self, seed: u64) -> Result<(Vec<TokenId>, ExactReport, Exactness)> {
        let options = self.plan.exact();
        let params = CarsParams {
            seed,
            temperature: self.source.0,
            max_tokens: self.source.1,
            seed_draws: options.seed_draws,
            max_draws: options.max_draws,
            node_cache_bytes: options.node_cache_bytes,
        };
        let mut cars = Cars::new(params, self.memo.n_vocab())?;
        let start = Start { branch: &self.start, logits: &self.logits };
        let sample = cars.sample(&mut self.memo, &start, &mut self.masks)?;
        let weights = cars.seed_weights();
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let report = ExactReport {
            draws: sample.draws,
            theta_root: cars.theta_root(),
            log_p_language: mean.ln(),
            ess: None,
            logprob_at_temperature: sample.logprob,
        };
        Ok((sample.tokens, report, Exactness::Exact))
    }

    fn smc(&mut self, seed: u64) -> Result<(Vec<TokenId>, ExactReport, Exactness)> {
        let particles = self.plan.exact().particles;
        let params = SmcParams {
            seed,
            temperature: self.source.0,
            max_tokens: self.source.1,
            particles,
            ..SmcParams::default()
        };
        let start = Start { branch: &self.start, logits: &self.logits };
        let sample = Smc::new(params)?.sample(&mut self.memo, start, &mut self.masks, 0)?;
        let report = ExactReport {
            draws: particles as u32,
            theta_root: 1.0,
            log_p_language: sample.log_z,
            ess: Some(sample.ess),
            logprob_at_temperature: sample.logprob,
        };
        Ok((sample.tokens, report, Exactness::Asymptotic))
    }

    /// Log-probability of `tokens` at temperature 1.
    fn logprob(&mut self, tokens: &[TokenId]) -> Result<f64> {
        let branch = self.memo.fork(&self.start)?;
        let mut sum = logprob(&self.logits, tokens.first().copied());
        for pair in tokens.windows(2) {
            self.memo.eval(&[BatchItem { branch: &branch, tokens: &pair[..1], want: Want::Last }])?;
            sum += logprob(self.memo.row(0), Some(pair[1]));
        }
        Ok(sum)
    }
}

fn logprob(row: &[f32], token: Option<TokenId>) -> f64 {
    let Some(&logit) = token.and_then(|t| row.get(t as usize)) else { return 0.0 };
    let mut scratch = vec![0.0; row.len().div_ceil(crate::kernels::BLOCK)];
    f64::from(logit) - crate::kernels::log_sum_exp(row, None, &mut scratch)
}

pub(super) fn text_of(setting: &Setting<'_>, ids: &[TokenId]) -> String {
    let (mut text, mut utf8) = (String::new(), Utf8Stream::default());
    ids.iter().for_each(|&t| utf8.push_to(setting.vocab.token_bytes(t), &mut text));
    utf8.flush(|rest| text.push_str(rest));
    text
}
