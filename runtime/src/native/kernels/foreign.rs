//! Weight types without a kernel of ours, by ggml's own dot products.
//!
//! Why: a model in which one tensor in ten has such a type need not leave the whole to another executor. A dot product is
//! of one weight row and one row of activations, so what it gives depends on neither batch nor threads. Cost: weights are
//! decoded anew for every row of activations, and those are rounded once for every 16 outputs: as fast as ggml, no faster.
//! It loses where whole models have such types and prompts are long.

use super::Group;
use super::matmul::GROUP;
use crate::gguf::GgmlType;
use truing_ggml::{Kernel as Dots, Type};

/// ggml's kernel for weights of this type.
pub fn kernel(ty: GgmlType) -> Option<Dots> {
    Dots::for_type(Type::from_number(ty as u32)?)
}

/// Fills the group's tile. Panics if its slices are shorter than they must be.
pub fn group(dots: Dots, g: Group<'_>) {
    let Group { weights, row_bytes, n_in, rows, tile, panel } = g;
    // ggml reads what it has rounded through pointers to aligned blocks
    let from = panel.as_ptr().align_offset(8);
    let n_bytes = dots.activation().row_bytes(n_in).unwrap_or(usize::MAX);
    let rounded = &mut panel[from..][..n_bytes];
    for (t, out) in tile.chunks_exact_mut(GROUP).enumerate().take(rows.len()) {
        let is_rounded = dots.quantize(floats(rows.row(t)), rounded).is_ok();
        for (row, out) in weights.chunks_exact(row_bytes).zip(out) {
            // lengths and alignment are those that the file was checked for: there is nothing that could fail
            *out = dots.dot(n_in, row, rounded).ok().filter(|_| is_rounded).unwrap_or(f32::NAN);
        }
    }
}

/// A row of f32 that `Rows` holds as bytes.
fn floats(bytes: &[u8]) -> &[f32] {
    // SAFETY: any bits are an f32.
    let (before, values, _) = unsafe { bytes.align_to::<f32>() };
    assert!(before.is_empty(), "rows of floats were made of floats");
    values
}

/// Stored values as f32; false if ggml cannot read the type or lengths differ.
pub fn dequantize_row(ty: GgmlType, row: &[u8], out: &mut [f32]) -> bool {
    Type::from_number(ty as u32).is_some_and(|ty| ty.to_f32(row, out).is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::super::{Isa, Kernel, Rows, panel_bytes};
    use super::*;
    use GgmlType as T;

    const TYPES: [T; 9] =
        [T::IQ1_S, T::IQ1_M, T::IQ2_XXS, T::IQ2_XS, T::IQ2_S, T::IQ3_XXS, T::IQ3_S, T::TQ1_0, T::TQ2_0];

    /// Rows of any bits, with scales of an ordinary size.
    fn weights(ty: T, n_in: usize, random: &mut Random) -> Vec<u8> {
        let mut data: Vec<u8> =
            (0..ty.bytes_for(n_in).unwrap() * GROUP).map(|_| random.next() as u8).collect();
        let scale = half::f16::from_f32(0.02).to_le_bytes();
        for unit in data.chunks_exact_mut(ty.block_bytes()) {
            let at = if matches!(ty, T::TQ1_0 | T::TQ2_0) { ty.block_bytes() - 2 } else { 0 };
            unit[at..at + 2].copy_from_slice(&scale);
            if ty == T::IQ1_M {
                // its scale lies in four pieces, the high parts of 16-bit numbers
                for (i, nibble) in [0x1u8, 0x2, 0x8, 0x2].into_iter().enumerate() {
                    let at = ty.block_bytes() - 8 + 2 * i + 1;
                    unit[at] = unit[at] & 0x0f | nibble << 4;
                }
            }
        }
        data
    }

    fn run(isa: Isa, ty: T, w: &[u8], x: &[f32], n_in: usize) -> Vec<f32> {
        let n = x.len() / n_in;
        let (mut tile, mut panel) = (vec![0.0; n * GROUP], vec![0; panel_bytes(n_in)]);
        let (row_bytes, rows) = (ty.bytes_for(n_in).unwrap(), Rows::floats(x, n_in, n));
        let kernel = Kernel::of(ty).expect("ggml has it");
        kernel.run(isa, Group { weights: w, row_bytes, n_in, rows, tile: &mut tile, panel: &mut panel });
        tile
    }

    #[test]
    fn products_are_near_those_of_decoded_rows_and_the_same_in_any_batch() {
        for ty in TYPES {
            let mut random = Random::new(ty as u64);
            let (n_in, n) = (512, 5);
            let w = weights(ty, n_in, &mut random);
            let x: Vec<f32> = (0..n * n_in).map(|_| random.float()).collect();
            let whole = run(Isa::detect(), ty, &w, &x, n_in);
            for (t, tile) in whole.chunks_exact(GROUP).enumerate() {
                let x = &x[t * n_in..][..n_in];
                assert_eq!(run(Isa::detect(), ty, &w, x, n_in), tile, "{ty} alone");
                for (row, found) in w.chunks_exact(ty.bytes_for(n_in).unwrap()).zip(tile) {
                    let mut decoded = vec![0.0; n_in];
                    assert!(dequantize_row(ty, row, &mut decoded));
                    let products = decoded.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let exact: f64 = products.clone().sum();
                    let size = products.map(|p| p * p).sum::<f64>().sqrt();
                    assert!((f64::from(*found) - exact).abs() < 0.03 * size + 1e-6, "{ty}: {found} {exact}");
                }
            }
        }
    }
}
