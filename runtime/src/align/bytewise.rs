//! A byte automaton applied to a vocabulary, with a token limit that is never broken.
//!
//! Mask: a walk of the token tree with the automaton's state, pruned at refused bytes; long walks are
//! cached by state. Limit: the witness rule. With `r` tokens left, the ending one counted, a token is
//! allowed only if some completion of the text behind it is known to fit in `r - 1`. The witness known
//! for the present state satisfies the rule, so the mask cannot become empty. Witnesses are byte strings
//! split into as few tokens as possible: an upper bound on the true need, so the text may close a
//! little early but never late.
//! Cost: cached 1 µs (one pass over the mask's words), uncached 3 to 5 ns a tree node visited. It loses
//! when a grammar gives every position a state of its own in which nearly everything is allowed
//! (a counted repetition of any character): each mask is then a full walk.

mod start;
mod walk;

use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::constraint::Constraint;
use super::masks::MaskCache;
use super::steps::Steps;
use super::trie::{Pair, TokenTrie};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Automaton, Completion};
use crate::token::{TokenId, TokenSet};

/// Limits on the number of generated tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// At most this many tokens, the ending one counted; `None`: no limit, and then completions are
    /// not looked after.
    pub max_tokens: Option<usize>,
    /// At least this many tokens, the ending one not counted.
    pub min_tokens: usize,
    /// Nothing is refused for want of a known completion. For exact sampling: it keeps the limit itself, and
    /// refusing a text that could have been completed would change its law.
    pub allow_dead_ends: bool,
}

/// Remembered completion costs; bounds memory, not correctness.
const MAX_COSTS: usize = 1 << 16;
struct Shared<A: Automaton> {
    automaton: A,
    trie: Arc<TokenTrie>,
    /// Whether every byte a completion may hold has a token of its own.
    is_closed: bool,
    masks: MaskCache<A::State>,
    /// Steps taken on long walks, if they are costly.
    steps: Mutex<Steps<A::State>>,
}

#[derive(Clone, Copy)]
struct Entry<S> {
    state: S,
    /// A completion that was needed to admit this state, as a range of `plan`.
    planned: Option<(usize, usize)>,
    /// Length of `plan` when this entry was made.
    plan_len: usize,
}

/// A constraint made of an automaton over bytes.
pub struct Bytewise<A: Automaton> {
    shared: Arc<Shared<A>>,
    limits: Limits,
    past: Vec<Entry<A::State>>,
    plan: Vec<TokenId>,
    ended: bool,
    // scratch, taken once
    path: Vec<A::State>,
    numbers: Vec<u16>,
    pairs: Vec<Pair<A::State>>,
    found: TokenSet,
    text: Vec<u8>,
    costs: HashMap<A::State, u32, FxBuildHasher>,
}

impl<A: Automaton> Bytewise<A> {
    /// `automaton` over the vocabulary of `trie`.
    /// # Errors `Unsatisfiable` if no accepted text can be spelt with this vocabulary within the limits.
    pub fn new(automaton: A, trie: Arc<TokenTrie>, limits: Limits) -> Result<Self> {
        let n_vocab = trie.vocab().n_vocab();
        let start = automaton.start();
        let max_len = trie.max_len();
        let single = trie.single_bytes();
        let is_closed = (0..=255u8).all(|b| single[usize::from(b)] || !automaton.may_write(b));
        let mut this = Self {
            shared: Arc::new(Shared {
                automaton,
                trie,
                is_closed,
                masks: MaskCache::new(n_vocab),
                steps: Mutex::default(),
            }),
            limits,
            past: vec![Entry { state: start, planned: None, plan_len: 0 }],
            plan: Vec::new(),
            ended: false,
            path: Vec::with_capacity(max_len + 1),
            numbers: Vec::new(),
            pairs: Vec::new(),
            found: TokenSet::none(n_vocab),
            text: Vec::new(),
            costs: HashMap::default(),
        };
        this.gate()?;
        Ok(this)
    }

