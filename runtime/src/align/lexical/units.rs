//! Counters of words, sentences, characters, graphemes and bytes.

use super::grapheme::{self, Grapheme};
use super::sentence::{self, Sentence, Words};
use super::spec::{Range, Unit};

/// What a letter does to the counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnitLetter {
    pub is_word: bool,
    pub is_mark: bool,
    pub is_ideograph: bool,
    pub sentence: sentence::Class,
    pub grapheme: grapheme::Class,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Run {
    #[default]
    None,
    Word,
    Ideograph,
}

/// Counts so far, each held at one above its limit (or at its lower limit if there is no upper one), so
/// that texts that differ only beyond all limits have equal states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    pub n: [u32; Unit::COUNT],
    run: Run,
    pub sentence: Sentence,
    grapheme: Grapheme,
}

/// The limits, and which counters run at all.
pub(super) struct Counter {
    pub limits: [Range; Unit::COUNT],
    words: Words,
}

impl Counter {
    pub fn new(limits: [Range; Unit::COUNT]) -> Self {
        Self { limits, words: Words::new() }
    }

    pub fn is_active(&self, unit: Unit) -> bool {
        self.limits[unit as usize].is_active()
    }

    /// Counts one more of `unit`; false if that is too many.
    fn add(&self, c: &mut Counts, unit: Unit) -> bool {
        let (limit, n) = (self.limits[unit as usize], &mut c.n[unit as usize]);
        *n = n.saturating_add(1).min(limit.max.map_or(limit.min, |m| m.saturating_add(1)));
        limit.max.is_none_or(|max| *n <= max)
    }

    /// Counts a byte; false if it is one too many.
    pub fn byte(&self, c: &mut Counts) -> bool {
        !self.is_active(Unit::Bytes) || self.add(c, Unit::Bytes)
    }

    /// Counts a whole character; false if something is one too many.
    pub fn letter(&self, c: &mut Counts, letter: &UnitLetter) -> bool {
        let mut fits = true;
        if self.is_active(Unit::Chars) {
            fits &= self.add(c, Unit::Chars);
        }
        if self.is_active(Unit::Words) {
            let (run, begins) = match c.run {
                _ if letter.is_ideograph => (Run::Ideograph, true),
                Run::None if letter.is_word => (Run::Word, true),
                Run::Ideograph if letter.is_word && !letter.is_mark => (Run::Word, true),
                run if letter.is_word => (run, false),
                _ => (Run::None, false),
            };
            c.run = run;
            fits &= !begins || self.add(c, Unit::Words);
        }
        if self.is_active(Unit::Sentences) && c.sentence.read(&self.words, letter.sentence) {
            fits &= self.add(c, Unit::Sentences);
        }
        if self.is_active(Unit::Graphemes) && c.grapheme.read(letter.grapheme) {
            fits &= self.add(c, Unit::Graphemes);
        }
        fits
    }

    /// Whether the text may end with these counts.
    pub fn may_end(&self, c: &Counts) -> bool {
        let closed = !self.is_active(Unit::Sentences) || c.sentence.is_closed();
        closed
            && self
                .limits
                .iter()
                .zip(c.n)
                .all(|(limit, n)| n >= limit.min && limit.max.is_none_or(|m| n <= m))
    }

    /// How many of `unit` are missing to its lower limit.
    pub fn missing(&self, c: &Counts, unit: Unit) -> u32 {
        self.limits[unit as usize].min.saturating_sub(c.n[unit as usize])
    }

    /// How many more of `unit` are allowed.
    pub fn room(&self, c: &Counts, unit: Unit) -> u32 {
        self.limits[unit as usize].max.map_or(u32::MAX, |m| m.saturating_sub(c.n[unit as usize]))
    }

    /// `c` without what cannot make a difference to strings that add at most `most` of each unit.
    pub fn horizon(&self, c: &Counts, most: &[u32; Unit::COUNT]) -> Counts {
        let mut out = *c;
        for unit in Unit::ALL {
            if self.room(c, unit) >= most[unit as usize] {
                out.n[unit as usize] = 0;
                match unit {
                    Unit::Words => out.run = Run::None,
                    Unit::Sentences => out.sentence = Sentence::default(),
                    Unit::Graphemes => out.grapheme = Grapheme::default(),
                    Unit::Chars | Unit::Bytes => {}
                }
            }
        }
        out
    }
}
