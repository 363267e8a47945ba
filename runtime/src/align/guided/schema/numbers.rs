//! Bounds on numbers, moved inward to what decimal text and 64-bit floats agree on.
//!
//! The engine compares digits; a reader compares floats. A bound that no float holds exactly, or an exclusive one
//! that a long fraction could round onto, would let a text through that reads as outside. Each bound therefore
//! moves inward by at most one part in 10^12. Integers keep exact bounds up to 2^53.

use serde_json::{Map, Number, Value, json};

/// Largest magnitude of a bound: the greatest float of 18 digits, which is as long as integers may become.
const LARGEST: f64 = 999_999_999_999_999_872.0;
/// Step inward from an exclusive bound, relative, and absolute at zero.
const STEP: f64 = 1e-12;
/// Bounds put where a multiple has none, so that the number ends.
const MULTIPLE_RANGE: f64 = 1e15;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Least,
    Most,
}

impl Side {
    fn inward(self, x: f64) -> f64 {
        match self {
            Self::Least => x.next_up(),
            Self::Most => x.next_down(),
        }
    }

    /// The tighter of two bounds.
    fn tighter(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Least => a.max(b),
            Self::Most => a.min(b),
        }
    }
}

/// Writes the bounds of `from` to `to`, all of them inclusive unless only integers are meant.
/// # Errors The keyword at fault and why.
pub(super) fn bounds(
    from: &Map<String, Value>,
    to: &mut Map<String, Value>,
) -> Result<(), (&'static str, String)> {
    let is_integer = from.get("type").is_some_and(|t| t == "integer");
    let least = side(from, Side::Least, "minimum", "exclusiveMinimum", is_integer)?;
    let most = side(from, Side::Most, "maximum", "exclusiveMaximum", is_integer)?;
    let step = multiple(from)?;
    if let Some(step) = &step {
        to.insert("multipleOf".into(), Value::Number(step.clone()));
    }
    let open = step.is_some().then_some(MULTIPLE_RANGE);
    // an open side next to a large bound is one the engine cannot spell
    let open = open.or([least, most].iter().flatten().any(|b| b.abs() > MULTIPLE_RANGE).then_some(LARGEST));
    for (key, bound) in [("minimum", least.or(open.map(|o| -o))), ("maximum", most.or(open))] {
        if let Some(b) = bound {
            to.insert(key.into(), json!(b));
        }
    }
    Ok(())
}

fn side(
    from: &Map<String, Value>,
    side: Side,
    plain: &'static str,
    exclusive: &'static str,
    is_integer: bool,
) -> Result<Option<f64>, (&'static str, String)> {
    let inclusive = from.get(plain).map(|v| number(plain, v)).transpose()?;
    let strict = match from.get(exclusive) {
        None | Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => inclusive, // draft 4
        Some(v) => Some(number(exclusive, v)?),
    };
    let inclusive = inclusive.map(|n| representable(n, side));
    let strict = strict.map(|n| {
        let b = representable(n, side);
        if is_integer { integer_behind(b, side) } else { behind(b, side) }
    });
    let bound = match (inclusive, strict) {
        (Some(a), Some(b)) => Some(side.tighter(a, b)),
        (a, b) => a.or(b),
    };
    if let Some(b) = bound
        && ((side == Side::Least && b > LARGEST) || (side == Side::Most && b < -LARGEST))
    {
        return Err((plain, format!("expected a bound of at most 18 digits, found {b}")));
    }
    Ok(bound.map(|b| b.clamp(-LARGEST, LARGEST)))
}

fn number<'a>(key: &'static str, v: &'a Value) -> Result<&'a Number, (&'static str, String)> {
    v.as_number().ok_or_else(|| (key, format!("expected a number, found {v}")))
}

