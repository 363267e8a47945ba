//! From a profile and a prompt to text: what the command line and the C interface share.
//!
//! [`Settings`] is a profile made ready for one model; [`Settings::job`] puts it on a prompt; [`run`] answers many
//! jobs in one context, by whatever way the settings ask for (sampled, searched, drawn exactly). [`Sequence`] is
//! a branch that remembers its tokens: a conversation that evaluates only what is new. [`Adjusted`] lets a caller
//! change logits, [`embed`] makes a vector of a text. [`prompt`] turns messages
//! into tokens, keeping the user's text apart from control tokens. Nothing here decides anything of its own;
//! cost beyond `session` is a copy of each prompt's tokens.

mod adjusted;
mod embed;
mod exemplars;
mod guided;
mod job;
mod nudging;
mod opening;
mod prefixes;
mod probe;
pub mod prompt;
mod rewards;
mod saved_prefix;
mod sequence;
mod settings;
mod steered;

pub use adjusted::Adjusted;
pub use embed::{Pooling, embed};
pub use exemplars::Exemplars;
pub use guided::Helper;
pub use job::{Job, JobExpert, run, setting};
pub use nudging::{NudgePlans, Nudging};
pub use opening::user_opening;
pub use prefixes::Prefixes;
pub use probe::{probe_header, probe_scores, score_row, with_taps};
pub use rewards::{HeadReward, ModelVocab, Relevance, asker, model_reward};
pub use saved_prefix::{Kept, PrefixStore};
pub use sequence::Sequence;
pub use settings::Settings;
pub use steered::Search;
