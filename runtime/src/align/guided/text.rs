//! A compiled grammar applied to one text: masks from the engine, the token limit by the witness rule.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::completion::{Hints, Search};
use super::guard::NumberGuard;
use super::guide::{BYTE_END, Guide};
use crate::align::bytewise::Limits;
use crate::align::constraint::Constraint;
use crate::align::trie::TokenTrie;
use crate::error::{Error, ErrorKind, Result};
use crate::token::{TokenId, TokenSet};

/// Longest completion looked for, in bytes, without a limit in tokens.
const MAX_COMPLETION: usize = 1 << 16;

/// What all texts of one grammar share.
pub(super) struct Shared {
    pub guide: Arc<Guide>,
    pub guard: NumberGuard,
    pub hints: Hints,
}

impl Shared {
    fn trie(&self) -> &TokenTrie {
        self.guide.trie()
    }

    fn tokens_of(&self, text: &[u8]) -> Option<usize> {
        self.trie().tokenize(text).map(|t| t.len())
    }
}

/// A text that completes the present one: what is left of a longer one.
#[derive(Clone)]
struct Plan {
    text: Arc<[u8]>,
    from: usize,
}

impl Plan {
    fn new(text: Vec<u8>) -> Self {
        Self { text: text.into(), from: 0 }
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.from..).unwrap_or_default()
    }

    /// What is left behind `bytes`, if the plan goes on with them.
    fn behind(&self, bytes: &[u8]) -> Option<Self> {
        self.rest()
            .starts_with(bytes)
            .then(|| Self { text: Arc::clone(&self.text), from: self.from + bytes.len() })
    }
}

/// What is known after one accepted token.
#[derive(Clone)]
struct Step {
    token: TokenId,
    n_bytes: usize,
    guard: NumberGuard,
    plan: Option<Plan>,
    may_end: bool,
}

/// A grammar as a constraint. Made by [`super::GuidedGrammar::constraint`].
pub(super) struct Guided {
    shared: Arc<Shared>,
    limits: Limits,
    /// The untouched matcher, to begin again after the engine failed.
    fresh: Arc<Matcher>,
    tokens: Matcher,
    /// The same grammar over single bytes, behind by what `text[n_synced..]` holds.
    bytes: Matcher,
    n_synced: usize,
    text: Vec<u8>,
    /// First the state before any token, then one for each.
    past: Vec<Step>,
    ended: bool,
    /// The engine's mask here, once computed.
    mask: Option<SimpleVob>,
}

impl Guided {
    /// `opening`: a completion of the empty text.
    pub fn new(
        shared: Arc<Shared>,
        fresh: Arc<Matcher>,
        bytes: Matcher,
        opening: Vec<u8>,
        limits: Limits,
    ) -> Self {
        let first = Step {
            token: TokenId::MAX,
            n_bytes: 0,
            guard: shared.guard,
            may_end: opening.is_empty(),
            plan: Some(Plan::new(opening)),
        };
        let tokens = fresh.deep_clone();
        Self {
            shared,
            limits,
            fresh,
            tokens,
            bytes,
            n_synced: 0,
            text: Vec::new(),
            past: vec![first],
            ended: false,
            mask: None,
        }
    }

    fn step(&self) -> &Step {
        &self.past[self.past.len() - 1]
    }

    /// Tokens left before the limit, the ending one counted.
    fn left(&self) -> Option<usize> {
        self.limits.max_tokens.map(|m| m.saturating_sub(self.len()))
    }

