//! Free text first, then what is asked: a constraint that begins after a marker, and may end at another.
//!
//! A model that reasons before it answers must not be held to the answer's grammar while it reasons. The text
//! is free until the marker's first occurrence; the constraint holds for what follows. With an end marker it
//! holds until that occurs at a place where the constraint may end, and what comes after is free again. The
//! marker belongs to neither part, so lengths do not count it. All of it is one automaton: the budget rule
//! then makes the reasoning end in time for the answer.
//! Cost: a comparison a byte beyond the part in force. It loses where a marker's text is common in reasoning:
//! the first occurrence decides.
//! Source of the matching: Knuth, Morris and Pratt (1977).

use std::fmt::Debug;

use super::lexical::WordingAutomaton;
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, Completion};

/// Longest marker, in bytes.
const MAX_MARKER: usize = 256;

/// An automaton that can stand before a marker.
pub trait FreePart: Automaton {
    /// Whether it takes every text.
    const TAKES_ALL: bool;
}

/// All texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anything;

impl FreePart for Anything {
    const TAKES_ALL: bool = true;
}

impl FreePart for WordingAutomaton {
    const TAKES_ALL: bool = false;
}

impl Automaton for Anything {
    type State = ();
    const COMPLETION: Completion = Completion::Exact;

    fn start(&self) {}
    fn step(&self, (): (), _byte: u8) -> Option<()> {
        Some(())
    }
    fn accepts(&self, (): ()) -> bool {
        true
    }
    fn at_least(&self, (): ()) -> u32 {
        0
    }
    fn complete(&self, (): (), _out: &mut Vec<u8>) -> bool {
        true
    }
    fn may_write(&self, _byte: u8) -> bool {
        false
    }
    fn probes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" a");
    }
    fn at_most_within(&self, (): (), _n_bytes: usize) -> u32 {
        0
    }
}

/// A text to look for, with what of it may begin again inside it.
#[derive(Debug)]
struct Marker {
    bytes: Box<[u8]>,
    /// Longest proper border of each prefix, by length.
    border: Box<[u16]>,
}

impl Marker {
    fn new(text: &str) -> Result<Self> {
        let bytes: Box<[u8]> = text.as_bytes().into();
        if !(1..=MAX_MARKER).contains(&bytes.len()) {
            let message = format!("expected a marker of 1 to {MAX_MARKER} bytes, found {}", bytes.len());
            return Err(Error::new(ErrorKind::BadProfile, message));
        }
        let mut border = vec![0u16; bytes.len() + 1];
        for n in 1..bytes.len() {
            let mut k = usize::from(border[n]);
            while k > 0 && bytes[k] != bytes[n] {
                k = usize::from(border[k]);
            }
            border[n + 1] = (k + usize::from(bytes[k] == bytes[n])) as u16;
        }
        Ok(Self { bytes, border: border.into() })
    }

    /// The bytes of a prefix of `n` that are no longer part of a match when its border takes over.
    fn dropped(&self, n: u16) -> &[u8] {
        &self.bytes[..usize::from(n - self.border[usize::from(n)])]
    }

    fn rest(&self, n: u16) -> &[u8] {
        &self.bytes[usize::from(n)..]
    }

    fn next_is(&self, n: u16, byte: u8) -> bool {
        self.bytes[usize::from(n)] == byte
    }

    fn is_whole(&self, n: u16) -> bool {
        usize::from(n) == self.bytes.len()
    }
}

/// Where a text is. A part's state lags behind by the bytes that may be the beginning of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StagedState<F, S> {
    /// Before the first marker: state of the free part, bytes of the marker behind it.
    Free(F, u16),
    /// Between the markers.
    Strict(S, u16),
    /// After the second one.
    Tail,
}

/// Texts of `F`, a marker, texts of `S`, and perhaps another marker and any text.
#[derive(Debug)]
pub struct Staged<F, S> {
    free: F,
    after: Marker,
    strict: S,
    until: Option<Marker>,
}

impl<F: FreePart, S: Automaton> Staged<F, S> {
    /// `free` holds until `after` first occurs, `strict` from there until `until` first occurs where `strict`
    /// may end, or to the end of the text.
    /// # Errors `BadProfile` for a marker that is empty or longer than 256 bytes.
    pub fn new(free: F, after: &str, strict: S, until: Option<&str>) -> Result<Self> {
        let until = until.map(Marker::new).transpose().map_err(|e| e.at("until"))?;
        let after = Marker::new(after).map_err(|e| e.at("after"))?;
        Ok(Self { free, after, strict, until })
    }

