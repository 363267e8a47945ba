//! `truing generate`: one completion, several draws, or a batch.

use crate::args::{self, ConstraintArgs, LimitArgs, ModelArgs, PromptArgs, SamplingArgs};
use crate::exit::{BadInput, BadUsage, Interrupted};
use crate::output::{self, Printing};
use crate::{interrupt, prompt};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use truing::TokenId;
use truing::config::{Method, Mode, Profile};
use truing::model::{Branch, Context, Model};
use truing::sampling::{BatchItem, NextLogits, SamplingParams, Want};
use truing::session::{
    self, AlignPlan, Aligned, Event, Finish, MAX_PARALLEL, Outcome, Request, Setting, Source,
};

/// Complete a prompt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  truing generate -p \"Name three rivers.\" --temp 0 --max-tokens 40
  truing generate -p \"Name a river.\" --samples 4 --seed 1        four draws, one JSON object a line
  truing generate --batch prompts.jsonl --max-tokens 64           rows {\"id\", \"prompt\", ...}
  truing generate --raw -p \"Once upon a time\" --events            what a caller sees, as it is released")]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    constraints: ConstraintArgs,
    /// Draw N independent answers (seed, seed+1, ...) and print one JSON object a line
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "batch")]
    samples: Option<u32>,
    /// Answer every row {"id", "prompt", ...} of a JSONL file; rows may set system, max_tokens, temperature, seed, stop
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file"])]
    batch: Option<PathBuf>,
    /// Most answers computed together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=MAX_PARALLEL as i64))]
    parallel: u16,
    /// Search with N texts side by side instead of drawing one: fluent texts that say what they must
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=session::MAX_BEAMS as i64), conflicts_with_all = ["samples", "distortion"], help_heading = "Constraints")]
    beams: Option<u16>,
    /// Measure with K masked draws how far masking is from the exact law, instead of answering
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=10_000), conflicts_with_all = ["samples", "batch", "events"], help_heading = "Constraints")]
    distortion: Option<u32>,
    /// Print every event as a JSON object a line, as it is released
    #[arg(long, conflicts_with_all = ["samples", "batch"])]
    events: bool,
    /// Print one JSON object: text, ids, finish, report
    #[arg(long)]
    json: bool,
}

/// A row of `--batch`. Columns it does not know are left alone: data files carry more.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(default)]
    id: Value,
    prompt: String,
    system: Option<String>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    seed: Option<u64>,
    stop: Option<Vec<String>>,
}

/// A prompt's tokens with the settings of its answer.
struct Job {
    id: Value,
    tokens: Vec<TokenId>,
    sampling: SamplingParams,
    limits: session::Limits,
    aligned: Aligned,
}

/// What all answers share: the settings of profile and flags.
struct Settings {
    sampling: SamplingParams,
    limits: session::Limits,
    prompt: PromptArgs,
    plan: Option<AlignPlan>,
    /// Texts side by side, for a search.
    beams: Option<usize>,
    n_ctx: usize,
}

impl Settings {
    fn new(args: &Generate, model: &Arc<Model>) -> Result<Self> {
        let (profile, asked) = args.constraints.resolve()?;
        let mut prompt = args.prompt.clone();
        prompt.system = prompt.system.or_else(|| profile.prompt.system.clone().filter(|_| !args.prompt.raw));
        if profile.constraints.mode() != Mode::Mask {
            args.refuse_truncation()?;
        }
        let plan = match asked.is_empty() {
            true => None,
            false => AlignPlan::new(&profile.constraints, asked, &session::lexicon(model))?,
        };
        Ok(Self {
            sampling: args.sampling.params(&profile)?,
            limits: args.limits.limits(&profile),
            prompt,
            beams: args.beams(&profile, plan.is_some())?,
            plan,
            n_ctx: args.model.run.n_ctx(model),
        })
    }

    /// The plan, if texts come whole: drawn from the conditioned law, or searched.
    fn whole(&self) -> Option<(&AlignPlan, Option<usize>)> {
        let plan = self.plan.as_ref().filter(|plan| self.beams.is_some() || plan.mode() != Mode::Mask)?;
        Some((plan, self.beams))
    }

    /// Branches a context needs room for.
    fn n_branches(&self, n: usize) -> usize {
        match self.whole() {
            Some((_, Some(beams))) => 2 * beams + 1,
            Some((plan, None)) => EXACT_BRANCHES + plan.exact().particles,
            None => n,
        }
    }

