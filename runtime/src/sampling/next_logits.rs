//! The one interface between algorithms and models: branches that can be forked, cut and evaluated.
//!
//! Search, nudging, exact sampling, guards and the toy oracles of the test-suite all meet here, so
//! that tests drive production code. No algorithm names a model.

use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;

/// Which rows of a batch item the caller wants logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the tokens only extend the branch.
    Nothing,
    /// The row after the last token.
    Last,
    /// A row after every token of the item.
    All,
}

/// Tokens to append to one branch.
#[derive(Debug)]
pub struct BatchItem<'a, B> {
    /// The branch that grows.
    pub branch: &'a B,
    /// Tokens to append, in order; at least one.
    pub tokens: &'a [TokenId],
    /// The logits wanted.
    pub want: Want,
}

/// Hidden state of a tap at a row, `[n_embd]`.
pub type Peek<'a> = dyn Fn(usize, usize) -> Option<&'a [f32]> + 'a;

/// Whether an evaluation goes on, by the hidden states so far.
pub type GoOn<'a> = dyn FnMut(&Peek<'_>) -> bool + 'a;

/// A source of next-token logits over forkable branches.
///
/// A branch is a sequence of tokens. Every operation that fails leaves all branches as they were.
/// Dropping a branch frees what only it used.
pub trait NextLogits {
    /// A handle to one sequence. Dropping it releases the sequence.
    type Branch;

    /// Size of the vocabulary: the length of every logits row.
    fn n_vocab(&self) -> usize;

    /// An empty branch.
    fn root(&mut self) -> Result<Self::Branch>;

    /// A copy of `branch` that shares its past: O(1), copy-on-write.
    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch>;

    /// Cuts `branch` to its first `len` tokens.
    /// # Errors `InvalidArgument` if `len` exceeds the branch's length.
    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()>;

    /// Number of tokens in `branch`.
    fn len(&self, branch: &Self::Branch) -> usize;

    /// Appends the tokens of every item in one forward pass; a branch may appear once.
    /// The wanted rows are then read with [`NextLogits::row`], numbered in item order.
    /// # Errors The batch is rejected whole and no branch has changed.
    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()>;

    /// As [`NextLogits::eval`], but after `layer` shows `go_on` the hidden states so far; if it says no, the rest is
    /// not computed, no branch has changed and the result is false: hidden states up to that layer may be read, rows
    /// not. Models that cannot stop evaluate everything.
    /// # Errors As there.
    fn eval_until(
        &mut self,
        batch: &[BatchItem<'_, Self::Branch>],
        _layer: u32,
        _go_on: &mut GoOn<'_>,
    ) -> Result<bool> {
        self.eval(batch).map(|()| true)
    }

    /// Row `i` of the last `eval`: logits (natural log, unnormalised), `[n_vocab]`.
    /// Rows stay valid until the next `eval`. Panics if `i` is out of range.
    fn row(&self, i: usize) -> &[f32];

    /// Rows evaluated so far: one per token of every batch. The cost of a search is counted in these.
    fn n_evals(&self) -> u64;

    /// Sets the layers whose hidden states the next evals keep, ascending; none: keep nothing.
    /// # Errors `Unsupported` from a model that has none to show; `InvalidArgument` for layers it has not.
    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "expected a model with hidden states, found one without"))
    }

    /// Hidden state at row `row` of the last eval: the residual stream after the `tap`th layer given to
    /// [`NextLogits::set_taps`], `[n_embd]`. `None` if there is no such tap or row.
    fn hidden(&self, _tap: usize, _row: usize) -> Option<&[f32]> {
        None
    }
}

/// A source on loan, where one is to be owned.
#[derive(Debug)]
pub struct Lent<'a, L>(pub &'a mut L);

impl<L: NextLogits> NextLogits for Lent<'_, L> {
    type Branch = L::Branch;

    fn n_vocab(&self) -> usize {
        self.0.n_vocab()
    }

    fn root(&mut self) -> Result<Self::Branch> {
        self.0.root()
    }

    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch> {
        self.0.fork(branch)
    }

    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()> {
        self.0.truncate(branch, len)
    }

    fn len(&self, branch: &Self::Branch) -> usize {
        self.0.len(branch)
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()> {
        self.0.eval(batch)
    }

    fn eval_until(
        &mut self,
        batch: &[BatchItem<'_, Self::Branch>],
        layer: u32,
        go_on: &mut GoOn<'_>,
    ) -> Result<bool> {
        self.0.eval_until(batch, layer, go_on)
    }

    fn row(&self, i: usize) -> &[f32] {
        self.0.row(i)
    }

    fn n_evals(&self) -> u64 {
        self.0.n_evals()
    }

    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        self.0.set_taps(layers)
    }

    fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        self.0.hidden(tap, row)
    }
}
