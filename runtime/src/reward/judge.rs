//! A model's opinion: yes or no to a question about the answer, or which of two answers is better.

use super::{Candidate, Reward, Score, bad};
use crate::error::Result;
use crate::sampling::NextLogits;
use crate::steer::{Speaker, Tokenizer, Voice};
use crate::token::TokenId;

/// The tokens that put a question to a model, which is to answer with the next one.
pub type AskTokens = Box<dyn Fn(&str) -> Result<Vec<TokenId>>>;

/// Below this share of probability on the expected answers, the model does not answer the question.
const OFF_TOPIC: f64 = 0.2;

/// Asks a model questions that are answered in one token.
pub struct Asker<L: NextLogits, T: Tokenizer> {
    voice: Voice<L, T>,
    ask: AskTokens,
    /// Tokens of the last question.
    last: Vec<TokenId>,
    n_asked: u64,
    n_off_topic: u64,
}

impl<L: NextLogits, T: Tokenizer> Asker<L, T> {
    /// # Errors those of the model.
    pub fn new(mut lm: L, tokenizer: T, ask: AskTokens, n_ctx: usize) -> Result<Self> {
        let last = ask("")?;
        let branch = lm.root()?;
        let voice = Voice::new(Speaker::new(lm, tokenizer, branch, &last, n_ctx))?;
        Ok(Self { voice, ask, last, n_asked: 0, n_off_topic: 0 })
    }

    /// Share of questions that the model did not answer as expected.
    pub fn off_topic(&self) -> f64 {
        if self.n_asked == 0 { 0.0 } else { self.n_off_topic as f64 / self.n_asked as f64 }
    }

    /// Log-odds of answering `question` with a token of `one` against one of `other`.
    fn log_odds(&mut self, question: &str, one: &[TokenId], other: &[TokenId]) -> Result<f64> {
        let tokens = (self.ask)(question)?;
        self.voice.restart(&self.last, &tokens)?;
        self.last = tokens;
        self.voice.say(&[], 0)?;
        let (a, b) =
            (self.voice.log_sum(0, |t| one.contains(&t))?, self.voice.log_sum(0, |t| other.contains(&t))?);
        let all = self.voice.log_sum(0, |_| true)?;
        self.n_asked += 1;
        self.n_off_topic += u64::from((a - all).exp() + (b - all).exp() < OFF_TOPIC);
        Ok(a - b)
    }

    /// Every token that spells `word`, whatever its case and the blank before it.
    fn spellings(&self, word: &str) -> Result<Vec<TokenId>> {
        let tokenizer = &self.voice.tokenizer;
        let spells = |t: &TokenId| {
            std::str::from_utf8(tokenizer.bytes(*t)).is_ok_and(|s| s.trim().eq_ignore_ascii_case(word))
        };
        let found: Vec<TokenId> = (0..tokenizer.n_vocab() as TokenId).filter(spells).collect();
        match found.is_empty() {
            true => Err(bad(
                "judge",
                "a vocabulary in which the answer is one token",
                format!("none for {word:?}"),
            )),
            false => Ok(found),
        }
    }
}

/// `P(yes)` to a question about an answer.
pub struct YesNo<L: NextLogits, T: Tokenizer> {
    asker: Asker<L, T>,
    question: String,
    yes: Vec<TokenId>,
    no: Vec<TokenId>,
}

impl<L: NextLogits, T: Tokenizer> YesNo<L, T> {
    /// # Errors `InvalidArgument` if the vocabulary has no single token for yes or no.
    pub fn new(asker: Asker<L, T>, question: &str) -> Result<Self> {
        let (yes, no) = (asker.spellings("yes")?, asker.spellings("no")?);
        Ok(Self { asker, question: question.to_owned(), yes, no })
    }

    /// Share of texts about which the model said neither yes nor no.
    pub fn off_topic(&self) -> f64 {
        self.asker.off_topic()
    }
}

impl<L: NextLogits, T: Tokenizer> Reward for YesNo<L, T> {
    fn name(&self) -> &str {
        "judge"
    }

    fn step(&self) -> f64 {
        0.5
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score> {
        let question = format!(
            "Question: {prompt}\nAnswer: {}\n\n{} Answer with yes or no.",
            candidate.text, self.question
        );
        let odds = self.asker.log_odds(&question, &self.yes, &self.no)?;
        let value = 1.0 / (1.0 + (-odds).exp());
        Ok(match candidate.is_closed {
            true => Score::fixed(value, value >= 0.5),
            false => Score::open(value, (0.0, 1.0)),
        })
    }
}

/// Says which of two answers is better.
pub struct Pairwise<L: NextLogits, T: Tokenizer> {
    asker: Asker<L, T>,
    first: Vec<TokenId>,
    second: Vec<TokenId>,
}

impl<L: NextLogits, T: Tokenizer> Pairwise<L, T> {
    /// # Errors `InvalidArgument` if the vocabulary has no single token for A or B.
    pub fn new(asker: Asker<L, T>) -> Result<Self> {
        let (first, second) = (asker.spellings("a")?, asker.spellings("b")?);
        Ok(Self { asker, first, second })
    }

    /// Log-odds that `a` answers `prompt` better than `b`: both orders are asked, so that a liking for the first place
    /// cancels out. Exactly the negative for `b` and `a`.
    /// # Errors those of the model.
    pub fn compare(&mut self, prompt: &str, a: &str, b: &str) -> Result<f64> {
        let mut first_better = |one: &str, other: &str| {
            let question = format!(
                "Question: {prompt}\n\nAnswer A: {one}\n\nAnswer B: {other}\n\nWhich answer is better? Reply with A or B."
            );
            self.asker.log_odds(&question, &self.first, &self.second)
        };
        let (forth, back) = (first_better(a, b)?, first_better(b, a)?);
        Ok((forth - back) / 2.0)
    }

    /// Share of questions that were answered with neither.
    pub fn off_topic(&self) -> f64 {
        self.asker.off_topic()
    }
}
