//! The interface of every byte-level recogniser: grammars, keyword matchers, their products.

use std::fmt::Debug;
use std::hash::Hash;

use crate::error::Result;

/// How much an automaton knows about the completions of its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Every state can be completed, and [`Automaton::at_least`] is the length of what
    /// [`Automaton::complete`] writes.
    Exact,
    /// `complete` costs about a microsecond and may fail.
    Checked,
    /// `complete` searches: it is asked about few states, not about every token.
    Searched,
}

/// A deterministic recogniser of byte strings with small, copyable states.
///
/// Bytes, not tokens or characters: what is accepted then cannot depend on how a tokenizer splits the
/// text. A state is all there is to know about the text so far, so forking and rolling back a
/// constraint is copying states. Automata whose states are found while they run keep them in shared
/// tables and hand out numbers.
pub trait Automaton: Send + Sync {
    /// A position; equal states accept the same continuations.
    type State: Copy + Eq + Hash + Debug + Send + Sync;

    /// What is known about completions.
    const COMPLETION: Completion;

    /// Whether a step costs much more than a look into a table: worth remembering then.
    const HAS_COSTLY_STEPS: bool = false;

    /// The state before the first byte.
    fn start(&self) -> Self::State;

    /// The state after one more byte; `None` if no accepted text begins that way.
    fn step(&self, state: Self::State, byte: u8) -> Option<Self::State>;

    /// Whether the text so far is accepted as it stands.
    fn accepts(&self, state: Self::State) -> bool;

    /// A lower bound, in bytes, on every completion of `state`.
    fn at_least(&self, state: Self::State) -> u32;

    /// Appends the bytes of a completion to `out`: `state` followed by them is accepted.
    /// False if none is known, and then `out` is as before. Always gives the same bytes for the same state.
    fn complete(&self, state: Self::State, out: &mut Vec<u8>) -> bool;

    /// Whether `complete` may ever write `byte`.
    fn may_write(&self, _byte: u8) -> bool {
        true
    }

    /// Appends bytes worth trying in a search for completions: at least one of each kind that leads to
    /// different states.
    fn probes(&self, out: &mut Vec<u8>) {
        out.extend(0..=255);
    }

    /// An upper bound, in bytes, on what `complete` writes for any state up to `n_bytes` steps away
    /// from `state`; `u32::MAX` if none is known.
    fn at_most_within(&self, _state: Self::State, _n_bytes: usize) -> u32 {
        u32::MAX
    }

    /// A state that takes and refuses the same strings of up to `n_bytes` bytes as `state`; the same
    /// one for as many states as possible, so that what is computed for one serves the others.
    fn horizon(&self, state: Self::State, _n_bytes: usize) -> Self::State {
        state
    }

    /// A state from which most strings lead where they lead from `state`: then the mask of `state` is found by
    /// looking at the rest only. `state` itself if there is none.
    fn neutral(&self, state: Self::State) -> Self::State {
        state
    }

    /// Calls `emit` with texts that lead straight on to what must still be said: hints, none by default.
    fn leads(&self, _state: Self::State, _emit: &mut dyn FnMut(&[u8])) {}

    /// Which of the things to be said have been said, as bits.
    fn met(&self, _state: Self::State) -> u64 {
        0
    }

    /// # Errors If a step was answered `None` for want of room instead of truthfully.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The state after `bytes`.
    fn run(&self, state: Self::State, bytes: &[u8]) -> Option<Self::State> {
        bytes.iter().try_fold(state, |s, &b| self.step(s, b))
    }
}
