//! What becomes of each keyword.

use serde_json::{Map, Value, json};

use super::disjoint::one_demand;
use super::formats::{Format, format};
use super::{Draft, Place, Walk, malformed, numbers, pattern, refused};
use crate::error::Result;

/// Keywords that say nothing about the instance, or are read where they are referred to.
const SILENT: [&str; 22] = [
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$comment",
    "$defs",
    "definitions",
    "$vocabulary",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "then",
    "else",
];
/// Keywords without a counterpart that could be enforced.
const REFUSED: [&str; 7] =
    ["$dynamicRef", "$recursiveRef", "extends", "disallow", "divisibleBy", "minContains", "maxContains"];
/// Keywords handled together with another one.
const TOGETHER: [&str; 12] = [
    "additionalItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "if",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "propertyNames",
    "contains",
];
const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];
/// Everything that has a meaning, to tell a slip of the pen from an annotation.
const KNOWN: [&str; 25] = [
    "type",
    "enum",
    "const",
    "properties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "$ref",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
];

/// Samples of patterns kept for one schema.
const MAX_SAMPLES: usize = 64;

/// A narrow form being built.
#[derive(Default)]
pub(super) struct Form {
    /// Plain keywords.
    pub base: Map<String, Value>,
    /// Keywords that apply subschemas in place; they follow the plain ones.
    pub applied: Map<String, Value>,
    /// Further subschemas that must hold.
    pub all: Vec<Value>,
}

impl Form {
    fn finish(mut self) -> Map<String, Value> {
        if let Some(Value::Array(given)) = self.applied.remove("allOf") {
            self.all.splice(0..0, given);
        }
        if !self.all.is_empty() {
            self.applied.insert("allOf".into(), Value::Array(self.all));
        }
        self.base.append(&mut self.applied);
        self.base
    }
}

