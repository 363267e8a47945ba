//! A staged constraint against the definition: some split of the text into parts.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::grammar::{Automaton, Dfa, Grammar};

/// Whether `text` is free text, the first marker, strict text that `accepts`, and perhaps the second marker
/// and anything.
fn is_staged(text: &[u8], after: &[u8], until: Option<&[u8]>, accepts: impl Fn(&[u8]) -> bool) -> bool {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|w| w == what);
    let Some(at) = find(text, after) else { return false };
    let rest = &text[at + after.len()..];
    let ends = |u: &[u8]| (0..=rest.len()).any(|i| rest[i..].starts_with(u) && accepts(&rest[..i]));
    accepts(rest) || until.is_some_and(ends)
}

/// Texts over `ab` with an even number of `a`.
fn even() -> Dfa {
    let mut edges = Vec::new();
    for (from, byte, to) in [(0, b'a', 1), (1, b'a', 0), (0, b'b', 0), (1, b'b', 1)] {
        edges.push((from, byte, to));
    }
    Dfa::new(&[true, false], edges)
}

fn is_even(text: &[u8]) -> bool {
    text.iter().all(|b| b"ab".contains(b)) && text.iter().filter(|&&b| b == b'a').count().is_multiple_of(2)
}

proptest! {
    #[test]
    fn accepts_what_can_be_split(
        text in prop::collection::vec(prop::sample::select(b"abc".to_vec()), 0..12),
        after in "[abc]{1,3}",
        until in prop::option::of("[abc]{1,3}"),
    ) {
        let staged = Staged::new(Anything, &after, even(), until.as_deref()).unwrap();
        let want = is_staged(&text, after.as_bytes(), until.as_deref().map(str::as_bytes), is_even);
        let state = staged.run(staged.start(), &text);
        prop_assert_eq!(state.is_some_and(|s| staged.accepts(s)), want);
        // every state that is alive can be completed, in as many bytes as it says
        if let Some(s) = state {
            let mut rest = Vec::new();
            prop_assert!(staged.complete(s, &mut rest));
            prop_assert_eq!(rest.len() as u32, staged.at_least(s));
            let whole = [&text[..], &rest[..]].concat();
            prop_assert!(is_staged(&whole, after.as_bytes(), until.as_deref().map(str::as_bytes), is_even));
        } else {
            // nothing that begins so is accepted
            let mut more = vec![Vec::new()];
            for _ in 0..4 {
                more = more.iter().flat_map(|m: &Vec<u8>| b"abc".iter().map(move |&b| [&m[..], &[b]].concat())).collect();
                for m in &more {
                    let whole = [&text[..], m].concat();
                    prop_assert!(!is_staged(&whole, after.as_bytes(), until.as_deref().map(str::as_bytes), is_even));
                }
            }
        }
    }
}

fn lexicon() -> Lexicon {
    let singles = (32u8..127).map(|b| vec![b]);
    let more = ["think", "</think>", ">{", "</", "dog", " dog", "\":"];
    Lexicon::new(Arc::new(ListVocab::new(singles.chain(more.iter().map(|t| t.as_bytes().to_vec())))))
}

#[test]
fn the_free_part_closes_in_time_for_the_answer() {
    let lexicon = lexicon();
    let grammar = Grammar::gbnf(r#"root ::= "{\"n\":" [0-9]{1,3} "}""#).unwrap();
    let mut wording = Wording { exclude: vec!["dog".into()], ..Wording::default() };
    wording.length[Unit::Words as usize].max = Some(6);
    for (scope, words) in [(Scope::Strict, None), (Scope::Free, Some(&wording)), (Scope::All, Some(&wording))]
    {
        let constraints = Constraints {
            shape: Some(Shape::Grammar(grammar.clone())),
            after: Some("</think>".to_owned()),
            wording: words.cloned().unwrap_or_default(),
            scope,
            ..Constraints::default()
        };
        for max in [9, 12, 40] {
            let limits = Limits { max_tokens: Some(max), ..Limits::default() };
            let mut c = constraints.compile(&lexicon, limits).unwrap();
            for seed in 1..20u64 {
                let mut c = c.fork();
                let text = super::both_tests::generate(
                    &mut *c,
                    &mut super::both_tests::Picks(seed * 77),
                    lexicon.trie(),
                );
                let text = String::from_utf8(text).unwrap();
                let (free, strict) = text.split_once("</think>").unwrap();
                assert!(strict.starts_with("{\"n\":") && strict.ends_with('}'), "{text}");
                assert!(c.len() <= max);
                if words.is_some() {
                    assert!(!free.split(|c: char| !c.is_alphanumeric()).any(|w| w == "dog"), "{text}");
                }
            }
            assert!(c.witness_len().unwrap() <= max);
        }
        let limits = Limits { max_tokens: Some(5), ..Limits::default() };
        assert_eq!(
            constraints.compile(&lexicon, limits).err().unwrap().kind(),
            crate::ErrorKind::Unsatisfiable
        );
    }
}

#[test]
fn markers_that_cannot_be_used_are_named() {
    let long = "x".repeat(300);
    for (after, until, place) in [("", None, "after"), ("a", Some(""), "until"), (&long, None, "after")] {
        let e = Staged::new(Anything, after, even(), until).err().unwrap();
        assert!(e.to_string().starts_with(place), "{e}");
    }
}
