//! The vocabulary as a prefix tree over bytes, in one array, to intersect it with automata.
//!
//! Tokens that share a prefix share its automaton steps, and a refused byte skips its whole subtree.
//! Cost: about 2.3 nodes of 12 bytes a token (7 MiB for 262 144 tokens), built once a vocabulary by one
//! sort. A walk in which nothing is refused visits every node; callers cache such walks.

use std::sync::{Arc, OnceLock};

use crate::token::TokenId;

/// What constraints need to know of a vocabulary.
pub trait TokenBytes: Send + Sync {
    /// Number of token ids.
    fn n_vocab(&self) -> usize;
    /// The bytes `id` adds to the text; empty for control and unused tokens.
    fn bytes(&self, id: TokenId) -> &[u8];
    /// The ids that end a text.
    fn eog_ids(&self) -> &[TokenId];
}

impl TokenBytes for crate::vocab::Vocab {
    fn n_vocab(&self) -> usize {
        self.len()
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        self.token_bytes(id)
    }
    fn eog_ids(&self) -> &[TokenId] {
        Self::eog_ids(self)
    }
}

const NO_TOKEN: TokenId = TokenId::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Index of the first node after this subtree.
    next: u32,
    /// A token that ends here, or `NO_TOKEN`; further ones with the same bytes follow through `twins`.
    token: TokenId,
    /// Distance from the root, at least 1.
    depth: u16,
    byte: u8,
}

/// States of two walks at the same node.
pub(super) type Pair<S> = (Option<S>, Option<S>);

/// The prefix tree of a vocabulary's token bytes. Nodes lie in depth-first order.
pub struct TokenTrie {
    vocab: Arc<dyn TokenBytes>,
    nodes: Vec<Node>,
    /// Pairs (id in a node, another id with the same bytes), sorted.
    twins: Vec<(TokenId, TokenId)>,
    max_len: usize,
    /// The most of each unit of length that one token adds; see `lexical`.
    most_units: OnceLock<[u32; 5]>,
}

/// Longest token kept, in bytes; a longer one is never allowed.
const MAX_TOKEN_BYTES: usize = u16::MAX as usize - 1;

impl TokenTrie {
    /// Builds the tree of all tokens that add bytes and do not end the text.
    pub fn new(vocab: Arc<dyn TokenBytes>) -> Self {
        let mut ids: Vec<TokenId> = (0..vocab.n_vocab() as TokenId)
            .filter(|&t| {
                (1..=MAX_TOKEN_BYTES).contains(&vocab.bytes(t).len()) && !vocab.eog_ids().contains(&t)
            })
            .collect();
        ids.sort_by(|&a, &b| vocab.bytes(a).cmp(vocab.bytes(b)).then(a.cmp(&b)));
        let (mut nodes, mut twins) = (Vec::new(), Vec::new());
        let mut open: Vec<u32> = Vec::new(); // nodes on the path to the last token
        let mut last: &[u8] = &[];
        for &id in &ids {
            let bytes = vocab.bytes(id);
            let shared = bytes.iter().zip(last).take_while(|(a, b)| a == b).count();
            close(&mut nodes, &mut open, shared);
            for (i, &byte) in bytes.iter().enumerate().skip(shared) {
                open.push(nodes.len() as u32);
                nodes.push(Node { next: 0, token: NO_TOKEN, depth: i as u16 + 1, byte });
            }
            if let Some(node) = open.last().and_then(|&n| nodes.get_mut(n as usize)) {
                match node.token {
                    NO_TOKEN => node.token = id,
                    first => twins.push((first, id)),
                }
            }
            last = bytes;
        }
        close(&mut nodes, &mut open, 0);
        let max_len = nodes.iter().map(|n| usize::from(n.depth)).max().unwrap_or(0);
        Self { vocab, nodes, twins, max_len, most_units: OnceLock::new() }
    }

    /// The vocabulary this was built from.
    pub fn vocab(&self) -> &dyn TokenBytes {
        &*self.vocab
    }

    /// The most of each unit of length that one token adds, computed once.
    pub(super) fn most_units(&self, compute: impl FnOnce() -> [u32; 5]) -> &[u32; 5] {
        self.most_units.get_or_init(compute)
    }

