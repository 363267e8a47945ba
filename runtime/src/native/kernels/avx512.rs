//! AVX-512 with VNNI and VBMI: one register is sixteen lanes.

use super::simd::{Op, Simd, array};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, DQ, VL, VBMI and VNNI, and the operating system saves the state.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if this processor has the features.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn compiled<O: Op>(s: Avx512, op: O) -> O::Out {
    op.run(s)
}

/// `x` with the parts of four lanes named by `mask` the 16 bytes at `p`. An insertion by the shuffle units, of
/// which there are too few, would do the same; as a masked load it runs on any.
macro_rules! put_16 {
    ($x:expr, $mask:expr, $p:expr) => {
        _mm512_mask_broadcast_i32x4($x, $mask, _mm_loadu_si128($p.cast()))
    };
}

/// `x` with the lanes named by `mask` the four bytes at `p`, for the same reason.
macro_rules! put_4 {
    ($x:expr, $mask:expr, $p:expr) => {
        _mm512_mask_set1_epi32($x, $mask, $p.cast::<i32>().read_unaligned())
    };
}

/// Methods whose body is intrinsics on registers alone.
macro_rules! pure {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves the features; nothing but registers is touched.
            unsafe { $body }
        })*
    };
}

/// Methods that touch memory the caller vouches for.
macro_rules! memory {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
        $(#[inline(always)]
        unsafe fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves the features; the caller vouches for the bytes the trait names.
            unsafe { $body }
        })*
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    const WIDE_UNSIGNED: bool = true;
    const TILE: usize = 16;
    const TOGETHER: bool = true;
    const QUERIES: usize = 4;

    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` proves the features.
        unsafe { compiled(self, op) }
    }

    pure! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn round(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn bits(a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn from_bits(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn gt(a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
        fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 { _mm512_mask_blend_ps(m, b, a) }

        fn splat_i(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn add_i(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_i(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn shl(a: __m512i, n: u32) -> __m512i { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
        fn shr(a: __m512i, n: u32) -> __m512i { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
        fn sar(a: __m512i, n: u32) -> __m512i { _mm512_sra_epi32(a, _mm_cvtsi32_si128(n as i32)) }
        fn max_i(a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi32(a, b) }
        fn gt_i(a: __m512i, b: __m512i) -> __mmask16 { _mm512_cmpgt_epi32_mask(a, b) }
        fn spread_bits(a: __m512i, first: u32) -> __m512i {
            // Byte b of a qword takes the eight bits from `control[b]` on, wrapping, so that the wanted one
            // lands on bit 4; the odd lane of a qword starts at bit 32.
            let c = |lane: u64, b: u64| (32 * lane + u64::from(first) + b + 60) % 64;
            let even = c(0, 0) | c(0, 1) << 8 | c(0, 2) << 16 | c(0, 3) << 24;
            let odd = c(1, 0) | c(1, 1) << 8 | c(1, 2) << 16 | c(1, 3) << 24;
            let control = _mm512_set1_epi64((even | odd << 32) as i64);
            _mm512_and_si512(_mm512_multishift_epi64_epi8(control, a), _mm512_set1_epi8(16))
        }
        fn lookup(table: &[u8; 16], index: __m512i) -> __m512i {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index)
        }

        fn dot4(acc: __m512i, w: __m512i, a: __m512i) -> __m512i { _mm512_dpbusd_epi32(acc, w, a) }
        fn dot4_wide(acc: __m512i, w: __m512i, a: __m512i) -> __m512i { _mm512_dpbusd_epi32(acc, w, a) }
        fn mul_i16(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi16(a, b) }
        fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i { _mm512_dpwssd_epi32(acc, a, b) }
        fn f16(a: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }

        fn largest(a: __m512) -> f32 {
            let x = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
        fn sum(a: __m512) -> f32 {
            let x = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
        fn sum_i(a: __m512i) -> i32 { _mm512_reduce_add_epi32(a) }
        fn largest_i(a: __m512i) -> i32 { _mm512_reduce_max_epi32(a) }
    }

    memory! {
        fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        fn store(p: *mut f32, v: __m512) -> () { _mm512_storeu_ps(p, v) }
        fn splat_at(p: *const u8) -> __m512i { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        fn load_i8(p: *const u8) -> __m512i { _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())) }
        fn load_i(p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn store_i(p: *mut u8, v: __m512i) -> () { _mm512_storeu_si512(p.cast(), v) }
        fn load_rows(base: *const u8, stride: usize) -> [__m512i; 4] {
            // Register `l` takes rows l, l+4, l+8, l+12 in its four 128-bit parts; a 4x4 transpose of dwords
            // within the parts then leaves row 4·part + l in lane l of each part.
            let at = |r: usize| base.wrapping_add(r * stride).cast::<__m128i>();
            let [a, b, c, d] = array!(4, |L| {
                let x = _mm512_castsi128_si512(_mm_loadu_si128(at(L)));
                let x = put_16!(x, 0x00f0, at(4 + L));
                let x = put_16!(x, 0x0f00, at(8 + L));
                put_16!(x, 0xf000, at(12 + L))
            });
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_hi, cd_hi) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_hi, cd_hi),
                _mm512_unpackhi_epi64(ab_hi, cd_hi),
            ]
        }
        fn gather_u16(base: *const u8, stride: usize) -> __m512i {
            let at = |r: usize| base.wrapping_add(r * stride).cast::<i16>();
            macro_rules! x {
                ($r:expr) => {
                    at($r).read_unaligned()
                };
            }
            let low = _mm_setr_epi16(x!(0), x!(1), x!(2), x!(3), x!(4), x!(5), x!(6), x!(7));
            let high = _mm_setr_epi16(x!(8), x!(9), x!(10), x!(11), x!(12), x!(13), x!(14), x!(15));
            _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low))
        }
        fn gather_u32(base: *const u8, stride: usize) -> __m512i {
            let at = |r: usize| base.wrapping_add(r * stride);
            // Four chains of four, so that they run side by side.
            let [a, b, c, d] = array!(4, |P| {
                let x = _mm512_set1_epi32(at(P).cast::<i32>().read_unaligned());
                let x = put_4!(x, 0x00f0, at(4 + P));
                let x = put_4!(x, 0x0f00, at(8 + P));
                put_4!(x, 0xf000, at(12 + P))
            });
            let (ab, cd) = (_mm512_mask_blend_epi32(0x2222, a, b), _mm512_mask_blend_epi32(0x8888, c, d));
            _mm512_mask_blend_epi32(0xcccc, ab, cd)
        }
        fn store_i8(p: *mut i8, v: __m512i) -> () { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
        fn store_i16(p: *mut i16, v: __m512i) -> () { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(v)) }
    }
}
