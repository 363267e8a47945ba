//! Exact laws of an instance, by dynamic programming over (last token, automaton state, tokens left).
//!
//! `c(prev, q, r) = P(end | prev)·acc(q) + Σ_t P(t | prev)·c(t, δ(q, t), r - 1)` is the probability that a
//! text goes on into the language (expected future grammaticality, arXiv 2405.21047). The target law is
//! `p*(t) = P(t)·c(next) / c`; the masked law samples `P` restricted to tokens with `c(next) > 0`.

use super::instance::Instance;
use super::statistics::total_variation;
use crate::token::{TokenId, TokenSet};
use std::collections::BTreeMap;

/// One text of the language, with its probabilities under the three laws.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Tokens, the end included.
    pub tokens: Vec<TokenId>,
    /// Under the model.
    pub model: f64,
    /// Under the model conditioned on the language.
    pub target: f64,
    /// Under masked sampling.
    pub masked: f64,
    /// `W`, the product of the masked masses; `model = masked · W`.
    pub weight: f64,
}

/// The exact laws of an instance.
#[derive(Clone, Debug)]
pub struct Exact<'a> {
    instance: &'a Instance,
    rows: Vec<Vec<f64>>,
    /// `c`, `[prev][state][left]`.
    future: Vec<f64>,
}

/// Where a text stands: last token (the end token at the start), automaton state, tokens left.
#[derive(Clone, Copy, Debug)]
struct At {
    prev: usize,
    state: usize,
    left: usize,
}

impl<'a> Exact<'a> {
    /// Computes `c` everywhere.
    pub fn new(instance: &'a Instance) -> Self {
        let n = instance.tokens.len();
        let rows = (0..=n).map(|prev| instance.model.row(prev)).collect();
        let size = (n + 1) * instance.dfa.n_states() * (instance.max_tokens + 1);
        let mut exact = Self { instance, rows, future: vec![0.0; size] };
        for left in 1..=instance.max_tokens {
            for (prev, state) in (0..=n).flat_map(|p| (0..instance.dfa.n_states()).map(move |q| (p, q))) {
                let at = At { prev, state, left };
                let c = exact.steps(at).map(|(_, p, next)| p * exact.value(next)).sum();
                let i = exact.index(at);
                exact.future[i] = c;
            }
        }
        exact
    }

