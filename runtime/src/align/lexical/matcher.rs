//! Many phrases found at once: an Aho-Corasick automaton over folded characters.
//!
//! Its letters are symbols: the characters that occur in phrases, kinds of other characters, and a
//! marker that stands before every character at which a phrase may begin on a word boundary. A phrase
//! that wants a left boundary begins with the marker, so boundaries on the left need no memory of the
//! text; those on the right are decided by the next character. Table: 4 bytes a state and symbol.
//! Source: Aho and Corasick, CACM 18 (1975).

use rustc_hash::FxHashMap;

use super::chartypes::Kind;
use crate::error::{Error, ErrorKind, Result};

/// A folded character as the automaton sees it.
pub(super) type Symbol = u16;
pub(super) type StateId = u32;

/// A phrase may begin here.
pub(super) const MARKER: Symbol = 0;
/// First of the symbols for characters of no phrase, one a [`Kind`].
pub(super) const FIRST_FOREIGN: Symbol = 1;
/// First of the symbols for characters of phrases.
pub(super) const FIRST_OWN: Symbol = FIRST_FOREIGN + Kind::COUNT as Symbol;
pub(super) const ROOT: StateId = 0;

/// Largest table, in entries of 4 bytes.
const MAX_TABLE: usize = 16 << 20;
/// Most symbols in all phrases together.
const MAX_SYMBOLS: usize = 1 << 18;
const NONE: u32 = u32::MAX;

/// A phrase for the automaton.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Own symbols and inner markers; without the first marker.
    pub symbols: Vec<Symbol>,
    /// Whether it must begin and end at word boundaries.
    pub on_words: bool,
    /// The clauses it counts for, as bits; 0 for an excluded phrase.
    pub clauses: u64,
}

/// What ends at a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Clauses completed if a word boundary follows.
    pub on_words: u64,
    /// Clauses completed unless a combining mark follows.
    pub anywhere: u64,
    /// An excluded phrase is complete if a word boundary follows.
    pub bans_on_words: bool,
    /// An excluded phrase is complete.
    pub bans: bool,
}

/// The automaton.
#[derive(Debug)]
pub(super) struct Matcher {
    n_symbols: usize,
    /// `[n_states][n_symbols]`; symbol 0 is the marker, then the own ones.
    next: Vec<StateId>,
    ends: Vec<Ends>,
    /// Characters (markers not counted) of the text that the state remembers.
    depth: Vec<u32>,
    fail: Vec<StateId>,
    /// A pattern that ends at exactly this state.
    pattern: Vec<u32>,
}

