//! Operators, as in Python.

use super::ast::BinOp;
use super::budget::{Budget, Fail, Run, fail};
use super::text::Builder;
use super::value::Value;

/// The value of `a op b`.
pub(super) fn binary(budget: &Budget, op: BinOp, a: &Value, b: &Value) -> Run<Value> {
    for side in [a, b] {
        if let Value::Undefined(name) = side {
            return fail(format!("{name} is undefined"));
        }
    }
    match (op, a, b) {
        (BinOp::Add, Value::Str(x), Value::Str(y)) => {
            let mut out = Builder::new(budget);
            out.push_text(x)?;
            out.push_text(y)?;
            Ok(Value::Str(out.finish()))
        }
        (BinOp::Add, Value::List(x), Value::List(y)) if x.tuple == y.tuple => {
            budget.alloc((x.items.len() + y.items.len()).saturating_mul(size_of::<Value>()))?;
            Value::list(budget, x.items.iter().chain(&y.items).cloned().collect(), x.tuple)
        }
        (BinOp::Mul, Value::Str(_) | Value::List(_), n) | (BinOp::Mul, n, Value::Str(_) | Value::List(_)) => {
            let sequence =
                if n.as_int().is_some() && matches!(a, Value::Str(_) | Value::List(_)) { a } else { b };
            repeat(budget, sequence, n)
        }
        (BinOp::Mod, Value::Str(format), args) => super::strings::percent_format(budget, format, args),
        _ => arithmetic(op, a, b),
    }
}

fn repeat(budget: &Budget, sequence: &Value, n: &Value) -> Run<Value> {
    let Some(n) = n.as_int() else { return fail(format!("cannot multiply by {}", n.kind())) };
    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    match sequence {
        Value::Str(text) => {
            // Paid for in one go, so that an absurd count fails before anything is made.
            budget.alloc(text.as_str().len().saturating_mul(n))?;
            let mut out = Builder::new(budget);
            let n = if text.as_str().is_empty() { 0 } else { n };
            (0..n).try_for_each(|_| out.push_text(text))?;
            Ok(Value::Str(out.finish()))
        }
        Value::List(list) => {
            budget.alloc(list.items.len().saturating_mul(n).saturating_mul(size_of::<Value>()))?;
            let n = if list.items.is_empty() { 0 } else { n };
            let items = std::iter::repeat_n(&list.items, n).flatten().cloned().collect();
            Value::list(budget, items, list.tuple)
        }
        other => fail(format!("cannot repeat {}", other.kind())),
    }
}

fn arithmetic(op: BinOp, a: &Value, b: &Value) -> Run<Value> {
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return integers(op, x, y);
    }
    match (a.as_float(), b.as_float()) {
        (Some(x), Some(y)) => floats(op, x, y).map(Value::Float),
        _ => fail(format!("cannot {} {} and {}", verb(op), a.kind(), b.kind())),
    }
}

fn verb(op: BinOp) -> &'static str {
    match op {
        BinOp::Add => "add",
        BinOp::Sub => "subtract",
        BinOp::Mul => "multiply",
        BinOp::Div | BinOp::FloorDiv | BinOp::Mod => "divide",
        BinOp::Pow => "raise",
    }
}

fn integers(op: BinOp, x: i128, y: i128) -> Run<Value> {
    let too_large = || Fail::new("a number is too large");
    if y == 0 && matches!(op, BinOp::Div | BinOp::FloorDiv | BinOp::Mod) {
        return fail("division by zero");
    }
    let value = match op {
        BinOp::Div => return Ok(Value::Float(x as f64 / y as f64)),
        BinOp::Pow if y < 0 => return floats(op, x as f64, y as f64).map(Value::Float),
        BinOp::Add => x.checked_add(y),
        BinOp::Sub => x.checked_sub(y),
        BinOp::Mul => x.checked_mul(y),
        BinOp::FloorDiv => floor_div(x, y),
        BinOp::Mod => floor_div(x, y).and_then(|q| x.checked_sub(q.checked_mul(y)?)),
        BinOp::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
    };
    value.map(Value::Int).ok_or_else(too_large)
}

/// Division rounding down, as in Python.
fn floor_div(x: i128, y: i128) -> Option<i128> {
    let q = x.checked_div(y)?;
    Some(if x % y != 0 && (x < 0) != (y < 0) { q - 1 } else { q })
}

fn floats(op: BinOp, x: f64, y: f64) -> Run<f64> {
    if y == 0.0 && matches!(op, BinOp::Div | BinOp::FloorDiv | BinOp::Mod) {
        return fail("division by zero");
    }
    Ok(match op {
        BinOp::Add => x + y,
        BinOp::Sub => x - y,
        BinOp::Mul => x * y,
        BinOp::Div => x / y,
        BinOp::FloorDiv => (x / y).floor(),
        BinOp::Mod => x - y * (x / y).floor(),
        BinOp::Pow => x.powf(y),
    })
}

/// `-value`.
pub(super) fn negative(value: &Value) -> Run<Value> {
    match (value.as_int(), value.as_float()) {
        (Some(n), _) => n.checked_neg().map(Value::Int).ok_or_else(|| Fail::new("a number is too large")),
        (None, Some(n)) => Ok(Value::Float(-n)),
        _ => fail(format!("cannot negate {}", value.kind())),
    }
}

/// `needle in haystack`.
pub(super) fn contains(budget: &Budget, haystack: &Value, needle: &Value) -> Run<bool> {
    match haystack {
        Value::Undefined(_) => Ok(false),
        Value::Str(text) => match needle {
            Value::Str(part) => {
                budget.scan(text.as_str().len() + part.as_str().len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            other => fail(format!("cannot look for {} in a string", other.kind())),
        },
        Value::List(list) => {
            for item in &list.items {
                if item.equals(budget, needle)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(dict) => Ok(dict.get(budget, needle)?.is_some()),
        other => fail(format!("cannot look into {}", other.kind())),
    }
}
