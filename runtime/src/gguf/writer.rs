//! Writes GGUF files: probes, control vectors, fixtures.
//!
//! The writer keeps every rule that the loader checks, so what it writes always opens. A file appears whole
//! or not at all: it is written beside its place, flushed to the disk, and renamed.

use super::backing::io;
use super::cursor::Shown;
use super::header::{
    DEFAULT_ALIGNMENT, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_PAIRS, MAX_TENSORS, MIN_ALIGNMENT, check_name,
    size_of,
};
use super::value::{Value, ValueType};
use super::{GgmlType, Tensor};
use crate::error::{Error, ErrorKind, Result};
use hashbrown::HashSet;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The version that is written.
const VERSION: u32 = 3;

/// A model file in the making. Tensor data is borrowed (or owned) until it is written.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    alignment: u64,
    keys: HashSet<String>,
    /// The encoded pairs, one after another.
    pairs: Vec<u8>,
    names: HashSet<String>,
    /// The encoded tensor descriptions, one after another.
    infos: Vec<u8>,
    data: Vec<Cow<'a, [u8]>>,
    /// Where the next tensor goes, from the start of the tensor data.
    end: u64,
}

impl Default for GgufWriter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> GgufWriter<'a> {
    /// An empty file with the default alignment of 32 bytes.
    pub fn new() -> Self {
        Self {
            alignment: DEFAULT_ALIGNMENT,
            keys: HashSet::new(),
            pairs: Vec::new(),
            names: HashSet::new(),
            infos: Vec::new(),
            data: Vec::new(),
            end: 0,
        }
    }

    /// An empty file whose tensors lie at multiples of `alignment` bytes.
    /// # Errors  `InvalidArgument` unless it is a power of two of at least 8.
    pub fn with_alignment(alignment: u32) -> Result<Self> {
        if !alignment.is_power_of_two() || u64::from(alignment) < MIN_ALIGNMENT {
            let message = format!(
                "expected an alignment that is a power of two of at least {MIN_ALIGNMENT}, found {alignment}"
            );
            return Err(invalid(message));
        }
        let mut writer = Self { alignment: alignment.into(), ..Self::new() };
        writer.add_pair("general.alignment", &alignment)?;
        Ok(writer)
    }

    /// Adds a key with its value: a number, `bool`, string, or a slice or `Vec` of those.
    /// # Errors  `InvalidArgument` for an empty, over-long or repeated key, and for `general.alignment`, which
    /// [`with_alignment`](Self::with_alignment) sets.
    pub fn set(&mut self, key: &str, value: &(impl Encode + ?Sized)) -> Result<()> {
        if key == "general.alignment" {
            return Err(
                invalid("the alignment is fixed when the writer is made").at("key 'general.alignment'")
            );
        }
        self.add_pair(key, value)
    }

    fn add_pair(&mut self, key: &str, value: &(impl Encode + ?Sized)) -> Result<()> {
        let place = |m: String| invalid(m).at(format!("key {}", Shown(key.as_bytes())));
        check_name(key.as_bytes(), MAX_KEY_BYTES).map_err(place)?;
        if self.keys.len() == MAX_PAIRS {
            return Err(place(format!("expected at most {MAX_PAIRS} keys")));
        }
        if !self.keys.insert(key.to_owned()) {
            return Err(place("the key is there already".into()));
        }
        put_bytes(&mut self.pairs, key.as_bytes());
        put_u32(&mut self.pairs, value.ty() as u32);
        value.put(&mut self.pairs);
        Ok(())
    }

    /// Adds a tensor. `dims`: 1 to 4 dimensions, contiguous one first. `data`: the stored blocks.
    /// # Errors  `InvalidArgument` for a name that is empty, repeated or over 64 bytes, and when `data` is not
    /// as long as type and dimensions say.
    pub fn tensor(
        &mut self,
        name: &str,
        ty: GgmlType,
        dims: &[usize],
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<()> {
        let data = data.into();
        self.check_tensor(name, ty, dims, data.len())
            .map_err(|m| invalid(m).at(format!("tensor {}", Shown(name.as_bytes()))))?;
        self.names.insert(name.to_owned());
        put_bytes(&mut self.infos, name.as_bytes());
        put_u32(&mut self.infos, dims.len() as u32);
        dims.iter().for_each(|d| put_u64(&mut self.infos, *d as u64));
        put_u32(&mut self.infos, ty as u32);
        put_u64(&mut self.infos, self.end);
        // No overflow: all data lies in memory at once, and the padding is at most as much again per tensor.
        self.end = (self.end + data.len() as u64).next_multiple_of(self.alignment);
        self.data.push(data);
        Ok(())
    }

    /// Adds a tensor of `f32` values.
    /// # Errors  As [`tensor`](Self::tensor).
    pub fn tensor_f32(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, GgmlType::F32, dims, bytes)
    }

    /// Adds a tensor of another file as it is.
    /// # Errors  As [`tensor`](Self::tensor).
    pub fn copy_tensor(&mut self, tensor: &'a Tensor) -> Result<()> {
        self.tensor(&tensor.name, tensor.ty, tensor.used_dims(), &*tensor.data)
    }

    fn check_tensor(&self, name: &str, ty: GgmlType, dims: &[usize], len: usize) -> Result<(), String> {
        check_name(name.as_bytes(), MAX_NAME_BYTES)?;
        if self.names.contains(name) {
            return Err("the tensor is there already".into());
        }
        if self.names.len() == MAX_TENSORS {
            return Err(format!("expected at most {MAX_TENSORS} tensors"));
        }
        if dims.is_empty() || dims.len() > 4 || dims.contains(&0) {
            return Err(format!("expected 1 to 4 dimensions above 0, found {dims:?}"));
        }
        let mut padded = [1; 4];
        padded[..dims.len()].copy_from_slice(dims);
        let expected = size_of(&padded, ty)?;
        if expected != len as u64 {
            return Err(format!("expected {expected} bytes for {dims:?} of type {ty}, found {len}"));
        }
        Ok(())
    }

    /// Writes the whole file to `out`.
    /// # Errors  What `out` answers.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut head = b"GGUF".to_vec();
        put_u32(&mut head, VERSION);
        put_u64(&mut head, self.names.len() as u64);
        put_u64(&mut head, self.keys.len() as u64);
        let header_len = head.len() + self.pairs.len() + self.infos.len();
        for part in [&head, &self.pairs, &self.infos] {
            out.write_all(part)?;
        }
        self.pad(out, header_len)?;
        for data in &self.data {
            out.write_all(data)?;
            self.pad(out, data.len())?;
        }
        Ok(())
    }

    fn pad(&self, out: &mut impl Write, written: usize) -> io::Result<()> {
        let n = (written as u64).next_multiple_of(self.alignment) - written as u64;
        io::copy(&mut io::Read::take(io::repeat(0), n), out).map(drop)
    }

    /// The whole file in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a `Vec` does not fail.
        let _ = self.write_to(&mut out);
        out
    }

    /// Writes the file to `path`, whole or not at all; a file that is there is replaced in one step.
    /// # Errors  `Io`; nothing is left behind then.
    pub fn save(&self, path: &Path) -> Result<()> {
        let beside = temporary_name(path);
        self.write_and_rename(&beside, path).map_err(|e| {
            let _ = fs::remove_file(&beside); // it may not even exist
            io("cannot write the file", e).at(path.display().to_string())
        })
    }

    fn write_and_rename(&self, beside: &Path, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create_new(beside)?);
        self.write_to(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(beside, path)
    }
}

