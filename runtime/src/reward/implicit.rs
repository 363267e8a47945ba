//! What one model finds likelier than another: the reward an aligned model was, in effect, trained for.

use super::{Candidate, Reward, RewardUnit, Score, bad};
use crate::error::Result;
use crate::sampling::NextLogits;
use crate::steer::{Encoding, Speaker, Tokenizer, Voice};
use crate::token::TokenId;

/// Tokens of a prompt, as one model is to see it.
pub type PromptTokens = Box<dyn Fn(&str) -> Result<Vec<TokenId>>>;

/// A model that says how likely texts are behind prompts. Keeps what the last text shares with the next.
pub struct Reader<L: NextLogits, T: Tokenizer> {
    voice: Voice<L, T>,
    prompt_tokens: PromptTokens,
    /// The last prompt, as text and as tokens.
    prompt: (String, Vec<TokenId>),
    /// Of each token that the voice holds, given those before.
    logprobs: Vec<f64>,
}

impl<L: NextLogits, T: Tokenizer> Reader<L, T> {
    /// # Errors those of the model.
    pub fn new(mut lm: L, tokenizer: T, prompt_tokens: PromptTokens, n_ctx: usize) -> Result<Self> {
        let tokens = prompt_tokens("")?;
        let branch = lm.root()?;
        let voice = Voice::new(Speaker::new(lm, tokenizer, branch, &tokens, n_ctx))?;
        Ok(Self { voice, prompt_tokens, prompt: (String::new(), tokens), logprobs: Vec::new() })
    }

    /// Log-probability of `text` behind `prompt`, in this model's tokens.
    /// # Errors `ContextFull`, `Unencodable`; those of the model.
    pub fn logprob(&mut self, prompt: &str, text: &str) -> Result<f64> {
        if self.prompt.0 != prompt {
            let tokens = (self.prompt_tokens)(prompt)?;
            self.logprobs.clear();
            self.voice.restart(&self.prompt.1, &tokens)?;
            self.prompt = (prompt.to_owned(), tokens);
        }
        let said = Encoding::default().with(&self.voice.tokenizer, text)?;
        let ids = said.ids();
        let same = self.voice.held().iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.logprobs.truncate(same.min(self.logprobs.len()));
        let known = self.logprobs.len();
        if known < ids.len() {
            self.voice.say(ids, known)?;
            for (n, &id) in ids.iter().enumerate().skip(known) {
                self.logprobs.push(self.voice.logprob(n, id)?);
            }
        }
        Ok(self.logprobs.iter().sum())
    }
}

/// `β·(ln π(text) − ln π₀(text))`, of an aligned model and the one it was made from. Unbounded, so nothing is pruned
/// by it; equal to the aligned model's own reward up to a number that depends on the prompt, so comparable within one
/// prompt only. Models may differ in vocabulary: each reads the text in its own tokens.
/// Source: Zhou et al. 2024 (weak-to-strong search); Rafailov et al. 2023.
pub struct Implicit<L: NextLogits, T: Tokenizer> {
    aligned: Reader<L, T>,
    base: Reader<L, T>,
    beta: f64,
}

impl<L: NextLogits, T: Tokenizer> Implicit<L, T> {
    /// # Errors `InvalidArgument` for a strength that is not a number above 0.
    pub fn new(aligned: Reader<L, T>, base: Reader<L, T>, beta: f64) -> Result<Self> {
        match beta > 0.0 && beta.is_finite() {
            true => Ok(Self { aligned, base, beta }),
            false => Err(bad("beta", "a number above 0", beta)),
        }
    }
}

impl<L: NextLogits, T: Tokenizer> Reward for Implicit<L, T> {
    fn name(&self) -> &str {
        "implicit"
    }

    fn unit(&self) -> RewardUnit {
        RewardUnit::Raw
    }

    fn range(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, f64::INFINITY)
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score> {
        let aligned = self.aligned.logprob(prompt, candidate.text)?;
        let value = self.beta * (aligned - self.base.logprob(prompt, candidate.text)?);
        Ok(match candidate.is_closed {
            true => Score::fixed(value, true),
            false => Score::open(value, self.range()),
        })
    }
}
