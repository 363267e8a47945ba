//! `truing synth pairs`: several answers to each prompt, the best and the worst of which make a pair.

use super::scores::{Asked, Scorer, Source};
use crate::args::{ModelArgs, PromptArgs};
use crate::rows::Row;
use crate::{interrupt, progress, prompt};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use truing::config::RewardSection;
use truing::engine::{self, Settings};
use truing::eval::{LineFile, Pair, PairFilter};
use truing::model::{Context, Model};
use truing::reward::agreement;
use truing::sampling::SamplingParams;
use truing::session::{Event, Finish, Limits, MAX_PARALLEL};

/// Draw answers and write pairs of a better and a worse one.
#[derive(Debug, Args)]
pub struct Pairs {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows {prompt}; for --source csr with `checks`, or `concepts` and `forms`; `-` is stdin
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where to write the pairs
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What makes an answer the better one
    #[arg(long, value_enum)]
    source: Source,
    /// A second opinion: pairs that it ranks otherwise are dropped
    #[arg(long, value_enum)]
    agree: Option<Source>,
    /// Take the first N rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Answers to each prompt
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=MAX_PARALLEL as i64))]
    samples: u16,
    /// Temperature
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temp: f32,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Seed of the first draw
    #[arg(short = 's', long, default_value_t = 1)]
    seed: u64,
    /// implicit: the model that was not aligned
    #[arg(long, value_name = "MODEL")]
    reference: Option<String>,
    /// implicit: strength
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    beta: f64,
    /// judge: the model that judges [default: the one that answers]
    #[arg(long, value_name = "MODEL")]
    judge: Option<String>,
    /// rm: what to reward, as for `generate`
    #[arg(long, value_name = "KIND[:WHAT]", value_parser = RewardSection::parse)]
    reward: Vec<RewardSection>,
}

impl Pairs {
    pub fn run(self) -> Result<()> {
        let mut rows = Row::read_all(&self.data)?;
        rows.truncate(self.limit.map_or(usize::MAX, |n| n as usize));
        let model = self.model.open()?;
        let asked = Asked {
            model: &model,
            reference: self.reference.as_deref(),
            judge: self.judge.as_deref(),
            beta: self.beta,
            rewards: &self.reward,
        };
        let mut scorer = Scorer::new(self.source, asked)?;
        let mut second = self.agree.map(|source| Scorer::new(source, asked)).transpose()?;
        let mut out = LineFile::create(&self.out)?;
        let n = usize::from(self.samples);
        let mut context = self.model.run.context(&model, n + 1)?;
        interrupt::on_ctrl_c(context.cancel_flag())?;
        let filter = PairFilter::default();
        let (mut n_pairs, mut dropped) = (0, BTreeMap::<&str, usize>::new());
        let bar = progress::bar(rows.len() as u64, "pairs");
        for (i, row) in rows.iter().enumerate() {
            let text = row.text("prompt")?;
            let seed = self.seed.wrapping_add((i * n) as u64);
            let answers = self.answers(&model, &mut context, text, seed)?;
            let pair = self.pair(row, text, (&answers, seed), (&mut scorer, second.as_mut()), model.id())?;
            match filter.objection(&pair) {
                None => {
                    out.push(&pair)?;
                    n_pairs += 1;
                }
                Some(why) => *dropped.entry(why).or_default() += 1,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        out.finish()?;
        let why: Vec<String> = dropped.iter().map(|(why, n)| format!("{n} {why}")).collect();
        eprintln!("truing: {n_pairs} pairs of {} prompts; dropped: {}", rows.len(), why.join(", "));
        Ok(())
    }

    fn answers(
        &self,
        model: &Arc<Model>,
        context: &mut Context,
        text: &str,
        seed: u64,
    ) -> Result<Vec<String>> {
        let args = PromptArgs {
            prompt: None,
            file: None,
            system: None,
            raw: false,
            chat_template: None,
            parse_special: false,
            exemplars: None,
        };
        let tokens = prompt::tokens(model, &args, text)?;
        let sampling = SamplingParams { temperature: self.temp, ..SamplingParams::default() };
        let limits = Limits { max_tokens: Some(self.max_tokens), ..Limits::default() };
        let settings = Settings::plain(sampling.clone(), limits.clone());
        let job = |i: u64| {
            let sampling = SamplingParams { seed: seed.wrapping_add(i), ..sampling.clone() };
            settings.job_with(tokens.clone(), sampling, limits.clone(), context.n_ctx())
        };
        let jobs = (0..u64::from(self.samples)).map(job).collect::<truing::Result<_>>()?;
        let n = usize::from(self.samples);
        let outcomes = engine::run(model, context, &settings, jobs, n, &mut |_, _: Event<'_>| {})?;
        if outcomes.iter().any(|o| o.report.finish == Finish::Cancelled) {
            bail!(crate::exit::Interrupted);
        }
        Ok(outcomes.into_iter().map(|o| o.text.trim().to_owned()).collect())
    }

    /// The best and the worst answer; of equal ones the first.
    fn pair(
        &self,
        row: &Row,
        prompt: &str,
        (answers, seed): (&[String], u64),
        (scorer, second): (&mut Scorer, Option<&mut Scorer>),
        model_sha: &str,
    ) -> Result<Pair> {
        let scores = answers.iter().map(|a| scorer.score(row, prompt, a)).collect::<Result<Vec<f64>>>()?;
        let (mut best, mut worst) = (0, 0);
        for (i, score) in scores.iter().enumerate() {
            best = if *score > scores[best] { i } else { best };
            worst = if *score < scores[worst] { i } else { worst };
        }
        let agreement = match second {
            None => None,
            Some(second) => {
                let other =
                    answers.iter().map(|a| second.score(row, prompt, a)).collect::<Result<Vec<f64>>>()?;
                agreement(&scores, &other)
            }
        };
        let csr = |i: usize| (self.source == Source::Csr).then_some(scores[i]);
        Ok(Pair {
            prompt: prompt.to_owned(),
            chosen: answers[best].clone(),
            rejected: answers[worst].clone(),
            source: self.source.name(),
            score_c: scores[best],
            score_r: scores[worst],
            csr_c: csr(best),
            csr_r: csr(worst),
            p_pref: self.source.preference(scores[best], scores[worst]),
            agreement,
            model_sha: model_sha.to_owned(),
            decoder: "sample".to_owned(),
            params: json!({
                "n": self.samples, "temperature": self.temp, "max_tokens": self.max_tokens, "beta": self.beta,
            }),
            seed,
            truing_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
