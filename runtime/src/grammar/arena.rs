//! A growing table that is read without locks while one writer appends to it.

use std::sync::OnceLock;

/// Entries of the first chunk; each further chunk doubles what there is.
const FIRST: usize = 64;
const CHUNKS: usize = 26;

/// An append-only table. Readers need no lock; appending is for one writer at a time (its callers hold
/// a lock for that). Entries never move and never change.
pub(super) struct Arena<T> {
    chunks: [OnceLock<Box<[OnceLock<T>]>>; CHUNKS],
}

fn place(i: usize) -> (usize, usize) {
    let n = i / FIRST + 1;
    let chunk = n.ilog2() as usize;
    (chunk, i - FIRST * ((1 << chunk) - 1))
}

impl<T> Arena<T> {
    pub fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    pub fn get(&self, i: u32) -> Option<&T> {
        let (chunk, at) = place(i as usize);
        self.chunks.get(chunk)?.get()?.get(at)?.get()
    }

    /// Sets entry `i`, which must be the first one free. False if the table is full.
    pub fn push(&self, i: u32, value: T) -> bool {
        let (chunk, at) = place(i as usize);
        let Some(chunk_cell) = self.chunks.get(chunk) else { return false };
        let cells = chunk_cell.get_or_init(|| (0..FIRST << chunk).map(|_| OnceLock::new()).collect());
        cells.get(at).is_some_and(|cell| cell.set(value).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_in_doubling_chunks() {
        let arena = Arena::new();
        for i in 0..5000u32 {
            assert!(arena.push(i, i * 3));
            assert!(!arena.push(i, 0), "an entry is set once");
        }
        assert!((0..5000).all(|i| arena.get(i) == Some(&(i * 3))));
        assert_eq!((arena.get(5000), arena.get(u32::MAX)), (None, None));
    }
}
