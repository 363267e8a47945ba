//! `truing generate`: one completion, several draws, or a batch.

mod kept;
mod nudged;

use crate::args::{self, ConstraintArgs, LimitArgs, ModelArgs, PromptArgs, RunArgs, SamplingArgs, SteerArgs};
use crate::exit::{BadInput, BadUsage, Interrupted};
use crate::nudging::Nudged;
use crate::output::{self, Printing};
use crate::{interrupt, prompt};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use truing::config::{Method, Mode, Profile};
use truing::engine::{self, Job, JobExpert, Settings};
use truing::model::{Context, Model};
use truing::sampling::{NextLogits, SamplingParams};
use truing::session::{self, Event, Finish, MAX_PARALLEL, Outcome};
use truing::vocab::Specials;

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
    #[command(flatten)]
    steer: SteerArgs,
    /// Draw N independent answers (seed, seed+1, ...) and print one JSON object a line
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with_all = ["batch", "beams"])]
    samples: Option<u32>,
    /// Answer every row {"id", "prompt", ...} of a JSONL file; rows may set system, max_tokens, temperature, seed, stop, prefill, adapters {name: weight}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file"])]
    batch: Option<PathBuf>,
    /// Most answers computed together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=MAX_PARALLEL as i64))]
    parallel: u16,
    /// Heal the prompt's end: its last token may become a longer one, as in "The capital of Fra"
    #[arg(long, requires = "raw", conflicts_with_all = ["beams", "distortion"])]
    heal: bool,
    /// Measure with K masked draws how far masking is from the exact law, instead of answering
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=10_000), conflicts_with_all = ["samples", "batch", "events", "beams"], help_heading = "Constraints")]
    distortion: Option<u32>,
    /// Keep what all prompts begin with (system message, exemplars) on disk, for the next call to read instead of
    /// evaluating it [default folder: in the model cache]
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "")]
    keep_prefix: Option<PathBuf>,
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
    /// First words of the answer.
    prefill: Option<String>,
    /// Weights of adapters by name.
    #[serde(default)]
    adapters: serde_json::Map<String, Value>,
}

/// What all answers share: the settings of profile and flags.
struct Asked {
    settings: Settings,
    nudge: Option<Nudged>,
    expert: Option<Expert>,
    prompt: PromptArgs,
    n_ctx: usize,
}

impl Asked {
    fn new(args: &Generate, model: &Arc<Model>) -> Result<Self> {
        let (mut profile, mut asked) = args.constraints.resolve()?;
        args.steer.put_over(&mut profile)?;
        let template = match args.prompt.raw {
            true => None,
            // probes say so if there is none; nothing else here needs one
            false => prompt::template(model, &args.prompt).ok(),
        };
        let guards =
            args.constraints.guards(&profile, &mut asked, (model, &args.model.run), template.as_ref())?;
        let mut prompt = args.prompt.clone();
        prompt.exemplars = engine::Exemplars::new(&profile.prompt);
        prompt.system = prompt.system.or_else(|| profile.prompt.system.clone().filter(|_| !args.prompt.raw));
        if profile.constraints.mode() != Mode::Mask {
            args.refuse_truncation()?;
        }
        let nudge = args.nudged(&profile, &asked, model)?;
        let beams = args::beams(&profile, !asked.is_empty())?;
        let mut sampling = args.sampling.params(&profile)?;
        if profile.search.method == Method::Greedy {
            sampling.temperature = args.sampling.temp.unwrap_or(0.0);
        }
        let mut settings = Settings::new(&profile, asked, || session::lexicon(model))?;
        settings.sampling = sampling;
        settings.limits = args.limits.limits(&profile);
        if let Some(search) = &mut settings.search {
            // before room is made for as many outlooks as are asked for
            search.params_with(&settings.sampling, &settings.limits).validate(model.vocab().len())?;
            args::open_rewards(search)?;
        }
        settings.limits.fenced &= !args.prompt.raw;
        settings.beams = beams;
        args.constraints.guards.apply(&mut settings, &profile, guards, model)?;
        if args.heal {
            settings.heal_prompts(&session::lexicon(model));
        }
        settings.kept = args.keep_prefix.as_deref().map(|f| kept::prefix(f, model, &prompt)).transpose()?;
        let expert = Expert::new(args, &profile, &mut settings, model)?;
        Ok(Self { settings, nudge, expert, prompt, n_ctx: args.model.run.n_ctx(model) })
    }

