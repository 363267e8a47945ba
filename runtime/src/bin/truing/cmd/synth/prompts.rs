//! `truing synth prompts`: an aligned model, given its template up to where the user writes, writes what users ask.

use crate::args::ModelArgs;
use crate::{interrupt, progress};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use truing::TokenId;
use truing::engine::{self, Job, Settings, prompt, user_opening};
use truing::eval::{LineFile, PromptFilter, Rejected};
use truing::model::{Context, Model};
use truing::sampling::SamplingParams;
use truing::search::plain_sampling;
use truing::session::{Event, Finish, Limits};
use truing::template::{Message, RenderOptions};

/// Let an aligned model make up prompts.
#[derive(Debug, Args)]
pub struct Prompts {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompts to draw; fewer are kept
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    draws: u32,
    /// Where to write them: rows {id, prompt, answer?, model_sha, seed, truing_version}
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// System message before the prompts
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Temperature
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temp: f32,
    /// Temperature of the first token: prompts begin less alike
    #[arg(long, value_name = "T", default_value_t = 1.2)]
    first_temp: f32,
    /// Longest prompt, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(2..))]
    max_tokens: u16,
    /// Seed of the first draw
    #[arg(short = 's', long, default_value_t = 1)]
    seed: u64,
    /// Letters that prompts are written in
    #[arg(long, value_enum, default_value_t)]
    language: Language,
    /// Answer each prompt that is kept, by the likeliest tokens
    #[arg(long)]
    answers: bool,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    answer_tokens: usize,
}

/// `--language`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Nine of ten letters are ASCII
    #[default]
    En,
    /// Any
    Any,
}

/// A line of the output. Keys are written in this order.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    model_sha: &'a str,
    seed: u64,
    truing_version: &'static str,
}

/// Texts computed together.
const PARALLEL: usize = 16;
/// Words that open a turn where a template has no control tokens for it.
const TURN_WORDS: [&str; 3] = ["Assistant:", "User:", "assistant\n"];

impl Prompts {
    pub fn run(self) -> Result<()> {
        let model = self.model.open()?;
        let opening = user_opening(&model, self.system.as_deref())?;
        let mut out = LineFile::create(&self.out)?; // before an hour of drawing, not after
        let mut context = self.model.run.context(&model, PARALLEL + 1)?;
        interrupt::on_ctrl_c(context.cancel_flag())?;
        let drawn = self.draw(&model, &mut context, &opening)?;
        let mut filter = PromptFilter::default();
        filter.is_ascii = self.language == Language::En;
        let mut kept: Vec<(u64, String)> = Vec::new();
        let mut rejected: BTreeMap<Rejected, usize> = BTreeMap::new();
        for (i, (text, is_whole)) in drawn.into_iter().enumerate() {
            match filter.keep(text.trim(), is_whole) {
                Ok(()) => kept.push((self.seed.wrapping_add(i as u64), text.trim().to_owned())),
                Err(why) => *rejected.entry(why).or_default() += 1,
            }
        }
        let answers = match self.answers {
            true => self.answer(&model, &mut context, &kept)?,
            false => Vec::new(),
        };
        for (i, (seed, prompt)) in kept.iter().enumerate() {
            out.push(&Row {
                id: format!("synth-{i:05}"),
                prompt,
                answer: answers.get(i).map(String::as_str),
                model_sha: model.id(),
                seed: *seed,
                truing_version: env!("CARGO_PKG_VERSION"),
            })?;
        }
        out.finish()?;
        let why: Vec<String> = rejected
            .iter()
            .map(|(why, n)| format!("{n} {}", serde_json::to_value(why).unwrap_or_default()))
            .collect();
        eprintln!("truing: kept {} of {} prompts; not: {}", kept.len(), self.draws, why.join(", "));
        Ok(())
    }