impl Matcher {
    /// # Errors `TooComplex` if the table would grow too large.
    pub fn new(patterns: &[Pattern], n_own: usize) -> Result<Self> {
        let total: usize = patterns.iter().map(|p| p.symbols.len() + 1).sum();
        if total > MAX_SYMBOLS {
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("{total} characters in all phrases, at most {MAX_SYMBOLS} are handled"),
            ));
        }
        let mut edges: FxHashMap<(StateId, Symbol), StateId> = FxHashMap::default();
        let mut nodes = vec![(ROOT, MARKER)]; // parent and symbol
        let mut this = Self {
            n_symbols: n_own + 1,
            next: Vec::new(),
            ends: vec![Ends::default()],
            depth: vec![0],
            fail: Vec::new(),
            pattern: vec![NONE],
        };
        for (i, p) in patterns.iter().enumerate() {
            let first = p.on_words.then_some(&MARKER);
            let mut at = ROOT;
            for &symbol in first.into_iter().chain(&p.symbols) {
                let fresh = nodes.len() as StateId;
                let to = *edges.entry((at, symbol)).or_insert(fresh);
                if to == fresh {
                    nodes.push((at, symbol));
                    this.ends.push(Ends::default());
                    this.depth.push(this.depth[at as usize] + u32::from(symbol != MARKER));
                    this.pattern.push(NONE);
                }
                at = to;
            }
            this.end_at(at, p, i);
        }
        let size = nodes.len() * this.n_symbols;
        if size > MAX_TABLE {
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("the phrases take a table of {size} entries, at most {MAX_TABLE} are handled"),
            ));
        }
        this.link(&nodes, &edges);
        Ok(this)
    }

    fn end_at(&mut self, state: StateId, p: &Pattern, i: usize) {
        let ends = &mut self.ends[state as usize];
        match (p.clauses, p.on_words) {
            (0, true) => ends.bans_on_words = true,
            (0, false) => ends.bans = true,
            (bits, true) => ends.on_words |= bits,
            (bits, false) => ends.anywhere |= bits,
        }
        self.pattern[state as usize] = i as u32;
    }

    /// Fills the table level by level: a state's row is its failure state's with its own edges on top.
    fn link(&mut self, nodes: &[(StateId, Symbol)], edges: &FxHashMap<(StateId, Symbol), StateId>) {
        let n = nodes.len();
        let mut children: Vec<Vec<(Symbol, StateId)>> = vec![Vec::new(); n];
        for (&(from, symbol), &to) in edges {
            children[from as usize].push((symbol, to));
        }
        self.next = vec![ROOT; n * self.n_symbols];
        self.fail = vec![ROOT; n];
        let mut queue = vec![ROOT];
        let mut at = 0;
        while let Some(&state) = queue.get(at) {
            at += 1;
            let fail = self.fail[state as usize];
            if state != ROOT {
                let ends = self.ends[fail as usize];
                let own = &mut self.ends[state as usize];
                own.on_words |= ends.on_words;
                own.anywhere |= ends.anywhere;
                own.bans_on_words |= ends.bans_on_words;
                own.bans |= ends.bans;
                let (from, to) = (fail as usize * self.n_symbols, state as usize * self.n_symbols);
                self.next.copy_within(from..from + self.n_symbols, to);
            }
            children[state as usize].sort_unstable();
            for &(symbol, child) in &children[state as usize] {
                let cell = state as usize * self.n_symbols + column(symbol);
                self.fail[child as usize] = self.next[cell];
                self.next[cell] = child;
                queue.push(child);
            }
        }
    }

    /// The states after each character of a pattern of this automaton.
    pub fn path(&self, pattern: &Pattern) -> Vec<StateId> {
        let mut at = if pattern.on_words { self.step(ROOT, MARKER) } else { ROOT };
        let mut out = Vec::new();
        for &symbol in &pattern.symbols {
            at = self.step(at, symbol);
            if symbol != MARKER {
                out.push(at);
            }
        }
        out
    }

    /// The state after `symbol`.
    pub fn step(&self, state: StateId, symbol: Symbol) -> StateId {
        if symbol != MARKER && symbol < FIRST_OWN {
            return ROOT;
        }
        self.next[state as usize * self.n_symbols + column(symbol)]
    }

    pub fn ends(&self, state: StateId) -> Ends {
        self.ends[state as usize]
    }

    /// Characters at the end of the text that may still become part of a match.
    pub fn depth(&self, state: StateId) -> u32 {
        self.depth[state as usize]
    }

    /// Calls `f` with each pattern that ends at `state`, longest first.
    pub fn each_pattern(&self, state: StateId, mut f: impl FnMut(usize)) {
        let mut at = state;
        while at != ROOT {
            if self.pattern[at as usize] != NONE {
                f(self.pattern[at as usize] as usize);
            }
            at = self.fail[at as usize];
        }
    }

    /// The next shorter suffix of what `state` remembers that begins a pattern.
    pub fn shorter(&self, state: StateId) -> StateId {
        self.fail[state as usize]
    }
}

fn column(symbol: Symbol) -> usize {
    if symbol == MARKER { 0 } else { usize::from(symbol - FIRST_OWN) + 1 }
}