/// A name in the same folder that no other writer uses.
fn temporary_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn put_u32(out: &mut Vec<u8>, v: u32) {
    out.extend(v.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, v: u64) {
    out.extend(v.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend(bytes);
}

/// What can be a metadata value.
pub trait Encode {
    /// The type as which it is stored.
    fn ty(&self) -> ValueType;
    /// Appends the stored form.
    fn put(&self, out: &mut Vec<u8>);
}

/// What can be an element of an array: its type is known without a value.
pub trait Element: Encode {
    /// The type as which it is stored.
    const TYPE: ValueType;
}

macro_rules! encode {
    ($($t:ty => $ty:ident, |$v:ident, $out:ident| $put:expr;)*) => {$(
        impl Encode for $t {
            fn ty(&self) -> ValueType {
                ValueType::$ty
            }
            fn put(&self, $out: &mut Vec<u8>) {
                let $v = self;
                $put
            }
        }
        impl Element for $t {
            const TYPE: ValueType = ValueType::$ty;
        }
    )*};
}

encode! {
    u8 => U8, |v, out| out.push(*v);
    i8 => I8, |v, out| out.extend(v.to_le_bytes());
    u16 => U16, |v, out| out.extend(v.to_le_bytes());
    i16 => I16, |v, out| out.extend(v.to_le_bytes());
    u32 => U32, |v, out| out.extend(v.to_le_bytes());
    i32 => I32, |v, out| out.extend(v.to_le_bytes());
    u64 => U64, |v, out| out.extend(v.to_le_bytes());
    i64 => I64, |v, out| out.extend(v.to_le_bytes());
    f32 => F32, |v, out| out.extend(v.to_le_bytes());
    f64 => F64, |v, out| out.extend(v.to_le_bytes());
    bool => Bool, |v, out| out.push((*v).into());
    &str => Str, |v, out| put_bytes(out, v.as_bytes());
    String => Str, |v, out| put_bytes(out, v.as_bytes());
    RawStr<'_> => Str, |v, out| put_bytes(out, v.0);
}

/// A string value that need not be UTF-8 (token texts).
#[derive(Clone, Copy, Debug)]
pub struct RawStr<'a>(pub &'a [u8]);

impl Encode for str {
    fn ty(&self) -> ValueType {
        ValueType::Str
    }
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }
}

impl<T: Element> Encode for [T] {
    fn ty(&self) -> ValueType {
        ValueType::Array
    }
    fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, T::TYPE as u32);
        put_u64(out, self.len() as u64);
        self.iter().for_each(|item| item.put(out));
    }
}

impl<T: Element, const N: usize> Encode for [T; N] {
    fn ty(&self) -> ValueType {
        ValueType::Array
    }
    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }
}

impl<T: Element> Encode for Vec<T> {
    fn ty(&self) -> ValueType {
        ValueType::Array
    }
    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }
}

impl<T: Element> Element for Vec<T> {
    const TYPE: ValueType = ValueType::Array;
}

/// A value of another file, as it is.
impl Encode for Value {
    fn ty(&self) -> ValueType {
        Value::ty(self)
    }
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => v.put(out),
            Self::I8(v) => v.put(out),
            Self::U16(v) => v.put(out),
            Self::I16(v) => v.put(out),
            Self::U32(v) => v.put(out),
            Self::I32(v) => v.put(out),
            Self::F32(v) => v.put(out),
            Self::Bool(v) => v.put(out),
            Self::Str(v) => put_bytes(out, v),
            Self::Array(a) => {
                put_u32(out, a.elem() as u32);
                put_u64(out, a.len() as u64);
                out.extend(a.raw());
            }
            Self::U64(v) => v.put(out),
            Self::I64(v) => v.put(out),
            Self::F64(v) => v.put(out),
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
