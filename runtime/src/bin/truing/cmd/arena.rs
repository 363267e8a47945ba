//! `truing arena`: profiles compete over the prompts of a data file, a model judges.

use crate::args::{self, ConstraintArgs, ModelArgs, PromptArgs};
use crate::exit::BadUsage;
use crate::nudging::Nudged;
use crate::rows::Row;
use crate::{interrupt, output, progress, prompt};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use truing::config::{Method, Profile};
use truing::engine::{self, Exemplars, Job, ModelVocab, Settings};
use truing::eval::{Estimate, Match, knock_out, strengths_with_intervals};
use truing::model::{Context, Model};
use truing::reward::Pairwise;
use truing::session::{self, Limits};

/// Let profiles compete: a knock-out for each prompt, judged by a model, strengths with intervals.
#[derive(Debug, Args)]
#[command(after_help = "\
Each --profile answers every prompt with MODEL (or the model after an @: --profile calm.toml@gemma3-270m). The judge
sees both orders of every pair. A judge of the answers' own family likes its own; name another with --judge.

Example:
  truing arena --data prompts.jsonl --limit 40 --profile plain.toml --profile calm.toml --judge smollm2")]
pub struct Arena {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows {prompt}; `-` is stdin
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// A contestant; at least two
    #[arg(long = "profile", value_name = "FILE[@MODEL]", required = true)]
    profiles: Vec<String>,
    /// The model that judges [default: the catalog's default]
    #[arg(long, value_name = "MODEL")]
    judge: Option<String>,
    /// Take the first N rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Most tokens of an answer, where a profile does not say
    #[arg(short = 'n', long, default_value_t = 200)]
    max_tokens: usize,
    /// Seed of the draws
    #[arg(short = 's', long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

struct Contestant {
    name: String,
    answers: Vec<String>,
}

impl Arena {
    pub fn run(self) -> Result<()> {
        if self.profiles.len() < 2 {
            return Err(BadUsage("--profile: expected at least two contestants, found one".into()).into());
        }
        let most = self.limit.map_or(usize::MAX, |n| n as usize);
        let rows = Row::read_all(&self.data)?;
        let prompts: Vec<String> =
            rows.iter().take(most).map(|r| r.text("prompt").map(str::to_owned)).collect::<Result<_>>()?;
        let contestants =
            self.profiles.iter().map(|p| self.contestant(p, &prompts)).collect::<Result<Vec<_>>>()?;
        let judge = match &self.judge {
            Some(name) => args::open_named(name)?,
            None => args::open_model(&crate::cmd::pull::ensure(None)?)?,
        };
        let mut judge = Pairwise::new(engine::asker(&judge)?)?;
        let matches = self.matches(&contestants, &prompts, &mut judge)?;
        let strengths = strengths_with_intervals(contestants.len(), &matches, self.seed)?;
        self.show(&contestants, &matches, &strengths, judge.off_topic())
    }

    /// All answers under one profile.
    fn contestant(&self, spec: &str, prompts: &[String]) -> Result<Contestant> {
        let (file, model) = spec.split_once('@').map_or((spec, None), |(f, m)| (f, Some(m)));
        let model = match model {
            Some(name) => args::open_named(name)?,
            None => self.model.open()?,
        };
        let constraints = ConstraintArgs { profile: Some(file.into()), ..ConstraintArgs::default() };
        let (profile, asked) = constraints.resolve()?;
        if let Some(nudged) = Nudged::new(&profile, &asked, &model)? {
            let answers = self.nudged(&model, &nudged, &profile, prompts)?;
            return Ok(Contestant { name: spec.to_owned(), answers });
        }
        let mut settings = Settings::new(&profile, asked, || session::lexicon(&model))?;
        if let Some(search) = &mut settings.search {
            args::open_rewards(search)?;
        }
        settings.sampling.seed = self.seed;
        if profile.search.method == Method::Greedy {
            settings.sampling.temperature = 0.0;
        }
        settings.limits.max_tokens = settings.limits.max_tokens.or(Some(self.max_tokens));
        let exemplars = Exemplars::new(&profile.prompt);
        settings.limits.fenced = exemplars.is_some();
        let prompt = PromptArgs {
            prompt: None,
            file: None,
            system: profile.prompt.system.clone(),
            raw: false,
            chat_template: None,
            parse_special: false,
            exemplars,
        };
        let answers = self.answers(&model, &settings, &prompt, prompts)?;
        Ok(Contestant { name: spec.to_owned(), answers })
    }

