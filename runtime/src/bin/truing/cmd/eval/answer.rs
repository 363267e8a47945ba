//! Answers to all rows of a suite, many at once, in one way of generating: an arm of the comparison.

use super::asked::Planner;
use super::suite::Task;
use crate::exit::Interrupted;
use crate::interrupt;
use anyhow::Result;
use indicatif::ProgressBar;
use std::sync::Arc;
use truing::config::NudgeSection;
use truing::engine::{self, Helper, Nudging, Search};
use truing::model::{Context, Model};
use truing::sampling::{NextLogits, SamplingParams};
use truing::session::{
    self, Aligned, BeamParams, Event, Finish, Limits, Outcome, Request, SearchPlan, Setting, Source,
};
use truing::{ErrorKind, TokenId};

/// Rows handed to the loop at once: their constraints are in memory together.
const ROWS_AT_ONCE: usize = 64;

type ContextRequest = Request<<Context as NextLogits>::Branch>;

/// What became of a row.
pub enum Answered {
    /// It was answered.
    Done(Box<Outcome>),
    /// What it asks is unsupported or cannot be satisfied.
    Refused(String),
    /// It could not be run.
    Failed(String),
}

/// A prompt with the settings of its answer.
pub struct Job {
    pub tokens: Vec<TokenId>,
    pub sampling: SamplingParams,
    pub limits: Limits,
}

/// How to run jobs.
pub struct Runner<'a> {
    pub model: &'a Arc<Model>,
    pub context: &'a mut Context,
    pub n_parallel: usize,
    pub bar: ProgressBar,
    /// Makes the constraints of rows; none: plain prompting.
    pub planner: Option<&'a Planner<'a>>,
    /// Texts are searched for by rewards.
    pub search: Option<&'a Search>,
    /// Texts come whole: from beams, or without them drawn from the conditioned law.
    pub whole: Option<Option<BeamParams>>,
    pub system: Option<&'a str>,
}

