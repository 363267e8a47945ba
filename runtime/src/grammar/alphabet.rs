//! Characters grouped by what a grammar can tell apart, and the UTF-8 decoder over those groups.
//!
//! Automata then have edges on a few dozen letters instead of a million characters, and a byte step is
//! one lookup whatever the script. The decoder is a small graph: a node is a position inside a
//! character, and equal positions are one node, so that "any other three-byte character" has two nodes
//! and not thousands. Invalid UTF-8 has no path.
//! Cost: built once a grammar in time proportional to its ranges; 128 bytes a node, 256 for the root.

use rustc_hash::FxHashMap;

use super::charset::{CharSet, MAX_CHAR};
use crate::error::{Error, ErrorKind, Result};

/// A set of bytes: whether each occurs.
pub type ByteSet = [bool; 256];

/// Which characters a grammar cannot tell apart; a dense number.
pub(crate) type Letter = u16;

/// Where the decoder goes on a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decoded {
    /// No valid character goes on that way.
    Invalid,
    /// In the middle of a character.
    Inside(u16),
    /// A character is complete.
    Letter(Letter),
}

const CONTINUATION: u8 = 0x80;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    /// By the low six bits of a continuation byte.
    next: Box<[Decoded]>, // [64]
}

/// The letters of a grammar and their UTF-8 spelling.
pub(crate) struct Alphabet {
    root: [Decoded; 256],
    nodes: Vec<Node>,
    /// Bytes still needed inside each node, at least 1.
    left: Vec<u8>,
    /// Letters that can come out of each node, ascending.
    reach: Vec<Box<[Letter]>>,
    /// Shortest spelling of each letter; empty if no available bytes spell it.
    spelling: Vec<Vec<u8>>,
    /// Equal numbers for bytes that no state can tell apart.
    byte_class: [u8; 256],
    n_byte_classes: usize,
}

/// A set of letters, ascending.
pub(crate) type Letters = Box<[Letter]>;

impl Alphabet {
    /// The alphabet for which every set of `sets` is a set of letters, those being the second answer.
    /// Characters with a byte outside `available` have no spelling.
    /// # Errors `TooComplex` beyond 65 534 letters or decoder nodes.
    pub fn new(sets: &[CharSet], available: &ByteSet) -> Result<(Self, Vec<Letters>)> {
        let (intervals, letters_of, n_letters) = partition(sets)?;
        let mut decoder = Decoder {
            intervals: &intervals,
            available,
            nodes: Vec::new(),
            left: Vec::new(),
            known: FxHashMap::default(),
            uniform: FxHashMap::default(),
        };
        let root = decoder.root()?;
        let (nodes, left) = (decoder.nodes, decoder.left);
        let mut this = Self {
            root,
            reach: vec![Box::default(); nodes.len()],
            nodes,
            left,
            spelling: vec![Vec::new(); n_letters],
            byte_class: [0; 256],
            n_byte_classes: 0,
        };
        this.find_reach();
        this.find_spellings();
        this.find_byte_classes();
        Ok((this, letters_of))
    }

    /// Where `byte` leads from between two characters (`None`) or from inside one.
    pub fn step(&self, node: Option<u16>, byte: u8) -> Decoded {
        match node {
            None => self.root[usize::from(byte)],
            Some(_) if byte & 0xC0 != CONTINUATION => Decoded::Invalid,
            Some(n) => self.nodes[usize::from(n)].next[usize::from(byte & 0x3F)],
        }
    }

    /// Bytes missing to the end of the character in `node`.
    pub fn left(&self, node: u16) -> u32 {
        u32::from(self.left[usize::from(node)])
    }

    /// Letters that can still come out of `node`, ascending.
    pub fn reach(&self, node: u16) -> &[Letter] {
        &self.reach[usize::from(node)]
    }

    /// The shortest spelling of `letter`; empty if it has none.
    pub fn spelling(&self, letter: Letter) -> &[u8] {
        &self.spelling[usize::from(letter)]
    }

    pub fn n_letters(&self) -> usize {
        self.spelling.len()
    }

