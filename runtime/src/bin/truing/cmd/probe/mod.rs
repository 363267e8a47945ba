//! `truing probe`: train, test and look at probes.

pub mod lists;
pub mod plot;
pub mod samples;
mod test;
pub mod train;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Train, test and inspect probes: what a guard reads from hidden states
#[derive(Debug, Args)]
pub struct Probe {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(train::Train),
    Test(test::Test),
    Inspect(test::Inspect),
}

impl Probe {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Train(train) => train.run(),
            Action::Test(test) => test.run(),
            Action::Inspect(inspect) => inspect.run(),
        }
    }
}
