//! Exit codes and the one line that goes with them.

use std::process::ExitCode;
use truing::ErrorKind;

/// Marks an error as one of the input (a model or data file): exit code 3 whatever its kind.
#[derive(Debug)]
pub struct BadInput(pub String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// A request that makes no sense as given: exit code 2, as clap's own errors.
#[derive(Debug)]
pub struct BadUsage(pub String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

/// The run was interrupted by the user: exit code 130, nothing to explain.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Prints `error` on stderr and chooses the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS; // the reader has seen enough, as with `head`
    }
    let code = code_of(error);
    eprintln!("truing: {}", message(error));
    ExitCode::from(code)
}

/// The chain's messages, outermost first, without repeating what an outer one already says.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for part in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = part;
        } else if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Interrupted>() {
            return 130;
        }
        if cause.is::<BadInput>() {
            return 3;
        }
        if cause.is::<BadUsage>() {
            return 2;
        }
        if let Some(e) = cause.downcast_ref::<truing::Error>() {
            return code_of_kind(e.kind());
        }
    }
    1
}

fn code_of_kind(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::BadFile | ErrorKind::Unsupported => 3,
        ErrorKind::InvalidArgument | ErrorKind::BadProfile => 2,
        ErrorKind::Cancelled => 130,
        _ => 1,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|c| {
        c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
