//! NEON, with or without the dot-product instructions: four registers are sixteen lanes.

use super::simd::{Op, Simd, array};
use std::arch::aarch64::*;
use std::arch::asm;

/// Proof that the processor has NEON, and the dot-product instructions if `DOT`.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// The proof, if this processor has the features.
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_aarch64_feature_detected!("neon")
            && (!DOT || std::arch::is_aarch64_feature_detected!("dotprod"));
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "neon")]
fn compiled<const DOT: bool, O: Op>(s: Neon<DOT>, op: O) -> O::Out {
    op.run(s)
}

/// Lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15.
type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type M = [uint32x4_t; 4];

/// Methods that do the same to all four registers: `$q` is the number of the register.
macro_rules! quarters {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = |$q:ident| $e:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves NEON; nothing but registers is touched.
            unsafe { array!(4, |$q| $e) }
        })*
    };
}

/// Methods that touch memory the caller vouches for.
macro_rules! memory {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
        $(#[inline(always)]
        unsafe fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves NEON; the caller vouches for the bytes the trait names.
            unsafe { $body }
        })*
    };
}

/// `acc + Σ₄ w·a` of signed bytes in each lane.
#[inline(always)]
unsafe fn dot<const DOT: bool>(mut acc: int32x4_t, w: int32x4_t, a: int32x4_t) -> int32x4_t {
    // SAFETY: the caller proves NEON, and the dot-product instructions if `DOT`.
    unsafe {
        let (w, a) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(a));
        if DOT {
            // The intrinsic is not stable yet.
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {w:v}.16b, {a:v}.16b",
                acc = inout(vreg) acc,
                w = in(vreg) w,
                a = in(vreg) a,
                options(pure, nomem, nostack, preserves_flags)
            );
            return acc;
        }
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
        let high = vpaddlq_s16(vmull_high_s8(w, a));
        vaddq_s32(acc, vpaddq_s32(low, high))
    }
}

/// `acc + Σ₂ a·b` of signed halves in each lane.
#[inline(always)]
unsafe fn dot_pairs(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the caller proves NEON.
    unsafe {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
        let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
        vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(a, b)))
    }
}

/// The half floats in the low parts of four lanes.
#[inline(always)]
unsafe fn half(v: int32x4_t) -> float32x4_t {
    // SAFETY: the caller proves NEON, of which the conversion is part; its intrinsic is newer than our
    // oldest compiler.
    unsafe {
        let narrow = vmovn_u32(vreinterpretq_u32_s32(v));
        let wide: float32x4_t;
        asm!(
            "fcvtl {wide:v}.4s, {narrow:v}.4h",
            wide = out(vreg) wide,
            narrow = in(vreg) narrow,
            options(pure, nomem, nostack, preserves_flags)
        );
        wide
    }
}

#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller proves NEON.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn and_bits(v: int32x4_t, byte: uint8x16_t, bits: uint8x16_t) -> int32x4_t {
    // SAFETY: the caller proves NEON.
    unsafe {
        let bytes = vqtbl1q_u8(vreinterpretq_u8_s32(v), byte);
        vreinterpretq_s32_u8(vandq_u8(vtstq_u8(bytes, bits), vdupq_n_u8(16)))
    }
}

