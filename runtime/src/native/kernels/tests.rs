//! Every kernel on every instruction set of this machine against the naive twin.

use super::scalar::{Block, block, dequantize_row};
use super::*;
use GgmlType as T;

/// A small generator, so that failures repeat.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 >> 33 ^ self.0 >> 18;
        x as u32
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// −1..1
    pub fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 31) as f32 - 1.0
    }
}

pub const QUANTISED: [T; 13] = [
    T::Q4_0,
    T::Q4_1,
    T::Q5_0,
    T::Q5_1,
    T::Q8_0,
    T::Q2_K,
    T::Q3_K,
    T::Q4_K,
    T::Q5_K,
    T::Q6_K,
    T::IQ4_NL,
    T::IQ4_XS,
    T::MXFP4,
];

/// Where a storage block has its half floats.
fn halves(ty: T) -> &'static [usize] {
    match ty {
        T::Q4_1 | T::Q5_1 | T::Q4_K | T::Q5_K => &[0, 2],
        T::Q2_K => &[80, 82],
        T::Q3_K => &[108],
        T::Q6_K => &[208],
        T::MXFP4 => &[],
        _ => &[0],
    }
}

/// Random rows: any bits for levels and scales of blocks, sane half floats (or extreme ones).
fn weights(ty: T, n_rows: usize, n_in: usize, random: &mut Random, extreme: bool) -> Vec<u8> {
    let mut data: Vec<u8> = (0..ty.bytes_for(n_in).unwrap() * n_rows).map(|_| random.next() as u8).collect();
    for unit in data.chunks_exact_mut(ty.block_bytes()) {
        for &at in halves(ty) {
            let mut h = half::f16::from_f32(random.float() * 0.1);
            if extreme {
                h = half::f16::from_bits([0, 1, 0x8001, 0x7bff, 0xfbff, 0x7c00, 0x7e00][random.below(7)]);
            }
            unit[at..at + 2].copy_from_slice(&h.to_le_bytes());
        }
        if ty == T::MXFP4 {
            unit[0] =
                if extreme { [0, 1, 2, 254, 255][random.below(5)] } else { 118 + random.below(8) as u8 };
        }
        if extreme && random.below(3) == 0 {
            let byte = [0, 0xff, 0x80, 0x7f][random.below(4)];
            let (from, to) = if ty == T::Q8_0 { (2, 34) } else { (16, 16) };
            unit[from..to].fill(byte);
        }
    }
    data
}

fn activations(n: usize, random: &mut Random, extreme: bool) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e-40, -1e-38, f32::MAX, 0.0, -0.0, 1e-30, 3e38];
    (0..n)
        .map(|_| match extreme && random.below(40) == 0 {
            true => special[random.below(special.len())],
            false => random.float() * 10f32.powi(random.below(5) as i32 - 2),
        })
        .collect()
}

/// The activations' record, naively: levels and scale of each block.
fn naive_levels(x: &[f32]) -> Vec<([i32; 32], f32)> {
    x.chunks_exact(32)
        .map(|x| {
            let largest = x.iter().fold(0.0f32, |m, x| if x.is_nan() { f32::NAN } else { m.max(x.abs()) });
            let bad = x.iter().any(|x| !x.is_finite());
            if bad || largest < 1e-30 {
                return ([0; 32], if bad { f32::NAN } else { 0.0 });
            }
            let inverse = 127.0 / largest;
            (std::array::from_fn(|i| (x[i] * inverse).round_ties_even() as i32), largest / 127.0)
        })
        .collect()
}

