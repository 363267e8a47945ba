//! Keywords that say in one word what others say in several.

use regex_automata::meta::Regex;
use serde_json::{Map, Value, json};

use super::formats::{Format, format};
use super::keywords::{Form, has_applicators, strings};
use super::{Place, Walk, malformed, pattern, refused};
use crate::error::Result;

impl Walk<'_> {
    /// `additionalProperties`, `unevaluatedProperties` and `propertyNames`.
    pub(super) fn names(&mut self, o: &Map<String, Value>, at: &Place, form: &mut Form) -> Result<()> {
        let others = match (o.get("additionalProperties"), o.get("unevaluatedProperties")) {
            (Some(v), _) => Some(("additionalProperties", v)),
            (None, Some(v)) => Some(("unevaluatedProperties", v)),
            _ => None,
        };
        if let Some((key, v)) = others {
            if key == "unevaluatedProperties" && v != &Value::Bool(true) && has_applicators(o) {
                return Err(refused(
                    key,
                    &at.pointer,
                    "it is not supported beside keywords that apply in place",
                ));
            }
            let narrow = self.node(v, &at.below(&[key]))?;
            form.base.insert("additionalProperties".into(), narrow);
        }
        match o.get("propertyNames") {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(rule) => self.property_names(rule, o, at, form),
        }
    }

    /// Names that obey a pattern: those listed are checked here, others become `patternProperties`.
    fn property_names(
        &mut self,
        rule: &Value,
        o: &Map<String, Value>,
        at: &Place,
        form: &mut Form,
    ) -> Result<()> {
        let place = at.below(&["propertyNames"]);
        let Some(p) = name_pattern(rule, &place)? else { return Ok(()) };
        if o.contains_key("patternProperties") {
            return Err(refused(
                "propertyNames",
                &at.pointer,
                "it is not supported beside patternProperties",
            ));
        }
        let regex = Regex::new(&p).map_err(|_| refused("pattern", &place.pointer, "it cannot be read"))?;
        if let Some(Value::Object(listed)) = form.base.get_mut("properties") {
            listed
                .iter_mut()
                .filter(|(name, _)| !regex.is_match(name.as_bytes()))
                .for_each(|(_, s)| *s = json!(false));
        }
        for name in o.get("required").map_or(Ok(Vec::new()), |r| strings("required", r, &at.pointer))? {
            if !regex.is_match(name.as_bytes()) {
                form.all.push(json!({ "properties": {name: false} }));
            }
        }
        self.sample(&p);
        let others = form.base.insert("additionalProperties".into(), json!(false)).unwrap_or(json!(true));
        form.base.insert("patternProperties".into(), json!({ p: others }));
        Ok(())
    }

    /// `not`, where what is left can be said.
    pub(super) fn negation(&mut self, value: &Value, at: &Place) -> Result<Vec<Value>> {
        let unsupported =
            || refused("not", &at.pointer, "only types, required names and trivial schemas can be excluded");
        let o = match value {
            Value::Bool(b) => return Ok(if *b { vec![json!(false)] } else { Vec::new() }),
            Value::Object(o) => o,
            _ => return Err(malformed("not", &at.pointer, "expected a schema")),
        };
        let mut rules = o.iter().filter(|(k, _)| !matches!(k.as_str(), "description" | "$comment" | "title"));
        let first = rules.next().map(|(k, v)| (k.as_str(), v));
        let more = rules.next().is_some();
        match first {
            None => Ok(vec![json!(false)]),
            Some(("type", t)) if !more => {
                Ok(vec![json!({ "type": other_types(t).ok_or_else(unsupported)? })])
            }
            Some(("required", r)) if !more => {
                let absent = strings("required", r, &at.pointer)?
                    .into_iter()
                    .map(|n| json!({ "properties": {n: false} }));
                let absent: Vec<Value> = absent.collect();
                Ok(vec![json!({ "type": "object", "anyOf": absent })])
            }
            _ => Err(unsupported()),
        }
    }

    /// What holds only if a name is present: it is absent, or the rest holds.
    pub(super) fn dependencies(
        &mut self,
        key: &str,
        value: &Value,
        at: &Place,
        form: &mut Form,
    ) -> Result<()> {
        let rules = value.as_object().ok_or_else(|| malformed(key, &at.pointer, "expected an object"))?;
        for (name, rule) in rules {
            let holds = match rule {
                Value::Array(_) => json!({ "required": strings(key, rule, &at.pointer)? }),
                _ => self.node(rule, &at.below(&[key, name]))?,
            };
            form.all.push(json!({ "anyOf": [{"properties": {name: false}}, holds] }));
        }
        Ok(())
    }

    /// `if` with `then` and `else`: one of the two ways round.
    pub(super) fn conditions(&mut self, o: &Map<String, Value>, at: &Place, form: &mut Form) -> Result<()> {
        let Some(condition) = o.get("if") else { return Ok(()) };
        if !o.contains_key("then") && !o.contains_key("else") {
            return Ok(());
        }
        let narrow = self.node(condition, &at.below(&["if"]))?;
        let opposite = match condition {
            Value::Bool(b) => json!(!b),
            _ => opposite(condition, o).ok_or_else(|| {
                refused("if", &at.pointer, "only a condition on one property with listed values is supported")
            })?,
        };
        let branch = |this: &mut Self, key: &str| match o.get(key) {
            Some(s) => this.node(s, &at.below(&[key])),
            None => Ok(json!(true)),
        };
        let (then, or) = (branch(self, "then")?, branch(self, "else")?);
        form.all.push(json!({ "anyOf": [{"allOf": [narrow, then]}, {"allOf": [opposite, or]}] }));
        Ok(())
    }
}