    /// Texts, and whether each came to its own end.
    fn draw(
        &self,
        model: &Arc<Model>,
        context: &mut Context,
        opening: &[TokenId],
    ) -> Result<Vec<(String, bool)>> {
        let mut stop: Vec<String> = TURN_WORDS.iter().map(|w| (*w).to_owned()).collect();
        stop.push("\n".to_owned());
        let first = Limits { max_tokens: Some(1), ..Limits::default() };
        let firsts =
            self.run_all(model, context, (0..self.draws).map(|_| opening.to_vec()), self.first_temp, &first)?;
        // one that is over at its first token, or began with a line end, is no prompt: it goes on as an empty text
        let is_over = |o: &truing::session::Outcome| o.ids.is_empty() || o.text.trim().is_empty();
        let rest = Limits { max_tokens: Some(usize::from(self.max_tokens) - 1), stop, ..Limits::default() };
        let begun: Vec<Vec<TokenId>> =
            firsts.iter().filter(|o| !is_over(o)).map(|o| [opening, &o.ids[..]].concat()).collect();
        let mut rests = self.run_all(model, context, begun.into_iter(), self.temp, &rest)?.into_iter();
        firsts
            .iter()
            .map(|first| match is_over(first) {
                true => Ok((String::new(), true)),
                false => {
                    let rest = rests.next();
                    let ids: Vec<TokenId> =
                        first.ids.iter().chain(rest.iter().flat_map(|o| &o.ids)).copied().collect();
                    let text = String::from_utf8_lossy(&model.vocab().detokenize(&ids, false)?).into_owned();
                    let is_whole =
                        rest.is_some_and(|o| matches!(o.report.finish, Finish::Eos | Finish::Stop));
                    Ok((cut(&text, &rest_stops()).to_owned(), is_whole))
                }
            })
            .collect()
    }

    fn run_all(
        &self,
        model: &Arc<Model>,
        context: &mut Context,
        prompts: impl Iterator<Item = Vec<TokenId>>,
        temperature: f32,
        limits: &Limits,
    ) -> Result<Vec<truing::session::Outcome>> {
        let n_ctx = context.n_ctx();
        let sampling = SamplingParams { temperature, ..plain_sampling(self.seed) };
        let settings = Settings::plain(sampling.clone(), limits.clone());
        let job = |(i, tokens): (usize, Vec<TokenId>)| {
            let sampling = SamplingParams { seed: self.seed.wrapping_add(i as u64), ..sampling.clone() };
            settings.job_with(tokens, sampling, limits.clone(), n_ctx)
        };
        let jobs: Vec<Job> = prompts.enumerate().map(job).collect::<truing::Result<_>>()?;
        let bar = progress::bar(jobs.len() as u64, "prompts");
        let mut sink = |_: usize, event: Event<'_>| {
            if matches!(event, Event::Done(_)) {
                bar.inc(1);
            }
        };
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = engine::run(model, context, &settings, jobs, PARALLEL, &mut sink)?;
        bar.finish_and_clear();
        if outcomes.iter().any(|o| o.report.finish == Finish::Cancelled) {
            bail!(crate::exit::Interrupted);
        }
        Ok(outcomes)
    }

    fn answer(
        &self,
        model: &Arc<Model>,
        context: &mut Context,
        kept: &[(u64, String)],
    ) -> Result<Vec<String>> {
        let template = prompt::template(model, None)?;
        let limits = Limits { max_tokens: Some(self.answer_tokens), ..Limits::default() };
        let tokens = kept
            .iter()
            .map(|(_, text)| {
                let system = self.system.iter().map(|s| Message::new("system", s));
                let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
                Ok(prompt::chat(model, &template, &messages, &RenderOptions::default(), false)?.ids)
            })
            .collect::<Result<Vec<_>>>()?;
        let outcomes = self.run_all(model, context, tokens.into_iter(), 0.0, &limits)?;
        Ok(outcomes.into_iter().map(|o| o.text).collect())
    }
}

fn rest_stops() -> Vec<&'static str> {
    TURN_WORDS.iter().copied().chain(["\n"]).collect()
}

/// `text` up to the first of `stops`.
fn cut<'t>(text: &'t str, stops: &[&str]) -> &'t str {
    let end = stops.iter().filter_map(|s| text.find(s)).min().unwrap_or(text.len());
    &text[..end]
}