#[inline(always)]
unsafe fn transposed(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: the caller proves NEON.
    unsafe {
        let [a, b, c, d] = rows;
        let even = [vreinterpretq_s64_s32(vtrn1q_s32(a, b)), vreinterpretq_s64_s32(vtrn1q_s32(c, d))];
        let odd = [vreinterpretq_s64_s32(vtrn2q_s32(a, b)), vreinterpretq_s64_s32(vtrn2q_s32(c, d))];
        [
            vreinterpretq_s32_s64(vtrn1q_s64(even[0], even[1])),
            vreinterpretq_s32_s64(vtrn1q_s64(odd[0], odd[1])),
            vreinterpretq_s32_s64(vtrn2q_s64(even[0], even[1])),
            vreinterpretq_s32_s64(vtrn2q_s64(odd[0], odd[1])),
        ]
    }
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = F;
    type I = I;
    type M = M;
    const WIDE_UNSIGNED: bool = false;
    const TILE: usize = 4;
    const TOGETHER: bool = false;
    const QUERIES: usize = 1;

    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` proves NEON.
        unsafe { compiled(self, op) }
    }

    quarters! {
        splat(x: f32) -> F = |_Q| vdupq_n_f32(x);
        add(a: F, b: F) -> F = |Q| vaddq_f32(a[Q], b[Q]);
        sub(a: F, b: F) -> F = |Q| vsubq_f32(a[Q], b[Q]);
        mul(a: F, b: F) -> F = |Q| vmulq_f32(a[Q], b[Q]);
        div(a: F, b: F) -> F = |Q| vdivq_f32(a[Q], b[Q]);
        fma(a: F, b: F, c: F) -> F = |Q| vfmaq_f32(c[Q], a[Q], b[Q]);
        max(a: F, b: F) -> F = |Q| larger(a[Q], b[Q]);
        min(a: F, b: F) -> F = |Q| vbslq_f32(vcltq_f32(a[Q], b[Q]), a[Q], b[Q]);
        round(a: F) -> I = |Q| vcvtnq_s32_f32(a[Q]);
        to_f32(a: I) -> F = |Q| vcvtq_f32_s32(a[Q]);
        bits(a: F) -> I = |Q| vreinterpretq_s32_f32(a[Q]);
        from_bits(a: I) -> F = |Q| vreinterpretq_f32_s32(a[Q]);
        gt(a: F, b: F) -> M = |Q| vcgtq_f32(a[Q], b[Q]);
        select(m: M, a: F, b: F) -> F = |Q| vbslq_f32(m[Q], a[Q], b[Q]);
        splat_i(x: i32) -> I = |_Q| vdupq_n_s32(x);
        add_i(a: I, b: I) -> I = |Q| vaddq_s32(a[Q], b[Q]);
        sub_i(a: I, b: I) -> I = |Q| vsubq_s32(a[Q], b[Q]);
        and(a: I, b: I) -> I = |Q| vandq_s32(a[Q], b[Q]);
        or(a: I, b: I) -> I = |Q| vorrq_s32(a[Q], b[Q]);
        xor(a: I, b: I) -> I = |Q| veorq_s32(a[Q], b[Q]);
        shl(a: I, n: u32) -> I = |Q| vshlq_s32(a[Q], vdupq_n_s32(n as i32));
        shr(a: I, n: u32) -> I =
            |Q| vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a[Q]), vdupq_n_s32(-(n as i32))));
        sar(a: I, n: u32) -> I = |Q| vshlq_s32(a[Q], vdupq_n_s32(-(n as i32)));
        max_i(a: I, b: I) -> I = |Q| vmaxq_s32(a[Q], b[Q]);
        gt_i(a: I, b: I) -> M = |Q| vcgtq_s32(a[Q], b[Q]);
        dot4(acc: I, w: I, a: I) -> I = |Q| dot::<DOT>(acc[Q], w[Q], a[Q]);
        dot4_wide(acc: I, w: I, a: I) -> I = |Q| dot::<DOT>(acc[Q], w[Q], a[Q]);
        mul_i16(a: I, b: I) -> I = |Q| {
            let (a, b) = (vreinterpretq_s16_s32(a[Q]), vreinterpretq_s16_s32(b[Q]));
            vreinterpretq_s32_s16(vmulq_s16(a, b))
        };
        dot2(acc: I, a: I, b: I) -> I = |Q| dot_pairs(acc[Q], a[Q], b[Q]);
        f16(a: I) -> F = |Q| half(a[Q]);
    }

    #[inline(always)]
    fn spread_bits(self, a: I, first: u32) -> I {
        // The byte that holds the four bits, four times in each lane; then one bit of it in each.
        let byte = [0u32, 4, 8, 12].map(|lane| 0x0101_0101 * (lane + first / 8));
        // SAFETY: `self` proves NEON; the array has 16 bytes.
        unsafe {
            let byte = vreinterpretq_u8_u32(vld1q_u32(byte.as_ptr()));
            let bits = vreinterpretq_u8_u32(vdupq_n_u32(0x0804_0201 << (first % 8)));
            array!(4, |Q| and_bits(a[Q], byte, bits))
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: `self` proves NEON; the table has 16 bytes.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            array!(4, |Q| vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(index[Q]))))
        }
    }

    #[inline(always)]
    fn largest(self, a: F) -> f32 {
        // SAFETY: `self` proves NEON; nothing but registers is touched.
        unsafe {
            let x = larger(larger(a[0], a[2]), larger(a[1], a[3]));
            let x = larger(x, vextq_f32::<2>(x, x));
            vgetq_lane_f32::<0>(larger(x, vextq_f32::<1>(x, x)))
        }
    }

    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        // SAFETY: `self` proves NEON; nothing but registers is touched.
        unsafe {
            let x = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let x = vaddq_f32(x, vextq_f32::<2>(x, x));
            vgetq_lane_f32::<0>(vaddq_f32(x, vextq_f32::<1>(x, x)))
        }
    }

    #[inline(always)]
    fn sum_i(self, a: I) -> i32 {
        // SAFETY: `self` proves NEON; nothing but registers is touched.
        unsafe { vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[2]), vaddq_s32(a[1], a[3]))) }
    }

    #[inline(always)]
    fn largest_i(self, a: I) -> i32 {
        // SAFETY: `self` proves NEON; nothing but registers is touched.
        unsafe { vmaxvq_s32(vmaxq_s32(vmaxq_s32(a[0], a[2]), vmaxq_s32(a[1], a[3]))) }
    }

    memory! {
        fn load_i8(p: *const u8) -> I {
            array!(4, |Q| vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p.add(8 * Q).cast()))))
        }
        fn load(p: *const f32) -> F { array!(4, |Q| vld1q_f32(p.add(4 * Q))) }
        fn store(p: *mut f32, v: F) -> () {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        }
        fn splat_at(p: *const u8) -> I { [vdupq_n_s32(p.cast::<i32>().read_unaligned()); 4] }
        fn load_i(p: *const u8) -> I { array!(4, |Q| vreinterpretq_s32_u8(vld1q_u8(p.add(16 * Q)))) }
        fn store_i(p: *mut u8, v: I) -> () {
            vst1q_u8(p, vreinterpretq_u8_s32(v[0]));
            vst1q_u8(p.add(16), vreinterpretq_u8_s32(v[1]));
            vst1q_u8(p.add(32), vreinterpretq_u8_s32(v[2]));
            vst1q_u8(p.add(48), vreinterpretq_u8_s32(v[3]));
        }
        fn load_rows(base: *const u8, stride: usize) -> [I; 4] {
            let parts = array!(4, |Q| {
                let rows = array!(4, |R| vreinterpretq_s32_u8(vld1q_u8(base.add((4 * Q + R) * stride))));
                transposed(rows)
            });
            array!(4, |D| [parts[0][D], parts[1][D], parts[2][D], parts[3][D]])
        }
        fn gather_u16(base: *const u8, stride: usize) -> I {
            let mut lanes = [0i32; 16];
            for (r, lane) in lanes.iter_mut().enumerate() {
                *lane = i32::from(base.add(r * stride).cast::<u16>().read_unaligned());
            }
            array!(4, |Q| vld1q_s32(lanes.as_ptr().add(4 * Q)))
        }
        fn gather_u32(base: *const u8, stride: usize) -> I {
            let mut lanes = [0i32; 16];
            for (r, lane) in lanes.iter_mut().enumerate() {
                *lane = base.add(r * stride).cast::<i32>().read_unaligned();
            }
            array!(4, |Q| vld1q_s32(lanes.as_ptr().add(4 * Q)))
        }
        fn store_i8(p: *mut i8, v: I) -> () {
            let low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
            let high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
            vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)))
        }
        fn store_i16(p: *mut i16, v: I) -> () {
            vst1q_s16(p, vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1])));
            vst1q_s16(p.add(8), vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3])));
        }
    }
}