/// The nearest float not outside the bound.
fn representable(n: &Number, side: Side) -> f64 {
    let x = n.as_f64().unwrap_or(0.0);
    if x.abs() < 9_007_199_254_740_992.0 {
        return x;
    }
    let exact = n.as_i64().map(i128::from).or(n.as_u64().map(i128::from));
    match exact {
        Some(i) if side == Side::Least && (x as i128) < i => side.inward(x),
        Some(i) if side == Side::Most && (x as i128) > i => side.inward(x),
        _ => x,
    }
}

/// The integer next to `b` on the inside.
fn integer_behind(b: f64, side: Side) -> f64 {
    let next = match side {
        Side::Least => b.floor() + 1.0,
        Side::Most => b.ceil() - 1.0,
    };
    if next == b { side.inward(b) } else { next }
}

/// A number with few digits just inside the exclusive bound `b`.
fn behind(b: f64, side: Side) -> f64 {
    let step = (b.abs() * STEP).max(STEP);
    let moved = if side == Side::Least { b + step } else { b - step };
    let short: f64 = format!("{moved:.14e}").parse().unwrap_or(moved);
    let is_inside = if side == Side::Least { short > b } else { short < b };
    if is_inside { short } else { side.inward(b) }
}

/// The step of `multipleOf`, if it has few enough digits to be exact.
fn multiple(from: &Map<String, Value>) -> Result<Option<Number>, (&'static str, String)> {
    let Some(v) = from.get("multipleOf") else { return Ok(None) };
    let n = number("multipleOf", v)?;
    let x = n.as_f64().unwrap_or(0.0);
    if x <= 0.0 {
        return Err(("multipleOf", format!("expected a positive number, found {n}")));
    }
    let (mut scaled, mut places) = (x, 0);
    while scaled.fract() != 0.0 && places <= 6 {
        scaled *= 10.0;
        places += 1;
    }
    // the engine combines two of them in 32 bits
    if places > 6 || scaled > 65_535.0 || x * 1e4 > 4e9 {
        return Err(("multipleOf", format!("expected a decimal of few digits, found {n}")));
    }
    Ok(Some(n.clone()))
}

/// Whether the engine spells `n`, given as a constant, as a reader reads it.
pub(super) fn is_exact(n: &Number) -> bool {
    let x = n.as_f64().unwrap_or(f64::NAN);
    let is_whole = n.is_i64() || n.is_u64();
    let magnitude = x.abs();
    let is_plain = magnitude == 0.0 || (1e-12..1e15).contains(&magnitude);
    is_plain && (!is_whole || magnitude < 9e15)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bounded(schema: Value) -> Value {
        let mut out = Map::new();
        bounds(schema.as_object().unwrap(), &mut out).unwrap();
        Value::Object(out)
    }

    #[test]
    fn bounds_move_inward_only() {
        let cases = [
            (json!({"minimum": 1, "maximum": 2.5}), json!({"minimum": 1.0, "maximum": 2.5})),
            (json!({"type": "integer", "exclusiveMinimum": 1}), json!({"minimum": 2.0})),
            (json!({"type": "integer", "exclusiveMaximum": 2.5}), json!({"maximum": 2.0})),
            (json!({"exclusiveMinimum": 0}), json!({"minimum": 1e-12})),
            (json!({"minimum": 3, "exclusiveMinimum": true, "type": "integer"}), json!({"minimum": 4.0})),
            (json!({"maximum": i64::MAX}), json!({"minimum": -LARGEST, "maximum": LARGEST})),
            (
                json!({"minimum": 3, "multipleOf": 5}),
                json!({"multipleOf": 5, "minimum": 3.0, "maximum": 1e15}),
            ),
        ];
        for (from, want) in cases {
            assert_eq!(bounded(from.clone()), want, "{from}");
        }
    }

    #[test]
    fn an_integer_no_float_holds_is_not_passed() {
        // 2^53 + 1 lies between two floats
        let b = bounded(json!({"maximum": 9_007_199_254_740_993i64}));
        assert_eq!(b["maximum"], json!(9_007_199_254_740_992.0));
        let b = bounded(json!({"minimum": 9_007_199_254_740_993i64}));
        assert_eq!(b["minimum"], json!(9_007_199_254_740_994.0));
    }
}