    /// Appends bytes that complete the character in `node` to one of `letters`.
    pub fn finish(&self, node: u16, letters: &[Letter], out: &mut Vec<u8>) -> bool {
        let next = self.nodes[usize::from(node)].next.iter().enumerate();
        for (low, to) in next {
            let found = match *to {
                Decoded::Invalid => false,
                Decoded::Letter(l) => letters.binary_search(&l).is_ok(),
                Decoded::Inside(n) => intersects(self.reach(n), letters),
            };
            if found {
                out.push(CONTINUATION | low as u8);
                return match *to {
                    Decoded::Inside(n) => self.finish(n, letters, out),
                    _ => true,
                };
            }
        }
        false
    }

    pub fn byte_class(&self, byte: u8) -> usize {
        usize::from(self.byte_class[usize::from(byte)])
    }

    pub fn n_byte_classes(&self) -> usize {
        self.n_byte_classes
    }

    /// Nodes are made after those they lead to, so one pass in that order sees all.
    fn find_reach(&mut self) {
        for i in 0..self.nodes.len() {
            let mut all: Vec<Letter> = Vec::new();
            for to in &self.nodes[i].next {
                match *to {
                    Decoded::Invalid => {}
                    Decoded::Letter(l) => all.push(l),
                    Decoded::Inside(n) => all.extend_from_slice(&self.reach[usize::from(n)]),
                }
            }
            all.sort_unstable();
            all.dedup();
            self.reach[i] = all.into();
        }
    }

    /// Plain characters first, so that what a constraint has to write itself stays readable.
    fn find_spellings(&mut self) {
        let plain = (b'a'..=b'z').chain(b'0'..=b'9').chain(b'A'..=b'Z').chain(b' '..=b'~').chain(0..=127);
        for byte in plain {
            if let Decoded::Letter(l) = self.root[usize::from(byte)]
                && self.spelling[usize::from(l)].is_empty()
            {
                self.spelling[usize::from(l)].push(byte);
            }
        }
        for n_more in 1..=3 {
            for lead in 0x80..=255u8 {
                let Decoded::Inside(n) = self.root[usize::from(lead)] else { continue };
                if self.left[usize::from(n)] != n_more {
                    continue;
                }
                for i in 0..self.reach[usize::from(n)].len() {
                    let letter = self.reach[usize::from(n)][i];
                    if self.spelling[usize::from(letter)].is_empty() {
                        let mut bytes = vec![lead];
                        self.finish(n, &[letter], &mut bytes);
                        self.spelling[usize::from(letter)] = bytes;
                    }
                }
            }
        }
    }

    /// Two bytes are one class if they do the same everywhere.
    fn find_byte_classes(&mut self) {
        let mut seen: FxHashMap<Vec<Decoded>, u8> = FxHashMap::default();
        for byte in 0..=255u8 {
            let mut column = vec![self.root[usize::from(byte)]];
            if byte & 0xC0 == CONTINUATION {
                column.extend(self.nodes.iter().map(|n| n.next[usize::from(byte & 0x3F)]));
            }
            let fresh = seen.len() as u8; // at most 256 bytes, so at most 256 classes
            self.byte_class[usize::from(byte)] = *seen.entry(column).or_insert(fresh);
        }
        self.n_byte_classes = seen.len();
    }
}

pub(super) fn intersects(a: &[Letter], b: &[Letter]) -> bool {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    small.iter().any(|l| large.binary_search(l).is_ok())
}

/// Ascending (first code point, letter) that cover all code points; `None` for surrogates and beyond.
type Intervals = Vec<(u32, Option<Letter>)>;

