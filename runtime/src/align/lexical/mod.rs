//! Words to use, words to avoid, and how long the text is.
//!
//! [`Wording`] is what a caller asks; [`WordingAutomaton`] enforces it byte by byte, whatever the
//! tokenizer: phrases are compared in folded, decomposed Unicode, on word boundaries if wanted.

mod automaton;
mod chartypes;
mod finder;
mod fold;
mod gate;
mod grapheme;
mod holdback;
#[cfg(test)]
mod holdback_tests;
mod lane;
mod matcher;
mod meter;
#[cfg(test)]
mod reference;
mod sentence;
mod spec;
#[cfg(test)]
mod tests;
mod units;
mod witness;

pub use automaton::{WordingAutomaton, WordingState};
pub(super) use finder::{Finder, Findings, Hit, Hits};
pub use fold::{Case, Norm};
pub use holdback::{HoldBack, Match};
pub use meter::{Meter, UnitCounts};
pub use spec::{Boundary, Clause, Phrase, Range, Unit, Wording};
