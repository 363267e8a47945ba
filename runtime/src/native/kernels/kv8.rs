//! Keys and values in 8 bits: half the memory, and half the bytes read at each token.
//!
//! A row is cut into blocks of 32 values, as in ggml's q8_0, but a block's scale is a whole multiple, 1 to 255, of the
//! row's: so an 8-bit page becomes a page of `attention`'s 16-bit integers by one exact multiplication a value, and
//! everything after that is the same code, with the same promises. Cost: that multiplication, once a page for all
//! queries of a key-value head; 1 byte a value, one more a block, 4 a row. It loses where contexts are short (there is
//! more to compute and little less to read), and it is not lossless: rounding is about `block's largest / 127 / √12`
//! a value, some 250 times that of 16 bits.
//!
//! A page of one key-value head is one record:
//! keys `[dim pair][position][2]` i8, their factors `[block][position]` u8, key scales `[32]` f32, value scales `[32]`
//! f32, values `[position pair][dim][2]` i8, their factors `[position pair][block][2]` u8.

use super::attention::{HeadShape, PAGE, TINY, extent};
use super::simd::{Op, Simd, prefetch};
use super::vector::load_at;

/// Values that share a factor.
const BLOCK: usize = 32;
/// The largest 8-bit integer, symmetric.
const MOST: f32 = 127.0;
/// The largest factor of a block.
const MOST_FACTOR: f32 = 255.0;
/// The largest Euclidean norm of a key before it is rounded to 8 bits. Rounding adds at most `√8·(NORM/127 + √blocks)`,
/// some 1 020, and stays below what 16-bit keys may have.
const NORM: f32 = 45_000.0;

/// Where the parts of a record are.
#[derive(Clone, Copy)]
struct Layout {
    key_factors: usize,
    scales: usize,
    values: usize,
    value_factors: usize,
    end: usize,
    blocks_v: usize,
}

impl Layout {
    const fn of(shape: HeadShape) -> Self {
        let key_factors = shape.pairs_k() * PAGE * 2;
        let scales = key_factors + shape.pairs_k().div_ceil(BLOCK / 2) * PAGE;
        let values = scales + 2 * PAGE * 4;
        let value_factors = values + shape.padded_v() * PAGE;
        let blocks_v = shape.padded_v().div_ceil(BLOCK);
        Self { key_factors, scales, values, value_factors, end: value_factors + blocks_v * PAGE, blocks_v }
    }
}

/// Bytes of a page in 8 bits.
pub const fn packed_page_bytes(shape: HeadShape) -> usize {
    Layout::of(shape).end
}

/// The factor that brings a row of this largest magnitude and norm to 16-bit integers, and its inverse. NaN or
/// infinity: the integers are zero and the inverse is NaN, which reaches every score.
fn factor(largest: f32, norm: f32) -> (f32, f32) {
    if largest < TINY {
        return (0.0, 0.0);
    }
    if largest < f32::INFINITY && norm < f32::INFINITY {
        let f = (MOST * MOST_FACTOR / largest).min(NORM / norm);
        return (f, 1.0 / f);
    }
    (0.0, f32::NAN)
}

/// The factor of a block whose largest magnitude, in 16-bit integers, is `largest`.
fn block_factor(largest: f32) -> f32 {
    (largest / MOST).ceil().clamp(1.0, MOST_FACTOR)
}

/// Rounds a block to 8 bits: its factor, and its integers, zero past the end.
#[inline(always)]
fn pack<S: Simd>(s: S, x: &[f32], f: f32) -> (u8, [i8; BLOCK]) {
    let mut out = [0; BLOCK];
    if f == 0.0 {
        return (1, out);
    }
    let m = block_factor(extent(s, x).0 * f);
    let g = s.splat(f / m);
    for i in (0..x.len()).step_by(16) {
        // SAFETY: the array has 16 values from `i` on.
        unsafe { s.store_i8(out.as_mut_ptr().add(i), s.round(s.mul(load_at(s, x, i), g))) };
    }
    (m as u8, out)
}

/// Stores a key and a value in one cell of an 8-bit page.
pub struct PackCell<'a> {
    /// Sizes.
    pub shape: HeadShape,
    /// Position in the page.
    pub cell: usize,
    /// `[dim_k]`
    pub key: &'a [f32],
    /// `[dim_v]`
    pub value: &'a [f32],
    /// The page's record, `[packed_page_bytes]`. Others may write other cells of it meanwhile.
    pub page: *mut u8,
}

