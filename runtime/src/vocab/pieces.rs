//! The tokens' bytes in one blob, and the table that finds a token by its bytes.

use super::TokenKind;
use crate::token::TokenId;
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

    /// Adds the next token; `write` appends its bytes. `None` if all tokens together exceed 4 GiB.
    pub(super) fn push(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        write(&mut self.blob);
        self.ends.push(u32::try_from(self.blob.len()).ok()?);
        self.kinds.push(kind);
        Some(())
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
pub(super) struct Index {
    table: HashTable<u32>,
    odd: Vec<(Box<[u8]>, TokenId)>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

const ODD: u32 = 1 << 31;

impl Index {
    pub(super) fn with_capacity(n: usize) -> Self {
        Self {
            table: HashTable::with_capacity(n),
            odd: Vec::new(),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
        }
    }

    /// Adds token `id` under `key`.
    /// # Errors  The id of the token that has this key already.
    pub(super) fn insert(&mut self, pieces: &Pieces, id: TokenId, key: &[u8]) -> Result<(), TokenId> {
        let hash = self.hasher.hash_one(key);
        if let Some(entry) = self.table.find(hash, |e| self.key(pieces, *e) == key) {
            return Err(self.id(*entry));
        }
        let entry = if pieces.get(id) == key {
            id
        } else {
            self.odd.push((key.into(), id));
            (self.odd.len() - 1) as u32 | ODD
        };
        self.longest = self.longest.max(key.len());
        let Self { table, odd, hasher, .. } = self;
        table.insert_unique(hash, entry, |e| hasher.hash_one(key_of(odd, pieces, *e)));
        Ok(())
    }

    /// The token whose key this is.
    #[inline]
    pub(super) fn get(&self, pieces: &Pieces, key: &[u8]) -> Option<TokenId> {
        if key.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |e| self.key(pieces, *e) == key).map(|e| self.id(*e))
    }

    #[inline]
    fn key<'a>(&'a self, pieces: &'a Pieces, entry: u32) -> &'a [u8] {
        key_of(&self.odd, pieces, entry)
    }

    fn id(&self, entry: u32) -> TokenId {
        match entry & ODD {
            0 => entry,
            _ => self.odd.get((entry & !ODD) as usize).map_or(entry, |o| o.1),
        }
    }
}

#[inline]
fn key_of<'a>(odd: &'a [(Box<[u8]>, TokenId)], pieces: &'a Pieces, entry: u32) -> &'a [u8] {
    match entry & ODD {
        0 => pieces.get(entry),
        _ => odd.get((entry & !ODD) as usize).map_or(&[], |o| &*o.0),
    }
}
