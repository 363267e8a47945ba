//! The sixteen lanes as an array: the definition the instruction sets are held to, and the path of
//! machines that have none of them.

use super::lanes::Lanes;

/// Plain Rust; every machine has it.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// One lane at a time.
fn each(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

fn bits(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> bool) -> u16 {
    (0..16).fold(0, |m, i| m | u16::from(f(a[i], b[i])) << i)
}

impl Lanes for Scalar {
    type V = [f32; 16];

    fn splat(self, x: f32) -> Self::V {
        [x; 16]
    }
    fn load(self, x: &[f32; 16]) -> Self::V {
        *x
    }
    fn store(self, x: Self::V, out: &mut [f32; 16]) {
        *out = x;
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a + b)
    }
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a - b)
    }
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a * b)
    }
    fn greater(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    fn pick(self, bits: u16, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { a[i] } else { b[i] })
    }
    fn ge(self, a: Self::V, b: Self::V) -> u16 {
        bits(a, b, |a, b| a >= b)
    }
    fn gt(self, a: Self::V, b: Self::V) -> u16 {
        bits(a, b, |a, b| a > b)
    }
    fn zero_below(self, a: Self::V, x: Self::V, floor: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] >= floor[i] { a[i] } else { 0.0 })
    }
    fn times_pow2(self, a: Self::V, rounded: Self::V) -> Self::V {
        each(a, rounded, |a, n| f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23)))
    }
}
