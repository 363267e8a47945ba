//! From an automaton's state to the mask over the vocabulary: walks of the token tree, and how they are spared.

use std::sync::{Arc, TryLockError};

use super::Bytewise;
use crate::align::masks::Mask;
use crate::grammar::{Automaton, Completion};
use crate::token::TokenSet;

/// A walk that tries more steps than this is worth a place in the cache.
const LONG_WALK: usize = 2048;
/// Completions searched for in one mask of a [`Completion::Searched`] automaton.
const MAX_SEARCHES: usize = 64;
/// Slack, in tokens, from which a mask is not filtered token by token: what does not fit is refused when it is
/// taken, which is rare as long as there is room.
const SLACK: usize = 16;
impl<A: Automaton> Bytewise<A> {
    /// Fills `found` with the tokens that satisfy `keep`, walking from `state`.
    /// Returns the steps tried and the widest need.
    fn walk(&mut self, state: A::State, mut keep: impl FnMut(&mut Self, A::State) -> bool) -> (usize, u32) {
        let shared = Arc::clone(&self.shared);
        let mut path = std::mem::take(&mut self.path);
        let mut found = std::mem::replace(&mut self.found, TokenSet::none(0));
        found.clear();
        let mut widest = 0;
        let a = &shared.automaton;
        let steps = shared.trie.walk(
            state,
            &mut path,
            |s, b| a.step(s, b),
            |id, s| {
                if keep(self, s) {
                    found.insert(id);
                    if A::COMPLETION == Completion::Exact {
                        widest = widest.max(a.at_least(s));
                    }
                }
            },
        );
        (self.path, self.found) = (path, found);
        (steps, widest)
    }

    /// Whether no token of one step can need more than `left - 1` tokens to complete.
    fn is_roomy(&self, state: A::State, widest: Option<u32>, left: usize) -> bool {
        if self.limits.allow_dead_ends || (self.limits.max_tokens.is_none() && self.shared.is_closed) {
            return true;
        }
        if !self.shared.is_closed {
            return false;
        }
        let need = match (A::COMPLETION, widest) {
            (Completion::Exact, Some(w)) => w,
            (Completion::Exact, None) => return false,
            _ => self.shared.automaton.at_most_within(state, self.shared.trie.max_len()),
        };
        // a completion of n bytes takes at most n tokens, then the ending one
        (need as usize).saturating_add(2) <= left
    }

    /// Whether the known completion leaves so much room that tokens need not be judged one by one.
    fn has_slack(&mut self, state: A::State, left: usize) -> bool {
        A::COMPLETION != Completion::Exact && (self.cost(state) as usize).saturating_add(SLACK) <= left
    }

    /// Puts the viable tokens into `set`, whatever the limit. Returns whether the limit is out of reach
    /// for all of them; if not, `found` holds them.
    pub(super) fn mask_viable(&mut self, set: &mut TokenSet) -> bool {
        let (state, left) = (self.entry().state, self.left());
        let shared = Arc::clone(&self.shared);
        let key = shared.automaton.horizon(state, shared.trie.max_len());
        if let Some(mask) = shared.masks.get(&key) {
            if self.is_roomy(state, Some(mask.widest), left) || self.has_slack(state, left) {
                and_words(set, &mask.words);
                return true;
            }
            self.found.words_mut().copy_from_slice(&mask.words);
            return false;
        }
        let (steps, widest) = self.find_viable(key);
        if steps > LONG_WALK {
            shared.masks.put(key, || Mask { words: self.found.words().into(), widest });
        }
        let roomy = self.is_roomy(state, Some(widest), left) || self.has_slack(state, left);
        if roomy {
            set.intersect(&self.found);
        }
        roomy
    }

    /// Fills `found` with the viable tokens of `key`: by a whole walk, or by what is different from a base state
    /// whose mask is at hand.
    fn find_viable(&mut self, key: A::State) -> (usize, u32) {
        let shared = Arc::clone(&self.shared);
        let base = shared.automaton.neutral(key);
        if A::COMPLETION == Completion::Exact || base == key {
            return self.walk_all(key);
        }
        if shared.masks.get(&base).is_none() {
            let (_, widest) = self.walk_all(base);
            shared.masks.put(base, || Mask { words: self.found.words().into(), widest });
        }
        let Some(mask) = shared.masks.get(&base) else { return self.walk_all(key) };
        self.found.words_mut().copy_from_slice(&mask.words);
        let (a, found) = (&shared.automaton, &mut self.found);
        let steps = shared.trie.walk_difference(
            key,
            base,
            &mut self.pairs,
            |s, b| a.step(s, b),
            |id, state| if state.is_some() { found.insert(id) } else { found.remove(id) },
        );
        (steps, u32::MAX)
    }

    /// Fills `found` with every viable token, as [`walk`](Self::walk) does when everything is kept.
    fn walk_all(&mut self, state: A::State) -> (usize, u32) {
        self.walk_by_number(state).unwrap_or_else(|| self.walk(state, |_, _| true))
    }

    /// As [`walk_all`](Self::walk_all) by remembered steps. `None` if they are not worth it, did not find room,
    /// or another request is using them.
    fn walk_by_number(&mut self, state: A::State) -> Option<(usize, u32)> {
        if !A::HAS_COSTLY_STEPS {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let mut steps = match shared.steps.try_lock() {
            Ok(steps) => steps,
            Err(TryLockError::Poisoned(steps)) => steps.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let [start] = steps.begin([state]);
        let (automaton, found) = (&shared.automaton, &mut self.found);
        found.clear();
        let n = shared.trie.walk(
            start,
            &mut self.numbers,
            |s, b| steps.step(automaton, s, b),
            |id, _| found.insert(id),
        );
        (!steps.is_full()).then_some((n, u32::MAX))
    }

    /// As `mask_viable` near the limit: only tokens known to be completable in what is left.
    pub(super) fn mask_tight(&mut self, set: &mut TokenSet) {
        let (entry, planned) = (self.entry(), self.planned());
        let left = self.left() - 1;
        let mut searches = MAX_SEARCHES;
        self.walk(entry.state, |this, s| {
            if A::COMPLETION == Completion::Searched && !this.costs.contains_key(&s) {
                if searches == 0 {
                    return false;
                }
                searches -= 1;
            }
            this.admit(s, left)
        });
        if let Some((from, to)) = planned
            && from < to
        {
            self.found.insert(self.plan[from]);
        }
        set.intersect(&self.found);
    }
}

fn and_words(set: &mut TokenSet, words: &[u64]) {
    for (w, m) in set.words_mut().iter_mut().zip(words) {
        *w &= m;
    }
}
