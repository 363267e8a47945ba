//! Byte-pair encoding: which pairs of pieces merge, and at which rank.
//!
//! Merges are looked up by the ids of the pair, not by the text it makes: several pairs can make the same
//! text. A merge may use pieces that are no tokens; those get ids after the vocabulary's.

use super::TokenKind;
use super::merge::{Join, Merges, NO_PIECE};
use super::pieces::{Index, Pieces};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::hash::BuildHasher;

/// How text falls into the symbols that merging starts from.
pub(super) enum Atoms {
    /// Single bytes, with the piece of each (GPT-2's byte-level alphabet).
    Bytes(Box<[u32; 256]>),
    /// Characters.
    Chars,
}

/// The merges of a vocabulary.
pub(super) struct Bpe {
    pub(super) atoms: Atoms,
    pairs: HashTable<Pair>,
    hasher: DefaultHashBuilder,
    /// Pieces that are no tokens.
    extra: HashMap<Box<[u8]>, u32>,
    n_vocab: u32,
    /// What the merge added last makes.
    last: u32,
}

#[derive(Clone, Copy)]
struct Pair {
    left: u32,
    right: u32,
    join: Join,
}

impl Pair {
    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }
}

impl Bpe {
    pub(super) fn new(n_vocab: u32, n_merges: usize) -> Self {
        Self {
            atoms: Atoms::Chars,
            pairs: HashTable::with_capacity(n_merges),
            hasher: DefaultHashBuilder::default(),
            extra: HashMap::new(),
            n_vocab,
            last: NO_PIECE,
        }
    }

    /// Lets the first `split` bytes of `both` merge with the rest. The first rank given to a pair holds.
    pub(super) fn add(&mut self, pieces: &Pieces, index: &Index, both: &[u8], split: usize, rank: u32) {
        let (left, right) = both.split_at(split);
        let (left, right) = (self.piece_or_new(pieces, index, left), self.piece_or_new(pieces, index, right));
        // Tokens mostly follow in the order of the merges that make them.
        let next = self.last.saturating_add(1);
        let follows = pieces.kind(next) == TokenKind::Normal && pieces.get(next) == both;
        let piece = if follows { next } else { self.piece_or_new(pieces, index, both) };
        self.last = piece;
        let hash = self.hasher.hash_one(Pair::key(left, right));
        if self.pairs.find(hash, |p| p.left == left && p.right == right).is_none() {
            let hasher = &self.hasher;
            let pair = Pair { left, right, join: Join { rank, piece } };
            self.pairs.insert_unique(hash, pair, |p| hasher.hash_one(Pair::key(p.left, p.right)));
        }
    }

    /// The piece that `bytes` are, `NO_PIECE` if no merge knows them.
    pub(super) fn piece(&self, pieces: &Pieces, index: &Index, bytes: &[u8]) -> u32 {
        match index.get(pieces, bytes) {
            Some(id) => id,
            None if self.extra.is_empty() => NO_PIECE,
            None => self.extra.get(bytes).copied().unwrap_or(NO_PIECE),
        }
    }

    fn piece_or_new(&mut self, pieces: &Pieces, index: &Index, bytes: &[u8]) -> u32 {
        match self.piece(pieces, index, bytes) {
            NO_PIECE => {
                let piece = self.n_vocab.saturating_add(self.extra.len() as u32);
                self.extra.insert(bytes.into(), piece);
                piece
            }
            piece => piece,
        }
    }
}

/// The merges together with what their lookups need.
pub(super) struct BpeMerges<'a> {
    pub bpe: &'a Bpe,
    pub pieces: &'a Pieces,
    pub index: &'a Index,
}

impl Merges for BpeMerges<'_> {
    #[inline]
    fn atom(&self, rest: &[u8]) -> (u32, usize) {
        let first = rest.first().copied().unwrap_or(0);
        match &self.bpe.atoms {
            Atoms::Bytes(table) => (table[first as usize], 1),
            Atoms::Chars => {
                let len = char_len(first).min(rest.len());
                (self.bpe.piece(self.pieces, self.index, &rest[..len]), len)
            }
        }
    }

    #[inline]
    fn join(&self, _text: &[u8], left: u32, right: u32) -> Option<Join> {
        if left == NO_PIECE || right == NO_PIECE {
            return None;
        }
        let hash = self.bpe.hasher.hash_one(Pair::key(left, right));
        self.bpe.pairs.find(hash, |p| p.left == left && p.right == right).map(|p| p.join)
    }
}

/// Length of the UTF-8 sequence that `first` begins.
#[inline]
pub(super) fn char_len(first: u8) -> usize {
    match first {
        0..=0xbf => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
    }
}

/// The byte that a character of GPT-2's byte alphabet stands for.
///
/// Printable bytes of Latin-1 stand for themselves, the 68 others for U+0100 and up, in order.
/// Source: Radford et al. 2019, the published GPT-2 encoder (`bytes_to_unicode`).
pub(super) fn byte_of(c: u32) -> Option<u8> {
    match c {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(c).ok(),
        0x100..=0x120 => u8::try_from(c - 0x100).ok(),
        0x121..=0x142 => u8::try_from(c - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes that a token text in GPT-2's byte alphabet stands for. False, with nothing appended, if it
/// is in no such alphabet.
pub(super) fn decode_bytes(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (c, len) = match (first, rest.get(1)) {
            (0x21..=0x7e, _) => (u32::from(first), 1),
            (0xc2..=0xdf, Some(second @ 0x80..=0xbf)) => {
                (u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f), 2)
            }
            _ => (0, 1),
        };
        match byte_of(c) {
            Some(b) => out.push(b),
            None => {
                out.truncate(start);
                return false;
            }
        }
        rest = &rest[len..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [0; 256];
        for c in 0..0x1000 {
            if let Some(b) = byte_of(c) {
                seen[b as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        let space = 'Ġ'; // what GPT-2 files show for a blank
        assert_eq!((byte_of(space as u32), byte_of('Ċ' as u32)), (Some(b' '), Some(b'\n')));
    }

    #[test]
    fn texts_outside_the_byte_alphabet_do_not_decode() {
        let mut out = vec![1];
        assert!(decode_bytes("Ġthe".as_bytes(), &mut out));
        assert_eq!(out, b"\x01 the");
        for text in ["a b", "▁a", "\u{144}", "a\0"] {
            assert!(!decode_bytes(text.as_bytes(), &mut out), "{text}");
        }
        assert!(!decode_bytes(b"a\xc4", &mut out));
        assert_eq!(out, b"\x01 the");
    }
}
