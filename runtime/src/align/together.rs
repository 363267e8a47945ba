//! Two constraints that know nothing of each other, at once: a JSON text with words to use in it.
//!
//! Intersecting two masks is sound token by token, but each side may be alive while both together are dead. Where
//! both are automata, [`Both`](super::Both) decides that; here one side is an engine without such states. So a
//! completion of both is looked for: the first side's own; that with the second side's put in at each byte on
//! the way. Each is proven by running both sides over it. While one is known it is followed or replaced, and a
//! token behind which none is found is refused: what is taken never runs into a dead end. If none is found at
//! the beginning, masks are intersected and nothing is promised.
//! Cost: 0.1 to 0.3 ms a token as long as the second side still wants something, some microseconds once it is
//! content. It loses where the second side wants what only an optional part of the first one has room for.

use std::sync::Arc;

use super::bytewise::too_long;
use super::constraint::Constraint;
use super::trie::TokenTrie;
use crate::error::Result;
use crate::token::{TokenId, TokenSet};

/// Most bytes on the way at which the second side's completion is tried.
const MAX_PLACES: usize = 512;

/// A constraint that accepts what two others accept.
pub(super) struct Together {
    first: Box<dyn Constraint>,
    second: Box<dyn Constraint>,
    trie: Arc<TokenTrie>,
    max_tokens: Option<usize>,
    /// Whether a completion must be known for every token taken.
    is_proven: bool,
    /// A known completion after each token taken, as a place in a list of tokens; one more for the beginning.
    plans: Vec<Plan>,
}

/// What is left of a list of tokens.
#[derive(Clone, Default)]
struct Plan {
    tokens: Arc<[TokenId]>,
    from: usize,
}

impl Plan {
    fn rest(&self) -> &[TokenId] {
        self.tokens.get(self.from..).unwrap_or_default()
    }
}

impl Together {
    /// Texts of `first` that `second` accepts, over the vocabulary of `trie`: masks intersected.
    pub fn new(first: Box<dyn Constraint>, second: Box<dyn Constraint>, trie: &Arc<TokenTrie>) -> Self {
        let trie = Arc::clone(trie);
        Self { first, second, trie, max_tokens: None, is_proven: false, plans: vec![Plan::default()] }
    }

    /// As [`Together::new`], always completable within `max_tokens`. Neither side has a limit of its own.
    /// `None` if no completion was found at all.
    /// # Errors `Unsatisfiable` if what was found does not fit.
    pub fn proven(
        first: Box<dyn Constraint>,
        second: Box<dyn Constraint>,
        trie: &Arc<TokenTrie>,
        max_tokens: Option<usize>,
    ) -> Result<Option<Self>> {
        let mut this = Self { max_tokens, is_proven: true, ..Self::new(first, second, trie) };
        let Some(plan) = this.find() else { return Ok(None) };
        if !this.fits(plan.rest().len()) {
            return Err(too_long(plan.rest().len() + 1, max_tokens));
        }
        this.plans = vec![plan];
        Ok(Some(this))
    }

    fn fits(&self, n_tokens: usize) -> bool {
        self.max_tokens.is_none_or(|max| self.len() + n_tokens < max)
    }

    fn accept_both(&mut self, token: TokenId) -> Result<bool> {
        if !self.first.accept(token)? {
            return Ok(false);
        }
        match self.second.accept(token) {
            Ok(true) => Ok(true),
            refused => {
                self.first.rollback(1)?;
                refused
            }
        }
    }

    /// The completion known after `token`, if it goes on as planned.
    fn follow(&self, token: TokenId) -> Option<Plan> {
        let plan = self.plans.last()?;
        let next = Plan { tokens: Arc::clone(&plan.tokens), from: plan.from + 1 };
        (plan.rest().first() == Some(&token)).then_some(next)
    }

    /// A completion of both from here.
    fn find(&self) -> Option<Plan> {
        let (mut first, mut second) = (self.first.fork(), self.second.fork());
        let mut tokens = Vec::new();
        if !first.witness(&mut tokens) {
            return None;
        }
        let path = self.bytes(&tokens);
        if let Some(rest) = finish(&mut *first, &mut *second) {
            return self.plan(&[&self.bytes(&rest)]);
        }
        for (i, &byte) in path.iter().enumerate().take(MAX_PLACES) {
            if let Some(rest) = insert(&mut *first, &mut *second) {
                return self.plan(&[&path[..i], &self.bytes(&rest)]);
            }
            let token = self.trie.tokenize(&[byte])?.first().copied()?;
            if !(first.accept(token).ok()? && second.accept(token).ok()?) {
                return None;
            }
        }
        let rest = insert(&mut *first, &mut *second)?;
        self.plan(&[&path, &self.bytes(&rest)])
    }