impl Op for PackCell<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, cell, page) = (self.shape, self.cell, self.page);
        let at = Layout::of(shape);
        assert!(cell < PAGE && self.key.len() == shape.dim_k && self.value.len() == shape.dim_v);
        let (largest, norm) = extent(s, self.key);
        let (f, inverse_k) = factor(largest, norm);
        for (b, block) in self.key.chunks(BLOCK).enumerate() {
            let (m, q) = pack(s, block, f);
            // SAFETY: blocks and pairs below those of the key, the cell below PAGE: inside the record.
            unsafe {
                page.add(at.key_factors + b * PAGE + cell).write(m);
                for (j, pair) in q.chunks_exact(2).enumerate().take(block.len().div_ceil(2)) {
                    let to = ((b * BLOCK / 2 + j) * PAGE + cell) * 2;
                    page.add(to).cast::<[i8; 2]>().write_unaligned([pair[0], pair[1]]);
                }
            }
        }
        let (largest, _) = extent(s, self.value);
        let (f, inverse_v) = factor(largest, 0.0);
        let (pair, odd) = (cell / 2, cell % 2);
        for (b, block) in self.value.chunks(BLOCK).enumerate() {
            let (m, q) = pack(s, block, f);
            // SAFETY: blocks and dimensions below `padded_v`: inside the record.
            unsafe {
                page.add(at.value_factors + (pair * at.blocks_v + b) * 2 + odd).write(m);
                for (j, q) in q.into_iter().enumerate().take(block.len().next_multiple_of(16)) {
                    let to = at.values + (pair * shape.padded_v() + b * BLOCK + j) * 2 + odd;
                    page.add(to).cast::<i8>().write(q);
                }
            }
        }
        // SAFETY: both scales are inside the record.
        unsafe {
            page.add(at.scales + 4 * cell).cast::<f32>().write_unaligned(inverse_k);
            page.add(at.scales + 4 * (PAGE + cell)).cast::<f32>().write_unaligned(inverse_v);
        }
    }
}

/// Makes a 16-bit page of an 8-bit one.
pub struct Unpack<'a> {
    /// Sizes.
    pub shape: HeadShape,
    /// The 8-bit record.
    pub packed: *const u8,
    /// The record that will be read next, if any: it is asked for meanwhile.
    pub ahead: Option<*const u8>,
    /// The 16-bit record, `[page_bytes]`.
    pub page: &'a mut [u8],
}

impl Op for Unpack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, at) = (self.shape, Layout::of(self.shape));
        assert!(self.page.len() >= shape.page_bytes());
        let page = self.page.as_mut_ptr();
        if let Some(next) = self.ahead {
            for line in (0..at.end).step_by(64) {
                prefetch::<false>(next.wrapping_add(line));
            }
        }
        // SAFETY: the packed record has all its parts, as its maker promises; the page is long enough.
        unsafe {
            for first in (0..shape.pairs_k()).step_by(BLOCK / 2) {
                let factors = self.packed.add(at.key_factors + first / (BLOCK / 2) * PAGE);
                let m = [doubled(s, factors), doubled(s, factors.add(16))];
                for i in first..shape.pairs_k().min(first + BLOCK / 2) {
                    for (h, m) in m.into_iter().enumerate() {
                        let from = self.packed.add((i * PAGE + 16 * h) * 2);
                        s.store_i(page.add((i * PAGE + 16 * h) * 4), s.mul_i16(s.load_i8(from), m));
                    }
                }
            }
            let scales = self.packed.add(at.scales);
            for i in (0..2 * PAGE * 4).step_by(64) {
                s.store_i(page.add(shape.scales_at() + i), s.load_i(scales.add(i)));
            }
            for pair in 0..PAGE / 2 {
                let factors = self.packed.add(at.value_factors + pair * at.blocks_v * 2);
                for d in (0..shape.padded_v()).step_by(16) {
                    let m = [*factors.add(d / BLOCK * 2), *factors.add(d / BLOCK * 2 + 1)];
                    let m = s.splat_i(i32::from(m[0]) | i32::from(m[1]) << 16);
                    let i = pair * shape.padded_v() + d;
                    let v = s.mul_i16(s.load_i8(self.packed.add(at.values + 2 * i)), m);
                    s.store_i(page.add(shape.values_at() + 4 * i), v);
                }
            }
        }
    }
}

