//! The naive twin: one value at a time, straight from the format's definition. It defines what the vector
//! kernels compute, dequantises embeddings, and serves processors that have none of the vector sets.

use super::acts::{BLOCK, Meta, at};
use super::format::{FP4_LEVELS, IQ4_LEVELS};
use super::matmul::{GROUP, Group};
use super::portable::f16_to_f32;
use crate::gguf::GgmlType;

/// 32 values of one row: value `i` is `scale[i / 16] · q[i] + min[i / 16]`.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Signed levels.
    pub q: [i32; BLOCK],
    /// Scale of each half.
    pub scale: [f32; 2],
    /// What is added, for each half.
    pub min: [f32; 2],
}

fn half(b: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([b[at], b[at + 1]]))
}

fn nibble(b: &[u8], i: usize) -> i32 {
    i32::from(if i < 16 { b[i] & 15 } else { b[i - 16] >> 4 })
}

fn levels(f: impl Fn(usize) -> i32) -> [i32; BLOCK] {
    std::array::from_fn(f)
}

fn even(q: [i32; BLOCK], scale: f32, min: f32) -> Block {
    Block { q, scale: [scale; 2], min: [min; 2] }
}

/// The six-bit scale and min `j` of Q4_K and Q5_K.
fn six_bits(s: &[u8], j: usize) -> (f32, f32) {
    let (sc, m) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(sc), f32::from(m))
}

fn q3k_scale(s: &[u8], i: usize) -> f32 {
    let low = s[i % 8] >> (4 * (i / 8)) & 15;
    let high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    f32::from(low | high << 4) - 32.0
}

fn fp4_scale(e: u8) -> f32 {
    // 2^(e − 128), the two smallest being subnormal.
    f32::from_bits(if e < 2 { 0x20_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// Block `j` of the storage block `b`; `None` for types without a kernel or without blocks.
pub fn block(ty: GgmlType, b: &[u8], j: usize) -> Option<Block> {
    use GgmlType as T;
    let bit = |at: usize, i: usize| i32::from(b[at + i / 8] >> (i % 8) & 1);
    Some(match ty {
        T::Q4_0 => even(levels(|i| nibble(&b[2..], i) - 8), half(b, 0), 0.0),
        T::Q4_1 => even(levels(|i| nibble(&b[4..], i)), half(b, 0), half(b, 2)),
        T::Q5_0 => even(levels(|i| (nibble(&b[6..], i) | bit(2, i) << 4) - 16), half(b, 0), 0.0),
        T::Q5_1 => even(levels(|i| nibble(&b[8..], i) | bit(4, i) << 4), half(b, 0), half(b, 2)),
        T::Q8_0 => even(levels(|i| i32::from(b[2 + i] as i8)), half(b, 0), 0.0),
        T::IQ4_NL => even(levels(|i| IQ4_LEVELS[nibble(&b[2..], i) as usize].into()), half(b, 0), 0.0),
        T::MXFP4 => even(levels(|i| FP4_LEVELS[nibble(&b[1..], i) as usize].into()), fp4_scale(b[0]), 0.0),
        T::Q2_K => {
            let q = levels(|i| i32::from(b[16 + 32 * (j / 4) + i] >> (2 * (j % 4)) & 3));
            let part = |f: fn(u8) -> u8, x: f32| [0, 1].map(|h| x * f32::from(f(b[2 * j + h])));
            Block { q, scale: part(|s| s & 15, half(b, 80)), min: part(|s| s >> 4, -half(b, 82)) }
        }
        T::Q3_K => {
            let low = |i: usize| i32::from(b[32 + 32 * (j / 4) + i] >> (2 * (j % 4)) & 3);
            let high = |i: usize| i32::from(b[i] >> j & 1);
            let scale = [0, 1].map(|h| half(b, 108) * q3k_scale(&b[96..108], 2 * j + h));
            Block { q: levels(|i| low(i) + 4 * high(i) - 4), scale, min: [0.0; 2] }
        }
        T::Q4_K | T::Q5_K => {
            let (sc, m) = six_bits(&b[4..16], j);
            let low = if ty == T::Q4_K { &b[16..] } else { &b[48..] };
            let low = |i: usize| i32::from(low[32 * (j / 2) + i] >> (4 * (j % 2)) & 15);
            let high = |i: usize| if ty == T::Q4_K { 0 } else { i32::from(b[16 + i] >> j & 1) << 4 };
            even(levels(|i| low(i) | high(i)), half(b, 0) * sc, -half(b, 2) * m)
        }
        T::Q6_K => {
            let low = |i: usize| i32::from(b[64 * (j / 4) + 32 * (j % 2) + i] >> (4 * (j % 4 / 2)) & 15);
            let high = |i: usize| i32::from(b[128 + 32 * (j / 4) + i] >> (2 * (j % 4)) & 3) << 4;
            let scale = [0, 1].map(|h| half(b, 208) * f32::from(b[192 + 2 * j + h] as i8));
            Block { q: levels(|i| (low(i) | high(i)) - 32), scale, min: [0.0; 2] }
        }
        T::IQ4_XS => {
            let low = b[4 + j / 2] >> (4 * (j % 2)) & 15;
            let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * j) & 3;
            let scale = half(b, 0) * (f32::from(u16::from(low) | high << 4) - 32.0);
            even(levels(|i| IQ4_LEVELS[nibble(&b[8 + 16 * j..], i) as usize].into()), scale, 0.0)
        }
        _ => return None,
    })
}

/// Values of a row of any type with a kernel, into `out`; false if there is no kernel.
pub fn dequantize_row(ty: GgmlType, row: &[u8], out: &mut [f32]) -> bool {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => {
            for (x, bytes) in out.iter_mut().zip(row.chunks_exact(ty.block_bytes())) {
                *x = float_value(ty, bytes);
            }
            true
        }
        _ => dequantize_blocks(ty, row, out),
    }
}

/// One value of F32, F16 or BF16.
fn float_value(ty: GgmlType, b: &[u8]) -> f32 {
    match ty {
        GgmlType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        GgmlType::F16 => half(b, 0),
        _ => f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16),
    }
}

