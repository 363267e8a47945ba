//! Logits after any text, with as little model work as the branches at hand allow.

use super::Start;
use crate::error::Result;
use crate::sampling::next_logits::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Branches kept; the least recently used goes first.
const N_BRANCHES: usize = 8;

/// A few branches of earlier texts, the most recently used last.
#[derive(Debug)]
pub(super) struct Branches<B>(Vec<(B, Vec<TokenId>)>);

impl<B> Default for Branches<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<B> Branches<B> {
    /// Evaluates the row after the prompt and `prefix`, which is not empty; it is row 0 of the model then.
    /// Continues the branch that shares the most with `prefix`, or a fork of it.
    pub(super) fn eval<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        prefix: &[TokenId],
    ) -> Result<()> {
        let (branch, held) = self.take(model, start, prefix)?;
        // The last token is always evaluated: the row after it is what is wanted.
        let keep = held.min(prefix.len() - 1);
        model.truncate(&branch, model.len(start.branch) + keep)?;
        model.eval(&[BatchItem { branch: &branch, tokens: &prefix[keep..], want: Want::Last }])?;
        if self.0.len() >= N_BRANCHES {
            self.0.remove(0);
        }
        self.0.push((branch, prefix.to_vec()));
        Ok(())
    }

    /// A branch of the prompt and at least the first `n` tokens of `prefix`; also `n`.
    fn take<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        prefix: &[TokenId],
    ) -> Result<(B, usize)> {
        let shared = |e: &(B, Vec<TokenId>)| common(&e.1, prefix);
        let Some((i, n)) = self.0.iter().map(shared).enumerate().max_by_key(|(_, n)| *n) else {
            return Ok((model.fork(start.branch)?, 0));
        };
        // A branch that leads here is continued; one that leads elsewhere stays for others.
        if n == self.0[i].1.len() {
            return Ok((self.0.remove(i).0, n));
        }
        let from = if n == 0 { start.branch } else { &self.0[i].0 };
        Ok((model.fork(from)?, n))
    }
}
