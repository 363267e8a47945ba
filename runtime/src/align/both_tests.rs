//! Grammar and wording together: every text keeps to both, and none runs into a dead end.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::grammar::{Automaton, Grammar, Machine};
use crate::token::{TokenId, TokenSet};

const OBJECT: &str = r#"root ::= "{\"title\":\"" [a-zA-Z ,.]* "\"" (",\"tags\":[" tag ("," tag)* "]")? ",\"n\":" [0-9]{1,3} "}"
tag ::= "\"" [a-z]+ "\"""#;

fn trie() -> Arc<TokenTrie> {
    let singles = (32u8..127).map(|b| vec![b]);
    let more = [
        "dog", " dog", "{\"", "\":\"", "title", "\",\"", "tags", " the", "frisbee", "is", "\":[", "\"],\"",
        "n\":", ". ", "do", "og", " a",
    ];
    Arc::new(TokenTrie::new(Arc::new(ListVocab::new(
        singles.chain(more.iter().map(|t| t.as_bytes().to_vec())),
    ))))
}

fn both(gbnf: &str, w: &Wording, trie: &TokenTrie) -> Both<Machine, WordingAutomaton> {
    let grammar = Grammar::gbnf(gbnf).unwrap().compile(&trie.single_bytes()).unwrap();
    Both::new(grammar, WordingAutomaton::for_vocab(w, trie).unwrap())
}

fn wording(include: &[&str], exclude: &[&str], words: Range) -> Wording {
    let mut w = Wording {
        include: include.iter().map(|t| Clause::any(t.split('|'))).collect(),
        exclude: exclude.iter().map(|&t| t.into()).collect(),
        ..Wording::default()
    };
    w.length[Unit::Words as usize] = words;
    w
}

pub(super) struct Picks(pub u64);

impl Picks {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}

pub(super) fn generate(c: &mut dyn Constraint, picks: &mut Picks, trie: &TokenTrie) -> Vec<u8> {
    let mut text = Vec::new();
    let mut set = TokenSet::none(c.n_vocab());
    while !c.has_ended() {
        set.fill();
        c.mask(&mut set).unwrap();
        loop {
            let ids: Vec<TokenId> = set.iter().collect();
            assert!(!ids.is_empty(), "no token is left after {:?}", String::from_utf8_lossy(&text));
            let token = ids[picks.below(ids.len())];
            if c.accept(token).unwrap() {
                text.extend_from_slice(trie.vocab().bytes(token));
                break;
            }
            set.remove(token);
        }
    }
    text
}

#[test]
fn texts_keep_to_grammar_and_wording_within_the_limit() {
    let trie = trie();
    let any = Range::default();
    for (include, exclude, words) in [
        (&["dog", "frisbee|is"][..], &[][..], any),
        (&["dog"], &["a", "do"], any),
        (&["title"], &["tags"], any),
        (&["tags"], &[], any),
        (&["dog"], &[], Range::exactly(9)),
        (&[], &["title"], any), // the grammar itself says it
    ] {
        let w = wording(include, exclude, words);
        let build = |max| {
            Bytewise::new(
                both(OBJECT, &w, &trie),
                Arc::clone(&trie),
                Limits { max_tokens: Some(max), ..Limits::default() },
            )
        };
        let mut loose = match build(500) {
            Ok(c) => c,
            Err(e) => {
                assert!(exclude == ["title"] && e.kind() == ErrorKind::Unsatisfiable, "{w:?}: {e}");
                continue;
            }
        };
        assert!(exclude != ["title"]);
        let need = loose.witness_len().unwrap();
        let plain = Grammar::gbnf(OBJECT).unwrap().compile(&trie.single_bytes()).unwrap();
        let said = w.compile(&trie.single_bytes()).unwrap();
        for max in [need, need + 1, need + 5, need + 40] {
            let c = build(max).unwrap();
            for seed in 1..6 {
                let mut c = c.fork();
                let text = generate(&mut *c, &mut Picks(seed * 0x9E37_79B9), &trie);
                assert!(c.len() <= max);
                let shown = String::from_utf8_lossy(&text);
                assert!(
                    plain.run(plain.start(), &text).is_some_and(|s| plain.accepts(s)),
                    "grammar: {shown}"
                );
                assert!(said.run(said.start(), &text).is_some_and(|s| said.accepts(s)), "{w:?}: {shown}");
            }
        }
    }
}

#[test]
fn what_only_together_is_impossible_is_refused() {
    let trie = trie();
    for (gbnf, w) in [
        (r#"root ::= [a-c]+"#, wording(&["dog"], &[], Range::default())),
        (r#"root ::= "dog" | "cat""#, wording(&[], &["dog", "cat"], Range::default())),
        (r#"root ::= "one two three" "#, wording(&[], &[], Range { min: 0, max: Some(2) })),
    ] {
        let e = Bytewise::new(both(gbnf, &w, &trie), Arc::clone(&trie), Limits::default()).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Unsatisfiable, "{gbnf}");
    }
}

#[test]
fn a_keyword_finds_its_way_into_an_optional_place() {
    let trie = trie();
    let gbnf = r#"root ::= "[" ("\"" [d-z]* "\"" ("," [0-9]+)?)? "]""#;
    let mut c = Bytewise::new(
        both(gbnf, &wording(&["dog"], &[], Range::default()), &trie),
        Arc::clone(&trie),
        Limits::default(),
    )
    .unwrap();
    let mut out = Vec::new();
    assert!(c.witness(&mut out));
    let text: Vec<u8> = out.iter().flat_map(|&t| trie.vocab().bytes(t).to_vec()).collect();
    assert_eq!(String::from_utf8(text).unwrap(), "[\"dog\"]");
    // closing the list without it is refused, though the grammar would have it
    assert!(c.accept(u32::from(b'[' - 32)).unwrap());
    assert!(!c.accept(u32::from(b']' - 32)).unwrap());
    assert!(c.accept(u32::from(b'"' - 32)).unwrap());
}

#[test]
fn dead_ends_are_allowed_where_the_sampler_wants_them() {
    let trie = trie();
    let automaton = both(r#"root ::= "[" [a-z]* "]""#, &wording(&["dog"], &[], Range::default()), &trie);
    let limits = Limits { allow_dead_ends: true, ..Limits::default() };
    let mut c = Bytewise::new(automaton, trie, limits).unwrap();
    assert!(c.accept(u32::from(b'[' - 32)).unwrap() && c.accept(u32::from(b']' - 32)).unwrap());
    let mut set = TokenSet::all(c.n_vocab());
    c.mask(&mut set).unwrap();
    assert!(set.is_empty() && !c.may_end());
}
