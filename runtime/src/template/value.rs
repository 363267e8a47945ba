//! What template expressions evaluate to, with Python's meaning of truth, equality, order and text.

use super::budget::{Budget, Run, fail};
use super::lexer::is_space;
use super::text::{Builder, Text};
use std::cmp::Ordering;
use std::sync::Arc;

/// How deep lists and dictionaries may nest, whether from the caller or made by the template. Bounds the recursion
/// of everything that walks a value, its destruction included.
pub(super) const MAX_NESTING: u32 = 128;

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing of this name: prints as nothing, is false, is an error to use otherwise.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Arc<List>),
    Dict(Arc<Dict>),
    /// A namespace, by its number. Namespaces are kept in one list, as only they can change: nothing can contain
    /// itself.
    Namespace(usize),
    /// A macro and the scope it sees.
    Macro(usize, usize),
    /// A function that is always there.
    Function(&'static str),
    /// A method of a value.
    Method(Arc<(Value, String)>),
    /// The variable `loop` of a running loop.
    Loop(usize),
}

/// A list or tuple.
#[derive(Debug)]
pub(super) struct List {
    pub(super) items: Vec<Value>,
    pub(super) tuple: bool,
    depth: u32,
}

/// A dictionary in order of insertion.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) items: Vec<(Value, Value)>,
    depth: u32,
}

impl Value {
    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    pub(super) fn own(text: &str) -> Self {
        Self::Str(Text::own(text))
    }

    pub(super) fn list(budget: &Budget, items: Vec<Value>, tuple: bool) -> Run<Self> {
        budget.alloc(items.len().saturating_mul(size_of::<Value>()))?;
        let depth = nest(items.iter())?;
        Ok(Self::List(Arc::new(List { items, tuple, depth })))
    }

    pub(super) fn dict(budget: &Budget, items: Vec<(Value, Value)>) -> Run<Self> {
        budget.alloc(items.len().saturating_mul(2 * size_of::<Value>()))?;
        let depth = nest(items.iter().flat_map(|(k, v)| [k, v]))?;
        Ok(Self::Dict(Arc::new(Dict { items, depth })))
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(l) => l.depth,
            Self::Dict(d) => d.depth,
            Self::Method(m) => m.0.depth(),
            _ => 0,
        }
    }

    /// The caller's JSON. Its strings are the caller's.
    pub(super) fn from_json(budget: &Budget, json: &serde_json::Value) -> Run<Self> {
        budget.deeper(|| match json {
            serde_json::Value::Null => Ok(Self::None),
            serde_json::Value::Bool(b) => Ok(Self::Bool(*b)),
            serde_json::Value::Number(n) => Ok(match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Self::Int(n.into()),
                (_, Some(n)) => Self::Int(n.into()),
                _ => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            }),
            serde_json::Value::String(s) => {
                budget.alloc(s.len())?;
                Ok(Self::Str(Text::caller(s)))
            }
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|v| Self::from_json(budget, v)).collect::<Run<_>>()?;
                Self::list(budget, items, false)
            }
            serde_json::Value::Object(items) => {
                let pair =
                    |(k, v): (&String, _)| Ok((Self::Str(Text::caller(k)), Self::from_json(budget, v)?));
                Self::dict(budget, items.iter().map(pair).collect::<Run<_>>()?)
            }
        })
    }

    /// The type's name in Python.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined",
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(l) if l.tuple => "tuple",
            Self::List(_) => "list",
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "namespace",
            Self::Macro(..) | Self::Function(_) | Self::Method(_) => "function",
            Self::Loop(_) => "loop",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(n) => *n != 0.0,
            Self::Str(s) => !s.as_str().is_empty(),
            Self::List(l) => !l.items.is_empty(),
            Self::Dict(d) => !d.items.is_empty(),
            _ => true,
        }
    }

    /// The value as a whole number, as Python's index operations take it.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Bool(b) => Some((*b).into()),
            _ => None,
        }
    }

    /// The value as a number.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(n) => Some(*n),
            _ => self.as_int().map(|n| n as f64),
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s.as_str()),
            _ => None,
        }
    }

    /// Python's `==`. Pays for each part that is compared.
    pub(super) fn equals(&self, budget: &Budget, other: &Self) -> Run<bool> {
        budget.step(1)?;
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => {
                budget.scan(a.as_str().len().min(b.as_str().len()))?;
                a.as_str() == b.as_str()
            }
            (Self::List(a), Self::List(b)) => {
                if a.tuple != b.tuple || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !x.equals(budget, y)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (key, x) in &a.items {
                    match b.get(budget, key)? {
                        Some(y) if x.equals(budget, y)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Namespace(a), Self::Namespace(b)) => a == b,
            (Self::Macro(a, _), Self::Macro(b, _)) => a == b,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_float(), other.as_float()), (Some(a), Some(b)) if a == b),
            },
        })
    }

    /// Python's order.
    pub(super) fn compare(&self, budget: &Budget, other: &Self) -> Run<Ordering> {
        budget.step(1)?;
        let found = match (self, other) {
            (Self::Str(a), Self::Str(b)) => {
                budget.scan(a.as_str().len().min(b.as_str().len()))?;
                Some(a.as_str().cmp(b.as_str()))
            }
            (Self::List(a), Self::List(b)) if a.tuple == b.tuple => {
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !x.equals(budget, y)? {
                        return x.compare(budget, y);
                    }
                }
                Some(a.items.len().cmp(&b.items.len()))
            }
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => self.as_float().zip(other.as_float()).and_then(|(a, b)| a.partial_cmp(&b)),
            },
        };
        match found {
            Some(order) => Ok(order),
            None => fail(format!("cannot order {} and {}", self.kind(), other.kind())),
        }
    }

    /// Python's `str()`.
    pub(super) fn to_text(&self, budget: &Budget) -> Run<Text> {
        if let Self::Str(text) = self {
            return Ok(text.clone());
        }
        let mut out = Builder::new(budget);
        self.print(&mut out)?;
        Ok(out.finish())
    }

    /// Appends what `{{ value }}` prints.
    pub(super) fn print(&self, out: &mut Builder<'_>) -> Run<()> {
        match self {
            Self::Undefined(_) => Ok(()),
            Self::Str(text) => out.push_text(text),
            _ => self.print_repr(out),
        }
    }

    /// Appends Python's `repr()`.
    pub(super) fn print_repr(&self, out: &mut Builder<'_>) -> Run<()> {
        out.budget().step(1)?;
        match self {
            Self::Undefined(_) => out.push_own("Undefined"),
            Self::None => out.push_own("None"),
            Self::Bool(b) => out.push_own(if *b { "True" } else { "False" }),
            Self::Int(n) => out.push_own(&n.to_string()),
            Self::Float(n) => out.push_own(&float_text(*n)),
            Self::Str(text) => print_quoted(text, out),
            Self::List(list) => {
                out.push_own(if list.tuple { "(" } else { "[" })?;
                for (i, item) in list.items.iter().enumerate() {
                    out.push_own(if i > 0 { ", " } else { "" })?;
                    item.print_repr(out)?;
                }
                let one = list.tuple && list.items.len() == 1;
                out.push_own(if one {
                    ",)"
                } else if list.tuple {
                    ")"
                } else {
                    "]"
                })
            }
            Self::Dict(dict) => {
                out.push_own("{")?;
                for (i, (key, value)) in dict.items.iter().enumerate() {
                    out.push_own(if i > 0 { ", " } else { "" })?;
                    key.print_repr(out)?;
                    out.push_own(": ")?;
                    value.print_repr(out)?;
                }
                out.push_own("}")
            }
            _ => out.push_own(&format!("<{}>", self.kind())),
        }
    }

    /// The items that a loop over the value visits.
    pub(super) fn items(&self, budget: &Budget) -> Run<Vec<Value>> {
        let items: Vec<Value> = match self {
            Self::Undefined(_) => Vec::new(),
            Self::List(list) => {
                budget.alloc(list.items.len().saturating_mul(size_of::<Value>()))?;
                list.items.clone()
            }
            Self::Dict(dict) => {
                budget.alloc(dict.items.len().saturating_mul(size_of::<Value>()))?;
                dict.items.iter().map(|(k, _)| k.clone()).collect()
            }
            Self::Str(text) => {
                // A character is a value of its own, with a string of its own.
                budget.alloc(text.as_str().len().saturating_mul(size_of::<Value>()))?;
                let one = |(i, c): (usize, char)| text.slice(budget, i..i + c.len_utf8()).map(Self::Str);
                text.as_str().char_indices().map(one).collect::<Run<_>>()?
            }
            _ => return fail(format!("cannot loop over {}", self.kind())),
        };
        Ok(items)
    }

    /// Python's `len()`.
    pub(super) fn len(&self, budget: &Budget) -> Run<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Str(text) => {
                budget.scan(text.as_str().len())?;
                Ok(text.as_str().chars().count())
            }
            Self::List(list) => Ok(list.items.len()),
            Self::Dict(dict) => Ok(dict.items.len()),
            _ => fail(format!("{} has no length", self.kind())),
        }
    }
}

