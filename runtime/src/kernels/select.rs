//! Partial selection: the tokens above a threshold, the `k` best, without sorting the vocabulary.

use super::{BLOCK, above};
use crate::token::{TokenId, TokenSet};
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: TokenId,
    /// Its logit (natural log, unnormalised); not NaN.
    pub logit: f32,
}

impl Candidate {
    /// The better candidate first: the greater logit, then the lower id.
    pub fn best_first(a: &Self, b: &Self) -> Ordering {
        // Adding 0 makes -0.0 and 0.0 one value, so that they tie.
        (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then(a.id.cmp(&b.id))
    }
}

/// Appends the allowed tokens whose logit is at least `threshold` (and above minus infinity), by id.
/// Does not allocate if `out` has room.
pub fn collect_above(row: &[f32], mask: Option<&TokenSet>, threshold: f32, out: &mut Vec<Candidate>) {
    let mut found = [0u64; BLOCK / 64];
    let strict = threshold == f32::NEG_INFINITY;
    for (b, block) in row.chunks(BLOCK).enumerate() {
        above(block, threshold, strict, &mut found);
        each_set(&found, b, mask, |id| {
            let logit = block[id as usize % BLOCK];
            out.push(Candidate { id, logit });
        });
    }
}

/// Appends the `k` best allowed tokens, best first; equal logits by lowest id. Tokens at minus
/// infinity are never taken. Cost: one scan, and about `k ln(n/k)` insertions on random input.
/// Does not allocate if `out` has room for `2k + BLOCK` more.
pub fn top_k(row: &[f32], mask: Option<&TokenSet>, k: usize, out: &mut Vec<Candidate>) {
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    let start = out.len();
    let mut threshold = f32::NEG_INFINITY;
    let mut found = [0u64; BLOCK / 64];
    for (b, block) in row.chunks(BLOCK).enumerate() {
        // Strict: of equal logits the earlier, lower id stays.
        above(block, threshold, true, &mut found);
        each_set(&found, b, mask, |id| {
            let logit = block[id as usize % BLOCK];
            out.push(Candidate { id, logit });
        });
        // Cutting back at twice the size keeps the cost of selection linear in what was pushed.
        if out.len() - start >= 2 * k {
            keep_best(out, start, k);
            threshold = out[start..].iter().fold(f32::INFINITY, |t, c| t.min(c.logit));
        }
    }
    keep_best(out, start, k);
    out[start..].sort_unstable_by(Candidate::best_first);
}

/// Leaves the `k` best of `out[start..]` there, in any order.
fn keep_best(out: &mut Vec<Candidate>, start: usize, k: usize) {
    if out.len() - start > k {
        out[start..].select_nth_unstable_by(k - 1, Candidate::best_first);
        out.truncate(start + k);
    }
}

/// Calls `f` with every id of block `b` that is found and allowed, ascending.
fn each_set(found: &[u64; BLOCK / 64], b: usize, mask: Option<&TokenSet>, mut f: impl FnMut(TokenId)) {
    for (g, &word) in found.iter().enumerate() {
        if word == 0 {
            continue;
        }
        let g = b * (BLOCK / 64) + g;
        let mut word = word & mask.map_or(!0, |m| m.words().get(g).copied().unwrap_or(0));
        while word != 0 {
            f((g * 64) as TokenId + word.trailing_zeros());
            word &= word - 1;
        }
    }
}
