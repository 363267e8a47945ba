//! JSON Schema and Lark grammars as constraints, on the llguidance engine.
//!
//! The engine says which tokens may come next (a lexer of lazily built automata below an Earley parser). What it
//! does not say is added here: every keyword is enforced or refused by name, numbers stay short enough to be read
//! back, and with a limit in tokens a completion that fits is known at every step, so that the text always ends
//! in time.
//!
//! ```no_run
//! # fn main() -> truing::error::Result<()> {
//! # use std::sync::Arc;
//! # use truing::align::{Guide, GuidedGrammar, JsonOptions, Limits, ListVocab, TokenTrie};
//! # let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(["a"]))));
//! let guide = Arc::new(Guide::new(trie)?); // one per vocabulary
//! let grammar = GuidedGrammar::json_schema_str(&guide, r#"{"type": "integer"}"#, &JsonOptions::default())?;
//! let constraint = grammar.constraint(Limits { max_tokens: Some(20), ..Limits::default() })?; // one per text
//! # Ok(()) }
//! ```
//!
//! A text is narrower than its schema in these ways: properties come in the schema's order (those only required
//! last), white space as [`Whitespace`] says, strings without `\u`, `\/` and control characters other than
//! `\b \f \n \r \t`, integers without fraction or exponent, numbers of at most 32 bytes and
//! 18 digits before the point.
//! Names that the schema does not list may repeat.
//!
//! Cost: 10 to 25 µs a mask in JSON text, up to 0.5 ms where a wide lexeme meets a new state, some
//! allocations each; 1 to 5 ms to compile. With a limit 20 to 200 µs more a token. It loses to
//! [`Bytewise`](super::Bytewise) for regular languages, whose masks can be cached whole and whose distances are
//! exact.

mod completion;
mod grammar;
mod guard;
mod guide;
mod schema;
#[cfg(test)]
mod tests;
mod text;

pub use grammar::{GuidedGrammar, JsonOptions, Tool, Whitespace};
pub use guide::Guide;
