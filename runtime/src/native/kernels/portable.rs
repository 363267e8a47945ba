//! Sixteen lanes as arrays: runs everywhere, and is what the other instruction sets must equal.

use super::simd::{Op, Simd};

/// Plain Rust; needs no proof.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type F = [f32; 16];
type I = [i32; 16];

/// `f` of each lane, as a loop that vectorises.
#[inline]
fn lanes<T: Copy, U: Copy + Default>(a: [T; 16], f: impl Fn(T) -> U) -> [U; 16] {
    let mut out = [U::default(); 16];
    for i in 0..16 {
        out[i] = f(a[i]);
    }
    out
}

#[inline]
fn both<T: Copy, U: Copy + Default>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    let mut out = [U::default(); 16];
    for i in 0..16 {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline]
fn dot4_bytes(acc: I, w: I, a: I) -> I {
    std::array::from_fn(|i| {
        let (w, a) = (w[i].to_le_bytes(), a[i].to_le_bytes());
        (0..4).fold(acc[i], |s, j| s.wrapping_add(i32::from(w[j]) * i32::from(a[j] as i8)))
    })
}

/// `f32` from the bits of a half float.
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

impl Simd for Portable {
    type F = F;
    type I = I;
    type M = [bool; 16];
    const WIDE_UNSIGNED: bool = true;
    const TILE: usize = 4;
    const TOGETHER: bool = false;
    const QUERIES: usize = 1;

    fn vectorize<O: Op>(self, op: O) -> O::Out {
        op.run(self)
    }