    fn nudged(
        &self,
        model: &Arc<Model>,
        nudged: &Nudged,
        profile: &Profile,
        prompts: &[String],
    ) -> Result<Vec<String>> {
        let mut pair = nudged.pair(&self.model.run, model)?;
        interrupt::on_ctrl_c(pair.context.cancel_flag())?;
        let max_tokens = profile.limits.max_tokens.or(Some(self.max_tokens));
        let limits = Limits { max_tokens, stop: profile.limits.stop.clone(), ..Limits::default() };
        let bar = progress::bar(prompts.len() as u64, "answers");
        let system = profile.prompt.system.as_deref();
        let mut answer = |text: &String| {
            bar.inc(1);
            Ok(pair.answer((system, text), &limits, &mut |_| {})?.text)
        };
        let answers = prompts.iter().map(&mut answer).collect();
        bar.finish_and_clear();
        answers
    }

    fn answers(
        &self,
        model: &Arc<Model>,
        settings: &Settings,
        args: &PromptArgs,
        prompts: &[String],
    ) -> Result<Vec<String>> {
        let n_parallel = prompts.len().min(8);
        let mut context = self.model.run.context(model, settings.n_branches(n_parallel + 1))?;
        interrupt::on_ctrl_c(context.cancel_flag())?;
        let n_ctx = context.n_ctx();
        let job = |text: &String| -> Result<Job> {
            let tokens = prompt::tokens(model, args, text)?;
            Ok(Job { prompt: text.clone(), ..settings.job(tokens, n_ctx)? })
        };
        let jobs = prompts.iter().map(job).collect::<Result<_>>()?;
        let bar = progress::bar(prompts.len() as u64, "answers");
        let mut sink = |_: usize, event: session::Event<'_>| {
            if matches!(event, session::Event::Done(_)) {
                bar.inc(1);
            }
        };
        let outcomes = engine::run(model, &mut context, settings, jobs, n_parallel, &mut sink)?;
        bar.finish_and_clear();
        Ok(outcomes.into_iter().map(|o| o.text).collect())
    }

    fn matches(
        &self,
        contestants: &[Contestant],
        prompts: &[String],
        judge: &mut Pairwise<Context, ModelVocab>,
    ) -> Result<Vec<Match>> {
        let bar = progress::bar((prompts.len() * (contestants.len() - 1)) as u64, "judging");
        let mut matches = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let mut better = |a: usize, b: usize| {
                bar.inc(1);
                let (a, b) = (&contestants[a].answers[i], &contestants[b].answers[i]);
                if a == b { Ok(0.0) } else { judge.compare(prompt, a, b) }
            };
            matches.extend(knock_out(i, contestants.len(), self.seed, &mut better)?);
        }
        bar.finish_and_clear();
        Ok(matches)
    }

    fn show(
        &self,
        contestants: &[Contestant],
        matches: &[Match],
        strengths: &[Estimate],
        off_topic: f64,
    ) -> Result<()> {
        let won = |i: usize| matches.iter().filter(|m| m.winner == i && !m.is_tie).count();
        let lost = |i: usize| matches.iter().filter(|m| m.loser == i && !m.is_tie).count();
        if self.json {
            let system = |(i, c): (usize, &Contestant)| json!({ "name": c.name, "strength": strengths[i], "won": won(i), "lost": lost(i), "answers": c.answers });
            let systems: Vec<Value> = contestants.iter().enumerate().map(system).collect();
            return output::json(&json!({
                "systems": systems, "matches": matches, "judge_off_topic": off_topic, "seed": self.seed,
            }));
        }
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        order.sort_by(|a, b| strengths[*b].value.total_cmp(&strengths[*a].value));
        output::line(&format!("{:<36}{:>24}{:>8}{:>8}", "system", "strength (95 %)", "won", "lost"))?;
        for i in order {
            let e = strengths[i];
            let cell = format!("{:.0} [{:.0}, {:.0}]", e.value, e.lo, e.hi);
            output::line(&format!("{:<36}{cell:>24}{:>8}{:>8}", contestants[i].name, won(i), lost(i)))?;
        }
        let ties = matches.iter().filter(|m| m.is_tie).count();
        output::line(&format!("{} matches, {ties} ties; a lead of 400 points wins 10 of 11", matches.len()))?;
        if off_topic > 0.1 {
            eprintln!(
                "truing: the judge did not answer {:.0} % of the questions with A or B",
                100.0 * off_topic
            );
        }
        Ok(())
    }
}
