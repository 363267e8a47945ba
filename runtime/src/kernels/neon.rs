//! The sixteen lanes as four NEON registers. Every aarch64 machine has NEON.

use super::lanes::{self, Lanes};
use std::arch::aarch64::*;

/// Proof that the machine has NEON: only [`Neon::detect`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// The proof, if the machine has the instructions.
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// All ones in lane `i` where bit `i` of `nibble` is set.
    #[inline(always)]
    fn spread(self, nibble: u16) -> uint32x4_t {
        // SAFETY: `self` proves NEON (see `Neon::detect`); the array is 16 readable bytes.
        unsafe { vtstq_u32(vdupq_n_u32(u32::from(nibble)), vld1q_u32([1u32, 2, 4, 8].as_ptr())) }
    }

    /// Bit `i` of the answer is set where lane `i` is all ones.
    #[inline(always)]
    fn gather(self, lanes: [uint32x4_t; 4]) -> u16 {
        // SAFETY: `self` proves NEON; the array is 16 readable bytes.
        let bits = lanes.map(|m| unsafe { vaddvq_u32(vandq_u32(m, vld1q_u32([1u32, 2, 4, 8].as_ptr()))) });
        (bits[0] | bits[1] << 4 | bits[2] << 8 | bits[3] << 12) as u16
    }

    #[inline(always)]
    fn select(self, m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_f32(m, a, b) }
    }
}

/// Applies an intrinsic of two vectors to the four registers.
macro_rules! each {
    ($a:expr, $b:expr, $f:ident) => {{
        let (a, b) = ($a, $b);
        // SAFETY: `self` proves NEON.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1]), $f(a[2], b[2]), $f(a[3], b[3])] }
    }};
}

impl Lanes for Neon {
    type V = [float32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves NEON.
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        let p = x.as_ptr();
        // SAFETY: `self` proves NEON; the four quarters of `x` are readable.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; 16]) {
        let p = out.as_mut_ptr();
        // SAFETY: `self` proves NEON; the four quarters of `out` are writable.
        unsafe {
            vst1q_f32(p, x[0]);
            vst1q_f32(p.add(4), x[1]);
            vst1q_f32(p.add(8), x[2]);
            vst1q_f32(p.add(12), x[3]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each!(a, b, vaddq_f32)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each!(a, b, vsubq_f32)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each!(a, b, vmulq_f32)
    }
    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> Self::V {
        // Not `vmaxq_f32`: that one answers NaN when either side is.
        let m = each!(a, b, vcgtq_f32);
        std::array::from_fn(|i| self.select(m[i], a[i], b[i]))
    }
    #[inline(always)]
    fn pick(self, bits: u16, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| self.select(self.spread(bits >> (4 * i) & 15), a[i], b[i]))
    }
    #[inline(always)]
    fn ge(self, a: Self::V, b: Self::V) -> u16 {
        self.gather(each!(a, b, vcgeq_f32))
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> u16 {
        self.gather(each!(a, b, vcgtq_f32))
    }
    #[inline(always)]
    fn zero_below(self, a: Self::V, x: Self::V, floor: Self::V) -> Self::V {
        let m = each!(x, floor, vcgeq_f32);
        std::array::from_fn(|i| self.select(m[i], a[i], self.splat(0.0)[0]))
    }
    #[inline(always)]
    fn times_pow2(self, a: Self::V, rounded: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            // SAFETY: `self` proves NEON.
            unsafe {
                let n = vshlq_n_u32::<23>(vreinterpretq_u32_f32(rounded[i]));
                vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a[i]), n))
            }
        })
    }
}

super::kernels_for!(Neon, "neon");
