//! `truing synth`: data to teach other models with.

mod pairs;
mod prompts;
mod scores;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Make data: prompts that a model has made up, pairs of a better and a worse answer.
#[derive(Debug, Args)]
#[command(after_help = "\
Files are written beside their place and moved there at the end: a run that is cut short leaves no half file.

Examples:
  truing synth prompts smollm2 -n 50 --out prompts.jsonl --answers
  truing synth pairs smollm2 --data ifeval.jsonl --source csr --out pairs.jsonl
  truing synth pairs smollm2 --data prompts.jsonl --source implicit --reference gemma3-270m --agree judge --out pairs.jsonl")]
pub struct Synth {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Prompts(prompts::Prompts),
    Pairs(pairs::Pairs),
}

impl Synth {
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Prompts(c) => c.run(),
            What::Pairs(c) => c.run(),
        }
    }
}
