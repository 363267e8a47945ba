//! What a caller asks for: words to use, words to avoid, how long the text is.

use super::fold::{Case, Norm};
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;

/// Where a phrase counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// As whole words: neither side touches a word character (Alphabetic, Mark, Number or
    /// Connector_Punctuation). Characters of scripts written without spaces are words by themselves.
    #[default]
    Word,
    /// Anywhere, also inside words.
    None,
}

/// A phrase and how it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phrase {
    /// As a person would write it.
    pub text: String,
    /// Whole words or anywhere.
    pub boundary: Boundary,
    /// Letter case.
    pub case: Case,
    /// Spelling variants.
    pub norm: Norm,
}

impl From<&str> for Phrase {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

/// One thing that must be said: any of some phrases, so many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Any of these counts.
    pub any: Vec<Phrase>,
    /// At least so often, counting every place where one of them ends.
    pub at_least: u32,
    /// At most so often.
    pub at_most: Option<u32>,
}

impl Clause {
    /// One of `phrases`, at least once.
    pub fn any<T: Into<Phrase>>(phrases: impl IntoIterator<Item = T>) -> Self {
        Self { any: phrases.into_iter().map(Into::into).collect(), at_least: 1, at_most: None }
    }
}

/// Limits of a count, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: Option<u32>,
}

impl Range {
    /// Exactly `n`.
    pub const fn exactly(n: u32) -> Self {
        Self { min: n, max: Some(n) }
    }

    /// Whether anything is asked.
    pub const fn is_active(self) -> bool {
        self.min > 0 || self.max.is_some()
    }
}

impl std::str::FromStr for Range {
    type Err = Error;

    /// `"n"`, `"a..b"`, `"a.."` or `"..b"`, both ends included.
    fn from_str(s: &str) -> Result<Self> {
        let number = |part: &str| part.trim().parse::<u32>().ok();
        let bad = || {
            Error::new(
                ErrorKind::BadProfile,
                format!("expected a length like \"5\", \"5..\", \"..9\" or \"5..9\", found {s:?}"),
            )
        };
        let range = match s.split_once("..") {
            None => number(s).map(Self::exactly),
            Some((a, b)) if a.trim().is_empty() => number(b).map(|max| Self { min: 0, max: Some(max) }),
            Some((a, b)) if b.trim().is_empty() => number(a).map(|min| Self { min, max: None }),
            Some((a, b)) => number(a).zip(number(b)).map(|(min, max)| Self { min, max: Some(max) }),
        };
        range.ok_or_else(bad)
    }
}

/// A unit of length of text. Tokens are not among them: they depend on the vocabulary, and
/// [`Limits`](crate::align::Limits) keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Maximal runs of word characters; every ideograph is a word.
    Words,
    /// As `sentence.rs` says; the last one must be closed.
    Sentences,
    /// Unicode scalar values.
    Chars,
    /// Extended grapheme clusters.
    Graphemes,
    /// Bytes of UTF-8.
    Bytes,
}

impl Unit {
    /// Number of units.
    pub const COUNT: usize = 5;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Words, Self::Sentences, Self::Chars, Self::Graphemes, Self::Bytes];

    /// The name in profiles, errors and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Sentences => "sentences",
            Self::Chars => "chars",
            Self::Graphemes => "graphemes",
            Self::Bytes => "bytes",
        }
    }
}

/// Everything asked of the wording and length of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wording {
    /// All of these clauses must hold.
    pub include: Vec<Clause>,
    /// Clauses must be completed in this order, without overlap.
    pub ordered: bool,
    /// None of these may occur, nor occur once characters that show as nothing are taken out.
    pub exclude: Vec<Phrase>,
    /// Limits by [`Unit`], in the order of [`Unit::ALL`].
    pub length: [Range; Unit::COUNT],
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, min, max) in
            [("5", 5, Some(5)), ("..40", 0, Some(40)), ("3..", 3, None), (" 2 .. 4 ", 2, Some(4))]
        {
            assert_eq!(text.parse::<Range>().unwrap(), Range { min, max }, "{text}");
        }
        for text in ["", "..", "a", "1..b", "-1", "1...3"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
