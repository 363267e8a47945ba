//! Loops that do nothing but use up one resource: what the limits of a machine are measured with.

use super::simd::{Op, Simd};

/// `turns` times [`CHAINS`] independent 8-bit dot products of 64 pairs.
pub struct Dots {
    /// How often.
    pub turns: usize,
}

/// Independent sums: more than the latency of a dot product, few enough for any register file.
const CHAINS: usize = 6;

impl Dots {
    /// Multiplications and additions of the whole.
    pub fn n_ops(&self) -> usize {
        self.turns * CHAINS * 64 * 2
    }
}

impl Op for Dots {
    type Out = i32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> i32 {
        let mut acc = [s.splat_i(0); CHAINS];
        let (w, a) =
            (s.splat_i(std::hint::black_box(0x0102_0304)), s.splat_i(std::hint::black_box(0x0101_0101)));
        for _ in 0..self.turns {
            for acc in &mut acc {
                *acc = s.dot4(*acc, w, a);
            }
        }
        let mut sum = 0i32;
        for acc in acc {
            sum = sum.wrapping_add(s.sum_i(acc));
        }
        sum
    }
}

/// Reads all whole 256-byte parts of a slice once; returns some sum of them.
pub struct Read<'a>(pub &'a [u8]);

impl Op for Read<'_> {
    type Out = i32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> i32 {
        let mut acc = [s.splat_i(0); 4];
        for part in self.0.chunks_exact(256) {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 64 bytes of a part of 256.
                *acc = s.add_i(*acc, unsafe { s.load_i(part.as_ptr().add(64 * i)) });
            }
        }
        let mut sum = 0i32;
        for acc in acc {
            sum = sum.wrapping_add(s.sum_i(acc));
        }
        sum
    }
}
