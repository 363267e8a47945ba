//! Whether a text matches a regular expression.

use super::{Candidate, Reward, Score, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, Grammar, Machine};
use serde::Deserialize;

/// What a pattern is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternMode {
    /// It occurs somewhere.
    #[default]
    Search,
    /// The whole text matches.
    Full,
    /// It occurs nowhere.
    Forbid,
}

/// 1 if the pattern is kept, 0 if not. An automaton reads the text once, whatever the pattern.
pub struct PatternReward {
    machine: Machine,
    mode: PatternMode,
}

impl PatternReward {
    /// # Errors `BadProfile` with the place, `Unsupported` for assertions, `TooComplex`.
    pub fn new(pattern: &str, mode: PatternMode) -> Result<Self> {
        let anywhere = format!("(?s:.*)(?:{pattern})(?s:.*)");
        // read alone first, so that an error names the place in what the caller wrote
        let alone = Grammar::regex(pattern)?;
        let grammar = if mode == PatternMode::Full { alone } else { Grammar::regex(&anywhere)? };
        Ok(Self { machine: grammar.compile(&[true; 256])?, mode })
    }
}

impl Reward for PatternReward {
    fn name(&self) -> &str {
        "regex"
    }

    fn score(&mut self, _: &str, candidate: Candidate<'_>) -> Result<Score> {
        let m = &self.machine;
        let state = m.run(m.start(), candidate.text.as_bytes());
        m.check()?;
        let matches = state.is_some_and(|s| m.accepts(s));
        let is_dead = state.is_none();
        let now = |kept: bool| if kept { 1.0 } else { 0.0 };
        Ok(match (self.mode, candidate.is_closed) {
            (PatternMode::Forbid, true) => Score::fixed(now(!matches), !matches),
            (_, true) => Score::fixed(now(matches), matches),
            (PatternMode::Search, false) if matches => Score::fixed(1.0, true),
            (PatternMode::Forbid, false) if matches => Score::fixed(0.0, false),
            (PatternMode::Full, false) if is_dead => Score::fixed(0.0, false),
            (PatternMode::Search, false) if is_dead => {
                return Err(Error::new(ErrorKind::Internal, "a search met a dead state"));
            }
            (PatternMode::Search | PatternMode::Full, false) => {
                Score { value: now(matches), lo: 0.0, hi: 1.0, status: Status::Open }
            }
            (PatternMode::Forbid, false) => Score { value: 1.0, lo: 0.0, hi: 1.0, status: Status::Open },
        })
    }
}
