//! Whether a finished text does what was asked, part by part: the verdict on [`Constraints`].

use super::compose::{Constraints, Scope, Shape};
use super::verdict::{Checker, GrammarVerdict, Place, Verdict, read_grammar};
use crate::error::Result;
use crate::grammar::{Automaton, Machine};

/// Judges texts by what was asked of them. Made once for many texts.
#[derive(Debug)]
pub struct Judge {
    checker: Checker,
    machine: Option<Machine>,
    after: Option<String>,
    until: Option<String>,
    scope: Scope,
}

/// The parts of a text, as byte ranges.
struct Parts {
    free: (usize, usize),
    strict: (usize, usize),
    has_marker: bool,
}

impl Judge {
    /// # Errors As [`Checker::new`] and [`Grammar::compile`](crate::grammar::Grammar::compile). JSON Schema
    /// and Lark are judged by whoever parses them, not here.
    pub fn new(asked: &Constraints) -> Result<Self> {
        let machine = match &asked.shape {
            Some(Shape::Grammar(grammar)) => Some(grammar.compile(&[true; 256])?),
            _ => None,
        };
        Ok(Self {
            checker: Checker::new(&asked.wording)?,
            machine,
            after: asked.after.clone(),
            until: asked.until.clone(),
            scope: asked.scope,
        })
    }

    /// What `text` did with what was asked; places count from its beginning.
    /// # Errors `TooComplex` if the grammar outgrew its limits.
    pub fn verdict(&self, text: &str) -> Result<Verdict> {
        let parts = self.split(text)?;
        let (from, to) = match self.scope {
            _ if self.after.is_none() => (0, text.len()),
            Scope::Strict => parts.strict,
            Scope::Free => parts.free,
            Scope::All => (0, text.len()),
        };
        let mut verdict = self.checker.check(&text[from..to], None)?;
        shift(&mut verdict, from);
        verdict.satisfied &= parts.has_marker;
        match &self.machine {
            Some(machine) => Ok(verdict.with_grammar(shape_verdict(machine, text, &parts)?)),
            None => Ok(verdict),
        }
    }

    fn split(&self, text: &str) -> Result<Parts> {
        let whole = (0, text.len());
        let Some(after) = &self.after else {
            return Ok(Parts { free: (0, 0), strict: whole, has_marker: true });
        };
        let Some(at) = text.find(after.as_str()) else {
            return Ok(Parts { free: whole, strict: (text.len(), text.len()), has_marker: false });
        };
        let from = at + after.len();
        Ok(Parts { free: (0, at), strict: (from, self.strict_end(text, from)?), has_marker: true })
    }

    /// Where the strict part that begins at `from` ends: at the first end marker where it may end.
    fn strict_end(&self, text: &str, from: usize) -> Result<usize> {
        let Some(until) = &self.until else { return Ok(text.len()) };
        for (at, _) in text[from..].match_indices(until.as_str()) {
            let part = &text[from..from + at];
            let shaped = match &self.machine {
                Some(machine) => read_grammar(machine, part)?.satisfied,
                None => true,
            };
            if shaped && (self.scope != Scope::Strict || self.checker.is_satisfied(part)) {
                return Ok(from + at);
            }
        }
        Ok(text.len())
    }
}

fn shape_verdict(machine: &Machine, text: &str, parts: &Parts) -> Result<GrammarVerdict> {
    if !parts.has_marker {
        return Ok(GrammarVerdict { satisfied: false, refused_at: None });
    }
    let (from, to) = parts.strict;
    let verdict = read_grammar(machine, &text[from..to])?;
    machine.check()?;
    Ok(GrammarVerdict { refused_at: verdict.refused_at.map(|at| at + from), ..verdict })
}

fn shift(verdict: &mut Verdict, by: usize) {
    let clauses = verdict.include.iter_mut().map(|c| &mut c.places);
    let all = clauses.chain(verdict.exclude.iter_mut().map(|e| &mut e.places));
    all.flatten().for_each(|p: &mut Place| (p.start, p.end) = (p.start + by, p.end + by));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::align::{Clause, Wording};
    use crate::grammar::Grammar;

    #[test]
    fn parts_are_judged_where_they_stand() {
        let wording = Wording { include: vec![Clause::any(["7"])], ..Wording::default() };
        let asked = |scope, until: Option<&str>| Constraints {
            wording: wording.clone(),
            shape: Some(Shape::Grammar(Grammar::regex("[0-9 ]+").unwrap())),
            after: Some("=".to_owned()),
            until: until.map(str::to_owned),
            scope,
            ..Constraints::default()
        };
        for (scope, until, text, satisfied, place) in [
            (Scope::Strict, None, "so 7 = 7", true, Some(7)),
            (Scope::Free, None, "so 7 = 8", true, Some(3)),
            (Scope::Strict, None, "so 7 = 8", false, None),
            (Scope::All, None, "so 7 = 8", true, Some(3)),
            (Scope::Strict, Some(" ok"), "so = 7 ok? 8", true, Some(5)),
            (Scope::Strict, Some(" ok"), "so = 7 and ok", false, None),
            (Scope::Strict, None, "so 7", false, None),
        ] {
            let verdict = Judge::new(&asked(scope, until)).unwrap().verdict(text).unwrap();
            assert_eq!(verdict.satisfied, satisfied, "{scope:?} {text}");
            if let Some(place) = place {
                assert_eq!(verdict.include[0].places[0].start, place, "{scope:?} {text}");
            }
        }
    }
}
