//! Constrained adaptive rejection sampling: independent draws of exactly the conditioned law.
//!
//! Every visited prefix keeps `theta`, an upper bound on the probability that the model goes on from it
//! into the language. A draw walks from the root: at a prefix that was known *before the draw began* it
//! takes a token with weight `P·theta`; at a prefix made during the draw it takes one of raw `P`, without
//! the mask, and is rejected if the mask forbids it. What it learns lowers the bounds for later draws.
//!
//! Why that is exact: the proposal of a draw is `P` conditioned on avoiding a set of prefixes that was fixed
//! before the draw and contains no valid text; so what is accepted has the law `p*`, whatever the history.
//! Using the mask at a new prefix would make the set depend on the draw, and the first sample that of
//! masking. Acceptance is `P(L) / theta(root)` and never falls.
//!
//! A few masked draws are made first. They are never returned: they only lower the bounds and estimate `P(L)`.
//! The budget counts draws, never tokens or time, which would favour short texts.
//!
//! Cost: a forward pass for each new prefix, none for known ones; a pass over the vocabulary a token.
//! It loses when `P(L)` is tiny: see [`Cars::expected_draws`], and [`Smc`](super::Smc).

use super::rows::Branches;
use super::softmax::Softmax;
use super::trie::{Cached, NodeId, ROOT, Trie};
use super::{MaskSource, Start, check_start, limited_mask};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::next_logits::NextLogits;
use crate::sampling::params::bad;
use crate::sampling::random::{Purpose, Random};
use crate::token::{TokenId, TokenSet};

/// Settings of [`Cars`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CarsParams {
    /// Seed of all draws.
    pub seed: u64,
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// Most tokens of a text, its end included: the law is conditioned on this, too.
    pub max_tokens: usize,
    /// Masked draws made first.
    pub seed_draws: u32,
    /// Draws a sample may take.
    pub max_draws: u32,
    /// Memory for rows and masks of visited prefixes.
    pub node_cache_bytes: usize,
}

impl Default for CarsParams {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 1.0,
            max_tokens: 512,
            seed_draws: 4,
            max_draws: 32,
            node_cache_bytes: 64 << 20,
        }
    }
}

/// A text drawn from the conditioned law.
#[derive(Clone, Debug, PartialEq)]
pub struct ExactSample {
    /// The tokens, the end included.
    pub tokens: Vec<TokenId>,
    /// Its log-probability under the model at the temperature, unconditioned, natural log.
    pub logprob: f64,
    /// Draws it took.
    pub draws: u32,
}

/// How tokens at new prefixes are drawn. The wrong way exists to be caught by the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtNew {
    Raw,
    #[cfg(test)]
    Masked,
}

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Exact,
    Seed,
}

/// Draws from one prompt under one constraint. All calls must give the same model, start and source.
#[derive(Debug)]
pub struct Cars<B> {
    params: CarsParams,
    pub(super) trie: Trie,
    branches: Branches<B>,
    softmax: Softmax,
    random: Random,
    n_vocab: usize,
    n_draws: u32,
    /// `W` of the masked draws, 0 for dead ends.
    seed_weights: Vec<f64>,
    pub(super) at_new: AtNew,
}

impl<B> Cars<B> {
    /// # Errors `InvalidArgument` naming the field.
    pub fn new(params: CarsParams, n_vocab: usize) -> Result<Self> {
        if params.max_tokens == 0 || params.max_draws == 0 {
            let found = format!("{} and {}", params.max_tokens, params.max_draws);
            return Err(bad("max_tokens, max_draws", "at least 1", found));
        }
        Ok(Self {
            params,
            trie: Trie::new(n_vocab, params.node_cache_bytes),
            branches: Branches::default(),
            softmax: Softmax::new(params.temperature, n_vocab)?,
            random: Random::new(params.seed),
            n_vocab,
            n_draws: 0,
            seed_weights: Vec::new(),
            at_new: AtNew::Raw,
        })
    }

    /// Upper bound on `P(L)`, falling towards it with every draw.
    pub fn theta_root(&self) -> f64 {
        self.trie.theta_root()
    }

    /// Draws so far, masked ones included.
    pub fn n_draws(&self) -> u32 {
        self.n_draws
    }

    /// `W` of the masked draws made first: their mean estimates `P(L)` without bias.
    pub fn seed_weights(&self) -> &[f64] {
        &self.seed_weights
    }

    /// About how many draws the next sample takes, by the masked draws; infinite if all met dead ends, none
    /// before the first sample.
    pub fn expected_draws(&self) -> Option<f64> {
        let n = self.seed_weights.len() as f64;
        (n > 0.0).then(|| self.theta_root() * n / self.seed_weights.iter().sum::<f64>())
    }

