//! A JSON Schema in the narrow form the engine is given: only keywords it enforces, in one dialect.
//!
//! Every keyword is kept, rewritten into ones that are kept (old drafts, formats, `dependentRequired`, `propertyNames`,
//! `if` with a decidable condition), known to say nothing, or refused with its place. Thus
//! nothing is ignored that a draft gives a meaning to; a keyword that the declared draft does not know yet is enforced
//! all the same, since that only narrows. Keywords that no draft defines are annotations.

mod desugar;
mod disjoint;
mod formats;
mod keywords;
mod numbers;
mod pattern;
mod refs;

use hashbrown::HashMap;
use serde_json::{Map, Value, json};

use super::grammar::Tool;
use crate::error::{Error, ErrorKind, Result};

/// The narrow form, and what of the schema says nothing.
#[derive(Default)]
pub(super) struct Strict {
    pub schema: Value,
    pub notes: Vec<String>,
    /// Short texts that satisfy a pattern each, as they stand in JSON strings.
    pub samples: Vec<Vec<u8>>,
}

/// The narrow form of `schema`.
pub(super) fn strict(schema: &Value) -> Result<Strict> {
    Walk::new(vec![schema], false).run(|walk| walk.root(0)).map_err(|e| e.at("JSON schema"))
}

/// The narrow form of "a call of one of `tools`".
pub(super) fn strict_tools(tools: &[Tool]) -> Result<Strict> {
    let roots: Vec<&Value> = tools.iter().map(|t| &t.parameters).collect();
    Walk::new(roots, true).run(|walk| {
        let call = |(i, tool): (usize, &Tool)| {
            let arguments = walk.root(i).map_err(|e| e.at(format!("tool {:?}", tool.name)))?;
            Ok(json!({
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            }))
        };
        let calls: Vec<Value> = tools.iter().enumerate().map(call).collect::<Result<_>>()?;
        Ok(json!({ "anyOf": calls }))
    })
}

/// The key that tells where a part of the narrow form came from; the engine ignores it.
const PLACE: &str = "x-place";
/// Compilations spent on finding the subschema at fault.
const MAX_LOCATE: usize = 200;

/// Adds to the engine's error the place of the innermost subschema that fails alike by itself.
/// `compile` gives the error of a narrow form.
pub(super) fn locate(error: Error, schema: &Value, compile: impl Fn(&Strict) -> Option<Error>) -> Error {
    let traced = Walk::new(vec![schema], true).run(|walk| walk.root(0));
    let Ok(Strict { schema: root, samples, .. }) = traced else { return error };
    let definitions = root.get("$defs").cloned().unwrap_or_default();
    let (mut here, mut place, mut left) = (root, None, MAX_LOCATE);
    while let Some(inner) = children(&here).into_iter().find(|child| {
        left = left.saturating_sub(1);
        let mut whole = (*child).clone();
        if let Some(o) = whole.as_object_mut() {
            o.insert("$defs".into(), definitions.clone());
        }
        let fails = |e: Error| e.kind() == error.kind();
        left > 0
            && compile(&Strict { schema: whole, samples: samples.clone(), ..Strict::default() })
                .is_some_and(fails)
    }) {
        place = inner.get(PLACE).and_then(Value::as_str).map(str::to_owned).or(place);
        here = inner.clone();
    }
    error.at(format!("at {:?}", place.unwrap_or_default()))
}

/// The subschemas of a narrow form.
fn children(schema: &Value) -> Vec<&Value> {
    let Some(o) = schema.as_object() else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in o {
        match key.as_str() {
            "$defs" | "properties" | "patternProperties" => {
                out.extend(value.as_object().into_iter().flat_map(Map::values))
            }
            "items" | "additionalProperties" => out.push(value),
            "prefixItems" | "allOf" | "anyOf" | "oneOf" => out.extend(value.as_array().into_iter().flatten()),
            _ => {}
        }
    }
    out.retain(|v| v.is_object());
    out
}

/// Drafts in order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Draft {
    D4,
    D6,
    D7,
    D2019,
    D2020,
}

impl Draft {
    /// The keyword that names a schema.
    fn id_key(self) -> &'static str {
        if self == Self::D4 { "id" } else { "$id" }
    }
}

fn draft_of(schema: &Value) -> Result<Draft> {
    let uri = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    Ok(match uri.trim_end_matches('#').trim_start_matches("https://").trim_start_matches("http://") {
        "json-schema.org/draft-04/schema" => Draft::D4,
        "json-schema.org/draft-06/schema" => Draft::D6,
        "json-schema.org/draft-07/schema" => Draft::D7,
        "json-schema.org/draft/2019-09/schema" => Draft::D2019,
        u if u.starts_with("json-schema.org/draft-0") => {
            return Err(refused("$schema", "", format!("expected draft 4 or later, found {uri:?}")));
        }
        _ => Draft::D2020,
    })
}

/// Deepest nesting of subschemas, and most of them.
const MAX_DEPTH: usize = 128;
const MAX_NODES: usize = 20_000;

