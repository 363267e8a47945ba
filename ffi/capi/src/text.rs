//! Pointers and lengths in and out. Everything that a caller hands over is checked here, as far as it can be.

use crate::status::{Failure, Result, TRUING_E_BAD_UTF8, TRUING_E_BUFFER_TOO_SMALL, TRUING_E_STRUCT_SIZE};
use std::ffi::{CStr, c_char};
use std::mem::size_of;

/// Length that stands for "up to the terminating zero"; `TRUING_CSTR` in the header.
pub const CSTR: usize = usize::MAX;

/// The values at `data`.
/// # Safety
/// `data` points to `n` values that live and are not written to while the slice is in use; NULL if `n` is 0.
pub unsafe fn slice<'a, T>(data: *const T, n: usize, name: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    if data.is_null() || !data.is_aligned() {
        let what = if data.is_null() { "NULL" } else { "an address that is not aligned" };
        return Err(Failure::invalid(format!("{name}: expected {n} values, found {what}")));
    }
    check_len::<T>(n, name)?;
    // SAFETY: not NULL, aligned, of a possible length; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, n) })
}

/// As [`slice`], for writing.
/// # Safety
/// As there, and nobody else reads the values meanwhile.
pub unsafe fn slice_mut<'a, T>(data: *mut T, n: usize, name: &str) -> Result<&'a mut [T]> {
    if n == 0 {
        return Ok(&mut []);
    }
    if data.is_null() || !data.is_aligned() {
        let what = if data.is_null() { "NULL" } else { "an address that is not aligned" };
        return Err(Failure::invalid(format!("{name}: expected room for {n} values, found {what}")));
    }
    check_len::<T>(n, name)?;
    // SAFETY: not NULL, aligned, of a possible length; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, n) })
}

fn check_len<T>(n: usize, name: &str) -> Result {
    match n.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize) {
        true => Ok(()),
        false => Err(Failure::invalid(format!("{name}: {n} values are more than any memory holds"))),
    }
}

/// The bytes at `data`; with [`CSTR`] as length, up to the terminating zero.
/// # Safety
/// As [`slice`].
pub unsafe fn bytes<'a>(data: *const c_char, len: usize, name: &str) -> Result<&'a [u8]> {
    if len != CSTR {
        // SAFETY: the caller's promise.
        return unsafe { slice(data.cast(), len, name) };
    }
    if data.is_null() {
        return Err(Failure::invalid(format!("{name}: expected a text, found NULL")));
    }
    // SAFETY: the caller says that a zero ends the text.
    Ok(unsafe { CStr::from_ptr(data) }.to_bytes())
}

/// The text at `data`.
/// # Safety
/// As [`slice`].
pub unsafe fn text<'a>(data: *const c_char, len: usize, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(data, len, name) }?;
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let found = bytes.get(at).copied().unwrap_or_default();
        Failure::new(
            TRUING_E_BAD_UTF8,
            format!("{name}: expected UTF-8, found byte {found:#04x} at offset {at}"),
        )
    })
}

/// Copies as much of `text` as fits, and a zero.
/// # Safety
/// `buf` has room for `cap` bytes.
pub unsafe fn copy_out(text: &[u8], buf: *mut u8, cap: usize) {
    if buf.is_null() || cap == 0 {
        return;
    }
    let n = text.len().min(cap - 1);
    // SAFETY: `n < cap`; `text` is ours and does not overlap the caller's buffer.
    unsafe {
        buf.copy_from_nonoverlapping(text.as_ptr(), n);
        buf.add(n).write(0);
    }
}

/// Puts values into a caller's buffer, all or none, and writes how many there are in either case.
/// # Safety
/// `buf` has room for `cap` values; `n_out` is NULL or may be written to.
pub unsafe fn put<T: Copy>(values: &[T], buf: *mut T, cap: usize, n_out: *mut usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { set(n_out, values.len()) };
    if values.len() > cap {
        let message = format!("expected room for {}, found {cap}", values.len());
        return Err(Failure::new(TRUING_E_BUFFER_TOO_SMALL, message));
    }
    // SAFETY: the caller's promise.
    unsafe { slice_mut(buf, values.len(), "buffer") }?.copy_from_slice(values);
    Ok(())
}

/// As [`put`], for a text: a zero follows it where there is room, and is not counted.
/// # Safety
/// As there.
pub unsafe fn put_text(text: &[u8], buf: *mut c_char, cap: usize, len_out: *mut usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { put(text, buf.cast::<u8>(), cap, len_out) }?;
    if cap > text.len() && !buf.is_null() {
        // SAFETY: `text.len() < cap`.
        unsafe { buf.add(text.len()).write(0) };
    }
    Ok(())
}

