//! The sixteen lanes as two AVX2 registers: lanes 0 to 7, lanes 8 to 15.

use super::lanes::{self, Lanes};
use std::arch::x86_64::*;

/// Proof that the machine has AVX2: only [`Avx2::detect`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof, if the machine has the instructions.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// All ones in lane `i` where bit `i` of the low byte is set.
    #[inline(always)]
    fn spread(self, byte: u16) -> __m256 {
        // SAFETY: `self` proves AVX2 (see `Avx2::detect`).
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let all = _mm256_set1_epi32(i32::from(byte));
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, bit), bit))
        }
    }

    /// The top bits of all lanes.
    #[inline(always)]
    fn top_bits(self, lo: __m256, hi: __m256) -> u16 {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_movemask_ps(lo) | _mm256_movemask_ps(hi) << 8) as u16 }
    }
}

impl Lanes for Avx2 {
    type V = (__m256, __m256);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        // SAFETY: `self` proves AVX2; both halves of `x` are readable and need no alignment.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; 16]) {
        // SAFETY: `self` proves AVX2; both halves of `out` are writable and need no alignment.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn pick(self, bits: u16, a: Self::V, b: Self::V) -> Self::V {
        let (lo, hi) = (self.spread(bits & 0xff), self.spread(bits >> 8));
        // SAFETY: `self` proves AVX2.
        unsafe { (_mm256_blendv_ps(b.0, a.0, lo), _mm256_blendv_ps(b.1, a.1, hi)) }
    }
    #[inline(always)]
    fn ge(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: `self` proves AVX2.
        let (lo, hi) =
            unsafe { (_mm256_cmp_ps::<_CMP_GE_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_GE_OQ>(a.1, b.1)) };
        self.top_bits(lo, hi)
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> u16 {
        // SAFETY: `self` proves AVX2.
        let (lo, hi) =
            unsafe { (_mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)) };
        self.top_bits(lo, hi)
    }
    #[inline(always)]
    fn zero_below(self, a: Self::V, x: Self::V, floor: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe {
            (
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x.0, floor.0), a.0),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x.1, floor.1), a.1),
            )
        }
    }
    #[inline(always)]
    fn times_pow2(self, a: Self::V, rounded: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let lo = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded.0));
            let hi = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded.1));
            (
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.0), lo)),
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.1), hi)),
            )
        }
    }
}

super::kernels_for!(Avx2, "avx2");
