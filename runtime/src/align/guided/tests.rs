//! Masks against enumeration, undoing, limits, and the three traps of lexers in grammars.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Guide, GuidedGrammar, JsonOptions, Tool, Whitespace};
use crate::align::bytewise::Limits;
use crate::align::constraint::Constraint;
use crate::align::trie::{ListVocab, TokenTrie};
use crate::error::ErrorKind;
use crate::token::{TokenId, TokenSet};

/// All bytes, some longer tokens, twins, and the end.
fn guide() -> Arc<Guide> {
    use std::sync::OnceLock;
    static GUIDE: OnceLock<Arc<Guide>> = OnceLock::new();
    let long = [
        "na", "name", "\"name", "\":", "\": ", "{\"", "\"}", "true", "ab", "ba", "12", "é", "ab", " ",
        "</think>",
    ];
    let build = || {
        let bytes = (0..=255u8).map(|b| vec![b]);
        let tokens = bytes.chain(long.map(|t| t.as_bytes().to_vec()));
        Arc::new(Guide::new(Arc::new(TokenTrie::new(Arc::new(ListVocab::new(tokens))))).unwrap())
    };
    Arc::clone(GUIDE.get_or_init(build))
}

fn schema(s: Value) -> GuidedGrammar {
    GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()).unwrap()
}

fn lark(text: &str) -> GuidedGrammar {
    GuidedGrammar::lark(&guide(), text).unwrap()
}

fn free(g: &GuidedGrammar) -> Box<dyn Constraint> {
    g.constraint(Limits::default()).unwrap()
}

fn up_to(g: &GuidedGrammar, n: usize) -> Box<dyn Constraint> {
    g.constraint(Limits { max_tokens: Some(n), ..Limits::default() }).unwrap()
}

fn masked(c: &mut dyn Constraint) -> Vec<TokenId> {
    let mut set = TokenSet::all(c.n_vocab());
    c.mask(&mut set).unwrap();
    set.iter().collect()
}

fn bytes_of(t: TokenId) -> Vec<u8> {
    guide().trie().vocab().bytes(t).to_vec()
}

fn end() -> TokenId {
    guide().trie().vocab().eog_ids()[0]
}

fn takes(c: &mut dyn Constraint, text: &str) -> bool {
    text.bytes().all(|b| c.accept(u32::from(b)).unwrap())
}

fn accepts(g: &GuidedGrammar, text: &str) -> bool {
    let mut c = free(g);
    takes(&mut *c, text) && c.may_end()
}

/// The texts of the masked tokens, sorted.
fn choices(c: &mut dyn Constraint) -> Vec<String> {
    let mut out: Vec<String> =
        masked(c).into_iter().map(|t| String::from_utf8_lossy(&bytes_of(t)).into_owned()).collect();
    out.sort();
    out.dedup();
    out
}

#[test]
fn t1_every_spelling_of_forced_text_is_allowed() {
    let g = schema(json!({"type": "object", "properties": {"name": {"const": 1}}, "required": ["name"]}));
    let mut c = free(&g);
    assert!(takes(&mut *c, "{\""));
    assert_eq!(choices(&mut *c), ["n", "na", "name"]);
    assert_eq!(c.forced().unwrap(), None);
}

#[test]
fn t2_a_greedy_terminal_leads_nowhere_and_a_limit_keeps_out_of_it() {
    let g = lark("start: /[a-z]*/ \"b\"");
    let mut c = up_to(&g, 6);
    assert!(!c.accept(u32::from(b'a')).unwrap(), "nothing after `a` ever ends");
    assert!(takes(&mut *c, "b") && c.may_end());
    for right in ["start: X\nX: W \"b\"\nW: /[a-z]+/", "start: w \"b\"\nw: /[a-z]/+"] {
        assert!(accepts(&lark(right), "aab"), "{right}");
    }
}

