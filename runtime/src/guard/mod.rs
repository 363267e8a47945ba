//! Guards: safety at every token, not only at the first few.
//!
//! What a model was taught to refuse lives in its first tokens; whoever puts others there walks past it. Guards
//! read every token as it is decoded: bytes by a phrase automaton, hidden states by probes, which cost a dot
//! product each because the states are there anyway. What they object to is taken back before it is shown.
//!
//! None of this stops someone who controls the machine, and paraphrase, foreign scripts and optimised inputs
//! get past some of it; see each part for when it loses.

pub mod control;
mod expert;
pub mod file;
pub mod identity;
mod kinds;
mod plan;
pub mod probe;
pub mod refusal;
pub mod smooth;
pub mod train;
mod watch;

pub use expert::{Advised, ExpertMix, ExpertRule};
pub use file::ProbeFile;
pub use identity::Identity;
pub use kinds::{Action, Alarm, Guard, PhraseGuard, ProbeGuard, States};
pub use plan::{GuardPlan, LEAST_TOP_P, MAX_TEMPERATURE, Prefill, Setup, header_tokens, prefill};
pub use probe::{Direction, Position, Probe, Quality, Thresholds};
pub use smooth::Smoothed;
pub use watch::{GuardEvent, GuardReport, Order, Policy, Watch};
