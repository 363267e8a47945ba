//! Which of the words asked for a text uses.

use super::{Candidate, Reward, Score, Status};
use crate::align::{Clause, Wording, WordingAutomaton};
use crate::error::Result;
use crate::grammar::Automaton;

/// Share of clauses of which some phrase occurs (soft), or whether all have one (hard). A word at the end of open
/// text does not count yet: more letters could follow. What was said stays said, so the value only grows.
pub struct Keywords {
    automaton: WordingAutomaton,
    n_clauses: usize,
    is_hard: bool,
}

impl Keywords {
    /// # Errors Those of the phrases; `InvalidArgument` without any clause.
    pub fn new(clauses: Vec<Clause>, is_hard: bool) -> Result<Self> {
        let n_clauses = clauses.len();
        if n_clauses == 0 {
            return Err(super::bad("keywords", "at least one", 0));
        }
        let include = clauses.into_iter().map(|c| Clause { at_least: 1, at_most: None, ..c }).collect();
        let wording = Wording { include, ..Wording::default() };
        Ok(Self { automaton: WordingAutomaton::new(&wording, &[true; 256])?, n_clauses, is_hard })
    }
}

impl Reward for Keywords {
    fn name(&self) -> &str {
        "keyword"
    }

    fn step(&self) -> f64 {
        if self.is_hard { 1.0 } else { 1.0 / self.n_clauses as f64 }
    }

    fn score(&mut self, _: &str, candidate: Candidate<'_>) -> Result<Score> {
        let a = &self.automaton;
        let state = a.run(a.start(), candidate.text.as_bytes()).unwrap_or(a.start());
        let met = if candidate.is_closed { a.met(state) } else { a.met_for_good(state) };
        let n = met.count_ones() as usize;
        let has_all = n == self.n_clauses;
        let value = match self.is_hard {
            true => f64::from(u8::from(has_all)),
            false => n as f64 / self.n_clauses as f64,
        };
        Ok(match candidate.is_closed || has_all {
            true => Score::fixed(value, has_all),
            false => Score { value, lo: value, hi: 1.0, status: Status::Open },
        })
    }
}
