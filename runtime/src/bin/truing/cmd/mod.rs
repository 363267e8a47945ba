//! One file a command.

mod inspect;

use anyhow::Result;
use clap::Subcommand;

/// The commands of `truing`.
#[derive(Debug, Subcommand)]
pub enum Command {
    Inspect(inspect::Inspect),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Inspect(c) => c.run(),
        }
    }
}