/// The pattern of allowed names; `None` if all are allowed.
fn name_pattern(rule: &Value, at: &Place) -> Result<Option<String>> {
    let unsupported = || {
        refused("propertyNames", &at.pointer, "only one of pattern, format, enum and lengths is supported")
    };
    let Some(o) = rule.as_object() else {
        return if rule == &json!(false) {
            Ok(Some("[^\\s\\S]".into()))
        } else {
            Err(malformed("propertyNames", &at.pointer, "expected a schema"))
        };
    };
    let silent = |k: &str| matches!(k, "type" | "description" | "$comment" | "title");
    let rules: Vec<_> = o.iter().filter(|(k, _)| !silent(k)).map(|(k, v)| (k.as_str(), v)).collect();
    if o.get("type").is_some_and(|t| t != "string") {
        return Err(unsupported());
    }
    let alternatives = |names: &mut dyn Iterator<Item = &Value>| {
        let names: Vec<String> = names.filter_map(Value::as_str).map(regex_syntax::escape).collect();
        Some(format!("^(?:{})$", names.join("|"))).filter(|_| !names.is_empty())
    };
    match rules.as_slice() {
        [] => Ok(None),
        [("pattern", Value::String(p))] => {
            pattern::rewrite(p).map(Some).map_err(|why| refused("pattern", &at.pointer, why))
        }
        [("format", Value::String(f))] => match format(f) {
            Format::Pattern(p) => Ok(Some(format!("^(?:{p})$"))),
            Format::Unknown => Ok(None),
        },
        [("enum", Value::Array(names))] => alternatives(&mut names.iter()).map(Some).ok_or_else(unsupported),
        [("const", name)] => alternatives(&mut std::iter::once(*name)).map(Some).ok_or_else(unsupported),
        lengths if lengths.iter().all(|(k, _)| matches!(*k, "minLength" | "maxLength")) => {
            let n = |k| o.get(k).map(|v| super::keywords::count(k, v, &at.pointer)).transpose();
            let most = n("maxLength")?.map_or(String::new(), |m| m.to_string());
            Ok(Some(format!("^(?s:.{{{},{most}}})$", n("minLength")?.unwrap_or(0))))
        }
        _ => Err(unsupported()),
    }
}

/// The types not named.
fn other_types(types: &Value) -> Option<Vec<&'static str>> {
    let named: Vec<&str> = match types {
        Value::String(s) => vec![s],
        Value::Array(a) => a.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    if named.contains(&"integer") && !named.contains(&"number") {
        return None; // fractions alone cannot be said
    }
    Some(
        ["null", "boolean", "number", "string", "array", "object"]
            .into_iter()
            .filter(|t| !named.contains(t))
            .collect(),
    )
}

/// What does not satisfy `condition`, if that is a condition on one property whose other values the schema around it
/// lists.
fn opposite(condition: &Value, around: &Map<String, Value>) -> Option<Value> {
    let c = condition.as_object()?;
    if c.keys()
        .any(|k| !matches!(k.as_str(), "properties" | "required" | "$comment" | "title" | "description"))
    {
        return None;
    }
    let properties = c.get("properties")?.as_object()?;
    let (name, rule) = properties.iter().next().filter(|_| properties.len() == 1)?;
    let chosen = listed(rule)?;
    let others: Vec<Value> =
        listed(around.get("properties")?.get(name)?)?.into_iter().filter(|v| !chosen.contains(v)).collect();
    let other = json!({ "type": "object", "properties": {name: {"enum": others}}, "required": [name] });
    match c.get("required") {
        None => Some(other),
        Some(r) if r == &json!([name]) => {
            Some(json!({ "anyOf": [other, {"type": "object", "properties": {name: false}}] }))
        }
        Some(_) => None,
    }
}

/// All values of a schema that lists them.
fn listed(schema: &Value) -> Option<Vec<Value>> {
    let o = schema.as_object()?;
    let allowed = |k: &String| {
        matches!(
            k.as_str(),
            "enum" | "const" | "type" | "title" | "description" | "default" | "$comment" | "examples"
        )
    };
    if !o.keys().all(allowed) {
        return None;
    }
    match (o.get("enum"), o.get("const"), o.get("type")) {
        (Some(Value::Array(a)), None, _) => Some(a.clone()),
        (None, Some(v), _) => Some(vec![v.clone()]),
        (None, None, Some(t)) if t == "boolean" => Some(vec![json!(true), json!(false)]),
        _ => None,
    }
}