/// One output by the contract of `matmul`.
fn naive_dot(ty: T, row: &[u8], acts: &[([i32; 32], f32)]) -> f32 {
    let per_unit = ty.block_values() / 32;
    let two = matches!(ty, T::Q2_K | T::Q3_K | T::Q6_K);
    let mins = matches!(ty, T::Q4_1 | T::Q5_1 | T::Q2_K | T::Q4_K | T::Q5_K);
    let mut acc = 0.0f32;
    for (b, (q, scale)) in acts.iter().enumerate() {
        let unit = &row[b / per_unit * ty.block_bytes()..][..ty.block_bytes()];
        let w: Block = block(ty, unit, b % per_unit).unwrap();
        let dot = |r: std::ops::Range<usize>| r.map(|i| w.q[i] * q[i]).sum::<i32>() as f32;
        let sum = |r: std::ops::Range<usize>| scale * r.map(|i| q[i]).sum::<i32>() as f32;
        let t = match two {
            true => dot(16..32).mul_add(w.scale[1], dot(0..16) * w.scale[0]),
            false => dot(0..32) * w.scale[0],
        };
        acc = t.mul_add(*scale, acc);
        match (mins, two) {
            (true, true) => {
                acc = w.min[0].mul_add(sum(0..16), acc);
                acc = w.min[1].mul_add(sum(16..32), acc);
            }
            (true, false) => acc = w.min[0].mul_add(sum(0..32), acc),
            _ => {}
        }
    }
    acc
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// The tile of 16 rows of weights against `n` rows of activations.
fn run(isa: Isa, ty: T, w: &[u8], x: &[f32], n_in: usize, n: usize) -> Vec<f32> {
    let kernel = Kernel::of(ty).unwrap();
    let record = record_bytes(n_in);
    let mut records = vec![0xa5; record * n];
    for (x, record) in x.chunks(n_in).zip(records.chunks_mut(record.max(1))) {
        isa.run(Quantize { x, record });
    }
    let rows = match kernel.quantised {
        true => Rows::new(&records, record, n),
        false => Rows::floats(x, n_in, n),
    };
    let mut tile = vec![f32::NAN; n * GROUP];
    let mut panel = vec![0; panel_bytes(n_in)];
    let row_bytes = ty.bytes_for(n_in).unwrap();
    kernel.run(isa, Group { weights: w, row_bytes, n_in, rows, tile: &mut tile, panel: &mut panel });
    tile
}

#[test]
fn quantised_products_equal_the_contract_bit_for_bit() {
    for isa in Isa::all() {
        for (i, ty) in QUANTISED.into_iter().enumerate() {
            for (extreme, seed) in [(false, 0), (true, 1), (false, 2), (true, 3)] {
                let mut random = Random::new((i * 10 + seed) as u64);
                let n_in = ty.block_values() * (1 + random.below(5));
                let n = [1, 2, 5, 31][seed];
                let w = weights(ty, GROUP, n_in, &mut random, extreme);
                let x = activations(n * n_in, &mut random, extreme && seed == 3);
                let tile = run(isa, ty, &w, &x, n_in, n);
                for t in 0..n {
                    let acts = naive_levels(&x[t * n_in..][..n_in]);
                    for r in 0..GROUP {
                        let row = &w[r * ty.bytes_for(n_in).unwrap()..][..ty.bytes_for(n_in).unwrap()];
                        let (found, expected) = (tile[t * GROUP + r], naive_dot(ty, row, &acts));
                        assert!(
                            same(found, expected),
                            "{} {ty} {n_in}x{n} [{t}][{r}]: {found} {expected}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn float_products_equal_the_contract_bit_for_bit() {
    for isa in Isa::all() {
        for ty in [T::F32, T::F16, T::BF16] {
            for (seed, n_in) in [1, 3, 4, 7, 8, 16, 33, 64, 100].into_iter().enumerate() {
                let mut random = Random::new(seed as u64);
                let extreme = seed % 2 == 1;
                let n = [1, 2, 3, 21][seed % 4];
                let values = activations(GROUP * n_in, &mut random, extreme);
                let bytes = |x: &f32| match ty {
                    T::F32 => x.to_le_bytes().to_vec(),
                    T::F16 => half::f16::from_f32(*x).to_le_bytes().to_vec(),
                    _ => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
                };
                let w: Vec<u8> = values.iter().flat_map(bytes).collect();
                let x = activations(n * n_in, &mut random, extreme);
                let tile = run(isa, ty, &w, &x, n_in, n);
                for t in 0..n {
                    for r in 0..GROUP {
                        let mut row = vec![0.0; n_in];
                        let row_bytes = ty.bytes_for(n_in).unwrap();
                        assert!(dequantize_row(ty, &w[r * row_bytes..][..row_bytes], &mut row));
                        let x = &x[t * n_in..][..n_in];
                        let expected = row.iter().zip(x).fold(0.0f32, |acc, (w, x)| w.mul_add(*x, acc));
                        let found = tile[t * GROUP + r];
                        assert!(
                            same(found, expected),
                            "{} {ty} {n_in}x{n} [{t}][{r}]: {found} {expected}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let isa = Isa::detect();
    for ty in QUANTISED.into_iter().chain([T::F32, T::F16, T::BF16]) {
        let mut random = Random::new(5);
        let (n_in, n) = (256 * 2, 37);
        let w = match ty.block_values() {
            1 => {
                (0..ty.bytes_for(n_in).unwrap() * GROUP).map(|i| if i % 2 == 1 { 0x3c } else { 7 }).collect()
            }
            _ => weights(ty, GROUP, n_in, &mut random, false),
        };
        let x = activations(n * n_in, &mut random, false);
        let whole = run(isa, ty, &w, &x, n_in, n);
        for _ in 0..20 {
            let from = random.below(n);
            let len = 1 + random.below(n - from);
            let part = run(isa, ty, &w, &x[from * n_in..][..len * n_in], n_in, len);
            assert_eq!(part, whole[from * GROUP..][..len * GROUP], "{ty} {from}+{len}");
        }
    }
}

#[test]
fn products_are_close_to_exact_ones() {
    for ty in QUANTISED {
        let mut random = Random::new(11);
        let n_in = 512;
        let w = weights(ty, GROUP, n_in, &mut random, false);
        let x: Vec<f32> = (0..n_in).map(|_| random.float()).collect();
        let tile = run(Isa::detect(), ty, &w, &x, n_in, 1);
        for (r, found) in tile.into_iter().enumerate() {
            let mut row = vec![0.0; n_in];
            let row_bytes = ty.bytes_for(n_in).unwrap();
            assert!(dequantize_row(ty, &w[r * row_bytes..][..row_bytes], &mut row));
            let exact: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let size: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
            // Rounding to 127 levels of magnitude 1 has a standard error of 1/(127·√12) for each value.
            let bound = 5.0 * size / (127.0 * 12f64.sqrt());
            assert!((f64::from(found) - exact).abs() < bound, "{ty} {r}: {found} {exact} ± {bound}");
        }
    }
}
