//! Token healing: a prompt that ends inside a word goes on as if it had not been cut there.
//!
//! `The capital of Fra` ends with a token that never stands before `nce` in what the model has seen, because whole words
//! have tokens of their own. So the last tokens are taken back, and the text must begin with the bytes they stood for:
//! the model spells the end of the prompt again, in its own way, and goes on. Cost: some hundred nodes of the token
//! tree at the first tokens, nothing after. It loses where the cut was meant: a healed prompt may end in a longer word.
//! Source of the idea: the guidance library's notes on token healing (2023).

use std::sync::Arc;

use super::constraint::Constraint;
use super::trie::TokenTrie;
use crate::error::{Error, ErrorKind, Result};
use crate::token::{TokenId, TokenSet};

/// Most tokens taken back.
const MAX_TAKEN_BACK: usize = 4;

/// How many of `tokens`, the end of a prompt, to take back, and the bytes they stand for: as many as some longer
/// token of the vocabulary begins with. None, if the prompt ends where a token ends anyway, or would be empty.
pub fn taken_back(tokens: &[TokenId], trie: &TokenTrie) -> (usize, Vec<u8>) {
    let (mut best, mut text) = ((0, Vec::new()), Vec::new());
    for n in 1..=MAX_TAKEN_BACK.min(tokens.len().saturating_sub(1)) {
        let bytes = trie.vocab().bytes(tokens[tokens.len() - n]);
        if bytes.is_empty() {
            break;
        }
        text.splice(0..0, bytes.iter().copied());
        if trie.has_longer(&text) {
            best = (n, text.clone());
        }
    }
    best
}

/// A text that begins with given bytes, which belong to the prompt, and then satisfies a constraint.
pub struct Healing {
    trie: Arc<TokenTrie>,
    prefix: Vec<u8>,
    inner: Option<Box<dyn Constraint>>,
    /// After each token: bytes of the prefix that are there, and tokens that `inner` was given for it.
    past: Vec<(usize, usize)>,
    ended: bool,
}

impl Healing {
    /// `inner` is about what comes after `prefix`, and should know a token limit lower by the bytes of `prefix`.
    /// # Errors `Unencodable` if no tokens spell `prefix`.
    pub fn new(trie: Arc<TokenTrie>, prefix: Vec<u8>, inner: Option<Box<dyn Constraint>>) -> Result<Self> {
        if trie.tokenize(&prefix).is_none() {
            let message = format!("the vocabulary cannot write {:?}", String::from_utf8_lossy(&prefix));
            return Err(Error::new(ErrorKind::Unencodable, message));
        }
        Ok(Self { trie, prefix, inner, past: Vec::new(), ended: false })
    }

    fn n_done(&self) -> usize {
        self.past.last().map_or(0, |p| p.0)
    }

    fn missing(&self) -> &[u8] {
        &self.prefix[self.n_done()..]
    }

    /// Gives `inner` what a token says behind the prefix.
    fn accept_rest(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        let Some(inner) = &mut self.inner else { return Ok(Some(0)) };
        let Some(tokens) = self.trie.tokenize(rest) else { return Ok(None) };
        for (n, &token) in tokens.iter().enumerate() {
            if !inner.accept(token)? {
                inner.rollback(n)?;
                return Ok(None);
            }
        }
        Ok(Some(tokens.len()))
    }

    /// Takes a token that is at least partly about the prefix.
    fn accept_prefix(&mut self, token: TokenId) -> Result<bool> {
        let trie = Arc::clone(&self.trie);
        let (bytes, missing) = (trie.vocab().bytes(token), self.missing());
        let shared = bytes.len().min(missing.len());
        if bytes.is_empty() || bytes[..shared] != missing[..shared] {
            return Ok(false);
        }
        let n_done = self.n_done() + shared;
        let Some(n_inner) = self.accept_rest(&bytes[shared..])? else { return Ok(false) };
        self.past.push((n_done, n_inner));
        Ok(true)
    }
}

impl Constraint for Healing {
    fn n_vocab(&self) -> usize {
        self.trie.vocab().n_vocab()
    }

    fn len(&self) -> usize {
        self.past.len() + usize::from(self.ended)
    }

    fn mask(&mut self, set: &mut TokenSet) -> Result<()> {
        if self.ended {
            set.clear();
        } else if self.missing().is_empty() {
            return self.inner.as_mut().map_or(Ok(()), |inner| inner.mask(set));
        } else {
            let mut allowed = TokenSet::none(self.n_vocab());
            self.trie.beginning(self.missing(), |id| allowed.insert(id));
            set.intersect(&allowed);
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if !self.missing().is_empty() {
            return self.accept_prefix(token);
        }
        let taken = self.inner.as_mut().map_or(Ok(true), |inner| inner.accept(token))?;
        if taken && self.trie.vocab().eog_ids().contains(&token) {
            self.ended = true;
        } else if taken {
            self.past.push((self.prefix.len(), 1));
        }
        Ok(taken)
    }

    fn rollback(&mut self, n: usize) -> Result<()> {
        if n > self.len() {
            let have = self.len();
            return Err(Error::new(ErrorKind::InvalidArgument, format!("cannot undo {n} tokens of {have}")));
        }
        if n == 0 {
            return Ok(());
        }
        let end = usize::from(std::mem::take(&mut self.ended));
        let keep = self.past.len() - (n - end);
        let n_inner: usize = self.past[keep..].iter().map(|p| p.1).sum();
        self.past.truncate(keep);
        self.inner.as_mut().map_or(Ok(()), |inner| inner.rollback(n_inner + end))
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self {
            trie: Arc::clone(&self.trie),
            prefix: self.prefix.clone(),
            inner: self.inner.as_ref().map(|inner| inner.fork()),
            past: self.past.clone(),
            ended: self.ended,
        })
    }