    #[inline]
    fn splat(self, x: f32) -> F {
        [x; 16]
    }
    #[inline]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline]
    fn add(self, a: F, b: F) -> F {
        both(a, b, |a, b| a + b)
    }
    #[inline]
    fn sub(self, a: F, b: F) -> F {
        both(a, b, |a, b| a - b)
    }
    #[inline]
    fn mul(self, a: F, b: F) -> F {
        both(a, b, |a, b| a * b)
    }
    #[inline]
    fn div(self, a: F, b: F) -> F {
        both(a, b, |a, b| a / b)
    }
    #[inline]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline]
    fn max(self, a: F, b: F) -> F {
        both(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline]
    fn min(self, a: F, b: F) -> F {
        both(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline]
    fn round(self, a: F) -> I {
        lanes(a, |a| a.round_ties_even() as i32)
    }
    #[inline]
    fn to_f32(self, a: I) -> F {
        lanes(a, |a| a as f32)
    }
    #[inline]
    fn bits(self, a: F) -> I {
        lanes(a, |a| a.to_bits() as i32)
    }
    #[inline]
    fn from_bits(self, a: I) -> F {
        lanes(a, |a| f32::from_bits(a as u32))
    }
    #[inline]
    fn gt(self, a: F, b: F) -> [bool; 16] {
        both(a, b, |a, b| a > b)
    }
    #[inline]
    fn select(self, m: [bool; 16], a: F, b: F) -> F {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }

    #[inline]
    fn splat_i(self, x: i32) -> I {
        [x; 16]
    }
    #[inline]
    unsafe fn splat_at(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for four bytes.
        [unsafe { p.cast::<i32>().read_unaligned() }; 16]
    }
    #[inline]
    unsafe fn load_i(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline]
    unsafe fn store_i(self, p: *mut u8, v: I) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<I>().write_unaligned(v) }
    }
    #[inline]
    fn add_i(self, a: I, b: I) -> I {
        both(a, b, i32::wrapping_add)
    }
    #[inline]
    fn sub_i(self, a: I, b: I) -> I {
        both(a, b, i32::wrapping_sub)
    }
    #[inline]
    fn and(self, a: I, b: I) -> I {
        both(a, b, |a, b| a & b)
    }
    #[inline]
    fn or(self, a: I, b: I) -> I {
        both(a, b, |a, b| a | b)
    }
    #[inline]
    fn xor(self, a: I, b: I) -> I {
        both(a, b, |a, b| a ^ b)
    }
    #[inline]
    fn shl(self, a: I, n: u32) -> I {
        lanes(a, |a| a << n)
    }
    #[inline]
    fn shr(self, a: I, n: u32) -> I {
        lanes(a, |a| (a as u32 >> n) as i32)
    }
    #[inline]
    fn sar(self, a: I, n: u32) -> I {
        lanes(a, |a| a >> n)
    }
    #[inline]
    fn max_i(self, a: I, b: I) -> I {
        both(a, b, i32::max)
    }
    #[inline]
    fn gt_i(self, a: I, b: I) -> [bool; 16] {
        both(a, b, |a, b| a > b)
    }
    #[inline]
    fn spread_bits(self, a: I, first: u32) -> I {
        lanes(a, |a| (0..4).fold(0, |x, b| x | (a >> (first + b) & 1) << (8 * b + 4)))
    }
    #[inline]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        lanes(index, |x| i32::from_le_bytes(x.to_le_bytes().map(|b| table[usize::from(b & 15)])))
    }

    #[inline]
    fn dot4(self, acc: I, w: I, a: I) -> I {
        dot4_bytes(acc, w, a)
    }
    #[inline]
    fn dot4_wide(self, acc: I, w: I, a: I) -> I {
        dot4_bytes(acc, w, a)
    }
    #[inline]
    fn mul_i16(self, a: I, b: I) -> I {
        std::array::from_fn(|i| {
            let low = (a[i] as i16).wrapping_mul(b[i] as i16);
            let high = ((a[i] >> 16) as i16).wrapping_mul((b[i] >> 16) as i16);
            i32::from(low as u16) | i32::from(high) << 16
        })
    }
    #[inline]
    unsafe fn load_i8(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for 32 bytes.
        let at = |i: usize| i16::from(unsafe { p.add(i).cast::<i8>().read() });
        std::array::from_fn(|i| i32::from(at(2 * i) as u16) | i32::from(at(2 * i + 1)) << 16)
    }
    #[inline]
    fn dot2(self, acc: I, a: I, b: I) -> I {
        let halves = |x: i32| [x << 16 >> 16, x >> 16];
        std::array::from_fn(|i| {
            let (a, b) = (halves(a[i]), halves(b[i]));
            acc[i].wrapping_add(a[0] * b[0]).wrapping_add(a[1] * b[1])
        })
    }

    #[inline]
    unsafe fn load_rows(self, base: *const u8, stride: usize) -> [I; 4] {
        // SAFETY: the caller vouches for 16 bytes at each of the 16 rows.
        let at = |r: usize, i: usize| unsafe { base.add(r * stride + 4 * i).cast::<i32>().read_unaligned() };
        std::array::from_fn(|i| std::array::from_fn(|r| at(r, i)))
    }
    #[inline]
    unsafe fn gather_u16(self, base: *const u8, stride: usize) -> I {
        // SAFETY: the caller vouches for two bytes at each of the 16 rows.
        std::array::from_fn(|r| i32::from(unsafe { base.add(r * stride).cast::<u16>().read_unaligned() }))
    }
    #[inline]
    unsafe fn gather_u32(self, base: *const u8, stride: usize) -> I {
        // SAFETY: the caller vouches for four bytes at each of the 16 rows.
        std::array::from_fn(|r| unsafe { base.add(r * stride).cast::<i32>().read_unaligned() })
    }
    #[inline]
    fn f16(self, a: I) -> F {
        lanes(a, |a| f16_to_f32(a as u16))
    }
    #[inline]
    unsafe fn store_i8(self, p: *mut i8, v: I) {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { p.cast::<[i8; 16]>().write_unaligned(lanes(v, |v| v as i8)) }
    }
    #[inline]
    unsafe fn store_i16(self, p: *mut i16, v: I) {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { p.cast::<[i16; 16]>().write_unaligned(lanes(v, |v| v as i16)) }
    }

    #[inline]
    fn largest(self, a: F) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let eight: [f32; 8] = std::array::from_fn(|i| max(a[i], a[i + 8]));
        let four: [f32; 4] = std::array::from_fn(|i| max(eight[i], eight[i + 4]));
        max(max(four[0], four[2]), max(four[1], four[3]))
    }
    #[inline]
    fn sum(self, a: F) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline]
    fn sum_i(self, a: I) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline]
    fn largest_i(self, a: I) -> i32 {
        a.into_iter().fold(i32::MIN, i32::max)
    }
}
