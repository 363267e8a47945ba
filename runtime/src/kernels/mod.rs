//! Slice maths over the vocabulary: maximum, log-sum-exp, softmax, threshold scans, partial selection.
//!
//! Sampling from a quarter of a million logits costs more than a millisecond when done naively; here it
//! is two or three passes at memory speed. The instruction set is chosen at run time, once per call
//! for a whole slice. **Every path gives the same bits** (see `lanes`), so a seed gives the same text on
//! every machine. It loses when only a handful of tokens are allowed: then the caller should walk the
//! mask instead (sparse mask words are skipped, but their words are still read).
//!
//! Logits are natural logarithms, unnormalised. NaN counts as minus infinity: such a token is never
//! chosen and weighs nothing. Nothing here allocates.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod select;

pub use select::{Candidate, collect_above, top_k};

use crate::token::{TokenId, TokenSet};
use std::sync::OnceLock;

/// Logits per block: [`exp_sums`] writes one sum for each.
pub const BLOCK: usize = lanes::BLOCK;

/// Writes one function per kernel, compiled for an instruction set, taking its proof.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! kernels_for {
    ($isa:ty, $feature:literal) => {
        super::kernels_for!(@fn $isa, $feature, max(row: &[f32], mask: Option<&[u64]>) -> f32);
        super::kernels_for!(@fn $isa, $feature, exp_sums(row: &[f32], mask: Option<&[u64]>, max: f32, scale: f32, sums: &mut [f64]) -> ());
        super::kernels_for!(@fn $isa, $feature, exp_into(row: &[f32], mask: Option<&[u64]>, max: f32, scale: f32, out: &mut [f32]) -> ());
        super::kernels_for!(@fn $isa, $feature, entropy_sums(row: &[f32], mask: Option<&[u64]>, max: f32, scale: f32) -> (f64, f64));
        super::kernels_for!(@fn $isa, $feature, moment(row: &[f32], mask: Option<&[u64]>, shift: f32, square: bool) -> (f64, u64));
        super::kernels_for!(@fn $isa, $feature, above(row: &[f32], threshold: f32, strict: bool, out: &mut [u64]) -> ());
    };
    (@fn $isa:ty, $feature:literal, $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        pub(super) fn $name(isa: $isa, $($arg: $ty),*) -> $ret {
            #[target_feature(enable = $feature)]
            fn inner(isa: $isa, $($arg: $ty),*) -> $ret {
                lanes::$name(isa, $($arg),*)
            }
            // SAFETY: `isa` proves that the machine has the feature.
            unsafe { inner(isa, $($arg),*) }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use kernels_for;

/// The instruction sets that have kernels.
#[derive(Clone, Copy)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Isa {
    /// Those this machine has, the best first.
    fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let fast = [avx512::Avx512::detect().map(Self::Avx512), avx2::Avx2::detect().map(Self::Avx2)];
        #[cfg(target_arch = "aarch64")]
        let fast = [neon::Neon::detect().map(Self::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let fast = [None; 0];
        fast.into_iter().flatten().chain([Self::Scalar])
    }

    /// The best of this machine, found once.
    fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().next().unwrap_or(Self::Scalar))
    }
}

