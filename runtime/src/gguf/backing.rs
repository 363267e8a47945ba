//! Where a model's bytes lie: in a memory map of a file, or in an aligned buffer of our own.
//!
//! A map is the normal case: weights are used in place and cost no private memory. A buffer serves callers
//! that hold the model in memory (C ABI) and tests.
//!
//! A map is only as stable as its file. Lengths are checked when the file is opened; when another process
//! then *truncates* the file, touching a lost page raises `SIGBUS`, which no check here can prevent, and when
//! it *overwrites* it, values change under our feet. Replace model files by renaming a new one into place
//! (as the catalog's store does): the map then keeps the old file's content.

#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::ops::Deref;

/// Maps begin at a multiple of this in the file. A multiple of every page size in use (64 KiB on some ARM
/// and POWER systems), so that offset zero of a region is page-aligned in memory.
const MAP_GRANULE: u64 = 1 << 16;

/// The bytes of one file (or of a range of it), immutable.
pub(crate) enum Backing {
    Map(Mmap),
    Owned(AlignedBuf),
}

impl Backing {
    /// Maps `len` bytes at `offset` of `file`; also answers where `offset` lies within the region.
    /// # Errors  `Io` when the file cannot be mapped or is shorter than `offset + len`.
    pub(crate) fn map(file: &File, offset: u64, len: u64) -> Result<(Self, usize)> {
        let found = file.metadata().map_err(|e| io("cannot read the file's length", e))?.len();
        let end = offset.checked_add(len).filter(|end| *end <= found).ok_or_else(|| {
            let message = format!("expected {len} bytes at offset {offset}, found a file of {found} bytes");
            Error::new(ErrorKind::Io, message)
        })?;
        let start = offset - offset % MAP_GRANULE;
        let (Ok(size), Ok(lead)) = (usize::try_from(end - start), usize::try_from(offset - start)) else {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("{len} bytes do not fit the address space"),
            ));
        };
        // SAFETY: the map is private to us and read-only. That nobody truncates or rewrites the file while
        // it is mapped is the caller's part, stated in the module's head; every reader of the region
        // treats its content as untrusted and checks bounds anew.
        let map = unsafe { MmapOptions::new().offset(start).len(size).map(file) }
            .map_err(|e| io("cannot map the file into memory", e))?;
        Ok((Self::Map(map), lead))
    }

    /// A copy of `bytes` at an address aligned for every use.
    /// # Errors  `OutOfMemory`.
    pub(crate) fn copy(bytes: &[u8]) -> Result<Self> {
        AlignedBuf::copy(bytes).map(Self::Owned)
    }

    /// `len` bytes that `read` delivers from the front on: it gets an offset and where to put what lies there,
    /// and says how much of it it has put.
    /// # Errors  `OutOfMemory`; `Io` if `read` fails or delivers nothing.
    pub(crate) fn read(
        len: usize,
        read: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<usize>,
    ) -> Result<Self> {
        AlignedBuf::read(len, read).map(Self::Owned)
    }
}

impl Deref for Backing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Owned(buf) => buf,
        }
    }
}

/// An `Io` error with its cause.
pub(super) fn io(message: &str, cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, message).because(cause)
}

/// 64 bytes on a cache line of their own.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A buffer that starts at a multiple of 64.
pub(crate) struct AlignedBuf {
    lines: Vec<Line>,
    len: usize,
}

/// Lines that are read at once.
const PART_LINES: usize = 1 << 14;

impl AlignedBuf {
    fn room(len: usize) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(64)).map_err(|e| {
            Error::new(ErrorKind::OutOfMemory, format!("no room for {len} bytes of a model")).because(e)
        })?;
        Ok(lines)
    }

    fn read(len: usize, read: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<usize>) -> Result<Self> {
        let mut lines = Self::room(len)?;
        let mut part = vec![Line([0; 64]); PART_LINES];
        let mut at = 0;
        while at < len {
            let n = (len - at).min(PART_LINES * 64);
            // SAFETY: lines are arrays of bytes without padding, and there are `PART_LINES` of them.
            let to = unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast::<u8>(), n) };
            let mut done = 0;
            while done < n {
                let offset = (at + done) as u64;
                let got = read(offset, &mut to[done..])
                    .map_err(|e| io("cannot read the model", e).at(format!("offset {offset}")))?;
                if got == 0 || got > n - done {
                    let message = format!("expected up to {} bytes, found {got}", n - done);
                    return Err(Error::new(ErrorKind::Io, message).at(format!("offset {offset}")));
                }
                done += got;
            }
            lines.extend_from_slice(&part[..n.div_ceil(64)]);
            at += n;
        }
        Ok(Self { lines, len })
    }

    fn copy(bytes: &[u8]) -> Result<Self> {
        let mut lines = Self::room(bytes.len())?;
        lines.extend(bytes.chunks(64).map(|chunk| {
            let mut line = Line([0; 64]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        }));
        Ok(Self { lines, len: bytes.len() })
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `lines` holds ceil(len / 64) initialised lines of 64 bytes without padding (`repr(C)`, size
        // equal to alignment), so `len` bytes from its start are one initialised allocation; the buffer is
        // never written after it was made.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_aligned_and_equal() {
        for n in [0, 1, 63, 64, 65, 1000] {
            let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
            let buf = Backing::copy(&bytes).unwrap();
            assert_eq!(&*buf, &bytes[..]);
            assert_eq!(buf.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn what_a_reader_delivers_bit_by_bit_is_put_together() {
        let bytes: Vec<u8> = (0..PART_LINES * 64 + 777).map(|i| (i * 7 % 251) as u8).collect();
        let mut calls = 0;
        let mut read = |offset: u64, to: &mut [u8]| {
            calls += 1;
            let n = to.len().min(100_000);
            to[..n].copy_from_slice(&bytes[offset as usize..][..n]);
            Ok(n)
        };
        let buf = Backing::read(bytes.len(), &mut read).unwrap();
        assert!(*buf == bytes[..]);
        assert!(Backing::read(0, &mut read).unwrap().is_empty());
        assert!(calls > 2);
        let refused = |len, n| Backing::read(len, &mut |_, _| Ok(n)).map(|_| ()).unwrap_err();
        assert_eq!(refused(10, 0).kind(), ErrorKind::Io);
        assert_eq!(refused(10, 11).kind(), ErrorKind::Io);
        assert_eq!(refused(isize::MAX as usize, 0).kind(), ErrorKind::OutOfMemory);
        let broken = Backing::read(10, &mut |_, _| Err(std::io::Error::other("gone"))).map(|_| ());
        assert!(broken.unwrap_err().to_string().contains("gone"));
    }
}