    /// Length of the longest token, in bytes.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Number of nodes, without the root.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Calls `visit` with every token and the state behind it, for tokens whose every byte `step` takes.
    /// `path` is scratch space. Returns the number of steps tried.
    pub fn walk<S: Copy>(
        &self,
        start: S,
        path: &mut Vec<S>,
        mut step: impl FnMut(S, u8) -> Option<S>,
        mut visit: impl FnMut(TokenId, S),
    ) -> usize {
        path.clear();
        path.resize(self.max_len + 1, start);
        let (mut at, mut steps) = (0, 0);
        while let Some(node) = self.nodes.get(at) {
            steps += 1;
            let depth = usize::from(node.depth);
            match step(path[depth - 1], node.byte) {
                None => at = node.next as usize,
                Some(state) => {
                    path[depth] = state;
                    self.each_id(node.token, |id| visit(id, state));
                    at += 1;
                }
            }
        }
        steps
    }

    /// As [`TokenTrie::walk`] from `start`, but only where the outcome may differ from that from `base`: calls
    /// `visit` with each such token and the state behind it, `None` if it is refused. A subtree in which
    /// both are at the same state, or both refused, is skipped.
    pub(super) fn walk_difference<S: Copy + PartialEq>(
        &self,
        start: S,
        base: S,
        path: &mut Vec<Pair<S>>,
        mut step: impl FnMut(S, u8) -> Option<S>,
        mut visit: impl FnMut(TokenId, Option<S>),
    ) -> usize {
        path.clear();
        path.resize(self.max_len + 1, (Some(start), Some(base)));
        let (mut at, mut steps) = (0, 0);
        while let Some(node) = self.nodes.get(at) {
            steps += 1;
            let depth = usize::from(node.depth);
            let (here, there) = path[depth - 1];
            let here = here.and_then(|s| step(s, node.byte));
            let there = there.and_then(|s| step(s, node.byte));
            if here == there {
                at = node.next as usize;
                continue;
            }
            path[depth] = (here, there);
            self.each_id(node.token, |id| visit(id, here));
            at += 1;
        }
        steps
    }

    /// Calls `found` with every token that begins `text` and its length in bytes, shortest first.
    pub fn prefixes(&self, text: &[u8], mut found: impl FnMut(TokenId, usize)) {
        let (mut at, mut end, mut depth) = (0, self.nodes.len(), 0);
        while at < end && depth < text.len() {
            let node = self.nodes[at];
            if node.byte != text[depth] {
                at = node.next as usize;
                continue;
            }
            depth += 1;
            self.each_id(node.token, |id| found(id, depth));
            (at, end) = (at + 1, node.next as usize);
        }
    }

    /// The place of `text` in the tree: its first node below, and where that subtree ends. `None` if no token begins
    /// with it.
    fn below(&self, text: &[u8]) -> Option<(usize, usize)> {
        let (mut at, mut end, mut depth) = (0, self.nodes.len(), 0);
        while depth < text.len() {
            let node = self.nodes.get(at).filter(|_| at < end)?;
            if node.byte != text[depth] {
                at = node.next as usize;
                continue;
            }
            depth += 1;
            (at, end) = (at + 1, node.next as usize);
        }
        Some((at, end))
    }

    /// Whether some token begins with `text` and is longer.
    pub fn has_longer(&self, text: &[u8]) -> bool {
        self.below(text).is_some_and(|(at, end)| at < end)
    }

    /// Calls `found` with every token that `text` begins with, or that begins with `text`.
    pub fn beginning(&self, text: &[u8], mut found: impl FnMut(TokenId)) {
        self.prefixes(text, |id, _| found(id));
        if let Some((at, end)) = self.below(text) {
            self.nodes[at..end].iter().for_each(|node| self.each_id(node.token, &mut found));
        }
    }

    /// The fewest tokens that spell `text`, as ids; `None` if no split exists.
    /// Among equal counts the longest first token wins.
    pub fn tokenize(&self, text: &[u8]) -> Option<Vec<TokenId>> {
        // best[i]: (tokens needed for text[i..], first of them, its length)
        let mut best: Vec<(u32, TokenId, usize)> = vec![(u32::MAX, 0, 0); text.len() + 1];
        best[text.len()].0 = 0;
        for i in (0..text.len()).rev() {
            self.prefixes(&text[i..], |id, len| {
                let need = best[i + len].0.saturating_add(1);
                if need < best[i].0 || (need == best[i].0 && need < u32::MAX && len > best[i].2) {
                    best[i] = (need, id, len);
                }
            });
        }
        let mut ids = Vec::new();
        let mut i = 0;
        while i < text.len() {
            let (need, id, len) = best[i];
            if need == u32::MAX {
                return None;
            }
            ids.push(id);
            i += len;
        }
        Some(ids)
    }

