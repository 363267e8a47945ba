//! AVX2 with FMA: two registers are sixteen lanes.

use super::simd::{Op, Simd, array};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C, and the operating system saves the state.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if this processor has the features.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn compiled<O: Op>(s: Avx2, op: O) -> O::Out {
    op.run(s)
}

/// Lanes 0 to 7, then 8 to 15.
type F = [__m256; 2];
type I = [__m256i; 2];
type I4 = [I; 4];

/// `f` on both halves.
macro_rules! halves {
    ($f:ident($($arg:ident),*)) => {
        [$f($($arg[0]),*), $f($($arg[1]),*)]
    };
}

/// Methods that apply one intrinsic to both halves.
macro_rules! same {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $f:ident;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves the features; nothing but registers is touched.
            unsafe { halves!($f($($arg),*)) }
        })*
    };
}

/// Methods whose body is intrinsics on registers alone.
macro_rules! pure {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
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

/// `acc + Σ₄ w·a`: pairs as 16 bits, which must hold them, then pairs of those.
#[inline(always)]
unsafe fn dot(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: the caller proves AVX2.
    unsafe {
        let pairs = _mm256_maddubs_epi16(w, a);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Sixteen i32 as i16, saturated, in order.
#[inline(always)]
unsafe fn narrow(v: I) -> __m256i {
    // SAFETY: the caller proves AVX2.
    unsafe { _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(v[0], v[1])) }
}

/// Eight half floats in the low parts of eight lanes.
#[inline(always)]
unsafe fn half(v: __m256i) -> __m256 {
    // SAFETY: the caller proves AVX2 and F16C.
    unsafe {
        let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, low));
        _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
    }
}