/// Both halves of lane `i`: the byte at `p + i`.
#[inline(always)]
unsafe fn doubled<S: Simd>(s: S, p: *const u8) -> S::I {
    let mut lanes = [0i32; 16];
    for (i, lane) in lanes.iter_mut().enumerate() {
        // SAFETY: the caller vouches for 16 bytes.
        *lane = i32::from(unsafe { *p.add(i) }) * 0x1_0001;
    }
    // SAFETY: the array is 64 bytes.
    unsafe { s.load_i(lanes.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::super::{AttendPage, Finish, Isa, QuantizeQuery, Query, State, StoreCell};
    use super::*;

    fn row(n: usize, random: &mut Random, extreme: bool) -> Vec<f32> {
        let special = [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e-40, -1e-38, f32::MAX, 0.0, -0.0, 1e-30];
        let size = 10f32.powi(random.below(7) as i32 - 3);
        let special = |random: &mut Random| special[random.below(special.len())];
        (0..n)
            .map(|i| match extreme && random.below(20) == 0 {
                true => special(random),
                // blocks of very different size
                false => random.float() * size * [1.0, 0.01, 30.0][i / 32 % 3],
            })
            .collect()
    }

    /// What a row becomes in 16-bit integers, and its scale: naively.
    fn naive(x: &[f32], norm_counts: bool) -> (Vec<i32>, f32) {
        let largest = x.iter().fold(0.0f32, |m, v| if v.is_nan() { f32::NAN } else { m.max(v.abs()) });
        let bad = x.iter().any(|v| !v.is_finite());
        if !bad && largest < 1e-30 {
            return (vec![0; x.len()], 0.0);
        }
        // the norm in the kernel's order of additions: 16 lanes, then by halves
        let mut lanes = [0.0f32; 16];
        x.iter().enumerate().for_each(|(i, v)| lanes[i % 16] = v.mul_add(*v, lanes[i % 16]));
        let mut n = 8;
        while n > 0 {
            (0..n).for_each(|i| lanes[i] += lanes[i + n]);
            n /= 2;
        }
        let norm = if norm_counts { lanes[0].sqrt() } else { 0.0 };
        if bad || !norm.is_finite() {
            return (vec![0; x.len()], f32::NAN);
        }
        let f = (127.0 * 255.0 / largest).min(45_000.0 / norm);
        let block = |block: &[f32]| -> Vec<i32> {
            let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) * f;
            let m = (largest / 127.0).ceil().clamp(1.0, 255.0);
            block.iter().map(|v| (v * (f / m)).round_ties_even() as i32 * m as i32).collect()
        };
        (x.chunks(32).flat_map(block).collect(), 1.0 / f)
    }

    const SHAPES: [(usize, usize); 6] = [(64, 64), (256, 256), (32, 16), (33, 48), (80, 40), (128, 96)];

    /// Cells in both forms: 8 bits unpacked, with the rows they were made of.
    fn filled(
        isa: Isa,
        shape: HeadShape,
        seed: u64,
        extreme: bool,
    ) -> (Vec<u8>, Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let mut random = Random::new(seed);
        let mut packed = vec![0u8; packed_page_bytes(shape)];
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for cell in 0..PAGE {
            keys.push(row(shape.dim_k, &mut random, extreme));
            values.push(row(shape.dim_v, &mut random, extreme));
            let (key, value, page) = (&keys[cell][..], &values[cell][..], packed.as_mut_ptr());
            isa.run(PackCell { shape, cell, key, value, page });
        }
        let mut page = vec![0xaau8; shape.page_bytes()];
        isa.run(Unpack { shape, packed: packed.as_ptr(), ahead: None, page: &mut page });
        (page, keys, values)
    }

    #[test]
    fn unpacked_pages_are_the_naive_ones_bit_for_bit() {
        for (i, (dim_k, dim_v)) in SHAPES.into_iter().enumerate() {
            let shape = HeadShape { dim_k, dim_v };
            for (seed, extreme) in [(i as u64, false), (100 + i as u64, true)] {
                for isa in Isa::all() {
                    let (page, keys, values) = filled(isa, shape, seed, extreme);
                    let i16_at = |at: usize| i32::from(i16::from_le_bytes([page[at], page[at + 1]]));
                    let f32_at = |at: usize| f32::from_le_bytes(page[at..at + 4].try_into().unwrap());
                    for cell in 0..PAGE {
                        let (k, k_scale) = naive(&keys[cell], true);
                        let found: Vec<i32> =
                            (0..dim_k).map(|d| i16_at((d / 2 * PAGE + cell) * 4 + d % 2 * 2)).collect();
                        assert_eq!(found, k, "{} {shape:?} key {cell}", isa.name());
                        let (v, v_scale) = naive(&values[cell], false);
                        let at = |d: usize| (cell / 2 * shape.padded_v() + d) * 4 + cell % 2 * 2;
                        let found: Vec<i32> = (0..dim_v).map(|d| i16_at(shape.values_at() + at(d))).collect();
                        assert_eq!(found, v, "{} {shape:?} value {cell}", isa.name());
                        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                        assert!(same(f32_at(shape.scales_at() + 4 * cell), k_scale), "{shape:?} {cell}");
                        assert!(same(f32_at(shape.scales_at() + 4 * (PAGE + cell)), v_scale));
                    }
                }
            }
        }
    }

    /// No sum of products of a key with a query leaves 32 bits, whatever the rows.
    #[test]
    fn keys_keep_below_the_norm_that_sums_allow() {
        let mut random = Random::new(9);
        for round in 0..400 {
            let n = [64, 128, 256, 512][round % 4];
            let mut x = row(n, &mut random, false);
            if round % 5 == 0 {
                x.iter_mut().for_each(|v| *v = v.signum()); // all alike: every rounding the same way
            }
            let (k, _) = naive(&x, true);
            let square: i64 = k.iter().map(|v| i64::from(*v).pow(2)).sum();
            assert!((square as f64).sqrt() < 46_300.0, "{}", (square as f64).sqrt());
        }
    }

    /// Attention over 8-bit pages is near that over exact keys and values.
    #[test]
    fn attention_is_near_the_exact_one() {
        let shape = HeadShape { dim_k: 64, dim_v: 64 };
        for isa in Isa::all() {
            let mut random = Random::new(4);
            let mut off = [0.0f64; 2];
            for _ in 0..8 {
                let rows = |random: &mut Random| -> Vec<Vec<f32>> {
                    (0..PAGE).map(|_| (0..64).map(|_| random.float()).collect()).collect()
                };
                let (keys, values) = (rows(&mut random), rows(&mut random));
                let query: Vec<f32> = (0..64).map(|_| random.float()).collect();
                let mut packed = vec![0u8; packed_page_bytes(shape)];
                let mut pages = [vec![0u8; shape.page_bytes()], vec![0u8; shape.page_bytes()]];
                for cell in 0..PAGE {
                    let (key, value) = (&keys[cell][..], &values[cell][..]);
                    isa.run(PackCell { shape, cell, key, value, page: packed.as_mut_ptr() });
                    isa.run(StoreCell { shape, cell, key, value, page: pages[0].as_mut_ptr() });
                }
                isa.run(Unpack { shape, packed: packed.as_ptr(), ahead: None, page: &mut pages[1] });
                let exact = exact(&keys, &values, &query);
                for (page, off) in pages.iter().zip(&mut off) {
                    let found = attend(isa, shape, page, &query);
                    let far: f64 = found.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
                    *off += far;
                }
            }
            let [wide, narrow] = off.map(|o| (o / (8.0 * 64.0)).sqrt());
            assert!(wide < 1e-4 && narrow < 5e-3 && narrow > wide, "{}: {wide} {narrow}", isa.name());
        }
    }

    fn exact(keys: &[Vec<f32>], values: &[Vec<f32>], query: &[f32]) -> Vec<f64> {
        let dot = |k: &[f32]| k.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let weights: Vec<f64> = keys.iter().map(|k| dot(k).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..64)
            .map(|d| values.iter().zip(&weights).map(|(v, w)| f64::from(v[d]) * w).sum::<f64>() / sum)
            .collect()
    }

    fn attend(isa: Isa, shape: HeadShape, page: &[u8], query: &[f32]) -> Vec<f32> {
        let mut q = vec![0i16; shape.pairs_k() * 2];
        let scale = isa.run(QuantizeQuery { x: query, out: &mut q });
        let (mut states, mut gathered) = ([State::EMPTY], vec![0.0; shape.padded_v()]);
        isa.run(AttendPage {
            shape,
            page: page.as_ptr(),
            ahead: None,
            queries: &[Query { q: q.as_ptr().cast(), scale, from: 0, to: PAGE as u32 }],
            softcap: None,
            states: &mut states,
            values: &mut gathered,
        });
        let mut out = vec![0.0; shape.dim_v];
        isa.run(Finish { state: states[0], sink: None, values: &gathered, out: &mut out });
        out
    }
}
