//! `truing eval`: answers to the rows of a data file, scored.

mod answer;
mod asked;
mod distribution;
mod figures;
mod frontier;
mod judge;
mod safety;
mod shapes;
mod suite;
mod texts;

use crate::args::{self, ConstraintArgs, LimitArgs, ModelArgs, PromptArgs, SamplingArgs, SteerArgs};
use crate::exit::BadUsage;
use crate::rows::Row;
use crate::{output, progress, prompt};
use answer::{Answered, Job, Runner};
use anyhow::{Context as _, Result};
use asked::Planner;
use clap::Args;
use distribution::Distribution;
use figures::Scored;
use judge::{Answer, Judge};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use suite::{Suite, Task};
use texts::Texts;
use truing::align::{Constraints, Meter, Wording};
use truing::config::{Mode, NudgeSection, Profile, RewardKind, RewardSection};
use truing::engine::Search;
use truing::eval::{self, Estimate};
use truing::model::{Context, Model};
use truing::sampling::SamplingParams;
use truing::session::{self, BeamParams, Finish, MAX_PARALLEL};

/// Seed where none is given: figures should come out again.
const DEFAULT_SEED: u64 = 1;
/// Shorter contexts than this are not reckoned with when room for outlooks is made.
const MIN_CTX: usize = 64;
/// Branches that exact sampling and its fallback keep.
const EXACT_BRANCHES: usize = 24;
/// Temperature of searches that draw whole texts, where nothing is said.
const DRAW_TEMPERATURE: f32 = 0.8;
/// Share of rows that may fail to run without the whole run failing.
const MAX_ERRORS: f64 = 0.01;

/// Run the rows of a data file and score the answers.
#[derive(Debug, Args)]
#[command(after_help = "\
DATA holds a JSON object a line. Each row's prompt is answered under constraints made from the row (its keywords,
lengths, schema, grammar, what can be enforced of its instructions); --plain leaves them out, --compare does both.
Without --profile the likeliest token is taken always (--temp 0).

`length` reads lengths such as \"words\": \"20..30\" or \"sentences\": \"2\" from a row, or from the checks of an
ifeval row, or from the profile; rows without any get one in turn, which is added to their prompt.

Examples:
  truing eval keywords --data commongen.jsonl --limit 50 --compare
  truing eval ifeval smollm2 --data ifeval.jsonl --plain --json
  truing eval gsm8k gemma3-270m --data gsm8k.jsonl --plain --nudge smollm2
  truing eval grammar --data grammars/index.jsonl
  truing eval distribution --data finite_languages.jsonl --samples 2000")]
pub struct Eval {
    /// What to score
    #[arg(value_enum)]
    suite: Suite,
    #[command(flatten)]
    model: ModelArgs,
    /// The rows; `-` is stdin. `safety` takes several files
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// Take the first N rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// `distribution`: texts drawn of each language
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// No constraints at all
    #[arg(long)]
    plain: bool,
    /// Answer both under constraints and plainly
    #[arg(long, conflicts_with = "plain")]
    compare: bool,
    /// safety: ask each prompt with the first N, ... tokens of an unguarded answer forced, e.g. 0,5,10,20,40 [default:
    /// the rows' own prefixes]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    depths: Vec<usize>,
    /// safety: JSON list of texts that mark a refusal [default: the usual 36]
    #[arg(long, value_name = "FILE")]
    markers: Option<PathBuf>,
    /// Most answers computed together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=MAX_PARALLEL as i64))]
    parallel: u16,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompts as they are: no chat template
    #[arg(long)]
    raw: bool,
    /// How --raw shows a base model a prompt: {prompt} is put in, as in "Question: {prompt}\nAnswer:\n" (with real line
    /// ends, or \n for them)
    #[arg(long, value_name = "TEXT", requires = "raw")]
    raw_form: Option<String>,
    /// frontier: write the curves to this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object: suite, n, metrics, rows
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    constraints: ConstraintArgs,
    #[command(flatten)]
    steer: SteerArgs,
}

