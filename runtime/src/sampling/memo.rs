//! A model that remembers the rows behind one prompt: what was evaluated once is not evaluated again.
//!
//! Exact samplers come back to the same prefixes in draw after draw. Branches here are lists of tokens; the model
//! is asked only for a row that is not remembered, and gets all tokens it has not seen of that branch at once.
//! Cost: a row of `n_vocab` floats for each prefix, up to the given memory, oldest out first; a hash of the prefix
//! a look-up. It loses where prefixes do not come back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::next_logits::{BatchItem, NextLogits, Want};
use super::params::bad;
use crate::error::Result;
use crate::token::TokenId;

/// A branch behind the prompt.
#[derive(Debug)]
pub struct MemoBranch<B>(RefCell<State<B>>);

#[derive(Debug)]
struct State<B> {
    inner: B,
    /// Tokens behind the prompt.
    tokens: Vec<TokenId>,
    /// How many of them `inner` holds.
    n_fed: usize,
}

type Row = Arc<[f32]>;

/// See the module.
#[derive(Debug)]
pub struct Memo<'a, M: NextLogits> {
    model: &'a mut M,
    n_prompt: usize,
    rows: HashMap<Arc<[TokenId]>, Row, FxBuildHasher>,
    order: VecDeque<Arc<[TokenId]>>,
    max_rows: usize,
    /// Rows of the last batch.
    out: Vec<Row>,
}

impl<'a, M: NextLogits> Memo<'a, M> {
    /// Remembers rows of `model` behind a prompt of `n_prompt` tokens in up to `bytes` of memory.
    pub fn new(model: &'a mut M, n_prompt: usize, bytes: usize) -> Self {
        let max_rows = (bytes / (model.n_vocab() * size_of::<f32>()).max(1)).max(1);
        let (rows, order) = (HashMap::default(), VecDeque::new());
        Self { model, n_prompt, rows, order, max_rows, out: Vec::new() }
    }

    /// The branch of the prompt, which `inner` holds.
    pub fn adopt(&self, inner: M::Branch) -> MemoBranch<M::Branch> {
        MemoBranch(RefCell::new(State { inner, tokens: Vec::new(), n_fed: 0 }))
    }

    fn remember(&mut self, prefix: &[TokenId], row: Row) {
        if self.rows.len() >= self.max_rows
            && let Some(oldest) = self.order.pop_front()
        {
            self.rows.remove(&oldest);
        }
        let key: Arc<[TokenId]> = prefix.into();
        if self.rows.insert(Arc::clone(&key), row).is_none() {
            self.order.push_back(key);
        }
    }

    /// Evaluates the rows `items` want: all tokens their branches have not seen. Returns them in order.
    fn fetch(&mut self, items: &[&BatchItem<'_, MemoBranch<M::Branch>>]) -> Result<Vec<Row>> {
        let states: Vec<_> = items.iter().map(|item| item.branch.0.borrow()).collect();
        let batch: Vec<_> = states
            .iter()
            .map(|s| BatchItem { branch: &s.inner, tokens: &s.tokens[s.n_fed..], want: Want::Last })
            .collect();
        self.model.eval(&batch)?;
        drop(batch);
        let prefixes: Vec<Vec<TokenId>> = states.iter().map(|s| s.tokens.clone()).collect();
        drop(states);
        let mut rows = Vec::with_capacity(items.len());
        for (i, (item, prefix)) in items.iter().zip(prefixes).enumerate() {
            item.branch.0.borrow_mut().n_fed = prefix.len();
            let row: Row = self.model.row(i).into();
            self.remember(&prefix, Arc::clone(&row));
            rows.push(row);
        }
        Ok(rows)
    }

    fn eval_all(&mut self, batch: &[BatchItem<'_, MemoBranch<M::Branch>>]) -> Result<()> {
        let wanted: Vec<_> = batch.iter().filter(|item| item.want == Want::Last).collect();
        let known = |item: &&BatchItem<'_, MemoBranch<M::Branch>>| {
            self.rows.get(&item.branch.0.borrow().tokens[..]).cloned()
        };
        let mut rows: Vec<Option<Row>> = wanted.iter().map(known).collect();
        let missing: Vec<_> =
            wanted.iter().zip(&rows).filter(|(_, r)| r.is_none()).map(|(i, _)| *i).collect();
        let fetched = if missing.is_empty() { Vec::new() } else { self.fetch(&missing)? };
        rows.iter_mut().filter(|r| r.is_none()).zip(fetched).for_each(|(place, row)| *place = Some(row));
        self.out = rows.into_iter().flatten().collect();
        Ok(())
    }
}

impl<M: NextLogits> NextLogits for Memo<'_, M> {
    type Branch = MemoBranch<M::Branch>;

