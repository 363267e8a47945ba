//! DRY ("don't repeat yourself"): penalises tokens that would continue an earlier repeat.
//!
//! Let the last `n` tokens also stand earlier in the window, followed by `t`. Then `t` loses
//! `multiplier * base^(n - allowed_length)` for the longest such `n >= allowed_length`. A repeat may not
//! reach over a *breaker* (a new line, a quote), and a token that is a breaker by itself is never
//! penalised. Suffix lengths come from the Z-algorithm over the reversed window, linear in its length.
//! It loses where exact repetition is wanted (quotations, refrains, code).
//! Source: p-e-w, oobabooga/text-generation-webui #5677; llama.cpp's `dry`.

use super::params::{at_least, bad};
use super::penalties::window;
use crate::error::Result;
use crate::token::TokenId;
use serde::{Deserialize, Serialize};

/// Settings of DRY.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dry {
    /// Size of the penalty; 0 is off.
    pub multiplier: f32,
    /// Growth of the penalty with every further repeated token; at least 1.
    pub base: f32,
    /// Repeats up to this many tokens cost nothing more than `multiplier`; shorter ones nothing.
    pub allowed_length: u32,
    /// Window in tokens, prompt included; 0 is off, -1 everything accepted so far.
    pub last_n: i32,
    /// Texts a repeat may not reach over.
    pub breakers: Vec<String>,
}

impl Default for Dry {
    fn default() -> Self {
        let breakers = ["\n", ":", "\"", "*"].map(String::from).to_vec();
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, last_n: 64, breakers }
    }
}

impl Dry {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("dry.multiplier", self.multiplier, 0.0)?;
        at_least("dry.base", self.base, 1.0)?;
        window("dry.last_n", self.last_n)?;
        match self.breakers.iter().position(|b| b.is_empty() || b.len() > MAX_BREAKER_BYTES) {
            Some(i) => Err(bad(
                format!("dry.breakers[{i}]"),
                format!("1 to {MAX_BREAKER_BYTES} bytes"),
                format!("{} bytes", self.breakers[i].len()),
            )),
            None => Ok(()),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.multiplier > 0.0 && self.last_n != 0
    }

    /// What a repeat of `n >= allowed_length` tokens costs. The power is capped so as to stay finite.
    pub(super) fn penalty(&self, n: u32) -> f32 {
        let power = n.saturating_sub(self.allowed_length).min(i32::MAX as u32) as i32;
        (self.multiplier * self.base.powi(power)).min(f32::MAX)
    }
}

/// A breaker's length is bounded, since each must be found at every offset of every token.
const MAX_BREAKER_BYTES: usize = 40;
/// Longest tail of a breaker that spans tokens.
const MAX_TAIL_TOKENS: usize = 20;

/// Breakers in terms of tokens: a breaker is a head token and the tokens that must follow it.
#[derive(Clone, Debug, Default)]
pub struct DryBreakers {
    /// By head, then tail; no duplicates.
    sequences: Vec<(TokenId, Vec<TokenId>)>,
}

impl DryBreakers {
    /// Finds every token that contains a breaker (a breaker by itself) or ends with the start of one
    /// (then `tokenize` of the rest must follow). `token_bytes`: the bytes of each token. Done once for a
    /// vocabulary: it looks at every token.
    /// # Errors those of `tokenize`.
    pub fn new<'v>(
        breakers: &[String],
        token_bytes: impl Iterator<Item = &'v [u8]>,
        mut tokenize: impl FnMut(&[u8]) -> Result<Vec<TokenId>>,
    ) -> Result<Self> {
        let mut sequences = Vec::new();
        for (id, bytes) in token_bytes.enumerate() {
            for breaker in breakers.iter().map(String::as_bytes).filter(|b| !b.is_empty()) {
                if bytes.windows(breaker.len()).any(|w| w == breaker) {
                    sequences.push((id as TokenId, Vec::new()));
                    continue;
                }
                for n in (1..breaker.len()).filter(|n| bytes.ends_with(&breaker[..*n])) {
                    let mut tail = tokenize(&breaker[n..])?;
                    tail.truncate(MAX_TAIL_TOKENS);
                    sequences.push((id as TokenId, tail));
                }
            }
        }
        Ok(Self::from_sequences(sequences))
    }

    /// Breakers given as tokens: heads and what must follow each.
    pub fn from_sequences(mut sequences: Vec<(TokenId, Vec<TokenId>)>) -> Self {
        sequences.sort();
        sequences.dedup();
        Self { sequences }
    }

    /// The tails that make `head` a breaker.
    fn tails(&self, head: TokenId) -> impl Iterator<Item = &[TokenId]> {
        let start = self.sequences.partition_point(|s| s.0 < head);
        self.sequences[start..].iter().take_while(move |s| s.0 == head).map(|s| &*s.1)
    }

    /// Whether `token` is a breaker by itself. An empty tail sorts first.
    fn is_single(&self, token: TokenId) -> bool {
        self.tails(token).next().is_some_and(<[_]>::is_empty)
    }

    /// Tokens at the end of `window` that a repeat may cover: those after the last breaker.
    fn limit(&self, window: &[TokenId]) -> usize {
        for i in 0..window.len() {
            let after = &window[window.len() - i..];
            let head = window[window.len() - 1 - i];
            let longest = self.tails(head).filter(|t| after.starts_with(t)).map(<[_]>::len).max();
            if let Some(tail) = longest {
                return i - tail;
            }
        }
        window.len()
    }
}

/// Scratch of the search for repeats, reused from step to step.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats {
    /// `z[k]`: how many tokens at the end of the window also stand `k` tokens earlier.
    z: Vec<u32>,
    /// Token and the longest repeat it would continue; by id.
    found: Vec<(TokenId, u32)>,
}

impl Repeats {
    pub(super) fn reserve(&mut self, n: usize) {
        self.z.reserve(n);
        self.found.reserve(n);
    }

    /// The tokens that would continue a repeat of at least `allowed_length` tokens in `window`, with the
    /// longest length each continues.
    pub(super) fn find(
        &mut self,
        dry: &Dry,
        breakers: &DryBreakers,
        window: &[TokenId],
    ) -> &[(TokenId, u32)] {
        self.found.clear();
        let limit = breakers.limit(window);
        let allowed = dry.allowed_length as usize;
        if window.len() <= allowed || limit < allowed {
            return &self.found;
        }
        self.suffix_lengths(window);
        for (k, z) in self.z.iter().enumerate().skip(1) {
            let n = (*z as usize).min(limit);
            // `k` tokens before the end stands the copy; the token after it is `k` from the end.
            let next = window[window.len() - k];
            if n >= allowed && !breakers.is_single(next) {
                self.found.push((next, n as u32));
            }
        }
        self.found.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        self.found.dedup_by_key(|e| e.0);
        &self.found
    }

    /// Z-algorithm on the reversed window: `z[k]` is the length of the longest common suffix of the
    /// window and the window without its last `k` tokens.
    fn suffix_lengths(&mut self, window: &[TokenId]) {
        let n = window.len();
        let at = |i: usize| window[n - 1 - i];
        self.z.clear();
        self.z.resize(n, 0);
        // `left..right`: the match reaching farthest back so far.
        let (mut left, mut right) = (0, 0);
        for k in 1..n {
            let mut len = if k < right { (self.z[k - left] as usize).min(right - k) } else { 0 };
            while k + len < n && at(len) == at(k + len) {
                len += 1;
            }
            if k + len > right {
                (left, right) = (k, k + len);
            }
            self.z[k] = len as u32;
        }
    }
}
