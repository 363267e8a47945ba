//! Toy models with known laws, and statistical tests with guaranteed error rates.
//!
//! Exactness cannot be seen in text from a large model. It can be proved in seconds on models small enough
//! to enumerate: every oracle here speaks [`NextLogits`](crate::sampling::NextLogits), so that the
//! production samplers, constraints and caches are what is tested, and its exact law is computed apart from
//! them, in double precision. A test that a known wrong implementation passes is not a test: each comes
//! with a companion that runs the fake and asserts that it fails.
//!
//! | oracle | what for |
//! |---|---|
//! | [`toy_a`], [`toy_b`] | decoders and rewards: 121 strings, and a reward only look-ahead sees |
//! | [`Instance`] ([`r1`], [`random_instance`]) | constrained sampling: Markov model × byte automaton × budget |
//! | [`HashLaw`] | caches and positions: any wrong past changes all later logits |
//! | [`Script`] | guards and drafts: plays fixed bytes through any tokenisation |
//!
//! [`Toy`] runs a law directly; [`paged`] runs it through the production context and its pages.

mod dfa;
mod exact;
mod hash;
mod instance;
mod law;
mod masks;
mod paged;
mod script;
mod statistics;
mod tables;
#[cfg(test)]
mod tests;

pub use dfa::ByteDfa;
pub use exact::{Exact, Sequence};
pub use hash::HashLaw;
pub use instance::{Instance, Markov, r1, random_instance};
pub use law::{Law, Toy, ToyBranch, enumerate};
pub use masks::Masks;
pub use paged::paged;
pub use script::Script;
pub use statistics::{Failure, cell_test, mean_test, power, total_variation, tv_test};
pub use tables::{ToyA, ToyB, toy_a, toy_b};