    /// The part before the marker.
    pub fn free(&self) -> &F {
        &self.free
    }

    /// The part after it.
    pub fn strict(&self) -> &S {
        &self.strict
    }

    fn finish_free(&self, state: F::State, n: u16, out: &mut Vec<u8>) -> bool {
        if self.free.accepts(state) {
            out.extend_from_slice(self.after.rest(n));
            return self.strict.complete(self.strict.start(), out);
        }
        let here = self.free.run(state, &self.after.bytes[..usize::from(n)]);
        if !here.is_some_and(|s| self.free.complete(s, out)) {
            return false;
        }
        out.extend_from_slice(&self.after.bytes);
        self.strict.complete(self.strict.start(), out)
    }

    /// The strict part's own state behind `n` bytes that may begin the end marker; none if only the marker
    /// can go on there.
    fn caught_up(&self, state: S::State, n: u16) -> Option<S::State> {
        match &self.until {
            Some(until) if n > 0 => self.strict.run(state, &until.bytes[..usize::from(n)]),
            _ => Some(state),
        }
    }

    /// Bytes to the end by the rest of the end marker; it begins only where the strict part may end.
    fn by_marker(&self, n: u16) -> u32 {
        self.until.as_ref().filter(|_| n > 0).map_or(u32::MAX, |u| u.rest(n).len() as u32)
    }

    fn finish_strict(&self, state: S::State, n: u16, out: &mut Vec<u8>) -> bool {
        let own = self.caught_up(state, n);
        if own.is_some_and(|s| self.strict.at_least(s) <= self.by_marker(n) && self.strict.complete(s, out)) {
            return true;
        }
        let rest = self.until.as_ref().filter(|_| n > 0).map(|u| u.rest(n));
        out.extend_from_slice(rest.unwrap_or_default());
        rest.is_some()
    }

    fn step_free(&self, mut f: F::State, mut n: u16, byte: u8) -> Option<StagedState<F::State, S::State>> {
        while n > 0 && !self.after.next_is(n, byte) {
            f = self.free.run(f, self.after.dropped(n))?;
            n = self.after.border[usize::from(n)];
        }
        if !self.after.next_is(n, byte) {
            return Some(StagedState::Free(self.free.step(f, byte)?, 0));
        }
        match self.after.is_whole(n + 1) {
            false => Some(StagedState::Free(f, n + 1)),
            true => self.free.accepts(f).then(|| StagedState::Strict(self.strict.start(), 0)),
        }
    }

    fn step_strict(&self, mut s: S::State, mut n: u16, byte: u8) -> Option<StagedState<F::State, S::State>> {
        let Some(until) = &self.until else {
            return Some(StagedState::Strict(self.strict.step(s, byte)?, 0));
        };
        // a marker begins only where the strict part may end
        loop {
            let may_match = n > 0 || self.strict.accepts(s);
            if may_match && until.next_is(n, byte) {
                return Some(match until.is_whole(n + 1) {
                    true => StagedState::Tail,
                    false => StagedState::Strict(s, n + 1),
                });
            }
            if n == 0 {
                return Some(StagedState::Strict(self.strict.step(s, byte)?, 0));
            }
            (s, n) = self.give_up(until, s, n)?;
        }
    }

    /// The next shorter beginning of the end marker that a text with `n` bytes of it behind `s` may have.
    fn give_up(&self, until: &Marker, mut s: S::State, n: u16) -> Option<(S::State, u16)> {
        let (mut n, seen) = (n, &until.bytes[..usize::from(n)]);
        let mut from = 0;
        loop {
            let shorter = until.border[usize::from(n)];
            let drop = usize::from(n - shorter);
            s = self.strict.run(s, &seen[from..from + drop])?;
            (from, n) = (from + drop, shorter);
            if n == 0 || self.strict.accepts(s) {
                return Some((s, n));
            }
        }
    }
}

impl<F: FreePart, S: Automaton> Automaton for Staged<F, S> {
    type State = StagedState<F::State, S::State>;
    const COMPLETION: Completion = match (F::TAKES_ALL, S::COMPLETION) {
        (true, Completion::Exact) => Completion::Exact,
        (_, Completion::Searched) => Completion::Searched,
        _ => Completion::Checked,
    };
    const HAS_COSTLY_STEPS: bool = !F::TAKES_ALL || S::HAS_COSTLY_STEPS;

