//! A tensor where it lies in the model file.

#![allow(unsafe_code)]

use super::GgmlType;
use super::backing::Backing;
use crate::error::Result;
use half::{bf16, f16};
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes of a model file, kept alive by the map or buffer they lie in. Cloning copies no bytes.
#[derive(Clone)]
pub struct Bytes {
    backing: Arc<Backing>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `backing`; `None` if they reach beyond it.
    pub(crate) fn new(backing: Arc<Backing>, range: Range<usize>) -> Option<Self> {
        backing.get(range.clone())?;
        Some(Self { backing, range })
    }

    /// A copy of `bytes` in a buffer of its own that starts at a multiple of 64.
    /// # Errors  `OutOfMemory`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let backing = Backing::copy(bytes)?;
        Ok(Self { range: 0..backing.len(), backing: Arc::new(backing) })
    }

    /// Everything that was mapped (or copied) together with these bytes. Its address is a multiple of the
    /// page size for a map and of 64 for a buffer, so an executor can hand it on as one aligned region.
    pub fn region(&self) -> &[u8] {
        &self.backing
    }

    /// Where these bytes begin in their [`region`](Self::region); the file offset when a whole file is mapped.
    pub fn offset(&self) -> usize {
        self.range.start
    }

    /// Part of these bytes; `None` if `range` reaches beyond them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start;
        Some(Self { backing: self.backing.clone(), range: start + range.start..start + range.end })
    }

    /// The bytes as values of a plain number type; `None` unless address and length fit it exactly.
    fn cast<T: Plain>(&self) -> Option<&[T]> {
        if cfg!(target_endian = "big") {
            return None; // the file is little-endian
        }
        // SAFETY: `Plain` types have no padding and accept every bit pattern; `align_to` yields only
        // properly aligned, in-bounds values, and the unfit rest is refused below.
        let (before, values, after) = unsafe { self.align_to::<T>() };
        (before.is_empty() && after.is_empty()).then_some(values)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.backing[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.range.len(), self.range.start)
    }
}

/// Number types of which every bit pattern is a value.
///
/// # Safety
/// No padding, no invalid bit patterns.
unsafe trait Plain: Copy {}
// SAFETY: IEEE 754 binary32; every pattern is a number, infinity or NaN.
unsafe impl Plain for f32 {}
// SAFETY: `f16` is `repr(transparent)` over `u16`.
unsafe impl Plain for f16 {}
// SAFETY: `bf16` is `repr(transparent)` over `u16`.
unsafe impl Plain for bf16 {}

/// A tensor in the model file: checked, never copied.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the file.
    pub name: Arc<str>,
    /// How values are stored.
    pub ty: GgmlType,
    /// Dimensions, contiguous one first, padded with 1; none is 0 and their product fits `usize`.
    pub dims: [usize; 4],
    /// The stored blocks, exactly as long as type and dimensions say.
    pub data: Bytes,
}

impl Tensor {
    /// The dimensions without trailing ones; at least one.
    pub fn used_dims(&self) -> &[usize] {
        let used = self.dims.iter().rposition(|d| *d != 1).map_or(1, |last| last + 1);
        &self.dims[..used]
    }

    /// Number of values.
    pub fn n_values(&self) -> usize {
        self.dims.iter().product()
    }

    /// Number of rows of `dims[0]` values.
    pub fn n_rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Bytes of one row of `dims[0]` values.
    pub fn row_bytes(&self) -> usize {
        self.dims[0] / self.ty.block_values() * self.ty.block_bytes()
    }

    /// The values in place, in file order; `None` unless the type is `F32` and the data is aligned for it
    /// (always so for a file opened by path, since alignment is checked when it is opened).
    pub fn as_f32(&self) -> Option<&[f32]> {
        (self.ty == GgmlType::F32).then(|| self.data.cast()).flatten()
    }

    /// As [`as_f32`](Self::as_f32) for `F16`.
    pub fn as_f16(&self) -> Option<&[f16]> {
        (self.ty == GgmlType::F16).then(|| self.data.cast()).flatten()
    }

    /// As [`as_f32`](Self::as_f32) for `BF16`.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        (self.ty == GgmlType::BF16).then(|| self.data.cast()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(ty: GgmlType, data: Bytes) -> Tensor {
        Tensor { name: "t".into(), ty, dims: [2, 1, 1, 1], data }
    }

    #[test]
    fn views_need_type_alignment_and_whole_values() {
        let mut raw = vec![0u8; 2];
        raw.extend([1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        raw.extend([0, 0]);
        let all = Bytes::copy_of(&raw).unwrap();
        let aligned = Bytes::copy_of(&raw[2..10]).unwrap();
        assert_eq!(tensor(GgmlType::F32, aligned.clone()).as_f32(), Some(&[1.5, -2.0][..]));
        assert_eq!(tensor(GgmlType::F16, aligned).as_f32(), None);
        assert_eq!(tensor(GgmlType::F32, all.slice(2..10).unwrap()).as_f32(), None, "address off by two");
        assert_eq!(tensor(GgmlType::F32, all.slice(0..10).unwrap()).as_f32(), None, "two and a half values");
    }

    #[test]
    fn a_slice_stays_inside() {
        let all = Bytes::copy_of(b"abcdef").unwrap();
        let part = all.slice(1..4).unwrap();
        assert_eq!((&*part, part.offset()), (&b"bcd"[..], 1));
        assert!(part.slice(1..4).is_none() && part.slice(usize::MAX..usize::MAX).is_none());
        assert_eq!(&*part.slice(2..3).unwrap(), b"d");
    }
}
