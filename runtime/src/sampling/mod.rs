//! Sampling: the interface to models, the sampler chain, counter-based randomness.

mod candidates;
mod chain;
mod dry;
pub mod exact;
mod memo;
mod mirostat;
mod next_logits;
mod params;
mod penalties;
mod random;
mod temperature;
mod truncate;
mod xtc;

#[cfg(test)]
mod tests;

pub use chain::{Chain, Draw, Extras, Sampled};
pub use dry::{Dry, DryBreakers};
pub use memo::{Memo, MemoBranch};
pub use mirostat::Mirostat;
pub use next_logits::{BatchItem, GoOn, Lent, NextLogits, Peek, Want};
pub use params::{SamplerKind, SamplingParams};
pub use penalties::Penalties;
pub use random::{Purpose, Random};
pub use temperature::Dynatemp;
pub use xtc::Xtc;
