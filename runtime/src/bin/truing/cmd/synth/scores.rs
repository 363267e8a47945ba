//! Opinions on answers: what pairs are made by.

use crate::args;
use crate::exit::BadUsage;
use crate::rows::Row;
use anyhow::Result;
use clap::ValueEnum;
use std::sync::Arc;
use truing::config::{RewardKind, RewardSection};
use truing::engine::model_reward;
use truing::eval::{self, Instruction, PairSource};
use truing::model::Model;
use truing::reward::{Candidate, Reward};

/// `--source`, `--agree`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Share of the row's checks (or concepts) that an answer keeps
    Csr,
    /// What the answering model finds likelier than the --reference does
    Implicit,
    /// A model's yes or no to whether the answer is a good one
    Judge,
    /// The --reward
    Rm,
}

impl Source {
    pub fn name(self) -> PairSource {
        match self {
            Self::Csr => PairSource::Csr,
            Self::Implicit => PairSource::Implicit,
            Self::Judge => PairSource::Judge,
            Self::Rm => PairSource::Rm,
        }
    }

    /// Probability that an answer of score `better` is better than one of score `worse`; the two add up to 1.
    pub fn preference(self, better: f64, worse: f64) -> f64 {
        match self {
            // shares: half of the difference, so that a full one is certain
            Self::Csr => 0.5 + (better - worse) / 2.0,
            // scores are log-odds already, the judge's after this
            Self::Judge => 1.0 / (1.0 + (logit(worse) - logit(better)).exp()),
            Self::Implicit | Self::Rm => 1.0 / (1.0 + (worse - better).exp()),
        }
    }
}

fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-9, 1.0 - 1e-9);
    (p / (1.0 - p)).ln()
}

/// The models an opinion may ask.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub model: &'a Arc<Model>,
    pub reference: Option<&'a str>,
    pub judge: Option<&'a str>,
    pub beta: f64,
    pub rewards: &'a [RewardSection],
}

/// Scores answers.
pub enum Scorer {
    Csr,
    Reward(Box<dyn Reward>),
}

impl Scorer {
    pub fn new(source: Source, asked: Asked<'_>) -> Result<Self> {
        let own = |name: &str| -> Result<Arc<Model>> {
            if name.is_empty() { Ok(Arc::clone(asked.model)) } else { args::open_named(name) }
        };
        let of = |section: RewardSection| -> Result<Self> {
            // models are opened first: an error of the command line keeps its exit code
            let names: Vec<String> = section.model.iter().chain(&section.base).cloned().collect();
            let opened = names.iter().map(|n| Ok((n.clone(), own(n)?))).collect::<Result<Vec<_>>>()?;
            let find = |name: &str| {
                let found = opened.iter().find(|(n, _)| n == name).map(|(_, m)| Arc::clone(m));
                found.ok_or_else(|| {
                    truing::Error::new(truing::ErrorKind::Internal, "a model that was not opened")
                })
            };
            let rule = section.rule(&[], &mut |file| {
                std::fs::read_to_string(file)
                    .map_err(|e| truing::Error::new(truing::ErrorKind::Io, e.to_string()).at(file.to_owned()))
            })?;
            Ok(Self::Reward(rule.map_or_else(|| model_reward(&section, &find), Ok)?))
        };
        match source {
            Source::Csr => Ok(Self::Csr),
            Source::Implicit => {
                let reference = asked.reference.ok_or_else(|| {
                    BadUsage("--source implicit: expected --reference MODEL, found none".into())
                })?;
                of(RewardSection {
                    model: Some(String::new()),
                    base: Some(reference.to_owned()),
                    beta: Some(asked.beta),
                    ..RewardSection::of(RewardKind::Implicit)
                })
            }
            Source::Judge => of(RewardSection {
                model: Some(asked.judge.unwrap_or_default().to_owned()),
                ..RewardSection::of(RewardKind::Judge)
            }),
            Source::Rm => match asked.rewards {
                [one] => of(one.clone()),
                found => {
                    let message = format!("--source rm: expected one --reward, found {}", found.len());
                    Err(BadUsage(message).into())
                }
            },
        }
    }

    /// The score of an answer to the row's prompt.
    pub fn score(&mut self, row: &Row, prompt: &str, text: &str) -> Result<f64> {
        match self {
            Self::Csr => csr(row, text),
            Self::Reward(reward) => {
                let candidate = Candidate { text, is_closed: true };
                let score = reward.score(prompt, candidate)?;
                Ok(truing::reward::check_finite(reward.name(), score, text)?.value)
            }
        }
    }
}

/// Mean over what the row asks: its checks, or its concepts.
pub fn csr(row: &Row, text: &str) -> Result<f64> {
    if row.get("checks").is_some() {
        let parse = |v| Instruction::parse(v).map_err(|e| row.bad(format_args!("key `checks`: {e}")));
        let checks: Vec<Instruction> = row.list("checks")?.iter().map(parse).collect::<Result<_>>()?;
        let kept = checks.iter().filter(|c| c.holds(text)).count();
        return Ok(kept as f64 / checks.len().max(1) as f64);
    }
    let forms = row.need("forms").map_err(|_| row.bad("expected `checks`, or `concepts` with `forms`"))?;
    let mut concepts = Vec::new();
    for name in row.texts("concepts")? {
        let list = forms.get(&name).and_then(|v| v.as_array()).cloned().unwrap_or_default();
        let texts: Vec<String> = list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        concepts.push(if texts.is_empty() { vec![name] } else { texts });
    }
    Ok(eval::coverage(text, &concepts).soft())
}
