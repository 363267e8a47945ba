//! Where a `$ref` points.

use serde_json::Value;

/// The part of a reference behind `#`, with percent signs decoded; `None` if the reference leaves the document whose
/// identifier is `id`.
pub(super) fn fragment(reference: &str, id: Option<&str>) -> Option<String> {
    let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let own = id.map(|i| i.split_once('#').map_or(i, |(d, _)| d));
    if !document.is_empty() && own != Some(document) {
        return None;
    }
    percent_decode(fragment)
}

fn percent_decode(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// The pointer to the subschema called `anchor`.
pub(super) fn find_anchor(schema: &Value, anchor: &str) -> Option<String> {
    let mut open = vec![(String::new(), schema)];
    while let Some((at, v)) = open.pop() {
        match v {
            Value::Object(o) => {
                let has = |key: &str, value: &str| o.get(key).and_then(Value::as_str) == Some(value);
                let with_hash = format!("#{anchor}");
                if has("$anchor", anchor) || has("$id", &with_hash) || has("id", &with_hash) {
                    return Some(at);
                }
                let inner = o
                    .iter()
                    .filter(|(k, _)| !matches!(k.as_str(), "enum" | "const" | "default" | "examples"));
                open.extend(inner.map(|(k, v)| (format!("{at}/{}", escape(k)), v)));
            }
            Value::Array(a) => open.extend(a.iter().enumerate().map(|(i, v)| (format!("{at}/{i}"), v))),
            _ => {}
        }
    }
    None
}

/// Whether the subschema at `pointer`, or one around it other than the root, has an identifier of its own, so that
/// references in it do not start from the root.
pub(super) fn is_embedded(schema: &Value, pointer: &str, key: &str) -> bool {
    let ends = pointer.match_indices('/').map(|(i, _)| i).skip(1).chain([pointer.len()]);
    ends.filter_map(|end| schema.pointer(&pointer[..end]))
        .filter(|_| !pointer.is_empty())
        .any(|s| has_own_id(s, key))
}

/// Whether a schema names itself, by `key`, with more than an anchor.
pub(super) fn has_own_id(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'))
}

/// A key as a part of a JSON pointer.
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_within_the_document() {
        assert_eq!(fragment("#/a%25b~1c", None).unwrap(), "/a%b~1c");
        assert_eq!(fragment("http://x/y.json#/a", Some("http://x/y.json#")).unwrap(), "/a");
        assert_eq!(fragment("other.json#/a", Some("http://x/y.json")), None);
        assert_eq!(fragment("#%4", None), None);
    }

    #[test]
    fn anchors_and_embedded_documents() {
        let s = json!({"$defs": {"a/b": {"$anchor": "x"}, "c": {"$id": "http://c", "items": {"$id": "#y"}}}});
        assert_eq!(find_anchor(&s, "x").unwrap(), "/$defs/a~1b");
        assert_eq!(find_anchor(&s, "y").unwrap(), "/$defs/c/items");
        assert!(!is_embedded(&s, "/$defs/a~1b", "$id"));
        assert!(is_embedded(&s, "/$defs/c/items", "$id"));
    }
}
