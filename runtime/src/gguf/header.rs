//! Reads the header of one GGUF file and proves every number in it before anything uses it.
//!
//! Layout (GGUF specification, versions 2 and 3, little-endian): magic, version `u32`, tensor count `u64`,
//! pair count `u64`; the pairs; for each tensor its name, number of dimensions, dimensions, type and offset;
//! padding to the alignment; tensor data. Offsets count from the start of the tensor data.

use super::backing::Backing;
use super::cursor::{Cursor, Shown, bad};
use super::value::{Value, ValueType, read_value};
use super::{Bytes, GgmlType, Metadata, Tensor};
use crate::error::{Error, ErrorKind, Result};
use hashbrown::HashSet;
use std::sync::Arc;

/// Alignment when `general.alignment` is absent, in bytes.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
/// The format asks for a multiple of 8, which also keeps every plain number type aligned in place.
pub(super) const MIN_ALIGNMENT: u64 = 8;
/// Longest key the format allows, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 65_535;
/// Longest tensor name the format allows, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// Most pairs in a file; real ones have dozens. Bounds the memory that a hostile file can claim.
pub(super) const MAX_PAIRS: usize = 1 << 16;
/// Most tensors in a file; the largest models have a few thousand.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Key length, one byte of key, type, and a value of one byte.
const MIN_PAIR_BYTES: usize = 8 + 1 + 4 + 1;
/// Name length, one byte of name, number of dimensions (none), type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 4 + 8;

/// Where one GGUF file lies: `len` bytes at `base` of a backing.
pub(super) struct Extent {
    pub backing: Arc<Backing>,
    pub base: usize,
    pub len: usize,
    /// The file's name for messages.
    pub origin: Arc<str>,
}

/// A header that has been proven sane.
pub(super) struct Header {
    pub version: u32,
    pub alignment: usize,
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data_start: usize,
}

/// Reads and checks a whole header.
/// # Errors  `BadFile`, or `Unsupported` for a version or byte order this build does not read.
pub(super) fn read(file: &Extent) -> Result<Header> {
    read_all(file).map_err(|e| e.at(&*file.origin))
}

fn read_all(file: &Extent) -> Result<Header> {
    let bytes = file.backing.get(file.base..file.base + file.len).unwrap_or_default();
    let mut c = Cursor::new(bytes);
    let version = read_version(&mut c)?;
    let n_tensors = read_count(&mut c, MIN_TENSOR_BYTES, MAX_TENSORS, "tensor count")?;
    let n_pairs = read_count(&mut c, MIN_PAIR_BYTES, MAX_PAIRS, "metadata kv count")?;
    let mut metadata = Metadata::new(file.origin.clone());
    for i in 0..n_pairs {
        read_pair(&mut c, i, file, &mut metadata)?;
    }
    let alignment = read_alignment(&metadata)?;
    let infos = read_tensors(&mut c, n_tensors)?;
    let data_start = data_start(c.pos(), alignment, &infos, bytes.len())?;
    check_placement(&infos, alignment, bytes.len() - data_start, data_start)?;
    let tensors = infos.into_iter().map(|t| t.place(file, data_start)).collect::<Result<_>>()?;
    Ok(Header { version, alignment: alignment as usize, metadata, tensors, data_start })
}

fn read_version(c: &mut Cursor<'_>) -> Result<u32> {
    let magic = c.take(4, "magic")?;
    if magic != b"GGUF" {
        return Err(bad(0, "magic", format!("expected 'GGUF', found {}", Shown(magic))));
    }
    let version = c.u32("version")?;
    let problem = match version {
        2 | 3 => return Ok(version),
        0 => return Err(bad(4, "version", "expected 2 or 3, found 0")),
        1 => "expected 2 or 3, found 1, which is no longer read: convert the model again".into(),
        v if matches!(v.swap_bytes(), 1..=3) => {
            format!(
                "expected a little-endian file, found version {} in big-endian byte order",
                v.swap_bytes()
            )
        }
        v => format!("expected 2 or 3, found {v}, which this build does not know"),
    };
    Err(Error::new(ErrorKind::Unsupported, problem).at("offset 4: version"))
}

