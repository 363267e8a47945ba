//! Hard constraints on the text while it is generated: automata over bytes, applied to tokens.

mod both;
#[cfg(test)]
mod both_tests;
mod bytewise;
#[cfg(test)]
mod bytewise_tests;
mod compose;
mod conditioned;
mod constraint;
mod guided;
mod healing;
mod judge;
mod lexical;
mod lexicon;
mod masks;
mod staged;
#[cfg(test)]
mod staged_tests;
mod steps;
mod together;
#[cfg(test)]
mod together_tests;
mod trie;
mod verdict;

pub use both::Both;
pub use bytewise::{Bytewise, Limits};
pub use compose::{Constraints, Scope, Shape};
pub use conditioned::ConstraintMasks;
pub use constraint::Constraint;
pub use guided::{Guide, GuidedGrammar, JsonOptions, Tool, Whitespace};
pub use healing::{Healing, taken_back};
pub use judge::Judge;
pub use lexical::{
    Boundary, Case, Clause, HoldBack, Match, Meter, Norm, Phrase, Range, Unit, UnitCounts, Wording,
    WordingAutomaton, WordingState,
};
pub use lexicon::Lexicon;
pub use staged::{Anything, Staged, StagedState};
pub use trie::{ListVocab, TokenBytes, TokenTrie};
pub use verdict::{
    Checker, ClauseVerdict, ExcludeVerdict, GrammarVerdict, LengthVerdict, Place, Verdict, read_grammar,
};
