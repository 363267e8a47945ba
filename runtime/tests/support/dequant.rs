//! Stored tensors as plain floats.

use half::{bf16, f16};
use truing::gguf::{GgmlType, Tensor};

/// Every value of the tensor; `None` for block types that only real executors read.
pub fn floats(t: &Tensor) -> Option<Vec<f32>> {
    let bytes: &[u8] = &t.data;
    let block: fn(&[u8], &mut Vec<f32>) = match t.ty {
        GgmlType::F32 => return Some(words(bytes).map(f32::from_le_bytes).collect()),
        GgmlType::F16 => return Some(words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect()),
        GgmlType::BF16 => return Some(words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
        GgmlType::Q8_0 => |b, out| out.extend(b[2..].iter().map(|q| half(b) * f32::from(*q as i8))),
        GgmlType::Q4_0 => |b, out| nibbles(&b[2..], 0, |q| half(b) * (q - 8.0), out),
        GgmlType::Q4_1 => |b, out| nibbles(&b[4..], 0, |q| half(b) * q + half(&b[2..]), out),
        GgmlType::Q5_0 => |b, out| nibbles(&b[6..], word(&b[2..]), |q| half(b) * (q - 16.0), out),
        GgmlType::Q5_1 => |b, out| nibbles(&b[8..], word(&b[4..]), |q| half(b) * q + half(&b[2..]), out),
        GgmlType::MXFP4 => |b, out| {
            const HALVES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let scale = f32::from(i16::from(b[0]) - 127).exp2();
            let value = |q: f32| if q < 8.0 { HALVES[q as usize] } else { -HALVES[q as usize - 8] };
            nibbles(&b[1..], 0, |q| scale * value(q), out);
        },
        _ => return None,
    };
    let mut out = Vec::with_capacity(t.n_values());
    bytes.chunks_exact(t.ty.block_bytes()).for_each(|b| block(b, &mut out));
    Some(out)
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks().0.iter().copied()
}

fn half(b: &[u8]) -> f32 {
    f16::from_le_bytes([b[0], b[1]]).to_f32()
}

fn word(b: &[u8]) -> u32 {
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// The low halves of 16 bytes, then the high ones; a fifth bit of each of the 32 in `high`.
fn nibbles(packed: &[u8], high: u32, value: impl Fn(f32) -> f32, out: &mut Vec<f32>) {
    let quant = |i: usize| (packed[i % 16] >> (4 * (i / 16)) & 15) as u32 | (high >> i & 1) << 4;
    out.extend((0..32).map(|i| value(quant(i) as f32)));
}
