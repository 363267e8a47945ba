//! Streaming text in which nothing that could still become an excluded phrase is let out.
//!
//! The excluded phrases' automata remember the longest end of the text that begins a phrase. A phrase yet
//! to be completed must begin inside that end, so what stands before it is final and is released; the rest,
//! an unfinished character, and a phrase that waits for its right boundary are held. At most the longest
//! phrase is held, usually nothing.
//! Cost: as the automata, some 20 ns a character. It loses to phrases that are common beginnings: banning
//! `the end` holds every `the`.
//!
//! Invariants, tested against brute force: what is released is a prefix of the text; no excluded phrase is in
//! it; whatever follows, no phrase that is completed later has begun in it; it is valid UTF-8; without
//! a match all of it is released in the end. Undoing text inside a phrase that has begun before the
//! released point cannot take that beginning back; a match then says where it began.

use std::collections::VecDeque;
use std::sync::Arc;

use super::automaton::{MAX_LANES, WordingAutomaton};
use super::lane::{Event, LaneState};
use super::spec::{Phrase, Wording};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::Decoded;

/// An excluded phrase in the text, in raw bytes from the beginning of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Number of the phrase in the list given.
    pub phrase: usize,
    /// First byte of it.
    pub start: u64,
    /// The byte after it.
    pub end: u64,
}

/// A character not yet released.
#[derive(Clone, Copy)]
struct Held {
    c: char,
    raw: [u8; 4],
    len: u8,
    /// Where it stands, in raw bytes.
    at: u64,
    /// The lanes before it, and the symbols they had read.
    lanes: [LaneState; MAX_LANES],
    n_symbols: [u64; MAX_LANES],
}

/// Where the last symbols of a lane stand in the text.
#[derive(Clone, Default)]
pub(super) struct Symbols {
    n: u64,
    /// Raw bytes (from, to) of the characters of the last ones.
    last: VecDeque<(u64, u64)>,
}

impl Symbols {
    pub fn push(&mut self, span: (u64, u64), keep: usize) {
        self.n += 1;
        self.last.push_back(span);
        while self.last.len() > keep {
            self.last.pop_front();
        }
    }

    /// Span of the `back`-th symbol from the end, the last one being 1.
    pub fn back(&self, back: usize) -> Option<(u64, u64)> {
        self.last.get(self.last.len().checked_sub(back)?).copied()
    }

    fn truncate(&mut self, n: u64) {
        let drop = (self.n - n) as usize;
        self.last.truncate(self.last.len().saturating_sub(drop));
        self.n = n;
    }
}

/// The filter. Clones share the compiled phrases.
#[derive(Clone)]
pub struct HoldBack {
    automaton: Arc<WordingAutomaton>,
    lanes: [LaneState; MAX_LANES],
    symbols: [Symbols; MAX_LANES],
    held: VecDeque<Held>,
    /// Bytes of an unfinished character.
    partial: heapless::Vec<u8, 4>,
    /// Raw bytes seen and raw bytes released.
    n_seen: u64,
    n_released: u64,
    found: Option<Match>,
    /// Whether the end of the text was looked at.
    is_finished: bool,
    /// Ends of what was pushed and not yet released, if text is released by whole pushes only.
    pushes: Option<VecDeque<u64>>,
}

impl HoldBack {
    /// A filter for `phrases`.
    /// # Errors As [`Wording::compile`], for phrases that cannot be compared.
    pub fn new(phrases: &[Phrase]) -> Result<Self> {
        let wording = Wording { exclude: phrases.to_vec(), ..Wording::default() };
        Ok(Self {
            automaton: Arc::new(WordingAutomaton::new(&wording, &[true; 256])?),
            lanes: Default::default(),
            symbols: Default::default(),
            held: VecDeque::new(),
            partial: heapless::Vec::new(),
            n_seen: 0,
            n_released: 0,
            found: None,
            is_finished: false,
            pushes: None,
        })
    }