    /// Makes the masked draws, if they were not made yet.
    /// # Errors those of the model and the source.
    pub fn seed<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
    ) -> Result<()> {
        check_start(model, start, source)?;
        while self.seed_weights.len() < self.params.seed_draws as usize {
            let (_, weight) = self.walk(model, start, source, Walk::Seed)?;
            self.seed_weights.push(weight);
        }
        Ok(())
    }

    /// One text of the conditioned law, independent of all others.
    /// # Errors `Unsatisfiable` if no text is left, `TooComplex` if `max_draws` were rejected; those of the
    /// model and the source. The sampler stays usable.
    pub fn sample<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
    ) -> Result<ExactSample> {
        self.seed(model, start, source)?;
        for draws in 1..=self.params.max_draws {
            if self.theta_root() <= 0.0 {
                let message =
                    format!("expected a text of at most {} tokens, found none", self.params.max_tokens);
                return Err(Error::new(ErrorKind::Unsatisfiable, message));
            }
            if let (Some((tokens, logprob)), _) = self.walk(model, start, source, Walk::Exact)? {
                return Ok(ExactSample { tokens, logprob, draws });
            }
        }
        let mean = self.seed_weights.iter().sum::<f64>() / self.seed_weights.len().max(1) as f64;
        let (bound, draws) = (self.theta_root().ln(), self.params.max_draws);
        let message = format!(
            "expected a valid text within {draws} draws, found none; ln P(L) is at most {bound:.2}, estimated {:.2}",
            mean.ln()
        );
        Err(Error::new(ErrorKind::TooComplex, message))
    }

    /// One draw: the text and its log-probability if accepted, and the product of the masses allowed.
    #[allow(clippy::type_complexity)]
    fn walk<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
        walk: Walk,
    ) -> Result<(Option<(Vec<TokenId>, f64)>, f64)> {
        self.n_draws += 1;
        if self.trie.is_empty() {
            let cached = self.cached(start.logits, source, &[])?;
            let norm = self.softmax.norm(&cached.row)?;
            self.trie.add(None, cached, norm, &mut self.softmax, self.n_draws);
        }
        let mut path = vec![ROOT];
        let done = self.descend(model, start, source, walk, &mut path);
        self.trie.update(&path);
        done
    }

    #[allow(clippy::type_complexity)]
    fn descend<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
        walk: Walk,
        path: &mut Vec<NodeId>,
    ) -> Result<(Option<(Vec<TokenId>, f64)>, f64)> {
        let (mut tokens, mut logprob, mut weight) = (Vec::new(), 0.0, 1.0);
        let mut at = ROOT;
        loop {
            self.recall(model, start, source, at, &tokens)?;
            weight *= self.trie.node(at).allowed;
            let Some((token, p)) = self.choose(at, tokens.len(), walk) else { return Ok((None, 0.0)) };
            logprob += p.ln();
            tokens.push(token);
            if source.ends().contains(token) {
                return Ok((Some((tokens, logprob)), weight));
            }
            at = match self.trie.child(at, token) {
                Some(child) => child,
                None => self.visit(model, start, source, at, &tokens)?,
            };
            path.push(at);
        }
    }

    /// The token drawn at a prefix of `n` tokens and its probability; none if the draw ends here.
    fn choose(&mut self, at: NodeId, n: usize, walk: Walk) -> Option<(TokenId, f64)> {
        let u = self.random.with_draw(self.n_draws).uniform(n as u64, Purpose::Token);
        let (node, softmax) = (self.trie.node(at), &mut self.softmax);
        let cached = node.cached.as_ref()?;
        let is_new = node.born == self.n_draws;
        let masked = match self.at_new {
            AtNew::Raw => walk == Walk::Seed,
            #[cfg(test)]
            AtNew::Masked => walk == Walk::Seed || is_new,
        };
        let token = if masked {
            let mut allowed = cached.open.clone();
            node.children.iter().for_each(|c| allowed.insert(c.0));
            if node.allowed <= 0.0 {
                return None;
            }
            softmax.token_at(&cached.row, node.norm, Some(&allowed), u * node.allowed)
        } else if is_new {
            softmax.token_at(&cached.row, node.norm, None, u)
        } else {
            self.trie.token_at(at, u * node.theta, softmax)?
        };
        let allowed = cached.open.contains(token) || self.trie.child(at, token).is_some();
        allowed.then(|| (token, softmax.prob(&cached.row, node.norm, token)))
    }

    /// Makes the node of a prefix reached for the first time.
    fn visit<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
        parent: NodeId,
        prefix: &[TokenId],
    ) -> Result<NodeId> {
        self.branches.eval(model, start, prefix)?;
        let cached = self.cached(model.row(0), source, prefix)?;
        let norm = self.softmax.norm(&cached.row)?;
        let token = prefix[prefix.len() - 1];
        Ok(self.trie.add(Some((parent, token)), cached, norm, &mut self.softmax, self.n_draws))
    }

    /// Gives a known node its row and mask back, if they were dropped.
    fn recall<M: NextLogits<Branch = B>>(
        &mut self,
        model: &mut M,
        start: &Start<'_, B>,
        source: &mut impl MaskSource,
        at: NodeId,
        prefix: &[TokenId],
    ) -> Result<()> {
        if self.trie.node(at).cached.is_some() {
            self.trie.touch(at, self.n_draws);
            return Ok(());
        }
        let cached = match prefix {
            [] => self.cached(start.logits, source, prefix)?,
            _ => {
                self.branches.eval(model, start, prefix)?;
                self.cached(model.row(0), source, prefix)?
            }
        };
        self.trie.restore(at, cached, self.n_draws);
        Ok(())
    }

    /// The row and the mask after `prefix`.
    fn cached(&self, row: &[f32], source: &mut impl MaskSource, prefix: &[TokenId]) -> Result<Cached> {
        let mut open = TokenSet::none(self.n_vocab);
        limited_mask(source, prefix, self.params.max_tokens, &mut open)?;
        Ok(Cached { row: row.into(), open })
    }
}
