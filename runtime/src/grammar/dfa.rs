//! A deterministic automaton given by its table: the plainest recogniser, and the model of the others.

use std::collections::VecDeque;

use super::automaton::{Automaton, Completion};

const DEAD: u32 = u32::MAX;

/// An explicit byte automaton. 1 KiB a state.
#[derive(Clone, Debug)]
pub struct Dfa {
    start: u32,
    /// `[n_states][256]`, `DEAD` where no accepted text goes on.
    next: Vec<[u32; 256]>,
    accepts: Vec<bool>,
    /// Bytes to the nearest accepting state; `DEAD` if none.
    need: Vec<u32>,
}

impl Dfa {
    /// An automaton with `accepts.len()` states that starts in state 0. Edges are
    /// `(from, byte, to)`; a later one replaces an earlier one, and one that names no state is left out.
    pub fn new(accepts: &[bool], edges: impl IntoIterator<Item = (u32, u8, u32)>) -> Self {
        let n = accepts.len();
        let mut next = vec![[DEAD; 256]; n];
        for (from, byte, to) in edges {
            if let Some(row) = next.get_mut(from as usize)
                && (to as usize) < n
            {
                row[usize::from(byte)] = to;
            }
        }
        let mut this = Self { start: 0, next, accepts: accepts.to_vec(), need: vec![DEAD; n] };
        this.measure();
        this.trim();
        this
    }

    /// Distances to acceptance, backwards breadth first.
    fn measure(&mut self) {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.next.len()];
        for (from, row) in self.next.iter().enumerate() {
            for &to in row.iter().filter(|&&to| to != DEAD) {
                before[to as usize].push(from as u32);
            }
        }
        let mut queue: VecDeque<u32> =
            (0..self.next.len() as u32).filter(|&s| self.accepts[s as usize]).collect();
        queue.iter().for_each(|&s| self.need[s as usize] = 0);
        while let Some(s) = queue.pop_front() {
            for &p in &before[s as usize] {
                if self.need[p as usize] == DEAD {
                    self.need[p as usize] = self.need[s as usize] + 1;
                    queue.push_back(p);
                }
            }
        }
    }

    /// Drops edges into states that cannot accept.
    fn trim(&mut self) {
        for row in &mut self.next {
            row.iter_mut()
                .filter(|to| **to != DEAD && self.need[**to as usize] == DEAD)
                .for_each(|to| *to = DEAD);
        }
    }

    /// Whether nothing at all is accepted.
    pub fn is_empty(&self) -> bool {
        self.need.first().is_none_or(|&n| n == DEAD)
    }
}

impl Automaton for Dfa {
    type State = u32;
    const COMPLETION: Completion = Completion::Exact;

    fn start(&self) -> u32 {
        self.start
    }

    fn step(&self, state: u32, byte: u8) -> Option<u32> {
        let to = self.next.get(state as usize)?[usize::from(byte)];
        (to != DEAD).then_some(to)
    }

    fn accepts(&self, state: u32) -> bool {
        self.accepts.get(state as usize).is_some_and(|&a| a)
    }

    fn at_least(&self, state: u32) -> u32 {
        self.need.get(state as usize).copied().unwrap_or(DEAD)
    }

    fn complete(&self, state: u32, out: &mut Vec<u8>) -> bool {
        if self.at_least(state) == DEAD {
            return false;
        }
        let mut at = state;
        while !self.accepts(at) {
            let want = self.at_least(at) - 1;
            let nearer = (0..=255u8)
                .find_map(|b| self.step(at, b).filter(|&s| self.at_least(s) == want).map(|s| (b, s)));
            let Some((byte, to)) = nearer else { return false };
            out.push(byte);
            at = to;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_ends_are_cut_and_completions_are_shortest() {
        // 0 -a-> 1 -b-> 2 (accepts), 0 -c-> 3 -c-> 3 (a trap)
        let d = Dfa::new(
            &[false, false, true, false],
            [(0, b'a', 1), (1, b'b', 2), (0, b'c', 3), (3, b'c', 3), (1, b'z', 9)],
        );
        assert_eq!(d.run(0, b"ab"), Some(2));
        assert_eq!(d.step(0, b'c'), None, "a trap is not a continuation");
        let mut out = Vec::new();
        assert!(d.complete(0, &mut out));
        assert_eq!((out.as_slice(), d.at_least(0)), (b"ab".as_slice(), 2));
        assert!(Dfa::new(&[false], [(0, b'a', 0)]).is_empty());
    }
}
