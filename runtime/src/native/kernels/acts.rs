//! Activations in 8 bits: what a quantised matrix product reads.
//!
//! A row of `n` values (a multiple of 32) becomes one record: `n` signed bytes, then 32 bytes of [`Meta`]
//! for each block of 32 values. A block's scale is its largest magnitude over 127, kept in f32, so that the
//! rounding is never coarser than ggml's (which rounds the scale to f16 and, for K-quants, shares it among
//! 256 values). A block that holds NaN or infinity has scale NaN, which reaches every output of its row.

use super::simd::{Op, Simd};

/// Values in a block.
pub const BLOCK: usize = 32;

/// What a product needs to know of a block besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Meta {
    /// Factor of the bytes.
    pub scale: f32,
    /// Sum of the block's values: `scale · Σ q`.
    pub sum: f32,
    /// `−Σ q`.
    pub neg: i32,
    /// `−Σ q` of each half.
    pub neg_half: [i32; 2],
    /// `scale · Σ q` of each half.
    pub sum_half: [f32; 2],
    pad: u32,
}

impl Meta {
    /// A record's bytes as a Meta. Panics if there are fewer than 32.
    pub(super) fn read(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= at::SIZE);
        // SAFETY: as many bytes as a Meta has, and any bytes are one.
        unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
    }
}

/// Byte offsets of [`Meta`]'s fields, as the kernels use them.
pub(super) mod at {
    use super::Meta;
    use std::mem::offset_of;
    pub const SUM: usize = offset_of!(Meta, sum);
    pub const NEG: usize = offset_of!(Meta, neg);
    pub const NEG_HALF: usize = offset_of!(Meta, neg_half);
    pub const SUM_HALF: usize = offset_of!(Meta, sum_half);
    pub const SIZE: usize = size_of::<Meta>();
}

const _: () = assert!(at::SIZE == 32);

/// Bytes of the record of a row of `n` values, a multiple of 64.
pub const fn record_bytes(n: usize) -> usize {
    (n / BLOCK * (BLOCK + at::SIZE)).next_multiple_of(64)
}

/// The smallest magnitude that is kept: below it a block is zero, so that `127 / max` stays finite.
const TINY: f32 = 1e-30;

/// Quantises a row. `x`: `[n]`; `record`: `[record_bytes(n)]`. Values beyond the last whole block are left out.
pub struct Quantize<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Its record.
    pub record: &'a mut [u8],
}

impl Op for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_blocks = self.x.len() / BLOCK;
        assert!(self.record.len() >= record_bytes(self.x.len()));
        let q = self.record.as_mut_ptr();
        for (i, block) in self.x.chunks_exact(BLOCK).enumerate() {
            // SAFETY: the record holds 32 bytes and a Meta for each of `n_blocks` blocks, `i` is below that.
            unsafe {
                let meta = q.add(n_blocks * BLOCK + i * at::SIZE).cast::<Meta>();
                meta.write_unaligned(quantize_block(s, block.as_ptr(), q.add(i * BLOCK).cast()));
            }
        }
    }
}

/// # Safety
/// 32 values are readable at `x`, 32 bytes writable at `q`.
#[inline(always)]
unsafe fn quantize_block<S: Simd>(s: S, x: *const f32, q: *mut i8) -> Meta {
    // SAFETY: both halves lie within the 32 values and bytes the caller vouches for.
    unsafe {
        let (a, b) = (s.load(x), s.load(x.add(16)));
        // Magnitudes compare as their bits do, and NaN is above infinity.
        let magnitude = s.splat_i(i32::MAX);
        let largest = s.largest_i(s.max_i(s.and(s.bits(a), magnitude), s.and(s.bits(b), magnitude)));
        let largest = f32::from_bits(largest as u32);
        let (scale, inverse) = if largest < TINY {
            (0.0, 0.0)
        } else if largest < f32::INFINITY {
            (largest / 127.0, 127.0 / largest)
        } else {
            (f32::NAN, 0.0)
        };
        let (a, b) = if inverse > 0.0 {
            (s.round(s.mul(a, s.splat(inverse))), s.round(s.mul(b, s.splat(inverse))))
        } else {
            (s.splat_i(0), s.splat_i(0))
        };
        s.store_i8(q, a);
        s.store_i8(q.add(16), b);
        let sums = [s.sum_i(a), s.sum_i(b)];
        let total = sums[0] + sums[1];
        Meta {
            scale,
            sum: scale * total as f32,
            neg: -total,
            neg_half: sums.map(|x| -x),
            sum_half: sums.map(|x| scale * x as f32),
            pad: 0,
        }
    }
}
