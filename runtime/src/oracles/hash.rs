//! A law that remembers everything: oracle O2.

use super::law::Law;
use crate::token::TokenId;

/// Logits are hashes of every token and its position, so that a wrong truncation, a stale page, a wrong
/// position or a neighbour's token changes the logits of all later tokens. The first 16 ids have logits in
/// 0..8; all others 0.
#[derive(Clone, Copy, Debug)]
pub struct HashLaw {
    n_vocab: usize,
}

impl HashLaw {
    const N_HASHED: usize = 16;

    /// A law over `n_vocab` tokens, at least 2; the end has the highest id.
    pub fn new(n_vocab: usize) -> Self {
        Self { n_vocab: n_vocab.max(2) }
    }

    /// The state after `prefix`.
    fn state(prefix: &[TokenId]) -> u64 {
        let step = |h: u64, (pos, t): (usize, &TokenId)| mix(mix(h, u64::from(*t) + 1), pos as u64 + 1);
        prefix.iter().enumerate().fold(0x5EED, step)
    }
}

/// Two words into one, every bit of which depends on every bit of both (SplitMix64's finaliser).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.rotate_left(29) ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Law for HashLaw {
    fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    fn eos(&self) -> TokenId {
        self.n_vocab as TokenId - 1
    }

    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let mut logits = vec![0.0; out.len()];
        self.logits(prefix, &mut logits);
        out.iter_mut().zip(&logits).for_each(|(p, l)| *p = f64::from(*l).exp());
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }

    fn logits(&self, prefix: &[TokenId], out: &mut [f32]) {
        let state = Self::state(prefix);
        for (i, l) in out.iter_mut().enumerate() {
            // 21 bits over 2^18: exact in f32.
            *l =
                if i < Self::N_HASHED { (mix(state, i as u64) >> 43) as f32 / (1 << 18) as f32 } else { 0.0 };
        }
    }
}