fn partition(sets: &[CharSet]) -> Result<(Intervals, Vec<Letters>, usize)> {
    let mut cuts: Vec<u32> = vec![0, 0xD800, 0xE000, MAX_CHAR + 1];
    for set in sets {
        cuts.extend(set.ranges().iter().flat_map(|&(lo, hi)| [lo, hi + 1]));
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut owners: Vec<Vec<u32>> = vec![Vec::new(); cuts.len()];
    for (i, set) in sets.iter().enumerate() {
        for &(lo, hi) in set.ranges() {
            let from = cuts.partition_point(|&c| c < lo);
            let to = cuts.partition_point(|&c| c <= hi);
            owners[from..to].iter_mut().for_each(|o| o.push(i as u32));
        }
    }
    let mut known: FxHashMap<&[u32], Letter> = FxHashMap::default();
    let mut intervals = Vec::with_capacity(cuts.len());
    for (&cut, owner) in cuts.iter().zip(&owners) {
        let letter = if (0xD800..0xE000).contains(&cut) || cut > MAX_CHAR {
            None
        } else {
            let fresh = known.len();
            if fresh >= usize::from(u16::MAX) {
                return Err(too_complex());
            }
            Some(*known.entry(owner).or_insert(fresh as Letter))
        };
        intervals.push((cut, letter));
    }
    let mut letters: Vec<Vec<Letter>> = vec![Vec::new(); sets.len()];
    for (owner, &letter) in &known {
        owner.iter().for_each(|&s| letters[s as usize].push(letter));
    }
    let sorted = letters.into_iter().map(|mut l| {
        l.sort_unstable();
        l.into()
    });
    Ok((intervals, sorted.collect(), known.len()))
}

fn too_complex() -> Error {
    Error::new(ErrorKind::TooComplex, "the grammar tells more than 65534 groups of characters apart")
}

struct Decoder<'a> {
    intervals: &'a Intervals,
    available: &'a ByteSet,
    nodes: Vec<Node>,
    left: Vec<u8>,
    known: FxHashMap<Node, u16>,
    /// Nodes whose every path gives one letter, by (bytes left, letter).
    uniform: FxHashMap<(u8, Letter), Decoded>,
}

