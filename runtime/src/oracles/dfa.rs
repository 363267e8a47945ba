//! Byte automata, as plain tables.

use std::collections::BTreeMap;

/// A deterministic automaton over bytes. States are `0..n_states`, the start is 0; a missing step is death.
#[derive(Clone, Debug)]
pub struct ByteDfa {
    steps: Vec<BTreeMap<u8, usize>>,
    accepting: Vec<bool>,
}

impl ByteDfa {
    /// An automaton of given steps and accepting states.
    pub fn new(steps: Vec<BTreeMap<u8, usize>>, accepting: Vec<bool>) -> Self {
        Self { steps, accepting }
    }

    /// Explores the automaton whose states are values of `S`, as far as `alphabet` reaches.
    pub fn explore<S: Ord + Clone>(
        start: S,
        alphabet: &[u8],
        step: impl Fn(&S, u8) -> Option<S>,
        accepts: impl Fn(&S) -> bool,
    ) -> Self {
        let mut dfa = Self::new(vec![BTreeMap::new()], vec![accepts(&start)]);
        let mut ids = BTreeMap::from([(start.clone(), 0)]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            let from = ids[&state];
            for &byte in alphabet {
                let Some(next) = step(&state, byte) else { continue };
                let n = ids.len();
                let to = *ids.entry(next.clone()).or_insert(n);
                if to == n {
                    dfa.steps.push(BTreeMap::new());
                    dfa.accepting.push(accepts(&next));
                    open.push(next);
                }
                dfa.steps[from].insert(byte, to);
            }
        }
        dfa
    }

    /// Number of states.
    pub fn n_states(&self) -> usize {
        self.steps.len()
    }

    /// The state after `bytes` from `state`; none if the automaton dies.
    pub fn run(&self, state: usize, bytes: &[u8]) -> Option<usize> {
        bytes.iter().try_fold(state, |q, b| self.steps.get(q)?.get(b).copied())
    }

    /// Whether a text may end in `state`.
    pub fn accepts(&self, state: usize) -> bool {
        self.accepting.get(state).copied().unwrap_or(false)
    }
}
