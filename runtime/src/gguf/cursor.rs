//! A bounds-checked reader over a file's header. Every failure names the offset and the field.

use crate::error::{Error, ErrorKind, Result};
use std::fmt::{self, Display, Write};

/// Reads little-endian fields one after another; `pos` counts from the start of the file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize, field: impl Display) -> Result<&'a [u8]> {
        let found = self.left();
        let bytes = self.try_take(n).ok_or_else(|| {
            bad(
                self.pos,
                field,
                format!("the file is truncated: expected {n} bytes, found {found} before its end"),
            )
        })?;
        Ok(bytes)
    }

    fn try_take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.pos.checked_add(n)?;
        let bytes = self.bytes.get(self.pos..end)?;
        self.pos = end;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self, field: impl Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, field: impl Display) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: impl Display) -> Result<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// The next length-prefixed string, as bytes.
    pub(super) fn string(&mut self, field: impl Display) -> Result<&'a [u8]> {
        let at = self.pos;
        let n = self.u64(&field)?;
        let found = self.left();
        usize::try_from(n).ok().and_then(|n| self.try_take(n)).ok_or_else(|| {
            let message =
                format!("the length of {n} bytes reaches beyond the end of the file, {found} bytes on");
            bad(at, field, message)
        })
    }

    /// Passes over up to `n` strings; answers how many there are before one that reaches beyond the end.
    pub(super) fn skip_strings(&mut self, n: usize) -> usize {
        let mut rest = &self.bytes[self.pos..];
        for i in 0..n {
            let Some((_, after)) = split_string(rest) else {
                self.pos = self.bytes.len() - rest.len();
                return i;
            };
            rest = after;
        }
        self.pos = self.bytes.len() - rest.len();
        n
    }

    /// A count of things that take at least `min_bytes` each: refused when the file cannot hold them, so
    /// that it may be used to size memory afterwards.
    pub(super) fn count(&mut self, min_bytes: usize, field: impl Display) -> Result<usize> {
        let at = self.pos;
        let n = self.u64(&field)?;
        let found = self.left();
        usize::try_from(n).ok().filter(|n| *n <= found / min_bytes).ok_or_else(|| {
            let least = u128::from(n) * min_bytes as u128;
            let message =
                format!("{n} need at least {least} bytes, but the end of the file is {found} bytes on");
            bad(at, field, message + ": it is truncated, or the count wrong")
        })
    }
}

/// The length-prefixed string at the start of `bytes`, and what follows it.
pub(super) fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// A damaged file: what is wrong with `field` at `offset`.
pub(super) fn bad(offset: usize, field: impl Display, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadFile, message).at(format!("offset {offset}: {field}"))
}

/// Untrusted bytes for a message: escaped, and cut after 80 characters.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 320 bytes hold 80 characters of any kind; the rest of a long string need not be looked at.
        let head = &self.0[..self.0.len().min(320)];
        let mut left = 80;
        f.write_char('\'')?;
        for chunk in head.utf8_chunks() {
            for c in chunk.valid().chars().take(left) {
                write!(f, "{}", c.escape_debug())?;
                left -= 1;
            }
            for b in chunk.invalid().iter().take(left) {
                write!(f, "\\x{b:02x}")?;
                left -= 1;
            }
        }
        f.write_str(if left == 0 || head.len() < self.0.len() { "…'" } else { "'" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_lengths_are_held_against_the_file() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([7; 8]);
        for message in [
            Cursor::new(&bytes).count(1, "n").unwrap_err().to_string(),
            Cursor::new(&bytes).string("s").unwrap_err().to_string(),
        ] {
            assert!(message.starts_with("offset 0: ") && message.contains("end of the file"), "{message}");
        }
        let mut c = Cursor::new(&[1, 0, 0, 0, 9]);
        assert_eq!(c.u32("a").unwrap(), 1);
        let message = c.u32("b").unwrap_err().to_string();
        assert_eq!(message, "offset 4: b: the file is truncated: expected 4 bytes, found 1 before its end");
    }

    #[test]
    fn untrusted_text_is_escaped_and_short() {
        assert_eq!(Shown(b"a\n\xff\x1b[2J").to_string(), "'a\\n\\xff\\u{1b}[2J'");
        assert!(Shown(&[b'x'; 5000]).to_string().chars().count() < 90);
        assert!(Shown(&[0xff; 5000]).to_string().chars().count() < 330);
    }
}
