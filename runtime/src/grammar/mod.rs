//! Grammars and regular expressions as byte automata. Knows nothing of tokens or models.
//!
//! [`Grammar`] reads GBNF or a regular expression and checks it; [`Grammar::compile`] gives a
//! [`Machine`], which accepts exactly the texts of the grammar, byte by byte, and knows of every
//! prefix whether and how soon it can be completed.

mod alphabet;
mod arena;
mod automaton;
mod charset;
mod dfa;
mod expr;
mod gbnf;
mod leftrec;
mod machine;
#[cfg(test)]
mod machine_tests;
mod network;
mod regex;

pub use alphabet::ByteSet;
pub(crate) use alphabet::{Alphabet, Decoded, Letter};
pub use automaton::{Automaton, Completion};
pub(crate) use charset::CharSet;
pub use dfa::Dfa;
pub use expr::Grammar;
pub use machine::Machine;