    /// Which bytes some token spells alone.
    pub fn single_bytes(&self) -> [bool; 256] {
        let mut set = [false; 256];
        for node in self.nodes.iter().filter(|n| n.depth == 1 && n.token != NO_TOKEN) {
            set[usize::from(node.byte)] = true;
        }
        set
    }

    fn each_id(&self, first: TokenId, mut f: impl FnMut(TokenId)) {
        if first == NO_TOKEN {
            return;
        }
        f(first);
        if self.twins.is_empty() {
            return;
        }
        let from = self.twins.partition_point(|t| t.0 < first);
        self.twins[from..].iter().take_while(|t| t.0 == first).for_each(|t| f(t.1));
    }
}

fn close(nodes: &mut [Node], open: &mut Vec<u32>, keep: usize) {
    let end = nodes.len() as u32;
    for n in open.drain(keep.min(open.len())..) {
        if let Some(node) = nodes.get_mut(n as usize) {
            node.next = end;
        }
    }
}

impl std::fmt::Debug for TokenTrie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenTrie")
            .field("n_nodes", &self.nodes.len())
            .field("max_len", &self.max_len)
            .finish()
    }
}

/// A small vocabulary given by its token strings; for tests and oracles.
#[derive(Clone, Debug)]
pub struct ListVocab {
    tokens: Vec<Vec<u8>>,
    eog: Vec<TokenId>,
}

impl ListVocab {
    /// Tokens `0..tokens.len()` with these bytes, and one more id that ends the text.
    pub fn new<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Self {
        let mut tokens: Vec<Vec<u8>> = tokens.into_iter().map(|t| t.as_ref().to_vec()).collect();
        let eog = vec![tokens.len() as TokenId];
        tokens.push(Vec::new());
        Self { tokens, eog }
    }

    /// As [`ListVocab::new`] with chosen ending ids.
    pub fn with_eog<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>, eog: &[TokenId]) -> Self {
        Self { tokens: tokens.into_iter().map(|t| t.as_ref().to_vec()).collect(), eog: eog.to_vec() }
    }
}

impl TokenBytes for ListVocab {
    fn n_vocab(&self) -> usize {
        self.tokens.len()
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], |t| t)
    }
    fn eog_ids(&self) -> &[TokenId] {
        &self.eog
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn trie(tokens: &[&str]) -> TokenTrie {
        TokenTrie::new(Arc::new(ListVocab::new(tokens)))
    }

    fn walked(t: &TokenTrie, allow: impl Fn(u8) -> bool) -> Vec<TokenId> {
        let mut out = Vec::new();
        t.walk((), &mut Vec::new(), |(), b| allow(b).then_some(()), |id, ()| out.push(id));
        out.sort_unstable();
        out
    }

    #[test]
    fn walk_finds_every_token_spelt_with_allowed_bytes() {
        let words = ["a", "ab", "abc", "b", "bca", "", "c", "abd", "b"];
        let t = trie(&words);
        for bits in 0u32..16 {
            let allow = |b: u8| bits >> (b - b'a') & 1 == 1;
            let want: Vec<TokenId> = (0..words.len())
                .filter(|&i| !words[i].is_empty() && words[i].bytes().all(allow))
                .map(|i| i as TokenId)
                .collect();
            assert_eq!(walked(&t, allow), want, "bytes {bits:04b}");
        }
    }

    #[test]
    fn twins_and_ending_ids() {
        let v = ListVocab::with_eog(["x", "x", "</s>", "y"], &[2]);
        let t = TokenTrie::new(Arc::new(v));
        assert_eq!(walked(&t, |_| true), [0, 1, 3]);
    }

    #[test]
    fn prefixes_and_shortest_split() {
        let t = trie(&["a", "ab", "abc", "b", "cd", "c", "d"]);
        let mut seen = Vec::new();
        t.prefixes(b"abcd", |id, n| seen.push((id, n)));
        assert_eq!(seen, [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(t.tokenize(b"abcd").unwrap(), [2, 6]);
        assert_eq!(t.tokenize(b"acd").unwrap(), [0, 4]);
        assert_eq!(t.tokenize(b"").unwrap(), [] as [TokenId; 0]);
        assert!(t.tokenize(b"abx").is_none());
    }

    #[test]
    fn single_bytes_are_those_with_a_token_of_their_own() {
        let set = trie(&["a", "bc"]).single_bytes();
        assert!(set[usize::from(b'a')] && !set[usize::from(b'b')] && !set[usize::from(b'c')]);
    }
}