impl Runner<'_> {
    /// Answers every job whose constraint could be had.
    pub fn run(&mut self, tasks: &[Task], jobs: &[Job]) -> Result<Vec<Answered>> {
        let mut answered = Vec::with_capacity(jobs.len());
        let rows: Vec<(&Task, &Job)> = tasks.iter().zip(jobs).collect();
        for chunk in rows.chunks(ROWS_AT_ONCE) {
            answered.extend(self.run_chunk(chunk)?);
        }
        Ok(answered)
    }

    /// Answers every job by the base model, nudged.
    pub fn nudged(
        &mut self,
        tasks: &[Task],
        jobs: &[Job],
        section: &NudgeSection,
        nudger: (&Model, &mut Context),
    ) -> Result<Vec<Answered>> {
        interrupt::on_ctrl_c(self.context.cancel_flag())?;
        let mut pair = Nudging { base: (self.model, &mut *self.context), nudger, plans: None };
        let mut answered = Vec::with_capacity(jobs.len());
        for (task, job) in tasks.iter().zip(jobs) {
            let done = pair.answer(section, (self.system, &task.prompt), &job.limits, &mut |_| {});
            self.bar.inc(1);
            answered.push(match done {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(Interrupted.into()),
                Err(e) => Answered::Failed(e.to_string()),
                Ok(outcome) => Answered::Done(Box::new(outcome)),
            });
        }
        Ok(answered)
    }

    /// Searches for an answer to one job.
    fn searched(
        &mut self,
        (search, helper): (&Search, &mut Helper),
        task: &Task,
        job: &Job,
    ) -> truing::Result<Answered> {
        let request = match self.request(task, job) {
            Ok(request) => request,
            Err(why) => return Ok(why),
        };
        let mut reward = search.reward(&task.asked.wording.include)?;
        let params = search.params_with(&job.sampling, &job.limits);
        let Aligned { constraint, judge, .. } = request.aligned;
        let source = Source {
            branch: request.branch,
            tokens: request.tokens,
            temperature: job.sampling.temperature,
            max_tokens: job.limits.max_tokens.unwrap_or(usize::MAX),
        };
        let setting = engine::setting(self.model, self.context, 1);
        let outcome = helper.with(&task.prompt, &params.stop, |help| {
            let (reward, params, prompt) = (&mut reward, &params, &*task.prompt);
            let plan = SearchPlan { reward, params, prompt, constraint, judge, help };
            session::searched(self.context, &setting, source, plan, &mut |_| {})
        })?;
        Ok(Answered::Done(Box::new(outcome)))
    }

    /// Answers one job by a text that comes whole: searched with beams, or drawn from the conditioned law.
    fn whole(&mut self, beams: Option<BeamParams>, task: &Task, job: &Job) -> truing::Result<Answered> {
        let room = self.context.n_ctx().saturating_sub(job.tokens.len());
        let max_tokens = job.limits.max_tokens.unwrap_or(usize::MAX).min(room);
        let plan = match self.planner.map(|p| p.plan(&task.asked, max_tokens)).transpose() {
            Ok(plan) => plan.flatten(),
            Err(e) => return Ok(Answered::Refused(e.to_string())),
        };
        let Some(plan) = plan else {
            return Ok(Answered::Refused("nothing is asked that a text could be drawn under".to_owned()));
        };
        let source = Source {
            branch: self.context.root()?,
            tokens: job.tokens.clone(),
            temperature: job.sampling.temperature,
            max_tokens,
        };
        let setting = engine::setting(self.model, self.context, 1);
        let sink = &mut |_: Event<'_>| {};
        let outcome = match beams {
            Some(params) => session::beam(self.context, &setting, &plan, source, params, sink)?,
            None => {
                let seeds = [job.sampling.seed];
                let drawn =
                    session::draw(self.context, &setting, &plan, source, &seeds, &mut |_, e| sink(e))?;
                let Some(outcome) = drawn.into_iter().next() else {
                    return Ok(Answered::Failed("no text was drawn".to_owned()));
                };
                outcome
            }
        };
        Ok(Answered::Done(Box::new(outcome)))
    }

    fn run_one_by_one(&mut self, rows: &[(&Task, &Job)]) -> Result<Vec<Answered>> {
        interrupt::on_ctrl_c(self.context.cancel_flag())?;
        let search = self.search;
        let (vocab, n_ctx) = (self.model.vocab(), self.context.n_ctx());
        let mut helper = search.map(|s| s.helper(vocab, n_ctx)).transpose()?;
        let mut answered = Vec::with_capacity(rows.len());
        for (task, job) in rows {
            let done = match (search, &mut helper) {
                (Some(search), Some(helper)) => self.searched((search, helper), task, job),
                _ => self.whole(self.whole.flatten(), task, job),
            };
            self.bar.inc(1);
            answered.push(match done {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(Interrupted.into()),
                Err(e) => Answered::Failed(e.to_string()),
                Ok(done) => done,
            });
        }
        Ok(answered)
    }

    fn run_chunk(&mut self, rows: &[(&Task, &Job)]) -> Result<Vec<Answered>> {
        if self.search.is_some() || self.whole.is_some() {
            return self.run_one_by_one(rows);
        }
        let mut places = Vec::new();
        let mut requests = Vec::new();
        let mut answered = Vec::new();
        for (i, (task, job)) in rows.iter().enumerate() {
            let request = match self.request(task, job) {
                Ok(request) => request,
                Err(why) => {
                    self.bar.inc(1);
                    answered.push(why);
                    continue;
                }
            };
            places.push(i);
            requests.push(request);
            answered.push(Answered::Failed("not run".to_owned()));
        }
        for (place, outcome) in places.into_iter().zip(self.run_requests(requests)?) {
            answered[place] = Answered::Done(Box::new(outcome));
        }
        Ok(answered)
    }

    fn request(&mut self, task: &Task, job: &Job) -> std::result::Result<ContextRequest, Answered> {
        let (n, n_ctx) = (job.tokens.len(), self.context.n_ctx());
        if n == 0 || n >= n_ctx {
            let message = format!("the prompt has {n} tokens, expected 1 to {}; see --ctx-size", n_ctx - 1);
            return Err(Answered::Failed(message));
        }
        let room = job.limits.max_tokens.unwrap_or(usize::MAX).min(n_ctx - n);
        let refused = |e: truing::Error| Answered::Refused(e.to_string());
        let plan = self.planner.map(|p| p.plan(&task.asked, room)).transpose().map_err(refused)?.flatten();
        let aligned = match plan {
            Some(plan) => plan.aligned(room).map_err(refused)?,
            None => Aligned::default(),
        };
        Ok(Request {
            branch: self.context.root().map_err(|e| Answered::Failed(e.to_string()))?,
            tokens: job.tokens.clone(),
            sampling: job.sampling.clone(),
            limits: job.limits.clone(),
            keep_branch: false,
            aligned,
        })
    }

    fn run_requests(&mut self, requests: Vec<ContextRequest>) -> Result<Vec<Outcome>> {
        let cancel = self.context.cancel_flag();
        interrupt::on_ctrl_c(cancel.clone())?;
        let setting = Setting {
            vocab: self.model.vocab(),
            n_ctx: self.context.n_ctx(),
            n_parallel: self.n_parallel,
            cancel,
            model_id: self.model.id().to_owned(),
        };
        let bar = &self.bar;
        let mut sink = |_: usize, event: Event<'_>| {
            if matches!(event, Event::Done(_)) {
                bar.inc(1);
            }
        };
        let done = session::run(self.context, &setting, requests, &mut sink)?;
        let outcomes: Vec<Outcome> = done.into_iter().map(|(_, outcome)| outcome).collect();
        match outcomes.iter().any(|o| o.report.finish == Finish::Cancelled) {
            true => Err(Interrupted.into()),
            false => Ok(outcomes),
        }
    }
}