fn read_count(c: &mut Cursor<'_>, min_bytes: usize, limit: usize, field: &str) -> Result<usize> {
    let at = c.pos();
    let n = c.count(min_bytes, field)?;
    if n > limit { Err(bad(at, field, format!("expected at most {limit}, found {n}"))) } else { Ok(n) }
}

fn read_pair(c: &mut Cursor<'_>, i: usize, file: &Extent, into: &mut Metadata) -> Result<()> {
    let at = c.pos();
    let key = c.string(format_args!("metadata key {i}"))?;
    let key = check_name(key, MAX_KEY_BYTES).map_err(|m| bad(at, format_args!("metadata key {i}"), m))?;
    let type_at = c.pos();
    let number = c.u32(format_args!("type of key {}", Shown(key.as_bytes())))?;
    let ty = ValueType::from_u32(number).ok_or_else(|| {
        let field = format_args!("key {}", Shown(key.as_bytes())).to_string();
        bad(type_at, field, format!("value type {number} does not exist (0 to 12 do)"))
    })?;
    let offset = c.pos();
    let value = read_value(c, ty, key, &file.backing, file.base)?;
    into.insert(key, offset, value)
}

/// A key or tensor name: not empty, not over-long, UTF-8.
pub(super) fn check_name(name: &[u8], max_bytes: usize) -> Result<&str, String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > max_bytes {
        return Err(format!("expected a name length of at most {max_bytes} bytes, found {}", name.len()));
    }
    std::str::from_utf8(name).map_err(|e| format!("the name {} is not UTF-8: {e}", Shown(name)))
}

fn read_alignment(metadata: &Metadata) -> Result<u64> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(v)) if v.is_power_of_two() && u64::from(*v) >= MIN_ALIGNMENT => Ok((*v).into()),
        Some(Value::U32(v)) => {
            Err(metadata
                .fault(key, format!("expected a power of two of at least {MIN_ALIGNMENT}, found {v}")))
        }
        Some(other) => {
            Err(metadata.fault(key, format!("expected type u32, found type {}", other.type_name())))
        }
    }
}

/// A tensor as the header describes it, with its size proven to fit `u64` and `usize`.
struct Info {
    name: Arc<str>,
    ty: GgmlType,
    dims: [usize; 4],
    /// From the start of the tensor data, in bytes.
    offset: u64,
    size_bytes: u64,
    /// Where the offset field stands in the file.
    offset_at: usize,
}

fn read_tensors(c: &mut Cursor<'_>, n: usize) -> Result<Vec<Info>> {
    let mut names = HashSet::new();
    let read = |i| {
        let at = c.pos();
        let info = read_tensor(c, i)?;
        let shown = Shown(info.name.as_bytes());
        if !names.insert(info.name.clone()) {
            return Err(bad(
                at,
                format_args!("name of tensor {i}"),
                format!("duplicate tensor name {shown}"),
            ));
        }
        Ok(info)
    };
    (0..n).map(read).collect()
}

fn read_tensor(c: &mut Cursor<'_>, i: usize) -> Result<Info> {
    let at = c.pos();
    let raw = c.string(format_args!("name of tensor {i}"))?;
    let name = check_name(raw, MAX_NAME_BYTES).map_err(|m| bad(at, format_args!("name of tensor {i}"), m))?;
    let field = |what: &str| format!("{what} of tensor {}", Shown(name.as_bytes()));
    let dims_at = c.pos();
    let dims = read_dims(c, &field("dimensions"))?;
    let type_at = c.pos();
    let number = c.u32(field("type"))?;
    let ty = GgmlType::from_u32(number).ok_or_else(|| bad(type_at, field("type"), unknown_type(number)))?;
    let size_bytes = size_of(&dims, ty).map_err(|m| bad(dims_at, field("dimensions"), m))?;
    let offset_at = c.pos();
    let offset = c.u64(field("offset"))?;
    Ok(Info { name: name.into(), ty, dims, offset, size_bytes, offset_at })
}