/// One pass over schemas and all they refer to.
struct Walk<'a> {
    roots: Vec<&'a Value>,
    /// Whether the narrow form remembers where its parts came from.
    is_traced: bool,
    /// Names given to targets of references: (root, pointer) to the number of a definition.
    names: HashMap<(usize, String), usize>,
    queue: Vec<(usize, String)>,
    notes: Vec<String>,
    samples: Vec<Vec<u8>>,
    n_nodes: usize,
}

/// Where the walk is.
#[derive(Clone)]
struct Place {
    root: usize,
    draft: Draft,
    pointer: String,
    depth: usize,
    /// Inside a subschema with an identifier of its own.
    is_embedded: bool,
}

impl Place {
    fn below(&self, parts: &[&str]) -> Self {
        let mut inner = self.clone();
        inner.depth += 1;
        for p in parts {
            inner.pointer.push('/');
            inner.pointer.push_str(&refs::escape(p));
        }
        inner
    }
}

fn refused(keyword: &str, pointer: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("keyword {keyword:?} at {pointer:?}: {why}"))
}

fn malformed(keyword: &str, pointer: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadProfile, format!("keyword {keyword:?} at {pointer:?}: {why}"))
}

impl<'a> Walk<'a> {
    fn new(roots: Vec<&'a Value>, is_traced: bool) -> Self {
        Self {
            roots,
            is_traced,
            names: HashMap::new(),
            queue: Vec::new(),
            notes: Vec::new(),
            samples: Vec::new(),
            n_nodes: 0,
        }
    }

    fn run(mut self, main: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Strict> {
        let mut schema = main(&mut self)?;
        let mut definitions = Map::new();
        let mut done = 0;
        while let Some((root, pointer)) = self.queue.get(done).cloned() {
            let value = self.target(root, &pointer)?;
            let draft = draft_of(self.roots[root])?;
            let is_embedded = refs::is_embedded(self.roots[root], &pointer, draft.id_key());
            let place = Place { root, draft, is_embedded, pointer, depth: 0 };
            definitions.insert(format!("d{done}"), self.node(value, &place)?);
            done += 1;
        }
        if let (Value::Bool(b), false) = (&schema, definitions.is_empty()) {
            schema = json!({ "allOf": [b] });
        }
        if let Some(o) = schema.as_object_mut()
            && !definitions.is_empty()
        {
            o.insert("$defs".into(), Value::Object(definitions));
        }
        self.samples.sort_by_key(Vec::len);
        self.samples.dedup();
        Ok(Strict { schema, notes: self.notes, samples: self.samples })
    }

    fn root(&mut self, root: usize) -> Result<Value> {
        let schema = self.roots[root];
        let place =
            Place { root, draft: draft_of(schema)?, pointer: String::new(), depth: 0, is_embedded: false };
        self.node(schema, &place)
    }

    fn target(&self, root: usize, pointer: &str) -> Result<&'a Value> {
        let missing = || malformed("$ref", pointer, "it points to nothing");
        self.roots.get(root).and_then(|r| r.pointer(pointer)).ok_or_else(missing)
    }

    /// The name of the definition a reference points to.
    fn reference(&mut self, reference: &str, at: &Place) -> Result<String> {
        if at.is_embedded {
            return Err(refused(
                "$ref",
                &at.pointer,
                "references inside a subschema with its own $id are not followed",
            ));
        }
        let root = self.roots[at.root];
        let id = root.get("$id").or(root.get("id")).and_then(Value::as_str);
        let outside = || refused("$ref", &at.pointer, format!("{reference:?} is outside this document"));
        let fragment = refs::fragment(reference, id).ok_or_else(outside)?;
        let pointer = match fragment.is_empty() || fragment.starts_with('/') {
            true => fragment,
            false => refs::find_anchor(root, &fragment).ok_or_else(outside)?,
        };
        self.target(at.root, &pointer)
            .map_err(|_| malformed("$ref", &at.pointer, format!("{reference:?} points to nothing")))?;
        let next = self.queue.len();
        let number = *self.names.entry((at.root, pointer.clone())).or_insert(next);
        if number == next {
            self.queue.push((at.root, pointer));
        }
        Ok(format!("#/$defs/d{number}"))
    }

    /// The narrow form of one subschema.
    fn node(&mut self, schema: &Value, at: &Place) -> Result<Value> {
        self.n_nodes += 1;
        if at.depth > MAX_DEPTH || self.n_nodes > MAX_NODES {
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!(
                    "expected at most {MAX_NODES} subschemas nested {MAX_DEPTH} deep, found more at {:?}",
                    at.pointer
                ),
            ));
        }
        let mut out = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(o) => {
                let mut at = at.clone();
                at.is_embedded |= !at.pointer.is_empty() && refs::has_own_id(schema, at.draft.id_key());
                self.keywords(o, &at)?
            }
            other => {
                let why = format!("expected a schema at {:?}, found {other}", at.pointer);
                return Err(Error::new(ErrorKind::BadProfile, why));
            }
        };
        if self.is_traced {
            out.insert(PLACE.into(), Value::from(at.pointer.as_str()));
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests;