/// Writes an output, if it is wanted.
/// # Safety
/// `out` is NULL or may be written to.
pub unsafe fn set<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: the caller's promise. Unaligned, because nothing is known of it.
        unsafe { out.write_unaligned(value) };
    }
}

/// An output that must be there.
pub fn wanted<T>(out: *mut T, name: &str) -> Result<*mut T> {
    match out.is_null() {
        true => Err(Failure::invalid(format!("{name}: expected a place for the result, found NULL"))),
        false => Ok(out),
    }
}

/// A struct of the interface whose first member is `size_t struct_size`.
///
/// # Safety
/// `repr(C)`; every bit pattern is a value; the first member is a `usize`.
pub unsafe trait Versioned: Copy {
    /// Size of the first version.
    const FIRST_SIZE: usize;
}

/// More bytes than any future version has.
const MOST_BYTES: usize = 1 << 14;

/// Reads options: what the caller's version of the struct lacks has its default (zero), and what this one does not
/// know must be zero.
/// # Safety
/// `from` is NULL or points to as many bytes as its first member says.
pub unsafe fn read_options<T: Versioned>(from: *const T, name: &str) -> Result<Option<T>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: `Versioned` says that a `usize` comes first.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    check_size::<T>(size, name)?;
    // SAFETY: the caller's promise; the size is a possible one.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    if let Some(at) = bytes[known..].iter().position(|b| *b != 0) {
        let message = format!(
            "{name}: byte {} of {size} is set, which this version of truing does not know",
            known + at
        );
        return Err(Failure::new(TRUING_E_STRUCT_SIZE, message));
    }
    let mut read = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are there on both sides; zeros and whatever was copied are values of a `Versioned` type.
    let read = unsafe {
        read.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), known);
        read.assume_init()
    };
    Ok(Some(read))
}

/// Most structs in a list.
const MOST_LISTED: usize = 1024;

/// Reads the structs that a list of `n` pointers names.
/// # Safety
/// `list` has `n` pointers, each to as many bytes as its first member says.
pub unsafe fn listed<T: Versioned>(
    list: *const *const T,
    n: usize,
    field: &str,
    name: &str,
) -> Result<Vec<T>> {
    if n > MOST_LISTED {
        return Err(Failure::invalid(format!("n_{field}: expected at most {MOST_LISTED}, found {n}")));
    }
    // SAFETY: the caller's promise.
    let pointers = unsafe { slice(list, n, field) }?;
    let read = |(i, pointer): (usize, &*const T)| {
        // SAFETY: as above.
        unsafe { read_options(*pointer, name) }?
            .ok_or_else(|| Failure::invalid(format!("{field}[{i}]: expected a {name}, found NULL")))
    };
    pointers.iter().enumerate().map(read).collect()
}

/// Writes a result struct as far as the caller's version of it reaches; `struct_size` stays.
/// # Safety
/// `to` is NULL or points to as many writable bytes as its first member says.
pub unsafe fn put_struct<T: Versioned>(value: &T, to: *mut T, name: &str) -> Result {
    if to.is_null() {
        return Ok(());
    }
    // SAFETY: `Versioned` says that a `usize` comes first.
    let size = unsafe { to.cast::<usize>().read_unaligned() };
    check_size::<T>(size, name)?;
    let (head, end) = (size_of::<usize>(), size.min(size_of::<T>()));
    // SAFETY: both have `end` bytes; the result is ours and does not overlap.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>().add(head);
        to.cast::<u8>().add(head).copy_from_nonoverlapping(from, end - head);
    }
    Ok(())
}

/// Checks the size a caller gives for a result struct before anything is done.
/// # Safety
/// As [`put_struct`].
pub unsafe fn check_struct<T: Versioned>(to: *const T, name: &str) -> Result {
    if to.is_null() {
        return Ok(());
    }
    // SAFETY: `Versioned` says that a `usize` comes first.
    check_size::<T>(unsafe { to.cast::<usize>().read_unaligned() }, name)
}

fn check_size<T: Versioned>(size: usize, name: &str) -> Result {
    if (T::FIRST_SIZE..=MOST_BYTES).contains(&size) {
        return Ok(());
    }
    let message =
        format!("{name}: expected struct_size to be sizeof the struct ({}), found {size}", size_of::<T>());
    Err(Failure::new(TRUING_E_STRUCT_SIZE, message))
}
