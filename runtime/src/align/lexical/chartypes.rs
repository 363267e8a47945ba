//! What constraints need to know of a character besides its identity.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

use crate::grammar::CharSet;

/// Properties of a character that decide about word boundaries; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind(u8);

impl Kind {
    /// Part of a word: Alphabetic, Mark, Number or Connector_Punctuation.
    pub const WORD: Self = Self(1);
    /// A combining mark.
    pub const MARK: Self = Self(2);
    /// Of a script written without spaces: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
    pub const SPACELESS: Self = Self(4);
    /// Number of different kinds.
    pub const COUNT: usize = 8;

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn with(self, other: Self, yes: bool) -> Self {
        if yes { Self(self.0 | other.0) } else { self }
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether a phrase may begin with a character of kind `self` after one of kind `before`.
    pub const fn begins_after(self, before: Self) -> bool {
        !before.has(Self::WORD) || self.parts_from(before)
    }

    /// Whether a phrase may end at a character of kind `before` if this one follows.
    pub const fn ends(self, before: Self) -> bool {
        !self.has(Self::WORD) || self.parts_from(before)
    }

    /// In scripts without spaces every two characters have a boundary between them.
    const fn parts_from(self, before: Self) -> bool {
        self.has(Self::SPACELESS) && before.has(Self::SPACELESS) && !self.has(Self::MARK)
    }
}

/// The sets of characters with a property, as the Unicode tables have them.
#[derive(Debug)]
pub(super) struct Types {
    pub word: CharSet,
    pub mark: CharSet,
    pub spaceless: CharSet,
    pub ideograph: CharSet,
    /// Shown as nothing: soft hyphen, zero-width joiners and the like.
    pub ignorable: CharSet,
    pub space: CharSet,
    pub letter: CharSet,
    pub lower: CharSet,
    pub upper: CharSet,
}

impl Types {
    pub fn get() -> &'static Self {
        static TYPES: OnceLock<Types> = OnceLock::new();
        TYPES.get_or_init(|| Self {
            word: class(r"[\p{Alphabetic}\p{M}\p{N}\p{Pc}]"),
            mark: class(r"\p{M}"),
            spaceless: class(
                r"[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]",
            ),
            ideograph: class(r"[\p{sc=Han}&&[\p{L}\p{Nl}]]"),
            ignorable: class(r"\p{Default_Ignorable_Code_Point}"),
            space: class(r"\p{White_Space}"),
            letter: class(r"\p{Alphabetic}"),
            lower: class(r"\p{Lowercase}"),
            upper: class(r"\p{Uppercase}"),
        })
    }

    pub fn kind(&self, c: char) -> Kind {
        Kind::default()
            .with(Kind::WORD, self.word.contains(c))
            .with(Kind::MARK, self.mark.contains(c))
            .with(Kind::SPACELESS, self.spaceless.contains(c))
    }
}

/// The characters of a class in regular-expression syntax; none if it is not a class.
pub(super) fn class(pattern: &str) -> CharSet {
    let hir = regex_syntax::parse(pattern);
    match hir.as_ref().map(|h| h.kind()) {
        Ok(HirKind::Class(Class::Unicode(c))) => {
            CharSet::new(c.iter().map(|r| (u32::from(r.start()), u32::from(r.end()))))
        }
        Ok(HirKind::Literal(l)) => {
            String::from_utf8_lossy(&l.0).chars().next().map(CharSet::one).unwrap_or_default()
        }
        _ => CharSet::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_some_characters() {
        let t = Types::get();
        for (c, kind) in [
            ('a', Kind::WORD),
            ('_', Kind::WORD),
            ('7', Kind::WORD),
            (' ', Kind::default()),
            ('-', Kind::default()),
            ('\u{301}', Kind::WORD.with(Kind::MARK, true)),
            ('犬', Kind::WORD.with(Kind::SPACELESS, true)),
            ('\u{e31}', Kind::WORD.with(Kind::MARK, true).with(Kind::SPACELESS, true)),
        ] {
            assert_eq!(t.kind(c), kind, "{c:?}");
        }
        assert!(
            t.ignorable.contains('\u{ad}') && t.ignorable.contains('\u{200d}') && !t.ignorable.contains('-')
        );
        assert!(t.ideograph.contains('犬') && !t.ideograph.contains('あ') && !t.ideograph.contains('。'));
        assert!(t.space.contains('\u{3000}') && t.lower.contains('é'));
    }

    #[test]
    fn boundaries() {
        let (word, other) = (Kind::WORD, Kind::default());
        let han = word.with(Kind::SPACELESS, true);
        for (before, after, begins, ends) in [
            (other, word, true, false),
            (word, other, false, true),
            (other, other, true, true),
            (word, word, false, false),
            (han, han, true, true),
            (han, word, false, false),
            (han, han.with(Kind::MARK, true), false, false),
        ] {
            assert_eq!(
                (after.begins_after(before), after.ends(before)),
                (begins, ends),
                "{before:?} {after:?}"
            );
        }
    }
}