    /// The parts as tokens, proven.
    fn plan(&self, parts: &[&[u8]]) -> Option<Plan> {
        let tokens = self.trie.tokenize(&parts.concat())?;
        let (mut first, mut second) = (self.first.fork(), self.second.fork());
        let taken =
            tokens.iter().all(|&t| first.accept(t).unwrap_or(false) && second.accept(t).unwrap_or(false));
        (taken && first.may_end() && second.may_end()).then(|| Plan { tokens: tokens.into(), from: 0 })
    }

    fn bytes(&self, tokens: &[TokenId]) -> Vec<u8> {
        tokens.iter().flat_map(|&t| self.trie.vocab().bytes(t)).copied().collect()
    }
}

/// The first side's completion, if the second one accepts it.
fn finish(first: &mut dyn Constraint, second: &mut dyn Constraint) -> Option<Vec<TokenId>> {
    let (mut rest, mut second) = (Vec::new(), second.fork());
    let done = first.witness(&mut rest)
        && rest.iter().all(|&t| second.accept(t).unwrap_or(false))
        && second.may_end();
    done.then_some(rest)
}

/// The second side's completion, then the first one's.
fn insert(first: &mut dyn Constraint, second: &mut dyn Constraint) -> Option<Vec<TokenId>> {
    let mut words = Vec::new();
    if !second.witness(&mut words) {
        return None;
    }
    let (mut first, mut second) = (first.fork(), second.fork());
    let taken = words.iter().all(|&t| first.accept(t).unwrap_or(false) && second.accept(t).unwrap_or(false));
    let rest = if taken { finish(&mut *first, &mut *second)? } else { return None };
    words.extend(rest);
    Some(words)
}

impl Constraint for Together {
    fn n_vocab(&self) -> usize {
        self.first.n_vocab()
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    fn mask(&mut self, set: &mut TokenSet) -> Result<()> {
        self.first.mask(set)?;
        self.second.mask(set)
    }

    fn accept(&mut self, token: TokenId) -> Result<bool> {
        let planned = self.follow(token);
        if !self.accept_both(token)? {
            return Ok(false);
        }
        let plan = match planned {
            _ if !self.is_proven || self.first.has_ended() => Some(Plan::default()),
            None => self.find().filter(|plan| self.fits(plan.rest().len())),
            planned => planned,
        };
        match plan {
            Some(plan) => self.plans.push(plan),
            None => {
                self.first.rollback(1)?;
                self.second.rollback(1)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rollback(&mut self, n: usize) -> Result<()> {
        self.first.rollback(n)?;
        self.second.rollback(n)?;
        self.plans.truncate(self.plans.len() - n);
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self {
            first: self.first.fork(),
            second: self.second.fork(),
            trie: Arc::clone(&self.trie),
            max_tokens: self.max_tokens,
            is_proven: self.is_proven,
            plans: self.plans.clone(),
        })
    }

    fn may_end(&self) -> bool {
        self.first.may_end() && self.second.may_end()
    }

    fn has_ended(&self) -> bool {
        self.first.has_ended()
    }

    fn forced(&mut self) -> Result<Option<TokenId>> {
        let mut set = TokenSet::all(self.n_vocab());
        self.mask(&mut set)?;
        let mut ids = set.iter();
        Ok(ids.next().filter(|_| ids.next().is_none()))
    }

    fn advancing(&mut self, out: &mut Vec<TokenId>) {
        self.second.advancing(out);
    }

    fn met(&self) -> u64 {
        self.second.met()
    }

    fn witness_len(&mut self) -> Option<usize> {
        match self.has_ended() {
            true => Some(0),
            false => self.plans.last().filter(|_| self.is_proven).map(|plan| plan.rest().len() + 1),
        }
    }

    fn witness(&mut self, out: &mut Vec<TokenId>) -> bool {
        out.clear();
        if let Some(plan) = self.plans.last().filter(|_| self.is_proven) {
            out.extend_from_slice(plan.rest());
        }
        self.is_proven
    }
}
