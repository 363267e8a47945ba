//! JSON Schema with words to use: every text satisfies both, also where a bracket would close the last place.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::both_tests::{Picks, generate};
use super::*;
use crate::grammar::Automaton;

fn lexicon() -> Lexicon {
    let singles = (32u8..127).map(|b| vec![b]);
    let more = ["dog", " dog", "{\"", "\":\"", "\"}", "title", " the", "frisbee"];
    Lexicon::new(Arc::new(ListVocab::new(singles.chain(more.iter().map(|t| t.as_bytes().to_vec())))))
}

#[test]
fn a_schema_and_a_word_are_kept_together() {
    let lexicon = lexicon();
    let schema = r#"{"type": "object", "properties": {"title": {"type": "string", "maxLength": 12}, "n": {"type": "boolean"}},
        "required": ["title", "n"], "additionalProperties": false}"#;
    let asked = Constraints {
        shape: Some(Shape::JsonSchema(schema.to_owned())),
        wording: Wording {
            include: vec![Clause::any(["dog"])],
            exclude: vec!["the".into()],
            ..Wording::default()
        },
        ..Constraints::default()
    };
    let mut said = 0;
    let need = asked.compile(&lexicon, Limits::default()).unwrap().witness_len().unwrap();
    for seed in 1..25u64 {
        let max = [None, Some(need), Some(need + 1), Some(need + 9)][seed as usize % 4];
        let mut c = asked.compile(&lexicon, Limits { max_tokens: max, ..Limits::default() }).unwrap();
        let text = generate(&mut *c, &mut Picks(seed * 977), lexicon.trie());
        assert!(max.is_none_or(|max| c.len() <= max));
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(value["title"].is_string() && value["n"].is_boolean(), "{value}");
        let words = WordingAutomaton::for_vocab(&asked.wording, lexicon.trie()).unwrap();
        assert!(words.run(words.start(), &text).is_some_and(|s| words.accepts(s)), "{value}");
        said += usize::from(value["title"].as_str().unwrap().to_lowercase().contains("dog"));
    }
    assert!(said > 0);
}
