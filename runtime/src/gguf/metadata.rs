//! Key-value metadata with typed, checked access.

use super::cursor::{Shown, bad};
use super::value::{Array, StrArray, Value, ValueType};
use crate::error::{Error, ErrorKind, Result};
use hashbrown::HashMap;
use std::borrow::Cow;
use std::sync::Arc;

/// A file's key-value pairs, in file order.
///
/// Getters answer `Ok(None)` for a missing key and `BadFile`, naming file, offset and key, for a value of
/// the wrong type. Integer getters take any integer type whose value fits.
#[derive(Debug)]
pub struct Metadata {
    origin: Arc<str>,
    entries: Vec<Entry>,
    index: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<str>,
    /// Where the value begins in the file, in bytes.
    offset: usize,
    value: Value,
}

/// A getter that answers `Option`, and its twin that requires the key.
macro_rules! getters {
    ($($(#[$doc:meta])* $get:ident, $require:ident -> $ty:ty, $wanted:literal, $read:expr;)*) => {$(
        $(#[$doc])*
        /// # Errors  `BadFile` for a value of another type.
        pub fn $get(&self, key: &str) -> Result<Option<$ty>> {
            self.typed(key, $wanted, $read)
        }

        #[doc = concat!("As [`", stringify!($get), "`](Self::", stringify!($get), "), but a missing key is `BadFile` too.")]
        /// # Errors  `BadFile`.
        pub fn $require(&self, key: &str) -> Result<$ty> {
            self.$get(key)?.ok_or_else(|| self.missing(key))
        }
    )*};
}

impl Metadata {
    pub(super) fn new(origin: Arc<str>) -> Self {
        Self { origin, entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds a pair read at `offset`.
    /// # Errors  `BadFile` for a key that is already there.
    pub(super) fn insert(&mut self, key: &str, offset: usize, value: Value) -> Result<()> {
        let key: Arc<str> = key.into();
        if self.index.insert(key.clone(), self.entries.len()).is_some() {
            return Err(bad(offset, format_args!("key {}", Shown(key.as_bytes())), "duplicate key"));
        }
        self.entries.push(Entry { key, offset, value });
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|e| &e.value)
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All pairs, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|e| (&*e.key, &e.value))
    }

    getters! {
        /// A `u32`.
        u32, require_u32 -> u32, "u32", int;
        /// An `i32`.
        i32, require_i32 -> i32, "i32", int;
        /// A `u64`.
        u64, require_u64 -> u64, "u64", int;
        /// An `f32`; an `f64` is rounded.
        f32, require_f32 -> f32, "f32", |v| v.as_float().map(|v| v as f32);
        /// A boolean.
        bool, require_bool -> bool, "bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        };
        /// An array of integers.
        u32_array, require_u32_array -> Vec<u32>, "array of u32", ints;
        /// An array of integers.
        i32_array, require_i32_array -> Vec<i32>, "array of i32", ints;
        /// An array of numbers; `f64` are rounded.
        f32_array, require_f32_array -> Vec<f32>, "array of f32", floats;
        /// An array of booleans.
        bool_array, require_bool_array -> Vec<bool>, "array of bool", bools;
    }

    /// The bytes of a string.
    /// # Errors  `BadFile` for a value of another type.
    pub fn bytes(&self, key: &str) -> Result<Option<&[u8]>> {
        self.typed(key, "string", |v| match v {
            Value::Str(s) => Some(&**s),
            _ => None,
        })
    }

    /// A string.
    /// # Errors  `BadFile` for a value of another type or one that is not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|e| self.bad(key, format!("the string {} is not UTF-8: {e}", Shown(bytes))))
    }

    /// As [`str`](Self::str), but a missing key is `BadFile` too.
    /// # Errors  `BadFile`.
    pub fn require_str(&self, key: &str) -> Result<&str> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    /// A string for display: what is not UTF-8 becomes U+FFFD.
    /// # Errors  `BadFile` for a value of another type.
    pub fn str_lossy(&self, key: &str) -> Result<Option<Cow<'_, str>>> {
        Ok(self.bytes(key)?.map(String::from_utf8_lossy))
    }

    /// An array of strings, read in place.
    /// # Errors  `BadFile` for a value of another type.
    pub fn str_array(&self, key: &str) -> Result<Option<StrArray<'_>>> {
        self.typed(key, "array of string", |v| array(v)?.strings())
    }

    /// As [`str_array`](Self::str_array), but a missing key is `BadFile` too.
    /// # Errors  `BadFile`.
    pub fn require_str_array(&self, key: &str) -> Result<StrArray<'_>> {
        self.str_array(key)?.ok_or_else(|| self.missing(key))
    }

    /// A `BadFile` error about the value of `key`: names the file, the offset and the key.
    pub fn bad(&self, key: &str, message: impl Into<String>) -> Error {
        self.fault(key, message).at(&*self.origin)
    }

    /// As [`bad`](Self::bad), without the file.
    pub(super) fn fault(&self, key: &str, message: impl Into<String>) -> Error {
        let shown = Shown(key.as_bytes());
        match self.entry(key) {
            Some(e) => bad(e.offset, format_args!("key {shown}"), message),
            None => Error::new(ErrorKind::BadFile, message).at(format!("key {shown}")),
        }
    }

    fn missing(&self, key: &str) -> Error {
        self.bad(key, format!("the key is missing from the metadata ({} keys)", self.len()))
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.index.get(key).and_then(|i| self.entries.get(*i))
    }

    /// `read(value of key)`, or an error that says what was `wanted` and what is there.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let shown = value.as_int().map(|v| format!(" with value {v}")).unwrap_or_default();
            self.bad(key, format!("expected type {wanted}, found type {}{shown}", value.type_name()))
        })
    }
}