    /// The engine's mask for the next token.
    fn viable(&mut self) -> Result<&SimpleVob> {
        if self.mask.is_none() {
            let mask = self.tokens.compute_mask_or_eos();
            self.mask = Some(self.check(mask)?);
        }
        self.mask.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "expected a mask"))
    }

    /// Turns a failure of the engine into an error, and the matcher into one that works.
    fn check<T, E: std::fmt::Display>(&mut self, result: std::result::Result<T, E>) -> Result<T> {
        result.map_err(|e| {
            self.revive();
            too_complex(&e.to_string())
        })
    }

    /// Begins again and takes all accepted tokens once more: the engine's errors are permanent.
    fn revive(&mut self) {
        self.tokens = self.fresh.deep_clone();
        for step in self.past.iter().skip(1).filter(|s| s.n_bytes > 0) {
            let _ = self.tokens.consume_token(step.token);
        }
        self.mask = None;
    }

    /// The byte matcher, brought up to the text.
    fn bytes(&mut self) -> Option<&Matcher> {
        let fresh: Vec<u32> = self.text[self.n_synced..].iter().map(|&b| u32::from(b)).collect();
        self.bytes.consume_tokens(&fresh).ok()?;
        self.n_synced = self.text.len();
        Some(&self.bytes)
    }

    /// Whether `rest` completes the present text.
    fn completes(&mut self, rest: &[u8]) -> bool {
        if self.bytes().is_none() {
            return false;
        }
        let ids: Vec<u32> = rest.iter().map(|&b| u32::from(b)).chain([BYTE_END]).collect();
        match rest.is_empty() {
            true => self.bytes.is_accepting().unwrap_or(false),
            false => self.bytes.validate_tokens(&ids).is_ok_and(|n| n == ids.len()),
        }
    }

    /// A completion of the present text that takes at most `max` tokens and the ending one.
    fn find_plan(&mut self, old: Option<&Plan>, guard: NumberGuard, max: usize) -> Option<Plan> {
        if let Some(old) = old
            && self.fits(old.rest(), max)
            && guard.advance(old.rest(), &self.shared.hints.marker).is_some()
            && self.completes(old.rest())
        {
            return Some(old.clone());
        }
        let max_bytes = max.saturating_mul(self.shared.trie().max_len()).min(MAX_COMPLETION);
        let shared = Arc::clone(&self.shared);
        let search = Search { guard, max_bytes, hints: &shared.hints, matcher: self.bytes()? };
        let text =
            search.first().filter(|t| t.len() <= max).or_else(|| search.cheapest(|t| shared.tokens_of(t)))?;
        self.fits(&text, max).then(|| Plan::new(text))
    }

    /// Whether `rest` can be written in `max` tokens.
    fn fits(&self, rest: &[u8], max: usize) -> bool {
        (rest.len() <= max && self.shared.guide.spells(rest))
            || self.shared.tokens_of(rest).is_some_and(|n| n <= max)
    }

    /// The plan here, searched for if it is not known.
    fn plan(&mut self) -> Option<Plan> {
        if self.step().plan.is_none() {
            let plan = self.find_plan(None, self.step().guard, MAX_COMPLETION);
            let last = self.past.len() - 1;
            self.past[last].plan = plan;
        }
        self.step().plan.clone()
    }

    /// The only token for which there is room, if the limit leaves just enough for the plan.
    fn last_way(&mut self) -> Option<TokenId> {
        let left = self.left()?;
        let plan = self.plan()?;
        if plan.rest().len() + 1 < left && self.shared.guide.spells(plan.rest()) {
            return None;
        }
        let tokens = self.shared.trie().tokenize(plan.rest())?;
        (tokens.len() + 1 >= left).then(|| match tokens.first() {
            Some(&t) => t,
            None => self.shared.trie().vocab().eog_ids().first().copied().unwrap_or(TokenId::MAX),
        })
    }

    /// Takes a token that writes `text`.
    fn write(&mut self, token: TokenId, text: &[u8]) -> Result<bool> {
        let step = self.step().clone();
        let left = self.left();
        if left.is_some_and(|l| l < 2) {
            return Ok(false); // the end needs the last token
        }
        let behind = step.plan.as_ref().and_then(|p| p.behind(text));
        let Some(guard) = step.guard.advance(text, &self.shared.hints.marker) else { return Ok(false) };
        let valid = self.tokens.validate_tokens(&[token]);
        if self.check(valid)? == 0 {
            return Ok(false);
        }
        let consumed = self.tokens.consume_token(token);
        self.check(consumed)?;
        let accepting = self.tokens.is_accepting();
        let may_end = self.check(accepting)?;
        self.text.extend_from_slice(text);
        let plan = match left.map(|l| l - 2) {
            None => behind,
            Some(max) => match behind.filter(|p| self.fits(p.rest(), max)) {
                Some(plan) => Some(plan),
                None => self.find_plan(step.plan.as_ref(), guard, max),
            },
        };
        if left.is_some() && plan.is_none() {
            self.take_back(text.len())?;
            return Ok(false);
        }
        self.mask = None;
        self.past.push(Step { token, n_bytes: text.len(), guard, plan, may_end });
        Ok(true)
    }

    /// Undoes a token whose step was not recorded.
    fn take_back(&mut self, n_bytes: usize) -> Result<()> {
        let undone = self.tokens.rollback(1);
        self.forget(n_bytes);
        self.check(undone)
    }

    /// Takes `n` bytes off the text.
    fn forget(&mut self, n: usize) {
        self.text.truncate(self.text.len().saturating_sub(n));
        let ahead = self.n_synced.saturating_sub(self.text.len());
        self.n_synced -= ahead;
        let _ = self.bytes.rollback(ahead); // only ever as many bytes as it has taken
    }

    fn is_end(&self, token: TokenId) -> bool {
        self.shared.trie().vocab().eog_ids().contains(&token)
    }
}

