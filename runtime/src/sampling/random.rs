//! Counter-based randomness: a number is a function of what it is for, not of what was drawn before.
//!
//! Every emitted position has its own number, keyed by (seed, draw, position, purpose). So the text of a
//! seed does not depend on batching, speculation, pruning or on how often a branch was evaluated: a
//! token that is thrown away uses up nothing. After a backtrack the draw number must change, else the
//! same token comes again. Cost: ten rounds of two multiplications a number. It loses to a stream
//! generator only where one sequential consumer wants millions of numbers.
//!
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).

use crate::token::TokenId;

/// What a number is drawn for; numbers of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Purpose {
    /// The token of a position, by inverse cumulative distribution.
    Token = 0,
    /// Gumbel noise for every token of a position.
    Gumbel = 1,
    /// Whether XTC acts at a position.
    Xtc = 2,
    /// Whether a proposed token is accepted (rejection sampling, Metropolis steps).
    Accept = 3,
    /// Choice among particles, branches or candidates.
    Resample = 4,
    /// Bootstrap intervals and other statistics of a report.
    Report = 5,
    /// Choices of a search that are not token draws (exploration, tie breaks, shuffles).
    Search = 6,
}

/// The random numbers of one seed. Copying it costs nothing: it has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    draw: u32,
}

impl Random {
    /// The numbers of `seed`, draw 0.
    pub fn new(seed: u64) -> Self {
        Self { seed, draw: 0 }
    }

    /// The numbers of another draw or attempt of the same seed, independent of those of any other.
    #[must_use]
    pub fn with_draw(self, draw: u32) -> Self {
        Self { draw, ..self }
    }

    /// The draw or attempt number.
    pub fn draw(&self) -> u32 {
        self.draw
    }

    /// A number in `0..1` (53 bits) for a position: the index of the token in its sequence.
    pub fn uniform(&self, position: u64, purpose: Purpose) -> f64 {
        self.uniform_at(position, purpose, 0)
    }

    /// As [`Random::uniform`], the `index`-th of several for the same position and purpose.
    pub fn uniform_at(&self, position: u64, purpose: Purpose, index: u32) -> f64 {
        let [a, b, ..] = self.words(position, purpose, index);
        unit((u64::from(a) << 32) | u64::from(b))
    }

    /// Standard Gumbel noise for one token of a position: the token with the greatest
    /// `logit + noise` has the law of the softmax.
    pub fn gumbel(&self, position: u64, token: TokenId) -> f64 {
        // The half keeps the number off 0, whose logarithm is not finite.
        let [a, b, ..] = self.words(position, Purpose::Gumbel, token);
        let bits = ((u64::from(a) << 32) | u64::from(b)) >> 11;
        -(-((bits as f64 + 0.5) * (-53f64).exp2()).ln()).ln()
    }

    /// The four words of a counter. Positions share a word with the purpose above 2^32 (of 2^48).
    fn words(&self, position: u64, purpose: Purpose, index: u32) -> [u32; 4] {
        let high = ((position >> 32) as u32) << 16 | u32::from(purpose as u16);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        philox4x32(key, [position as u32, self.draw, high, index])
    }
}

/// The top 53 bits as a number in `0..1`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (-53f64).exp2()
}

/// Philox4x32 with ten rounds: a keyed bijection of 128-bit counters.
fn philox4x32(mut key: [u32; 2], mut x: [u32; 4]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let p = MULTIPLIERS[0] * u64::from(x[0]);
        let q = MULTIPLIERS[1] * u64::from(x[2]);
        x = [(q >> 32) as u32 ^ x[1] ^ key[0], q as u32, (p >> 32) as u32 ^ x[3] ^ key[1], p as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // kat_vectors of Random123, philox4x32 10.
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([!0; 4], [!0; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expect) in cases {
            assert_eq!(philox4x32(key, counter), expect);
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let r = Random::new(7);
        let base = r.uniform(3, Purpose::Token);
        let others = [
            Random::new(8).uniform(3, Purpose::Token),
            Random::new(7 | 1 << 40).uniform(3, Purpose::Token),
            r.with_draw(1).uniform(3, Purpose::Token),
            r.uniform(4, Purpose::Token),
            r.uniform(3 | 1 << 33, Purpose::Token),
            r.uniform(3, Purpose::Xtc),
            r.uniform_at(3, Purpose::Token, 1),
        ];
        assert!(others.iter().all(|u| *u != base), "{base} {others:?}");
        assert_eq!(base, Random::new(7).uniform(3, Purpose::Token));
    }

    #[test]
    fn uniforms_stay_below_one() {
        assert_eq!(unit(0), 0.0);
        assert!(unit(!0) < 1.0);
    }

    #[test]
    fn uniforms_fill_the_unit_interval_evenly() {
        // Kolmogorov-Smirnov: P(D > t) <= 2 exp(-2 n t²); t for 1e-6.
        let n = 20_000u32;
        let r = Random::new(99);
        let mut u: Vec<f64> = (0..n).map(|i| r.uniform(u64::from(i), Purpose::Token)).collect();
        u.sort_by(f64::total_cmp);
        let d = u.iter().enumerate().map(|(i, x)| (x - i as f64 / f64::from(n)).abs()).fold(0.0, f64::max);
        assert!(d < ((2e6f64).ln() / (2.0 * f64::from(n))).sqrt() + 1.0 / f64::from(n), "{d}");
    }

    #[test]
    fn gumbel_noise_has_its_mean() {
        // Mean 0.5772, variance π²/6; five standard errors.
        let n = 50_000;
        let r = Random::new(5);
        let mean: f64 = (0..n).map(|t| r.gumbel(11, t)).sum::<f64>() / f64::from(n);
        assert!((mean - 0.577_215_66).abs() < 5.0 * (1.644_934 / f64::from(n)).sqrt(), "{mean}");
    }
}