fn array(value: &Value) -> Option<&Array> {
    match value {
        Value::Array(a) => Some(a),
        _ => None,
    }
}

fn int<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    T::try_from(value.as_int()?).ok()
}

/// All elements of an array of integers, if each fits.
fn ints<T: TryFrom<i128>>(value: &Value) -> Option<Vec<T>> {
    let a = array(value)?;
    match a.elem() {
        ValueType::U8 => collect(a, |b| u8::from_le_bytes(b).into()),
        ValueType::I8 => collect(a, |b| i8::from_le_bytes(b).into()),
        ValueType::U16 => collect(a, |b| u16::from_le_bytes(b).into()),
        ValueType::I16 => collect(a, |b| i16::from_le_bytes(b).into()),
        ValueType::U32 => collect(a, |b| u32::from_le_bytes(b).into()),
        ValueType::I32 => collect(a, |b| i32::from_le_bytes(b).into()),
        ValueType::U64 => collect(a, |b| u64::from_le_bytes(b).into()),
        ValueType::I64 => collect(a, |b| i64::from_le_bytes(b).into()),
        _ => None,
    }
}

/// The elements of `N` bytes each through `i128`, if each fits `T`.
fn collect<T: TryFrom<i128>, const N: usize>(a: &Array, read: impl Fn([u8; N]) -> i128) -> Option<Vec<T>> {
    chunks(a).map(|b| T::try_from(read(b)).ok()).collect()
}

fn floats(value: &Value) -> Option<Vec<f32>> {
    let a = array(value)?;
    match a.elem() {
        ValueType::F32 => Some(chunks(a).map(f32::from_le_bytes).collect()),
        ValueType::F64 => Some(chunks(a).map(|b| f64::from_le_bytes(b) as f32).collect()),
        _ => None,
    }
}

fn bools(value: &Value) -> Option<Vec<bool>> {
    let a = array(value).filter(|a| a.elem() == ValueType::Bool)?;
    Some(a.raw().iter().map(|b| *b != 0).collect())
}

fn chunks<const N: usize>(a: &Array) -> impl Iterator<Item = [u8; N]> + '_ {
    a.raw().as_chunks().0.iter().copied()
}
