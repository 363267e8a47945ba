//! Tensor types as ggml knows them.

use crate::{Result, error::ensure, sys};

/// A tensor type of the linked ggml, by its number in model files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type(u32);

impl Type {
    /// 32-bit float.
    pub const F32: Self = Self(sys::GGML_TYPE_F32);
    /// 16-bit float.
    pub const F16: Self = Self(sys::GGML_TYPE_F16);
    /// bfloat16.
    pub const BF16: Self = Self(sys::GGML_TYPE_BF16);
    /// 32-bit integer.
    pub const I32: Self = Self(sys::GGML_TYPE_I32);
    /// 64-bit integer.
    pub const I64: Self = Self(sys::GGML_TYPE_I64);
    /// 8-bit blocks of 32 with one scale.
    pub const Q8_0: Self = Self(sys::GGML_TYPE_Q8_0);

    /// The type with this number; `None` when the linked ggml has none (or removed it).
    pub fn from_number(number: u32) -> Option<Self> {
        if number >= sys::GGML_TYPE_COUNT {
            return None;
        }
        // SAFETY: the number is below the count, which is all that ggml checks; removed types have size 0.
        (unsafe { sys::ggml_type_size(number) } > 0).then_some(Self(number))
    }

    /// Every type of the linked ggml.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..sys::GGML_TYPE_COUNT).filter_map(Self::from_number)
    }

    /// The number in files.
    pub fn number(self) -> u32 {
        self.0
    }

    /// ggml's name for it.
    pub fn name(self) -> &'static str {
        // SAFETY: the number is valid by construction; ggml returns a string literal.
        unsafe { std::ffi::CStr::from_ptr(sys::ggml_type_name(self.0)) }.to_str().unwrap_or("?")
    }

    /// Values in a block.
    pub fn block_values(self) -> usize {
        // SAFETY: the number is valid by construction.
        unsafe { sys::ggml_blck_size(self.0) as usize }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        // SAFETY: the number is valid by construction.
        unsafe { sys::ggml_type_size(self.0) }
    }

    /// Whether values are packed in blocks with a scale.
    pub fn is_quantized(self) -> bool {
        // SAFETY: the number is valid by construction.
        unsafe { sys::ggml_is_quantized(self.0) }
    }

    /// Bytes of a row of `n` values; `None` if they do not fill whole blocks or on overflow.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let values = self.block_values();
        n.is_multiple_of(values).then(|| (n / values).checked_mul(self.block_bytes())).flatten()
    }

    /// Whether rows of this type can be looked up (`get_rows`) on the CPU.
    pub(crate) fn has_rows(self) -> bool {
        self != Self(sys::GGML_TYPE_Q8_K)
            && (self.is_quantized() || matches!(self, Self::F32 | Self::F16 | Self::BF16))
    }

    /// Whether the CPU has a dot product for it, so that it can be the left side of a product.
    pub(crate) fn has_dot(self) -> bool {
        // SAFETY: the number is valid by construction; ggml returns a pointer into a static table.
        let traits = unsafe { &*sys::ggml_get_type_traits_cpu(self.0) };
        traits.vec_dot.is_some() && self.has_rows()
    }

    /// Whether rows of floats can be stored as this type on the CPU.
    pub(crate) fn has_from_float(self) -> bool {
        // SAFETY: as in `has_dot`.
        unsafe { (*sys::ggml_get_type_traits_cpu(self.0)).from_float.is_some() }
    }

    /// Turns stored values into floats. `bytes` must be whole blocks for exactly `out.len()` values.
    /// # Errors `Invalid` when lengths do not fit, `Unsupported` when ggml cannot convert the type.
    pub fn to_f32(self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        ensure!(
            "to_f32",
            self.row_bytes(out.len()) == Some(bytes.len()),
            "{} bytes of {self:?} for {} values",
            bytes.len(),
            out.len()
        );
        crate::init()?;
        if self == Self::F32 {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
            return Ok(());
        }
        // SAFETY: the number is valid by construction; ggml returns a pointer into a static table.
        let convert = unsafe { (*sys::ggml_get_type_traits(self.0)).to_float };
        let Some(convert) = convert else {
            return Err(crate::Error::unsupported("to_f32", format!("ggml cannot convert {self:?}")));
        };
        // The decoders read blocks through typed pointers; a copy gives them the alignment they assume.
        let aligned: Vec<u64>;
        let source = if bytes.as_ptr().addr().is_multiple_of(8) {
            bytes.as_ptr()
        } else {
            aligned = bytes
                .chunks(8)
                .map(|c| {
                    let mut w = [0; 8];
                    w[..c.len()].copy_from_slice(c);
                    u64::from_ne_bytes(w)
                })
                .collect();
            aligned.as_ptr().cast()
        };
        // SAFETY: `source` holds exactly the blocks of `out.len()` values (checked above), `out` has room for them.
        unsafe { convert(source.cast(), out.as_mut_ptr(), out.len() as i64) };
        Ok(())
    }
}

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