/// `distribution`: longest text, and branches that its context has room for.
const LISTED_TOKENS: usize = 32;
const LISTING_BRANCHES: usize = 4;

/// Settings that all rows share.
struct Shared {
    profile: Profile,
    base: Constraints,
    model: Arc<Model>,
    search: Option<Search>,
    /// Texts come whole: from beams, or drawn from the conditioned law.
    whole: Option<Option<BeamParams>>,
    /// The nudger, and how it nudges.
    nudge: Option<Nudger>,
}

type Nudger = (NudgeSection, Arc<Model>);

/// One way of generating, with its scores.
struct Arm {
    name: &'static str,
    rows: Vec<Scored>,
    figures: Vec<(String, Estimate)>,
    seconds: f64,
}

impl Eval {
    pub fn run(mut self) -> Result<()> {
        self.constraints.add_adapters(&mut self.model.run)?;
        if self.suite == Suite::Safety {
            return safety::Safety::read(&self)?.run(&self);
        }
        let [data] = &self.data[..] else {
            return Err(BadUsage("expected one --data file for this suite".into()).into());
        };
        let (mut profile, base) = self.constraints.resolve()?;
        if !(self.constraints.guards.is_empty() && profile.guard.is_empty()) {
            return Err(BadUsage("guards are scored by `truing eval safety`".into()).into());
        }
        if self.constraints.profile.is_none() {
            profile.sampling.temperature = 0.0;
        }
        if self.suite == Suite::Distribution {
            return self.distribution(&profile);
        }
        if self.suite == Suite::Frontier {
            return frontier::run(&self, &profile);
        }
        self.steer.put_over(&mut profile)?;
        let is_exact = profile.constraints.mode() != Mode::Mask;
        if is_exact && profile.search.params().is_some() {
            return Err(BadUsage("--search and --grammar-mode exact or smc exclude each other".into()).into());
        }
        if is_exact && self.sampling.temp.is_none() && self.constraints.profile.is_none() {
            profile.sampling.temperature = 1.0; // the model's own law
        }
        let beams = args::beams(&profile, true)?;
        if self.constraints.profile.is_none()
            && profile.search.params().is_some_and(|p| p.method.draws_texts())
        {
            profile.sampling.temperature = DRAW_TEMPERATURE; // the likeliest text is no use drawn twice
        }
        let (search, nudge) = self.steering(&mut profile, &base)?;
        let rows = Row::read_all(data)?;
        let tasks = self.tasks(&rows, &base.wording)?;
        let shared = Shared {
            profile,
            base,
            model: self.model.open()?,
            search,
            nudge,
            whole: (is_exact || beams.is_some()).then_some(beams),
        };
        let jobs = self.jobs(&shared, &tasks)?;
        let arms = match (self.compare, self.plain) {
            (true, _) => {
                vec![self.arm(&shared, &tasks, &jobs, true)?, self.arm(&shared, &tasks, &jobs, false)?]
            }
            (false, plain) => vec![self.arm(&shared, &tasks, &jobs, !plain)?],
        };
        self.show(&arms)?;
        self.verdict(&arms)
    }

    /// The search and the nudger that flags and profile ask for.
    fn steering(
        &self,
        profile: &mut Profile,
        base: &Constraints,
    ) -> Result<(Option<Search>, Option<Nudger>)> {
        if self.suite == Suite::Keywords && profile.reward.is_empty() {
            profile.reward.push(RewardSection::of(RewardKind::Keyword)); // for the words of each row
        }
        let mut search = Search::new(profile, &base.wording.include, &mut |file| {
            std::fs::read_to_string(file)
                .map_err(|e| truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(file.to_owned()))
        })?;
        if let Some(search) = &mut search {
            args::open_rewards(search)?;
        }
        let nudge = match &profile.nudge {
            Some(_) if !self.plain => {
                return Err(
                    BadUsage("--nudge: add --plain, nudged answers keep no constraints".into()).into()
                );
            }
            Some(nudge) => Some((nudge.clone(), args::open_named(&nudge.model)?)),
            None => None,
        };
        Ok((search, nudge))
    }