impl Walk<'_> {
    /// The narrow form of a schema object.
    pub(super) fn keywords(&mut self, o: &Map<String, Value>, at: &Place) -> Result<Map<String, Value>> {
        let mut form = Form::default();
        if at.draft <= Draft::D7
            && let Some(r) = o.get("$ref").filter(|r| r.is_string())
        {
            // what stands beside a reference has no meaning in these drafts
            self.keyword("$ref", r, o, at, &mut form)?;
            return Ok(form.finish());
        }
        for (key, value) in o {
            self.keyword(key, value, o, at, &mut form)?;
        }
        numbers::bounds(o, &mut form.base).map_err(|(key, why)| refused(key, &at.pointer, why))?;
        self.arrays(o, at, &mut form)?;
        self.names(o, at, &mut form)?;
        self.conditions(o, at, &mut form)?;
        Ok(form.finish())
    }

    fn keyword(
        &mut self,
        key: &str,
        value: &Value,
        o: &Map<String, Value>,
        at: &Place,
        form: &mut Form,
    ) -> Result<()> {
        let pointer = &at.pointer;
        match key {
            "type" => {
                form.base.insert(key.into(), types(value, pointer)?);
            }
            "enum" | "const" => {
                self.constant(key, value, pointer)?;
                form.applied.insert(key.into(), value.clone());
            }
            "properties" => {
                let inner = self.map(key, value, at, |name| Ok(name.to_owned()))?;
                form.base.insert(key.into(), inner);
            }
            "patternProperties" => {
                let rewrite = |p: &str| {
                    pattern::rewrite(p).map_err(|why| refused(key, pointer, format!("{p:?}: {why}")))
                };
                let inner = self.map(key, value, at, rewrite)?;
                inner.as_object().into_iter().flatten().for_each(|(p, _)| self.sample(p));
                form.base.insert(key.into(), inner);
            }
            "required" => {
                form.base.insert(key.into(), Value::from(strings(key, value, pointer)?));
            }
            "minProperties" => self.min_properties(value, o, at, form)?,
            "maxProperties" | "minItems" | "maxItems" | "minLength" | "maxLength" => {
                form.base.insert(key.into(), json!(count(key, value, pointer)?));
            }
            "pattern" => {
                let p = value.as_str().ok_or_else(|| malformed(key, pointer, "expected a string"))?;
                let p = pattern::rewrite(p).map_err(|why| refused(key, pointer, format!("{p:?}: {why}")))?;
                self.sample(&p);
                form.base.insert(key.into(), Value::from(p));
            }
            "format" => self.format(value, o, at, form)?,
            "oneOf" => {
                let inner = self.list(key, value, at)?;
                match one_demand(value) {
                    Some(one) => form.all.push(one),
                    None if self.exclude_each_other(value, at) => form.all.push(json!({ "anyOf": inner })),
                    None => drop(form.applied.insert(key.into(), inner)),
                }
            }
            "allOf" | "anyOf" => {
                let inner = self.list(key, value, at)?;
                form.applied.insert(key.into(), inner);
            }
            "$ref" => {
                let r = value.as_str().ok_or_else(|| malformed(key, pointer, "expected a string"))?;
                form.applied.insert(key.into(), Value::from(self.reference(r, at)?));
            }
            "not" => form.all.extend(self.negation(value, at)?),
            "dependentRequired" | "dependentSchemas" | "dependencies" => {
                self.dependencies(key, value, at, form)?
            }
            "uniqueItems" => {
                let few = o.get("maxItems").and_then(Value::as_u64).is_some_and(|n| n <= 1);
                if value != &Value::Bool(false) && !few {
                    return Err(refused(key, pointer, "only false, or at most one item, is supported"));
                }
            }
            "items" | "prefixItems" => {}
            _ if SILENT.contains(&key) || TOGETHER.contains(&key) => {}
            "minContains" | "maxContains" if !o.contains_key("contains") => {}
            _ if REFUSED.contains(&key) => return Err(refused(key, pointer, "it is not supported")),
            _ => self.annotation(key, at)?,
        }
        Ok(())
    }

    /// Keeps a short text of a pattern.
    pub(super) fn sample(&mut self, pattern: &str) {
        let quoted = pattern::shortest(pattern).map(|text| Value::from(text).to_string().into_bytes());
        let inner = quoted.and_then(|q| q.get(1..q.len() - 1).map(<[u8]>::to_vec));
        self.samples.extend(inner.filter(|_| self.samples.len() < MAX_SAMPLES));
    }

    /// An unknown keyword says nothing, unless it is a known one misspelt.
    fn annotation(&mut self, key: &str, at: &Place) -> Result<()> {
        let known = KNOWN.iter().chain(&TOGETHER).chain(&REFUSED);
        match known.into_iter().find(|k| k.eq_ignore_ascii_case(key)) {
            Some(k) => Err(malformed(key, &at.pointer, format!("is {k:?} meant?"))),
            None => Ok(()),
        }
    }

    pub(super) fn map(
        &mut self,
        key: &str,
        value: &Value,
        at: &Place,
        name: impl Fn(&str) -> Result<String>,
    ) -> Result<Value> {
        let inner =
            value.as_object().ok_or_else(|| malformed(key, &at.pointer, "expected an object of schemas"))?;
        let mut out = Map::new();
        for (k, schema) in inner {
            let narrow = self.node(schema, &at.below(&[key, k]))?;
            if out.insert(name(k)?, narrow).is_some() {
                return Err(refused(key, &at.pointer, format!("{k:?} is there twice")));
            }
        }
        Ok(Value::Object(out))
    }

    fn list(&mut self, key: &str, value: &Value, at: &Place) -> Result<Value> {
        let inner =
            value.as_array().ok_or_else(|| malformed(key, &at.pointer, "expected a list of schemas"))?;
        let narrow = inner.iter().enumerate().map(|(i, s)| self.node(s, &at.below(&[key, &i.to_string()])));
        Ok(Value::Array(narrow.collect::<Result<_>>()?))
    }

    /// Refuses constants that the engine would spell as another value.
    fn constant(&self, key: &str, value: &Value, pointer: &str) -> Result<()> {
        match value {
            Value::Number(n) if !numbers::is_exact(n) => {
                Err(refused(key, pointer, format!("{n} is not exact in 64 bits, or too long to write out")))
            }
            Value::String(s) if s.chars().any(is_unwritable) => {
                Err(refused(key, pointer, format!("{s:?} holds a control character")))
            }
            Value::Array(a) => a.iter().try_for_each(|v| self.constant(key, v, pointer)),
            Value::Object(o) => o.values().try_for_each(|v| self.constant(key, v, pointer)),
            _ => Ok(()),
        }
    }

    /// Free names may repeat, so that only one of them is sure to count.
    fn min_properties(
        &mut self,
        value: &Value,
        o: &Map<String, Value>,
        at: &Place,
        form: &mut Form,
    ) -> Result<()> {
        let n = count("minProperties", value, &at.pointer)?;
        let required = o.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
        if n > required + 1 {
            let why = format!("expected at most one more than the {required} required names, found {n}");
            return Err(refused("minProperties", &at.pointer, why));
        }
        form.base.insert("minProperties".into(), json!(n));
        Ok(())
    }

    fn format(&mut self, value: &Value, o: &Map<String, Value>, at: &Place, form: &mut Form) -> Result<()> {
        let name = value.as_str().ok_or_else(|| malformed("format", &at.pointer, "expected a string"))?;
        match format(name) {
            Format::Unknown => {
                self.notes.push(format!(
                    "format {name:?} at {:?} is defined by no draft and says nothing",
                    at.pointer
                ));
            }
            Format::Pattern(p) => {
                let p = format!("^(?:{p})$");
                self.sample(&p);
                let p = Value::from(p);
                match o.contains_key("pattern") {
                    true => form.all.push(json!({ "pattern": p })),
                    false => drop(form.base.insert("pattern".into(), p)),
                }
            }
        }
        Ok(())
    }

    /// Items in the newest dialect: those with a place, then all others.
    fn arrays(&mut self, o: &Map<String, Value>, at: &Place, form: &mut Form) -> Result<()> {
        let items = o.get("items");
        let (placed, others) = match items {
            Some(Value::Array(_)) => {
                (items.map(|v| ("items", v)), o.get("additionalItems").map(|v| ("additionalItems", v)))
            }
            _ => (o.get("prefixItems").map(|v| ("prefixItems", v)), items.map(|v| ("items", v))),
        };
        if let Some((key, v)) = placed {
            let narrow = self.list(key, v, at)?;
            form.base.insert("prefixItems".into(), narrow);
        }
        let rest = others.or(o.get("unevaluatedItems").map(|v| ("unevaluatedItems", v)));
        if let Some((key, v)) = rest {
            if key == "unevaluatedItems" && v != &Value::Bool(true) && has_applicators(o) {
                return Err(refused(
                    key,
                    &at.pointer,
                    "it is not supported beside keywords that apply in place",
                ));
            }
            let narrow = self.node(v, &at.below(&[key]))?;
            form.base.insert("items".into(), narrow);
        }
        match o.get("contains") {
            Some(v) if v != &Value::Bool(true) || o.contains_key("maxContains") => {
                Err(refused("contains", &at.pointer, "it is not supported"))
            }
            Some(_) => {
                let least = o.get("minContains").map_or(Ok(1), |v| count("minContains", v, &at.pointer))?;
                let given = form.base.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                form.base.insert("minItems".into(), json!(least.max(given)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Characters that strings are written without.
pub(super) fn is_unwritable(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r')
}

/// Whether other keywords of the schema may evaluate what it holds.
pub(super) fn has_applicators(o: &Map<String, Value>) -> bool {
    [
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "not",
        "dependentSchemas",
        "dependencies",
        "$dynamicRef",
        "contains",
    ]
    .iter()
    .any(|k| o.contains_key(*k))
}

fn types(value: &Value, pointer: &str) -> Result<Value> {
    let names = match value {
        Value::String(s) => vec![s.as_str()],
        Value::Array(a) => a.iter().map(|v| v.as_str().unwrap_or_default()).collect(),
        _ => Vec::new(),
    };
    match names.iter().find(|n| !TYPES.contains(n)) {
        Some(_) => Err(malformed("type", pointer, format!("expected types, found {value}"))),
        None if names.is_empty() => Err(malformed("type", pointer, "expected at least one type")),
        None => Ok(value.clone()),
    }
}

pub(super) fn strings(key: &str, value: &Value, pointer: &str) -> Result<Vec<String>> {
    let list = value.as_array().and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| malformed(key, pointer, format!("expected a list of names, found {value}")))
}

/// A number of things: also written `2.0`.
pub(super) fn count(key: &str, value: &Value, pointer: &str) -> Result<u64> {
    let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 1e9).then_some(x as u64);
    let n = value.as_u64().filter(|&n| n < u64::from(u32::MAX)).or(value.as_f64().and_then(whole));
    n.ok_or_else(|| malformed(key, pointer, format!("expected a count, found {value}")))
}
