//! ggml's dot product of one tensor type, for executors that have no kernel of their own for it.

use crate::{Result, Type, error::ensure, sys};
use std::ffi::c_void;

type Dot = unsafe extern "C" fn(i32, *mut f32, usize, *const c_void, usize, *const c_void, usize, i32);
type FromFloat = unsafe extern "C" fn(*const f32, *mut c_void, i64);

/// The dot product of weight rows of one type with activations quantised for it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    ty: Type,
    activation: Type,
    dot: Dot,
    quantize: Option<FromFloat>,
}

impl Kernel {
    /// The kernel for weights of type `ty`; `None` when ggml has none.
    pub fn for_type(ty: Type) -> Option<Self> {
        crate::init().ok()?;
        if !ty.has_dot() {
            return None;
        }
        // SAFETY: `ty` is a valid type number; ggml returns pointers into static tables.
        let traits = unsafe { &*sys::ggml_get_type_traits_cpu(ty.number()) };
        let activation = Type::from_number(traits.vec_dot_type)?;
        // SAFETY: as above.
        let quantize = unsafe { (*sys::ggml_get_type_traits_cpu(activation.number())).from_float };
        let quantize = if activation == Type::F32 { None } else { Some(quantize?) };
        Some(Self { ty, activation, dot: traits.vec_dot?, quantize })
    }

    /// How activations must be stored.
    pub fn activation(&self) -> Type {
        self.activation
    }

    /// Stores activations as the kernel wants them; `out` holds exactly one row of [`Self::activation`].
    /// # Errors `Invalid` when lengths do not fit.
    pub fn quantize(&self, x: &[f32], out: &mut [u8]) -> Result<()> {
        ensure!(
            "quantize",
            self.activation.row_bytes(x.len()) == Some(out.len()),
            "{} bytes for {} values",
            out.len(),
            x.len()
        );
        ensure!("quantize", out.as_ptr().addr().is_multiple_of(4), "activations must be aligned to 4 bytes");
        match self.quantize {
            // SAFETY: `out` has room for exactly the blocks of `x.len()` values and is aligned (checked above).
            Some(f) => unsafe { f(x.as_ptr(), out.as_mut_ptr().cast(), x.len() as i64) },
            None => {
                for (o, v) in out.chunks_exact_mut(4).zip(x) {
                    o.copy_from_slice(&v.to_ne_bytes());
                }
            }
        }
        Ok(())
    }

    /// `Σ w·x` over `n` values of one weight row and one row of activations.
    /// # Errors `Invalid` when a length or alignment does not fit.
    pub fn dot(&self, n: usize, w: &[u8], x: &[u8]) -> Result<f32> {
        ensure!("dot", self.ty.row_bytes(n) == Some(w.len()), "{} weight bytes for {n} values", w.len());
        ensure!(
            "dot",
            self.activation.row_bytes(n) == Some(x.len()),
            "{} activation bytes for {n} values",
            x.len()
        );
        ensure!("dot", i32::try_from(n).is_ok(), "{n} values in a row");
        let aligned = w.as_ptr().addr().is_multiple_of(4) && x.as_ptr().addr().is_multiple_of(4);
        ensure!(
            "dot",
            aligned || (self.ty.is_quantized() && w.as_ptr().addr().is_multiple_of(2)),
            "rows are not aligned"
        );
        let mut sum = 0.0;
        // SAFETY: both rows hold exactly `n` values of the types this kernel reads (checked above); strides
        // are not used with one row.
        unsafe { (self.dot)(n as i32, &mut sum, 0, w.as_ptr().cast(), 0, x.as_ptr().cast(), 0, 1) };
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dot_product_is_near_the_product_of_its_decoded_rows() {
        let mut n_kernels = 0;
        for ty in Type::all() {
            let Some(kernel) = Kernel::for_type(ty) else { continue };
            let n = 256;
            // Any bytes are blocks; scales in the middle of f16's range keep the values ordinary.
            let w: Vec<u32> = (0..ty.row_bytes(n).unwrap().div_ceil(4))
                .map(|i| 0x2a2a_2a2a ^ ((i as u32 & 7) << 16))
                .collect();
            let w: Vec<u8> = w.iter().flat_map(|v| v.to_ne_bytes()).take(ty.row_bytes(n).unwrap()).collect();
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let mut stored = vec![0u64; kernel.activation().row_bytes(n).unwrap().div_ceil(8)];
            // SAFETY: a vector of u64 may be seen as bytes.
            let stored = unsafe {
                std::slice::from_raw_parts_mut(
                    stored.as_mut_ptr().cast::<u8>(),
                    kernel.activation().row_bytes(n).unwrap(),
                )
            };
            kernel.quantize(&x, stored).unwrap();
            let mut decoded = vec![0.0; n];
            ty.to_f32(&w, &mut decoded).unwrap();
            let exact: f64 = decoded.iter().zip(&x).map(|(a, b)| *a as f64 * *b as f64).sum();
            let size: f64 = decoded.iter().zip(&x).map(|(a, b)| (*a as f64 * *b as f64).abs()).sum();
            let got = kernel.dot(n, &w, stored).unwrap() as f64;
            assert!((got - exact).abs() <= 0.02 * size + 1e-6, "{ty:?}: {got} for {exact} of {size}");
            assert!(kernel.dot(n, &w[1..], stored).is_err());
            n_kernels += 1;
        }
        assert!(n_kernels >= 27, "only {n_kernels} types have a kernel");
    }
}
