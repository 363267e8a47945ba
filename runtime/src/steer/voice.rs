//! A model that continues a text it did not write alone.

use super::encoding::Tokenizer;
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
}

/// A speaker whose branch follows a text. What it has evaluated is kept as far as the text agrees.
pub struct Voice<L: NextLogits, T: Tokenizer> {
    lm: L,
    /// How it reads text.
    pub tokenizer: T,
    branch: L::Branch,
    last_of_prompt: TokenId,
    n_prompt: usize,
    n_ctx: usize,
    /// Tokens behind the prompt that the branch holds.
    held: Vec<TokenId>,
    /// The last pass gave the rows after `held[..first_row]` and after each token behind.
    first_row: usize,
    scratch: Vec<f64>,
}

/// The likeliest token of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top {
    /// The token.
    pub token: TokenId,
    /// Its probability.
    pub p: f64,
}

impl<L: NextLogits, T: Tokenizer> Voice<L, T> {
    /// # Errors `ContextFull` if the prompt does not fit; those of the model.
    pub fn new(speaker: Speaker<'_, L, T>) -> Result<Self> {
        let Speaker { mut lm, tokenizer, branch, tokens, n_ctx } = speaker;
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
        let scratch = vec![0.0; lm.n_vocab().div_ceil(kernels::BLOCK)];
        let held = Vec::new();
        Ok(Self { lm, tokenizer, branch, last_of_prompt, n_prompt, n_ctx, held, first_row: 0, scratch })
    }

    /// Rows evaluated so far.
    pub fn n_evals(&self) -> u64 {
        self.lm.n_evals()
    }

    /// Tokens of text that still fit behind `n`.
    pub fn room(&self, n: usize) -> usize {
        self.n_ctx.saturating_sub(self.n_prompt + n)
    }

    /// Makes the branch hold `ids`, with rows after the first `from` tokens and all longer prefixes.
    /// # Errors those of the model; `ContextFull`.
    pub fn say(&mut self, ids: &[TokenId], from: usize) -> Result<()> {
        let same = self.held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // a row comes with its last token: that one is evaluated again if need be
        let keep = same.min(from.min(ids.len()).saturating_sub(1));
        let with_prompt = from == 0 || self.lm.len(&self.branch) < self.n_prompt;
        let base = self.n_prompt - usize::from(with_prompt);
        let keep = if with_prompt { 0 } else { keep };
        let len = (base + keep).min(self.lm.len(&self.branch));
        self.lm.truncate(&self.branch, len)?;
        self.held.truncate(keep);
        let mut tokens = Vec::with_capacity(ids.len() - keep + 1);
        tokens.extend(with_prompt.then_some(self.last_of_prompt));
        tokens.extend_from_slice(&ids[keep..]);
        // rows that nobody reads cost a pass over the vocabulary's weights each
        let want = if from >= ids.len() { Want::Last } else { Want::All };
        self.lm.eval(&[BatchItem { branch: &self.branch, tokens: &tokens, want }])?;
        self.held.extend_from_slice(&ids[keep..]);
        self.first_row = match want {
            Want::Last => ids.len(),
            _ if with_prompt => 0,
            _ => keep + 1,
        };
        Ok(())
    }

    /// Makes the branch hold `ids`, no rows wanted.
    /// # Errors those of the model; `ContextFull`.
    pub fn hold(&mut self, ids: &[TokenId]) -> Result<()> {
        let same = self.held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        if self.lm.len(&self.branch) < self.n_prompt || same < ids.len() {
            return self.say(ids, ids.len());
        }
        self.lm.truncate(&self.branch, self.n_prompt + same)?;
        self.held.truncate(same);
        Ok(())
    }