/// Calls a kernel on the path of `$isa`.
macro_rules! dispatch {
    ($isa:expr, $name:ident($($arg:expr),*)) => {
        match $isa {
            Isa::Scalar => lanes::$name(scalar::Scalar, $($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(isa) => avx2::$name(isa, $($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(isa) => avx512::$name(isa, $($arg),*),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(isa) => neon::$name(isa, $($arg),*),
        }
    };
}

/// The words of a mask.
fn words(mask: Option<&TokenSet>) -> Option<&[u64]> {
    mask.map(TokenSet::words)
}

/// The greatest logit among the allowed; minus infinity if there is none.
pub fn max(row: &[f32], mask: Option<&TokenSet>) -> f32 {
    dispatch!(Isa::best(), max(row, words(mask)))
}

/// The allowed token with the greatest logit, the lowest id if several have it; none if no allowed
/// logit is above minus infinity.
pub fn argmax(row: &[f32], mask: Option<&TokenSet>) -> Option<TokenId> {
    let best = max(row, mask);
    if best == f32::NEG_INFINITY {
        return None;
    }
    first_at_least(row, mask, best)
}

/// The lowest allowed id whose logit is at least `threshold`.
pub(crate) fn first_at_least(row: &[f32], mask: Option<&TokenSet>, threshold: f32) -> Option<TokenId> {
    let mut found = [0u64; BLOCK / 64];
    for (b, block) in row.chunks(BLOCK).enumerate() {
        above(block, threshold, false, &mut found);
        for (g, word) in found.iter().enumerate() {
            let g = b * (BLOCK / 64) + g;
            let word = word & mask.map_or(!0, |m| m.words().get(g).copied().unwrap_or(0));
            if word != 0 {
                return Some((g * 64) as TokenId + word.trailing_zeros());
            }
        }
    }
    None
}

/// `sums[b] = Σ exp((row[i] - max) * scale)` over the allowed ids of block `b` of [`BLOCK`] ids;
/// returns the total. `sums` has at least `row.len().div_ceil(BLOCK)` entries; `max` is at least
/// every allowed logit. Terms below `e^-87` are 0. Relative error about 1e-6.
pub fn exp_sums(row: &[f32], mask: Option<&TokenSet>, max: f32, scale: f32, sums: &mut [f64]) -> f64 {
    dispatch!(Isa::best(), exp_sums(row, words(mask), max, scale, sums));
    sums.iter().sum()
}

/// `out[i] = exp((row[i] - max) * scale)`, 0 where not allowed. Slices of equal length.
pub fn exp_into(row: &[f32], mask: Option<&TokenSet>, max: f32, scale: f32, out: &mut [f32]) {
    dispatch!(Isa::best(), exp_into(row, words(mask), max, scale, out));
}

/// As [`exp_into`] for a block that starts at id `start`, a multiple of 64.
pub(crate) fn exp_block(
    block: &[f32],
    start: usize,
    mask: Option<&TokenSet>,
    max: f32,
    scale: f32,
    out: &mut [f32],
) {
    let words = words(mask).map(|w| w.get(start / 64..).unwrap_or(&[]));
    dispatch!(Isa::best(), exp_into(block, words, max, scale, out));
}

/// `exp(x)` for `x <= 0` as every kernel here computes it.
pub(crate) fn exp_one(x: f32) -> f32 {
    let mut out = [0f32];
    lanes::exp_into(scalar::Scalar, &[x], None, 0.0, 1.0, &mut out);
    out[0]
}

/// `ln Σ exp(row[i])` over the allowed ids; minus infinity if nothing is allowed.
/// `scratch`: at least `row.len().div_ceil(BLOCK)` entries.
pub fn log_sum_exp(row: &[f32], mask: Option<&TokenSet>, scratch: &mut [f64]) -> f64 {
    let m = max(row, mask);
    if m == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    f64::from(m) + exp_sums(row, mask, m, 1.0, scratch).ln()
}

/// Probabilities of the allowed ids, 0 elsewhere; false (and `out` all 0) if nothing is allowed.
/// `out` is as long as `row`; `scratch` as for [`log_sum_exp`].
pub fn softmax(row: &[f32], mask: Option<&TokenSet>, out: &mut [f32], scratch: &mut [f64]) -> bool {
    let m = max(row, mask);
    if m == f32::NEG_INFINITY {
        out.fill(0.0);
        return false;
    }
    let total = exp_sums(row, mask, m, 1.0, scratch);
    exp_into(row, mask, m, 1.0, out);
    let inv = (1.0 / total) as f32;
    out.iter_mut().for_each(|p| *p *= inv);
    true
}

/// `Σ w` and `Σ w·d` over the allowed ids, with `d = (row[i] - max) * scale` and `w = exp(d)`.
/// The entropy of the softmax is `ln Σw - Σwd / Σw`, in nats.
pub fn entropy_sums(row: &[f32], mask: Option<&TokenSet>, max: f32, scale: f32) -> (f64, f64) {
    dispatch!(Isa::best(), entropy_sums(row, words(mask), max, scale))
}

/// Number and sum of `(x - shift)`, squared if asked, over the allowed finite logits.
pub fn moment(row: &[f32], mask: Option<&TokenSet>, shift: f32, square: bool) -> (f64, u64) {
    dispatch!(Isa::best(), moment(row, words(mask), shift, square))
}

/// Bit `i % 64` of `out[i / 64]`: `row[i] >= threshold`, or `>` if `strict`. Words past the end are 0.
pub fn above(row: &[f32], threshold: f32, strict: bool, out: &mut [u64]) {
    dispatch!(Isa::best(), above(row, threshold, strict, out));
}

#[cfg(test)]
mod tests;
