//! The command `truing`: parses arguments, runs one command, turns its error into an exit code.

mod args;
mod cmd;
mod exit;
mod interrupt;
mod nudging;
mod output;
mod progress;
mod prompt;
mod rows;

use clap::Parser;
use std::process::ExitCode;

/// Run a language model on this machine and make it do what you asked while it decodes.
///
/// MODEL is a path to a GGUF file or a name from `truing list`; without one the default model is used and
/// fetched on first use.
#[derive(Debug, Parser)]
#[command(name = "truing", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

const EXAMPLES: &str = "\
Examples:
  truing chat                                        talk to the default model
  truing generate -p \"Name three rivers.\" --temp 0   one answer, always the same
  echo \"Why is the sky blue?\" | truing chat          answers and exits
  truing generate model.gguf --raw -f prompt.txt     continue a text, no chat template
  truing inspect model.gguf                          what is in the file, what truing will do with it

Results go to stdout, progress and messages to stderr; --json prints for programs.
Exit codes: 0 done, 1 the run failed, 2 bad usage, 3 bad model or input file, 130 interrupted.";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
