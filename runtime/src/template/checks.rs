//! Tests: what follows `is`.

use super::args::CallArgs;
use super::ast::CmpOp;
use super::budget::{Run, fail};
use super::eval::{Interp, compare};
use super::methods::has_case;
use super::value::Value;

impl Interp<'_> {
    /// Whether a test holds.
    pub(super) fn test(&mut self, name: &str, value: &Value, args: CallArgs) -> Run<bool> {
        self.budget.step(1)?;
        if let Some(op) = comparison(name) {
            let other = args.one(name, "other")?;
            return compare(self.budget, op, value, &other);
        }
        if let "divisibleby" | "sameas" = name {
            let other = args.one(name, "other")?;
            return match (name, value.as_int(), other.as_int()) {
                ("sameas", ..) => Ok(value.kind() == other.kind() && value.equals(self.budget, &other)?),
                (_, Some(n), Some(by)) if by != 0 => Ok(n.checked_rem(by) == Some(0)),
                _ => fail("divisibleby: expected numbers"),
            };
        }
        args.none(name)?;
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "iterable" | "sequence" => {
                matches!(value, Value::Str(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_))
            }
            "callable" => matches!(value, Value::Macro(..) | Value::Function(_) | Value::Method(_)),
            "odd" | "even" => match value.as_int() {
                Some(n) => (n % 2 == 0) == (name == "even"),
                None => return fail(format!("{name}: expected a number, found {}", value.kind())),
            },
            "upper" | "lower" => {
                let text = value.to_text(self.budget)?;
                self.budget.scan(text.as_str().len())?;
                has_case(text.as_str(), name == "upper")
            }
            "escaped" => false,
            _ => return fail(format!("there is no test `{name:.40}`")),
        })
    }
}

/// Tests that are comparisons.
fn comparison(name: &str) -> Option<CmpOp> {
    Some(match name {
        "eq" | "equalto" => CmpOp::Eq,
        "ne" => CmpOp::Ne,
        "lt" | "lessthan" => CmpOp::Lt,
        "le" => CmpOp::Le,
        "gt" | "greaterthan" => CmpOp::Gt,
        "ge" => CmpOp::Ge,
        "in" => CmpOp::In,
        _ => return None,
    })
}
