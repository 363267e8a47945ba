//! Logits that a caller changes before anyone draws from them.

use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Another source's logits with `adjust` applied to every row: it gets the branch's tokens and the row that
/// follows them. One branch at a time, so for texts that are drawn token by token; costs a copy of the row.
///
/// What the report says about probabilities is then about the changed rows.
pub struct Adjusted<'l, L, F> {
    lm: &'l mut L,
    adjust: F,
    /// Tokens of the branch that grows.
    tokens: Vec<TokenId>,
    /// `[n_rows, n_vocab]`.
    rows: Vec<f32>,
}

impl<'l, L: NextLogits, F: FnMut(&[TokenId], &mut [f32]) -> Result<()>> Adjusted<'l, L, F> {
    /// `tokens`: what the branch holds already. `adjust` may fail, which takes the batch back; `Cancelled` ends
    /// the generation with the text so far. `n_tokens`: the branch will not need more memory for so many.
    pub fn new(lm: &'l mut L, tokens: &[TokenId], n_tokens: usize, adjust: F) -> Self {
        let mut held = Vec::with_capacity(n_tokens.max(tokens.len()));
        held.extend_from_slice(tokens);
        Self { lm, adjust, tokens: held, rows: Vec::new() }
    }

    fn adjust_rows(&mut self, n_rows: usize) -> Result<()> {
        let n_vocab = self.lm.n_vocab();
        self.rows.resize(n_rows * n_vocab, 0.0);
        let first = self.tokens.len() - n_rows;
        for (i, row) in self.rows.chunks_exact_mut(n_vocab).enumerate() {
            row.copy_from_slice(self.lm.row(i));
            (self.adjust)(&self.tokens[..=first + i], row)?;
        }
        Ok(())
    }
}

impl<L: NextLogits, F: FnMut(&[TokenId], &mut [f32]) -> Result<()>> NextLogits for Adjusted<'_, L, F> {
    type Branch = L::Branch;

    fn n_vocab(&self) -> usize {
        self.lm.n_vocab()
    }

    fn root(&mut self) -> Result<Self::Branch> {
        self.lm.root()
    }

    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch> {
        self.lm.fork(branch)
    }

    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()> {
        self.lm.truncate(branch, len)?;
        self.tokens.truncate(len);
        Ok(())
    }

    fn len(&self, branch: &Self::Branch) -> usize {
        self.lm.len(branch)
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()> {
        let [item] = batch else {
            let message = "changing logits: expected one text at a time, found several";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let before = self.lm.len(item.branch);
        self.lm.eval(batch)?;
        self.tokens.truncate(before);
        self.tokens.extend_from_slice(item.tokens);
        let n_rows = match item.want {
            Want::Nothing => 0,
            Want::Last => 1,
            Want::All => item.tokens.len(),
        };
        self.adjust_rows(n_rows).or_else(|e| {
            self.truncate(item.branch, before)?;
            Err(e)
        })
    }

    fn row(&self, i: usize) -> &[f32] {
        let n_vocab = self.lm.n_vocab();
        &self.rows[i * n_vocab..(i + 1) * n_vocab]
    }

    fn n_evals(&self) -> u64 {
        self.lm.n_evals()
    }

    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        self.lm.set_taps(layers)
    }

    fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        self.lm.hidden(tap, row)
    }
}
