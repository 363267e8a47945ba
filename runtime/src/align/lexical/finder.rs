//! Where the phrases of a wording stand in a given text: for reports, not for enforcement.
//!
//! It drives the lanes that enforce, so what is found here is what was counted or refused there; unlike
//! enforcement it goes on after a violation. Cost: some 50 ns a character, and memory for the last symbols of
//! each lane. It loses against a plain search when only one phrase matters.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::automaton::{MAX_LANES, WordingAutomaton};
use super::holdback::{Symbols, letter_of};
use super::lane::{Event, Lane, LaneState, Said};
use super::matcher::StateId;
use super::spec::Wording;
use crate::error::Result;
use crate::grammar::Letter;

/// Most places kept for each clause, and of excluded phrases together; all are counted.
pub(in crate::align) const MAX_HITS: usize = 64;

/// A phrase in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::align) struct Hit {
    /// First byte.
    pub start: usize,
    /// The byte after it.
    pub end: usize,
    /// Number of the phrase: in its clause, or among the excluded ones.
    pub phrase: usize,
}

/// What is in a text: how often, and where (at most [`MAX_HITS`] places, the first ones).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::align) struct Hits {
    pub n: u32,
    pub places: Vec<Hit>,
}

impl Hits {
    fn add(&mut self, hit: Hit) {
        self.n = self.n.saturating_add(1);
        if self.places.len() < MAX_HITS {
            self.places.push(hit);
        }
    }
}

/// Everything found in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::align) struct Findings {
    /// By clause: completions that count.
    pub include: Vec<Hits>,
    /// Excluded phrases, by the place where they end.
    pub exclude: Hits,
}

/// Where the caller has a phrase: clause and number in it.
type Origin = (usize, usize);
/// For each phrase of a lane those that compare as equal, itself included: the matcher names one of them.
type Twins = FxHashMap<Origin, Arc<[Origin]>>;

/// Most hits remembered so that two lanes that find the same are counted once.
const RECENT: usize = 256;

/// See the module.
pub(in crate::align) struct Finder {
    automaton: WordingAutomaton,
    twins: Vec<(usize, Twins)>,
}

/// One text while it is read.
struct Search {
    lanes: [LaneState; MAX_LANES],
    symbols: [Symbols; MAX_LANES],
    recent: VecDeque<Hit>,
    found: Findings,
}

impl Finder {
    /// # Errors As [`WordingAutomaton::new`].
    pub fn new(wording: &Wording) -> Result<Self> {
        let phrases = Wording { length: Default::default(), ..wording.clone() };
        let automaton = WordingAutomaton::new(&phrases, &[true; 256])?;
        let lanes = automaton.include_lanes().chain(automaton.exclude_lanes());
        let twins = lanes.map(|(i, lane)| (i, twins(lane))).collect();
        Ok(Self { automaton, twins })
    }

    /// Reads `text` to its end.
    pub fn find(&self, text: &str) -> Findings {
        let n = self.automaton.wording.include.len();
        let found = Findings { include: vec![Hits::default(); n], ..Findings::default() };
        let mut search =
            Search { lanes: Default::default(), symbols: Default::default(), recent: VecDeque::new(), found };
        for (at, c) in text.char_indices() {
            if let Some(letter) = letter_of(&self.automaton, c) {
                self.read(&mut search, Some(letter), (at as u64, (at + c.len_utf8()) as u64));
            }
        }
        self.read(&mut search, None, (text.len() as u64, text.len() as u64));
        search.found
    }

    fn read(&self, search: &mut Search, letter: Option<Letter>, span: (u64, u64)) {
        for (i, lane) in self.automaton.include_lanes() {
            self.read_included(i, lane, search, letter, span);
        }
        let mut banned = Vec::new();
        for (i, lane) in self.automaton.exclude_lanes() {
            self.read_excluded(i, lane, search, letter, span, &mut banned);
        }
        banned.sort_unstable();
        for hit in banned {
            // the lane that does not see invisible characters finds most places again, a little later
            if !search.recent.contains(&hit) {
                search.recent.truncate(RECENT - 1);
                search.recent.push_front(hit);
                search.found.exclude.add(hit);
            }
        }
    }

