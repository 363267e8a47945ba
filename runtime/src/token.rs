//! Value types at the bottom of everything: token ids and sets of them. Imports nothing.

/// A token id: an index into the vocabulary, `0..n_vocab`.
pub type TokenId = u32;

/// A set of token ids as a bitmask over the vocabulary. Bits at and above `n_vocab` are always 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u64>,
    n_vocab: usize,
}

impl TokenSet {
    /// The empty set over a vocabulary of `n_vocab` tokens.
    pub fn none(n_vocab: usize) -> Self {
        Self { words: vec![0; n_vocab.div_ceil(64)], n_vocab }
    }

    /// The full set over a vocabulary of `n_vocab` tokens.
    pub fn all(n_vocab: usize) -> Self {
        let mut set = Self { words: vec![!0; n_vocab.div_ceil(64)], n_vocab };
        set.trim();
        set
    }

    /// Number of tokens in the vocabulary (not in the set).
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Whether `token` is in the set; false outside the vocabulary.
    pub fn contains(&self, token: TokenId) -> bool {
        self.words.get(token as usize / 64).is_some_and(|w| w >> (token % 64) & 1 == 1)
    }

    /// Adds `token`; nothing happens outside the vocabulary.
    pub fn insert(&mut self, token: TokenId) {
        if (token as usize) < self.n_vocab {
            self.words[token as usize / 64] |= 1 << (token % 64);
        }
    }

    /// Removes `token`; nothing happens outside the vocabulary.
    pub fn remove(&mut self, token: TokenId) {
        if (token as usize) < self.n_vocab {
            self.words[token as usize / 64] &= !(1 << (token % 64));
        }
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts every token in.
    pub fn fill(&mut self) {
        self.words.fill(!0);
        self.trim();
    }

    /// Number of tokens in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no token is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Keeps only what is also in `other`. Sets over different vocabularies share ids up to the smaller.
    pub fn intersect(&mut self, other: &TokenSet) {
        for (i, w) in self.words.iter_mut().enumerate() {
            *w &= other.words.get(i).copied().unwrap_or(0);
        }
    }

    /// The ids in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &w)| {
            std::iter::successors((w != 0).then_some(w), |w| Some(w & (w - 1)).filter(|w| *w != 0))
                .map(move |w| (i * 64) as TokenId + w.trailing_zeros())
        })
    }

    /// The mask, 64 ids a word, lowest id in the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The mask for writing. Bits at and above `n_vocab` must stay 0.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    fn trim(&mut self) {
        let spare = self.words.len() * 64 - self.n_vocab;
        if let Some(last) = self.words.last_mut() {
            *last &= !0 >> spare;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_vocabulary_stay_clear() {
        let mut s = TokenSet::all(70);
        assert_eq!(s.len(), 70);
        s.insert(70);
        assert_eq!((s.len(), s.contains(70)), (70, false));
        s.remove(3);
        assert_eq!(s.iter().take(4).collect::<Vec<_>>(), [0, 1, 2, 4]);
    }
}
