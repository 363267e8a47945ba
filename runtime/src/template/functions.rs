//! Functions that every chat template can call, and the fields of `loop`.

use super::args::{CallArgs, needed};
use super::budget::{Run, fail};
use super::clock;
use super::eval::{Interp, insert};
use super::value::Value;

const FUNCTIONS: [&str; 5] = ["range", "namespace", "dict", "raise_exception", "strftime_now"];

/// The function of this name.
pub(super) fn named(name: &str) -> Option<Value> {
    FUNCTIONS.iter().find(|f| **f == name).map(|f| Value::Function(f))
}

impl Interp<'_> {
    /// Calls a function.
    pub(super) fn function(&mut self, name: &str, args: CallArgs) -> Run<Value> {
        match name {
            "range" => self.range(args),
            "namespace" => self.namespace(args),
            "dict" => {
                let items = self.pairs(args)?;
                Value::dict(self.budget, items)
            }
            "raise_exception" => {
                let message = args.one(name, "message")?.to_text(self.budget)?;
                fail(format!("the template refuses: {:.500}", message.as_str()))
            }
            "strftime_now" => {
                let format = args.one(name, "format")?.to_text(self.budget)?;
                Ok(Value::own(&clock::format(self.budget, format.as_str(), self.now)?))
            }
            _ => fail(format!("there is no function {name}")),
        }
    }

    fn range(&self, args: CallArgs) -> Run<Value> {
        let [a, b, step] = args.bind("range", ["start", "stop", "step"])?;
        let number = |v: Value| match v.as_int() {
            Some(n) => Ok(n),
            None => fail(format!("range: expected a number, found {}", v.kind())),
        };
        let a = number(needed(a, "range", "stop")?)?;
        let (start, stop) = match b {
            Some(b) => (a, number(b)?),
            None => (0, a),
        };
        let step = step.map_or(Ok(1), number)?;
        if step == 0 {
            return fail("range: the step cannot be zero");
        }
        let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
        let n = span.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        self.budget.alloc(n.saturating_mul(size_of::<Value>()))?;
        let items =
            std::iter::successors(Some(start), |i| i.checked_add(step)).take(n).map(Value::Int).collect();
        Value::list(self.budget, items, false)
    }

    fn namespace(&mut self, args: CallArgs) -> Run<Value> {
        let items = self.pairs(args)?;
        self.budget.alloc(items.len().saturating_add(1).saturating_mul(size_of::<(String, Value)>()))?;
        let named = |(key, value): (Value, Value)| match key.as_str() {
            Some(name) => Ok((name.to_owned(), value)),
            None => fail("namespace: expected names"),
        };
        let space = items.into_iter().map(named).collect::<Run<_>>()?;
        self.namespaces.push(space);
        Ok(Value::Namespace(self.namespaces.len() - 1))
    }

    /// The items of `dict(…)`: a dictionary or pairs, then names.
    fn pairs(&self, args: CallArgs) -> Run<Vec<(Value, Value)>> {
        let mut out = Vec::new();
        for value in args.place {
            match value {
                Value::Dict(dict) => {
                    for (key, value) in &dict.items {
                        insert(self.budget, &mut out, key.clone(), value.clone())?;
                    }
                }
                pairs => {
                    for pair in pairs.items(self.budget)? {
                        let Ok([key, value]) = <[Value; 2]>::try_from(pair.items(self.budget)?) else {
                            return fail("expected pairs of key and value");
                        };
                        insert(self.budget, &mut out, key, value)?;
                    }
                }
            }
        }
        for (name, value) in args.named {
            insert(self.budget, &mut out, Value::own(&name), value)?;
        }
        Ok(out)
    }

    /// `loop.cycle(…)` and `loop.changed(…)`.
    pub(super) fn loop_method(&mut self, number: usize, name: &str, args: CallArgs) -> Run<Value> {
        let value = Value::list(self.budget, args.place, true)?;
        let Some(state) = self.loops.get_mut(number) else { return fail("the loop has ended") };
        if name == "cycle" {
            let items = value.items(self.budget)?;
            let picked = state.index.checked_rem(items.len()).and_then(|i| items.get(i).cloned());
            return picked.map_or_else(|| fail("loop.cycle needs values"), Ok);
        }
        let same = match &state.changed {
            Some(old) => old.equals(self.budget, &value)?,
            None => false,
        };
        state.changed = Some(value);
        Ok(Value::Bool(!same))
    }
}

/// A field of `loop`.
pub(super) fn loop_field(interp: &Interp<'_>, number: usize, name: &str) -> Run<Option<Value>> {
    let Some(state) = interp.loops.get(number) else { return fail("the loop has ended") };
    let (index, n) = (state.index, state.items.len());
    let int = |n: usize| Some(Value::Int(n as i128));
    let other = |i: Option<usize>, which: &str| {
        Some(i.and_then(|i| state.items.get(i).cloned()).unwrap_or_else(|| Value::undefined(which)))
    };
    Ok(match name {
        "index" => int(index + 1),
        "index0" => int(index),
        "revindex" => int(n - index),
        "revindex0" => int(n - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == n)),
        "length" => int(n),
        "depth" => int(number + 1),
        "depth0" => int(number),
        "previtem" => other(index.checked_sub(1), "the previous item"),
        "nextitem" => other(index.checked_add(1), "the next item"),
        "cycle" | "changed" => {
            Some(Value::Method(std::sync::Arc::new((Value::Loop(number), name.to_owned()))))
        }
        _ => None,
    })
}
