//! Nudging: a base model writes, and a smaller aligned model supplies words wherever the base is unsure.
//!
//! Round by round: the nudger proposes some words; the base takes over behind the first one where it agrees with the
//! next or is sure of its own; it goes on while it is sure. The exchange is text: each model follows it in its own
//! tokens, and evaluates again only what the other has added.
//!
//! Both models mostly write what one of them has written before: the base goes along with the proposal, and a new
//! proposal with what was left of the last one. So such words are evaluated ahead, several in a pass (see `draft`),
//! which changes the cost and never the text. It loses where the two never agree: then half of what is evaluated
//! ahead is for nothing.
//! Source: Fei, Razeghi, Singh 2025, arXiv 2410.09300, and the behaviour of its public implementation.

use super::encoding::Tokenizer;
use super::exchange::Exchange;
use super::voice::Speaker;
use crate::error::Result;
use crate::sampling::NextLogits;
use crate::token::TokenId;
use serde::{Deserialize, Serialize};

/// What happens to a proposal that the base accepts nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNone {
    /// All but its last word is taken, which is probably cut off.
    #[default]
    DropLast,
    /// All of it is taken.
    AcceptAll,
}

/// What the base's end means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseEnd {
    /// Nothing: base models end where they please. The nudger is asked again.
    #[default]
    Nudge,
    /// The answer is over.
    Stop,
}

/// Settings of nudging.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NudgeParams {
    /// The base is unsure below this probability of its likeliest token.
    pub threshold: f64,
    /// Tokens of a nudger's proposal.
    pub nudge_tokens: usize,
    /// Tokens of the base between two looks at repetitions.
    pub base_tokens: usize,
    /// Longest answer, in tokens of the base.
    pub max_tokens: usize,
    /// Most proposals.
    pub max_rounds: usize,
    /// Whether agreement on a word hands over, too.
    pub agree: bool,
    /// What happens to a proposal that the base accepts nowhere.
    pub on_none: OnNone,
    /// What the base's end means.
    pub base_eos: BaseEnd,
    /// Whether words are evaluated ahead. Saves time, changes nothing.
    pub drafts: bool,
}

impl Default for NudgeParams {
    fn default() -> Self {
        Self {
            threshold: 0.4,
            nudge_tokens: 16,
            base_tokens: 16,
            max_tokens: 512,
            max_rounds: 150,
            agree: true,
            on_none: OnNone::default(),
            base_eos: BaseEnd::default(),
            drafts: true,
        }
    }
}

/// Why a nudged answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NudgeFinish {
    /// The nudger ended it.
    NudgerEos,
    /// The base ended it, and was allowed to.
    BaseEos,
    /// The same nudge came four times running.
    Repeated,
    /// Most proposals were made.
    Rounds,
    /// Most tokens were written.
    Length,
    /// The caller wanted no more.
    Stopped,
}

/// Who wrote a part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The nudger.
    Nudger,
    /// The base.
    Base,
}

/// A part of the text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Who wrote it.
    pub by: By,
    /// First byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

/// What nudging did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NudgeReport {
    /// Why the answer ended.
    pub finish: NudgeFinish,
    /// Proposals made.
    pub n_rounds: usize,
    /// Share of the text's tokens that the nudger supplied.
    pub nudge_rate: f64,
    /// Who wrote what.
    pub spans: Vec<Span>,
    /// Rows the base evaluated, its prompt counted.
    pub base_evals: u64,
    /// Rows the nudger evaluated, its prompt counted.
    pub nudger_evals: u64,
    /// Rows the base evaluated at the end to score what it had not read yet.
    pub scoring_evals: u64,
    /// What deserves attention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
}

/// A nudged answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Nudged {
    /// The text.
    pub text: String,
    /// Its tokens in the base's vocabulary.
    pub ids: Vec<TokenId>,
    /// Their log-probability under the base alone, if the base was to score them.
    pub logprob: Option<f64>,
    /// What happened.
    pub report: NudgeReport,
}

/// Answers with `base`, nudged by `nudger`. `sink` is given each part of the text as it is settled, and says whether
/// it wants more.
/// # Errors `InvalidArgument` naming a parameter; `ContextFull` if a prompt does not fit; `Unencodable`;
/// `Unsatisfiable` if constraints leave neither model a word; those of the models.
pub fn nudge<B: NextLogits, N: NextLogits, T: Tokenizer, U: Tokenizer>(
    base: Speaker<'_, B, T>,
    nudger: Speaker<'_, N, U>,
    params: &NudgeParams,
    sink: &mut dyn FnMut(By, &str) -> bool,
) -> Result<Nudged> {
    params.validate()?;
    let mut exchange = Exchange::new(base, nudger, params)?;
    let mut n_rounds = 0;
    let finish = loop {
        if n_rounds == params.max_rounds {
            break NudgeFinish::Rounds;
        }
        n_rounds += 1;
        let finish = exchange.round()?;
        let wants_more = exchange.show_settled(sink);
        if let Some(finish) = finish.or((!wants_more).then_some(NudgeFinish::Stopped)) {
            break finish;
        }
    };
    exchange.show_rest(sink);
    exchange.finish(finish, n_rounds)
}

impl NudgeParams {
    /// # Errors `InvalidArgument` naming the field.
    pub fn validate(&self) -> Result<()> {
        if !self.threshold.is_finite() {
            return Err(crate::reward::bad("nudge.threshold", "a finite number", self.threshold));
        }
        for (name, n) in [
            ("nudge.nudge_tokens", self.nudge_tokens),
            ("nudge.base_tokens", self.base_tokens),
            ("nudge.max_tokens", self.max_tokens),
            ("nudge.max_rounds", self.max_rounds),
        ] {
            if n == 0 {
                return Err(crate::reward::bad(name, "at least 1", n));
            }
        }
        Ok(())
    }
}
