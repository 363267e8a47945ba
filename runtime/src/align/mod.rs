//! Hard constraints on the text while it is generated: automata over bytes, applied to tokens.

mod bytewise;
#[cfg(test)]
mod bytewise_tests;
mod constraint;
mod lexical;
mod masks;
mod trie;

pub use bytewise::{Bytewise, Limits};
pub use constraint::Constraint;
pub use lexical::{
    Boundary, Case, Clause, HoldBack, Match, Norm, Phrase, Range, Unit, Wording, WordingAutomaton,
    WordingState,
};
pub use trie::{ListVocab, TokenBytes, TokenTrie};
