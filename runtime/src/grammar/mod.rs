//! Grammars and regular expressions as byte automata. Knows nothing of tokens or models.

mod automaton;
mod dfa;

pub use automaton::{Automaton, Completion};
pub use dfa::Dfa;
