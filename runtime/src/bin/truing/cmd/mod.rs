//! One file a command.

use anyhow::Result;
use clap::Subcommand;

/// The commands of `truing`.
#[derive(Debug, Subcommand)]
pub enum Command {}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {}
    }
}