    fn aligned(&self, n_prompt: usize, limits: &session::Limits) -> Result<Aligned> {
        let room = self.n_ctx.saturating_sub(n_prompt);
        match &self.plan {
            Some(plan) => Ok(plan.aligned(limits.max_tokens.unwrap_or(usize::MAX).min(room))?),
            None => Ok(Aligned::default()),
        }
    }

    fn job(
        &self,
        id: Value,
        tokens: Vec<TokenId>,
        sampling: SamplingParams,
        limits: session::Limits,
    ) -> Result<Job> {
        let aligned = self.aligned(tokens.len(), &limits)?;
        Ok(Job { id, tokens, sampling, limits, aligned })
    }
}

/// Branches that exact sampling keeps, and the prompt's.
const EXACT_BRANCHES: usize = 10;

fn setting<'a>(model: &'a Arc<Model>, context: &Context, n_parallel: usize) -> Setting<'a> {
    Setting {
        vocab: model.vocab(),
        n_ctx: context.n_ctx(),
        n_parallel,
        cancel: context.cancel_flag(),
        model_id: model.id().to_owned(),
    }
}

fn source(context: &mut Context, job: Job) -> Result<Source<Branch>> {
    Ok(Source {
        branch: context.root()?,
        tokens: job.tokens,
        temperature: job.sampling.temperature,
        max_tokens: job.limits.max_tokens.unwrap_or(usize::MAX),
    })
}

/// A text for each job, searched or drawn from the conditioned law; jobs in a row with the same prompt share
/// their draws' work.
fn all_whole(
    model: &Arc<Model>,
    context: &mut Context,
    (plan, beams): (&AlignPlan, Option<usize>),
    jobs: Vec<Job>,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    interrupt::on_ctrl_c(context.cancel_flag())?;
    let setting = setting(model, context, 1);
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut jobs = jobs.into_iter().peekable();
    while let Some(job) = jobs.next() {
        let from = outcomes.len();
        let mut numbered = |i: usize, event: Event<'_>| sink(from + i, event);
        if let Some(n) = beams {
            let source = source(context, job)?;
            outcomes.push(session::beam(context, &setting, plan, source, n, &mut |e| numbered(0, e))?);
            continue;
        }
        let mut seeds = vec![job.sampling.seed];
        while let Some(next) = jobs.next_if(|next| next.is_like(&job)) {
            seeds.push(next.sampling.seed);
        }
        let source = source(context, job)?;
        outcomes.extend(session::draw(context, &setting, plan, source, &seeds, &mut numbered)?);
    }
    Ok(outcomes)
}

impl Job {
    /// Whether another job differs in its seed only.
    fn is_like(&self, other: &Self) -> bool {
        self.tokens == other.tokens
            && self.sampling.temperature == other.sampling.temperature
            && self.limits.max_tokens == other.limits.max_tokens
    }
}

impl Generate {
    /// Texts side by side, if flags or profile ask for a search.
    fn beams(&self, profile: &Profile, is_constrained: bool) -> Result<Option<usize>> {
        let asked = profile.search.method == Method::Beam;
        let beams = self.beams.map(usize::from).or(asked.then_some(profile.search.beams));
        match beams {
            Some(_) if !is_constrained => {
                Err(BadUsage("--beams: expected a constraint to search under, found none".into()).into())
            }
            Some(_) if profile.constraints.mode() != Mode::Mask => {
                Err(BadUsage("--beams and --grammar-mode exact or smc exclude each other".into()).into())
            }
            beams => Ok(beams),
        }
    }

    /// Truncation and penalties have no place in the law that exact sampling conditions.
    fn refuse_truncation(&self) -> Result<()> {
        let s = &self.sampling;
        let given = [
            ("--top-k", s.top_k.is_some()),
            ("--top-p", s.top_p.is_some()),
            ("--min-p", s.min_p.is_some()),
            ("--typical", s.typical.is_some()),
            ("--mirostat", s.mirostat.is_some()),
            ("--stop", !self.limits.stop.is_empty()),
            ("--ignore-eos", self.limits.ignore_eos),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(BadUsage(format!(
                "{flag} does not go with --grammar-mode exact or smc: they draw from the model's whole law at --temp"
            ))
            .into()),
            None => Ok(()),
        }
    }

    pub fn run(self) -> Result<()> {
        match (&self.batch, self.samples, self.distortion) {
            (Some(path), ..) => self.run_batch(path),
            (None, Some(n), _) => self.run_samples(n),
            (None, None, Some(k)) => self.run_distortion(k),
            (None, None, None) => self.run_one(),
        }
    }