#[test]
fn t3_empty_languages_are_refused() {
    for text in ["start: x\nx: \"a\" x", "start: X\nX: /a/ & /b/", "start: X\nX: /[a-c]+/ & /[d-f]+/"] {
        let e = GuidedGrammar::lark(&guide(), text).err().unwrap();
        assert!(matches!(e.kind(), ErrorKind::Unsatisfiable), "{text}: {e}");
    }
    for s in [
        json!(false),
        json!({"enum": []}),
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"allOf": [{"type": "string"}, {"type": "null"}]}),
        json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}}}),
    ] {
        let e = GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Unsatisfiable, "{s}: {e}");
    }
}

#[test]
fn a_search_in_circles_ends_in_an_answer() {
    // whatever could end the first terminal also goes on with it
    let text = "start: A \"c\"{2,4}\nA: /[a-z]+/ & /(?s:.*)ab(?s:.*)/\n";
    assert_eq!(GuidedGrammar::lark(&guide(), text).err().unwrap().kind(), ErrorKind::Unsatisfiable);
}

#[test]
fn inside_one_terminal_masks_are_exact() {
    let mut c = free(&lark("start: X\nX: /[a-c]{0,3}/ & /(?s:.*)ab(?s:.*)/"));
    assert!(takes(&mut *c, "c"));
    assert_eq!(choices(&mut *c), ["a", "ab"]);
}

/// Compares each mask on the way along `text` with trying every token on a fork.
fn brute_force(g: &GuidedGrammar, text: &str) {
    let mut c = free(g);
    for b in text.bytes() {
        let allowed = masked(&mut *c);
        for t in 0..c.n_vocab() as TokenId {
            let taken = c.fork().accept(t).unwrap();
            assert_eq!(allowed.contains(&t), taken, "token {:?} in {text:?} at {}", bytes_of(t), c.len());
        }
        assert!(c.accept(u32::from(b)).unwrap(), "{text:?} at {}", c.len());
    }
    assert!(c.may_end() && masked(&mut *c).contains(&end()));
}

#[test]
fn masks_equal_trying_every_token() {
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name"], "additionalProperties": false});
    brute_force(&schema(person), "{\"name\": \"Zoé\",\"n\":12}");
    brute_force(&schema(json!({"type": "array", "items": {"enum": ["ab", "ba", null]}})), "[\"ab\", null]");
    brute_force(&lark("start: X\nX: /[a-c]{0,3}/ & /(?s:.*)ab(?s:.*)/"), "cab");
    brute_force(&lark("start: e\ne: \"(\" e \")\" | /[0-9]+/"), "((12))");
}

#[test]
fn undoing_gives_back_every_mask_bit_for_bit() {
    let g = schema(
        json!({"type": "object", "properties": {"name": {"type": "string"}, "ab": {"type": "number"}}}),
    );
    for limit in [None, Some(40)] {
        let mut c = g.constraint(Limits { max_tokens: limit, ..Limits::default() }).unwrap();
        let mut masks = vec![masked(&mut *c)];
        for b in "{\"name\": \"ab\\n\",\"ab\": -12.5e3}".bytes() {
            assert!(c.accept(u32::from(b)).unwrap());
            masks.push(masked(&mut *c));
        }
        assert!(c.accept(end()).unwrap() && c.has_ended());
        assert_eq!((masked(&mut *c), c.accept(1).unwrap(), c.witness_len()), (vec![], false, Some(0)));
        let n = c.len();
        assert_eq!(c.rollback(n + 1).err().unwrap().kind(), ErrorKind::InvalidArgument);
        assert_eq!(c.len(), n);
        for back in [1, 3, 5, 1, 7] {
            c.rollback(back).unwrap();
            assert_eq!(masked(&mut *c), masks[c.len()], "after undoing to {}", c.len());
        }
        let mut fork = c.fork();
        assert!(takes(&mut *fork, "e") || fork.accept(u32::from(b'a')).unwrap());
        assert_eq!(masked(&mut *c), masks[c.len()], "a fork left its origin alone");
    }
}