    fn read_included(
        &self,
        i: usize,
        lane: &Lane,
        search: &mut Search,
        letter: Option<Letter>,
        span: (u64, u64),
    ) {
        let Search { lanes, symbols, found, .. } = search;
        let (symbols, keep) = (&mut symbols[i], lane.longest() + 4);
        lane.trace_included(&mut lanes[i], letter, |said| match said {
            Said::Symbol { late } => {
                symbols.push(if late { (span.0, span.0) } else { span }, keep);
                false
            }
            Said::Ends { at, on_words, anywhere } => {
                let counts = |words: bool| if words { on_words } else { anywhere };
                self.count(i, lane, at, &counts, symbols, &mut found.include)
            }
        });
    }

    /// Counts the phrases that end here, each clause once; whether an ordered list moved on.
    fn count(
        &self,
        i: usize,
        lane: &Lane,
        at: StateId,
        counts: &dyn Fn(bool) -> bool,
        symbols: &Symbols,
        include: &mut [Hits],
    ) -> bool {
        let wording = &self.automaton.wording;
        let next = include.iter().zip(&wording.include).position(|(hits, c)| hits.n < c.at_least);
        let mut done = 0u64;
        lane.each_phrase(at, |outline, words| {
            if !counts(words) {
                return;
            }
            for &(clause, phrase) in self.twins_of(i, outline.origin) {
                let is_expected = !wording.ordered || next == Some(clause);
                if done >> clause & 1 == 1 || !is_expected {
                    continue;
                }
                done |= 1 << clause;
                if let Some(hits) = include.get_mut(clause) {
                    hits.add(hit(symbols, phrase, outline.n_symbols(), 0, None));
                }
            }
        });
        wording.ordered && done != 0
    }

    fn read_excluded(
        &self,
        i: usize,
        lane: &Lane,
        search: &mut Search,
        letter: Option<Letter>,
        span: (u64, u64),
        banned: &mut Vec<Hit>,
    ) {
        let (symbols, keep) = (&mut search.symbols[i], lane.longest() + 4);
        lane.trace(&mut search.lanes[i], letter, |event| match event {
            Event::Symbol { late } => symbols.push(if late { (span.0, span.0) } else { span }, keep),
            Event::Banned { phrase, n_symbols, n_late } => {
                let end = (n_late > 0).then_some(span.1);
                for &(_, twin) in self.twins_of(i, (0, phrase)) {
                    banned.push(hit(symbols, twin, n_symbols, n_late, end));
                }
            }
        });
    }

    fn twins_of(&self, lane: usize, origin: Origin) -> &[Origin] {
        let twins = self.twins.iter().find(|(i, _)| *i == lane);
        twins.and_then(|(_, t)| t.get(&origin)).map_or(&[], |t| &**t)
    }
}

fn twins(lane: &Lane) -> Twins {
    let mut by_end: FxHashMap<StateId, Vec<Origin>> = FxHashMap::default();
    for outline in lane.outlines() {
        by_end.entry(outline.last()).or_default().push(outline.origin);
    }
    let mut twins = Twins::default();
    for same in by_end.into_values() {
        let same: Arc<[Origin]> = same.into();
        twins.extend(same.iter().map(|&origin| (origin, Arc::clone(&same))));
    }
    twins
}

/// The place of a phrase that ends with the last symbol, or at `end`, `n_late` of its symbols still held.
fn hit(symbols: &Symbols, phrase: usize, n_symbols: usize, n_late: usize, end: Option<u64>) -> Hit {
    let last = symbols.back(1).map_or(0, |s| s.1);
    let start = symbols.back(n_symbols.saturating_sub(n_late)).map_or(last, |s| s.0);
    Hit { start: start as usize, end: end.unwrap_or(last) as usize, phrase }
}