    fn distribution(&self, profile: &Profile) -> Result<()> {
        let mut rows = Row::read_all(&self.data[0])?;
        rows.truncate(self.limit.map_or(usize::MAX, |n| n as usize));
        let (model, n_samples) = (self.model.open()?, self.samples as usize);
        let measured = Distribution {
            context: self.model.run.context(&model, LISTING_BRANCHES)?,
            model: &model,
            n_samples,
            mode: profile.constraints.mode(),
            max_tokens: self.limits.limits(profile).max_tokens.unwrap_or(LISTED_TOKENS),
            seed: self.seed(),
        }
        .run(&rows)?;
        distribution::show(&measured, n_samples, self.json)
    }

    /// What the rows ask. `profile`: the wording that the profile asks for.
    fn tasks(&self, rows: &[Row], profile: &Wording) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        let most = self.limit.map_or(usize::MAX, |n| n as usize);
        for (i, row) in rows.iter().enumerate() {
            if tasks.len() == most {
                break;
            }
            tasks.extend(Task::new(self.suite, row, i, profile)?);
        }
        match tasks.is_empty() {
            true => {
                Err(BadUsage(format!("{}: no row asks anything of this suite", self.data[0].display()))
                    .into())
            }
            false => Ok(tasks),
        }
    }

    /// Prompts and settings. The seed grows from row to row.
    fn jobs(&self, shared: &Shared, tasks: &[Task]) -> Result<Vec<Job>> {
        let mut sampling = self.sampling.over(shared.profile.sampling.clone())?;
        sampling.seed = self.seed();
        let mut jobs = Vec::with_capacity(tasks.len());
        for (i, task) in tasks.iter().enumerate() {
            let mut limits = self.limits.limits(&shared.profile);
            limits.fenced &= !self.raw;
            limits.max_tokens = limits.max_tokens.or(Some(task.max_tokens));
            jobs.push(Job {
                tokens: match shared.nudge {
                    Some(_) => Vec::new(), // each model gets its own prompt
                    None => self.tokens(shared, task).with_context(|| format!("row {}", task.id))?,
                },
                sampling: SamplingParams { seed: sampling.seed.wrapping_add(i as u64), ..sampling.clone() },
                limits,
            });
        }
        Ok(jobs)
    }

    fn seed(&self) -> u64 {
        self.sampling.seed.unwrap_or(DEFAULT_SEED)
    }

    /// Prompts as `generate` makes them.
    fn prompt_args(&self, profile: &Profile) -> PromptArgs {
        let system = profile.prompt.system.as_ref().filter(|_| !self.raw);
        PromptArgs {
            prompt: None,
            file: None,
            system: self.system.as_ref().or(system).cloned(),
            raw: self.raw,
            chat_template: None,
            parse_special: false,
            exemplars: truing::engine::Exemplars::new(&profile.prompt),
        }
    }

    fn tokens(&self, shared: &Shared, task: &Task) -> Result<Vec<truing::TokenId>> {
        let args = self.prompt_args(&shared.profile);
        match &self.raw_form {
            None => prompt::tokens(&shared.model, &args, &task.prompt),
            Some(form) => {
                let Some((before, after)) = form.split_once("{prompt}") else {
                    return Err(BadUsage("--raw-form: expected a text with {prompt} in it".into()).into());
                };
                let (before, after) = (before.replace("\\n", "\n"), after.replace("\\n", "\n"));
                prompt::tokens(&shared.model, &args, &format!("{before}{}{after}", task.prompt))
            }
        }
    }

    fn arm(&self, shared: &Shared, tasks: &[Task], jobs: &[Job], constrained: bool) -> Result<Arm> {
        let started = Instant::now();
        let model = &shared.model;
        let n_parallel = usize::from(self.parallel).min(jobs.len().max(1));
        let whole = shared.whole.filter(|_| constrained);
        let n_branches = match (&shared.search, whole) {
            (Some(search), _) => search.n_branches(MIN_CTX).max(n_parallel + 1),
            (None, Some(Some(beams))) => beams.n_branches().max(n_parallel + 1),
            (None, Some(None)) => EXACT_BRANCHES + n_parallel,
            (None, None) => n_parallel + 1,
        };
        let mut context = self.context(model, jobs, n_branches)?;
        let mut nudger = match &shared.nudge {
            Some((section, model)) => {
                Some((section, model, self.model.run.without_adapters().context(model, 1)?))
            }
            None => None,
        };
        let name = match (constrained, &shared.search, &shared.nudge) {
            (true, None, _) if matches!(whole, Some(Some(_))) => "beams, constrained",
            (true, None, _) if whole.is_some() => "conditioned",
            (true, None, _) => "constrained",
            (true, Some(_), _) => "searched, constrained",
            (false, Some(_), _) => "searched",
            (false, None, Some(_)) => "nudged",
            (false, None, None) => "plain",
        };
        let planner = constrained.then(|| Planner {
            section: &shared.profile.constraints,
            base: &shared.base,
            lexicon: session::lexicon(model),
        });
        let bar = progress::bar(jobs.len() as u64, name);
        let mut runner = Runner {
            model,
            context: &mut context,
            n_parallel,
            bar,
            planner: planner.as_ref(),
            search: shared.search.as_ref(),
            whole,
            system: self.system.as_deref().or(shared.profile.prompt.system.as_deref()),
        };
        let answered = match &mut nudger {
            Some((section, nudger, context)) => runner.nudged(tasks, jobs, section, (nudger, context))?,
            None => runner.run(tasks, jobs)?,
        };
        runner.bar.finish_and_clear();
        let scorer = Scorer { meter: Meter::new()?, texts: constrained.then(Texts::new) };
        let rows: Vec<Scored> = tasks
            .iter()
            .zip(jobs)
            .zip(answered)
            .map(|((task, job), answered)| scorer.scored(task, job, answered))
            .collect();
        let figures = figures::figures(&rows, &scorer.meter, self.seed());
        Ok(Arm { name, rows, figures, seconds: started.elapsed().as_secs_f64() })
    }

    /// A context that holds the longest row.
    fn context(&self, model: &Arc<Model>, jobs: &[Job], n_branches: usize) -> Result<Context> {
        let mut run = self.model.run.clone();
        let longest =
            jobs.iter().map(|j| j.tokens.len().saturating_add(j.limits.max_tokens.unwrap_or(0))).max();
        let fitting = longest.map_or(0, |n| n.saturating_add(1)).min(run.n_ctx(model));
        if jobs.iter().any(|j| !j.tokens.is_empty()) {
            run.ctx_size = run.ctx_size.or(u32::try_from(fitting).ok());
        }
        run.context(model, n_branches)
    }

    fn show(&self, arms: &[Arm]) -> Result<()> {
        let main = Judge::main_score(self.suite);
        let [first, others @ ..] = arms else { return Ok(()) };
        if !self.json {
            return self.show_table(arms);
        }
        let rows = |arm: &Arm| arm.rows.iter().map(|r| r.json(main)).collect::<Vec<Value>>();
        let mut object = json!({
            "suite": self.suite.name(),
            "n": first.rows.len(),
            "arm": first.name,
            "metrics": figures::json(&first.figures),
            "seconds": first.seconds,
            "rows": rows(first),
        });
        if self.suite == Suite::Ifeval {
            object["sentence_rule"] = eval::SENTENCE_RULE.into();
        }
        for other in others {
            let (b, c, p) = paired(first, other, main);
            object[other.name] = json!({
                "metrics": figures::json(&other.figures), "seconds": other.seconds, "rows": rows(other),
            });
            object["paired"] = json!({ "metric": main, "better": b, "worse": c, "p": p });
        }
        output::json(&object)
    }

    fn show_table(&self, arms: &[Arm]) -> Result<()> {
        let [first, others @ ..] = arms else { return Ok(()) };
        let heads: String = arms.iter().map(|a| format!("{:>30}", a.name)).collect();
        output::line(&format!(
            "{:<28}{heads}",
            format!("{} ({} rows)", self.suite.name(), first.rows.len())
        ))?;
        let names = arms.iter().flat_map(|a| a.figures.iter().map(|(name, _)| name.as_str()));
        let mut shown: Vec<&str> = Vec::new();
        for name in names {
            if shown.contains(&name) {
                continue;
            }
            shown.push(name);
            let cells: String = arms.iter().map(|arm| format!("{:>30}", cell(arm, name))).collect();
            output::line(&format!("{name:<28}{cells}"))?;
        }
        let main = Judge::main_score(self.suite);
        for other in others {
            let (b, c, p) = paired(first, other, main);
            output::line(&format!("{main}: better on {b} rows, worse on {c}, p = {p:.2e} (exact McNemar)"))?;
        }
        if self.suite == Suite::Ifeval {
            output::line(&format!("sentences are counted by rule: {}", eval::SENTENCE_RULE))?;
        }
        for arm in arms {
            eprintln!("truing: {} took {:.1} s", arm.name, arm.seconds);
        }
        Ok(())
    }

    /// The run has failed if more than a hundredth of the rows could not be run.
    fn verdict(&self, arms: &[Arm]) -> Result<()> {
        for arm in arms {
            let failed = arm.rows.iter().filter_map(|r| match &r.answered {
                Answered::Failed(why) => Some((&r.id, why)),
                _ => None,
            });
            let failed: Vec<_> = failed.collect();
            if failed.len() as f64 > MAX_ERRORS * arm.rows.len() as f64 {
                let (id, why) = failed[0];
                anyhow::bail!(
                    "{} of {} rows could not be run; row {id}: {why}",
                    failed.len(),
                    arm.rows.len()
                );
            }
        }
        Ok(())
    }
}