    fn run_one(&self) -> Result<()> {
        let text = self.prompt.text()?;
        let started = Instant::now();
        let model = self.model.open()?;
        let settings = Settings::new(self, &model)?;
        let tokens = prompt::tokens(&model, &settings.prompt, &text)?;
        let job = settings.job(Value::Null, tokens, settings.sampling.clone(), settings.limits.clone())?;
        let mut context = self.model.run.context(&model, settings.n_branches(1))?;
        let load_s = started.elapsed().as_secs_f64();
        let mut printing = Printing::new(context.cancel_flag());
        let mut sink = |_: usize, event: Event<'_>| printing.attempt(|| self.show(&event, load_s));
        let outcomes = match settings.whole() {
            Some(plan) => all_whole(&model, &mut context, plan, vec![job], &mut sink)?,
            None => self.answer(&model, &mut context, vec![job], 1, &mut sink)?,
        };
        printing.result()?;
        finish(&outcomes)
    }

    /// Shows one event of a single completion.
    fn show(&self, event: &Event<'_>, load_s: f64) -> Result<()> {
        match event {
            Event::Text(text) if self.events => output::json(&json!({ "event": "text", "text": text })),
            Event::Text(text) if !self.json => output::text(text),
            Event::Text(_) => Ok(()),
            Event::Done(outcome) if self.events => {
                let mut object = outcome_json(outcome, load_s);
                object.insert("event".into(), "done".into());
                output::json(&object)
            }
            Event::Done(outcome) if self.json => output::json(&outcome_json(outcome, load_s)),
            Event::Done(_) => output::line(""),
        }
    }

    fn run_samples(&self, n: u32) -> Result<()> {
        let text = self.prompt.text()?;
        let model = self.model.open()?;
        let settings = Settings::new(self, &model)?;
        let tokens = prompt::tokens(&model, &settings.prompt, &text)?;
        let sampling = &settings.sampling;
        let jobs = (0..u64::from(n)).map(|i| {
            let sampling = SamplingParams { seed: sampling.seed.wrapping_add(i), ..sampling.clone() };
            settings.job(i.into(), tokens.clone(), sampling, settings.limits.clone())
        });
        self.run_jobs(&model, &settings, jobs.collect::<Result<_>>()?)
    }

    fn run_distortion(&self, k: u32) -> Result<()> {
        let text = self.prompt.text()?;
        let model = self.model.open()?;
        let settings = Settings::new(self, &model)?;
        let Some(plan) = &settings.plan else {
            return Err(BadUsage("--distortion: expected a constraint to measure, found none".into()).into());
        };
        let tokens = prompt::tokens(&model, &settings.prompt, &text)?;
        let job = settings.job(Value::Null, tokens, settings.sampling.clone(), settings.limits.clone())?;
        let mut context = self.model.run.context(&model, k as usize + 2)?;
        let setting = setting(&model, &context, 1);
        let seed = job.sampling.seed;
        let source = source(&mut context, job)?;
        let measured = session::distortion(&mut context, &setting, plan, source, k as usize, seed)?;
        let Some(d) = measured else { bail!("every masked draw met a dead end: nothing can be measured") };
        match self.json {
            true => output::json(&d),
            false => output::line(&format!(
                "ln P(L) {:.3}; KL(masked || exact) {:.3} nats ({:.3} to {:.3}); KL(exact || masked) {:.3}; \
                 effective draws {:.1} of {}{}",
                d.log_p_language,
                d.kl_masked_target,
                d.kl_interval.low,
                d.kl_interval.high,
                d.kl_target_masked,
                d.ess,
                d.n_draws,
                if d.is_poor() { " (few: the figures are poor; take more draws)" } else { "" },
            )),
        }
    }

    fn run_batch(&self, path: &std::path::Path) -> Result<()> {
        let rows = read_rows(path)?;
        let model = self.model.open()?;
        let settings = Settings::new(self, &model)?;
        let jobs = rows.into_iter().map(|row| row_job(&model, row, &settings)).collect::<Result<_>>()?;
        self.run_jobs(&model, &settings, jobs)
    }