fn too_complex(message: &str) -> Error {
    let line = message.lines().next().unwrap_or_default();
    Error::new(ErrorKind::TooComplex, format!("the grammar outgrew the engine's limits: {line}"))
}

impl Constraint for Guided {
    fn n_vocab(&self) -> usize {
        self.shared.trie().vocab().n_vocab()
    }

    fn len(&self) -> usize {
        self.past.len() - 1
    }

    fn mask(&mut self, set: &mut TokenSet) -> Result<()> {
        if self.ended {
            set.clear();
            return Ok(());
        }
        let only = self.last_way();
        and(set, self.viable()?);
        if let Some(only) = only {
            let is_end = self.is_end(only);
            let keep: Vec<TokenId> =
                set.iter().filter(|&t| if is_end { self.is_end(t) } else { t == only }).collect();
            set.clear();
            keep.into_iter().for_each(|t| set.insert(t));
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<bool> {
        if self.ended || self.left() == Some(0) {
            return Ok(false);
        }
        if self.is_end(token) {
            if self.step().may_end {
                self.ended = true;
                let step = Step { token, n_bytes: 0, ..self.step().clone() };
                self.past.push(step);
            }
            return Ok(self.ended);
        }
        if self.last_way().is_some_and(|only| only != token) {
            return Ok(false);
        }
        let shared = Arc::clone(&self.shared);
        match shared.trie().vocab().bytes(token) {
            [] => Ok(false),
            text => self.write(token, text),
        }
    }

    fn rollback(&mut self, n: usize) -> Result<()> {
        if n > self.len() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("expected at most {} tokens to undo, found {n}", self.len()),
            ));
        }
        if n == 0 {
            return Ok(());
        }
        let undone: Vec<Step> = self.past.drain(self.past.len() - n..).collect();
        self.ended = false;
        let written = undone.iter().filter(|s| s.n_bytes > 0).count();
        let result = self.tokens.rollback(written);
        self.forget(undone.iter().map(|s| s.n_bytes).sum());
        self.mask = None;
        if result.is_err() {
            self.revive();
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self {
            shared: Arc::clone(&self.shared),
            limits: self.limits,
            fresh: Arc::clone(&self.fresh),
            tokens: self.tokens.deep_clone(),
            bytes: self.bytes.deep_clone(),
            n_synced: self.n_synced,
            text: self.text.clone(),
            past: self.past.clone(),
            ended: self.ended,
            mask: self.mask.clone(),
        })
    }

    fn may_end(&self) -> bool {
        !self.ended && self.step().may_end
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn forced(&mut self) -> Result<Option<TokenId>> {
        if self.ended {
            return Ok(None);
        }
        if let Some(only) = self.last_way()
            && !self.is_end(only)
        {
            return Ok(Some(only));
        }
        // where more than one byte may come next, or the end, hardly ever does only one token fit
        if !self.tokens.is_stopped() && self.tokens.compute_ff_bytes().is_empty() {
            return Ok(None);
        }
        let viable = self.viable()?;
        let mut ids = viable.iter();
        Ok(ids.next().filter(|_| ids.next().is_none()))
    }

    fn witness_len(&mut self) -> Option<usize> {
        if self.ended {
            return Some(0);
        }
        let plan = self.plan()?;
        self.shared.tokens_of(plan.rest()).map(|n| n + 1)
    }

    fn witness(&mut self, out: &mut Vec<TokenId>) -> bool {
        out.clear();
        if self.ended {
            return true;
        }
        let Some(plan) = self.plan() else { return false };
        self.shared.trie().tokenize(plan.rest()).map(|t| *out = t).is_some()
    }
}

/// Keeps in `set` what `mask` holds: the same bits in words of half the width.
fn and(set: &mut TokenSet, mask: &SimpleVob) {
    let n_vocab = set.n_vocab();
    let mut halves = mask.as_slice().chunks(2);
    for w in set.words_mut() {
        let pair = halves.next().unwrap_or_default();
        let half = |i: usize| u64::from(pair.get(i).copied().unwrap_or(0));
        *w &= half(0) | half(1) << 32;
    }
    debug_assert!(set.iter().all(|t| (t as usize) < n_vocab));
}
