//! A model that continues a text it did not write alone.
//!
//! What a model would say behind a text depends on the text alone, so a voice is asked for just that
//! ([`Voice::top_after`]); what it has evaluated is kept as far as texts agree, and what will probably be asked next
//! is evaluated in the same pass.

use super::draft::Draft;
use super::encoding::Tokenizer;
use super::gate::Gate;
use crate::align::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// A model, its tokenizer and its prompt.
pub struct Speaker<'a, L: NextLogits, T: Tokenizer> {
    /// The model, or a loan of it.
    pub lm: L,
    /// How it reads text.
    pub tokenizer: T,
    /// An empty branch, or one whose past is the start of the prompt.
    pub branch: L::Branch,
    /// The rest of the prompt, at least one token.
    pub tokens: &'a [TokenId],
    /// Longest branch, in tokens.
    pub n_ctx: usize,
    /// What the text must keep to, in this model's tokens.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Whether the text is scored as it comes, see [`Voice::score`].
    pub scores: bool,
}

impl<'a, L: NextLogits, T: Tokenizer> Speaker<'a, L, T> {
    /// One that says what it likes.
    pub fn new(lm: L, tokenizer: T, branch: L::Branch, tokens: &'a [TokenId], n_ctx: usize) -> Self {
        Self { lm, tokenizer, branch, tokens, n_ctx, constraint: None, scores: false }
    }
}

/// A speaker whose branch follows a text. What it has evaluated is kept as far as the text agrees.
pub struct Voice<L: NextLogits, T: Tokenizer> {
    lm: L,
    /// How it reads text.
    pub tokenizer: T,
    /// What it will probably be asked about.
    pub draft: Draft,
    branch: L::Branch,
    last_of_prompt: TokenId,
    n_prompt: usize,
    n_ctx: usize,
    gate: Option<Gate>,
    /// Tokens behind the prompt that the branch holds.
    held: Vec<TokenId>,
    /// The last pass gave `n_rows` rows: after `held[..first_row]`, and after each token behind.
    first_row: usize,
    n_rows: usize,
    /// `tops[n]`: the likeliest token after `held[..n]`, if it was asked for.
    tops: Vec<Option<Top>>,
    /// Log-probabilities of the first tokens held, if they are wanted.
    scored: Option<Vec<f64>>,
    /// The last pass guessed so many tokens behind the first so many, and of these places this one was asked for last.
    guessed: (usize, usize),
    asked: usize,
    scratch: Vec<f64>,
}

/// The likeliest token of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top {
    /// The token.
    pub token: TokenId,
    /// Its probability; under a constraint, its share of what is allowed.
    pub p: f64,
}

/// Tokens scored in one pass: their rows are in memory together.
const SCORED_AT_ONCE: usize = 32;