    /// The instance the laws are of.
    pub fn instance(&self) -> &'a Instance {
        self.instance
    }

    fn index(&self, at: At) -> usize {
        (at.prev * self.instance.dfa.n_states() + at.state) * (self.instance.max_tokens + 1) + at.left
    }

    /// `c` after a step; 1 after the end.
    fn value(&self, next: Option<At>) -> f64 {
        next.map_or(1.0, |at| self.future[self.index(at)])
    }

    /// The tokens the automaton survives, their model probability, and where they lead (none: the end).
    fn steps(&self, at: At) -> impl Iterator<Item = (TokenId, f64, Option<At>)> {
        let (instance, eos) = (self.instance, self.instance.tokens.len());
        let row = &self.rows[at.prev];
        let text = instance.tokens.iter().enumerate().filter_map(move |(t, bytes)| {
            let state = instance.dfa.run(at.state, bytes)?;
            let next = At { prev: t, state, left: at.left.checked_sub(1)? };
            Some((t as TokenId, row[t], Some(next)))
        });
        let end = (at.left > 0 && instance.dfa.accepts(at.state)).then(|| (eos as TokenId, row[eos], None));
        text.chain(end)
    }

    /// Steps that can still end in the language.
    fn viable(&self, at: At) -> impl Iterator<Item = (TokenId, f64, Option<At>)> {
        self.steps(at).filter(|(_, _, next)| self.value(*next) > 0.0)
    }

    fn start(&self) -> At {
        At { prev: self.instance.tokens.len(), state: 0, left: self.instance.max_tokens }
    }

    /// Where `prefix` leads; none if it leaves the language or the budget, or has ended.
    fn at(&self, prefix: &[TokenId]) -> Option<At> {
        prefix.iter().try_fold(self.start(), |at, t| self.steps(at).find(|s| s.0 == *t)?.2)
    }

    /// `P(L)`: the probability that the model's text is in the language and the budget.
    pub fn p_language(&self) -> f64 {
        self.value(Some(self.start()))
    }

    /// `c(prefix)`: the probability that the model goes on from `prefix` into the language.
    pub fn future(&self, prefix: &[TokenId]) -> f64 {
        self.at(prefix).map_or(0.0, |at| self.value(Some(at)))
    }

    /// The tokens with which `prefix` can still end in the language.
    pub fn mask(&self, prefix: &[TokenId]) -> TokenSet {
        let mut set = TokenSet::none(self.instance.tokens.len() + 1);
        self.at(prefix).into_iter().flat_map(|at| self.viable(at)).for_each(|s| set.insert(s.0));
        set
    }

    /// The target law of the token after `prefix`, `[n_vocab]`; zeros if there is none.
    pub fn next_target(&self, prefix: &[TokenId]) -> Vec<f64> {
        self.next_law(prefix, |next| self.value(next))
    }

    /// The masked law of the token after `prefix`, `[n_vocab]`; zeros if there is none.
    pub fn next_masked(&self, prefix: &[TokenId]) -> Vec<f64> {
        self.next_law(prefix, |_| 1.0)
    }

    fn next_law(&self, prefix: &[TokenId], value: impl Fn(Option<At>) -> f64) -> Vec<f64> {
        let mut law = vec![0.0; self.instance.tokens.len() + 1];
        for (t, p, next) in self.at(prefix).into_iter().flat_map(|at| self.viable(at)) {
            law[t as usize] = p * value(next);
        }
        let total: f64 = law.iter().sum();
        law.iter_mut().filter(|_| total > 0.0).for_each(|p| *p /= total);
        law
    }

    /// Every text of the language, by tokens.
    pub fn sequences(&self) -> Vec<Sequence> {
        let mut found = Vec::new();
        let root = Sequence { tokens: vec![], model: 1.0, target: 1.0, masked: 1.0, weight: 1.0 };
        let mut open = vec![(root, self.start())];
        while let Some((before, at)) = open.pop() {
            let z: f64 = self.viable(at).map(|s| s.1).sum();
            for (t, p, next) in self.viable(at) {
                let mut longer = before.clone();
                longer.tokens.push(t);
                longer.model *= p;
                longer.target *= p * self.value(next) / self.value(Some(at));
                longer.masked *= p / z;
                longer.weight *= z;
                match next {
                    Some(next) => open.push((longer, next)),
                    None => found.push(longer),
                }
            }
        }
        found.sort_by(|a, b| a.tokens.cmp(&b.tokens));
        found
    }

    /// Target and masked law of the byte strings, by string.
    pub fn strings(&self) -> BTreeMap<Vec<u8>, (f64, f64)> {
        let mut strings = BTreeMap::<_, (f64, f64)>::new();
        for s in self.sequences() {
            let e = strings.entry(self.instance.bytes(&s.tokens)).or_default();
            *e = (e.0 + s.target, e.1 + s.masked);
        }
        strings
    }

    /// Total variation between the masked and the target law of token sequences.
    pub fn masked_distance(&self) -> f64 {
        let all = self.sequences();
        let law = |f: fn(&Sequence) -> f64| all.iter().map(f).collect::<Vec<_>>();
        total_variation(&law(|s| s.masked), &law(|s| s.target))
    }

    /// `KL(masked ‖ target)` in nats: `D(s) = Σ_t q(t)·(ln q(t)/p*(t) + D(next))`.
    pub fn masked_divergence(&self) -> f64 {
        self.divergence_from(self.start())
    }

    fn divergence_from(&self, at: At) -> f64 {
        let z: f64 = self.viable(at).map(|s| s.1).sum();
        let step = |(_, p, next): (TokenId, f64, Option<At>)| {
            let (q, target) = (p / z, p * self.value(next) / self.value(Some(at)));
            q * ((q / target).ln() + next.map_or(0.0, |n| self.divergence_from(n)))
        };
        self.viable(at).map(step).sum()
    }

    /// The effective share of masked draws, `(E W)² / E W²`.
    pub fn effective_share(&self) -> f64 {
        let all = self.sequences();
        let mean: f64 = all.iter().map(|s| s.masked * s.weight).sum();
        let square: f64 = all.iter().map(|s| s.masked * s.weight * s.weight).sum();
        mean * mean / square
    }
}
