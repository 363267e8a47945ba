//! Answering prompts under settings, many in one context.

use super::{Search, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Advised, ExpertMix, ExpertRule};
use crate::model::{Branch, Context, Model};
use crate::reward::Part;
use crate::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use crate::session::{
    self, AlignPlan, Aligned, BeamParams, Event, Limits, Outcome, Request, SearchPlan, Setting, Source,
};
use crate::token::TokenId;

/// A prompt's tokens with the settings of its answer.
#[derive(Debug)]
pub struct Job {
    /// What the user wrote, for rewards that read it.
    pub prompt: String,
    /// The prompt.
    pub tokens: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// When to end.
    pub limits: Limits,
    /// What the text must satisfy.
    pub aligned: Aligned,
    /// Its weights of the context's adapters, if not those of the others.
    pub mix: Option<Vec<f32>>,
    /// Rewards of the caller's own, beside those of a search.
    pub rewards: Vec<Part>,
    /// The safer expert that its first tokens are mixed with.
    pub expert: Option<JobExpert>,
}

/// A safer expert: the same weights under another prompt, or under other adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct JobExpert {
    /// Its prompt, up to where the answer begins.
    pub tokens: Vec<TokenId>,
    /// Its weights of the context's adapters, if not those of the others.
    pub mix: Option<Vec<f32>>,
}

impl Job {
    /// Whether another job differs in its seed only.
    fn is_like(&self, other: &Self) -> bool {
        self.tokens == other.tokens
            && self.mix == other.mix
            && self.sampling.temperature == other.sampling.temperature
            && self.limits.max_tokens == other.limits.max_tokens
    }

    /// The job as exact sampling and search take it, on a branch that holds the start of the prompt.
    pub fn into_source<B>(self, branch: B) -> Source<B> {
        Source {
            branch,
            tokens: self.tokens,
            temperature: self.sampling.temperature,
            max_tokens: self.limits.max_tokens.unwrap_or(usize::MAX),
        }
    }
}

/// What a run needs to know about its surroundings, at most `n_parallel` texts in a batch.
pub fn setting<'a>(model: &'a Model, context: &Context, n_parallel: usize) -> Setting<'a> {
    Setting {
        vocab: model.vocab(),
        n_ctx: context.n_ctx(),
        n_parallel,
        cancel: context.cancel_flag(),
        model_id: model.id().to_owned(),
    }
}

/// Answers every job, in order; at most `n_parallel` run together. A prompt that all share is evaluated once.
/// `sink` gets the job's index and its events.
/// # Errors  Those of [`session::run`], [`session::draw`] and [`session::beam`].
pub fn run(
    model: &Model,
    context: &mut Context,
    settings: &Settings,
    jobs: Vec<Job>,
    n_parallel: usize,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    check_mixes(&jobs)?;
    if settings.expert.is_some() && (settings.search.is_some() || settings.whole().is_some()) {
        let message = "an expert is mixed in token by token: it does not go with texts that are searched or drawn whole";
        return Err(Error::new(ErrorKind::BadProfile, message));
    }
    run_with(model, context, settings, jobs, n_parallel, sink)
}

/// A probe's scores mean nothing under other adapters than those it was made for.
fn check_mixes(jobs: &[Job]) -> Result<()> {
    let reads_states = |job: &Job| job.aligned.watch.as_ref().is_some_and(|w| w.layers().next().is_some());
    match jobs.iter().any(|job| job.mix.is_some() && reads_states(job)) {
        true => Err(Error::new(
            ErrorKind::ProbeMismatch,
            "a request with its own weights of adapters is watched by a probe, which was made for others",
        )),
        false => Ok(()),
    }
}

/// An empty branch under these weights of adapters; none: the context's.
fn root(context: &mut Context, mix: Option<&[f32]>) -> Result<Branch> {
    let Some(mix) = mix else { return context.root() };
    let usual: Vec<f32> = context.adapters().map(|(_, weight)| weight).collect();
    context.set_adapter_weights(mix)?;
    let branch = context.root();
    context.set_adapter_weights(&usual)?;
    branch
}

fn run_with(
    model: &Model,
    context: &mut Context,
    settings: &Settings,
    jobs: Vec<Job>,
    n_parallel: usize,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    if let Some(search) = &settings.search {
        return searched(model, context, search, jobs, sink);
    }
    match settings.whole() {
        Some(plan) => whole(model, context, plan, jobs, sink),
        None => streamed(model, context, settings, jobs, n_parallel, sink),
    }
}

/// A text for each job, searched for by rewards.
fn searched(
    model: &Model,
    context: &mut Context,
    search: &Search,
    jobs: Vec<Job>,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    let setting = setting(model, context, 1);
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut helper = search.helper(model.vocab(), context.n_ctx())?;
    for (i, mut job) in jobs.into_iter().enumerate() {
        let mut reward = search.reward_with(&[], std::mem::take(&mut job.rewards))?;
        let params = search.params_with(&job.sampling, &job.limits);
        let prompt = std::mem::take(&mut job.prompt);
        let Aligned { constraint, judge, .. } = std::mem::take(&mut job.aligned);
        let branch = root(context, job.mix.as_deref())?;
        let source = job.into_source(branch);
        let found = helper.with(&prompt, &params.stop, |help| {
            let (reward, params, prompt) = (&mut reward, &params, &*prompt);
            let plan = SearchPlan { reward, params, prompt, constraint, judge, help };
            session::searched(context, &setting, source, plan, &mut |e| sink(i, e))
        });
        outcomes.push(found?);
    }
    Ok(outcomes)
}