    /// Refuses what cannot be completed, before the first token.
    fn gate(&mut self) -> Result<()> {
        let start = self.entry().state;
        let mut need = self.cost(start) as usize;
        let max = self.limits.max_tokens.unwrap_or(u32::MAX as usize - 1);
        if self.limits.min_tokens >= max {
            let min = self.limits.min_tokens;
            return Err(Error::new(
                ErrorKind::Unsatisfiable,
                format!("at least {min} tokens and an end are asked for, but only {max} are allowed"),
            ));
        }
        if need > max
            && self.may_fit(start, max)
            && let Some(plan) = start::shortest_tokens(&self.shared.automaton, &self.shared.trie, start)
        {
            need = plan.len() + 1;
            self.past[0] = Entry { state: start, planned: Some((0, plan.len())), plan_len: plan.len() };
            self.plan = plan;
        }
        self.shared.automaton.check()?;
        match need {
            n if n <= max => Ok(()),
            n if n >= u32::MAX as usize => Err(no_text()),
            _ => Err(too_long(need, Some(max))),
        }
    }

    fn entry(&self) -> Entry<A::State> {
        self.past[self.past.len() - 1]
    }

    /// The automaton's state after the accepted tokens.
    pub fn state(&self) -> A::State {
        self.entry().state
    }

    /// The automaton.
    pub fn automaton(&self) -> &A {
        &self.shared.automaton
    }

    /// Tokens left before the limit, the ending one counted.
    fn left(&self) -> usize {
        if self.limits.allow_dead_ends {
            return usize::MAX;
        }
        self.limits.max_tokens.map_or(usize::MAX, |m| m.saturating_sub(self.past.len() - 1))
    }

    /// The known completion of `state` as tokens.
    fn spell(&mut self, state: A::State) -> Option<Vec<TokenId>> {
        self.text.clear();
        if !self.shared.automaton.complete(state, &mut self.text) {
            return None;
        }
        self.shared.trie.tokenize(&self.text)
    }

    /// Tokens of the known completion of `state`, the ending one counted; `u32::MAX` if none is known.
    fn cost(&mut self, state: A::State) -> u32 {
        if let Some(&c) = self.costs.get(&state) {
            return c;
        }
        let cost = self.spell(state).map_or(u32::MAX, |t| t.len() as u32 + 1);
        if self.costs.len() >= MAX_COSTS {
            self.costs.clear();
        }
        self.costs.insert(state, cost);
        cost
    }

    /// Whether a completion of `state` is known to fit into `left` tokens.
    fn admit(&mut self, state: A::State, left: usize) -> bool {
        if let Some(&cost) = self.costs.get(&state) {
            return cost < u32::MAX && cost as usize <= left;
        }
        let shared = Arc::clone(&self.shared);
        if shared.is_closed {
            // at worst one token a byte
            let n_bytes = match A::COMPLETION {
                Completion::Exact => shared.automaton.at_least(state) as usize,
                _ => {
                    self.text.clear();
                    if !shared.automaton.complete(state, &mut self.text) {
                        return false;
                    }
                    self.text.len()
                }
            };
            if n_bytes < left {
                return true;
            }
        }
        if !self.may_fit(state, left) {
            return false;
        }
        let cost = self.cost(state);
        cost < u32::MAX && cost as usize <= left
    }

    /// Whether the lower bound on completions of `state` leaves room for them in `left` tokens.
    fn may_fit(&self, state: A::State, left: usize) -> bool {
        let fewest =
            (self.shared.automaton.at_least(state) as usize).div_ceil(self.shared.trie.max_len().max(1));
        fewest < left
    }

    /// Whether every viable state can be completed in what is left.
    fn is_safe(&self) -> bool {
        let is_free = self.limits.max_tokens.is_none() && self.shared.is_closed;
        self.limits.allow_dead_ends || (is_free && A::COMPLETION == Completion::Exact)
    }

    /// The range of `plan` that completes the present state, computed if it is not there yet.
    /// Its first token must stay allowed, or the mask could become empty.
    fn planned(&mut self) -> Option<(usize, usize)> {
        let entry = self.entry();
        if entry.planned.is_none() {
            let tokens = self.spell(entry.state)?;
            let from = self.plan.len();
            self.plan.extend_from_slice(&tokens);
            let last = self.past.len() - 1;
            self.past[last].planned = Some((from, self.plan.len()));
            self.past[last].plan_len = self.plan.len();
        }
        self.entry().planned
    }

    /// What remains of the present witness if `token` is its next one.
    fn follow(&mut self, token: TokenId) -> Option<(usize, usize)> {
        let (from, to) = self.planned()?;
        (from < to && self.plan[from] == token).then_some((from + 1, to))
    }
}

/// What is said of a constraint whose shortest known text takes `need` tokens with its end.
pub(super) fn too_long(need: usize, max: Option<usize>) -> Error {
    let max = max.unwrap_or(usize::MAX);
    Error::new(
        ErrorKind::Unsatisfiable,
        format!(
            "the shortest known text that satisfies the constraint takes {need} tokens with its end, but only {max} are allowed"
        ),
    )
}