#[test]
fn a_limit_below_the_shortest_text_is_refused_before_the_first_token() {
    let g = schema(json!({"type": "object", "properties": {"name": {"type": "null"}}, "required": ["name"]}));
    // {"  name  ":  n u l l  }  end
    assert_eq!(g.example(), b"{\"name\":null}");
    let mut c = free(&g);
    let need = c.witness_len().unwrap();
    let e = g.constraint(Limits { max_tokens: Some(need - 1), ..Limits::default() }).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unsatisfiable);
    assert!(e.to_string().contains(&format!("takes {need} tokens")), "{e}");
    let mut tight = up_to(&g, need);
    while !tight.has_ended() {
        let only = masked(&mut *tight);
        assert_eq!(only.len(), 1, "only the witness fits");
        assert!(tight.accept(only[0]).unwrap());
    }
    assert_eq!(tight.len(), need);
}

#[test]
fn reasoning_first_then_the_schema() {
    let options = JsonOptions { after: Some("</think>".into()), ..JsonOptions::default() };
    let s = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let g = GuidedGrammar::json_schema(&guide(), &s, &options).unwrap();
    assert!(accepts(&g, "so {\"n\": 1\n 1111111111111111111111111111111111111111111 </think>\n\n{\"n\": 7}"));
    assert!(!accepts(&g, "{\"n\": 7}"), "no marker");
    assert!(!accepts(&g, "a</think>{\"n\": \"7\"}"));
    assert!(!accepts(&g, "a</think>b</think>{\"n\": 7}"), "the first marker counts");
    let mut c = free(&g);
    assert!(c.accept(256 + 14).unwrap(), "the marker as a token");
    assert_eq!(choices(&mut *c), ["\t", "\n", "\r", " ", "{", "{\""]);
    let both = JsonOptions { until: Some("</call>".into()), ..options };
    let g = GuidedGrammar::json_schema(&guide(), &s, &both).unwrap();
    assert!(accepts(&g, "x</think>{\"n\":7}\n</call> and so on"));
    assert!(!accepts(&g, "x</think>{\"n\":7}"));
}

#[test]
fn one_of_several_tools() {
    let tools = [
        Tool {
            name: "add".into(),
            parameters: json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
            "required": ["a"], "$defs": {"n": {"type": "integer"}}}),
        },
        Tool { name: "stop".into(), parameters: json!({"type": "object", "additionalProperties": false}) },
    ];
    let g = GuidedGrammar::tools(&guide(), &tools, &JsonOptions::default()).unwrap();
    assert!(accepts(&g, "{\"name\": \"add\", \"arguments\": {\"a\": 3}}"));
    assert!(accepts(&g, "{\"name\":\"stop\",\"arguments\":{}}"));
    for bad in [
        "{\"name\":\"stop\",\"arguments\":{\"a\":3}}",
        "{\"name\":\"add\",\"arguments\":{\"a\":\"x\"}}",
        "{\"name\":\"mul\"",
    ] {
        assert!(!accepts(&g, bad), "{bad}");
    }
    assert_eq!(
        GuidedGrammar::tools(&guide(), &[], &JsonOptions::default()).err().unwrap().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn white_space_as_asked() {
    let s = json!({"type": "array", "items": {"type": "integer"}});
    let with = |w| {
        GuidedGrammar::json_schema(&guide(), &s, &JsonOptions { whitespace: w, ..JsonOptions::default() })
            .unwrap()
    };
    let cases = [
        (Whitespace::Compact, [true, false, false]),
        (Whitespace::Single, [true, true, false]),
        (Whitespace::Flexible, [true, true, true]),
    ];
    for (w, want) in cases {
        let g = with(w);
        assert_eq!(["[1,2]", "[1, 2]", "[\n  1,\n  2\n]"].map(|t| accepts(&g, t)), want, "{w:?}");
    }
    assert!(!accepts(&with(Whitespace::Flexible), &format!("[{}1]", " ".repeat(21))));
}

#[test]
fn a_listed_name_has_one_spelling() {
    let g = schema(
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}),
    );
    assert!(accepts(&g, "{\"a\":1,\"b\":\"x\"}"));
    for bad in ["{\"\\u0061\":\"x\"}", "{\"a\":\"x\"}", "{\"b\":\"x\",\"a\":\"x\"}"] {
        assert!(!accepts(&g, bad), "{bad}");
    }
}

