//! What becomes of keywords, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;

fn narrow(schema: Value) -> Value {
    strict(&schema).unwrap().schema
}

#[test]
fn every_refusal_names_keyword_and_place() {
    let cases = [
        (json!({"properties": {"a/b": {"not": {"const": 1}}}}), "not", "/properties/a~1b"),
        (json!({"items": {"uniqueItems": true}}), "uniqueItems", "/items"),
        (json!({"$dynamicRef": "#x"}), "$dynamicRef", ""),
        (json!({"contains": {"type": "string"}}), "contains", ""),
        (json!({"allOf": [{}, {"pattern": "(?=a)"}]}), "pattern", "/allOf/1"),
        (json!({"$ref": "other.json"}), "$ref", ""),
        (json!({"minProperties": 3, "required": ["a"]}), "minProperties", ""),
        (json!({"if": {"minimum": 3}, "then": false}), "if", ""),
        (json!({"anyOf": [{}], "unevaluatedProperties": false}), "unevaluatedProperties", ""),
        (json!({"enum": [9_007_199_254_740_993i64]}), "enum", ""),
    ];
    for (schema, keyword, place) in cases {
        let e = strict(&schema).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{schema}");
        let text = e.to_string();
        assert!(text.contains(&format!("{keyword:?} at {place:?}")), "{text}");
    }
}

#[test]
fn slips_of_the_pen_are_no_annotations() {
    for schema in [json!({"minlength": 3}), json!({"properties": {"a": {"additionalproperties": false}}})] {
        assert_eq!(strict(&schema).err().unwrap().kind(), ErrorKind::BadProfile);
    }
    assert_eq!(narrow(json!({"x-order": 3, "nullable": true})), json!({}));
}

#[test]
fn old_dialects_become_the_new_one() {
    let cases = [
        (
            json!({"items": [{"type": "null"}], "additionalItems": false}),
            json!({"prefixItems": [{"type": "null"}], "items": false}),
        ),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "maximum": 3,
                "definitions": {"a": {"type": "null"}}}),
            json!({"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}}),
        ),
        (json!({"prefixItems": [true], "additionalItems": false}), json!({"prefixItems": [true]})),
        (
            json!({"dependentRequired": {"a": ["b"]}}),
            json!({"allOf": [{"anyOf": [{"properties": {"a": false}}, {"required": ["b"]}]}]}),
        ),
    ];
    for (from, want) in cases {
        assert_eq!(narrow(from.clone()), want, "{from}");
    }
}

#[test]
fn deep_and_large_schemas_are_too_complex() {
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({ "not": {"not": true}, "items": deep });
        deep.as_object_mut().unwrap().remove("not");
    }
    assert_eq!(strict(&deep).err().unwrap().kind(), ErrorKind::TooComplex);
    let wide: Vec<Value> = (0..30_000).map(|_| json!({})).collect();
    assert_eq!(strict(&json!({ "anyOf": wide })).err().unwrap().kind(), ErrorKind::TooComplex);
}

#[test]
fn references_are_followed_once_each() {
    let schema = json!({"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}, "root": {"$ref": "#"}}}},
        "$ref": "#/$defs/n"});
    let want = json!({"$ref": "#/$defs/d0", "$defs": {
        "d0": {"properties": {"next": {"$ref": "#/$defs/d0"}, "root": {"$ref": "#/$defs/d1"}}},
        "d1": {"$ref": "#/$defs/d0"}}});
    assert_eq!(narrow(schema), want);
}

#[test]
fn branches_that_exclude_each_other_are_any_of_them() {
    let object =
        |name: &str| json!({"properties": {"kind": {"const": name}}, "required": ["kind"], "type": "object"});
    let closed = |name: &str| json!({"type": "object", "properties": {name: true}, "required": [name], "additionalProperties": false});
    let disjoint = [
        json!([{"type": "string"}, {"$ref": "#/$defs/n"}]),
        json!([object("a"), object("b")]),
        json!([closed("a"), closed("b")]),
        json!([{"enum": [1, "a"]}, {"const": "b"}]),
        json!([{"allOf": [{"type": "array"}]}, {"type": ["null", "object"]}]),
    ];
    for branches in disjoint {
        let form = narrow(json!({"oneOf": branches, "$defs": {"n": {"type": "number"}}}));
        assert!(form.get("oneOf").is_none(), "{form}");
    }
    let overlapping = [
        json!([{"type": "integer"}, {"type": "number"}]),
        json!([{"const": 1}, {"const": 1.0}]),
        json!([{"type": "object", "properties": {"kind": {"const": "a"}}}, {"type": "object", "properties": {"kind": {"const": "b"}}}]),
        json!([{"required": ["a"], "minProperties": 1}, {"required": ["b"]}]),
        json!([{"minLength": 3}, {"type": "string"}]),
    ];
    for branches in overlapping {
        assert!(narrow(json!({ "oneOf": branches })).get("oneOf").is_some(), "{branches}");
    }
}
