//! Printing: results to stdout, everything else to stderr.

use anyhow::Result;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use truing::model::CancelFlag;

/// Prints one JSON value on a line of its own.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Prints text and flushes, so that a reader sees each token as it comes.
pub fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Prints a line.
pub fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{text}")?)
}

/// Whether to use colour on stderr and stdout: a terminal, and `NO_COLOR` unset.
pub fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// `text` in a fainter colour, on a terminal.
pub fn dim(text: &str) -> String {
    match colour() {
        true => format!("\x1b[2m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Printing while a model runs: the first failure, such as a reader that left, stops the model too.
pub struct Printing {
    cancel: CancelFlag,
    failed: Option<anyhow::Error>,
}

impl Printing {
    /// Sets `cancel` on failure.
    pub fn new(cancel: CancelFlag) -> Self {
        Self { cancel, failed: None }
    }

    /// Prints, unless printing has failed already.
    pub fn attempt(&mut self, print: impl FnOnce() -> Result<()>) {
        if self.failed.is_none()
            && let Err(error) = print()
        {
            self.failed = Some(error);
            self.cancel.cancel();
        }
    }

    /// The failure, if there was one.
    pub fn result(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// `bytes` for people: `98.4 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::Printing;
    use truing::model::CancelFlag;

    #[test]
    fn a_failed_print_stops_the_model_and_is_the_one_reported() {
        let flag = CancelFlag::default();
        let mut printing = Printing::new(flag.clone());
        printing.attempt(|| Ok(()));
        assert!(!flag.is_cancelled());
        printing.attempt(|| Err(anyhow::anyhow!("first")));
        assert!(flag.is_cancelled());
        printing.attempt(|| unreachable!("nothing is printed after a failure"));
        assert_eq!(printing.result().expect_err("failed").to_string(), "first");
    }

    #[test]
    fn sizes_change_unit_before_they_reach_four_digits() {
        assert_eq!(super::size(999), "999 B");
        assert_eq!(super::size(98_362_432), "98.4 MB");
        assert_eq!(super::size(999_990), "1.0 MB");
    }
}
