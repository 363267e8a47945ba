//! Attributes, subscripts and slices, as in Jinja on Python's types.

use super::budget::{Budget, Run, fail};
use super::eval::Interp;
use super::methods;
use super::text::{Builder, Text};
use super::value::Value;
use std::sync::Arc;

/// `value.name`: a method or field of the type, else the item of that name.
pub(super) fn attribute(interp: &Interp<'_>, value: &Value, name: &str) -> Run<Value> {
    if let Some(field) = field(interp, value, name)? {
        return Ok(field);
    }
    match value {
        Value::Dict(dict) => {
            let found = dict.get(interp.budget, &Value::own(name))?;
            Ok(found.cloned().unwrap_or_else(|| Value::undefined(name)))
        }
        _ => Ok(Value::undefined(name)),
    }
}

/// `value[key]`: the item, else the method or field of that name.
pub(super) fn item(interp: &Interp<'_>, value: &Value, key: &Value) -> Run<Value> {
    let found = match (value, key) {
        (Value::Dict(dict), _) => dict.get(interp.budget, key)?.cloned(),
        (Value::List(list), _) => {
            key.as_int().and_then(|i| at(i, list.items.len())).and_then(|i| list.items.get(i).cloned())
        }
        (Value::Str(text), _) => match key.as_int() {
            Some(i) => character(interp.budget, text, i)?,
            None => None,
        },
        _ => None,
    };
    match (found, key) {
        (Some(found), _) => Ok(found),
        (None, Value::Str(name)) => {
            let field = field(interp, value, name.as_str())?;
            Ok(field.unwrap_or_else(|| Value::undefined(name.as_str())))
        }
        (None, _) if value.is_undefined() => field(interp, value, "an item").map(|_| Value::None),
        (None, _) => Ok(Value::undefined("an item that is not there")),
    }
}

/// A method or field of the value's type.
pub(super) fn field(interp: &Interp<'_>, value: &Value, name: &str) -> Run<Option<Value>> {
    match value {
        Value::Undefined(of) => fail(format!("{of} is undefined and has no {name:.60}")),
        Value::Namespace(number) => {
            let Some(space) = interp.namespaces.get(*number) else { return Ok(None) };
            interp.budget.scan(space.len().saturating_mul(8))?;
            Ok(space.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
        }
        Value::Loop(number) => super::functions::loop_field(interp, *number, name),
        _ if methods::exists(value, name) => {
            interp.budget.alloc(name.len() + size_of::<(Value, String)>())?;
            Ok(Some(Value::Method(Arc::new((value.clone(), name.to_owned())))))
        }
        _ => Ok(None),
    }
}

/// Python's index: from the end if negative.
fn at(index: i128, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i128)? } else { index };
    usize::try_from(index).ok().filter(|i| *i < len)
}

fn character(budget: &Budget, text: &Text, index: i128) -> Run<Option<Value>> {
    budget.scan(text.as_str().len())?;
    let place = match usize::try_from(index) {
        Ok(i) => text.as_str().char_indices().nth(i),
        Err(_) => usize::try_from(-1 - index).ok().and_then(|i| text.as_str().char_indices().nth_back(i)),
    };
    place.map(|(i, c)| text.slice(budget, i..i + c.len_utf8()).map(Value::Str)).transpose()
}

/// `value[start:stop:step]`.
pub(super) fn slice(budget: &Budget, value: &Value, bounds: [Option<Value>; 3]) -> Run<Value> {
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound {
            None | Some(Value::None) => None,
            Some(bound) => match bound.as_int() {
                Some(n) => Some(n),
                None => return fail(format!("expected a number in a slice, found {}", bound.kind())),
            },
        };
    }
    match value {
        Value::Str(text) => slice_text(budget, text, numbers),
        Value::List(list) => {
            budget.alloc(list.items.len().saturating_mul(size_of::<Value>()))?;
            let picked = picks(numbers, list.items.len())?;
            let items = picked.filter_map(|i| list.items.get(i).cloned()).collect();
            Value::list(budget, items, list.tuple)
        }
        Value::Undefined(name) => fail(format!("{name} is undefined")),
        other => fail(format!("cannot slice {}", other.kind())),
    }
}

fn slice_text(budget: &Budget, text: &Text, numbers: [Option<i128>; 3]) -> Run<Value> {
    let string = text.as_str();
    budget.alloc(string.len().saturating_mul(size_of::<usize>()))?;
    let mut starts: Vec<usize> = string.char_indices().map(|(i, _)| i).collect();
    let n = starts.len();
    starts.push(string.len());
    let mut out = Builder::new(budget);
    for i in picks(numbers, n)? {
        if let Some([start, end]) = starts.get(i..i + 2) {
            out.push_slice(text, *start..*end)?;
        }
    }
    Ok(Value::Str(out.finish()))
}

/// The indices a slice of `len` items takes, in order.
fn picks([start, stop, step]: [Option<i128>; 3], len: usize) -> Run<impl Iterator<Item = usize>> {
    let len = len as i128;
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail("a slice's step cannot be zero");
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |b: i128| (if b < 0 { b.saturating_add(len) } else { b }).clamp(low, high);
    let first = start.map_or(if step > 0 { low } else { high }, bound);
    let end = stop.map_or(if step > 0 { high } else { low }, bound);
    let next = move |i: &i128| i.checked_add(step);
    let inside = move |i: &i128| if step > 0 { *i < end } else { *i > end };
    Ok(std::iter::successors(Some(first), next).take_while(inside).filter_map(|i| usize::try_from(i).ok()))
}

#[cfg(test)]
mod tests {
    use super::picks;

    #[test]
    fn slices_take_what_python_takes() {
        type Case = ([Option<i128>; 3], usize, &'static [usize]);
        let cases: [Case; 10] = [
            ([None, None, None], 3, &[0, 1, 2]),
            ([Some(1), None, None], 3, &[1, 2]),
            ([None, Some(-1), None], 3, &[0, 1]),
            ([Some(-2), None, None], 3, &[1, 2]),
            ([None, None, Some(-1)], 3, &[2, 1, 0]),
            ([None, None, Some(2)], 5, &[0, 2, 4]),
            ([Some(5), None, None], 3, &[]),
            ([Some(i128::MIN), Some(i128::MAX), Some(i128::MAX)], 3, &[0]),
            ([None, None, Some(-2)], 4, &[3, 1]),
            ([Some(2), Some(0), Some(-1)], 4, &[2, 1]),
        ];
        for (bounds, len, expected) in cases {
            assert_eq!(picks(bounds, len).unwrap().collect::<Vec<_>>(), expected, "{bounds:?}");
        }
        assert!(picks([None, None, Some(0)], 3).is_err());
    }
}