fn dequantize_blocks(ty: GgmlType, row: &[u8], out: &mut [f32]) -> bool {
    let per_unit = ty.block_values() / BLOCK;
    for (b, values) in out.chunks_exact_mut(BLOCK).enumerate() {
        let from = b / per_unit.max(1) * ty.block_bytes();
        let Some(unit) = row.get(from..from + ty.block_bytes()) else { return false };
        let Some(block) = block(ty, unit, b % per_unit.max(1)) else { return false };
        for (i, x) in values.iter_mut().enumerate() {
            *x = block.scale[i / 16] * block.q[i] as f32 + block.min[i / 16];
        }
    }
    true
}

/// Scales belong to halves of a block; there are minima.
fn shape(ty: GgmlType) -> (bool, bool) {
    use GgmlType as T;
    let halves = matches!(ty, T::Q2_K | T::Q3_K | T::Q6_K);
    (halves, matches!(ty, T::Q4_1 | T::Q5_1 | T::Q2_K | T::Q4_K | T::Q5_K))
}

/// The product of a group by the contract of `matmul`, for any type with a kernel.
pub fn group(ty: GgmlType, g: Group<'_>) {
    let Group { weights, row_bytes, n_in, rows, tile, .. } = g;
    tile[..rows.len() * GROUP].fill(0.0);
    for (r, row) in weights.chunks_exact(row_bytes).enumerate().take(GROUP) {
        for (t, out) in tile.chunks_exact_mut(GROUP).enumerate().take(rows.len()) {
            let x = rows.row(t);
            out[r] = match ty.block_values() {
                1 => float_dot(ty, row, x),
                _ => quantised_dot(ty, row, &x[..n_in], &x[n_in..]),
            };
        }
    }
}

fn float_dot(ty: GgmlType, row: &[u8], x: &[u8]) -> f32 {
    let pairs = row.chunks_exact(ty.block_bytes()).zip(x.chunks_exact(4));
    pairs.fold(0.0, |acc, (w, x)| float_value(ty, w).mul_add(float_value(GgmlType::F32, x), acc))
}

fn quantised_dot(ty: GgmlType, row: &[u8], q: &[u8], metas: &[u8]) -> f32 {
    let per_unit = ty.block_values() / BLOCK;
    let mut acc = 0.0;
    for (b, (q, meta)) in q.chunks_exact(BLOCK).zip(metas.chunks_exact(at::SIZE)).enumerate() {
        let unit = &row[b / per_unit * ty.block_bytes()..][..ty.block_bytes()];
        if let Some(w) = block(ty, unit, b % per_unit) {
            acc = block_dot(shape(ty), &w, q, &Meta::read(meta), acc);
        }
    }
    acc
}

fn block_dot((halves, mins): (bool, bool), w: &Block, q: &[u8], meta: &Meta, acc: f32) -> f32 {
    let dot = |h: usize| {
        let pairs = w.q[16 * h..].iter().zip(&q[16 * h..]).take(16);
        pairs.map(|(w, a)| w * i32::from(*a as i8)).sum::<i32>()
    };
    let t = match halves {
        true => (dot(1) as f32).mul_add(w.scale[1], dot(0) as f32 * w.scale[0]),
        false => (dot(0) + dot(1)) as f32 * w.scale[0],
    };
    let acc = t.mul_add(meta.scale, acc);
    match (mins, halves) {
        (false, _) => acc,
        (true, false) => w.min[0].mul_add(meta.sum, acc),
        (true, true) => w.min[1].mul_add(meta.sum_half[1], w.min[0].mul_add(meta.sum_half[0], acc)),
    }
}