/// A text for each job, searched or drawn from the conditioned law; jobs in a row with the same prompt share
/// their draws' work.
fn whole(
    model: &Model,
    context: &mut Context,
    (plan, beams): (&AlignPlan, Option<BeamParams>),
    jobs: Vec<Job>,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    let setting = setting(model, context, 1);
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut jobs = jobs.into_iter().peekable();
    while let Some(job) = jobs.next() {
        let from = outcomes.len();
        let mut numbered = |i: usize, event: Event<'_>| sink(from + i, event);
        if let Some(n) = beams {
            let branch = root(context, job.mix.as_deref())?;
            let source = job.into_source(branch);
            outcomes.push(session::beam(context, &setting, plan, source, n, &mut |e| numbered(0, e))?);
            continue;
        }
        let mut seeds = vec![job.sampling.seed];
        while let Some(next) = jobs.next_if(|next| next.is_like(&job)) {
            seeds.push(next.sampling.seed);
        }
        let branch = root(context, job.mix.as_deref())?;
        let source = job.into_source(branch);
        outcomes.extend(session::draw(context, &setting, plan, source, &seeds, &mut numbered)?);
    }
    Ok(outcomes)
}

/// Draws the jobs' texts token by token, together.
fn streamed(
    model: &Model,
    context: &mut Context,
    settings: &Settings,
    jobs: Vec<Job>,
    n_parallel: usize,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    let mix = jobs.first().and_then(|job| job.mix.clone());
    let shared = if jobs.iter().all(|job| job.mix == mix) { shared_prefix(&jobs) } else { 0 };
    let (trunk, shared) = match kept(model, context, settings, &jobs, mix.as_deref())? {
        Some(kept) => kept,
        None => (root(context, mix.as_deref())?, shared),
    };
    let held = context.len(&trunk);
    if shared > held && shared < context.n_ctx() {
        let tokens = &jobs[0].tokens[held..shared];
        context.eval(&[BatchItem { branch: &trunk, tokens, want: Want::Nothing }])?;
    }
    let rule = settings.expert.filter(ExpertRule::is_on);
    let experts: Vec<Option<JobExpert>> =
        jobs.iter().map(|job| job.expert.clone().filter(|_| rule.is_some())).collect();
    let requests =
        jobs.into_iter().map(|job| request(context, &trunk, job, shared)).collect::<Result<Vec<_>>>()?;
    let setting = setting(model, context, n_parallel);
    if let Some(rule) = rule.filter(|_| experts.iter().any(Option::is_some)) {
        let advised = requests
            .into_iter()
            .zip(experts)
            .map(|(request, expert)| advised(context, request, expert))
            .collect::<Result<_>>()?;
        let done = session::run(&mut ExpertMix::new(context, rule)?, &setting, advised, sink)?;
        return Ok(done.into_iter().map(|(_, outcome)| outcome).collect());
    }
    let done = session::run(context, &setting, requests, sink)?;
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

/// A branch with the beginning that all jobs share and that is kept on disk, and its length; `None` if there is none.
fn kept(
    model: &Model,
    context: &mut Context,
    settings: &Settings,
    jobs: &[Job],
    mix: Option<&[f32]>,
) -> Result<Option<(Branch, usize)>> {
    let Some((store, prefix)) = settings.kept.as_ref().filter(|_| mix.is_none_or(<[f32]>::is_empty)) else {
        return Ok(None);
    };
    let begins = |job: &Job| job.tokens.len() > prefix.len() && job.tokens.starts_with(prefix);
    if jobs.is_empty() || !jobs.iter().all(begins) || prefix.len() >= context.n_ctx() {
        return Ok(None);
    }
    let (branch, n) = store.begin(model, context, prefix)?;
    Ok((n > 0).then_some((branch, n)))
}

/// The request with an expert beside its branch.
fn advised(
    context: &mut Context,
    request: Request<Branch>,
    expert: Option<JobExpert>,
) -> Result<Request<Advised<Branch>>> {
    let Request { branch, tokens, sampling, limits, keep_branch, aligned } = request;
    let n_prompt = context.len(&branch) + tokens.len();
    let beside = match expert {
        Some(expert) => Some((root(context, expert.mix.as_deref())?, expert.tokens)),
        None => None,
    };
    let branch = Advised::new(branch, n_prompt, beside);
    Ok(Request { branch, tokens, sampling, limits, keep_branch, aligned })
}

/// The request for a job whose first `shared` tokens `trunk` holds.
fn request(context: &mut Context, trunk: &Branch, job: Job, shared: usize) -> Result<Request<Branch>> {
    Ok(Request {
        branch: if shared > 0 { context.fork(trunk)? } else { root(context, job.mix.as_deref())? },
        tokens: job.tokens[shared.min(job.tokens.len())..].to_vec(),
        sampling: job.sampling,
        limits: job.limits,
        keep_branch: false,
        aligned: job.aligned,
    })
}

/// Length of the prefix that all of several prompts share, leaving each at least its last token.
fn shared_prefix(jobs: &[Job]) -> usize {
    let [first, rest @ ..] = jobs else { return 0 };
    if rest.is_empty() {
        return 0;
    }
    let common = |other: &Job| first.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
    let shortest = jobs.iter().map(|job| job.tokens.len().saturating_sub(1)).min().unwrap_or(0);
    rest.iter().map(common).min().unwrap_or(0).min(shortest)
}