impl<L: NextLogits, T: Tokenizer> Voice<L, T> {
    /// # Errors `ContextFull` if the prompt does not fit; those of the model.
    pub fn new(speaker: Speaker<'_, L, T>) -> Result<Self> {
        let Speaker { mut lm, tokenizer, branch, tokens, n_ctx, constraint, scores } = speaker;
        let n_prompt = lm.len(&branch) + tokens.len();
        let Some(&last_of_prompt) = tokens.last() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "expected a prompt, found no token"));
        };
        if n_prompt >= n_ctx {
            let message = format!("expected a prompt of less than {n_ctx} tokens, found {n_prompt}");
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        if let Some((_, rest)) = tokens.split_last().filter(|(_, rest)| !rest.is_empty()) {
            lm.eval(&[BatchItem { branch: &branch, tokens: rest, want: Want::Nothing }])?;
        }
        let n_vocab = lm.n_vocab();
        Ok(Self {
            lm,
            tokenizer,
            draft: Draft::default(),
            branch,
            last_of_prompt,
            n_prompt,
            n_ctx,
            gate: constraint.map(|c| Gate::new(c, n_vocab)),
            held: Vec::new(),
            first_row: 0,
            n_rows: 0,
            tops: Vec::new(),
            scored: scores.then(Vec::new),
            guessed: (0, 0),
            asked: 0,
            scratch: vec![0.0; n_vocab.div_ceil(kernels::BLOCK)],
        })
    }

    /// Rows evaluated so far.
    pub fn n_evals(&self) -> u64 {
        self.lm.n_evals()
    }

    /// Tokens of text that still fit behind `n`.
    pub fn room(&self, n: usize) -> usize {
        self.n_ctx.saturating_sub(self.n_prompt + n)
    }

    /// What the branch holds behind the prompt.
    pub fn held(&self) -> &[TokenId] {
        &self.held
    }

    /// Whether `token` ends a text.
    pub fn is_end(&self, token: TokenId) -> bool {
        self.tokenizer.eog_ids().contains(&token)
    }

    /// How many of the first `ids` the constraint lets stand, all without one.
    /// # Errors those of the constraint.
    pub fn n_sayable(&mut self, ids: &[TokenId]) -> Result<usize> {
        self.gate.as_mut().map_or(Ok(ids.len()), |gate| gate.follow(ids))
    }

    /// Makes the branch hold `ids`, with rows after the first `from` tokens and all longer prefixes.
    /// # Errors those of the model; `ContextFull`.
    pub fn say(&mut self, ids: &[TokenId], from: usize) -> Result<()> {
        let same = n_same(&self.held, ids);
        // what is not scored needs a row before it
        let from = self.score_from_rows(ids, same).map_or(from, |n_scored| from.min(n_scored));
        // a row comes with its last token: that one is evaluated again if need be
        let keep = same.min(from.min(ids.len()).saturating_sub(1));
        let with_prompt = from == 0 || self.lm.len(&self.branch) < self.n_prompt;
        let base = self.n_prompt - usize::from(with_prompt);
        let keep = if with_prompt { 0 } else { keep };
        let len = (base + keep).min(self.lm.len(&self.branch));
        self.lm.truncate(&self.branch, len)?;
        self.held.truncate(keep);
        self.tops.truncate(same + 1);
        self.n_rows = 0;
        let mut tokens = Vec::with_capacity(ids.len() - keep + 1);
        tokens.extend(with_prompt.then_some(self.last_of_prompt));
        tokens.extend_from_slice(&ids[keep..]);
        // rows that nobody reads cost a pass over the vocabulary's weights each
        let want = if from >= ids.len() { Want::Last } else { Want::All };
        self.lm.eval(&[BatchItem { branch: &self.branch, tokens: &tokens, want }])?;
        self.held.extend_from_slice(&ids[keep..]);
        (self.first_row, self.n_rows) = match want {
            Want::Last => (ids.len(), 1),
            _ if with_prompt => (0, tokens.len()),
            _ => (keep + 1, tokens.len()),
        };
        Ok(())
    }

    /// Number of the last pass's row after the first `n` tokens held.
    fn row_at(&self, n: usize) -> Option<usize> {
        n.checked_sub(self.first_row).filter(|at| *at < self.n_rows && n <= self.held.len())
    }

    fn need_row(&self, n: usize) -> Result<usize> {
        self.row_at(n).ok_or_else(|| Error::new(ErrorKind::Internal, format!("no row after {n} tokens")))
    }

    /// The likeliest token after the first `n` tokens held; of equal ones the lowest id.
    /// # Errors `Internal` if there is no such row; `Unsatisfiable` if the constraint lets nothing through.
    fn top(&mut self, n: usize) -> Result<Top> {
        if let Some(Some(top)) = self.tops.get(n) {
            return Ok(*top);
        }
        let row = self.lm.row(self.need_row(n)?);
        let (token, p) = match &mut self.gate {
            Some(gate) => gate.top(&self.held[..n], row, &mut self.scratch)?,
            None => {
                let token = kernels::argmax(row, None);
                let token =
                    token.ok_or_else(|| Error::new(ErrorKind::Internal, "a row without a finite logit"))?;
                let lse = kernels::log_sum_exp(row, None, &mut self.scratch);
                (token, (f64::from(row[token as usize]) - lse).exp())
            }
        };
        let top = Top { token, p };
        self.tops.resize(self.held.len() + 1, None);
        self.tops[n] = Some(top);
        Ok(top)
    }

    /// The likeliest token after `ids`; of equal ones the lowest id.
    /// # Errors those of the model; `ContextFull`; `Unsatisfiable` if the constraint lets nothing through.
    pub fn top_after(&mut self, ids: &[TokenId]) -> Result<Top> {
        let n = ids.len();
        let is_known = self.row_at(n).is_some() || self.tops.get(n).is_some_and(Option::is_some);
        if !(is_known && self.held.starts_with(ids)) {
            self.draft.learn(self.asked - self.guessed.0, self.guessed.1);
            let guess = self.draft.after(ids);
            let guess = &guess[..guess.len().min(self.room(n + 1))];
            let (all, n_guessed) = ([ids, guess].concat(), guess.len());
            (self.guessed, self.asked) = ((n, n_guessed), n);
            self.say(&all, n)?;
        }
        self.asked = self.asked.max(n.min(self.guessed.0 + self.guessed.1));
        self.top(n)
    }

    /// Begins anew behind another prompt, of which as much is kept as agrees with `old`, the last one.
    /// # Errors as [`Voice::new`].
    pub fn restart(&mut self, old: &[TokenId], tokens: &[TokenId]) -> Result<()> {
        let (n, n_ctx) = (tokens.len(), self.n_ctx);
        let Some((&last, rest)) = tokens.split_last().filter(|_| n < n_ctx) else {
            let message = format!("expected a prompt of 1 to {} tokens, found {n}", n_ctx - 1);
            return Err(Error::new(ErrorKind::ContextFull, message));
        };
        let same = n_same(old, rest).min(self.lm.len(&self.branch));
        self.lm.truncate(&self.branch, same)?;
        if same < rest.len() {
            let tokens = &rest[same..];
            self.lm.eval(&[BatchItem { branch: &self.branch, tokens, want: Want::Nothing }])?;
        }
        (self.n_prompt, self.last_of_prompt) = (n, last);
        self.held.clear();
        self.tops.clear();
        self.scored.iter_mut().for_each(Vec::clear);
        self.n_rows = 0;
        Ok(())
    }

    /// Log-probability of `token` after the first `n` tokens of what was said last.
    /// # Errors `Internal` if there is no such row.
    pub fn logprob(&mut self, n: usize, token: TokenId) -> Result<f64> {
        let lse = self.log_sum(n, |_| true)?;
        Ok(self.log_sum(n, |t| t == token)? - lse)
    }

    /// `ln Σ exp` of the logits after the first `n` tokens, over the tokens that `takes` picks.
    /// # Errors `Internal` if there is no such row.
    pub fn log_sum(&mut self, n: usize, takes: impl Fn(TokenId) -> bool) -> Result<f64> {
        let row = self.lm.row(self.need_row(n)?);
        let picked = row.iter().enumerate().filter(|(t, _)| takes(*t as TokenId));
        let picked: Vec<f64> = picked.map(|(_, z)| f64::from(*z)).collect();
        let most = picked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(most + picked.iter().map(|z| (z - most).exp()).sum::<f64>().ln())
    }

    /// Log-probability of `ids` under the model's own law, without an ending token; `None` if the speaker was not to
    /// score. What was said before is known already.
    /// # Errors those of the model.
    pub fn score(&mut self, ids: &[TokenId]) -> Result<Option<f64>> {
        loop {
            let same = n_same(&self.held, ids);
            let Some(n_scored) = self.score_from_rows(ids, same) else { return Ok(None) };
            if n_scored >= ids.len() {
                return Ok(self.scored.as_ref().map(|s| s[..ids.len()].iter().sum()));
            }
            let end = ids.len().min(n_scored + SCORED_AT_ONCE);
            self.say(&ids[..end], end)?;
        }
    }

    /// Scores as many of `ids`, `same` of which are held, as the rows of the last pass allow; how many are scored
    /// then. `None` if none are to be.
    fn score_from_rows(&mut self, ids: &[TokenId], same: usize) -> Option<usize> {
        let mut scored = self.scored.take()?;
        scored.truncate(same);
        while let Some(&id) = ids.get(scored.len()).filter(|_| scored.len() <= same) {
            let Some(at) = self.row_at(scored.len()) else { break };
            let row = self.lm.row(at);
            let lse = kernels::log_sum_exp(row, None, &mut self.scratch);
            scored.push(f64::from(row[id as usize]) - lse);
        }
        let n = scored.len();
        self.scored = Some(scored);
        Some(n)
    }
}

/// Length of what two texts begin with.
fn n_same(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
