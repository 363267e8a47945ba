//! Sampling: the interface to models, the sampler chain, counter-based randomness.

mod next_logits;

pub use next_logits::{BatchItem, NextLogits, Want};
