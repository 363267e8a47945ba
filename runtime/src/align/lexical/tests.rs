//! Wordings against a brute-force reading of whole texts, and generations under them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::chartypes::Kind;
use super::reference::*;
use super::*;
use crate::align::{Bytewise, Constraint, Limits, ListVocab, TokenTrie};
use crate::error::ErrorKind;
use crate::grammar::{Automaton, ByteSet};
use crate::token::{TokenId, TokenSet};

const ALL: ByteSet = [true; 256];

fn phrases(texts: &[&str]) -> Vec<Phrase> {
    texts.iter().map(|&t| t.into()).collect()
}

fn including(texts: &[&str]) -> Wording {
    Wording { include: texts.iter().map(|t| Clause::any(t.split('|'))).collect(), ..Wording::default() }
}

fn excluding(texts: &[&str]) -> Wording {
    Wording { exclude: phrases(texts), ..Wording::default() }
}

fn accepts(w: &Wording, text: &str) -> bool {
    let a = WordingAutomaton::new(w, &ALL).unwrap();
    a.run(a.start(), text.as_bytes()).is_some_and(|s| a.accepts(s))
}

#[test]
fn words_are_found_as_people_read_them() {
    for (phrase, text, found) in [
        ("cat", "The cat sat", true),
        ("cat", "cat", true),
        ("cat", "category", false),
        ("cat", "bobcat", false),
        ("cat", "a cat's life", true),
        ("cat", "cat_x", false),
        ("cat", "CAT!", true),
        ("straße", "die STRASSE", true),
        ("café", "Cafe\u{301}.", true),
        ("cafe", "café", false),
        ("cafe", "cafe\u{301}", false),
        ("ı", "I", false),
        ("i", "I", true),
        ("fin", "the ﬁn", true),
        ("as an AI", "As an ai, I", true),
        ("as an AI", "as an air", false),
        ("犬", "黒犬が", true),
        ("한국", "한국", true),
        ("q\u{307}\u{323}", "q\u{323}\u{307}", true),
        ("q\u{307}", "q\u{307}\u{323}", false),
        (".com", "x.com", false),
        (".com", "x .com", true),
        ("c++", "I like C++.", true),
    ] {
        assert_eq!(accepts(&including(&[phrase]), text), found, "include {phrase:?} in {text:?}");
        assert_eq!(accepts(&excluding(&[phrase]), text), !found, "exclude {phrase:?} from {text:?}");
    }
}

#[test]
fn invisible_characters_hide_nothing() {
    for text in ["b\u{ad}ad", "ba\u{200d}d", "\u{feff}bad", "bad\u{200b}", "b\u{200b}\u{ad}a\u{2060}d!"] {
        assert!(!accepts(&excluding(&["bad"]), text), "{text:?}");
    }
    assert!(!accepts(&including(&["bad"]), "b\u{ad}ad"), "what must be said must be visible");
    assert!(accepts(&including(&["bad"]), "bad\u{200b}"));
}

#[test]
fn case_norm_and_boundary_can_be_chosen() {
    let phrase = |text: &str, boundary, case, norm| Wording {
        include: vec![Clause::any([Phrase { text: text.into(), boundary, case, norm }])],
        ..Wording::default()
    };
    use {Boundary as B, Case as C, Norm as N};
    for (boundary, case, norm, text, found) in [
        (B::None, C::Fold, N::Nfkc, "bobcats", true),
        (B::None, C::Exact, N::Nfkc, "bobCats", false),
        (B::None, C::Exact, N::Nfkc, "ｃａｔ", true),
        (B::None, C::Exact, N::Nfc, "ｃａｔ", false),
        (B::Word, C::Exact, N::None, "a cat", true),
        (B::Word, C::Exact, N::None, "a Cat", false),
    ] {
        assert_eq!(
            accepts(&phrase("cat", boundary, case, norm), text),
            found,
            "{text} {boundary:?} {case:?} {norm:?}"
        );
    }
    let exact = Phrase { text: "e\u{301}".into(), norm: N::None, ..Phrase::default() };
    let w = Wording { include: vec![Clause::any([exact])], ..Wording::default() };
    assert!(accepts(&w, "e\u{301}") && !accepts(&w, "é"));
}