    /// The likeliest token after the first `n` tokens of what was said last; of equal ones the lowest id.
    /// # Errors `Internal` if there is no such row.
    pub fn top(&mut self, n: usize) -> Result<Top> {
        let at = n.checked_sub(self.first_row).filter(|_| n <= self.held.len());
        let row = at.map(|at| self.lm.row(at));
        let found = row.and_then(|row| {
            let token = kernels::argmax(row, None)?;
            let lse = kernels::log_sum_exp(row, None, &mut self.scratch);
            Some(Top { token, p: (f64::from(row[token as usize]) - lse).exp() })
        });
        found.ok_or_else(|| Error::new(ErrorKind::Internal, format!("no row after {n} tokens")))
    }

    /// Appends `token` and returns the likeliest one behind it.
    /// # Errors those of the model.
    pub fn push(&mut self, token: TokenId) -> Result<Top> {
        self.lm.eval(&[BatchItem { branch: &self.branch, tokens: &[token], want: Want::Last }])?;
        self.held.push(token);
        self.first_row = self.held.len();
        self.top(self.held.len())
    }

    /// Begins anew behind another prompt, of which as much is kept as agrees with `old`, the last one.
    /// # Errors as [`Voice::new`].
    pub fn restart(&mut self, old: &[TokenId], tokens: &[TokenId]) -> Result<()> {
        let (n, n_ctx) = (tokens.len(), self.n_ctx);
        let Some((&last, rest)) = tokens.split_last().filter(|_| n < n_ctx) else {
            let message = format!("expected a prompt of 1 to {} tokens, found {n}", n_ctx - 1);
            return Err(Error::new(ErrorKind::ContextFull, message));
        };
        let same = old.iter().zip(rest).take_while(|(a, b)| a == b).count();
        let same = same.min(self.lm.len(&self.branch));
        self.lm.truncate(&self.branch, same)?;
        if same < rest.len() {
            self.lm.eval(&[BatchItem {
                branch: &self.branch,
                tokens: &rest[same..],
                want: Want::Nothing,
            }])?;
        }
        (self.n_prompt, self.last_of_prompt) = (n, last);
        self.held.clear();
        self.first_row = usize::MAX;
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
        let at = n.checked_sub(self.first_row).filter(|_| n <= self.held.len());
        let Some(at) = at else {
            return Err(Error::new(ErrorKind::Internal, format!("no row after {n} tokens")));
        };
        let picked = self.lm.row(at).iter().enumerate().filter(|(t, _)| takes(*t as TokenId));
        let picked: Vec<f64> = picked.map(|(_, z)| f64::from(*z)).collect();
        let most = picked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(most + picked.iter().map(|z| (z - most).exp()).sum::<f64>().ln())
    }

    /// What the branch holds behind the prompt.
    pub fn held(&self) -> &[TokenId] {
        &self.held
    }

    /// The likeliest token after `ids`, on a branch of its own: nothing of this one changes but its rows.
    /// # Errors those of the model.
    pub fn top_aside(&mut self, ids: &[TokenId]) -> Result<Top> {
        let same = self.held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let keep = same.min(ids.len().saturating_sub(1));
        let with_prompt = ids.is_empty();
        let fork = self.lm.fork(&self.branch)?;
        self.lm.truncate(&fork, self.n_prompt - usize::from(with_prompt) + keep)?;
        let tokens = if with_prompt { std::slice::from_ref(&self.last_of_prompt) } else { &ids[keep..] };
        self.lm.eval(&[BatchItem { branch: &fork, tokens, want: Want::Last }])?;
        let row = self.lm.row(0);
        let token = kernels::argmax(row, None);
        let token = token.ok_or_else(|| Error::new(ErrorKind::Internal, "a row without a finite logit"))?;
        let lse = kernels::log_sum_exp(row, None, &mut self.scratch);
        self.first_row = usize::MAX; // the rows of the branch are gone
        Ok(Top { token, p: (f64::from(row[token as usize]) - lse).exp() })
    }

    /// Whether `token` ends a text.
    pub fn is_end(&self, token: TokenId) -> bool {
        self.tokenizer.eog_ids().contains(&token)
    }
}
