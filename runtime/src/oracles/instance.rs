//! Constrained-sampling instances: a Markov model, a byte automaton and a token budget.

use super::dfa::ByteDfa;
use super::exact::Exact;
use super::law::Law;
use crate::sampling::{Purpose, Random};
use crate::token::TokenId;
use std::collections::BTreeMap;

/// A Markov model of order 1 with rational probabilities: `P(t | prev) = w(prev, t) / Σ w(prev, ·)` with
/// `w = 1 + ((31·prev + 17·t + 7 + salt)·2654435761 mod 97)`. Row `n` is that of the start.
#[derive(Clone, Debug)]
pub struct Markov {
    n_text: usize,
    salt: u64,
}

impl Markov {
    /// A model of `n_text` tokens and an end token, which has the highest id.
    pub fn new(n_text: usize, salt: u64) -> Self {
        Self { n_text, salt }
    }

    fn weight(&self, prev: usize, t: usize) -> u64 {
        let x = 31 * prev as u64 + 17 * t as u64 + 7 + self.salt;
        1 + x.wrapping_mul(2_654_435_761) % 97
    }

    /// Probabilities after the token `prev`; `n_text` is the start.
    pub fn row(&self, prev: usize) -> Vec<f64> {
        let weights: Vec<u64> = (0..=self.n_text).map(|t| self.weight(prev, t)).collect();
        let total: u64 = weights.iter().sum();
        weights.iter().map(|w| *w as f64 / total as f64).collect()
    }
}

impl Law for Markov {
    fn n_vocab(&self) -> usize {
        self.n_text + 1
    }

    fn eos(&self) -> TokenId {
        self.n_text as TokenId
    }

    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        out.copy_from_slice(&self.row(prefix.last().map_or(self.n_text, |t| *t as usize)));
    }

    fn logits(&self, prefix: &[TokenId], out: &mut [f32]) {
        let prev = prefix.last().map_or(self.n_text, |t| *t as usize);
        for (t, l) in out.iter_mut().enumerate() {
            *l = (self.weight(prev, t) as f64).ln() as f32;
        }
    }
}

/// A model, the language its texts must be in, and the most tokens a text may have, its end included.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Bytes of each token but the end.
    pub tokens: Vec<Vec<u8>>,
    /// The model.
    pub model: Markov,
    /// The language.
    pub dfa: ByteDfa,
    /// Budget in tokens, the end included.
    pub max_tokens: usize,
}

impl Instance {
    /// The token that ends a text.
    pub fn eos(&self) -> TokenId {
        self.model.eos()
    }

    /// The bytes of a text; the end has none.
    pub fn bytes(&self, tokens: &[TokenId]) -> Vec<u8> {
        tokens.iter().filter_map(|t| self.tokens.get(*t as usize)).flatten().copied().collect()
    }

    /// Whether a text, its end included, is in the language and within the budget: by running the automaton
    /// over all of it.
    pub fn accepts(&self, tokens: &[TokenId]) -> bool {
        let ends_once = tokens.iter().position(|t| *t == self.eos()).is_some_and(|i| i + 1 == tokens.len());
        let state = self.dfa.run(0, &self.bytes(tokens));
        ends_once && tokens.len() <= self.max_tokens && state.is_some_and(|q| self.dfa.accepts(q))
    }
}

/// The golden instance R1: tokens a, b, c, ab, bc, ca, abc; five tokens; 2 to 6 bytes, an even number of
/// `a`, never `cb`. Tokenisation is ambiguous and there are dead ends, both on purpose.
pub fn r1() -> Instance {
    let tokens: Vec<Vec<u8>> = ["a", "b", "c", "ab", "bc", "ca", "abc"].map(|t| t.as_bytes().to_vec()).into();
    // Length, whether the number of `a` is odd, whether the last byte was `c`.
    let step = |&(len, odd, c): &(u8, bool, bool), byte: u8| {
        let fits = len < 6 && !(c && byte == b'b');
        fits.then_some((len + 1, odd ^ (byte == b'a'), byte == b'c'))
    };
    let dfa = ByteDfa::explore((0, false, false), b"abc", step, |s| s.0 >= 2 && !s.1);
    Instance { model: Markov::new(tokens.len(), 0), tokens, dfa, max_tokens: 5 }
}

/// A random instance: 4 to 8 tokens of 1 to 3 bytes over three letters, an automaton of 3 to 8 states, 4 to
/// 6 tokens; with `P(L)` in 0.02..0.9 and the masked law at least 0.2 from the target in total variation,
/// so that a sampler of the masked law is detectable.
pub fn random_instance(seed: u64) -> Instance {
    let attempts = (0..).map(|attempt| candidate(&Random::new(seed).with_draw(attempt)));
    let usable = |i: &Instance| {
        let exact = Exact::new(i);
        (0.02..=0.9).contains(&exact.p_language()) && exact.masked_distance() >= 0.2
    };
    attempts.take(100_000).find(usable).unwrap_or_else(r1)
}

/// Numbers of one attempt, one after the other.
struct Dice<'a> {
    random: &'a Random,
    n: u64,
}

impl Dice<'_> {
    /// A number in `low..=high`.
    fn roll(&mut self, low: usize, high: usize) -> usize {
        self.n += 1;
        let u = self.random.uniform(self.n, Purpose::Search);
        (low + (u * (high - low + 1) as f64) as usize).min(high)
    }
}

fn candidate(random: &Random) -> Instance {
    let mut dice = Dice { random, n: 0 };
    let n_tokens = dice.roll(4, 8);
    let mut word = |_| (0..dice.roll(1, 3)).map(|_| b'a' + dice.roll(0, 2) as u8).collect();
    let tokens: Vec<Vec<u8>> = (0..n_tokens).map(&mut word).collect();
    let n_states = dice.roll(3, 8);
    // A fifth of the steps are missing.
    let mut step = |byte| (dice.roll(0, 4) > 0).then(|| (byte, dice.roll(0, n_states - 1)));
    let steps =
        (0..n_states).map(|_| b"abc".iter().filter_map(|b| step(*b)).collect::<BTreeMap<_, _>>()).collect();
    let accepting = (0..n_states).map(|_| dice.roll(0, 2) == 0).collect();
    let (max_tokens, salt) = (dice.roll(4, 6), dice.roll(0, 96) as u64);
    Instance { tokens, model: Markov::new(n_tokens, salt), dfa: ByteDfa::new(steps, accepting), max_tokens }
}
