//! Each check on responses that pass and responses that do not.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::error::ErrorKind;
use serde_json::{Value, json};

fn holds(instruction: &Value, response: &str) -> bool {
    Instruction::parse(instruction).unwrap().holds(response)
}

#[test]
fn every_check_tells_followed_from_not() {
    let at_least = |check: &str, key: &str, n: u64| json!({"check": check, "relation": "at least", key: n});
    let cases: Vec<(Value, &[&str], &[&str])> = vec![
        (json!({"check": "punctuation:no_comma"}), &["No comma."], &["One, two"]),
        (at_least("length_constraints:number_words", "num_words", 3), &["It's me", "a_b c 3"], &["one two"]),
        (
            json!({"check": "length_constraints:number_words", "relation": "less than", "num_words": 3}),
            &["one two", "well-known"],
            &["one two three"],
        ),
        (
            at_least("length_constraints:number_sentences", "num_sentences", 2),
            &["One. Two!", "Why? Because"],
            &["One. two", "3.5 is more", "Only one."],
        ),
        (
            json!({"check": "length_constraints:number_paragraphs", "num_paragraphs": 2}),
            &["a\n***\nb", "***\na***b\n***"],
            &["a", "a\n***\n\n***\nb", "a *** b *** c"],
        ),
        (
            json!({"check": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 2,
                   "nth_paragraph": 2, "first_word": "Then"}),
            &["First.\n\nThen, more", "First.\n\n\"then\" x", "A\nB\n\nthen."],
            &["Then.\n\nFirst", "First.\n\nThen\n\nThird", "First.\n\n\n\nThen", "Then"],
        ),
        (
            json!({"check": "keywords:existence", "keywords": ["dog", "Sun"]}),
            &["Hotdogs under the sun"],
            &["A dog"],
        ),
        (
            json!({"check": "keywords:frequency", "keyword": "a", "relation": "at least", "frequency": 3}),
            &["Banana"],
            &["An apple"],
        ),
        (
            json!({"check": "keywords:forbidden_words", "forbidden_words": ["bad"]}),
            &["badly", "bad_"],
            &["so Bad!", "bad"],
        ),
        (
            json!({"check": "keywords:letter_frequency", "letter": "Q", "let_relation": "less than",
                   "let_frequency": 2}),
            &["quick", "none"],
            &["Queen q"],
        ),
        (json!({"check": "change_case:english_capital"}), &["HELLO 3!"], &["HELLo", "123"]),
        (json!({"check": "change_case:english_lowercase"}), &["hello 3!"], &["Hello", "123", "ǆ ǅ"]),
        (
            json!({"check": "change_case:capital_word_frequency", "capital_relation": "at least",
                   "capital_frequency": 3}),
            &["A NASA MISSION", "I DON'T", "A,B,C"],
            &["NASA led A mission", "One Two Three"],
        ),
        (
            json!({"check": "detectable_format:number_bullet_lists", "num_bullets": 2}),
            &["* a\n* b", "text\n  - a\n* b"],
            &["* a", "** a\n* b", "* a\n* b\n- c"],
        ),
        (
            json!({"check": "detectable_format:number_highlighted_sections", "num_highlights": 2}),
            &["*a* and *b*", "**a** *b*", "*a b* **c**"],
            &["*a*", "* *  * *", "*a\nb*"],
        ),
        (json!({"check": "detectable_format:title"}), &["<<Title>>\ntext"], &["<< >>", "<<a\nb>>", "<a>"]),
        (
            json!({"check": "detectable_format:json_format"}),
            &["{\"a\": [1]}", "```json\n[1]\n```", "3"],
            &["{a: 1}", "Here: {}"],
        ),
        (
            json!({"check": "detectable_format:multiple_sections", "section_spliter": "Section",
                   "num_sections": 2}),
            &["Section 1\na\nSection 2\nb"],
            &["Section 1", "Section one Section two"],
        ),
        (
            json!({"check": "detectable_format:constrained_response"}),
            &["Well. My answer is maybe."],
            &["My answer is yes", "my answer is no."],
        ),
        (
            json!({"check": "detectable_content:number_placeholders", "num_placeholders": 2}),
            &["[a] [b]", "[] []"],
            &["[a b]", "[a\n]"],
        ),
        (
            json!({"check": "detectable_content:postscript", "postscript_marker": "P.S."}),
            &["Bye.\nP.S. x\nmore", "p. s. x"],
            &["PS x", "P.S x"],
        ),
        (
            json!({"check": "detectable_content:postscript", "postscript_marker": "P.P.S"}),
            &["P.P.S. x", "p. p. s x"],
            &["P.S. x"],
        ),
        (
            json!({"check": "combination:repeat_prompt", "prompt_to_repeat": "Say hi. "}),
            &[" say hi. Hi!"],
            &["Hi! Say hi."],
        ),
        (
            json!({"check": "combination:two_responses"}),
            &["a******b", "******a\n******\nb"],
            &["a******a", "a", "a************b", "a******b******c"],
        ),
        (
            json!({"check": "startend:end_checker", "end_phrase": "The end."}),
            &["x the end.", "\"x The end.\" "],
            &["The end. Or"],
        ),
        (json!({"check": "startend:quotation"}), &["\"a\"", " \"\" "], &["\"", "\"a", "'a'"]),
    ];
    for (instruction, pass, fail) in &cases {
        pass.iter().for_each(|r| assert!(holds(instruction, r), "{instruction} should hold for {r:?}"));
        fail.iter().for_each(|r| assert!(!holds(instruction, r), "{instruction} should not hold for {r:?}"));
        assert!(!holds(instruction, " \n"), "{instruction} holds for nothing");
    }
}

#[test]
fn loose_drops_a_line_or_asterisks() {
    let quotation = Instruction::parse(&json!({"check": "startend:quotation"})).unwrap();
    for response in ["Sure!\n\"Hi\"", "\"Hi\"\nHope it helps.", "**\"Hi\"**"] {
        assert!(!quotation.holds(response) && quotation.holds_loosely(response), "{response:?}");
    }
    assert!(!quotation.holds_loosely("Sure: \"Hi\""));
}

#[test]
fn mistakes_are_named() {
    let refused = |v: Value| Instruction::parse(&v).unwrap_err();
    let unknown = refused(json!({"check": "language:response_language"}));
    assert_eq!(unknown.kind(), ErrorKind::Unsupported);
    assert!(unknown.to_string().contains("language:response_language"));
    for (value, words) in [
        (json!({"check": "detectable_format:number_bullet_lists"}), ["num_bullets", "nothing"]),
        (json!({"check": "detectable_format:number_bullet_lists", "num_bullets": -1}), ["num_bullets", "-1"]),
        (json!({"check": "keywords:existence", "keywords": []}), ["keywords", "[]"]),
        (
            json!({"check": "length_constraints:number_words", "relation": "more", "num_words": 1}),
            ["relation", "more"],
        ),
        (json!(["x"]), ["object", "x"]),
        (json!({}), ["check", "name"]),
    ] {
        let message = refused(value).to_string();
        assert!(words.iter().all(|w| message.contains(w)), "{message}");
    }
}

/// Keywords are patterns upstream; one that is none is taken as it stands.
#[test]
fn keywords_that_are_no_patterns_are_plain() {
    let c = json!({"check": "keywords:existence", "keywords": ["c++ ("]});
    assert!(holds(&c, "I like C++ (a lot)") && !holds(&c, "c"));
}
