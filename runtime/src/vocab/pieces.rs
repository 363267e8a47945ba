//! The tokens' bytes in one blob, and the table that finds a token by its bytes.

use super::TokenKind;
use crate::token::TokenId;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// What each token writes, and its kind. Ids are dense from 0.
#[derive(Default)]
pub(super) struct Pieces {
    blob: Vec<u8>,
    /// End of each token's bytes in `blob`; they begin where the one before ends.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl Pieces {
    pub(super) fn with_capacity(n_tokens: usize, n_bytes: usize) -> Self {
        Self {
            blob: Vec::with_capacity(n_bytes),
            ends: Vec::with_capacity(n_tokens),
            kinds: Vec::with_capacity(n_tokens),
        }
    }

    /// Adds the next token; `write` appends its bytes. Answers what `write` does, or `None` if all tokens
    /// together exceed 4 GiB.
    pub(super) fn push<T>(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let answer = write(&mut self.blob);
        self.ends.push(u32::try_from(self.blob.len()).ok()?);
        self.kinds.push(kind);
        Some(answer)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of token `id`; empty outside the vocabulary.
    #[inline]
    pub(super) fn get(&self, id: TokenId) -> &[u8] {
        let id = id as usize;
        let start = id.checked_sub(1).and_then(|i| self.ends.get(i)).copied().unwrap_or(0);
        let end = self.ends.get(id).copied().unwrap_or(start);
        &self.blob[start as usize..end as usize] // ends ascend and never exceed the blob
    }

    /// The kind of token `id`; `Undefined` outside the vocabulary.
    pub(super) fn kind(&self, id: TokenId) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }
}

/// Finds tokens by key: the bytes that the tokenizer's merges see for a token.
///
/// For nearly all tokens the key is what the token writes, so the table stores ids alone. The others (byte
/// tokens such as `<0x0A>`) have their keys in `odd`, with the index in place of the id and a mark.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    odd: Vec<OddKey>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

const ODD: u32 = 1 << 31;

/// The keys of a vocabulary, before they are in a table.
#[derive(Default)]
pub(super) struct Keys {
    entries: Vec<u32>,
    odd: Vec<OddKey>,
}

impl Keys {
    pub(super) fn with_capacity(n: usize) -> Self {
        Self { entries: Vec::with_capacity(n), odd: Vec::new() }
    }

    /// Adds token `id`, below 2^31, whose key is what it writes or else `odd_key`.
    pub(super) fn push(&mut self, id: TokenId, odd_key: Option<&[u8]>) {
        self.entries.push(match odd_key {
            Some(key) => {
                self.odd.push((key.into(), id));
                (self.odd.len() - 1) as u32 | ODD
            }
            None => id,
        });
    }
}

/// Parts that a table is filled in, so that each stays in the cache: filling a table of a quarter million
/// tokens in order of ids misses it at nearly every one.
const N_PARTS: usize = 64;

impl Index {
    /// Puts `keys` into a table.
    /// # Errors  Two tokens with the same key.
    pub(super) fn new(pieces: &Pieces, keys: Keys) -> Result<Self, (TokenId, TokenId)> {
        let Keys { entries, odd } = keys;
        let hasher = DefaultHashBuilder::default();
        let mut table = HashTable::with_capacity(entries.len());
        // The table places entries by the low bits of their hashes.
        let shift = table.capacity().next_power_of_two().ilog2().saturating_sub(N_PARTS.ilog2());
        let mut parts: Vec<Vec<(u64, u32)>> = Vec::new();
        parts.resize_with(N_PARTS, || Vec::with_capacity(entries.len() / N_PARTS * 5 / 4));
        let mut longest = 0;
        for entry in entries {
            let key = key_of(&odd, pieces, entry);
            longest = longest.max(key.len());
            let hash = hasher.hash_one(key);
            parts[(hash >> shift) as usize % N_PARTS].push((hash, entry));
        }
        for (hash, entry) in parts.into_iter().flatten() {
            let same = |e: &u32| key_of(&odd, pieces, *e) == key_of(&odd, pieces, entry);
            match table.entry(hash, same, |e| hasher.hash_one(key_of(&odd, pieces, *e))) {
                Entry::Vacant(slot) => slot.insert(entry),
                Entry::Occupied(first) => return Err((id_of(&odd, *first.get()), id_of(&odd, entry))),
            };
        }
        Ok(Self { table, odd, hasher, longest })
    }

    /// The token whose key this is.
    #[inline]
    pub(super) fn get(&self, pieces: &Pieces, key: &[u8]) -> Option<TokenId> {
        if key.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let found = self.table.find(hash, |e| key_of(&self.odd, pieces, *e) == key)?;
        Some(id_of(&self.odd, *found))
    }
}

type OddKey = (Box<[u8]>, TokenId);

#[inline]
fn key_of<'a>(odd: &'a [OddKey], pieces: &'a Pieces, entry: u32) -> &'a [u8] {
    match entry & ODD {
        0 => pieces.get(entry),
        _ => odd.get((entry & !ODD) as usize).map_or(&[], |o| &*o.0),
    }
}

#[inline]
fn id_of(odd: &[OddKey], entry: u32) -> TokenId {
    match entry & ODD {
        0 => entry,
        _ => odd.get((entry & !ODD) as usize).map_or(entry, |o| o.1),
    }
}