    /// Answers many jobs together and prints a line for each, in order.
    fn run_jobs(&self, model: &Arc<Model>, settings: &Settings, jobs: Vec<Job>) -> Result<()> {
        let n_parallel = usize::from(self.parallel).min(jobs.len().max(1));
        let mut context = self.model.run.context(model, settings.n_branches(n_parallel + 1))?;
        let ids: Vec<Value> = jobs.iter().map(|job| job.id.clone()).collect();
        let mut printer =
            Printer { ids, waiting: Vec::new(), next: 0, printing: Printing::new(context.cancel_flag()) };
        let mut sink = |i: usize, event: Event<'_>| {
            if let Event::Done(outcome) = event {
                printer.done(i, outcome);
            }
        };
        let outcomes = match settings.whole() {
            Some(plan) => all_whole(model, &mut context, plan, jobs, &mut sink)?,
            None => self.answer(model, &mut context, jobs, n_parallel, &mut sink)?,
        };
        printer.printing.result()?;
        finish(&outcomes)
    }

    /// Runs the jobs; a prompt they all share is evaluated once.
    fn answer(
        &self,
        model: &Arc<Model>,
        context: &mut Context,
        jobs: Vec<Job>,
        n_parallel: usize,
        sink: &mut dyn FnMut(usize, Event<'_>),
    ) -> Result<Vec<Outcome>> {
        let cancel = context.cancel_flag();
        interrupt::on_ctrl_c(cancel.clone())?;
        let n_ctx = context.n_ctx();
        let shared = shared_prefix(&jobs);
        let trunk = context.root()?;
        if shared > 0 && shared < n_ctx {
            context.eval(&[BatchItem {
                branch: &trunk,
                tokens: &jobs[0].tokens[..shared],
                want: Want::Nothing,
            }])?;
        }
        let mut requests = Vec::with_capacity(jobs.len());
        for job in jobs {
            let branch = context.fork(&trunk)?;
            let tokens = job.tokens[shared.min(job.tokens.len())..].to_vec();
            requests.push(Request {
                branch,
                tokens,
                sampling: job.sampling,
                limits: job.limits,
                keep_branch: false,
                aligned: job.aligned,
            });
        }
        let setting = setting(model, context, n_parallel);
        let done = session::run(context, &setting, requests, sink)?;
        Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
    }
}

fn row_job(model: &Arc<Model>, row: Row, settings: &Settings) -> Result<Job> {
    let mut prompt = settings.prompt.clone();
    prompt.system = row.system.or(prompt.system);
    let place = || format!("row {}", row.id);
    let tokens = prompt::tokens(model, &prompt, &row.prompt).with_context(place)?;
    let mut sampling = settings.sampling.clone();
    sampling.temperature = row.temperature.unwrap_or(sampling.temperature);
    sampling.seed = row.seed.unwrap_or(sampling.seed);
    let mut limits = settings.limits.clone();
    limits.max_tokens = row.max_tokens.or(limits.max_tokens);
    limits.stop = row.stop.unwrap_or(limits.stop);
    settings.job(row.id.clone(), tokens, sampling, limits).with_context(place)
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

/// Prints finished answers in the order of their jobs, each as soon as all before it are there.
struct Printer {
    ids: Vec<Value>,
    waiting: Vec<(usize, serde_json::Map<String, Value>)>,
    next: usize,
    printing: Printing,
}

impl Printer {
    fn done(&mut self, index: usize, outcome: &Outcome) {
        let mut object = serde_json::Map::new();
        object.insert("id".into(), self.ids[index].clone());
        object.extend(outcome_json(outcome, 0.0));
        self.waiting.push((index, object));
        while let Some(at) = self.waiting.iter().position(|(i, _)| *i == self.next) {
            let (_, object) = self.waiting.swap_remove(at);
            self.next += 1;
            self.printing.attempt(|| output::json(&object));
        }
    }
}

fn outcome_json(outcome: &Outcome, load_s: f64) -> serde_json::Map<String, Value> {
    let mut report = serde_json::to_value(&outcome.report).unwrap_or_default();
    if load_s > 0.0 {
        report["timings"]["load_s"] = load_s.into();
    }
    let mut object = serde_json::Map::new();
    object.insert("text".into(), outcome.text.clone().into());
    object.insert("ids".into(), outcome.ids.clone().into());
    object.insert("finish".into(), report["finish"].clone());
    object.insert("report".into(), report);
    object
}

/// Interrupted if any answer was.
fn finish(outcomes: &[Outcome]) -> Result<()> {
    match outcomes.iter().any(|o| o.report.finish == Finish::Cancelled) {
        true => Err(Interrupted.into()),
        false => Ok(()),
    }
}

fn read_rows(path: &std::path::Path) -> Result<Vec<Row>> {
    let text = match path.as_os_str() == "-" {
        true => args::read_stdin()?,
        false => args::read_text(path)?,
    };
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows: Vec<Row> = rows
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map_err(|e| BadInput(format!("{}:{}: {e}", path.display(), i + 1)).into())
        })
        .collect::<Result<_>>()?;
    match rows.is_empty() {
        true => Err(BadUsage(format!("{}: no rows", path.display())).into()),
        false => Ok(rows),
    }
}