fn no_text() -> Error {
    Error::new(
        ErrorKind::Unsatisfiable,
        "no text that this vocabulary can spell is known to satisfy the constraint",
    )
}

impl<A: Automaton + 'static> Constraint for Bytewise<A> {
    fn n_vocab(&self) -> usize {
        self.found.n_vocab()
    }

    fn len(&self) -> usize {
        self.past.len() - 1 + usize::from(self.ended)
    }

    fn mask(&mut self, set: &mut TokenSet) -> Result<()> {
        if self.ended || self.left() == 0 {
            set.clear();
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let may_end = self.may_end();
        let eog = shared.trie.vocab().eog_ids();
        let keep: heapless::Vec<TokenId, 32> =
            eog.iter().copied().filter(|&e| may_end && set.contains(e)).take(32).collect();
        if !self.mask_viable(set) {
            self.mask_tight(set);
        }
        keep.into_iter().for_each(|e| set.insert(e));
        shared.automaton.check()
    }

    fn accept(&mut self, token: TokenId) -> Result<bool> {
        if self.ended || self.left() == 0 {
            return Ok(false);
        }
        let shared = Arc::clone(&self.shared);
        let vocab = shared.trie.vocab();
        if vocab.eog_ids().contains(&token) {
            self.ended = self.may_end();
            return Ok(self.ended);
        }
        let bytes = vocab.bytes(token);
        let entry = self.entry();
        let state = match shared.automaton.run(entry.state, bytes) {
            Some(state) if !bytes.is_empty() => state,
            _ => return shared.automaton.check().map(|()| false),
        };
        let left = self.left() - 1;
        let planned = match entry.planned {
            Some((from, to)) if from < to && self.plan[from] == token => Some((from + 1, to)),
            _ if self.is_safe() || self.admit(state, left) => None,
            _ => match self.follow(token) {
                None => return shared.automaton.check().map(|()| false),
                rest => rest,
            },
        };
        self.past.push(Entry { state, planned, plan_len: self.plan.len() });
        Ok(true)
    }

    fn rollback(&mut self, n: usize) -> Result<()> {
        if n > self.len() {
            let have = self.len();
            return Err(Error::new(ErrorKind::InvalidArgument, format!("cannot undo {n} tokens of {have}")));
        }
        if n == 0 {
            return Ok(());
        }
        let n = n - usize::from(std::mem::take(&mut self.ended));
        self.past.truncate(self.past.len() - n);
        self.plan.truncate(self.entry().plan_len);
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self {
            shared: Arc::clone(&self.shared),
            limits: self.limits,
            past: self.past.clone(),
            plan: self.plan.clone(),
            ended: self.ended,
            path: Vec::with_capacity(self.path.capacity()),
            numbers: Vec::new(),
            pairs: Vec::new(),
            found: TokenSet::none(self.found.n_vocab()),
            text: Vec::new(),
            costs: HashMap::default(),
        })
    }

    fn advancing(&mut self, out: &mut Vec<TokenId>) {
        let shared = Arc::clone(&self.shared);
        shared.automaton.leads(self.entry().state, &mut |text| {
            // the longest token on the way: a shorter one would lead to other words as well
            let mut longest = None;
            shared.trie.prefixes(text, |id, _| longest = Some(id));
            out.extend(longest.filter(|id| !out.contains(id)));
        });
    }

    fn met(&self) -> u64 {
        self.shared.automaton.met(self.entry().state)
    }

    fn may_end(&self) -> bool {
        !self.ended
            && self.past.len() > self.limits.min_tokens
            && self.shared.automaton.accepts(self.entry().state)
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

    fn witness_len(&mut self) -> Option<usize> {
        if self.ended {
            return Some(0);
        }
        let entry = self.entry();
        if let Some((from, to)) = entry.planned {
            return Some(to - from + 1);
        }
        Some(self.cost(entry.state)).filter(|&c| c < u32::MAX).map(|c| c as usize)
    }

    fn witness(&mut self, out: &mut Vec<TokenId>) -> bool {
        out.clear();
        if self.ended {
            return true;
        }
        let entry = self.entry();
        if let Some((from, to)) = entry.planned {
            out.extend_from_slice(&self.plan[from..to]);
            return true;
        }
        self.spell(entry.state).map(|t| *out = t).is_some()
    }
}
