//! Metadata values. Arrays and strings stay where they lie in the file: a vocabulary of 262 144 strings
//! costs one walk over its length fields when the file is opened and no memory.

use super::cursor::{Cursor, Shown, bad, split_string};
use super::{Bytes, backing::Backing};
use crate::error::Result;
use std::fmt;
use std::sync::Arc;

/// Arrays inside arrays are followed to this depth; no known file goes beyond 1.
const MAX_ARRAY_DEPTH: usize = 4;

/// Types of metadata values. Discriminants are the numbers in the file.
#[allow(missing_docs, reason = "names are the format's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
    };

    /// The type with this number in the file.
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes of a value; for strings and arrays the least they can take.
    pub(super) fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// A metadata value.
#[allow(missing_docs, reason = "names are the format's own")]
#[derive(Clone, Debug)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes in the file; meant to be UTF-8, but not checked.
    Str(Bytes),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value of any integer type.
    pub fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value of either floating-point type.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }
}

/// Type, and for arrays the type of the elements: for messages.
impl Value {
    pub(super) fn type_name(&self) -> String {
        match self {
            Self::Array(a) => format!("array of {}", a.elem),
            other => other.ty().to_string(),
        }
    }
}

/// An array in the file: its structure is checked, its elements are read when asked for.
#[derive(Clone, Debug)]
pub struct Array {
    elem: ValueType,
    len: usize,
    items: Bytes,
}

impl Array {
    /// Type of the elements.
    pub fn elem(&self) -> ValueType {
        self.elem
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        let mut at = 0;
        (0..self.len).map_while(move |_| {
            let rest = self.items.slice(at..self.items.len())?;
            let (value, used) = read_item(self.elem, &rest)?;
            at += used;
            Some(value)
        })
    }

    /// The strings of an array of strings.
    pub fn strings(&self) -> Option<StrArray<'_>> {
        (self.elem == ValueType::Str).then_some(StrArray { items: &self.items, len: self.len })
    }

    /// The elements as stored: little-endian numbers one after another.
    pub(super) fn raw(&self) -> &[u8] {
        &self.items
    }
}

/// An element at the start of `bytes` and its size. `None` only when a mapped file changed after it was checked.
fn read_item(ty: ValueType, bytes: &Bytes) -> Option<(Value, usize)> {
    let mut c = Cursor::new(bytes);
    let value = match ty {
        ValueType::Str => {
            let n = c.string("").ok()?.len();
            Value::Str(bytes.slice(8..8 + n)?)
        }
        ValueType::Array => {
            let (elem, len, n) = walk_array(&mut c, &"", 0).ok()?;
            Value::Array(Array { elem, len, items: bytes.slice(12..12 + n)? })
        }
        number => read_number(&mut c, number, "").ok()?,
    };
    Some((value, c.pos()))
}

/// The strings of an array, read in place.
#[derive(Clone, Copy, Debug)]
pub struct StrArray<'a> {
    items: &'a [u8],
    len: usize,
}

impl<'a> StrArray<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no string.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all strings together.
    pub fn total_bytes(&self) -> usize {
        self.items.len().saturating_sub(self.len.saturating_mul(8))
    }

    /// The strings in order, as bytes: nothing says that they are UTF-8. Ends early only when a mapped file
    /// was overwritten after it was opened.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.items;
        (0..self.len).map_while(move |_| {
            let (string, after) = split_string(rest)?;
            rest = after;
            Some(string)
        })
    }
}

/// Reads the value of type `ty` at `c`; strings and arrays refer to `backing`, where the file begins at `base`.
pub(super) fn read_value(
    c: &mut Cursor<'_>,
    ty: ValueType,
    key: &str,
    backing: &Arc<Backing>,
    base: usize,
) -> Result<Value> {
    let field = Field(key);
    let at = c.pos();
    let held = |from: usize, to: usize| {
        Bytes::new(backing.clone(), base + from..base + to)
            .ok_or_else(|| bad(at, field, "beyond the file's end"))
    };
    Ok(match ty {
        ValueType::Str => {
            c.string(field)?;
            Value::Str(held(at + 8, c.pos())?)
        }
        ValueType::Array => {
            let (elem, len, n) = walk_array(c, &field, 0)?;
            Value::Array(Array { elem, len, items: held(c.pos() - n, c.pos())? })
        }
        number => read_number(c, number, field)?,
    })
}

