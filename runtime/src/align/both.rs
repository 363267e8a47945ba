//! Two automata at once: a text must satisfy both, and both together must be completable.
//!
//! That each can be completed does not mean that both can by the same text, so a completion has to be
//! found for the pair. Tried in this order: the first one's own completion; that completion with the second
//! one's inserted at some place on the way (a keyword inside the next string field); a best-first search
//! over bytes, ordered by what both still estimate to need. Cost: a few microseconds for the first two,
//! up to some ten milliseconds for the search. A completion found is one; finding none proves nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use crate::error::Result;
use crate::grammar::{Automaton, Completion};

/// The texts that both automata accept.
pub struct Both<A, B> {
    first: A,
    second: B,
    /// Bytes tried in a search: one of each kind that either tells apart.
    probes: Vec<u8>,
}

/// States looked at in one search.
const MAX_STATES: usize = 1024;

impl<A: Automaton, B: Automaton> Both<A, B> {
    /// `first` gives the shape (a grammar), `second` asks for things within it.
    pub fn new(first: A, second: B) -> Self {
        let mut probes: Vec<u8> = Vec::new();
        first.probes(&mut probes);
        second.probes(&mut probes);
        let mut seen = [false; 256];
        probes.retain(|&b| {
            !std::mem::replace(&mut seen[usize::from(b)], true) && first.may_write(b) && second.may_write(b)
        });
        Self { first, second, probes }
    }

    /// The first automaton.
    pub fn first(&self) -> &A {
        &self.first
    }

    /// The second automaton.
    pub fn second(&self) -> &B {
        &self.second
    }

    /// Writes the first one's completion of `state`, if the second one accepts that.
    fn finish(&self, state: (A::State, B::State), out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let done = self.first.complete(state.0, out)
            && self.second.run(state.1, &out[from..]).is_some_and(|s| self.second.accepts(s));
        if !done {
            out.truncate(from);
        }
        done
    }

    /// The second one's completion put in at each place of the first one's.
    fn insert(&self, state: (A::State, B::State), out: &mut Vec<u8>) -> bool {
        let (from, mut path) = (out.len(), Vec::new());
        if !self.first.complete(state.0, &mut path) {
            return false;
        }
        let mut at = Some(state);
        for i in 0..=path.len() {
            let Some(here) = at else { break };
            if self.insert_here(here, out) {
                return true;
            }
            at = path.get(i).and_then(|&b| self.step(here, b));
            out.extend(path.get(i));
        }
        out.truncate(from);
        false
    }

    /// The second one's completion, then the first one's.
    fn insert_here(&self, state: (A::State, B::State), out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let found = self.second.complete(state.1, out)
            && self.run(state, &out[from..]).is_some_and(|next| self.finish(next, out));
        if !found {
            out.truncate(from);
        }
        found
    }

    /// What both together seem to need: a guide for the search, no bound.
    fn estimate(&self, state: (A::State, B::State), scratch: &mut Vec<u8>) -> Option<u32> {
        scratch.clear();
        if !self.second.complete(state.1, scratch) {
            return None;
        }
        let second = scratch.len() as u32;
        let first = match A::COMPLETION {
            Completion::Exact => self.first.at_least(state.0),
            _ => {
                scratch.clear();
                if !self.first.complete(state.0, scratch) {
                    return None;
                }
                scratch.len() as u32
            }
        };
        Some(first.saturating_add(second))
    }

    fn search(&self, start: (A::State, B::State), out: &mut Vec<u8>) -> bool {
        // (state, where it came from, by which byte)
        let mut seen = vec![(start, 0usize, 0u8)];
        let mut known: HashSet<(A::State, B::State), FxBuildHasher> = HashSet::default();
        known.insert(start);
        let mut queue = BinaryHeap::from([Reverse((0u32, 0usize))]);
        let mut scratch = Vec::new();
        while let Some(Reverse((_, i))) = queue.pop() {
            let state = seen[i].0;
            let from = out.len();
            write_path(&seen, i, out);
            if self.finish(state, out) || self.insert_here(state, out) {
                return true;
            }
            out.truncate(from);
            for &byte in &self.probes {
                let Some(next) = self.step(state, byte) else { continue };
                if seen.len() < MAX_STATES
                    && known.insert(next)
                    && let Some(cost) = self.estimate(next, &mut scratch)
                {
                    queue.push(Reverse((cost, seen.len())));
                    seen.push((next, i, byte));
                }
            }
        }
        false
    }
}

/// Appends the bytes that lead to entry `i`.
fn write_path<S>(seen: &[(S, usize, u8)], mut i: usize, out: &mut Vec<u8>) {
    let from = out.len();
    while i > 0 {
        out.push(seen[i].2);
        i = seen[i].1;
    }
    out[from..].reverse();
}

impl<A: Automaton, B: Automaton> Automaton for Both<A, B> {
    type State = (A::State, B::State);
    const COMPLETION: Completion = Completion::Searched;
    const HAS_COSTLY_STEPS: bool = A::HAS_COSTLY_STEPS || B::HAS_COSTLY_STEPS;

    fn start(&self) -> Self::State {
        (self.first.start(), self.second.start())
    }

    fn step(&self, state: Self::State, byte: u8) -> Option<Self::State> {
        let first = self.first.step(state.0, byte)?;
        Some((first, self.second.step(state.1, byte)?))
    }

    fn accepts(&self, state: Self::State) -> bool {
        self.first.accepts(state.0) && self.second.accepts(state.1)
    }

    fn at_least(&self, state: Self::State) -> u32 {
        self.first.at_least(state.0).max(self.second.at_least(state.1))
    }

    fn complete(&self, state: Self::State, out: &mut Vec<u8>) -> bool {
        self.finish(state, out) || self.insert(state, out) || self.search(state, out)
    }

    fn may_write(&self, byte: u8) -> bool {
        self.first.may_write(byte) && self.second.may_write(byte)
    }

    fn probes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.probes);
    }

    fn horizon(&self, state: Self::State, n_bytes: usize) -> Self::State {
        (self.first.horizon(state.0, n_bytes), self.second.horizon(state.1, n_bytes))
    }

    fn neutral(&self, state: Self::State) -> Self::State {
        (self.first.neutral(state.0), self.second.neutral(state.1))
    }

    fn leads(&self, state: Self::State, emit: &mut dyn FnMut(&[u8])) {
        self.second.leads(state.1, emit);
    }

    fn met(&self, state: Self::State) -> u64 {
        self.second.met(state.1)
    }

    fn check(&self) -> Result<()> {
        self.first.check()?;
        self.second.check()
    }
}