    /// The text as the user's turn, answered as all are.
    fn job(&self, model: &Model, text: &str) -> Result<Job> {
        let tokens = prompt::tokens(model, &self.prompt, text)?;
        let job = self.settings.job(tokens, self.n_ctx)?;
        Ok(Job { prompt: text.to_owned(), expert: self.expert_on(model, text)?, ..job })
    }

    /// The expert that answers `text` beside the model.
    fn expert_on(&self, model: &Model, text: &str) -> Result<Option<JobExpert>> {
        let Some(expert) = &self.expert else { return Ok(None) };
        let system = expert.system.clone().or_else(|| self.prompt.system.clone());
        let tokens = prompt::tokens(model, &PromptArgs { system, ..self.prompt.clone() }, text)?;
        Ok(Some(JobExpert { tokens, mix: expert.mix.clone() }))
    }
}

/// A safer expert for the first tokens.
struct Expert {
    system: Option<String>,
    mix: Option<Vec<f32>>,
}

impl Expert {
    fn new(
        args: &Generate,
        profile: &Profile,
        settings: &mut Settings,
        model: &Model,
    ) -> Result<Option<Self>> {
        let Some(section) = args.constraints.guards.expert(profile)? else { return Ok(None) };
        if args.prompt.raw && section.system.is_some() {
            return Err(
                BadUsage("an expert's system message needs a chat template: not with --raw".into()).into()
            );
        }
        settings.expert = Some(section.rule());
        let mix = match section.adapters.is_empty() {
            true => None,
            false => {
                let weights = section.adapters.iter().map(|(name, w)| (name.clone(), json!(w)));
                Some(args.model.run.mix(&weights.collect())?)
            }
        };
        model.template()?; // a broken one is an error of the model, not of the expert
        Ok(Some(Self { system: section.system, mix }))
    }
}

impl Generate {
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

    pub fn run(mut self) -> Result<()> {
        self.constraints.add_adapters(&mut self.model.run)?;
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
        let asked = Asked::new(self, &model)?;
        if let Some(nudge) = &asked.nudge {
            return self.run_nudged(&model, nudge, &asked, &text, started);
        }
        let job = asked.job(&model, &text)?;
        let mut context = self.model.run.context(&model, asked.settings.n_branches(1))?;
        let load_s = started.elapsed().as_secs_f64();
        let mut printing = Printing::new(context.cancel_flag());
        let mut sink = |_: usize, event: Event<'_>| printing.attempt(|| self.show(&event, load_s));
        let outcomes = answer(&model, &mut context, &asked.settings, vec![job], 1, &mut sink)?;
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
        let asked = Asked::new(self, &model)?;
        let Settings { sampling, limits, .. } = &asked.settings;
        if let Some(nudge) = &asked.nudge {
            eprintln!("truing: nudging takes the likeliest tokens: the {n} texts are the same");
            let row = |i: u32| (i.into(), asked.prompt.system.clone(), text.clone(), limits.clone());
            return self.run_nudged_rows(&model, nudge, (0..n).map(row).collect());
        }
        let tokens = prompt::tokens(&model, &asked.prompt, &text)?;
        let jobs = (0..u64::from(n)).map(|i| {
            let sampling = SamplingParams { seed: sampling.seed.wrapping_add(i), ..sampling.clone() };
            let job = asked.settings.job_with(tokens.clone(), sampling, limits.clone(), asked.n_ctx)?;
            let expert = asked.expert_on(&model, &text)?;
            Ok((i.into(), Job { prompt: text.clone(), expert, ..job }))
        });
        self.run_jobs(&model, &asked.settings, jobs.collect::<Result<_>>()?)
    }