/// Lane by lane `op` of the two halves of a vector, down to one lane.
macro_rules! fold {
    ($v:expr, $op8:ident, $op4:ident, $op1:ident) => {{
        let x = $op8($v[0], $v[1]);
        let x = $op4(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = $op4(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32($op1(x, _mm_movehdup_ps(x)))
    }};
}

macro_rules! fold_i {
    ($v:expr, $op8:ident, $op4:ident) => {{
        let x = $op8($v[0], $v[1]);
        let x = $op4(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let x = $op4(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
        _mm_cvtsi128_si32($op4(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
    }};
}

impl Simd for Avx2 {
    type F = F;
    type I = I;
    type M = F;
    const WIDE_UNSIGNED: bool = false;
    const TILE: usize = 4;
    const TOGETHER: bool = false;
    const QUERIES: usize = 1;

    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` proves the features.
        unsafe { compiled(self, op) }
    }

    same! {
        add(a: F, b: F) -> F = _mm256_add_ps;
        sub(a: F, b: F) -> F = _mm256_sub_ps;
        mul(a: F, b: F) -> F = _mm256_mul_ps;
        div(a: F, b: F) -> F = _mm256_div_ps;
        fma(a: F, b: F, c: F) -> F = _mm256_fmadd_ps;
        max(a: F, b: F) -> F = _mm256_max_ps;
        min(a: F, b: F) -> F = _mm256_min_ps;
        round(a: F) -> I = _mm256_cvtps_epi32;
        to_f32(a: I) -> F = _mm256_cvtepi32_ps;
        bits(a: F) -> I = _mm256_castps_si256;
        from_bits(a: I) -> F = _mm256_castsi256_ps;
        add_i(a: I, b: I) -> I = _mm256_add_epi32;
        sub_i(a: I, b: I) -> I = _mm256_sub_epi32;
        and(a: I, b: I) -> I = _mm256_and_si256;
        or(a: I, b: I) -> I = _mm256_or_si256;
        xor(a: I, b: I) -> I = _mm256_xor_si256;
        max_i(a: I, b: I) -> I = _mm256_max_epi32;
        dot4(acc: I, w: I, a: I) -> I = dot;
        f16(a: I) -> F = half;
    }

    pure! {
        fn splat(x: f32) -> F { [_mm256_set1_ps(x); 2] }
        fn gt(a: F, b: F) -> F { array!(2, |H| _mm256_cmp_ps::<_CMP_GT_OQ>(a[H], b[H])) }
        fn select(m: F, a: F, b: F) -> F { array!(2, |H| _mm256_blendv_ps(b[H], a[H], m[H])) }
        fn splat_i(x: i32) -> I { [_mm256_set1_epi32(x); 2] }
        fn shl(a: I, n: u32) -> I { array!(2, |H| _mm256_sll_epi32(a[H], _mm_cvtsi32_si128(n as i32))) }
        fn shr(a: I, n: u32) -> I { array!(2, |H| _mm256_srl_epi32(a[H], _mm_cvtsi32_si128(n as i32))) }
        fn sar(a: I, n: u32) -> I { array!(2, |H| _mm256_sra_epi32(a[H], _mm_cvtsi32_si128(n as i32))) }
        fn gt_i(a: I, b: I) -> F { array!(2, |H| _mm256_castsi256_ps(_mm256_cmpgt_epi32(a[H], b[H]))) }
        fn spread_bits(a: I, first: u32) -> I {
            // The byte that holds the four bits, four times; then one bit of it in each.
            let byte = 0x0101_0101 * (first / 8) as i32;
            let from = _mm256_setr_epi32(
                byte, byte + 0x0404_0404, byte + 0x0808_0808, byte + 0x0c0c_0c0c,
                byte, byte + 0x0404_0404, byte + 0x0808_0808, byte + 0x0c0c_0c0c,
            );
            let bits = _mm256_set1_epi32(0x0804_0201 << (first % 8));
            array!(2, |H| {
                let bytes = _mm256_and_si256(_mm256_shuffle_epi8(a[H], from), bits);
                _mm256_and_si256(_mm256_cmpeq_epi8(bytes, bits), _mm256_set1_epi8(16))
            })
        }
        fn lookup(table: &[u8; 16], index: I) -> I {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            array!(2, |H| _mm256_shuffle_epi8(table, index[H]))
        }
        fn dot4_wide(acc: I, w: I, a: I) -> I {
            // The weight's sign goes to the activation; magnitudes of at most 128 and 127 fit.
            array!(2, |H| dot(acc[H], _mm256_abs_epi8(w[H]), _mm256_sign_epi8(a[H], w[H])))
        }
        fn mul_i16(a: I, b: I) -> I { array!(2, |H| _mm256_mullo_epi16(a[H], b[H])) }
        fn dot2(acc: I, a: I, b: I) -> I {
            array!(2, |H| _mm256_add_epi32(acc[H], _mm256_madd_epi16(a[H], b[H])))
        }
        fn largest(a: F) -> f32 { fold!(a, _mm256_max_ps, _mm_max_ps, _mm_max_ss) }
        fn sum(a: F) -> f32 { fold!(a, _mm256_add_ps, _mm_add_ps, _mm_add_ss) }
        fn sum_i(a: I) -> i32 { fold_i!(a, _mm256_add_epi32, _mm_add_epi32) }
        fn largest_i(a: I) -> i32 { fold_i!(a, _mm256_max_epi32, _mm_max_epi32) }
    }

    memory! {
        fn load_i8(p: *const u8) -> I {
            array!(2, |H| _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(16 * H).cast())))
        }
        fn dot16(acc: I, w: I4, a: *const u8) -> I {
            let a = array!(4, |D| _mm256_set1_epi32(a.add(4 * D).cast::<i32>().read_unaligned()));
            array!(2, |H| {
                // Four pairs of at most 31·127 fit 16 bits.
                let pairs = array!(4, |D| _mm256_maddubs_epi16(w[D][H], a[D]));
                let pairs = _mm256_add_epi16(
                    _mm256_add_epi16(pairs[0], pairs[1]),
                    _mm256_add_epi16(pairs[2], pairs[3]),
                );
                _mm256_add_epi32(acc[H], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }
        fn dot16_six(acc: I, w: I4, a: *const u8) -> I {
            let a = array!(4, |D| _mm256_set1_epi32(a.add(4 * D).cast::<i32>().read_unaligned()));
            let one = _mm256_set1_epi16(1);
            array!(2, |H| {
                // Two pairs of at most 63·127 fit 16 bits.
                let pairs = array!(4, |D| _mm256_maddubs_epi16(w[D][H], a[D]));
                let low = _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), one);
                let high = _mm256_madd_epi16(_mm256_add_epi16(pairs[2], pairs[3]), one);
                _mm256_add_epi32(acc[H], _mm256_add_epi32(low, high))
            })
        }
        fn load(p: *const f32) -> F { array!(2, |H| _mm256_loadu_ps(p.add(8 * H))) }
        fn store(p: *mut f32, v: F) -> () {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
        fn splat_at(p: *const u8) -> I { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
        fn load_i(p: *const u8) -> I { array!(2, |H| _mm256_loadu_si256(p.add(32 * H).cast())) }
        fn store_i(p: *mut u8, v: I) -> () {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
        fn load_rows(base: *const u8, stride: usize) -> [I; 4] {
            // Register `l` of a half takes rows l and l+4 in its two 128-bit parts; a 4x4 transpose of
            // dwords within the parts then leaves row 4·part + l in lane l of each part.
            let at = |r: usize| base.wrapping_add(r * stride).cast::<__m128i>();
            let [low, high] = array!(2, |H| {
                let [a, b, c, d] = array!(4, |L| {
                    let x = _mm256_castsi128_si256(_mm_loadu_si128(at(8 * H + L)));
                    _mm256_inserti128_si256::<1>(x, _mm_loadu_si128(at(8 * H + 4 + L)))
                });
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                let (ab_hi, cd_hi) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(ab_hi, cd_hi),
                    _mm256_unpackhi_epi64(ab_hi, cd_hi),
                ]
            });
            array!(4, |D| [low[D], high[D]])
        }
        fn gather_u16(base: *const u8, stride: usize) -> I {
            let at = |r: usize| base.wrapping_add(r * stride).cast::<i16>();
            macro_rules! x {
                ($r:expr) => {
                    at($r).read_unaligned()
                };
            }
            array!(2, |H| {
                const R: usize = 8 * H;
                _mm256_cvtepu16_epi32(_mm_setr_epi16(
                    x!(R), x!(R + 1), x!(R + 2), x!(R + 3), x!(R + 4), x!(R + 5), x!(R + 6), x!(R + 7),
                ))
            })
        }
        fn gather_u32(base: *const u8, stride: usize) -> I {
            let at = |r: usize| base.wrapping_add(r * stride).cast::<i32>();
            macro_rules! x {
                ($r:expr) => {
                    at($r).read_unaligned()
                };
            }
            array!(2, |H| {
                const R: usize = 8 * H;
                _mm256_setr_epi32(
                    x!(R), x!(R + 1), x!(R + 2), x!(R + 3), x!(R + 4), x!(R + 5), x!(R + 6), x!(R + 7),
                )
            })
        }
        fn store_i8(p: *mut i8, v: I) -> () {
            let v = narrow(v);
            let v = _mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storeu_si128(p.cast(), v)
        }
        fn store_i16(p: *mut i16, v: I) -> () { _mm256_storeu_si256(p.cast(), narrow(v)) }
    }
}
