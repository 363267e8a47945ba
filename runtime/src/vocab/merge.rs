//! The merge loop that both tokenizers share: among neighbouring symbols that may join, the pair of the best
//! rank joins first, the leftmost of equals.
//!
//! Words of up to [`SHORT`] symbols scan an array, which costs less than a queue there; longer ones take a
//! queue by rank and place, so the time is at most `n log n` joins, and near `n` for runs of one character.
//! `tests` compares both with the definition.

use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Longest word in symbols that is merged by scanning.
const SHORT: usize = 48;

/// A symbol that is no piece; nothing can be looked up by it.
pub(super) const NO_PIECE: u32 = u32::MAX;

/// Two neighbours that may become one symbol.
#[derive(Clone, Copy)]
pub(super) struct Join {
    /// Lower joins first.
    pub rank: u32,
    /// The piece they become.
    pub piece: u32,
}

const NO_JOIN: Join = Join { rank: u32::MAX, piece: NO_PIECE };

/// A vocabulary's merges.
pub(super) trait Merges {
    /// The first symbol of `rest`, which is not empty: its piece and its length, at least 1.
    fn atom(&self, rest: &[u8]) -> (u32, usize);

    /// Whether `left` and `right`, which together spell `text`, may join.
    fn join(&self, text: &[u8], left: u32, right: u32) -> Option<Join>;
}

/// Calls `sink` with the pieces that `word` ends up as, and their places in it.
pub(super) fn merge(merges: &impl Merges, word: &[u8], sink: &mut impl FnMut(u32, Range<usize>)) {
    match short(merges, word) {
        Some((n, symbols)) => {
            let mut start = 0;
            for s in symbols.iter().take(n) {
                sink(s.piece, start..s.end as usize);
                start = s.end as usize;
            }
        }
        None => long(merges, word, sink),
    }
}

#[derive(Clone, Copy)]
struct Symbol {
    piece: u32,
    end: u32,
    /// With the symbol to the right.
    join: Join,
}

/// The final symbols and their number; `None` for a word of more than `SHORT` symbols.
fn short(merges: &impl Merges, word: &[u8]) -> Option<(usize, [Symbol; SHORT])> {
    let mut symbols = [Symbol { piece: NO_PIECE, end: 0, join: NO_JOIN }; SHORT];
    let mut n = 0;
    let mut at = 0;
    while at < word.len() {
        let (piece, len) = merges.atom(&word[at..]);
        at += len;
        *symbols.get_mut(n)? = Symbol { piece, end: at as u32, join: NO_JOIN };
        n += 1;
    }
    let list = &mut symbols;
    for i in 1..n {
        rejoin(merges, word, list, n, i - 1);
    }
    while let Some(best) = (0..n).min_by_key(|i| list[*i].join.rank) {
        let Join { rank, piece } = list[best].join;
        if rank == u32::MAX {
            break;
        }
        list.copy_within(best + 1..n, best);
        n -= 1;
        list[best].piece = piece;
        rejoin(merges, word, list, n, best);
        if best > 0 {
            rejoin(merges, word, list, n, best - 1);
        }
    }
    Some((n, symbols))
}

/// Looks up the join of symbol `i` of `n` with its right neighbour.
fn rejoin(merges: &impl Merges, word: &[u8], symbols: &mut [Symbol; SHORT], n: usize, i: usize) {
    let join = if i + 1 < n {
        let start = if i == 0 { 0 } else { symbols[i - 1].end };
        let (left, right) = (symbols[i], symbols[i + 1]);
        merges.join(&word[start as usize..right.end as usize], left.piece, right.piece)
    } else {
        None
    };
    symbols[i].join = join.unwrap_or(NO_JOIN);
}

/// A symbol of a long word; an empty one has gone into its left neighbour.
struct Node {
    start: u32,
    end: u32,
    prev: u32,
    next: u32,
    piece: u32,
}

/// A pair that may join, by place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    left: u32,
    /// Length of the pair in bytes: another one says that a side has changed since.
    size: u32,
    piece: u32,
}

/// The candidates of one rank.
#[derive(Default)]
struct Level {
    /// Those found before the level was opened; sorted then.
    early: Vec<Candidate>,
    /// How many of `early` are done.
    done: usize,
    /// Those found since.
    late: BinaryHeap<Reverse<Candidate>>,
    open: bool,
}

impl Level {
    /// The leftmost candidate.
    fn pop(&mut self) -> Option<Candidate> {
        if !self.open {
            self.open = true;
            self.early.sort_unstable(); // mostly sorted: levels are found from left to right
        }
        let early = self.early.get(self.done);
        let late = self.late.peek().map(|l| &l.0);
        match (early, late) {
            (Some(e), Some(l)) if l < e => self.late.pop().map(|l| l.0),
            (Some(e), _) => {
                self.done += 1;
                Some(*e)
            }
            (None, _) => self.late.pop().map(|l| l.0),
        }
    }

    fn close(&mut self) {
        self.early.clear();
        self.done = 0;
        self.open = false;
    }
}