impl Decoder<'_> {
    fn root(&mut self) -> Result<[Decoded; 256]> {
        let mut root = [Decoded::Invalid; 256];
        for byte in 0..=255u8 {
            root[usize::from(byte)] = match byte {
                _ if !self.available[usize::from(byte)] => Decoded::Invalid,
                0..0x80 => self.letter(u32::from(byte)).map_or(Decoded::Invalid, Decoded::Letter),
                0xC2..0xE0 => self.block(u32::from(byte & 0x1F) << 6, 1, 0x80)?,
                0xE0..0xF0 => self.block(u32::from(byte & 0x0F) << 12, 2, 0x800)?,
                0xF0..0xF5 => self.block(u32::from(byte & 0x07) << 18, 3, 0x1_0000)?,
                _ => Decoded::Invalid,
            };
        }
        Ok(root)
    }

    fn letter(&self, code: u32) -> Option<Letter> {
        self.intervals[self.intervals.partition_point(|i| i.0 <= code) - 1].1
    }

    /// The letter of all code points of the block, if they have only one and none is too low.
    fn single(&self, first: u32, size: u32, lowest: u32) -> Option<Option<Letter>> {
        let i = self.intervals.partition_point(|i| i.0 <= first);
        let ends = self.intervals.get(i).map_or(u32::MAX, |i| i.0);
        (ends >= first + size && first >= lowest).then(|| self.intervals[i - 1].1)
    }

    /// The node for the `64^left` code points from `first`; those below `lowest` are overlong.
    fn block(&mut self, first: u32, left: u8, lowest: u32) -> Result<Decoded> {
        let size = 1 << (6 * u32::from(left));
        let single = self.single(first, size, lowest);
        match single {
            Some(None) => return Ok(Decoded::Invalid),
            Some(Some(letter)) => {
                if let Some(&known) = self.uniform.get(&(left, letter)) {
                    return Ok(known);
                }
            }
            None => {}
        }
        let mut next = vec![Decoded::Invalid; 64];
        for (low, to) in next.iter_mut().enumerate() {
            let code = first + ((low as u32) << (6 * u32::from(left - 1)));
            if !self.available[usize::from(CONTINUATION) + low] {
                continue;
            }
            *to = match left {
                1 if code < lowest => Decoded::Invalid,
                1 => self.letter(code).map_or(Decoded::Invalid, Decoded::Letter),
                _ => self.block(code, left - 1, lowest)?,
            };
        }
        let node = self.intern(Node { next: next.into() }, left)?;
        if let Some(Some(letter)) = single {
            self.uniform.insert((left, letter), node);
        }
        Ok(node)
    }

    fn intern(&mut self, node: Node, left: u8) -> Result<Decoded> {
        if node.next.iter().all(|d| *d == Decoded::Invalid) {
            return Ok(Decoded::Invalid);
        }
        if let Some(&id) = self.known.get(&node) {
            return Ok(Decoded::Inside(id));
        }
        let id = u16::try_from(self.nodes.len()).ok().filter(|&i| i < u16::MAX).ok_or_else(too_complex)?;
        self.nodes.push(node.clone());
        self.left.push(left);
        self.known.insert(node, id);
        Ok(Decoded::Inside(id))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn decode(a: &Alphabet, bytes: &[u8]) -> Option<Letter> {
        let (last, first) = bytes.split_last()?;
        let node = first.iter().try_fold(None, |n, &b| match a.step(n, b) {
            Decoded::Inside(i) => Some(Some(i)),
            _ => None,
        })?;
        match a.step(node, *last) {
            Decoded::Letter(l) => Some(l),
            _ => None,
        }
    }

    #[test]
    fn every_character_decodes_to_the_letters_of_the_sets_it_is_in() {
        let sets = [
            CharSet::new([(0x30, 0x39), (0xE9, 0xE9), (0x4E00, 0x9FFF)]),
            CharSet::new([(0x61, 0x7A), (0x7FF, 0x800), (0x1F600, 0x1F64F)]).negated(),
            CharSet::all(),
        ];
        let (a, letters) = Alphabet::new(&sets, &[true; 256]).unwrap();
        for c in (0..=MAX_CHAR).filter_map(char::from_u32) {
            let letter = decode(&a, c.encode_utf8(&mut [0; 4]).as_bytes()).unwrap();
            for (set, letters) in sets.iter().zip(&letters) {
                let inside = set.ranges().iter().any(|r| (r.0..=r.1).contains(&u32::from(c)));
                assert_eq!(letters.binary_search(&letter).is_ok(), inside, "{c:?}");
            }
        }
        assert!(a.nodes.len() < 24, "{} nodes", a.nodes.len());
    }

    #[test]
    fn invalid_utf8_has_no_path() {
        let (a, _) = Alphabet::new(&[CharSet::all()], &[true; 256]).unwrap();
        for len in 1..=3usize {
            for code in 0..1u32 << (8 * len) {
                let bytes = &code.to_be_bytes()[4 - len..];
                let valid = std::str::from_utf8(bytes).is_ok_and(|s| s.chars().count() == 1);
                assert_eq!(decode(&a, bytes).is_some(), valid, "{bytes:02x?}");
            }
        }
        for bytes in [[0xF0, 0x8F, 0xBF, 0xBF], [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80]] {
            assert_eq!(decode(&a, &bytes), None);
        }
    }

    #[test]
    fn spellings_are_shortest_and_use_available_bytes_only() {
        let sets = [
            CharSet::new([(0x21, 0x7A)]),
            CharSet::new([(0xF1, 0xF5), (0x3042, 0x3042)]),
            CharSet::new([(0x4_0000, 0x4_0000)]),
        ];
        let mut available = [true; 256];
        available[0xB1] = false; // ñ is C3 B1
        available[0xF1] = false; // U+40000 begins with F1
        let (a, letters) = Alphabet::new(&sets, &available).unwrap();
        let spelt = |i: usize| letters[i].iter().map(|&l| a.spelling(l).to_vec()).collect::<Vec<_>>();
        assert_eq!(spelt(0), [b"a".to_vec()]);
        assert_eq!(spelt(1), ["ò".as_bytes().to_vec()]);
        assert_eq!(spelt(2), [Vec::<u8>::new()]);
    }

    #[test]
    fn bytes_of_one_class_are_interchangeable() {
        let (a, _) = Alphabet::new(&[CharSet::new([(0x30, 0x39), (0xE9, 0xE9)])], &[true; 256]).unwrap();
        assert_eq!(a.byte_class(b'0'), a.byte_class(b'9'));
        assert_eq!(a.byte_class(b'a'), a.byte_class(b' '));
        assert_eq!(a.byte_class(0xC4), a.byte_class(0xDF));
        assert_ne!(a.byte_class(0xC3), a.byte_class(0xC4));
        assert_ne!(a.byte_class(0xA9), a.byte_class(0xA8));
        assert!(a.n_byte_classes() < 20, "{}", a.n_byte_classes());
    }
}