#[derive(Clone, Copy)]
struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value of key {}", Shown(self.0.as_bytes()))
    }
}

fn read_number(c: &mut Cursor<'_>, ty: ValueType, field: impl fmt::Display) -> Result<Value> {
    let at = c.pos();
    let mut wide = [0; 8];
    let n = ty.min_bytes();
    wide[..n].copy_from_slice(c.take(n, &field)?);
    let [a, b, c4, d, ..] = wide;
    Ok(match ty {
        ValueType::U8 => Value::U8(a),
        ValueType::I8 => Value::I8(a as i8),
        ValueType::U16 => Value::U16(u16::from_le_bytes([a, b])),
        ValueType::I16 => Value::I16(i16::from_le_bytes([a, b])),
        ValueType::U32 => Value::U32(u32::from_le_bytes([a, b, c4, d])),
        ValueType::I32 => Value::I32(i32::from_le_bytes([a, b, c4, d])),
        ValueType::F32 => Value::F32(f32::from_le_bytes([a, b, c4, d])),
        ValueType::Bool => Value::Bool(read_bool(a).ok_or_else(|| bad_bool(at, field, a))?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(wide)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(wide)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(wide)),
        ValueType::Str | ValueType::Array => return Err(bad(at, field, "expected a number type")),
    })
}

fn read_bool(byte: u8) -> Option<bool> {
    (byte <= 1).then_some(byte == 1)
}

fn bad_bool(at: usize, field: impl fmt::Display, found: u8) -> crate::Error {
    bad(at, field, format!("expected 0 or 1 for type bool, found {found}"))
}

/// Checks the array at `c` (element type, count, items) and passes over it; answers the element type, the
/// count, and the bytes of the items.
fn walk_array(
    c: &mut Cursor<'_>,
    field: &dyn fmt::Display,
    depth: usize,
) -> Result<(ValueType, usize, usize)> {
    let at = c.pos();
    if depth >= MAX_ARRAY_DEPTH {
        return Err(bad(at, field, format!("arrays are nested deeper than {MAX_ARRAY_DEPTH}")));
    }
    let number = c.u32(format_args!("{field}: element type"))?;
    let elem = ValueType::from_u32(number)
        .ok_or_else(|| bad(at, field, format!("array element type {number} does not exist")))?;
    let len = c.count(elem.min_bytes(), format_args!("{field}: array length"))?;
    let start = c.pos();
    match elem {
        ValueType::Str => walk_strings(c, len, field)?,
        ValueType::Array => (0..len).try_for_each(|_| walk_array(c, field, depth + 1).map(drop))?,
        // `count` has shown that the product fits the file.
        _ => walk_numbers(c, elem, len * elem.min_bytes(), field)?,
    }
    Ok((elem, len, c.pos() - start))
}

fn walk_strings(c: &mut Cursor<'_>, len: usize, field: &dyn fmt::Display) -> Result<()> {
    let passed = c.skip_strings(len);
    if passed < len {
        c.string(format_args!("{field}: string {passed}"))?; // fails as `skip_strings` did, with words
    }
    Ok(())
}

fn walk_numbers(c: &mut Cursor<'_>, elem: ValueType, n_bytes: usize, field: &dyn fmt::Display) -> Result<()> {
    let at = c.pos();
    let items = c.take(n_bytes, field)?;
    let odd = items.iter().enumerate().find(|(_, b)| elem == ValueType::Bool && read_bool(**b).is_none());
    odd.map_or(Ok(()), |(i, b)| Err(bad_bool(at + i, field, *b)))
}
