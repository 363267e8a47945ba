//! One file a command.

mod arena;
mod bench;
mod chat;
mod check;
mod control;
mod eval;
mod generate;
mod inspect;
mod logits;
mod probe;
pub mod pull;
mod score;
mod synth;
mod tokenize;

use anyhow::Result;
use clap::Subcommand;

/// The commands of `truing`.
#[derive(Debug, Subcommand)]
pub enum Command {
    Chat(chat::Chat),
    Generate(generate::Generate),
    Score(score::Score),
    Logits(logits::Logits),
    Tokenize(tokenize::Tokenize),
    Detokenize(tokenize::Detokenize),
    Inspect(inspect::Inspect),
    Pull(pull::Pull),
    List(pull::List),
    Rm(pull::Rm),
    Bench(bench::Bench),
    Check(check::Check),
    Eval(eval::Eval),
    Probe(probe::Probe),
    Control(control::Control),
    Arena(arena::Arena),
    Synth(synth::Synth),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Chat(c) => c.run(),
            Self::Generate(c) => c.run(),
            Self::Score(c) => c.run(),
            Self::Logits(c) => c.run(),
            Self::Tokenize(c) => c.run(),
            Self::Detokenize(c) => c.run(),
            Self::Inspect(c) => c.run(),
            Self::Pull(c) => c.run(),
            Self::List(c) => c.run(),
            Self::Rm(c) => c.run(),
            Self::Bench(c) => c.run(),
            Self::Check(c) => c.run(),
            Self::Eval(c) => c.run(),
            Self::Probe(c) => c.run(),
            Self::Control(c) => c.run(),
            Self::Arena(c) => c.run(),
            Self::Synth(c) => c.run(),
        }
    }
}
