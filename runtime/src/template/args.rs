//! Evaluated arguments of a call, and how built-ins take them.

use super::budget::{Run, fail};
use super::value::Value;

/// Arguments by place and by name.
#[derive(Debug, Default)]
pub(super) struct CallArgs {
    pub(super) place: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl CallArgs {
    /// Gives each parameter its argument, if there is one.
    pub(super) fn bind<const N: usize>(self, what: &str, params: [&str; N]) -> Run<[Option<Value>; N]> {
        let mut out = [const { None }; N];
        if self.place.len() > N {
            return fail(format!("{what} takes {N} arguments at most, found {}", self.place.len()));
        }
        for (slot, value) in out.iter_mut().zip(self.place) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let slot = params.iter().position(|p| *p == name).and_then(|i| out.get_mut(i));
            match slot {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => return fail(format!("{what} gets {name} twice")),
                None => return fail(format!("{what} has no argument `{name:.40}`")),
            }
        }
        Ok(out)
    }

    /// No arguments at all.
    pub(super) fn none(self, what: &str) -> Run<()> {
        self.bind::<0>(what, []).map(drop)
    }

    /// One argument that must be there.
    pub(super) fn one(self, what: &str, name: &str) -> Run<Value> {
        let [value] = self.bind(what, [name])?;
        needed(value, what, name)
    }
}

/// The argument, or the error that it is missing.
pub(super) fn needed(value: Option<Value>, what: &str, name: &str) -> Run<Value> {
    match value {
        Some(value) => Ok(value),
        None => fail(format!("{what} needs the argument {name}")),
    }
}

/// A whole number in `usize`; `default` if absent or None.
pub(super) fn count(value: Option<Value>, default: usize, what: &str) -> Run<usize> {
    match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => match value.as_int() {
            Some(n) => Ok(usize::try_from(n.max(0)).unwrap_or(usize::MAX)),
            None => fail(format!("{what}: expected a number, found {}", value.kind())),
        },
    }
}

/// Truth of an optional argument.
pub(super) fn flag(value: &Option<Value>, default: bool) -> bool {
    value.as_ref().map_or(default, Value::is_true)
}
