//! How each quantised type is taken apart: 16 rows at a time into unsigned bytes, scales and minima.
//!
//! Every type is seen as blocks of 32 values. A value is `scale · (q − 2^shift) + min`, where `q` is an
//! unsigned byte; scale and min belong to the block or to each half of it. A vector's lanes are 16
//! neighbouring rows of the matrix, so the same unpacking serves one token and many, and a dot product
//! needs no sum across lanes. The stored layouts are those of the GGUF format.

use super::simd::{Simd, array};

/// One block of 32 values of 16 rows.
pub struct Block<S: Simd> {
    /// Dword `i` of lane `r`: values `4i..4i+4` of row `r`, plus `2^SHIFT`.
    pub q: [S::I; 8],
    /// Scale of each half, or of the block in the first.
    pub scale: [S::F; 2],
    /// What is added, likewise; zero without minima.
    pub min: [S::F; 2],
}

/// What a product must know of a format once its blocks are unpacked.
pub trait Shape: 'static {
    /// Scales (and minima) are for halves of 16 values.
    const HALVES: bool;
    /// There are minima.
    const MINS: bool;
    /// `q` uses all eight bits.
    const WIDE: bool;
    /// `q` uses six bits; else, unless it is wide, five at most.
    const SIX_BITS: bool;
}

macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident: $halves:literal, $mins:literal, $wide:literal, $six:literal;)*) => {
        $($(#[$doc])*
        pub struct $name;
        impl Shape for $name {
            const HALVES: bool = $halves;
            const MINS: bool = $mins;
            const WIDE: bool = $wide;
            const SIX_BITS: bool = $six;
        })*
    };
}

shapes! {
    /// A scale for each block.
    Whole: false, false, false, false;
    /// Scale and min for each block.
    WholeMin: false, true, false, false;
    /// A scale for each block of bytes.
    Wide: false, false, true, false;
    /// A scale for each half.
    Halves: true, false, false, true;
    /// Scale and min for each half.
    HalvesMin: true, true, false, false;
}

/// A quantised type.
pub trait Format: 'static {
    /// Its shape.
    type Shape: Shape;
    /// Blocks of 32 in a storage block: 1 or 8.
    const BLOCKS: usize;
    /// Bytes of a storage block.
    const BYTES: usize;
    /// `q` is the value plus `2^SHIFT`; 0: nothing is added.
    const SHIFT: u32;

    /// Block `j` of the storage blocks at `base`, `base + stride`, … of 16 rows.
    /// # Safety
    /// `BYTES` bytes are readable at each of the 16 rows.
    unsafe fn block<S: Simd>(s: S, base: *const u8, stride: usize, j: usize) -> Block<S>;
}

/// Bytes all `x`.
#[inline(always)]
fn bytes<S: Simd>(s: S, x: u8) -> S::I {
    s.splat_i(i32::from_le_bytes([x; 4]))
}

#[inline(always)]
fn low_nibbles<S: Simd>(s: S, v: S::I) -> S::I {
    s.and(v, bytes(s, 15))
}

#[inline(always)]
fn high_nibbles<S: Simd>(s: S, v: S::I) -> S::I {
    s.and(s.shr(v, 4), bytes(s, 15))
}

/// Low nibbles, then high nibbles, of 16 bytes.
#[inline(always)]
fn nibbles<S: Simd>(s: S, v: [S::I; 4]) -> [S::I; 8] {
    array!(8, |I| if I < 4 { low_nibbles(s, v[I]) } else { high_nibbles(s, v[I % 4]) })
}

