//! Characters as the keyword matcher compares them: decomposed and case-folded.
//!
//! Two texts are equal under NFC (NFKC) exactly if their canonical (compatibility) decompositions are, so
//! the matcher compares decompositions: a character then maps to a fixed string whatever stands beside
//! it, and only the order of combining marks depends on the neighbours. Nothing has to be held back to
//! see whether the next character composes.
//! Source: Unicode Standard Annex 15; Unicode 16, section 3.13, definitions D144 to D146.

use serde::Deserialize;
use std::sync::OnceLock;

use super::chartypes::{Kind, Types};
use crate::grammar::CharSet;
use rustc_hash::FxHashMap;
use unicode_normalization::char::{canonical_combining_class, decompose_canonical, decompose_compatible};

/// Which spellings of a character count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// None but the same code points.
    None,
    /// Canonical equivalence: `é` is `e` with an accent.
    Nfc,
    /// Compatibility equivalence as well: `ﬁ` is `fi`, full-width letters are letters.
    #[default]
    Nfkc,
}

/// Whether letter case matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// Full case folding: `ß` is `SS`. `I` folds to `i`, also in Turkish; dotless `ı` stays itself.
    #[default]
    Fold,
    /// Case must match.
    Exact,
}

/// A way of comparing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Folding {
    pub norm: Norm,
    pub case: Case,
}

impl Folding {
    /// Calls `f` with the characters `c` stands for, marks not yet in canonical order.
    pub fn expand(self, c: char, f: &mut impl FnMut(char)) {
        let mut folded = |d| match self.case {
            Case::Exact => f(d),
            Case::Fold => fold_case(d, f),
        };
        match self.norm {
            Norm::None => folded(c),
            Norm::Nfc => decompose_canonical(c, folded),
            Norm::Nfkc => decompose_compatible(c, folded),
        }
    }

    /// The characters `text` stands for, in canonical order.
    #[cfg(test)]
    pub fn apply(self, text: &str) -> Vec<char> {
        let mut out = Vec::with_capacity(text.len());
        text.chars().for_each(|c| self.expand(c, &mut |d| out.push(d)));
        if self.norm != Norm::None {
            out.chunk_by_mut(|_, &b| ccc(b) > 0).for_each(|run| {
                let marks = usize::from(run.first().is_some_and(|&c| ccc(c) == 0));
                run[marks..].sort_by_key(|&c| ccc(c));
            });
        }
        out
    }

    /// All characters that stand for something else than themselves, with that, and by what they contain.
    pub fn table(self) -> &'static Table {
        static TABLES: [OnceLock<Table>; 6] = [const { OnceLock::new() }; 6];
        let i = match self.norm {
            Norm::None => 0,
            Norm::Nfc => 1,
            Norm::Nfkc => 2,
        } + 3 * usize::from(self.case == Case::Exact);
        TABLES[i].get_or_init(|| Table::new(self))
    }
}

/// Combining class: marks of unequal class may be written in any order.
pub(super) fn ccc(c: char) -> u8 {
    canonical_combining_class(c)
}

/// Full case folding of one character, up to a choice of representative: two characters fold alike
/// exactly if they do in Unicode's table. Lower case of upper case is that, but for three letters.
fn fold_case(c: char, f: &mut impl FnMut(char)) {
    match c {
        'ı' => f(c),
        'ẞ' => "ss".chars().for_each(f),
        _ if c.is_ascii() => f(c.to_ascii_lowercase()),
        _ => c.to_uppercase().for_each(|u| u.to_lowercase().for_each(&mut *f)),
    }
}

/// Kinds in order, each with whether it is a mark that may be reordered; one for each run of equals.
pub(super) type Kinds = Vec<(Kind, bool)>;

/// See [`Folding::table`]. A few milliseconds to build, once a process.
#[derive(Debug)]
pub(super) struct Table {
    pub entries: Vec<(char, Box<[char]>)>,
    /// Entries that contain a character.
    pub containing: FxHashMap<char, Vec<u32>>,
    /// Characters that stand for something of another kind, or of several kinds.
    pub mixed: Vec<(Kinds, CharSet)>,
}

/// Blocks in which no character decomposes or has case: ideographs and what lies above emoji.
const PLAIN: [(u32, u32); 4] =
    [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x2_0000, 0x2_F7FF), (0x2_FA20, 0x10_FFFF)];

