//! What a pre-tokenizer rule can ask about a character, as bits of a table built once.
//!
//! Cost: about 100 kB and a fraction of a millisecond for the process; then one load for ASCII, two for anything else.

use super::chars_table::CHANGES;
use std::sync::OnceLock;

pub(super) const LETTER: u16 = 1;
pub(super) const NUMBER: u16 = 1 << 1;
pub(super) const MARK: u16 = 1 << 2;
pub(super) const PUNCTUATION: u16 = 1 << 3;
pub(super) const SYMBOL: u16 = 1 << 4;
/// The property White_Space, as `\s`.
pub(super) const SPACE: u16 = 1 << 5;
// The rest are single ASCII characters or ranges of them.
/// `\r` or `\n`.
pub(super) const BREAK: u16 = 1 << 6;
/// `a-z`.
pub(super) const LOWER: u16 = 1 << 7;
/// `A-Z`.
pub(super) const UPPER: u16 = 1 << 8;
/// U+0020 alone.
pub(super) const BLANK: u16 = 1 << 9;
pub(super) const SLASH: u16 = 1 << 10;
/// `0-9`.
pub(super) const DIGIT: u16 = 1 << 11;
/// `\t` or `\n`.
pub(super) const TAB_OR_LF: u16 = 1 << 12;
/// ASCII punctuation and symbols.
pub(super) const ASCII_MARK: u16 = 1 << 13;
/// What GPT-2's successors call punctuation beside `\p{P}`: `$+<=>^~|`.
pub(super) const MATHS: u16 = 1 << 14;
pub(super) const BACKTICK: u16 = 1 << 15;

const BLOCK: usize = 256;
const N_BLOCKS: usize = 0x11_0000 / BLOCK;

const ASCII: [u16; 128] = ascii();

const fn ascii() -> [u16; 128] {
    let mut out = [0; 128];
    let mut b = 0u8;
    while b < 128 {
        out[b as usize] = ascii_bits(b);
        b += 1;
    }
    out
}

const fn ascii_bits(b: u8) -> u16 {
    match b {
        b'\n' => SPACE | BREAK | TAB_OR_LF,
        b'\r' => SPACE | BREAK,
        b'\t' => SPACE | TAB_OR_LF,
        0x0b | 0x0c => SPACE,
        b' ' => SPACE | BLANK,
        b'0'..=b'9' => NUMBER | DIGIT,
        b'a'..=b'z' => LETTER | LOWER,
        b'A'..=b'Z' => LETTER | UPPER,
        b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'|' | b'~' => SYMBOL | ASCII_MARK | MATHS,
        b'`' => SYMBOL | ASCII_MARK | BACKTICK,
        b'/' => PUNCTUATION | ASCII_MARK | SLASH,
        0x21..=0x7e => PUNCTUATION | ASCII_MARK,
        _ => 0,
    }
}

/// Properties of every character.
pub(super) struct Chars {
    /// Which block of `bits` holds code points `256 i ..`.
    block: Box<[u16]>,
    bits: Vec<[u8; BLOCK]>,
}

impl Chars {
    /// The table; the first call builds it.
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<Chars> = OnceLock::new();
        TABLE.get_or_init(Self::build)
    }

    fn build() -> Self {
        let mut table = Self { block: vec![0; N_BLOCKS].into(), bits: Vec::new() };
        let mut uniform = [None; 64];
        let mut changes = CHANGES.iter().map(|c| ((c >> 8) as usize, *c as u8)).peekable();
        let mut now = 0u8;
        for (i, slot) in table.block.iter_mut().enumerate() {
            let (start, end) = (i * BLOCK, (i + 1) * BLOCK);
            if let Some((_, bits)) = changes.next_if(|c| c.0 == start) {
                now = bits;
            }
            let number = table.bits.len() as u16; // at most N_BLOCKS
            if changes.peek().is_none_or(|c| c.0 >= end) {
                // `now` has 6 bits
                *slot = uniform.get_mut(now as usize).map_or(0, |known| *known.get_or_insert(number));
                if *slot != number {
                    continue;
                }
            } else {
                *slot = number;
            }
            let mut block = [now; BLOCK];
            while let Some((at, bits)) = changes.next_if(|c| c.0 < end) {
                block[at - start..].fill(bits);
                now = bits;
            }
            table.bits.push(block);
        }
        table
    }

    /// The properties of `c`.
    #[inline]
    pub(super) fn bits(&self, c: char) -> u16 {
        match ASCII.get(c as usize) {
            Some(bits) => *bits,
            None => self.beyond_ascii(c as usize),
        }
    }

    #[inline]
    fn beyond_ascii(&self, c: usize) -> u16 {
        let block = self.block.get(c / BLOCK).and_then(|b| self.bits.get(*b as usize));
        block.map_or(0, |b| b[c % BLOCK].into())
    }
}

/// A set of characters by properties: none of `none`, and one of `any` unless that is 0.
#[derive(Clone, Copy)]
pub(super) struct Class {
    any: u16,
    none: u16,
}

impl Class {
    /// Characters with one of these properties.
    pub(super) const fn of(any: u16) -> Self {
        Self { any, none: 0 }
    }

    /// Characters with none of these properties.
    pub(super) const fn not(none: u16) -> Self {
        Self { any: 0, none }
    }

    /// Leaves out characters with one of these properties.
    pub(super) const fn but(self, none: u16) -> Self {
        Self { any: self.any, none: self.none | none }
    }

    #[inline]
    pub(super) fn has(self, bits: u16) -> bool {
        bits & self.none == 0 && (self.any == 0 || bits & self.any != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_automata::meta::Regex;

    /// Another copy of the database, in the regex engine, restricted to what Unicode 15.1 had.
    #[test]
    fn categories_are_those_of_unicode_15_1() {
        let cases = [
            (LETTER, r"[\p{L}&&\p{age:15.1}]"),
            (NUMBER, r"[\p{N}&&\p{age:15.1}]"),
            (MARK, r"[\p{M}&&\p{age:15.1}]"),
            (PUNCTUATION, r"[\p{P}&&\p{age:15.1}]"),
            (SYMBOL, r"[\p{S}&&\p{age:15.1}]"),
            (SPACE, r"\s"),
        ];
        for (bit, pattern) in cases {
            let re = Regex::new(pattern).unwrap();
            let mut buffer = [0; 4];
            for c in '\0'..=char::MAX {
                let expected = re.is_match(&*c.encode_utf8(&mut buffer));
                assert_eq!(Chars::get().bits(c) & bit != 0, expected, "U+{:04X} {pattern}", c as u32);
            }
        }
    }
}
