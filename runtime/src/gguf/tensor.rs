//! A tensor where it lies in the mapped file.

use super::GgmlType;
use memmap2::Mmap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes of a mapped file, kept alive by the map they lie in.
#[derive(Clone)]
pub struct Bytes {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `map`; `None` if they reach beyond it.
    pub(crate) fn new(map: Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        map.get(range.clone())?;
        Some(Self { map, range })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.range.len(), self.range.start)
    }
}

/// A tensor in the mapped file: checked, never copied.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the file.
    pub name: Arc<str>,
    /// How values are stored.
    pub ty: GgmlType,
    /// Dimensions, contiguous one first, padded with 1; their product fits `usize`.
    pub dims: [usize; 4],
    /// The stored blocks, exactly as long as type and dimensions say.
    pub data: Bytes,
}

impl Tensor {
    /// Number of values.
    pub fn n_values(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes of one row of `dims[0]` values.
    pub fn row_bytes(&self) -> usize {
        self.dims[0] / self.ty.block_values() * self.ty.block_bytes()
    }
}