/// Syllables: they decompose into letters, all of one kind.
const HANGUL: std::ops::RangeInclusive<char> = '가'..='힣';

impl Table {
    fn new(folding: Folding) -> Self {
        let mut this = Self { entries: Vec::new(), containing: FxHashMap::default(), mixed: Vec::new() };
        let mut out = Vec::new();
        let mut from = 0;
        for (lo, hi) in PLAIN {
            for c in (from..lo).filter_map(char::from_u32) {
                out.clear();
                folding.expand(c, &mut |d| out.push(d));
                if out != [c] {
                    this.add(c, &out);
                }
            }
            from = hi + 1;
        }
        this.mixed = this.find_mixed();
        this
    }

    fn find_mixed(&self) -> Vec<(Kinds, CharSet)> {
        let types = Types::get();
        let kind = |c: char| (types.kind(c), ccc(c) > 0);
        let mut groups: FxHashMap<Kinds, Vec<(u32, u32)>> = FxHashMap::default();
        for (c, to) in self.entries.iter().filter(|(c, _)| !HANGUL.contains(c)) {
            let mut kinds: Vec<_> = to.iter().map(|&d| kind(d)).collect();
            kinds.dedup();
            if kinds != [kind(*c)] {
                groups.entry(kinds).or_default().push((u32::from(*c), u32::from(*c)));
            }
        }
        groups.into_iter().map(|(kinds, ranges)| (kinds, CharSet::new(ranges))).collect()
    }

    fn add(&mut self, c: char, to: &[char]) {
        let id = self.entries.len() as u32;
        self.entries.push((c, to.into()));
        for &d in to {
            let list = self.containing.entry(d).or_default();
            if list.last() != Some(&id) {
                list.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

    const DEFAULT: Folding = Folding { norm: Norm::Nfkc, case: Case::Fold };

    fn alike(folding: Folding, a: &str, b: &str) -> bool {
        folding.apply(a) == folding.apply(b)
    }

    #[test]
    fn spellings_that_must_and_must_not_be_equal() {
        let exact = Folding { norm: Norm::None, case: Case::Exact };
        let nfc = Folding { norm: Norm::Nfc, case: Case::Fold };
        for (a, b, default, canonical) in [
            ("Straße", "STRASSE", true, true),
            ("ẞ", "ss", true, true),
            ("café", "cafe\u{301}", true, true),
            ("é", "e", false, false),
            ("ﬁn", "fin", true, true), // case folding alone joins these
            ("Ａ", "a", true, false),
            ("ΟΔΟΣ", "οδος", true, true),
            ("I", "i", true, true),
            ("I", "ı", false, false),
            ("İ", "i\u{307}", true, true),
            ("q\u{307}\u{323}", "q\u{323}\u{307}", true, true),
            ("한", "\u{1112}\u{1161}\u{11ab}", true, true),
            ("ᏸ", "Ᏸ", true, true),
        ] {
            assert_eq!((alike(DEFAULT, a, b), alike(nfc, a, b)), (default, canonical), "{a} {b}");
            assert!(!alike(exact, a, b), "{a} {b}");
        }
    }

    /// Simple case folding, as the regular-expression crate has it, joins the same characters.
    #[test]
    fn characters_fold_together_exactly_if_they_are_case_variants() {
        let folding = Folding { norm: Norm::None, case: Case::Fold };
        let fold = |c: char| folding.apply(&c.to_string());
        let mut n = 0;
        for c in ('\0'..=char::MAX).filter(|&c| c.is_alphabetic() || c == '\u{345}') {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            class.case_fold_simple();
            for d in class.iter().flat_map(|r| r.start()..=r.end()) {
                assert_eq!(fold(c), fold(d), "{c:?} {d:?}");
                n += usize::from(c != d);
            }
        }
        assert!(n > 2500, "{n} pairs");
    }

    #[test]
    fn the_table_holds_all_that_change() {
        let table = DEFAULT.table();
        let known: FxHashMap<char, &[char]> = table.entries.iter().map(|(c, e)| (*c, &**e)).collect();
        for c in '\0'..=char::MAX {
            let mut out = Vec::new();
            DEFAULT.expand(c, &mut |d| out.push(d));
            assert_eq!(known.get(&c).copied().unwrap_or(&[c]), out.as_slice(), "{c:?}");
        }
    }
}