#[test]
fn clauses_counts_and_order() {
    let w = including(&["run|runs|ran", "dog"]);
    assert!(accepts(&w, "dogs ran; a dog") && !accepts(&w, "a dog running") && !accepts(&w, "he ran"));
    let counted = Wording {
        include: vec![Clause { any: phrases(&["a"]), at_least: 2, at_most: Some(3) }],
        ..Wording::default()
    };
    for (text, ok) in [("a", false), ("a a", true), ("a a a", true), ("a a a a", false)] {
        assert_eq!(accepts(&counted, text), ok, "{text}");
    }
    let ordered = Wording { ordered: true, ..including(&["to be", "be bold"]) };
    for (text, ok) in [
        ("to be bold", false),
        ("be bold to be", false),
        ("to be, be bold", true),
        ("be bold, to be, be bold", true),
    ] {
        assert_eq!(accepts(&ordered, text), ok, "{text}");
    }
}

#[test]
fn lengths_in_every_unit() {
    let length = |unit: Unit, range: Range| {
        let mut w = Wording::default();
        w.length[unit as usize] = range;
        w
    };
    for (unit, text, n) in [
        (Unit::Words, "It's a dog-eared 3.5 book_mark", 8),
        (Unit::Words, "犬が好き x", 5), // two ideographs, two runs of kana, x
        (Unit::Words, "e\u{301}te\u{301}", 1),
        (Unit::Words, "  ", 0),
        (Unit::Sentences, "Dr. No left. He ran!", 2),
        (Unit::Chars, "né\u{301}", 3),
        (Unit::Graphemes, "né\u{301}👨\u{200d}👩\u{200d}👧🇩🇪", 4),
        (Unit::Bytes, "né", 3),
    ] {
        let w = |n| length(unit, Range::exactly(n));
        assert!(accepts(&w(n), text), "{text:?} is {n} {}", unit.name());
        assert!(!accepts(&w(n + 1), text) && (n == 0 || !accepts(&w(n - 1), text)), "{text:?}");
    }
    let one = length(Unit::Sentences, Range::exactly(1));
    assert!(!accepts(&one, "No end") && accepts(&one, "An end."));
}

/// Regression: filler that ended like an initial left no way to a third sentence.
#[test]
fn any_number_of_sentences_can_be_completed() {
    for n in 1..=20 {
        let mut w = Wording::default();
        w.length[Unit::Sentences as usize] = Range { min: n, max: Some(n + 1) };
        let a = w.compile(&ALL).unwrap();
        for text in ["", "One", "One.", "Ask Dr.", "A.", "So it is!", "Ask Dr. X.", "1. "] {
            let state = a.run(a.start(), text.as_bytes()).unwrap();
            let mut rest = Vec::new();
            assert!(a.complete(state, &mut rest), "{n} sentences after {text:?}");
            assert!(a.accepts(a.run(state, &rest).unwrap()), "{n} sentences after {text:?}");
        }
    }
}

fn refused(w: &Wording) -> (ErrorKind, String) {
    let e = w.compile(&ALL).err().unwrap();
    (e.kind(), e.to_string())
}

