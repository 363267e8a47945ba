//! [`Machine`] against labelled grammars, enumerated languages and random grammars.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::charset::CharSet;
use super::expr::{Expr, Rule};
use super::*;
use crate::error::ErrorKind;

const ALL: ByteSet = [true; 256];

fn machine(gbnf: &str) -> Machine {
    Grammar::gbnf(gbnf).unwrap().compile(&ALL).unwrap()
}

fn accepts(m: &Machine, text: &str) -> bool {
    m.run(m.start(), text.as_bytes()).is_some_and(|s| m.accepts(s))
}

/// Number of leading characters that are let through.
fn viable_chars(m: &Machine, text: &str) -> usize {
    let mut state = m.start();
    for (n, c) in text.chars().enumerate() {
        match m.run(state, c.encode_utf8(&mut [0; 4]).as_bytes()) {
            Some(next) => state = next,
            None => return n,
        }
    }
    text.chars().count()
}

fn data(file: &str) -> String {
    let folder = std::env::var_os("TRUING_GRAMMARS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/grammars")),
        PathBuf::from,
    );
    std::fs::read_to_string(folder.join(file)).unwrap()
}

fn rows(file: &str) -> Vec<Value> {
    data(file).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn strings(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

#[test]
fn every_labelled_string_is_accepted_or_refused_at_the_right_character() {
    let mut n = 0;
    for row in rows("index.jsonl") {
        let file = row["file"].as_str().unwrap();
        let m = machine(&data(file));
        for text in strings(&row["accept"]) {
            assert!(accepts(&m, text), "{file} refuses {text:?} at {}", viable_chars(&m, text));
            n += 1;
        }
        for reject in row["reject"].as_array().unwrap() {
            let (text, viable) =
                (reject["text"].as_str().unwrap(), reject["viable"].as_u64().unwrap() as usize);
            assert_eq!((viable_chars(&m, text), accepts(&m, text)), (viable, false), "{file}: {text:?}");
            n += 1;
        }
    }
    assert!(n > 800, "only {n} strings were checked");
}

/// All texts of a finite language.
fn enumerate(m: &Machine, state: u32, text: &mut Vec<u8>, out: &mut BTreeSet<Vec<u8>>) {
    assert!(text.len() < 100, "the language is not finite");
    if m.accepts(state) {
        out.insert(text.clone());
    }
    for byte in 0..=255 {
        if let Some(next) = m.step(state, byte) {
            text.push(byte);
            enumerate(m, next, text, out);
            text.pop();
        }
    }
}

#[test]
fn finite_languages_are_enumerated_exactly() {
    for row in rows("finite_languages.jsonl") {
        let m = machine(&data(row["grammar"].as_str().unwrap()));
        let mut found = BTreeSet::new();
        enumerate(&m, m.start(), &mut Vec::new(), &mut found);
        let want: BTreeSet<Vec<u8>> =
            strings(&row["language"]).iter().map(|s| s.as_bytes().to_vec()).collect();
        assert_eq!(found, want, "{}", row["grammar"]);
    }
}

/// Trap T2 of the grammar specification: a longest-match lexer accepts none of these.
#[test]
fn repeated_characters_do_not_swallow_what_follows() {
    for grammar in
        [r#"root ::= [a-z]* "b""#, "root ::= w \"b\"\nw ::= [a-z]+", "root ::= w \"b\"\nw ::= [a-z] w?"]
    {
        let m = machine(grammar);
        for (text, yes) in [("ab", true), ("abb", true), ("zzzb", true), ("a", false), ("bc", false)] {
            assert_eq!(accepts(&m, text), yes, "{grammar}: {text}");
        }
        assert_eq!(m.at_least(m.run(m.start(), b"ac").unwrap()), 1);
    }
}

/// Trap T3: what never ends is refused when read, not when it has run.
#[test]
fn languages_without_texts_are_refused() {
    for grammar in
        ["root ::= x\nx ::= \"a\" x", "root ::= x | y\nx ::= y \"a\"\ny ::= x", "root ::= [\\uD800]"]
    {
        assert_eq!(Grammar::gbnf(grammar).unwrap_err().kind(), ErrorKind::Unsatisfiable, "{grammar}");
    }
    assert_eq!(Grammar::regex("a[^\\x00-\\x{10ffff}]").unwrap_err().kind(), ErrorKind::Unsatisfiable);
    // an alternative that never ends is no reason to refuse, and no way to go
    let m = machine("root ::= x | \"b\"\nx ::= \"a\" x");
    assert_eq!((m.step(m.start(), b'a'), accepts(&m, "b")), (None, true));
}

#[test]
fn right_recursion_and_repetition_need_finitely_many_states() {
    for grammar in [
        "root ::= \"a\" root | \"b\"",
        "root ::= x \"c\"\nx ::= \"a\" y | \"b\"\ny ::= \"b\" x",
        "root ::= (\"a\" | \"bc\")*",
    ] {
        let m = machine(grammar);
        let mut state = m.start();
        for _ in 0..2000 {
            let mut rest = Vec::new();
            state = (b'a'..=b'c')
                .filter_map(|b| m.step(state, b))
                .find(|&s| {
                    rest.clear();
                    m.complete(s, &mut rest)
                })
                .unwrap();
        }
        assert!(m.n_states() < 24, "{grammar}: {} states", m.n_states());
    }
}

#[test]
fn deep_nesting_is_followed_exactly() {
    let m = machine("root ::= \"(\" root \")\" | \"\"");
    let n = 3000;
    let open = m.run(m.start(), "(".repeat(n).as_bytes()).unwrap();
    assert_eq!(m.at_least(open), n as u32);
    let closed = m.run(open, ")".repeat(n).as_bytes()).unwrap();
    assert!(m.accepts(closed) && m.step(closed, b')').is_none());
}

#[test]
fn left_recursion_is_followed_for_long_texts() {
    let m = machine("root ::= e\ne ::= e \"+\" e | e \"*\" e | \"(\" e \")\" | [a-c]");
    let text = format!("a{}", "+b*(c+a)".repeat(500));
    assert!(accepts(&m, &text));
    assert!(m.n_states() < 100, "{} states: ambiguity piles up", m.n_states());
    assert_eq!(viable_chars(&m, "a+b)"), 3);
}

#[test]
fn bytes_the_vocabulary_lacks_are_kept_out() {
    let g = Grammar::gbnf("root ::= [a-c]+ \"d\"?").unwrap();
    let mut some = ALL;
    some[usize::from(b'a')] = false;
    let m = g.compile(&some).unwrap();
    assert_eq!((m.step(m.start(), b'a'), accepts(&m, "bcd")), (None, true));
    some[usize::from(b'b')] = false;
    some[usize::from(b'c')] = false;
    assert_eq!(g.compile(&some).unwrap_err().kind(), ErrorKind::Unencodable);
}

#[test]
fn sizes_are_bounded() {
    for grammar in [
        "root ::= [a-z]{0,4000000}",
        "root ::= \"abcdefgh\"{100000}",
        "root ::= (\"a\" | \"b\"){4000000000}",
        &format!("root ::= {}", "\"a\"? ".repeat(300_000)),
    ] {
        assert_eq!(
            Grammar::gbnf(grammar).unwrap().compile(&ALL).unwrap_err().kind(),
            ErrorKind::TooComplex,
            "{grammar:.30}"
        );
    }
    // counts of counts are cheap: a repeated group is a rule of its own
    let m = machine("root ::= ((\"ab\"{1000}){1000} \"c\"){3}");
    assert_eq!(m.at_least(m.start()), 6_000_003);
}

#[test]
fn regular_expressions_match_from_end_to_end() {
    for (pattern, yes, no) in [
        (r"^\d{3}-[a-f]+$", "123-abc", "1234-abc"),
        (r"(?i)straße", "STRAßE", "strasse"),
        (r"\w+( \w+)*", "Ünïcode wörds", "two  spaces"),
        (r"a|bc|", "", "ab"),
        (r"[^x]*x", "é日x", "xx"),
        (r"(?s).{2}", "\n日", "\n"),
    ] {
        let m = Grammar::regex(pattern).unwrap().compile(&ALL).unwrap();
        assert!(accepts(&m, yes) && !accepts(&m, no), "{pattern}");
    }
    for (pattern, kind) in [
        (r"a\b", ErrorKind::Unsupported),
        (r"a$b", ErrorKind::Unsupported),
        (r"(a", ErrorKind::BadProfile),
        (r"a(?=b)", ErrorKind::BadProfile),
    ] {
        assert_eq!(Grammar::regex(pattern).unwrap_err().kind(), kind, "{pattern}");
    }
}

#[test]
fn threads_share_a_machine() {
    let m = machine(&data("json.gbnf"));
    let text = br#"{"a": [1, 2.5e3, {"b": "\u00e9"}], "c": null}"#;
    let alone = machine(&data("json.gbnf"));
    let needs = |m: &Machine| {
        let mut s = m.start();
        text.iter()
            .map(|&b| {
                s = m.step(s, b).unwrap();
                m.at_least(s)
            })
            .collect::<Vec<_>>()
    };
    let want = needs(&alone);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(needs(&m), want));
        }
    });
}