    fn n_vocab(&self) -> usize {
        self.model.n_vocab()
    }

    fn root(&mut self) -> Result<Self::Branch> {
        Err(bad("root", "a fork of the prompt's branch", "a new branch"))
    }

    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch> {
        let state = branch.0.borrow();
        let inner = self.model.fork(&state.inner)?;
        Ok(MemoBranch(RefCell::new(State { inner, tokens: state.tokens.clone(), n_fed: state.n_fed })))
    }

    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()> {
        let mut state = branch.0.borrow_mut();
        let keep = len.checked_sub(self.n_prompt).filter(|&n| n <= state.tokens.len());
        let Some(keep) = keep else {
            let have = self.n_prompt + state.tokens.len();
            return Err(bad("truncate", format!("{} to {have} tokens", self.n_prompt), len));
        };
        if keep < state.n_fed {
            self.model.truncate(&state.inner, len)?;
            state.n_fed = keep;
        }
        state.tokens.truncate(keep);
        Ok(())
    }

    fn len(&self, branch: &Self::Branch) -> usize {
        self.n_prompt + branch.0.borrow().tokens.len()
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()> {
        if batch.iter().any(|item| item.want == Want::All || item.tokens.is_empty()) {
            return Err(bad(
                "batch",
                "tokens, and their last row or none",
                "an item without or with all rows",
            ));
        }
        batch.iter().for_each(|item| item.branch.0.borrow_mut().tokens.extend_from_slice(item.tokens));
        let done = self.eval_all(batch);
        if done.is_err() {
            for item in batch {
                let mut state = item.branch.0.borrow_mut();
                let n = state.tokens.len() - item.tokens.len();
                state.tokens.truncate(n);
            }
        }
        done
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.out[i]
    }

    fn n_evals(&self) -> u64 {
        self.model.n_evals()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::oracles::{Toy, r1};

    #[test]
    fn rows_are_those_of_the_model_and_are_evaluated_once() {
        let mut plain = Toy::new(r1().model);
        let mut asked = Toy::new(r1().model);
        let prompt = asked.root().unwrap();
        asked.eval(&[BatchItem { branch: &prompt, tokens: &[7], want: Want::Last }]).unwrap();
        let mut memo = Memo::new(&mut asked, 1, 1 << 20);
        let start = memo.adopt(prompt);
        let texts: [&[TokenId]; 7] = [&[0], &[0, 1], &[2], &[0, 1], &[0, 1, 3], &[0], &[4, 5, 0]];
        let mut known = std::collections::HashSet::new();
        for text in texts {
            let branch = memo.fork(&start).unwrap();
            for (i, token) in text.iter().enumerate() {
                memo.eval(&[BatchItem { branch: &branch, tokens: &[*token], want: Want::Last }]).unwrap();
                let whole = plain.root().unwrap();
                let tokens = [&[7], &text[..=i]].concat();
                plain.eval(&[BatchItem { branch: &whole, tokens: &tokens, want: Want::Last }]).unwrap();
                assert_eq!(memo.row(0), plain.row(0), "{text:?} {i}");
                known.insert(text[..=i].to_vec());
            }
            assert_eq!(memo.len(&branch), 1 + text.len());
            memo.truncate(&branch, 1).unwrap();
            assert!(memo.truncate(&branch, 2).is_err() && memo.truncate(&branch, 0).is_err());
        }
        // a prefix that was skipped because its row was known may be fed later, together with what follows
        assert!(memo.n_evals() <= 1 + known.len() as u64 + 3, "{} evaluations", memo.n_evals());
    }

    #[test]
    fn little_memory_costs_evaluations_only() {
        let mut asked = Toy::new(r1().model);
        let prompt = asked.root().unwrap();
        asked.eval(&[BatchItem { branch: &prompt, tokens: &[7], want: Want::Last }]).unwrap();
        let mut memo = Memo::new(&mut asked, 1, 1);
        let start = memo.adopt(prompt);
        for token in [0, 1, 0, 1] {
            let (a, b) = (memo.fork(&start).unwrap(), memo.fork(&start).unwrap());
            let item = |branch, tokens| BatchItem { branch, tokens, want: Want::Last };
            memo.eval(&[item(&a, &[token]), item(&b, &[2])]).unwrap();
            let rows = (memo.row(0).to_vec(), memo.row(1).to_vec());
            assert_ne!(rows.0, rows.1);
        }
    }
}