#[test]
fn numbers_stay_readable() {
    let g = schema(json!({"type": "array"}));
    assert!(!accepts(&g, &format!("[{}]", "1".repeat(40))) && !accepts(&g, "[1e999]"));
    let g = schema(json!({"type": "number", "exclusiveMinimum": 0}));
    assert!(accepts(&g, "0.001") && !accepts(&g, "0") && !accepts(&g, &format!("0.{}1", "0".repeat(28))));
}

#[test]
fn the_shortest_text_is_found() {
    let number = json!({"type": "number"});
    let cases = [
        (
            json!({"type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"]}),
            "{\"a\":0,\"b\":0}",
        ),
        (json!({"type": "array", "items": {"type": "integer", "minimum": 120}, "minItems": 2}), "[120,120]"),
        (json!({"type": "string", "pattern": "^a*b[0-9]{3}$"}), "\"b000\""),
        (json!({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1}), "[\"a\"]"),
        (json!({"type": "string", "pattern": "[a-z]+@[a-z]+"}), "\"a@a\""),
        (json!({"type": "string", "format": "email"}), "\"a@a\""),
        (json!({"anyOf": [{"type": "string", "minLength": 9}, number]}), "0"),
        (
            json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "required": ["n"]}}}),
            "{\"n\":null}",
        ),
        (json!({"type": "string", "format": "date"}), "\"0001-01-01\""),
    ];
    for (s, want) in cases {
        let g = schema(s.clone());
        assert_eq!(
            String::from_utf8_lossy(g.example()).len(),
            want.len(),
            "{s}: {:?}",
            String::from_utf8_lossy(g.example())
        );
    }
}

#[test]
fn exactly_one_of_several_demands() {
    let g = schema(
        json!({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b", "c"]}], "additionalProperties": false}),
    );
    for good in ["{\"a\":null}", "{\"a\":null,\"b\":null}", "{\"b\":null,\"c\":null}"] {
        assert!(accepts(&g, good), "{good}");
    }
    for bad in ["{}", "{\"b\":null}", "{\"a\":null,\"b\":null,\"c\":null}"] {
        assert!(!accepts(&g, bad), "{bad}");
    }
}

#[test]
fn control_characters_are_neither_written_nor_lost() {
    for s in [json!({"const": "a\u{0}b"}), json!({"enum": ["a\u{7f}b"]})] {
        assert_eq!(
            GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()).err().unwrap().kind(),
            ErrorKind::Unsupported
        );
    }
    for p in ["^a\\x00b$", "^a[\\x00-\\x01]b$", "^a\u{0}b$"] {
        let s = json!({"type": "string", "pattern": p});
        let Ok(g) = GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()) else { continue };
        assert!(!accepts(&g, "\"ab\""), "{p}");
    }
    let g = schema(json!({"properties": {"a\u{1}": {"const": 1}}, "required": ["a\u{1}"], "type": "object"}));
    assert!(accepts(&g, "{\"a\\u0001\":1}"));
}

#[test]
fn engine_refusals_name_the_place() {
    let s = json!({"properties": {"a": {"items": {"oneOf": [{"minimum": 1}, {"maximum": 3}]}}}});
    let e = GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("\"/properties/a/items\""), "{e}");
    let e =
        GuidedGrammar::json_schema_str(&guide(), "{\n \"type\": }", &JsonOptions::default()).err().unwrap();
    assert!(e.kind() == ErrorKind::BadProfile && e.to_string().contains("line 2"), "{e}");
    let e = GuidedGrammar::lark(&guide(), "start: \"a\"\nx: [[").err().unwrap();
    assert!(e.kind() == ErrorKind::BadProfile && e.to_string().contains('2'), "{e}");
    for text in [
        "start: a\na[stop=\"x\"]: /b*/",
        "start: a\na[max_tokens=3]: /b*/",
        "start: %json {}",
        "start: <[3]> \"a\"",
    ] {
        let e = GuidedGrammar::lark(&guide(), text).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{text}: {e}");
    }
}