// Random grammars over {a, b}, against the sets of their short texts computed as a fixpoint.

/// Longest text looked at.
const LONGEST: usize = 7;
/// A set of texts of at most `LONGEST` letters: text `w` is bit `index(w)`.
type Texts = Vec<bool>;

fn words() -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..LONGEST {
        let to = all.len();
        for i in from..to {
            all.push(format!("{}a", all[i]));
            all.push(format!("{}b", all[i]));
        }
        from = to;
    }
    all
}

fn index(word: &str) -> usize {
    word.bytes().fold(1, |n, b| 2 * n + usize::from(b == b'b')) - 1
}

fn join(words: &[String], x: &Texts, y: &Texts) -> Texts {
    let mut out = vec![false; words.len()];
    for u in words.iter().filter(|w| x[index(w)]) {
        for v in words.iter().filter(|w| y[index(w)] && u.len() + w.len() <= LONGEST) {
            out[index(&format!("{u}{v}"))] = true;
        }
    }
    out
}

fn union(x: &mut Texts, y: &Texts) {
    x.iter_mut().zip(y).for_each(|(a, b)| *a |= b);
}

fn texts_of(e: &Expr, rules: &[Texts], words: &[String]) -> Texts {
    let mut only_empty = vec![false; words.len()];
    only_empty[0] = true;
    match e {
        Expr::Text(t) => {
            let mut out = vec![false; words.len()];
            if t.len() <= LONGEST {
                out[index(t)] = true;
            }
            out
        }
        Expr::Class(set) => {
            let mut out = vec![false; words.len()];
            for c in ["a", "b"] {
                let code = u32::from(c.as_bytes()[0]);
                out[index(c)] = set.ranges().iter().any(|r| (r.0..=r.1).contains(&code));
            }
            out
        }
        Expr::Seq(parts) => {
            parts.iter().fold(only_empty, |acc, p| join(words, &acc, &texts_of(p, rules, words)))
        }
        Expr::Alt(options) => options.iter().fold(vec![false; words.len()], |mut acc, o| {
            union(&mut acc, &texts_of(o, rules, words));
            acc
        }),
        Expr::Repeat { body, min, max } => {
            let body = texts_of(body, rules, words);
            let (mut out, mut power) = (vec![false; words.len()], only_empty);
            for n in 0..=max.unwrap_or(min + LONGEST as u32 + 1).min(min + LONGEST as u32 + 1) {
                if n >= *min {
                    union(&mut out, &power);
                }
                power = join(words, &power, &body);
            }
            out
        }
        Expr::Rule(r) => rules[*r].clone(),
    }
}

