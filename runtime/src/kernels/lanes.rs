//! The algorithms, written once over sixteen `f32` lanes.
//!
//! The lane structure is part of the definition: every instruction set adds the same numbers in the
//! same order and none fuses a multiplication with an addition, so all of them give the same bits.
//! A group is 64 logits (one mask word), a block 16 groups; a sum over a block is sixteen lane sums in
//! `f32`, then a fixed tree in `f64`. The last group is padded with minus infinity, which weighs nothing.

/// Logits in a group: one word of a token mask.
pub(super) const GROUP: usize = 64;
/// Logits in a block: the unit in which sums are kept.
pub(super) const BLOCK: usize = 1024;

/// `exp(x)` is taken as 0 below this, so that no weight is subnormal.
const FLOOR: f32 = -87.0;
/// Adding this rounds to the nearest integer and leaves it in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few bits, so that its multiples up to 126 are exact.
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// `(e^r - 1 - r) / r²` on |r| <= ln2/2, minimax in relative error of `e^r`: 3.1e-9.
const POLY: [f32; 5] = [0.499_999_93, 0.166_665_2, 0.041_668_4, 0.008_368_851, 0.001_381_432];

/// Sixteen lanes of one instruction set. Holding a value proves that the machine has it.
pub(super) trait Lanes: Copy {
    /// Sixteen `f32`.
    type V: Copy;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; 16]) -> Self::V;
    fn store(self, x: Self::V, out: &mut [f32; 16]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` if either is NaN.
    fn greater(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane `i` is `a` where bit `i` is set, else `b`.
    fn pick(self, bits: u16, a: Self::V, b: Self::V) -> Self::V;
    /// Bit `i` is `a[i] >= b[i]`: false for NaN.
    fn ge(self, a: Self::V, b: Self::V) -> u16;
    /// Bit `i` is `a[i] > b[i]`: false for NaN.
    fn gt(self, a: Self::V, b: Self::V) -> u16;
    /// `x >= floor ? a : 0`: 0 if `x` is NaN.
    fn zero_below(self, a: Self::V, x: Self::V, floor: Self::V) -> Self::V;
    /// Adds the integer in the low mantissa bits of `rounded` to the exponent of `a`.
    fn times_pow2(self, a: Self::V, rounded: Self::V) -> Self::V;
}

/// `e^x` for `x <= 0`, and 0 below [`FLOOR`] or for NaN. Relative error under 2.5e-7.
#[inline(always)]
fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let round = l.splat(ROUND);
    let rounded = l.add(l.mul(x, l.splat(std::f32::consts::LOG2_E)), round);
    let n = l.sub(rounded, round);
    let r = l.sub(l.sub(x, l.mul(n, l.splat(LN2[0]))), l.mul(n, l.splat(LN2[1])));
    let mut p = l.splat(POLY[4]);
    p = l.add(l.mul(p, r), l.splat(POLY[3]));
    p = l.add(l.mul(p, r), l.splat(POLY[2]));
    p = l.add(l.mul(p, r), l.splat(POLY[1]));
    p = l.add(l.mul(p, r), l.splat(POLY[0]));
    p = l.add(l.mul(p, l.mul(r, r)), l.add(r, l.splat(1.0)));
    l.zero_below(l.times_pow2(p, rounded), x, l.splat(FLOOR))
}

/// Group `g` of `row`, padded with minus infinity.
#[inline(always)]
fn group<'a>(row: &'a [f32], g: usize, pad: &'a mut [f32; GROUP]) -> &'a [[f32; 16]; 4] {
    let rest = row.get(g * GROUP..).unwrap_or(&[]);
    let full = match rest.first_chunk::<GROUP>() {
        Some(full) => full,
        None => {
            pad.fill(f32::NEG_INFINITY);
            pad[..rest.len()].copy_from_slice(rest);
            pad
        }
    };
    let (quarters, _) = full.as_chunks::<16>();
    quarters.first_chunk::<4>().unwrap_or(&[[f32::NEG_INFINITY; 16]; 4])
}

/// The mask of group `g`; all ones without a mask.
#[inline(always)]
fn mask_word(mask: Option<&[u64]>, g: usize) -> u64 {
    mask.map_or(!0, |m| m.get(g).copied().unwrap_or(0))
}

/// Quarter `q` of a group, minus infinity where its mask bit is 0.
#[inline(always)]
fn masked<L: Lanes>(l: L, x: &[[f32; 16]; 4], q: usize, bits: u64) -> L::V {
    let v = l.load(&x[q]);
    if bits == !0 { v } else { l.pick((bits >> (16 * q)) as u16, v, l.splat(f32::NEG_INFINITY)) }
}

/// Sum of sixteen lanes: lane `i` with lane `i + 8`, then 4, 2, 1.
#[inline(always)]
fn tree<L: Lanes>(l: L, v: L::V) -> f64 {
    let mut lanes = [0f32; 16];
    l.store(v, &mut lanes);
    let mut s = lanes.map(f64::from);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            s[i] += s[i + half];
        }
    }
    s[0]
}

/// The greatest logit; NaN is skipped; minus infinity if there is none.
#[inline(always)]
pub(super) fn max<L: Lanes>(l: L, row: &[f32], mask: Option<&[u64]>) -> f32 {
    let mut pad = [0f32; GROUP];
    let mut best = [l.splat(f32::NEG_INFINITY); 4];
    for g in 0..row.len().div_ceil(GROUP) {
        let bits = mask_word(mask, g);
        if bits == 0 {
            continue;
        }
        let x = group(row, g, &mut pad);
        for (q, best) in best.iter_mut().enumerate() {
            *best = l.greater(masked(l, x, q, bits), *best);
        }
    }
    let v = l.greater(l.greater(best[0], best[1]), l.greater(best[2], best[3]));
    let mut lanes = [0f32; 16];
    l.store(v, &mut lanes);
    lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// `sums[b] = Σ exp((row[i] - max) * scale)` over block `b`.
#[inline(always)]
pub(super) fn exp_sums<L: Lanes>(
    l: L,
    row: &[f32],
    mask: Option<&[u64]>,
    max: f32,
    scale: f32,
    sums: &mut [f64],
) {
    let mut pad = [0f32; GROUP];
    let (vmax, vscale) = (l.splat(max), l.splat(scale));
    let n_groups = row.len().div_ceil(GROUP);
    for (b, sum) in sums.iter_mut().enumerate() {
        let mut acc = l.splat(0.0);
        for g in b * (BLOCK / GROUP)..n_groups.min((b + 1) * (BLOCK / GROUP)) {
            let bits = mask_word(mask, g);
            if bits == 0 {
                continue;
            }
            let x = group(row, g, &mut pad);
            for q in 0..4 {
                let d = l.mul(l.sub(masked(l, x, q, bits), vmax), vscale);
                acc = l.add(acc, exp(l, d));
            }
        }
        *sum = tree(l, acc);
    }
}

/// `out[i] = exp((row[i] - max) * scale)`, 0 where masked. `out` is as long as `row`.
#[inline(always)]
pub(super) fn exp_into<L: Lanes>(
    l: L,
    row: &[f32],
    mask: Option<&[u64]>,
    max: f32,
    scale: f32,
    out: &mut [f32],
) {
    let mut pad = [0f32; GROUP];
    let (vmax, vscale) = (l.splat(max), l.splat(scale));
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        let bits = mask_word(mask, g);
        let x = group(row, g, &mut pad);
        for (q, out) in out.chunks_mut(16).enumerate() {
            let e = exp(l, l.mul(l.sub(masked(l, x, q, bits), vmax), vscale));
            match out.first_chunk_mut::<16>() {
                Some(full) => l.store(e, full),
                None => {
                    let mut part = [0f32; 16];
                    l.store(e, &mut part);
                    out.copy_from_slice(&part[..out.len()]);
                }
            }
        }
    }
}

/// `Σ w` and `Σ w·d` with `d = (row[i] - max) * scale`, `w = exp(d)`: what an entropy needs.
#[inline(always)]
pub(super) fn entropy_sums<L: Lanes>(
    l: L,
    row: &[f32],
    mask: Option<&[u64]>,
    max: f32,
    scale: f32,
) -> (f64, f64) {
    let mut pad = [0f32; GROUP];
    let (vmax, vscale, floor) = (l.splat(max), l.splat(scale), l.splat(FLOOR));
    let n_groups = row.len().div_ceil(GROUP);
    let mut total = (0.0, 0.0);
    for b in 0..row.len().div_ceil(BLOCK) {
        let mut acc = (l.splat(0.0), l.splat(0.0));
        for g in b * (BLOCK / GROUP)..n_groups.min((b + 1) * (BLOCK / GROUP)) {
            let bits = mask_word(mask, g);
            if bits == 0 {
                continue;
            }
            let x = group(row, g, &mut pad);
            for q in 0..4 {
                let d = l.mul(l.sub(masked(l, x, q, bits), vmax), vscale);
                let w = exp(l, d);
                acc.0 = l.add(acc.0, w);
                acc.1 = l.add(acc.1, l.mul(w, l.zero_below(d, d, floor)));
            }
        }
        total = (total.0 + tree(l, acc.0), total.1 + tree(l, acc.1));
    }
    total
}

/// `Σ (x - shift)^power` over finite logits, `power` 1 or 2, and their number.
#[inline(always)]
pub(super) fn moment<L: Lanes>(
    l: L,
    row: &[f32],
    mask: Option<&[u64]>,
    shift: f32,
    square: bool,
) -> (f64, u64) {
    let mut pad = [0f32; GROUP];
    let (vshift, least) = (l.splat(shift), l.splat(f32::MIN));
    let n_groups = row.len().div_ceil(GROUP);
    let (mut total, mut count) = (0.0, 0);
    for b in 0..row.len().div_ceil(BLOCK) {
        let mut acc = l.splat(0.0);
        for g in b * (BLOCK / GROUP)..n_groups.min((b + 1) * (BLOCK / GROUP)) {
            let bits = mask_word(mask, g);
            if bits == 0 {
                continue;
            }
            let x = group(row, g, &mut pad);
            for q in 0..4 {
                let v = masked(l, x, q, bits);
                count += u64::from(l.ge(v, least).count_ones());
                let d = l.sub(v, vshift);
                let d = if square { l.mul(d, d) } else { d };
                acc = l.add(acc, l.zero_below(d, v, least));
            }
        }
        total += tree(l, acc);
    }
    (total, count)
}

/// Bit `i % 64` of `out[i / 64]` is `row[i] >= threshold` (`>` if `strict`); bits past the end are 0.
#[inline(always)]
pub(super) fn above<L: Lanes>(l: L, row: &[f32], threshold: f32, strict: bool, out: &mut [u64]) {
    let mut pad = [0f32; GROUP];
    let t = l.splat(threshold);
    for (g, word) in out.iter_mut().enumerate() {
        let x = group(row, g, &mut pad);
        *word = 0;
        for (q, x) in x.iter().enumerate() {
            let v = l.load(x);
            let bits = if strict { l.gt(v, t) } else { l.ge(v, t) };
            *word |= u64::from(bits) << (16 * q);
        }
        let left = row.len().saturating_sub(g * GROUP);
        if left < GROUP {
            *word &= (1 << left) - 1;
        }
    }
}