#[test]
fn long_chains_and_wide_bounds_end_in_an_answer() {
    let defs: serde_json::Map<String, Value> = (0..5000)
        .map(|i| {
            (format!("n{i}"), json!({"type": "array", "items": {"$ref": format!("#/$defs/n{}", i + 1)}}))
        })
        .chain([("n5000".to_owned(), json!({"type": "null"}))])
        .collect();
    let chain = json!({"$ref": "#/$defs/n0", "$defs": defs});
    let _ = GuidedGrammar::json_schema(&guide(), &chain, &JsonOptions::default());
    for s in [
        json!({"type": "string", "pattern": "^(a{1000}){1000}$"}),
        json!({"type": "string", "minLength": 1_000_000}),
        json!({"type": "array", "items": {"type": "null"}, "minItems": 1_000_000}),
    ] {
        let e = GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()).err().unwrap();
        assert!(matches!(e.kind(), ErrorKind::TooComplex | ErrorKind::Unsatisfiable), "{s}: {e}");
    }
}

/// Schemas with every kind of structure.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "minLength": 2, "maxLength": 5})),
        Just(json!({"type": "string", "pattern": "^[a-c]+-[0-9]{2}$"})),
        Just(json!({"type": "string", "format": "date"})),
        (-50i64..50, 0i64..200).prop_map(|(a, n)| json!({"type": "integer", "minimum": a, "maximum": a + n})),
        (0u8..40).prop_map(|a| json!({"type": "number", "exclusiveMinimum": f64::from(a) / 8.0})),
        Just(json!({"enum": ["ab", "ba", 3, null, true]})),
        Just(json!({"type": "boolean"})),
        Just(json!({})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0usize..3, 0usize..3).prop_map(|(s, a, n)| json!({"type": "array", "items": s, "minItems": a, "maxItems": a + n})),
            (prop::collection::vec(inner.clone(), 1..4), any::<u8>(), any::<bool>()).prop_map(|(s, required, open)| {
                let names = ["name", "n", "ab", "x y"];
                let props: serde_json::Map<String, Value> = names.iter().map(|n| (*n).to_owned()).zip(s).collect();
                let required: Vec<&String> = props.keys().enumerate().filter(|(i, _)| required >> i & 1 == 1).map(|(_, k)| k).collect();
                json!({"type": "object", "properties": props, "required": required, "additionalProperties": open})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|s| json!({ "anyOf": s })),
        ]
    })
}

/// Draws tokens from the mask with equal chance until the text has ended.
fn wander(c: &mut dyn Constraint, seed: u64, max: usize) -> Result<Vec<u8>, TestCaseError> {
    let mut state = seed | 1;
    let mut text = Vec::new();
    while !c.has_ended() {
        prop_assert!(c.len() < max, "the limit passed without an end: {:?}", String::from_utf8_lossy(&text));
        let mut allowed = masked(c);
        loop {
            prop_assert!(!allowed.is_empty(), "nothing may follow {:?}", String::from_utf8_lossy(&text));
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let token = allowed.swap_remove((state >> 33) as usize % allowed.len());
            let before = c.len();
            if c.accept(token).unwrap() {
                text.extend(bytes_of(token));
                break;
            }
            prop_assert_eq!(c.len(), before);
        }
    }
    Ok(text)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_texts_end_in_time_and_are_valid(s in any_schema(), seed in any::<u64>(), slack in 0usize..40) {
        let Ok(g) = GuidedGrammar::json_schema(&guide(), &s, &JsonOptions::default()) else { return Ok(()) };
        let need = free(&g).witness_len().unwrap();
        let max = need + slack;
        let text = String::from_utf8(wander(&mut *up_to(&g, max), seed, max)?).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&s).unwrap();
        prop_assert!(validator.is_valid(&value), "{} for {}", text, s);
    }
}