fn short_texts(rules: &[Rule], root: usize, words: &[String]) -> Texts {
    let mut known = vec![vec![false; words.len()]; rules.len()];
    loop {
        let next: Vec<Texts> = rules.iter().map(|r| texts_of(&r.expr, &known, words)).collect();
        if next == known {
            return known.swap_remove(root);
        }
        known = next;
    }
}

const N_RULES: usize = 3;

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        4 => "[ab]{0,2}".prop_map(|s: String| Expr::Text(s.into())),
        1 => Just(Expr::Class(CharSet::new([(97, 98)]))),
        5 => (0..N_RULES).prop_map(Expr::Rule),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..4).prop_map(Expr::Seq),
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Expr::Alt),
            1 => (inner, 0u32..3, prop::option::of(0u32..3)).prop_map(|(b, min, more)| Expr::Repeat { body: Box::new(b), min, max: more.map(|m| min + m) }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn random_grammars_accept_exactly_their_texts(exprs in prop::collection::vec(expr(), N_RULES)) {
        let rules: Vec<Rule> = exprs.into_iter().map(|expr| Rule { name: "r".into(), expr }).collect();
        let words = words();
        let texts = short_texts(&rules, 0, &words);
        let m = match Grammar::new(rules, 0) {
            Ok(g) => g.compile(&ALL).unwrap(),
            Err(e) => {
                prop_assert_eq!(e.kind(), ErrorKind::Unsatisfiable);
                prop_assert!(!texts.contains(&true));
                return Ok(());
            }
        };
        for w in &words {
            let state = m.run(m.start(), w.as_bytes());
            prop_assert_eq!(state.is_some_and(|s| m.accepts(s)), texts[index(w)], "{:?}", w);
            let shortest = words.iter().filter(|t| texts[index(t)] && t.starts_with(w.as_str())).map(|t| t.len() - w.len()).min();
            match (state, shortest) {
                (Some(s), Some(n)) => prop_assert_eq!(m.at_least(s) as usize, n, "need after {:?}", w),
                (Some(s), None) => prop_assert!(m.at_least(s) as usize + w.len() > LONGEST, "{:?} is let through", w),
                (None, found) => prop_assert_eq!(found, None, "{:?} is refused", w),
            }
            if let Some(s) = state {
                let mut rest = Vec::new();
                prop_assert!(m.complete(s, &mut rest));
                prop_assert_eq!(rest.len() as u32, m.at_least(s));
                prop_assert!(m.run(s, &rest).is_some_and(|s| m.accepts(s)));
            }
        }
    }
}
