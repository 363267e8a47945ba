//! Where user-perceived characters begin, one character at a time.
//! Source: Unicode Standard Annex 29, revision 45, rules GB3 to GB999.

use std::sync::OnceLock;

use super::chartypes::class;
use crate::grammar::CharSet;

/// Grapheme_Cluster_Break with Extended_Pictographic and Indic_Conjunct_Break folded in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Class {
    #[default]
    Other,
    Cr,
    /// Line feed and other controls: always alone, but for CR LF.
    Lf,
    Control,
    Extend,
    /// Extend that keeps an Indic conjunct open.
    ConjunctExtend,
    /// Extend that joins consonants.
    Linker,
    Joiner,
    SpacingMark,
    Prepend,
    Consonant,
    Pictograph,
    Regional,
    L,
    V,
    T,
    Lv,
    Lvt,
}

/// What is remembered of the text: the last class, and what rules 9c, 11 and 12 look back for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Grapheme {
    before: Class,
    has_text: bool,
    /// A conjunct is open (1), and a linker was in it (2).
    conjunct: u8,
    /// A pictograph and its extenders (1), then a joiner (2).
    picture: u8,
    /// An odd number of regional indicators.
    is_half_flag: bool,
}

impl Grapheme {
    /// Reads a character; true if a grapheme begins with it.
    pub fn read(&mut self, class: Class) -> bool {
        let begins = !self.has_text || self.breaks(class);
        self.conjunct = match class {
            Class::Consonant => 1,
            Class::Linker if self.conjunct > 0 => 2,
            Class::ConjunctExtend | Class::Joiner => self.conjunct,
            _ => 0,
        };
        self.picture = match class {
            Class::Pictograph => 1,
            Class::Extend | Class::ConjunctExtend | Class::Linker if self.picture == 1 => 1,
            Class::Joiner if self.picture == 1 => 2,
            _ => 0,
        };
        self.is_half_flag = class == Class::Regional && (begins || !self.is_half_flag);
        (self.before, self.has_text) = (class, true);
        begins
    }

    fn breaks(self, class: Class) -> bool {
        use Class::*;
        match (self.before, class) {
            (Cr, Lf) => false,
            (Cr | Lf | Control, _) | (_, Cr | Lf | Control) => true,
            (L, L | V | Lv | Lvt) | (Lv | V, V | T) | (Lvt | T, T) => false,
            (_, Extend | ConjunctExtend | Linker | Joiner | SpacingMark) | (Prepend, _) => false,
            (_, Consonant) => self.conjunct != 2,
            (_, Pictograph) => self.picture != 2,
            (_, Regional) => !self.is_half_flag,
            _ => true,
        }
    }
}

/// Every class but `Other` with its characters.
pub(super) fn classes() -> &'static [(Class, CharSet)] {
    static SETS: OnceLock<Vec<(Class, CharSet)>> = OnceLock::new();
    // Indic_Conjunct_Break=Linker (Unicode 17, DerivedCoreProperties)
    const LINKER: &str = r"[\x{94D}\x{9CD}\x{ACD}\x{B4D}\x{C4D}\x{D4D}\x{1039}\x{17D2}\x{1A60}\x{1B44}\x{1BAB}\x{A9C0}\x{AAF6}\x{10A3F}\x{11133}\x{113D0}\x{1193E}\x{11A47}\x{11A99}\x{11F42}]";
    SETS.get_or_init(|| {
        let sets = [
            (Class::Cr, r"\r".to_owned()),
            (Class::Lf, r"\n".to_owned()),
            (Class::Control, r"\p{gcb=Control}".to_owned()),
            (Class::Extend, r"\x{200C}".to_owned()),
            (Class::ConjunctExtend, format!(r"[\p{{gcb=Extend}}--{LINKER}--\x{{200C}}]")),
            (Class::Linker, LINKER.to_owned()),
            (Class::Joiner, r"\x{200D}".to_owned()),
            (Class::SpacingMark, r"\p{gcb=SpacingMark}".to_owned()),
            (Class::Prepend, r"\p{gcb=Prepend}".to_owned()),
            (Class::Consonant, CONSONANTS.to_owned()),
            (Class::Pictograph, r"\p{Extended_Pictographic}".to_owned()),
            (Class::Regional, r"\p{gcb=Regional_Indicator}".to_owned()),
            (Class::L, r"\p{gcb=L}".to_owned()),
            (Class::V, r"\p{gcb=V}".to_owned()),
            (Class::T, r"\p{gcb=T}".to_owned()),
            (Class::Lv, r"\p{gcb=LV}".to_owned()),
            (Class::Lvt, r"\p{gcb=LVT}".to_owned()),
        ];
        sets.into_iter().map(|(c, pattern)| (c, class(&pattern))).collect()
    })
}

