//! One block of 32 weights of 16 rows against the same block of some activation rows: the contract's step,
//! see `matmul`.
//!
//! Integer sums are exact, so their order is free; it is chosen for the registers. With many of them all
//! activation rows advance together, dword by dword: neighbouring instructions are then independent, and the
//! scheduler, which holds some sixty, always finds one to run. With few, rows are done one after the other.

use super::acts::at;
use super::format::{Block, Shape};
use super::simd::{Simd, array};

/// The f32 at `p`, in all lanes.
#[inline(always)]
unsafe fn splat_f32<S: Simd>(s: S, p: *const u8) -> S::F {
    // SAFETY: the caller vouches for four bytes.
    unsafe { s.splat(p.cast::<f32>().read_unaligned()) }
}

/// What the integer sum starts from: `−2^shift · Σ a` takes back what was added to the weights.
#[inline(always)]
unsafe fn start<S: Simd, Sh: Shape>(s: S, shift: u32, neg: *const u8) -> S::I {
    if Sh::MINS || (Sh::WIDE && !S::WIDE_UNSIGNED) {
        return s.splat_i(0);
    }
    // SAFETY: the caller vouches for four bytes.
    s.splat_i(unsafe { neg.cast::<i32>().read_unaligned() } << shift)
}

/// Sums of the products of half a block, dwords `from..from + 4`, for each row of activations.
#[inline(always)]
unsafe fn half_dots<S: Simd, Sh: Shape, const T: usize>(
    s: S,
    mut sums: [S::I; T],
    w: &[S::I; 8],
    from: usize,
    a: &[*const u8; T],
) -> [S::I; T] {
    // SAFETY: the caller vouches for 32 bytes of each row.
    unsafe {
        if S::TOGETHER {
            for i in from..from + 4 {
                for t in 0..T {
                    let a = s.splat_at(a[t].add(4 * i));
                    sums[t] = if Sh::WIDE { s.dot4_wide(sums[t], w[i], a) } else { s.dot4(sums[t], w[i], a) };
                }
            }
        } else {
            let w = array!(4, |I| w[from + I]);
            for t in 0..T {
                sums[t] = if Sh::WIDE {
                    s.dot16_wide(sums[t], w, a[t].add(4 * from))
                } else if Sh::SIX_BITS {
                    s.dot16_six(sums[t], w, a[t].add(4 * from))
                } else {
                    s.dot16(sums[t], w, a[t].add(4 * from))
                };
            }
        }
    }
    sums
}

/// Adds one block's part to `acc`. `q`: each row's 32 bytes; `meta`: each row's Meta.
/// # Safety
/// Those bytes are readable.
#[inline(always)]
pub(super) unsafe fn block_dots<S: Simd, Sh: Shape, const T: usize>(
    s: S,
    shift: u32,
    block: &Block<S>,
    q: [*const u8; T],
    meta: [*const u8; T],
    mut acc: [S::F; T],
) -> [S::F; T] {
    let mut sums = [s.splat_i(0); T];
    let mut scaled = [s.splat(0.0); T];
    // SAFETY: the caller vouches for 32 bytes at `q` and a Meta at `meta`.
    unsafe {
        if Sh::HALVES {
            for t in 0..T {
                sums[t] = start::<S, Sh>(s, shift, meta[t].add(at::NEG_HALF));
            }
            sums = half_dots::<S, Sh, T>(s, sums, &block.q, 0, &q);
            for t in 0..T {
                scaled[t] = s.mul(s.to_f32(sums[t]), block.scale[0]);
                sums[t] = start::<S, Sh>(s, shift, meta[t].add(at::NEG_HALF + 4));
            }
            sums = half_dots::<S, Sh, T>(s, sums, &block.q, 4, &q);
            for t in 0..T {
                scaled[t] = s.fma(s.to_f32(sums[t]), block.scale[1], scaled[t]);
            }
        } else {
            for t in 0..T {
                sums[t] = start::<S, Sh>(s, shift, meta[t].add(at::NEG));
            }
            sums = half_dots::<S, Sh, T>(s, sums, &block.q, 0, &q);
            if T == 1 {
                // Nothing else runs beside a single row: two shorter chains.
                let high = half_dots::<S, Sh, T>(s, [s.splat_i(0); T], &block.q, 4, &q);
                sums[0] = s.add_i(sums[0], high[0]);
            } else {
                sums = half_dots::<S, Sh, T>(s, sums, &block.q, 4, &q);
            }
            for t in 0..T {
                scaled[t] = s.mul(s.to_f32(sums[t]), block.scale[0]);
            }
        }
        for t in 0..T {
            acc[t] = s.fma(scaled[t], splat_f32(s, meta[t]), acc[t]);
            if Sh::MINS && Sh::HALVES {
                acc[t] = s.fma(block.min[0], splat_f32(s, meta[t].add(at::SUM_HALF)), acc[t]);
                acc[t] = s.fma(block.min[1], splat_f32(s, meta[t].add(at::SUM_HALF + 4)), acc[t]);
            } else if Sh::MINS {
                acc[t] = s.fma(block.min[0], splat_f32(s, meta[t].add(at::SUM)), acc[t]);
            }
        }
    }
    acc
}
