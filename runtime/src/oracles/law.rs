//! Exactly known next-token laws, and the plainest model that plays them.

use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;
use std::cell::RefCell;

/// A next-token law. Texts begin with nothing; a model of the law is prompted with the end token, which
/// also begins a text, since models need a token to answer to.
pub trait Law {
    /// Number of tokens.
    fn n_vocab(&self) -> usize;

    /// The token that ends a text.
    fn eos(&self) -> TokenId;

    /// Probabilities of the token after `prefix` (without the beginning token), `[n_vocab]`, summing to 1.
    fn probs(&self, prefix: &[TokenId], out: &mut [f64]);

    /// The logits a model of this law shows: `ln P`, minus infinity at probability 0.
    fn logits(&self, prefix: &[TokenId], out: &mut [f32]) {
        let mut probs = vec![0.0; out.len()];
        self.probs(prefix, &mut probs);
        out.iter_mut().zip(probs).for_each(|(l, p)| *l = p.ln() as f32);
    }

    /// Width of the hidden states; 0: it has none.
    fn n_embd(&self) -> usize {
        0
    }

    /// The hidden state of the last token of `prefix` after a layer, `[n_embd]`.
    fn hidden(&self, _prefix: &[TokenId], _layer: u32, _out: &mut [f32]) {}
}

/// The part of a branch that a law sees: all but the token that begins the text.
pub(super) fn text<'t>(law: &impl Law, tokens: &'t [TokenId]) -> &'t [TokenId] {
    tokens.strip_prefix(&[law.eos()]).unwrap_or(tokens)
}

/// Every text the law can end within `max_tokens` tokens, its end included, with its probability.
/// # Errors `TooComplex` if there are more than `max_sequences`.
pub fn enumerate(
    law: &impl Law,
    max_tokens: usize,
    max_sequences: usize,
) -> Result<Vec<(Vec<TokenId>, f64)>> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), 1.0)];
    while let Some((prefix, p)) = open.pop() {
        let mut probs = vec![0.0; law.n_vocab()];
        law.probs(&prefix, &mut probs);
        for (t, q) in probs.iter().enumerate().filter(|(_, q)| **q > 0.0) {
            let mut longer = prefix.clone();
            longer.push(t as TokenId);
            if t as TokenId == law.eos() {
                found.push((longer, p * q));
            } else if longer.len() < max_tokens {
                open.push((longer, p * q));
            }
        }
        if found.len() + open.len() > max_sequences {
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("expected at most {max_sequences} texts, found more"),
            ));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// A model that computes each row from the whole prefix: no cache that could be wrong.
pub struct Toy<L> {
    law: L,
    rows: Vec<f32>,
    taps: Vec<u32>,
    /// `[row][tap][n_embd]`
    states: Vec<f32>,
    n_evals: u64,
    n_calls: u64,
}

/// A branch of a [`Toy`]: its tokens.
#[derive(Debug)]
pub struct ToyBranch(RefCell<Vec<TokenId>>);

impl<L: Law> Toy<L> {
    /// A model of `law`.
    pub fn new(law: L) -> Self {
        Self { law, rows: Vec::new(), taps: Vec::new(), states: Vec::new(), n_evals: 0, n_calls: 0 }
    }

    /// The law it plays.
    pub fn law(&self) -> &L {
        &self.law
    }

    /// Forward passes so far.
    pub fn n_calls(&self) -> u64 {
        self.n_calls
    }

    fn check(&self, batch: &[BatchItem<'_, ToyBranch>]) -> Result<()> {
        let bad = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        for (i, item) in batch.iter().enumerate() {
            if item.tokens.is_empty() {
                return bad(format!("batch item {i}: expected at least one token, found none"));
            }
            if batch.iter().take(i).any(|other| std::ptr::eq(other.branch, item.branch)) {
                return bad(format!("batch item {i}: expected each branch once, found it again"));
            }
            if let Some(t) = item.tokens.iter().find(|t| **t as usize >= self.law.n_vocab()) {
                return bad(format!("batch item {i}: expected ids below {}, found {t}", self.law.n_vocab()));
            }
        }
        Ok(())
    }

    fn push_row(&mut self, prefix: &[TokenId]) {
        let start = self.rows.len();
        self.rows.resize(start + self.law.n_vocab(), 0.0);
        self.law.logits(text(&self.law, prefix), &mut self.rows[start..]);
        let n = self.law.n_embd();
        for &layer in &self.taps {
            let start = self.states.len();
            self.states.resize(start + n, 0.0);
            self.law.hidden(prefix, layer, &mut self.states[start..]);
        }
    }
}

impl<L: Law> NextLogits for Toy<L> {
    type Branch = ToyBranch;

    fn n_vocab(&self) -> usize {
        self.law.n_vocab()
    }

    fn root(&mut self) -> Result<ToyBranch> {
        Ok(ToyBranch(RefCell::default()))
    }

    fn fork(&mut self, branch: &ToyBranch) -> Result<ToyBranch> {
        Ok(ToyBranch(branch.0.clone()))
    }

    fn truncate(&mut self, branch: &ToyBranch, len: usize) -> Result<()> {
        let held = self.len(branch);
        if len > held {
            let message = format!("truncate: expected at most {held} tokens, found {len}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        branch.0.borrow_mut().truncate(len);
        Ok(())
    }

    fn len(&self, branch: &ToyBranch) -> usize {
        branch.0.borrow().len()
    }

    fn eval(&mut self, batch: &[BatchItem<'_, ToyBranch>]) -> Result<()> {
        self.check(batch)?;
        self.rows.clear();
        self.states.clear();
        self.n_calls += 1;
        for item in batch {
            for (i, token) in item.tokens.iter().enumerate() {
                item.branch.0.borrow_mut().push(*token);
                let last = i + 1 == item.tokens.len();
                if item.want == Want::All || (item.want == Want::Last && last) {
                    self.push_row(&item.branch.0.borrow());
                }
            }
            self.n_evals += item.tokens.len() as u64;
        }
        Ok(())
    }

    fn row(&self, i: usize) -> &[f32] {
        let n = self.law.n_vocab();
        &self.rows[i * n..(i + 1) * n]
    }

    fn n_evals(&self) -> u64 {
        self.n_evals
    }

    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        self.taps = layers.to_vec();
        Ok(())
    }

    fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        let n = self.law.n_embd();
        let at = (row * self.taps.len() + tap) * n;
        self.states.get(at..at + n).filter(|_| n > 0 && tap < self.taps.len())
    }
}
