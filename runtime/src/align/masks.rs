//! A bounded, lock-free store of token masks that were costly to compute.

use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;

use rustc_hash::FxBuildHasher;

/// A computed mask: what one automaton state allows.
#[derive(Debug)]
pub(super) struct Mask {
    /// Allowed tokens, 64 ids a word, ending tokens left out.
    pub words: Box<[u64]>,
    /// The longest known need, in bytes, of the states behind the allowed tokens.
    pub widest: u32,
}

/// Masks by state, shared by all forks of a constraint.
///
/// Each state has two places it may lie in; once both are taken it is computed each time. Nothing is
/// ever replaced, so reading needs no lock. Only masks whose walk was long are worth a place: those of
/// the few states in which nearly everything is allowed.
pub(super) struct MaskCache<S> {
    slots: Box<[OnceLock<(S, Mask)>]>,
}

/// Memory for masks, in bytes.
const BUDGET: usize = 16 << 20;

impl<S: Copy + Eq + Hash> MaskCache<S> {
    pub fn new(n_vocab: usize) -> Self {
        let n = (BUDGET / (n_vocab / 8 + 64)).clamp(16, 4096);
        Self { slots: (0..n).map(|_| OnceLock::new()).collect() }
    }

    fn places(&self, state: &S) -> [&OnceLock<(S, Mask)>; 2] {
        let h = FxBuildHasher.hash_one(state);
        let n = self.slots.len();
        [&self.slots[(h as u32) as usize % n], &self.slots[(h >> 32) as usize % n]]
    }

    pub fn get(&self, state: &S) -> Option<&Mask> {
        self.places(state).into_iter().filter_map(|p| p.get()).find(|(s, _)| s == state).map(|(_, m)| m)
    }

    /// Keeps `mask` if there is room.
    pub fn put(&self, state: S, mask: impl FnOnce() -> Mask) {
        if let Some(place) = self.places(&state).into_iter().find(|p| p.get().is_none()) {
            place.get_or_init(|| (state, mask()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_fits_and_never_mixes_states() {
        let cache = MaskCache::<u32>::new(100_000_000);
        for s in 0..200u32 {
            cache.put(s, || Mask { words: vec![u64::from(s)].into(), widest: s });
        }
        let kept: Vec<u32> = (0..200).filter(|s| cache.get(s).is_some()).collect();
        assert!((8..=16).contains(&kept.len()), "{} of 16 places used", kept.len());
        assert!(
            kept.iter().all(|s| cache.get(s).is_some_and(|m| m.widest == *s && *m.words == [u64::from(*s)]))
        );
    }
}
