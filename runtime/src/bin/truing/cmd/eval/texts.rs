//! Texts that come with rows: what a grammar or schema must take, and what it must refuse.

use super::judge::{Judge, Score, Scores, Validity};
use std::sync::Arc;
use truing::align::{Constraint, Constraints, Lexicon, Limits, ListVocab, Shape};
use truing::grammar::{Automaton, Machine};

/// Judges them, without any model.
pub struct Texts {
    /// A vocabulary of single bytes: what it may write does not depend on a tokenizer.
    bytes: Lexicon,
}

impl Texts {
    pub fn new() -> Self {
        Self { bytes: Lexicon::new(Arc::new(ListVocab::new((0..=u8::MAX).map(|b| [b])))) }
    }

    /// The scores of a row's own texts, if it has any.
    pub fn score(&self, judge: &Judge, machine: Option<&Machine>) -> Scores {
        match (judge, machine) {
            (Judge::Grammar { tests }, Some(machine)) => grammar(tests, machine),
            (Judge::Schema { schema, tests, .. }, _) => self.schema(schema.to_string(), tests),
            _ => Vec::new(),
        }
    }

    /// Whether the schema compiles; valid values that it lets through, invalid ones that it does not.
    fn schema(&self, schema: String, tests: &[(String, bool)]) -> Scores {
        let asked = Constraints { shape: Some(Shape::JsonSchema(schema)), ..Constraints::default() };
        let Ok(constraint) = asked.compile(&self.bytes, Limits::default()) else {
            return vec![share("compiled", (0, 1))];
        };
        let (mut valid, mut invalid) = ((0, 0), (0, 0));
        for (text, is_valid) in tests {
            let is_taken = takes(&*constraint, text);
            let count = if *is_valid { &mut valid } else { &mut invalid };
            *count = (count.0 + usize::from(is_taken == *is_valid), count.1 + 1);
        }
        filled([("compiled", (1, 1)), ("valid_accepted", valid), ("invalid_refused", invalid)])
    }
}

/// Whether a text is let through to its end; one that the engine gives up on is not.
fn takes(constraint: &dyn Constraint, text: &str) -> bool {
    let mut constraint = constraint.fork();
    text.bytes().all(|b| constraint.accept(b.into()).unwrap_or(false)) && constraint.may_end()
}

fn grammar(tests: &[Validity], machine: &Machine) -> Scores {
    let (mut accept, mut reject) = ((0, 0), (0, 0));
    for test in tests {
        let found = viable(machine, &test.text);
        match test.viable {
            None => accept = (accept.0 + usize::from(found == Viability::Accepted), accept.1 + 1),
            Some(n) => {
                let is_right = match found {
                    Viability::Accepted => false,
                    Viability::Unfinished => n == test.text.chars().count(),
                    Viability::RefusedAfter(chars) => n == chars,
                };
                reject = (reject.0 + usize::from(is_right), reject.1 + 1);
            }
        }
    }
    filled([("texts_accepted", accept), ("texts_refused_in_place", reject)])
}

fn share(name: &str, (k, n): (usize, usize)) -> (String, Score) {
    (name.to_owned(), Score::Share { k, n })
}

/// Shares of something.
fn filled<const N: usize>(counts: [(&str, (usize, usize)); N]) -> Scores {
    counts.into_iter().filter(|(_, (_, n))| *n > 0).map(|(name, count)| share(name, count)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Viability {
    Accepted,
    /// A beginning of a text of the grammar.
    Unfinished,
    /// So many characters can still be completed, the next one cannot.
    RefusedAfter(usize),
}

fn viable(machine: &Machine, text: &str) -> Viability {
    let mut state = machine.start();
    for (n, c) in text.chars().enumerate() {
        match machine.run(state, c.encode_utf8(&mut [0; 4]).as_bytes()) {
            Some(next) => state = next,
            None => return Viability::RefusedAfter(n),
        }
    }
    if machine.accepts(state) { Viability::Accepted } else { Viability::Unfinished }
}
