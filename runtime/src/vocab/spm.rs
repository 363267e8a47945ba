//! SentencePiece's unigram-scored merging: neighbours join if together they are a token, best score first.
//!
//! Keys hold blanks where the file has U+2581 (as escaped text cannot tell the two apart), so text is used as
//! it comes.

use super::bpe::char_len;
use super::merge::{Join, Merges, NO_PIECE};
use super::pieces::{Index, Pieces};
use crate::token::TokenId;

/// What SentencePiece writes for a blank, U+2581.
pub(super) const BLANK: char = '\u{2581}';

/// Scores and word borders of a vocabulary.
pub(super) struct Spm {
    /// Merge rank of each token: lower for higher scores.
    ranks: Vec<u32>,
    /// Whether some token holds this byte before a blank. Where none does, no merge spans the border, so text
    /// can be cut there: words are short, and short words are cheap.
    before_blank: [bool; 256],
}

impl Spm {
    pub(super) fn new() -> Self {
        Self { ranks: Vec::new(), before_blank: [false; 256] }
    }

    /// Scores the next token.
    pub(super) fn push(&mut self, score: f32) {
        self.ranks.push(rank(score));
    }

    /// Takes note of a token's key.
    pub(super) fn note_key(&mut self, key: &[u8]) {
        if !key.get(1..).is_some_and(|rest| rest.contains(&b' ')) {
            return; // nearly always
        }
        for pair in key.windows(2) {
            if pair[1] == b' ' {
                self.before_blank[pair[0] as usize] = true;
            }
        }
    }

    /// Calls `sink` with the start of each word of `text` and its bytes.
    pub(super) fn words<'t>(&self, text: &'t [u8], mut sink: impl FnMut(usize, &'t [u8])) {
        let mut start = 0;
        for (i, pair) in text.windows(2).enumerate() {
            if pair[1] == b' ' && !self.before_blank[pair[0] as usize] {
                sink(start, &text[start..=i]);
                start = i + 1;
            }
        }
        if start < text.len() {
            sink(start, &text[start..]);
        }
    }
}

/// Ranks ascend as scores (finite or infinite, not NaN) descend; both zeros are equal.
fn rank(score: f32) -> u32 {
    let bits = if score == 0.0 { 0 } else { score.to_bits() };
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

/// The merges together with what their lookups need.
pub(super) struct SpmMerges<'a> {
    pub spm: &'a Spm,
    pub pieces: &'a Pieces,
    pub index: &'a Index,
}

impl Merges for SpmMerges<'_> {
    /// A character. Whether it is a token is asked only if it stays alone.
    #[inline]
    fn atom(&self, rest: &[u8]) -> (u32, usize) {
        (NO_PIECE, char_len(rest.first().copied().unwrap_or(0)).min(rest.len()))
    }

    #[inline]
    fn join(&self, text: &[u8], _left: u32, _right: u32) -> Option<Join> {
        let id: TokenId = self.index.get(self.pieces, text)?;
        Some(Join { rank: *self.spm.ranks.get(id as usize)?, piece: id })
    }
}

/// Appends `text` with U+2581 turned to blanks.
pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| *b == BLANK_BYTES[0]) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        match rest.strip_prefix(&BLANK_BYTES) {
            Some(after) => {
                out.push(b' ');
                rest = after;
            }
            None => {
                out.push(BLANK_BYTES[0]);
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest);
}

const BLANK_BYTES: [u8; 3] = [0xe2, 0x96, 0x81];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_scores_from_best_to_worst() {
        let scores = [f32::INFINITY, 3.5, 1e-40, 0.0, -1e-40, -2.0, -1e30, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(0.0), rank(-0.0));
        assert!(rank(f32::NEG_INFINITY) < u32::MAX);
    }

    #[test]
    fn only_the_blank_mark_is_unescaped() {
        let mut out = Vec::new();
        unescape("▁a▁▁b▂\u{2580} ▁".as_bytes(), &mut out);
        unescape(b"\xe2\x96", &mut out);
        assert_eq!(out, ["\u{20}a  b▂\u{2580}  ".as_bytes(), b"\xe2\x96"].concat());
        assert_eq!(BLANK.to_string().as_bytes(), BLANK_BYTES);
    }

    #[test]
    fn words_end_only_where_no_token_goes_on() {
        let mut spm = Spm::new();
        spm.note_key(b"a b");
        let cut = |text: &'static [u8]| {
            let mut words = Vec::new();
            spm.words(text, |at, w| words.push((at, w)));
            words
        };
        assert_eq!(cut(b"xa b c"), [(0, &b"xa b"[..]), (4, b" c")]);
        assert_eq!(cut(b""), []);
        assert_eq!(cut(b" "), [(0, &b" "[..])]);
    }
}