/// Indic_Conjunct_Break=Consonant (Unicode 17, DerivedCoreProperties).
const CONSONANTS: &str = "[\
    \\x{915}-\\x{939}\\x{958}-\\x{95F}\\x{978}-\\x{97F}\\x{995}-\\x{9A8}\\x{9AA}-\\x{9B0}\\x{9B2}\
    \\x{9B6}-\\x{9B9}\\x{9DC}-\\x{9DD}\\x{9DF}\\x{9F0}-\\x{9F1}\\x{A95}-\\x{AA8}\\x{AAA}-\\x{AB0}\
    \\x{AB2}-\\x{AB3}\\x{AB5}-\\x{AB9}\\x{AF9}\\x{B15}-\\x{B28}\\x{B2A}-\\x{B30}\\x{B32}-\\x{B33}\
    \\x{B35}-\\x{B39}\\x{B5C}-\\x{B5D}\\x{B5F}\\x{B71}\\x{C15}-\\x{C28}\\x{C2A}-\\x{C39}\\x{C58}-\\x{C5A}\
    \\x{D15}-\\x{D3A}\\x{1000}-\\x{102A}\\x{103F}\\x{1050}-\\x{1055}\\x{105A}-\\x{105D}\\x{1061}\
    \\x{1065}-\\x{1066}\\x{106E}-\\x{1070}\\x{1075}-\\x{1081}\\x{108E}\\x{1780}-\\x{17B3}\\x{1A20}-\\x{1A54}\
    \\x{1B0B}-\\x{1B0C}\\x{1B13}-\\x{1B33}\\x{1B45}-\\x{1B4C}\\x{1B83}-\\x{1BA0}\\x{1BAE}-\\x{1BAF}\
    \\x{1BBB}-\\x{1BBD}\\x{A989}-\\x{A98B}\\x{A98F}-\\x{A9B2}\\x{A9E0}-\\x{A9E4}\\x{A9E7}-\\x{A9EF}\
    \\x{A9FA}-\\x{A9FE}\\x{AA60}-\\x{AA6F}\\x{AA71}-\\x{AA73}\\x{AA7A}\\x{AA7E}-\\x{AA7F}\\x{AAE0}-\\x{AAEA}\
    \\x{ABC0}-\\x{ABDA}\\x{10A00}\\x{10A10}-\\x{10A13}\\x{10A15}-\\x{10A17}\\x{10A19}-\\x{10A35}\
    \\x{11103}-\\x{11126}\\x{11144}\\x{11147}\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\
    \\x{11900}-\\x{11906}\\x{11909}\\x{1190C}-\\x{11913}\\x{11915}-\\x{11916}\\x{11918}-\\x{1192F}\\x{11A00}\
    \\x{11A0B}-\\x{11A32}\\x{11A50}\\x{11A5C}-\\x{11A83}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}]";

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_segmentation::UnicodeSegmentation;

    fn class_of(c: char) -> Class {
        classes().iter().find(|(_, set)| set.contains(c)).map_or(Class::Other, |(class, _)| *class)
    }

    fn begins(text: &str) -> Vec<bool> {
        let mut g = Grapheme::default();
        text.chars().map(|c| g.read(class_of(c))).collect()
    }

    fn reference(text: &str) -> Vec<bool> {
        text.graphemes(true).flat_map(|g| g.chars().enumerate().map(|(i, _)| i == 0)).collect()
    }

    #[test]
    fn graphemes_begin_where_the_reference_has_them() {
        // a character of every class, in every combination of four
        let some = [
            'a',
            '\r',
            '\n',
            '\u{1}',
            '\u{200c}',
            '\u{301}',
            '\u{94d}',
            '\u{200d}',
            '\u{903}',
            '\u{600}',
            'क',
            'त',
            '😀',
            '\u{1f1e6}',
            'ᄀ',
            'ᅡ',
            'ᆨ',
            '가',
            '각',
        ];
        let n = some.len();
        for i in 0..n * n * n * n {
            let text: String = [i, i / n, i / n / n, i / n / n / n].iter().map(|j| some[j % n]).collect();
            assert_eq!(begins(&text), reference(&text), "{text:?}");
        }
    }

    #[test]
    fn every_assigned_character_has_its_class() {
        let mut wrong = Vec::new();
        // what one of the tables, of Unicode versions a year apart, does not know
        let unknown = class(r"[\p{Cn}\p{Extended_Pictographic}]");
        // beyond lie ideographs, tags and variation selectors
        for c in ('\0'..'\u{20000}').chain('\u{e0000}'..'\u{e0200}').filter(|&c| !unknown.contains(c)) {
            let contexts = [("a", "a"), ("क\u{94d}", ""), ("क", "क"), ("😀\u{200d}", ""), ("ᄀ", "ᆨ")];
            if contexts
                .iter()
                .map(|(l, r)| format!("{l}{c}{r}"))
                .any(|text| begins(&text) != reference(&text))
            {
                wrong.push(c);
            }
        }
        assert!(wrong.len() < 10, "{} characters: {:?}", wrong.len(), &wrong[..wrong.len().min(40)]);
    }
}