#[test]
fn what_cannot_be_satisfied_is_refused_by_name() {
    use ErrorKind::*;
    let length = |unit: Unit, min, max, w: Wording| {
        let mut w = w;
        w.length[unit as usize] = Range { min, max: Some(max) };
        w
    };
    let many = vec!["a"; 65];
    let long = "ab".repeat(500_000);
    for (w, kind, says) in [
        (including(&[""]), BadProfile, "empty phrase"),
        (excluding(&["\u{ad}"]), BadProfile, "empty phrase"),
        (
            Wording { exclude: phrases(&["at"]), ..including(&["dog", "look at|at it"]) },
            Unsatisfiable,
            "include clause 2: \"look at\", \"at it\" contains the excluded phrase \"at\"",
        ),
        (
            Wording {
                include: vec![Clause { any: vec![], at_least: 1, at_most: None }],
                ..Wording::default()
            },
            BadProfile,
            "include clause 1: expected at least one phrase",
        ),
        (
            Wording {
                include: vec![Clause { any: phrases(&["a"]), at_least: 3, at_most: Some(2) }],
                ..Wording::default()
            },
            BadProfile,
            "exclude each other",
        ),
        (
            length(Unit::Words, 5, 4, Wording::default()),
            BadProfile,
            "length in words: the lower limit 5 is above the upper limit 4",
        ),
        (
            length(Unit::Words, 0, 2, including(&["one two", "three"])),
            Unsatisfiable,
            "length in words: what must be said takes 3, only 2 are allowed",
        ),
        (
            length(Unit::Bytes, 0, 3, including(&["frisbee"])),
            Unsatisfiable,
            "length in bytes: what must be said takes 7, only 3 are allowed",
        ),
        (including(&many), TooComplex, "65 clauses"),
        (including(&[&long]), TooComplex, "1000001 characters in all phrases"),
        (including(&["a\u{301}\u{302}\u{303}\u{304}"]), Unsupported, "more than 3 combining marks"),
        (including(&["\u{301}a"]), Unsupported, "begin with a combining mark"),
        (
            Wording {
                include: vec![Clause { any: phrases(&["a"]), at_least: 2, at_most: Some(3) }],
                ordered: true,
                ..Wording::default()
            },
            BadProfile,
            "ordered",
        ),
    ] {
        let (k, message) = refused(&w);
        assert_eq!(k, kind, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let mut some = ALL;
    some[usize::from(b'g')] = false;
    let e = including(&["dog|dogs"]).compile(&some).err().unwrap();
    assert_eq!(
        (e.kind(), e.to_string().contains("cannot write \"dog\", \"dogs\"")),
        (Unencodable, true),
        "{e}"
    );
    assert!(including(&["dog|cat"]).compile(&some).is_ok());
}

#[test]
fn ten_thousand_phrases_are_handled() {
    let texts: Vec<String> = (0..10_000).map(|i| format!("phrase {i} of many")).collect();
    let w = excluding(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let a = w.compile(&ALL).unwrap();
    assert!(a.run(a.start(), b"phrase 10000 of many ").is_some());
    assert!(a.run(a.start(), b"Phrase 9999 of many ").is_none());
}

const LETTERS: [&str; 18] = [
    "a", "b", "A", "e", "é", "\u{301}", "\u{323}", "ß", "s", "S", " ", ".", "1", "犬", "\u{ad}", "\u{200d}",
    "ﬁ", "f",
];

fn text(max: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&LETTERS[..]), 0..max).prop_map(|v| v.concat())
}

fn phrase() -> impl Strategy<Value = Phrase> {
    (text(4), prop::bool::weighted(0.7)).prop_filter_map(
        "must not be empty or begin with a mark",
        |(text, word)| {
            let first = folded(&text, true).first()?.1;
            let boundary = if word { Boundary::Word } else { Boundary::None };
            (!first.has(Kind::MARK) && !folded(&text, false)[0].1.has(Kind::MARK)).then_some(Phrase {
                text,
                boundary,
                ..Phrase::default()
            })
        },
    )
}

fn wording() -> impl Strategy<Value = Wording> {
    let clause = (prop::collection::vec(phrase(), 1..3), 1u32..3, prop::option::weighted(0.3, 0u32..3));
    let include = prop::collection::vec(clause, 0..3);
    let exclude = prop::collection::vec(phrase(), 0..3);
    let range = prop_oneof![3 => Just(Range::default()), 1 => (0u32..4, prop::option::of(0u32..8)).prop_map(|(min, more)| Range { min, max: more.map(|m| min + m) })];
    (include, exclude, any::<bool>(), prop::array::uniform4(range)).prop_map(
        |(include, exclude, ordered, [words, chars, graphemes, bytes])| {
            let include = include
                .into_iter()
                .map(|(any, at_least, more)| Clause {
                    any,
                    at_least,
                    at_most: if ordered { None } else { more.map(|m| at_least + m) },
                })
                .collect();
            Wording { include, exclude, ordered, length: [words, Range::default(), chars, graphemes, bytes] }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_is_judged_as_by_reading_the_whole(w in wording(), texts in prop::collection::vec(text(10), 30)) {
        let Ok(a) = WordingAutomaton::new(&w, &ALL) else { return Ok(()) };
        for text in texts.iter().filter(|t| !is_ambiguous(&w, t)) {
            judge(&w, &a, text)?;
        }
    }
}

fn judge(w: &Wording, a: &WordingAutomaton, text: &str) -> Result<(), TestCaseError> {
    let mut state = Some(a.start());
    for end in (0..=text.len()).filter(|&i| text.is_char_boundary(i)) {
        let so_far = &text[..end];
        let alive = !is_banned(w, so_far, false) && below(w, so_far) && !over_quota(w, so_far);
        state = a.run(a.start(), so_far.as_bytes());
        prop_assert_eq!(state.is_some(), alive, "{:?} {:?}", w, so_far);
        let accepted = !is_banned(w, so_far, true) && within(w, so_far) && said(w, so_far);
        prop_assert_eq!(state.is_some_and(|s| a.accepts(s)), accepted, "accept {:?} {:?}", w, so_far);
        if !alive {
            break;
        }
    }
    // whatever completion is offered is one
    if let Some(s) = state {
        let mut rest = Vec::new();
        if a.complete(s, &mut rest) {
            let whole = format!("{text}{}", String::from_utf8(rest).unwrap());
            let holds = !is_banned(w, &whole, true) && within(w, &whole) && said(w, &whole);
            prop_assert!(holds || is_ambiguous(w, &whole), "{:?} {:?}", w, whole);
        }
    }
    Ok(())
}

/// Single bytes of all letters, and some longer tokens that split and join them.
fn vocab() -> Arc<TokenTrie> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut bytes: Vec<u8> = LETTERS.concat().into_bytes();
    bytes.extend_from_slice(b"-,!Qq7itow\nI\xcc\x81");
    bytes.sort_unstable();
    bytes.dedup();
    tokens.extend(bytes.iter().map(|&b| vec![b]));
    for t in [
        "ab",
        " a",
        "a b",
        "é",
        "e\u{301}",
        "\u{301} ",
        "ss",
        " A",
        "a1",
        "犬a",
        "\u{ad}b",
        ". A",
        "  ",
        "b.",
        "\u{301}\u{323}",
    ] {
        tokens.push(t.as_bytes().to_vec());
    }
    tokens.push(vec![0xCC]);
    tokens.push(vec![0x81, b'a']);
    Arc::new(TokenTrie::new(Arc::new(ListVocab::new(tokens))))
}

/// A text drawn uniformly from the masks; `None` if it was vetoed into a corner, which must not happen.
fn generate(
    c: &mut dyn Constraint,
    picks: &mut impl Iterator<Item = u32>,
    text: &mut Vec<u8>,
    trie: &TokenTrie,
) -> bool {
    let mut set = TokenSet::none(c.n_vocab());
    while !c.has_ended() {
        set.fill();
        c.mask(&mut set).unwrap();
        loop {
            let ids: Vec<TokenId> = set.iter().collect();
            if ids.is_empty() {
                return false;
            }
            let token = ids[picks.next().unwrap_or(0) as usize % ids.len()];
            if c.accept(token).unwrap() {
                text.extend_from_slice(trie.vocab().bytes(token));
                break;
            }
            set.remove(token);
        }
    }
    true
}

fn most(n: usize) -> Limits {
    Limits { max_tokens: Some(n), ..Limits::default() }
}

fn xorshift(seed: u64) -> impl Iterator<Item = u32> {
    let mut x = seed | 1;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u32
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generations_never_violate_and_never_break_the_limit(w in wording(), seed in any::<u64>(), extra in 0usize..6) {
        let trie = vocab();
        let Ok(a) = w.compile(&trie.single_bytes()) else { return Ok(()) };
        let mut loose = Bytewise::new(a, Arc::clone(&trie), most(10_000)).unwrap();
        let need = loose.witness_len().unwrap();
        for max in [need, need + extra, need + 30] {
            let a = WordingAutomaton::for_vocab(&w, &trie).unwrap();
            let c = Bytewise::new(a, Arc::clone(&trie), most(max)).unwrap();
            for seed in seed..seed.saturating_add(10) {
                run_one(&w, &mut *c.fork(), seed, max, &trie)?;
            }
        }
    }
}

fn run_one(
    w: &Wording,
    c: &mut dyn Constraint,
    seed: u64,
    max: usize,
    trie: &TokenTrie,
) -> Result<(), TestCaseError> {
    let mut text = Vec::new();
    let ended = generate(c, &mut xorshift(seed), &mut text, trie);
    prop_assert!(ended, "empty mask under {:?} after {:?}", w, String::from_utf8_lossy(&text));
    prop_assert!(c.len() <= max, "{} tokens, limit {}", c.len(), max);
    let text = String::from_utf8(text).unwrap();
    let holds = !is_banned(w, &text, true) && within(w, &text) && said(w, &text);
    prop_assert!(holds || is_ambiguous(w, &text), "{:?} {:?}", w, text);
    Ok(())
}

#[test]
fn every_spelling_of_a_phrase_in_tokens_is_caught() {
    let tokens = ["b", "a", "d", "ba", "ad", "bad", " b", " ", " ba", "B", "A", "D", "Ba", "x"];
    let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(tokens))));
    let mut caught = 0;
    // all token sequences that spell " bad " in some case
    let mut queue: Vec<Vec<TokenId>> = vec![vec![]];
    while let Some(sequence) = queue.pop() {
        let spelt: String = sequence.iter().map(|&t| tokens[t as usize]).collect();
        if spelt.to_lowercase() == " bad " {
            let a = excluding(&["bad"]).compile(&trie.single_bytes()).unwrap();
            let mut c = Bytewise::new(a, Arc::clone(&trie), Limits::default()).unwrap();
            assert!(!sequence.iter().all(|&t| c.accept(t).unwrap()), "{sequence:?} gets through");
            caught += 1;
        } else if " bad ".starts_with(&spelt.to_lowercase()) {
            queue.extend((0..tokens.len() as TokenId).map(|t| [&sequence[..], &[t]].concat()));
        }
    }
    assert!(caught > 20, "{caught} spellings");
}