/// A priority queue that exploits how merging goes: few ranks at a time, each from left to right.
#[derive(Default)]
struct Queue {
    levels: Vec<Level>,
    by_rank: HashMap<u32, u32>,
    /// Levels that hold candidates, best rank first.
    ranks: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Queue {
    fn push(&mut self, rank: u32, candidate: Candidate) {
        let i = *self.by_rank.entry(rank).or_insert(self.levels.len() as u32);
        if i as usize == self.levels.len() {
            self.levels.push(Level::default());
        }
        let Some(level) = self.levels.get_mut(i as usize) else { return };
        if level.open {
            level.late.push(Reverse(candidate));
            return; // an open level is queued
        }
        if level.early.is_empty() {
            self.ranks.push(Reverse((rank, i)));
        }
        level.early.push(candidate);
    }

    fn pop(&mut self) -> Option<Candidate> {
        loop {
            let Reverse((_, i)) = *self.ranks.peek()?;
            let level = self.levels.get_mut(i as usize)?;
            if let Some(candidate) = level.pop() {
                return Some(candidate);
            }
            level.close();
            self.ranks.pop();
        }
    }
}

struct Long<'a, M> {
    merges: &'a M,
    word: &'a [u8],
    nodes: Vec<Node>,
    queue: Queue,
}

const NONE: u32 = u32::MAX;

fn long(merges: &impl Merges, word: &[u8], sink: &mut impl FnMut(u32, Range<usize>)) {
    let nodes = nodes(merges, word);
    let mut state = Long { merges, word, nodes, queue: Queue::default() };
    for left in 0..state.nodes.len() {
        state.consider(left as u32);
    }
    while let Some(best) = state.queue.pop() {
        state.apply(best);
    }
    for n in state.nodes.iter().filter(|n| n.start < n.end) {
        sink(n.piece, n.start as usize..n.end as usize);
    }
}

fn nodes(merges: &impl Merges, word: &[u8]) -> Vec<Node> {
    let mut nodes = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let (piece, len) = merges.atom(&word[at..]);
        let i = nodes.len() as u32; // words are limited to 4 GiB
        let (start, end) = (at as u32, (at + len) as u32);
        nodes.push(Node { start, end, prev: i.wrapping_sub(1), next: i + 1, piece });
        at += len;
    }
    if let Some(last) = nodes.last_mut() {
        last.next = NONE;
    }
    nodes
}

impl<M: Merges> Long<'_, M> {
    /// Queues the join of node `left` with what follows it, if there is one.
    fn consider(&mut self, left: u32) {
        let Some(l) = self.nodes.get(left as usize) else { return };
        let Some(r) = self.nodes.get(l.next as usize) else { return };
        let text = &self.word[l.start as usize..r.end as usize];
        if let Some(join) = self.merges.join(text, l.piece, r.piece) {
            let candidate = Candidate { left, size: r.end - l.start, piece: join.piece };
            self.queue.push(join.rank, candidate);
        }
    }

    /// Joins the pair of `best` if it is still there.
    fn apply(&mut self, best: Candidate) {
        let Some(&Node { start, end, next, .. }) = self.nodes.get(best.left as usize) else { return };
        let Some(right) = self.nodes.get_mut(next as usize) else { return };
        if start == end || right.end - start != best.size {
            return;
        }
        let (new_end, new_next) = (right.end, right.next);
        right.start = right.end;
        if let Some(after) = self.nodes.get_mut(new_next as usize) {
            after.prev = best.left;
        }
        let left = &mut self.nodes[best.left as usize]; // looked up above
        (left.end, left.next, left.piece) = (new_end, new_next, best.piece);
        let prev = left.prev;
        self.consider(prev);
        self.consider(best.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Merges over single bytes, by text.
    struct Table(HashMap<(Vec<u8>, Vec<u8>), u32>);

    impl Merges for Table {
        fn atom(&self, rest: &[u8]) -> (u32, usize) {
            (rest[0].into(), 1)
        }

        /// Pieces are hashes of what they spell, so that `left` and `right` say which pair it is.
        fn join(&self, text: &[u8], left: u32, right: u32) -> Option<Join> {
            (1..text.len()).find_map(|i| {
                let (l, r) = text.split_at(i);
                let rank = *self.0.get(&(l.to_vec(), r.to_vec()))?;
                (piece(l) == left && piece(r) == right).then(|| Join { rank, piece: piece(text) })
            })
        }
    }

    fn piece(bytes: &[u8]) -> u32 {
        bytes.iter().fold(0, |h: u32, b| h.wrapping_mul(257).wrapping_add((*b).into()))
    }

    /// The definition: join the best pair, leftmost first, until none may join.
    fn naive(table: &Table, word: &[u8]) -> Vec<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = word.iter().map(|b| vec![*b]).collect();
        loop {
            let ranks = parts.windows(2).enumerate();
            let best =
                ranks.filter_map(|(i, w)| Some((*table.0.get(&(w[0].clone(), w[1].clone()))?, i))).min();
            let Some((_, i)) = best else { return parts };
            let right = parts.remove(i + 1);
            parts[i].extend(right);
        }
    }

    proptest! {
        #[test]
        fn short_and_long_words_follow_the_definition(
            pairs in proptest::collection::vec(("[ab]{1,3}", "[ab]{1,3}"), 0..12),
            word in "[ab]{1,120}",
        ) {
            let ranked = pairs.into_iter().enumerate().map(|(i, (l, r))| ((l.into_bytes(), r.into_bytes()), i as u32));
            let table = Table(ranked.collect());
            let expected = naive(&table, word.as_bytes());
            let mut spans = Vec::new();
            merge(&table, word.as_bytes(), &mut |_, span| spans.push(word.as_bytes()[span].to_vec()));
            prop_assert_eq!(&spans, &expected);
            spans.clear();
            long(&table, word.as_bytes(), &mut |_, span| spans.push(word.as_bytes()[span].to_vec()));
            prop_assert_eq!(&spans, &expected);
        }
    }
}
