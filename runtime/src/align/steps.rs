//! The steps of an automaton, remembered: states become numbers, a step a look into a table.
//!
//! A walk of a whole vocabulary takes the same few steps a hundred thousand times. With states of a few hundred
//! bytes and character tables behind them a step costs some 70 ns; here only the first of its kind does.
//! Cost: 512 bytes a state, at most [`MAX_STATES`]. It loses when nearly every node of a walk has a state of its
//! own: the table is full then, and the walk is done again without it.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::grammar::Automaton;

/// Most states remembered: bounds memory (2 MiB), not correctness.
const MAX_STATES: usize = 4096;
const UNKNOWN: u16 = 0;
const REFUSED: u16 = 1;
/// What is added to a state's number in a row.
const FIRST: u16 = 2;

/// See the module.
pub(super) struct Steps<S> {
    states: Vec<S>,
    numbers: HashMap<S, u16, FxBuildHasher>,
    rows: Vec<[u16; 256]>,
    is_full: bool,
}

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self { states: Vec::new(), numbers: HashMap::default(), rows: Vec::new(), is_full: false }
    }
}

impl<S: Copy + Eq + std::hash::Hash> Steps<S> {
    /// Makes room for a walk from `states`: their numbers.
    pub fn begin<const N: usize>(&mut self, states: [S; N]) -> [u16; N] {
        if self.is_full || self.states.len() + N > MAX_STATES {
            *self = Self::default();
        }
        states.map(|s| self.number(s).unwrap_or_default())
    }

    fn number(&mut self, state: S) -> Option<u16> {
        if let Some(&n) = self.numbers.get(&state) {
            return Some(n);
        }
        if self.states.len() >= MAX_STATES {
            self.is_full = true;
            return None;
        }
        let n = self.states.len() as u16;
        self.states.push(state);
        self.rows.push([UNKNOWN; 256]);
        self.numbers.insert(state, n);
        Some(n)
    }

    /// The number of the state after `byte`. With [`is_full`](Self::is_full), what was answered since
    /// [`begin`](Self::begin) is not to be trusted.
    #[inline]
    pub fn step<A: Automaton<State = S>>(&mut self, automaton: &A, from: u16, byte: u8) -> Option<u16> {
        match self.rows[usize::from(from)][usize::from(byte)] {
            UNKNOWN => self.step_first(automaton, from, byte),
            REFUSED => None,
            to => Some(to - FIRST),
        }
    }

    #[cold]
    fn step_first<A: Automaton<State = S>>(&mut self, automaton: &A, from: u16, byte: u8) -> Option<u16> {
        let next = automaton.step(self.states[usize::from(from)], byte);
        let to = match next {
            None => None,
            Some(state) => Some(self.number(state)?),
        };
        self.rows[usize::from(from)][usize::from(byte)] = to.map_or(REFUSED, |n| n + FIRST);
        to
    }

    /// Whether a state found no room since [`begin`](Self::begin).
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::grammar::Completion;

    /// Counts to `most`, each byte adding itself; refuses zero.
    struct Adder {
        most: u32,
    }

    impl Automaton for Adder {
        type State = u32;
        const COMPLETION: Completion = Completion::Checked;
        fn start(&self) -> u32 {
            0
        }
        fn step(&self, state: u32, byte: u8) -> Option<u32> {
            (byte > 0).then(|| (state + u32::from(byte)).min(self.most))
        }
        fn accepts(&self, _: u32) -> bool {
            true
        }
        fn at_least(&self, _: u32) -> u32 {
            0
        }
        fn complete(&self, _: u32, _: &mut Vec<u8>) -> bool {
            true
        }
        fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn steps_by_number_are_the_automaton_s_own() {
        let adder = Adder { most: 900 };
        let mut steps = Steps::default();
        let [start] = steps.begin([0]);
        for round in 0..2 {
            let (mut state, mut n) = (0, start);
            for byte in (0..=255u8).chain(0..=9) {
                let (want, got) = (adder.step(state, byte), steps.step(&adder, n, byte));
                assert_eq!(
                    got.map(|n| steps.states[usize::from(n)]),
                    want,
                    "round {round}, {byte} at {state}"
                );
                (state, n) = (want.unwrap_or(state), got.unwrap_or(n));
            }
        }
        assert!(!steps.is_full());
    }

    #[test]
    fn a_full_table_says_so_and_begins_anew() {
        let adder = Adder { most: u32::MAX };
        let mut steps = Steps::default();
        let [mut n] = steps.begin([0]);
        for _ in 0..=MAX_STATES {
            n = steps.step(&adder, n, 1).unwrap_or(0);
        }
        assert!(steps.is_full());
        let [a, b] = steps.begin([5, 6]);
        assert!(!steps.is_full() && steps.step(&adder, a, 1) == Some(b));
        assert!(steps.states.len() == 2);
    }
}
