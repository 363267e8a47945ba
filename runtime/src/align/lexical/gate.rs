//! What can be read but not satisfied is refused before the first token, by name.

use super::automaton::WordingAutomaton;
use super::spec::{Phrase, Range, Unit, Wording};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, ByteSet};

impl Wording {
    /// The automaton of this wording, for a vocabulary that can write `available` bytes one at a time.
    /// # Errors
    /// `BadProfile`: a phrase that is empty once normalised, a clause without phrases, a lower limit above the
    /// upper one. `TooComplex`: more than 64 clauses, or beyond the size limits. `Unencodable`: no
    /// phrase of a clause can be written. `Unsatisfiable`: every phrase of a clause contains an excluded
    /// one, or no text within the lengths is known. `Unsupported`: piled-up combining marks.
    pub fn compile(&self, available: &ByteSet) -> Result<WordingAutomaton> {
        self.check_numbers()?;
        let kept = self.without_hopeless(available)?;
        let automaton = WordingAutomaton::new(&kept, available)?;
        let mut text = Vec::new();
        if automaton.complete(automaton.start(), &mut text) {
            return Ok(automaton);
        }
        Err(kept.why_not(available)?)
    }

    fn check_numbers(&self) -> Result<()> {
        let bad = |message: String| Err(Error::new(ErrorKind::BadProfile, message));
        for (i, clause) in self.include.iter().enumerate() {
            let place = || format!("include clause {}", i + 1);
            if clause.any.is_empty() {
                return bad("expected at least one phrase, found none".to_owned())
                    .map_err(|e: Error| e.at(place()));
            }
            if let Some(max) = clause.at_most.filter(|&m| m < clause.at_least) {
                let message =
                    format!("at least {} times and at most {max} times exclude each other", clause.at_least);
                return bad(message).map_err(|e: Error| e.at(place()));
            }
            if self.ordered && clause.at_most.is_some() {
                return bad("an upper count cannot be kept in an ordered list".to_owned())
                    .map_err(|e: Error| e.at(place()));
            }
            if clause.at_least > MAX_TIMES {
                let message =
                    format!("at least {} times, more than {MAX_TIMES} are not counted", clause.at_least);
                return Err(Error::new(ErrorKind::TooComplex, message).at(place()));
            }
        }
        for (unit, Range { min, max }) in Unit::ALL.into_iter().zip(self.length) {
            if let Some(max) = max.filter(|&m| m < min) {
                return bad(format!(
                    "length in {}: the lower limit {min} is above the upper limit {max}",
                    unit.name()
                ));
            }
            if min > MAX_LENGTH {
                let message = format!(
                    "length in {}: at least {min}, more than {MAX_LENGTH} are not enforced",
                    unit.name()
                );
                return Err(Error::new(ErrorKind::TooComplex, message));
            }
        }
        Ok(())
    }

    /// This wording without phrases that cannot be written or that contain an excluded phrase.
    fn without_hopeless(&self, available: &ByteSet) -> Result<Self> {
        let mut kept = self.clone();
        let bans = Self { exclude: self.exclude.clone(), ..Self::default() };
        let bans = WordingAutomaton::new(&bans, available)?;
        for (i, (clause, original)) in kept.include.iter_mut().zip(&self.include).enumerate() {
            let place = || format!("include clause {}", i + 1);
            let names =
                || original.any.iter().map(|p| format!("{:?}", p.text)).collect::<Vec<_>>().join(", ");
            clause.any.retain(|p| p.text.bytes().all(|b| available[usize::from(b)]));
            if clause.any.is_empty() {
                let message = format!("the vocabulary cannot write {}", names());
                return Err(Error::new(ErrorKind::Unencodable, message).at(place()));
            }
            let mut culprit = None;
            clause.any.retain(|p| {
                let banned = bans.banned_in(&p.text);
                let keep = banned.is_none();
                culprit = culprit.take().or(banned);
                keep
            });
            if clause.any.is_empty() {
                let phrase = culprit.and_then(|c| self.exclude.get(c)).map_or("", |p: &Phrase| &p.text);
                let message = format!("{} contains the excluded phrase {phrase:?}", names());
                return Err(Error::new(ErrorKind::Unsatisfiable, message).at(place()));
            }
        }
        Ok(kept)
    }

    /// Why no text is known: a length that what must be said does not fit into, if that is it.
    fn why_not(&self, available: &ByteSet) -> Result<Error> {
        let mut loose = self.clone();
        // counters run only where a limit is set
        loose.length.iter_mut().for_each(|r| r.max = r.max.map(|_| u32::MAX - 1));
        let automaton = WordingAutomaton::new(&loose, available)?;
        let mut text = Vec::new();
        if !automaton.complete(automaton.start(), &mut text) {
            return Ok(Error::new(
                ErrorKind::Unsatisfiable,
                "no text is known that holds what must and nothing that must not be said",
            ));
        }
        let counts = automaton.run(automaton.start(), &text).map(|s| s.units.n).unwrap_or_default();
        let over = Unit::ALL.into_iter().find_map(|unit| {
            let (need, limit) = (counts[unit as usize], self.length[unit as usize].max);
            limit.filter(|&have| have < need).map(|have| {
                format!("length in {}: what must be said takes {need}, only {have} are allowed", unit.name())
            })
        });
        let message = over
            .unwrap_or_else(|| "no text is known that meets all limits on its length together".to_owned());
        Ok(Error::new(ErrorKind::Unsatisfiable, message))
    }
}

/// Most repetitions of a clause.
const MAX_TIMES: u32 = 1000;
/// Longest text that a lower limit can ask for, in any unit.
const MAX_LENGTH: u32 = 1 << 15;