/// 32 bytes of each row.
#[inline(always)]
unsafe fn load_32<S: Simd>(s: S, base: *const u8, stride: usize) -> [S::I; 8] {
    // SAFETY: the caller vouches for 32 bytes at each row.
    let (a, b) = unsafe { (s.load_rows(base, stride), s.load_rows(base.add(16), stride)) };
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// Byte `i` of each lane.
#[inline(always)]
fn byte<S: Simd>(s: S, v: S::I, i: usize) -> S::I {
    s.and(s.shr(v, 8 * i as u32), s.splat_i(255))
}

/// One scale, no minima.
#[inline(always)]
fn plain<S: Simd>(s: S, q: [S::I; 8], scale: S::F) -> Block<S> {
    Block { q, scale: [scale; 2], min: [s.splat(0.0); 2] }
}

/// The half floats in the low and high parts of each lane.
#[inline(always)]
fn two_halves<S: Simd>(s: S, v: S::I) -> (S::F, S::F) {
    (s.f16(v), s.f16(s.shr(v, 16)))
}

/// Five-bit values: nibbles and a fifth bit each from `high`.
#[inline(always)]
fn five_bits<S: Simd>(s: S, low: [S::I; 4], high: S::I) -> [S::I; 8] {
    let q = nibbles(s, low);
    array!(8, |I| s.or(q[I], s.spread_bits(high, 4 * I as u32)))
}

/// Defines a format with a doc line, its constants and its unpacking.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident: $blocks:literal x $bytes:literal, $shape:ident, shift $shift:literal,
     |$s:ident, $p:ident, $stride:ident, $j:ident| $body:block) => {
        $(#[$doc])*
        pub struct $name;
        impl Format for $name {
            type Shape = $shape;
            const BLOCKS: usize = $blocks;
            const BYTES: usize = $bytes;
            const SHIFT: u32 = $shift;
            #[inline(always)]
            unsafe fn block<S: Simd>($s: S, $p: *const u8, $stride: usize, $j: usize) -> Block<S> {
                // SAFETY: all reads lie within the storage block, which the caller vouches for.
                unsafe { $body }
            }
        }
    };
}

format! {
    /// f16 scale, 16 bytes of nibbles; value `d·(q − 8)`.
    Q4_0: 1 x 18, Whole, shift 3, |s, p, stride, _j| {
        plain(s, nibbles(s, s.load_rows(p.add(2), stride)), s.f16(s.gather_u32(p, stride)))
    }
}

format! {
    /// f16 scale, f16 min, 16 bytes of nibbles; value `d·q + m`.
    Q4_1: 1 x 20, WholeMin, shift 0, |s, p, stride, _j| {
        let (d, m) = two_halves(s, s.gather_u32(p, stride));
        Block { q: nibbles(s, s.load_rows(p.add(4), stride)), scale: [d; 2], min: [m; 2] }
    }
}

format! {
    /// f16 scale, 32 high bits, 16 bytes of nibbles; value `d·(q − 16)`.
    Q5_0: 1 x 22, Whole, shift 4, |s, p, stride, _j| {
        let high = s.gather_u32(p.add(2), stride);
        plain(s, five_bits(s, s.load_rows(p.add(6), stride), high), s.f16(s.gather_u32(p, stride)))
    }
}

format! {
    /// f16 scale, f16 min, 32 high bits, 16 bytes of nibbles; value `d·q + m`.
    Q5_1: 1 x 24, WholeMin, shift 0, |s, p, stride, _j| {
        let (d, m) = two_halves(s, s.gather_u32(p, stride));
        let high = s.gather_u32(p.add(4), stride);
        Block { q: five_bits(s, s.load_rows(p.add(8), stride), high), scale: [d; 2], min: [m; 2] }
    }
}

format! {
    /// f16 scale, 32 signed bytes; value `d·q`.
    Q8_0: 1 x 34, Wide, shift 7, |s, p, stride, _j| {
        let q = load_32(s, p.add(2), stride);
        plain(s, array!(8, |I| wide(s, q[I])), s.f16(s.gather_u32(p, stride)))
    }
}

/// Signed bytes as [`Simd::dot4_wide`] takes them.
#[inline(always)]
fn wide<S: Simd>(s: S, v: S::I) -> S::I {
    if S::WIDE_UNSIGNED { s.xor(v, bytes(s, 128)) } else { v }
}

/// The 16 levels of IQ4_NL and IQ4_XS, signed bytes.
pub(super) const IQ4_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the 16 values of an e2m1 float.
pub(super) const FP4_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `levels` as unsigned bytes, `offset` added.
const fn raised(levels: [i8; 16], offset: i16) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (levels[i] as i16 + offset) as u8;
        i += 1;
    }
    out
}