    fn start(&self) -> Self::State {
        StagedState::Free(self.free.start(), 0)
    }

    fn step(&self, state: Self::State, byte: u8) -> Option<Self::State> {
        match state {
            StagedState::Free(f, n) => self.step_free(f, n, byte),
            StagedState::Strict(s, n) => self.step_strict(s, n, byte),
            StagedState::Tail => Some(state),
        }
    }

    fn accepts(&self, state: Self::State) -> bool {
        match state {
            StagedState::Free(..) => false,
            StagedState::Strict(s, n) => self.caught_up(s, n).is_some_and(|s| self.strict.accepts(s)),
            StagedState::Tail => true,
        }
    }

    fn at_least(&self, state: Self::State) -> u32 {
        match state {
            StagedState::Free(_, n) => {
                self.after.rest(n).len() as u32 + self.strict.at_least(self.strict.start())
            }
            StagedState::Strict(s, n) => {
                let own = self.caught_up(s, n).map_or(u32::MAX, |s| self.strict.at_least(s));
                own.min(self.by_marker(n))
            }
            StagedState::Tail => 0,
        }
    }

    fn complete(&self, state: Self::State, out: &mut Vec<u8>) -> bool {
        let from = out.len();
        let written = match state {
            _ if self.accepts(state) => true,
            StagedState::Free(f, n) => self.finish_free(f, n, out),
            StagedState::Strict(s, n) => self.finish_strict(s, n, out),
            StagedState::Tail => true,
        };
        // a completion of a part may hold a marker: what counts is what the whole makes of it
        let done = written && self.run(state, &out[from..]).is_some_and(|s| self.accepts(s));
        if !done {
            out.truncate(from);
        }
        done
    }

    fn may_write(&self, byte: u8) -> bool {
        let in_until = self.until.as_ref().is_some_and(|u| u.bytes.contains(&byte));
        in_until
            || self.after.bytes.contains(&byte)
            || self.free.may_write(byte)
            || self.strict.may_write(byte)
    }

    fn probes(&self, out: &mut Vec<u8>) {
        self.free.probes(out);
        self.strict.probes(out);
        out.extend_from_slice(&self.after.bytes);
        out.extend(self.until.iter().flat_map(|u| u.bytes.iter()));
    }

    fn at_most_within(&self, state: Self::State, n_bytes: usize) -> u32 {
        let marker = self.after.bytes.len() as u32;
        let until = self.until.as_ref().map_or(0, |u| u.bytes.len() as u32);
        let strict = |s| self.strict.at_most_within(s, n_bytes).saturating_add(until);
        match state {
            // a marker completed on the way leaves the strict part at any of its first states
            StagedState::Free(f, n) => {
                let free = self.free.at_most_within(f, n_bytes + usize::from(n));
                free.saturating_add(marker).saturating_add(strict(self.strict.start()))
            }
            StagedState::Strict(s, _) => strict(s),
            StagedState::Tail => 0,
        }
    }

    fn horizon(&self, state: Self::State, n_bytes: usize) -> Self::State {
        match state {
            StagedState::Free(f, n) => StagedState::Free(self.free.horizon(f, n_bytes), n),
            StagedState::Strict(s, n) => StagedState::Strict(self.strict.horizon(s, n_bytes), n),
            StagedState::Tail => state,
        }
    }

    fn neutral(&self, state: Self::State) -> Self::State {
        match state {
            StagedState::Free(f, _) => StagedState::Free(self.free.neutral(f), 0),
            StagedState::Strict(s, _) => StagedState::Strict(self.strict.neutral(s), 0),
            StagedState::Tail => state,
        }
    }

    fn leads(&self, state: Self::State, emit: &mut dyn FnMut(&[u8])) {
        match state {
            StagedState::Free(f, 0) => self.free.leads(f, emit),
            StagedState::Strict(s, 0) => self.strict.leads(s, emit),
            _ => {}
        }
    }

    fn met(&self, state: Self::State) -> u64 {
        match state {
            StagedState::Free(f, _) => self.free.met(f),
            StagedState::Strict(s, _) => self.strict.met(s),
            StagedState::Tail => u64::MAX,
        }
    }

    fn check(&self) -> Result<()> {
        self.free.check()?;
        self.strict.check()
    }
}