impl Dict {
    /// The value of a key.
    pub(super) fn get(&self, budget: &Budget, key: &Value) -> Run<Option<&Value>> {
        if let Some(name) = key.as_str() {
            budget.scan(self.items.len().saturating_mul(8))?;
            return Ok(self.by_name(name));
        }
        for (k, v) in &self.items {
            if k.equals(budget, key)? {
                return Ok(Some(v));
            }
        }
        Ok(None)
    }

    fn by_name(&self, name: &str) -> Option<&Value> {
        self.items.iter().find(|(k, _)| k.as_str() == Some(name)).map(|(_, v)| v)
    }
}

/// The nesting of a container of these.
fn nest<'v>(items: impl Iterator<Item = &'v Value>) -> Run<u32> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    if depth > MAX_NESTING { fail("lists nest deeper than they may") } else { Ok(depth) }
}

/// Python's text of a float: shortest digits that read back the same, a point or an exponent always.
pub(super) fn float_text(n: f64) -> String {
    if n.is_nan() {
        return "nan".to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = n.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{n:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = n.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// Python's `repr` of a string.
fn print_quoted(text: &Text, out: &mut Builder<'_>) -> Run<()> {
    let has = |c| text.as_str().contains(c);
    let quote = if has('\'') && !has('"') { "\"" } else { "'" };
    out.push_own(quote)?;
    for (caller, run) in text.runs() {
        for c in run.chars() {
            match c {
                '\n' => out.push(caller, "\\n")?,
                '\r' => out.push(caller, "\\r")?,
                '\t' => out.push(caller, "\\t")?,
                '\\' => out.push(caller, "\\\\")?,
                '\'' if quote == "'" => out.push(caller, "\\'")?,
                c if (c as u32) < 0x20 || (0x7f..0xa0).contains(&(c as u32)) => {
                    out.push(caller, &format!("\\x{:02x}", c as u32))?;
                }
                c if c != ' ' && is_space(c) => out.push(caller, &format!("\\u{:04x}", c as u32))?,
                c => out.push(caller, c.encode_utf8(&mut [0; 4]))?,
            }
        }
    }
    out.push_own(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (123456.789, "123456.789"),
        ];
        for (n, text) in cases {
            assert_eq!(float_text(n), text);
        }
    }
}