    /// As [`HoldBack::new`], but what was pushed together is released together: after a match the text can
    /// always be cut before the push in which the phrase begins.
    /// # Errors As [`HoldBack::new`].
    pub fn by_push(phrases: &[Phrase]) -> Result<Self> {
        Ok(Self { pushes: Some(VecDeque::new()), ..Self::new(phrases)? })
    }

    /// Takes more of the text, cut anywhere, and appends to `out` what can be let out. Bytes that are not
    /// UTF-8 come out as U+FFFD. After a match nothing is taken until [`HoldBack::rewind`]; what stood before
    /// it and can begin no other one is let out.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) -> Option<Match> {
        self.n_seen += bytes.len() as u64;
        if let Some(pushes) = &mut self.pushes {
            pushes.push_back(self.n_seen);
        }
        for &byte in bytes {
            if self.found.is_some() {
                break;
            }
            self.take(byte);
        }
        self.release(out);
        self.found
    }

    /// The text ends: what waited for its right boundary is decided, and without a match all is let out.
    pub fn finish(&mut self, out: &mut String) -> Option<Match> {
        if !self.partial.is_empty() && self.found.is_none() {
            let raw = std::mem::take(&mut self.partial);
            self.read(char::REPLACEMENT_CHARACTER, &raw);
        }
        if self.found.is_none() {
            let mut lanes = self.lanes;
            self.found = self.trace(&mut lanes, None, self.n_seen);
            self.is_finished = true;
        }
        self.release(out);
        if self.found.is_none() {
            out.extend(self.held.drain(..).map(|h| h.c));
            self.n_released = self.n_seen;
        }
        self.found
    }

    /// Cuts the text to its first `n_bytes`, which must not be fewer than are released.
    /// # Errors `InvalidArgument` otherwise; nothing has changed then.
    pub fn rewind(&mut self, n_bytes: u64) -> Result<()> {
        if n_bytes < self.n_released || n_bytes > self.n_seen {
            let (a, b) = (self.n_released, self.n_seen);
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("expected a place from {a} to {b}, found {n_bytes}"),
            ));
        }
        let from = self.held.back().map_or(self.n_released, |h| h.at + u64::from(h.len));
        if n_bytes >= from {
            self.partial.truncate((n_bytes - from) as usize);
            // a match stays unless it was the end of the text that made it one
            self.found = self.found.filter(|_| !self.is_finished);
        } else {
            self.partial.clear();
            while let Some(held) = self.held.back().copied().filter(|h| h.at + u64::from(h.len) > n_bytes) {
                self.held.pop_back();
                self.lanes = held.lanes;
                self.symbols.iter_mut().zip(held.n_symbols).for_each(|(s, n)| s.truncate(n));
                let keep = n_bytes.saturating_sub(held.at) as usize;
                self.partial = held.raw[..keep].iter().copied().collect();
            }
            self.found = None;
        }
        self.is_finished = false;
        self.n_seen = n_bytes;
        if let Some(pushes) = &mut self.pushes {
            while pushes.back().is_some_and(|end| *end > n_bytes) {
                pushes.pop_back();
            }
        }
        Ok(())
    }

    /// Raw bytes of the text so far.
    pub fn n_seen(&self) -> u64 {
        self.n_seen
    }

    /// Raw bytes let out.
    pub fn n_released(&self) -> u64 {
        self.n_released
    }

    fn take(&mut self, byte: u8) {
        if self.partial.push(byte).is_err() {
            return; // an unfinished character has at most three bytes
        }
        loop {
            let partial = self.partial.clone();
            match std::str::from_utf8(&partial) {
                Ok(s) => {
                    let Some(c) = s.chars().next() else { return };
                    self.partial.clear();
                    return self.read(c, &partial);
                }
                Err(e) => match e.error_len() {
                    None => return,
                    Some(n) => {
                        self.partial = partial[n..].iter().copied().collect();
                        self.read(char::REPLACEMENT_CHARACTER, &partial[..n]);
                    }
                },
            }
        }
    }

    fn read(&mut self, c: char, raw: &[u8]) {
        if self.found.is_some() {
            return;
        }
        let at = self.held.back().map_or(self.n_released, |h| h.at + u64::from(h.len));
        let mut held =
            Held { c, raw: [0; 4], len: raw.len() as u8, at, lanes: self.lanes, n_symbols: [0; MAX_LANES] };
        held.raw[..raw.len()].copy_from_slice(raw);
        held.n_symbols.iter_mut().zip(&self.symbols).for_each(|(n, s)| *n = s.n);
        self.held.push_back(held);
        let mut lanes = self.lanes;
        self.found = self.trace(&mut lanes, Some(c), at);
        self.lanes = lanes;
    }

    /// Moves the lanes over a character at raw byte `at`, or over the end; the earliest match if there is one.
    fn trace(&mut self, lanes: &mut [LaneState; MAX_LANES], c: Option<char>, at: u64) -> Option<Match> {
        let automaton = Arc::clone(&self.automaton);
        let letter = c.and_then(|c| letter_of(&automaton, c));
        let end = at + self.held.back().filter(|_| c.is_some()).map_or(0, |h| u64::from(h.len));
        let mut first: Option<Match> = None;
        for (i, lane) in automaton.exclude_lanes() {
            // symbols of characters that may still be rewound to are kept as well
            let keep = lane.longest()
                + 1
                + (self.symbols[i].n - self.held.front().map_or(self.symbols[i].n, |h| h.n_symbols[i]))
                    as usize;
            let symbols = &mut self.symbols[i];
            lane.trace(&mut lanes[i], letter, |event| match event {
                Event::Symbol { late } => symbols.push(if late { (at, at) } else { (at, end) }, keep + 4),
                Event::Banned { phrase, n_symbols, n_late } => {
                    let start = symbols.back(n_symbols - n_late).map_or(at, |s| s.0);
                    let end = if n_late > 0 { end } else { symbols.back(1).map_or(end, |s| s.1) };
                    let this = Match { phrase, start, end };
                    if first.is_none_or(|f| (this.end, this.start) < (f.end, f.start)) {
                        first = Some(this);
                    }
                }
            });
        }
        first
    }

    /// Lets out what no phrase can begin in any more.
    fn release(&mut self, out: &mut String) {
        let automaton = Arc::clone(&self.automaton);
        let mut hold_from = self.found.map_or(u64::MAX, |f| f.start);
        for (i, lane) in automaton.exclude_lanes() {
            let depth = lane.matcher.depth(self.lanes[i].at) as usize;
            if depth > 0 {
                hold_from = hold_from.min(self.symbols[i].back(depth).map_or(self.n_released, |s| s.0));
            }
        }
        hold_from = self.whole_pushes(hold_from);
        while let Some(held) = self.held.front().copied().filter(|h| h.at + u64::from(h.len) <= hold_from) {
            self.held.pop_front();
            out.push(held.c);
            self.n_released = held.at + u64::from(held.len);
        }
    }

    /// The last end of a push at or before `at`; `at` itself if pushes may be cut.
    fn whole_pushes(&mut self, at: u64) -> u64 {
        let Some(pushes) = &mut self.pushes else { return at };
        let mut end = self.n_released;
        while let Some(&next) = pushes.front().filter(|next| **next <= at) {
            end = next;
            pushes.pop_front();
        }
        end
    }
}

pub(super) fn letter_of(a: &WordingAutomaton, c: char) -> Option<crate::grammar::Letter> {
    let mut node = None;
    for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
        match a.alphabet.step(node, byte) {
            Decoded::Letter(l) => return Some(l),
            Decoded::Inside(n) => node = Some(n),
            Decoded::Invalid => return None,
        }
    }
    None
}

impl std::fmt::Debug for HoldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HoldBack")
            .field("n_seen", &self.n_seen)
            .field("n_released", &self.n_released)
            .finish_non_exhaustive()
    }
}