/// Judges rows.
struct Scorer {
    meter: Meter,
    /// Judges the texts that come with rows; none: what comes with rows is not about this arm.
    texts: Option<Texts>,
}

impl Scorer {
    fn scored(&self, task: &Task, job: &Job, answered: Answered) -> Scored {
        let (text, is_finished) = match &answered {
            Answered::Done(o) => (o.text.as_str(), matches!(o.report.finish, Finish::Eos | Finish::Stop)),
            _ => ("", false),
        };
        let machine = task.machine();
        let mut scores = match (&answered, &task.asked.shape) {
            // a shape that is not supported has no text; what is merely too much to ask counts as not done
            (Answered::Refused(_), Some(_)) if !task.asked.in_parts => Vec::new(),
            _ => task.judge.score(&Answer { text, is_finished }, &self.meter, machine.as_ref()),
        };
        if let Some(texts) = &self.texts {
            scores.extend(texts.score(&task.judge, machine.as_ref()));
        }
        Scored { id: task.id.clone(), scores, answered, max_tokens: job.limits.max_tokens }
    }
}

/// Rows on which the first arm alone succeeds, on which the second alone does, and McNemar's p.
fn paired(first: &Arm, second: &Arm, main: &str) -> (usize, usize, f64) {
    let pairs = first.rows.iter().zip(&second.rows).map(|(a, b)| (a.succeeded(main), b.succeeded(main)));
    let (mut b, mut c) = (0, 0);
    for (one, other) in pairs {
        b += usize::from(one && !other);
        c += usize::from(other && !one);
    }
    (b, c, eval::mcnemar(b, c))
}

fn cell(arm: &Arm, name: &str) -> String {
    let Some((_, e)) = arm.figures.iter().find(|(n, _)| n == name) else { return "-".to_owned() };
    format!("{:.3} [{:.3}, {:.3}]", e.value, e.lo, e.hi)
}
