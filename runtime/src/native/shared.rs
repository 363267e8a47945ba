//! A slice that several threads write in different places.

use std::marker::PhantomData;

/// A mutable slice whose parts are handed out without a borrow each.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice, and those may be sent if their elements may.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: through a shared reference elements are reached only by `part`, whose caller rules out overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice over.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements `from..from + n`. Panics if they are not there.
    /// # Safety
    /// Nobody else uses any of them while the result lives.
    #[allow(clippy::mut_from_ref, reason = "the caller rules out overlap")]
    pub unsafe fn part(&self, from: usize, n: usize) -> &'a mut [T] {
        assert!(from.checked_add(n).is_some_and(|end| end <= self.len));
        // SAFETY: in range, and the caller vouches for being alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(from), n) }
    }

    /// Where columns `col..col + n_cols` of `n_rows` rows of `width` values begin. Panics if they are not there.
    pub fn columns(&self, width: usize, n_rows: usize, col: usize, n_cols: usize) -> *mut T {
        let rows = n_rows.checked_mul(width).is_some_and(|n| n <= self.len);
        assert!(rows && col.checked_add(n_cols).is_some_and(|end| end <= width));
        self.ptr.wrapping_add(col)
    }
}
