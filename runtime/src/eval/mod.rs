//! Scores of texts: rules that decide, counts and distances, and how sure a figure is.
//!
//! Everything here reads finished texts; no model, no constraint. So a score is a second opinion on what
//! constraints enforce, written from the rules of the data sets and not from the automata. Cost: microseconds a
//! text; edit distance is quadratic. It loses where meaning matters: nothing here understands a text.

mod coverage;
mod csr;
mod dataset;
mod diversity;
mod edits;
mod frontier;
mod ifeval;
mod length;
mod number;
mod stats;
mod tournament;

pub use coverage::{Coverage, coverage};
pub use csr::{Csr, Scope};
pub use dataset::{LineFile, Pair, PairFilter, PairSource, PromptFilter, Rejected};
pub use diversity::{Distinct, all_different};
pub use edits::{char_distance, similarity};
pub use frontier::{Point, frontier, kl_bound};
pub use ifeval::{Check, Instruction, Relation, SENTENCE_RULE, Words, loosened};
pub use length::{Adherence, adherence};
pub use number::last_number;
pub use stats::{Estimate, mcnemar, mean, rate};
pub use tournament::{Match, knock_out, strengths, strengths_with_intervals};
