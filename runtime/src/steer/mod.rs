//! Steering by other models: a small aligned one that nudges a large base model, and sums of logits.
//!
//! Why: what an aligned model knows about how to answer can be lent to one that was never aligned, while decoding
//! and without training. Nudging ([`nudge`]) exchanges text and works across families and vocabularies; [`Mix`]
//! adds up logits and needs one vocabulary, and is itself a model that everything else (constraints, search,
//! sampling) runs on.
//!
//! Cost: two or three models in memory. Nudging: some `L` evaluations of the small model a nudge, and one prefill of
//! as many tokens by the large one; what either model has said before is evaluated several tokens a pass. Mixing: an evaluation of each model a token. It loses where the large model is
//! aligned already.
//! Source: Fei, Razeghi, Singh 2025, arXiv 2410.09300; Liu et al. 2024, arXiv 2401.08565; Li et al. 2023 and O'Brien
//! and Lewis 2023 (contrastive decoding).

mod draft;
mod encoding;
mod exchange;
mod gate;
mod mix;
mod nudge;
mod repeats;
#[cfg(test)]
mod tests;
mod voice;

pub use encoding::{Encoding, Tokenizer};
pub use mix::{Mix, MixBranch, MixRule, same_vocabulary};
pub use nudge::{BaseEnd, By, NudgeFinish, NudgeParams, NudgeReport, Nudged, OnNone, Span, nudge};
pub use voice::{Speaker, Top, Voice};