    fn may_end(&self) -> bool {
        !self.ended && self.missing().is_empty() && self.inner.as_ref().is_none_or(|inner| inner.may_end())
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn forced(&mut self) -> Result<Option<TokenId>> {
        let mut set = TokenSet::all(self.n_vocab());
        self.mask(&mut set)?;
        let mut ids = set.iter();
        Ok(ids.next().filter(|_| ids.next().is_none()))
    }

    fn advancing(&mut self, out: &mut Vec<TokenId>) {
        if self.missing().is_empty()
            && let Some(inner) = &mut self.inner
        {
            inner.advancing(out);
        }
    }

    fn met(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.met())
    }

    fn witness_len(&mut self) -> Option<usize> {
        if self.ended {
            return Some(0);
        }
        let prefix = self.trie.tokenize(self.missing())?.len();
        let inner = self.inner.as_mut().map_or(Some(1), |inner| inner.witness_len())?;
        Some(prefix + inner)
    }

    fn witness(&mut self, out: &mut Vec<TokenId>) -> bool {
        out.clear();
        if self.ended {
            return true;
        }
        let Some(prefix) = self.trie.tokenize(self.missing()) else { return false };
        if self.inner.as_mut().is_some_and(|inner| !inner.witness(out)) {
            return false;
        }
        out.splice(0..0, prefix);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bytewise, Limits, ListVocab};
    use super::*;
    use crate::grammar::Grammar;

    const TOKENS: [&str; 10] = ["F", "r", "a", "n", "Fr", "Fra", "Fran", "ra", "anc", "x"];
    const END: TokenId = 10;

    fn trie() -> Arc<TokenTrie> {
        Arc::new(TokenTrie::new(Arc::new(ListVocab::new(TOKENS))))
    }

    fn id(text: &str) -> TokenId {
        TOKENS.iter().position(|t| *t == text).expect("a token") as TokenId
    }

    fn allowed(c: &mut Healing) -> Vec<TokenId> {
        let mut set = TokenSet::all(c.n_vocab());
        c.mask(&mut set).expect("mask");
        set.iter().collect()
    }

    #[test]
    fn only_what_a_longer_token_begins_with_is_taken_back() {
        let t = trie();
        let back = |ids: &[&str]| taken_back(&ids.iter().map(|i| id(i)).collect::<Vec<_>>(), &t);
        assert_eq!(back(&["x", "Fra"]), (1, b"Fra".to_vec()));
        assert_eq!(back(&["x", "F", "r"]), (2, b"Fr".to_vec()), "Fran is longer than Fr");
        assert_eq!(back(&["x", "Fran"]), (0, Vec::new()));
        assert_eq!(back(&["Fra"]), (0, Vec::new()), "a prompt is never left empty");
        assert_eq!(taken_back(&[id("x"), END], &t), (0, Vec::new()), "control tokens stay");
    }

    #[test]
    fn the_text_begins_with_the_prefix_in_any_spelling() {
        let mut c = Healing::new(trie(), b"Fra".to_vec(), None).expect("spelt");
        assert_eq!(allowed(&mut c), [id("F"), id("Fr"), id("Fra"), id("Fran")]);
        assert!(!c.may_end() && !c.accept(id("ra")).expect("asked") && c.is_empty());
        assert!(c.accept(id("F")).expect("asked"));
        assert_eq!(allowed(&mut c), [id("r"), id("ra")]);
        assert!(c.accept(id("ra")).expect("asked"));
        assert!(c.may_end());
        assert_eq!(allowed(&mut c).len(), c.n_vocab(), "free after the prefix");
        c.rollback(2).expect("two");
        assert_eq!(allowed(&mut c), [id("F"), id("Fr"), id("Fra"), id("Fran")]);
    }

    #[test]
    fn what_a_token_says_behind_the_prefix_is_the_constraint_s() {
        let automaton = Grammar::regex("nx|a").expect("pattern").compile(&[true; 256]).expect("small");
        let limits = Limits { max_tokens: Some(8), ..Limits::default() };
        let inner = Bytewise::new(automaton, trie(), limits).expect("satisfiable");
        let mut c = Healing::new(trie(), b"Fra".to_vec(), Some(Box::new(inner))).expect("spelt");
        assert_eq!(c.witness_len(), Some(3), "Fra, a, and the end");
        assert!(c.accept(id("Fran")).expect("asked"));
        assert_eq!(allowed(&mut c), [id("x")]);
        assert!(c.accept(id("x")).expect("asked") && c.may_end());
        assert!(c.accept(END).expect("asked") && c.has_ended());
        c.rollback(3).expect("three");
        // the pattern does not begin with r, so neither may what follows the prefix
        let mut c = Healing::new(trie(), b"F".to_vec(), c.inner.take()).expect("spelt");
        assert!(!c.accept(id("Fr")).expect("asked") && c.accept(id("F")).expect("asked"));
        assert_eq!(allowed(&mut c), [id("a"), id("n")]);
    }
}
