//! Whether schemas exclude each other, so that `oneOf` is `anyOf`.
//!
//! Only what can be read off is used: types, listed values, and properties that one side demands and the other
//! forbids or restricts to something else. Everything else counts as "may overlap".

use serde_json::{Map, Value, json};

use super::{Draft, Place, Walk, refs};

/// References and properties followed before giving up.
const MAX_DEPTH: usize = 6;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
const ALL_TYPES: u8 = 0b11_1111;
const OBJECT: u8 = 1 << 5;

/// What is known of every instance of a schema.
struct Facts<'v> {
    /// Bits of [`TYPES`].
    types: u8,
    values: Option<Vec<&'v Value>>,
    properties: Vec<(&'v str, &'v Value)>,
    required: Vec<&'v str>,
    /// Whether other names than those of `properties` are forbidden.
    is_closed: bool,
}

impl Walk<'_> {
    /// Whether no instance satisfies two of `branches`.
    pub(super) fn exclude_each_other(&self, branches: &Value, at: &Place) -> bool {
        let branches = branches.as_array().map_or(&[][..], |b| b);
        let others = |i: usize| branches.get(i + 1..).unwrap_or_default();
        branches.iter().enumerate().all(|(i, a)| others(i).iter().all(|b| self.disjoint(a, b, at, MAX_DEPTH)))
    }

    fn disjoint(&self, a: &Value, b: &Value, at: &Place, depth: usize) -> bool {
        if depth == 0 {
            return false;
        }
        if a == &Value::Bool(false) || b == &Value::Bool(false) {
            return true;
        }
        let (a, b) = (self.facts(a, at, depth), self.facts(b, at, depth));
        if a.types & b.types == 0 {
            return true;
        }
        if let (Some(x), Some(y)) = (&a.values, &b.values)
            && x.iter().all(|x| y.iter().all(|y| !is_same(x, y)))
        {
            return true;
        }
        a.types & b.types == OBJECT
            && a.required.iter().chain(&b.required).any(|name| self.disagree(name, &a, &b, at, depth))
    }

    /// Whether a property that one side demands can satisfy only one of them.
    fn disagree(&self, name: &str, a: &Facts<'_>, b: &Facts<'_>, at: &Place, depth: usize) -> bool {
        let schemas = |f: &Facts<'_>| -> Vec<Value> {
            f.properties.iter().filter(|(n, _)| *n == name).map(|(_, s)| (*s).clone()).collect()
        };
        let (x, y) = (schemas(a), schemas(b));
        (x.is_empty() && a.is_closed)
            || (y.is_empty() && b.is_closed)
            || x.iter().any(|x| y.iter().any(|y| self.disjoint(x, y, at, depth - 1)))
    }

    fn facts<'v>(&'v self, schema: &'v Value, at: &Place, depth: usize) -> Facts<'v> {
        let mut facts = Facts {
            types: ALL_TYPES,
            values: None,
            properties: Vec::new(),
            required: Vec::new(),
            is_closed: false,
        };
        self.gather(schema, at, depth, &mut facts);
        facts
    }

    fn gather<'v>(&'v self, schema: &'v Value, at: &Place, depth: usize, facts: &mut Facts<'v>) {
        let Some(o) = schema.as_object().filter(|_| depth > 0) else { return };
        if let Some(target) = self.resolve(o, at) {
            self.gather(target, at, depth - 1, facts);
            if at.draft <= Draft::D7 {
                return;
            }
        }
        facts.types &= types(o);
        if let Some(values) = listed(o) {
            facts.types &= values.iter().fold(0, |t, v| t | type_of(v));
            facts.values.get_or_insert(values);
        }
        if let Some(p) = o.get("properties").and_then(Value::as_object) {
            facts.properties.extend(p.iter().map(|(n, s)| (n.as_str(), s)));
        }
        facts.required.extend(
            o.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str),
        );
        // beside other properties that are gathered, `closed` would be read too widely; so only alone
        let is_alone =
            !o.contains_key("allOf") && !o.contains_key("patternProperties") && !o.contains_key("$ref");
        facts.is_closed |= is_alone && o.get("additionalProperties") == Some(&Value::Bool(false));
        let parts = o.get("allOf").and_then(Value::as_array);
        parts.into_iter().flatten().for_each(|part| self.gather(part, at, depth - 1, facts));
    }

    /// What the reference in `o` points to, if there is one within the document.
    fn resolve<'v>(&'v self, o: &Map<String, Value>, at: &Place) -> Option<&'v Value> {
        let reference = o.get("$ref")?.as_str().filter(|_| !at.is_embedded)?;
        let root = self.roots.get(at.root)?;
        let id = root.get("$id").or(root.get("id")).and_then(Value::as_str);
        let fragment = refs::fragment(reference, id).filter(|f| f.is_empty() || f.starts_with('/'))?;
        root.pointer(&fragment)
    }
}

fn types(o: &Map<String, Value>) -> u8 {
    let bit = |name: &str| {
        let name = if name == "integer" { "number" } else { name };
        TYPES.iter().position(|t| *t == name).map_or(0, |i| 1 << i)
    };
    match o.get("type") {
        Some(Value::String(t)) => bit(t),
        Some(Value::Array(a)) => a.iter().filter_map(Value::as_str).fold(0, |t, n| t | bit(n)),
        _ => ALL_TYPES,
    }
}

fn listed(o: &Map<String, Value>) -> Option<Vec<&Value>> {
    match o.get("const") {
        Some(v) => Some(vec![v]),
        None => o.get("enum").and_then(Value::as_array).map(|a| a.iter().collect()),
    }
}

fn type_of(v: &Value) -> u8 {
    1 << match v {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

/// Whether two values may be the same to a validator, for which `1` and `1.0` are.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => true,
        _ => a == b,
    }
}

/// `oneOf` whose branches only demand names: an object with all names of exactly one of them.
pub(super) fn one_demand(branches: &Value) -> Option<Value> {
    let demands = |b: &Value| -> Option<Vec<String>> {
        let o = b.as_object()?;
        let names = o.get("required")?.as_array()?;
        let is_plain =
            o.keys().all(|k| matches!(k.as_str(), "required" | "title" | "description" | "$comment"));
        names.iter().map(|n| n.as_str().map(str::to_owned)).collect::<Option<_>>().filter(|_| is_plain)
    };
    let all: Vec<Vec<String>> = branches.as_array()?.iter().map(demands).collect::<Option<_>>()?;
    let branch = |(i, names): (usize, &Vec<String>)| {
        let missing = |others: &Vec<String>| -> Value {
            others
                .iter()
                .filter(|n| !names.contains(n))
                .map(|n| json!({ "properties": {n.as_str(): false} }))
                .collect()
        };
        let others =
            all.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, o)| json!({ "anyOf": missing(o) }));
        let mut parts = vec![json!({ "type": "object", "required": names })];
        parts.extend(others);
        json!({ "allOf": parts })
    };
    Some(json!({ "anyOf": all.iter().enumerate().map(branch).collect::<Vec<_>>() }))
}
