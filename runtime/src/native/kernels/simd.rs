//! Sixteen lanes on every machine: the vector operations all kernels are written in.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for each instruction set. All sets work
//! on the same sixteen lanes and every operation is exact or correctly rounded, so a kernel gives the same
//! bits on AVX-512 (one register), AVX2 (two), NEON (four) and plain Rust (an array). Where an instruction
//! set disagrees with IEEE or with the others (`max` of NaN, contraction) the operation is spelled out.
//!
//! Implementations hold a private field and are made only by a constructor that detects the processor's
//! features, so holding one is the proof that its instructions may run.

/// `[f(0), …, f(n − 1)]` for `n` of 2, 4 or 8, written out: closures are compiled without the vector features
/// of their surroundings, so nothing that touches vectors may be one.
macro_rules! array {
    (2, |$i:ident| $e:expr) => {
        [array!(@ $i 0 $e), array!(@ $i 1 $e)]
    };
    (4, |$i:ident| $e:expr) => {
        [array!(@ $i 0 $e), array!(@ $i 1 $e), array!(@ $i 2 $e), array!(@ $i 3 $e)]
    };
    (8, |$i:ident| $e:expr) => {
        [
            array!(@ $i 0 $e), array!(@ $i 1 $e), array!(@ $i 2 $e), array!(@ $i 3 $e),
            array!(@ $i 4 $e), array!(@ $i 5 $e), array!(@ $i 6 $e), array!(@ $i 7 $e),
        ]
    };
    (@ $i:ident $n:literal $e:expr) => {{
        const $i: usize = $n;
        $e
    }};
}
pub(super) use array;