/// Nibbles of 16 bytes looked up among the IQ4 levels.
#[inline(always)]
fn iq4_levels<S: Simd>(s: S, v: [S::I; 4]) -> [S::I; 8] {
    const RAISED: [u8; 16] = raised(IQ4_LEVELS, 128);
    const SIGNED: [u8; 16] = raised(IQ4_LEVELS, 256);
    let table = if S::WIDE_UNSIGNED { &RAISED } else { &SIGNED };
    let q = nibbles(s, v);
    array!(8, |I| s.lookup(table, q[I]))
}

format! {
    /// f16 scale, 16 bytes of nibbles that name one of 16 levels.
    Iq4Nl: 1 x 18, Wide, shift 7, |s, p, stride, _j| {
        plain(s, iq4_levels(s, s.load_rows(p.add(2), stride)), s.f16(s.gather_u32(p, stride)))
    }
}

format! {
    /// e8m0 exponent, 16 bytes of e2m1 floats; levels are doubled, so the scale is `2^(e − 128)`.
    Mxfp4: 1 x 17, Whole, shift 4, |s, p, stride, _j| {
        const RAISED: [u8; 16] = raised(FP4_LEVELS, 16);
        let q = nibbles(s, s.load_rows(p.add(1), stride));
        let q = array!(8, |I| s.lookup(&RAISED, q[I]));
        let e = s.and(s.gather_u16(p, stride), s.splat_i(255));
        // Exponents 0 and 1 are the subnormals 2^-128 and 2^-127.
        let normal = s.from_bits(s.shl(s.sub_i(e, s.splat_i(1)), 23));
        let small = s.select(s.gt_i(e, s.splat_i(0)), s.from_bits(s.splat_i(0x40_0000)), s.from_bits(s.splat_i(0x20_0000)));
        plain(s, q, s.select(s.gt_i(e, s.splat_i(1)), normal, small))
    }
}

format! {
    /// 16 bytes of 4-bit scales and minima, 64 of 2-bit values, f16 factors of the scales and minima.
    Q2K: 8 x 84, HalvesMin, shift 0, |s, p, stride, j| {
        let q = load_32(s, p.add(16 + 32 * (j / 4)), stride);
        let q = array!(8, |I| s.and(s.shr(q[I], 2 * (j % 4) as u32), bytes(s, 3)));
        let (d, m) = two_halves(s, s.gather_u32(p.add(80), stride));
        let scales = s.load_rows(p, stride)[j / 2];
        let m = s.sub(s.splat(0.0), m);
        let both = array!(2, |I| byte(s, scales, (2 * j + I) % 4));
        let scale = array!(2, |I| s.mul(d, s.to_f32(low_nibbles(s, both[I]))));
        let min = array!(2, |I| s.mul(m, s.to_f32(high_nibbles(s, both[I]))));
        Block { q, scale, min }
    }
}

format! {
    /// 32 bytes of high bits, 64 of 2-bit values, 12 of 6-bit scales, f16 factor; value `d·(sc − 32)·(q − 4)`.
    Q3K: 8 x 110, Halves, shift 2, |s, p, stride, j| {
        let low = load_32(s, p.add(32 + 32 * (j / 4)), stride);
        let high = load_32(s, p, stride);
        let q = array!(8, |I| {
            let high = s.and(s.shr(high[I], j as u32), bytes(s, 1));
            s.or(s.and(s.shr(low[I], 2 * (j % 4) as u32), bytes(s, 3)), s.shl(high, 2))
        });
        let d = s.f16(s.gather_u16(p.add(108), stride));
        // Scale 2j is in byte 2j mod 4 of word j/2: low bits in words 0 and 1 (nibble j/4), high in word 2.
        let low = s.shr(s.gather_u32(p.add(96 + 4 * (j / 2 % 2)), stride), 4 * (j / 4) as u32);
        let high = s.shr(s.gather_u32(p.add(104), stride), 2 * (j / 2) as u32);
        let sc = s.or(s.and(low, bytes(s, 15)), s.shl(s.and(high, bytes(s, 3)), 4));
        let scale = array!(2, |I| s.mul(d, s.to_f32(s.sub_i(byte(s, sc, (2 * j + I) % 4), s.splat_i(32)))));
        Block { q, scale, min: [s.splat(0.0); 2] }
    }
}

