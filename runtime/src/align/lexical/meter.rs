//! The length of a given text in every unit, by the counters that enforce.

use serde::Serialize;

use super::automaton::WordingAutomaton;
use super::spec::{Range, Unit, Wording};
use crate::error::Result;
use crate::grammar::Automaton;

/// The length of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitCounts {
    /// Runs of word characters; every ideograph is one.
    pub words: u32,
    /// Sentences begun.
    pub sentences: u32,
    /// Unicode scalar values.
    pub chars: u32,
    /// Extended grapheme clusters.
    pub graphemes: u32,
    /// Bytes of UTF-8.
    pub bytes: u32,
    /// Whether no sentence is left open: what a limit on sentences also asks.
    pub closed: bool,
}

impl UnitCounts {
    /// The count of `unit`.
    pub const fn get(&self, unit: Unit) -> u32 {
        match unit {
            Unit::Words => self.words,
            Unit::Sentences => self.sentences,
            Unit::Chars => self.chars,
            Unit::Graphemes => self.graphemes,
            Unit::Bytes => self.bytes,
        }
    }

    /// Whether a limit on `unit` is kept.
    pub fn keeps(&self, unit: Unit, limit: Range) -> bool {
        let n = self.get(unit);
        let in_range = n >= limit.min && limit.max.is_none_or(|max| n <= max);
        in_range && (unit != Unit::Sentences || !limit.is_active() || self.closed)
    }
}

/// Counts. Made once, used for many texts; cost some 20 ns a character.
pub struct Meter {
    automaton: WordingAutomaton,
}

impl Meter {
    /// # Errors None that the tables of Unicode could cause; as [`WordingAutomaton::new`].
    pub fn new() -> Result<Self> {
        // counters run only where a limit is set
        let all = Wording {
            length: [Range { min: 0, max: Some(u32::MAX - 1) }; Unit::COUNT],
            ..Wording::default()
        };
        Ok(Self { automaton: WordingAutomaton::new(&all, &[true; 256])? })
    }

    /// The length of `text`; counts beyond `u32::MAX - 1` are not told apart.
    pub fn count(&self, text: &str) -> UnitCounts {
        let start = self.automaton.start();
        let units = self.automaton.run(start, text.as_bytes()).unwrap_or(start).units;
        let n = |unit: Unit| units.n[unit as usize];
        UnitCounts {
            words: n(Unit::Words),
            sentences: n(Unit::Sentences),
            chars: n(Unit::Chars),
            graphemes: n(Unit::Graphemes),
            bytes: n(Unit::Bytes),
            closed: units.sentence.is_closed(),
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter")
    }
}
