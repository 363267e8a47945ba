//! Truncating samplers: each keeps a subset of the candidates and renormalises.
//!
//! | sampler | keeps | source |
//! |---|---|---|
//! | top-k | the k best | Fan et al. 2018, arXiv 1805.04833 |
//! | top-p | the fewest best with mass >= p | Holtzman et al. 2019, arXiv 1904.09751 |
//! | min-p | `P(t) >= p * max P` | Nguyen et al. 2024, arXiv 2407.01082 |
//! | typical | the nearest `-ln P(t)` to the entropy, mass > p | Meister et al. 2022, arXiv 2202.00666 |
//! | top-n-sigma | `logit >= max - n * deviation of the logits` | Tang et al. 2024, arXiv 2411.07641 |
//!
//! Mass is that of the softmax over the candidates at hand, as in llama.cpp, and equal logits are kept by
//! lowest id. Top-p, min-p and typical keep at least `min_keep` tokens; all keep at least one.

use super::candidates::Candidates;

/// Keeps the `k` best.
pub(super) fn top_k(c: &mut Candidates<'_>, k: usize) {
    c.keep_top(k.max(1));
}

/// Keeps the smallest set of best tokens with mass `p`.
pub(super) fn top_p(c: &mut Candidates<'_>, p: f32, min_keep: usize) {
    c.keep_mass(f64::from(p), min_keep.max(1));
}

/// Keeps tokens at least `p` times as probable as the best.
pub(super) fn min_p(c: &mut Candidates<'_>, p: f32, min_keep: usize) {
    let threshold = c.best() + p.ln() / c.scale();
    c.keep_above(threshold, min_keep.max(1));
}

/// Keeps the tokens of typical information with mass above `p`.
pub(super) fn typical(c: &mut Candidates<'_>, p: f32, min_keep: usize) {
    c.keep_typical(f64::from(p), min_keep.max(1));
}

/// Keeps logits within `n` standard deviations of the best.
pub(super) fn top_n_sigma(c: &mut Candidates<'_>, n: f32) {
    if c.n() > 1 {
        let (_, deviation) = c.mean_and_deviation();
        let threshold = f64::from(c.best()) - f64::from(n) * deviation;
        c.keep_above(threshold as f32, 1);
    }
}