fn read_dims(c: &mut Cursor<'_>, field: &str) -> Result<[usize; 4]> {
    let at = c.pos();
    let n = c.u32(field)?;
    let mut dims = [1; 4];
    let used = usize::try_from(n).ok().and_then(|n| dims.get_mut(..n));
    // No dimensions at all is a scalar, which some converters write.
    for d in used.ok_or_else(|| bad(at, field, format!("expected at most 4 dimensions, found {n}")))? {
        let at = c.pos();
        let found = c.u64(field)?;
        // `i64` because that is what every consumer of the format computes with.
        *d = i64::try_from(found).ok().filter(|v| *v > 0).and_then(|v| usize::try_from(v).ok()).ok_or_else(
            || bad(at, field, format!("expected a dimension between 1 and 2^63-1, found {found}")),
        )?;
    }
    Ok(dims)
}

fn unknown_type(number: u32) -> String {
    match number {
        4 | 5 | 31..=33 | 36..=38 => format!("tensor type {number} was removed from the format"),
        _ => format!("tensor type {number} does not exist"),
    }
}

/// Bytes of a tensor, or why its dimensions make none.
pub(super) fn size_of(dims: &[usize; 4], ty: GgmlType) -> Result<u64, String> {
    let block = ty.block_values();
    if !dims[0].is_multiple_of(block) {
        return Err(format!(
            "type {ty} needs a first dimension that is a multiple of its block of {block}, found {}",
            dims[0]
        ));
    }
    let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let size = n.and_then(|n| ty.bytes_for(n)).filter(|size| isize::try_from(*size).is_ok());
    size.map(|s| s as u64).ok_or_else(|| format!("the size of {dims:?} values of type {ty} overflows"))
}

/// Where the tensor data begins: the header's end, rounded up. Without tensors no padding is needed.
fn data_start(header_end: usize, alignment: u64, infos: &[Info], file_len: usize) -> Result<usize> {
    if infos.is_empty() {
        return Ok(header_end);
    }
    let start = (header_end as u64).checked_next_multiple_of(alignment).and_then(|s| usize::try_from(s).ok());
    start.filter(|s| *s <= file_len).ok_or_else(|| {
        let message = format!(
            "tensor data, aligned to {alignment}, would start beyond the end of the file at {file_len}"
        );
        bad(header_end, "end of the header", message)
    })
}

/// Proves that each tensor is aligned, inside the data of `data_len` bytes, unique, and apart from the others.
fn check_placement(infos: &[Info], alignment: u64, data_len: usize, data_start: usize) -> Result<()> {
    let fault = |t: &Info, message: String| {
        bad(t.offset_at, format_args!("offset of tensor {}", Shown(t.name.as_bytes())), message)
    };
    let mut order: Vec<&Info> = infos.iter().collect();
    order.sort_by_key(|t| t.offset); // stable: file order where offsets are equal
    for t in infos {
        if !t.offset.is_multiple_of(alignment) {
            return Err(fault(
                t,
                format!("expected a multiple of the alignment {alignment}, found {}", t.offset),
            ));
        }
        let end = t.offset.checked_add(t.size_bytes);
        if end.is_none_or(|end| end > data_len as u64) {
            return Err(fault(
                t,
                format!(
                    "data of {} bytes at offset {} of the tensor data (which starts at {data_start}) reaches beyond the end of the file, {data_len} bytes on",
                    t.size_bytes, t.offset,
                ),
            ));
        }
    }
    for pair in order.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        // No overflow: both ends have just been held against the file.
        if a.offset + a.size_bytes > b.offset {
            return Err(fault(
                b,
                format!(
                    "data at {} overlaps tensor {}, {} bytes at {}",
                    b.offset,
                    Shown(a.name.as_bytes()),
                    a.size_bytes,
                    a.offset
                ),
            ));
        }
    }
    Ok(())
}

impl Info {
    /// The tensor, in the file's bytes.
    fn place(self, file: &Extent, data_start: usize) -> Result<Tensor> {
        let start = file.base + data_start + self.offset as usize;
        let data =
            Bytes::new(file.backing.clone(), start..start + self.size_bytes as usize).ok_or_else(|| {
                bad(
                    self.offset_at,
                    format_args!("tensor {}", Shown(self.name.as_bytes())),
                    "data beyond the end of the file",
                )
            })?;
        Ok(Tensor { name: self.name, ty: self.ty, dims: self.dims, data })
    }
}
