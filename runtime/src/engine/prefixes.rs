//! Beginnings of prompts that were evaluated before: the next request goes on from the longest one it shares.
//!
//! Branches share their pages, so keeping many costs what is different between them, and finding one is comparing
//! token ids: a flat list is enough for as many as fit. A branch is valid for its context alone, hence for one model,
//! one type of cache and one set of adapters: change an adapter and [`clear`](Prefixes::clear). At least the last
//! token of a prompt is always evaluated again, since its row is wanted. It loses where no two prompts begin alike.

use crate::error::Result;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Evaluated beginnings of one context.
#[derive(Debug)]
pub struct Prefixes<B> {
    entries: Vec<Entry<B>>,
    max_entries: usize,
    clock: u64,
    n_reused: u64,
}

#[derive(Debug)]
struct Entry<B> {
    tokens: Vec<TokenId>,
    branch: B,
    used: u64,
}

impl<B> Prefixes<B> {
    /// Keeps at most `max_entries`, those used last.
    pub fn new(max_entries: usize) -> Self {
        Self { entries: Vec::new(), max_entries, clock: 0, n_reused: 0 }
    }

    /// Tokens that were not evaluated again so far.
    pub fn n_reused(&self) -> u64 {
        self.n_reused
    }

    /// Forgets everything: pages that only it held are free.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// A branch that holds the longest known beginning of `tokens`, all but the last at most, and its length.
    /// # Errors those of the model.
    pub fn begin<L: NextLogits<Branch = B>>(&mut self, lm: &mut L, tokens: &[TokenId]) -> Result<(B, usize)> {
        let most = tokens.len().saturating_sub(1);
        let shared = |e: &Entry<B>| e.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count().min(most);
        let best = (0..self.entries.len()).max_by_key(|&i| (shared(&self.entries[i]), self.entries[i].used));
        let Some((i, n)) = best.map(|i| (i, shared(&self.entries[i]))).filter(|(_, n)| *n > 0) else {
            return Ok((lm.root()?, 0));
        };
        self.clock += 1;
        self.entries[i].used = self.clock;
        let branch = lm.fork(&self.entries[i].branch)?;
        lm.truncate(&branch, n)?;
        self.n_reused += n as u64;
        Ok((branch, n))
    }

    /// As [`begin`](Self::begin), and evaluates and keeps the first `n_keep` tokens, which others will begin with.
    /// # Errors those of the model.
    pub fn begin_and_keep<L: NextLogits<Branch = B>>(
        &mut self,
        lm: &mut L,
        tokens: &[TokenId],
        n_keep: usize,
    ) -> Result<(B, usize)> {
        let (branch, n) = self.begin(lm, tokens)?;
        let n_keep = n_keep.min(tokens.len().saturating_sub(1));
        if n >= n_keep {
            return Ok((branch, n));
        }
        lm.eval(&[BatchItem { branch: &branch, tokens: &tokens[n..n_keep], want: Want::Nothing }])?;
        let kept = lm.fork(&branch)?;
        self.keep(tokens[..n_keep].to_vec(), kept);
        Ok((branch, n_keep))
    }

    /// Remembers a branch that holds `tokens`. One that begins another is replaced by it.
    pub fn keep(&mut self, tokens: Vec<TokenId>, branch: B) {
        self.clock += 1;
        self.entries.retain(|e| !tokens.starts_with(&e.tokens));
        self.entries.push(Entry { tokens, branch, used: self.clock });
        while self.entries.len() > self.max_entries {
            let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].used);
            oldest.map(|i| self.entries.swap_remove(i));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::oracles::{HashLaw, paged};
    use crate::sampling::{Purpose, Random};

    #[test]
    fn rows_are_those_of_a_fresh_prompt_and_cost_the_rest_only() {
        let mut kept = paged(HashLaw::new(20), 64, 300, 32).unwrap();
        let mut fresh = paged(HashLaw::new(20), 64, 300, 32).unwrap();
        let mut prefixes = Prefixes::new(4);
        for case in 0..200u64 {
            let draw =
                |i: u32, n: u32| (Random::new(4).uniform_at(case, Purpose::Report, i) * f64::from(n)) as u32;
            // a few beginnings, each cut somewhere, with an end of its own
            let base: Vec<TokenId> = (0..40).map(|i| (draw(0, 3) * 7 + i * 5) % 19).collect();
            let cut = 1 + draw(1, 40) as usize;
            let tokens = [&base[..cut], &[draw(2, 19), draw(3, 19)]].concat();
            let before = kept.n_evals();
            let (branch, n) = prefixes.begin_and_keep(&mut kept, &tokens, cut).unwrap();
            let item = |branch, tokens| BatchItem { branch, tokens, want: Want::Last };
            kept.eval(&[item(&branch, &tokens[n..])]).unwrap();
            let root = fresh.root().unwrap();
            fresh.eval(&[item(&root, &tokens)]).unwrap();
            assert_eq!(kept.row(0), fresh.row(0), "case {case}");
            // asked again, only the end is evaluated
            let spent = kept.n_evals();
            let (again, m) = prefixes.begin(&mut kept, &tokens).unwrap();
            assert_eq!((kept.n_evals(), kept.len(&again)), (spent, m), "case {case}");
            assert!(m >= cut, "case {case}: another may share more");
            assert!(spent - before <= tokens.len() as u64);
        }
        assert!(prefixes.n_reused() > 200 * 10 && prefixes.entries.len() <= 4);
        prefixes.clear();
        let (all, free) = kept.pages();
        assert_eq!(all, free, "pages are given back");
    }
}