/// Sixteen lanes of f32 (`F`), i32 or 64 bytes (`I`), and a truth value for each lane (`M`).
///
/// Methods are `inline(always)` without target features of their own; they are compiled with the features
/// of the function [`Simd::vectorize`] runs them in.
#[allow(
    clippy::missing_safety_doc,
    reason = "every unsafe method needs the bytes its doc names to be readable or writable"
)]
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32, or 64 bytes.
    type I: Copy;
    /// A truth value for each lane.
    type M: Copy;

    /// 8-bit weights are handed to `dot4_wide` with their sign bit flipped, that is plus 128.
    const WIDE_UNSIGNED: bool;
    /// Queries one register tile of attention covers.
    const QUERIES: usize;
    /// Rows of activations one register tile of a product with float weights covers.
    const TILE: usize;
    /// There are registers for eight rows of activations side by side.
    const TOGETHER: bool;

    /// Runs `op` compiled for this instruction set.
    fn vectorize<O: Op>(self, op: O) -> O::Out;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Reads 16 f32, unaligned.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Writes 16 f32, unaligned.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a − b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c` with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even. Values outside i32 give some integer, not the same on all machines.
    fn round(self, a: Self::F) -> Self::I;
    /// Signed integers to f32.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// The same bits.
    fn bits(self, a: Self::F) -> Self::I;
    /// The same bits.
    fn from_bits(self, a: Self::I) -> Self::F;
    /// `a > b`; false for NaN.
    fn gt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `m ? a : b`
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// All lanes `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// All lanes the four bytes at `p`.
    unsafe fn splat_at(self, p: *const u8) -> Self::I;
    /// Reads 64 bytes, unaligned.
    unsafe fn load_i(self, p: *const u8) -> Self::I;
    /// Writes 64 bytes, unaligned.
    unsafe fn store_i(self, p: *mut u8, v: Self::I);
    /// Wrapping sum.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping difference.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise and.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Lanes shifted left by `n < 32`.
    fn shl(self, a: Self::I, n: u32) -> Self::I;
    /// Lanes shifted right by `n < 32`, zeros coming in.
    fn shr(self, a: Self::I, n: u32) -> Self::I;
    /// Lanes shifted right by `n < 32`, the sign coming in.
    fn sar(self, a: Self::I, n: u32) -> Self::I;
    /// The larger, signed.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a > b`, signed.
    fn gt_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// Byte `b` of each lane becomes 16 if bit `first + b` of that lane of `a` is set, else 0.
    /// `first` is a multiple of 4.
    fn spread_bits(self, a: Self::I, first: u32) -> Self::I;
    /// Each byte's low four bits look up `table`; the high four must be zero.
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I;

    /// `acc + Σ₄ w·a` in each lane: `w` unsigned bytes of at most 63 (or 127 alone), `a` signed bytes.
    fn dot4(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// `acc + Σ₄ w·a` in each lane: `a` signed bytes; `w` any bytes, unsigned if
    /// `WIDE_UNSIGNED`, else signed.
    fn dot4_wide(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// [`Simd::dot4`] of four registers with the 16 bytes at `a`, the weights at most 31.
    #[inline(always)]
    unsafe fn dot16(self, acc: Self::I, w: [Self::I; 4], a: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { self.dot16_six(acc, w, a) }
    }
    /// [`Simd::dot4`] of four registers with the 16 bytes at `a`.
    #[inline(always)]
    unsafe fn dot16_six(self, acc: Self::I, w: [Self::I; 4], a: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let acc = self.dot4(acc, w[0], self.splat_at(a));
            let acc = self.dot4(acc, w[1], self.splat_at(a.add(4)));
            let acc = self.dot4(acc, w[2], self.splat_at(a.add(8)));
            self.dot4(acc, w[3], self.splat_at(a.add(12)))
        }
    }
    /// [`Simd::dot4_wide`] of four registers with the 16 bytes at `a`.
    #[inline(always)]
    unsafe fn dot16_wide(self, acc: Self::I, w: [Self::I; 4], a: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let acc = self.dot4_wide(acc, w[0], self.splat_at(a));
            let acc = self.dot4_wide(acc, w[1], self.splat_at(a.add(4)));
            let acc = self.dot4_wide(acc, w[2], self.splat_at(a.add(8)));
            self.dot4_wide(acc, w[3], self.splat_at(a.add(12)))
        }
    }
    /// `acc + Σ₂ a·b` in each lane: signed 16-bit halves; not both of a pair may be −32768.
    fn dot2(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Reads 32 i8, unaligned: as i16, two a lane.
    unsafe fn load_i8(self, p: *const u8) -> Self::I;
    /// Products of the 16-bit halves, wrapping.
    fn mul_i16(self, a: Self::I, b: Self::I) -> Self::I;

    /// Reads 16 bytes from each of 16 rows `stride` bytes apart: lane `r` of vector `i` is dword `i` of
    /// row `r`.
    unsafe fn load_rows(self, base: *const u8, stride: usize) -> [Self::I; 4];
    /// Lane `r` is the u16 at `base + r·stride`.
    unsafe fn gather_u16(self, base: *const u8, stride: usize) -> Self::I;
    /// Lane `r` is the u32 at `base + r·stride`.
    unsafe fn gather_u32(self, base: *const u8, stride: usize) -> Self::I;
    /// The low 16 bits of each lane are a half float; the high ones are ignored.
    fn f16(self, a: Self::I) -> Self::F;
    /// Writes the low byte of each lane, 16 bytes. Lanes must fit i8.
    unsafe fn store_i8(self, p: *mut i8, v: Self::I);
    /// Writes the low half of each lane, 16 i16. Lanes must fit i16.
    unsafe fn store_i16(self, p: *mut i16, v: Self::I);

    /// The largest lane by [`Simd::max`], by halves as in [`Simd::sum`].
    fn largest(self, a: Self::F) -> f32;
    /// Sum by halves: lanes `i` and `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, a: Self::F) -> f32;
    /// Wrapping sum of the lanes.
    fn sum_i(self, a: Self::I) -> i32;
    /// The largest lane, signed.
    fn largest_i(self, a: Self::I) -> i32;
}

/// Work that [`Simd::vectorize`] compiles for an instruction set. `run` must be `inline(always)`, and so
/// must all it calls that takes vectors.
pub trait Op {
    /// What the work returns.
    type Out;
    /// Does the work.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Asks for the cache line at `p`, which may be anywhere: into the first cache if `NEAR`, else the second.
#[inline(always)]
pub(super) fn prefetch<const NEAR: bool>(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor; it touches nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::*;
        if NEAR {
            _mm_prefetch::<_MM_HINT_T0>(p.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(p.cast());
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: part of every AArch64 processor; it touches nothing and cannot fault.
    unsafe {
        use std::arch::asm;
        if NEAR {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        } else {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}