/// Scale and min of block `j` of Q4_K and Q5_K from the 16 bytes at the start of the storage block.
#[inline(always)]
fn k_scale_min<S: Simd>(s: S, head: [S::I; 4], j: usize) -> (S::F, S::F) {
    let (d, m) = two_halves(s, head[0]);
    let [sc, mn] = if j < 4 {
        array!(2, |I| s.and(head[1 + I], bytes(s, 63)))
    } else {
        let low = [low_nibbles(s, head[3]), high_nibbles(s, head[3])];
        array!(2, |I| s.or(low[I], s.and(s.shr(head[1 + I], 2), bytes(s, 48))))
    };
    let (sc, mn) = (s.to_f32(byte(s, sc, j % 4)), s.to_f32(byte(s, mn, j % 4)));
    (s.mul(d, sc), s.mul(s.sub(s.splat(0.0), m), mn))
}

format! {
    /// f16 factors, 12 bytes of 6-bit scales and minima, 128 of nibbles; value `d·sc·q − dmin·m`.
    Q4K: 8 x 144, WholeMin, shift 0, |s, p, stride, j| {
        let (scale, min) = k_scale_min(s, s.load_rows(p, stride), j);
        let q = load_32(s, p.add(16 + 32 * (j / 2)), stride);
        let q = array!(8, |I| if j % 2 == 0 { low_nibbles(s, q[I]) } else { high_nibbles(s, q[I]) });
        Block { q, scale: [scale; 2], min: [min; 2] }
    }
}

format! {
    /// As Q4_K with 32 bytes of fifth bits before the nibbles.
    Q5K: 8 x 176, WholeMin, shift 0, |s, p, stride, j| {
        let (scale, min) = k_scale_min(s, s.load_rows(p, stride), j);
        let high = load_32(s, p.add(16), stride);
        let low = load_32(s, p.add(48 + 32 * (j / 2)), stride);
        let q = array!(8, |I| {
            let low = if j % 2 == 0 { low_nibbles(s, low[I]) } else { high_nibbles(s, low[I]) };
            s.or(low, s.shl(s.and(s.shr(high[I], j as u32), bytes(s, 1)), 4))
        });
        Block { q, scale: [scale; 2], min: [min; 2] }
    }
}

format! {
    /// 128 bytes of nibbles, 64 of high bit pairs, 16 signed scales, f16 factor; value `d·sc·(q − 32)`.
    Q6K: 8 x 210, Halves, shift 5, |s, p, stride, j| {
        let low = load_32(s, p.add(64 * (j / 4) + 32 * (j % 2)), stride);
        let high = load_32(s, p.add(128 + 32 * (j / 4)), stride);
        let q = array!(8, |I| {
            let low = if j % 4 < 2 { low_nibbles(s, low[I]) } else { high_nibbles(s, low[I]) };
            s.or(low, s.shl(s.and(s.shr(high[I], 2 * (j % 4) as u32), bytes(s, 3)), 4))
        });
        let d = s.f16(s.gather_u16(p.add(208), stride));
        let scales = s.load_rows(p.add(192), stride)[j / 2];
        let scale = array!(2, |I| s.mul(d, s.to_f32(s.sar(s.shl(scales, 24 - 8 * ((2 * j + I) % 4) as u32), 24))));
        Block { q, scale, min: [s.splat(0.0); 2] }
    }
}

format! {
    /// f16 factor, 16 high scale bits, 4 bytes of low ones, 128 of nibbles that name one of 16 levels.
    Iq4Xs: 8 x 136, Wide, shift 7, |s, p, stride, j| {
        let head = s.load_rows(p, stride);
        let low = s.and(s.shr(head[1], 4 * j as u32), s.splat_i(15));
        let high = s.and(s.shr(head[0], 16 + 2 * j as u32), s.splat_i(3));
        let sc = s.sub_i(s.or(low, s.shl(high, 4)), s.splat_i(32));
        let q = iq4_levels(s, s.load_rows(p.add(8 + 16 * j), stride));
        plain(s, q, s.mul(s.f16(head[0]), s.to_f32(sc)))
    }
}