    fn run_distortion(&self, k: u32) -> Result<()> {
        let text = self.prompt.text()?;
        let model = self.model.open()?;
        let asked = Asked::new(self, &model)?;
        let Some(plan) = asked.settings.plan() else {
            return Err(BadUsage("--distortion: expected a constraint to measure, found none".into()).into());
        };
        let job = asked.job(&model, &text)?;
        let mut context = self.model.run.context(&model, k as usize + 2)?;
        let setting = engine::setting(&model, &context, 1);
        let seed = job.sampling.seed;
        let source = job.into_source(context.root()?);
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
        let asked = Asked::new(self, &model)?;
        if let Some(nudge) = &asked.nudge {
            let rows = rows.into_iter().map(|row| nudged::row(row, &asked)).collect::<Result<_>>()?;
            return self.run_nudged_rows(&model, nudge, rows);
        }
        let run = &self.model.run;
        let jobs = rows.into_iter().map(|row| row_job(&model, run, row, &asked)).collect::<Result<_>>()?;
        self.run_jobs(&model, &asked.settings, jobs)
    }

    /// Answers many jobs together and prints a line for each, in order.
    fn run_jobs(&self, model: &Arc<Model>, settings: &Settings, jobs: Vec<(Value, Job)>) -> Result<()> {
        let n_parallel = usize::from(self.parallel).min(jobs.len().max(1));
        let mut context = self.model.run.context(model, settings.n_branches(n_parallel + 1))?;
        let (ids, jobs): (Vec<Value>, Vec<Job>) = jobs.into_iter().unzip();
        let mut printer =
            Printer { ids, waiting: Vec::new(), next: 0, printing: Printing::new(context.cancel_flag()) };
        let mut sink = |i: usize, event: Event<'_>| {
            if let Event::Done(outcome) = event {
                printer.done(i, outcome);
            }
        };
        let outcomes = answer(model, &mut context, settings, jobs, n_parallel, &mut sink)?;
        printer.printing.result()?;
        finish(&outcomes)
    }
}

/// Runs the jobs; Ctrl-C stops them.
fn answer(
    model: &Model,
    context: &mut Context,
    settings: &Settings,
    jobs: Vec<Job>,
    n_parallel: usize,
    sink: &mut dyn FnMut(usize, Event<'_>),
) -> Result<Vec<Outcome>> {
    interrupt::on_ctrl_c(context.cancel_flag())?;
    let outcomes = engine::run(model, context, settings, jobs, n_parallel, sink);
    kept::tell(settings);
    Ok(outcomes?)
}

fn row_job(model: &Model, run: &RunArgs, row: Row, asked: &Asked) -> Result<(Value, Job)> {
    let mut prompt = asked.prompt.clone();
    prompt.system = row.system.or(prompt.system);
    let place = || format!("row {}", row.id);
    let tokens = prompt::tokens(model, &prompt, &row.prompt).with_context(place)?;
    let (mut sampling, mut limits) = (asked.settings.sampling.clone(), asked.settings.limits.clone());
    sampling.temperature = row.temperature.unwrap_or(sampling.temperature);
    sampling.seed = row.seed.unwrap_or(sampling.seed);
    limits.max_tokens = row.max_tokens.or(limits.max_tokens);
    limits.stop = row.stop.unwrap_or(limits.stop);
    let settings = &asked.settings;
    let job = match row.prefill {
        Some(words) => {
            let prefix = model.vocab().tokenize(&words, Specials::NONE)?.ids;
            settings.job_from((tokens, prefix), sampling, limits, asked.n_ctx)
        }
        None => settings.job_with(tokens, sampling, limits, asked.n_ctx),
    };
    let job = job.with_context(place)?;
    let mix = match row.adapters.is_empty() {
        true => None,
        false => Some(run.mix(&row.adapters).with_context(place)?),
    };
    let expert = asked.expert_on(model, &row.prompt)?;
    Ok((row.id, Job { prompt: row.prompt, mix, expert, ..job }))
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

/// Interrupted if any answer was; failed if a guard left one without words.
fn finish(outcomes: &[Outcome]) -> Result<()> {
    if outcomes.iter().any(|o| o.report.finish == Finish::RefusedUnderGrammar) {
        bail!("a guard objected, and the constraints leave no words for a refusal");
    }
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
