//! The invariants of the hold-back filter, against a brute-force reading of the whole text.
#![allow(clippy::unwrap_used)]

use super::reference::{is_ambiguous, is_banned};
use super::*;

/// A small generator of numbers; the same ones in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn pick(&mut self, letters: &[&'static str]) -> &'static str {
        letters[self.below(letters.len())]
    }

    fn text(&mut self, letters: &[&'static str], max: usize) -> String {
        (0..self.below(max + 1)).map(|_| self.pick(letters)).collect()
    }
}

/// What of `text` may be let out: up to the earliest start among the matches with the earliest end.
/// ASCII only. The whole text if there is no match.
fn allowed(phrases: &[Phrase], text: &str, ended: bool) -> usize {
    let bytes = text.as_bytes();
    let is_word = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_alphanumeric);
    let mut first: Option<(usize, usize)> = None;
    for phrase in phrases {
        let (want, on_words) = (phrase.text.as_bytes(), phrase.boundary == Boundary::Word);
        for start in 0..(bytes.len() + 1).saturating_sub(want.len()) {
            let end = start + want.len();
            let same = bytes[start..end].eq_ignore_ascii_case(want);
            let left = start == 0 || !is_word(start - 1);
            let right = if end == bytes.len() { ended } else { !is_word(end) };
            if same && (!on_words || left && right) && first.is_none_or(|f| (end, start) < f) {
                first = Some((end, start));
            }
        }
    }
    first.map_or(text.len(), |(_, start)| start)
}

const ASCII: [&str; 13] = ["a", "a", "a", "a", "a", "b", "b", "b", "b", "b", "c", " ", "A"];

fn ascii_phrases(r: &mut Random) -> Vec<Phrase> {
    let n = 1 + r.below(4);
    let one = |r: &mut Random| {
        let text: String =
            (0..1 + r.below(5)).map(|_| r.pick(&["a", "b", "a", "b", "a", "b", " "])).collect();
        let boundary = if r.below(2) == 0 { Boundary::Word } else { Boundary::None };
        Phrase { text, boundary, ..Phrase::default() }
    };
    (0..n).map(|_| one(r)).collect()
}

fn extensions(longest: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..longest {
        let to = all.len();
        for i in from..to {
            ["a", "b", " "].iter().for_each(|c| all.push(format!("{}{c}", all[i])));
        }
        from = to;
    }
    all
}

/// 200 000 texts: whatever may follow, nothing of a phrase is let out, and nothing else is kept.
#[test]
fn nothing_of_a_phrase_is_released_and_nothing_else_is_held() {
    let mut r = Random(0x9E37_79B9_7F4A_7C15);
    let all = extensions(5);
    let (mut n_texts, mut n_matches) = (0, 0);
    for _ in 0..500 {
        let phrases = ascii_phrases(&mut r);
        let longest = phrases.iter().map(|p| p.text.len()).max().unwrap();
        let fresh = HoldBack::new(&phrases).unwrap();
        for i in 0..400 {
            let text = r.text(&ASCII, 14);
            let (mut filter, mut released, mut at) = (fresh.clone(), String::new(), 0);
            let mut found = None;
            while at < text.len() && found.is_none() {
                let to = (at + 1 + r.below(if i % 3 == 0 { 1 } else { 4 })).min(text.len());
                let to = if i % 7 == 0 { text.len() } else { to };
                found = filter.push(&text.as_bytes()[at..to], &mut released);
                at = to;
                let so_far = &text[..at];
                assert!(so_far.starts_with(&released), "{phrases:?} {so_far:?} {released:?}");
                assert_eq!(found.is_some(), allowed(&phrases, so_far, false) < at, "{phrases:?} {so_far:?}");
                if found.is_none() {
                    assert!(at - released.len() <= longest + 4, "{phrases:?} {so_far:?} {released:?}");
                }
                let follow = |x: &str| {
                    let longer = format!("{so_far}{x}");
                    let most = allowed(&phrases, &longer, false).min(allowed(&phrases, &longer, true));
                    assert!(
                        released.len() <= most,
                        "{phrases:?} {so_far:?} let out {released:?}, then {x:?}"
                    );
                };
                match i % 25 {
                    0 => all.iter().for_each(|x| follow(x)),
                    _ => (0..3).for_each(|_| follow(&all[r.below(all.len())])),
                }
            }
            let by_end = found.is_none();
            found = found.or_else(|| filter.finish(&mut released));
            let shown = &text[..at];
            let want = allowed(&phrases, shown, by_end);
            assert_eq!(found.is_some(), want < at, "{phrases:?} {text:?} {by_end}");
            // what follows in the same push may turn out to belong to an earlier beginning
            assert!(found.is_none_or(|f| f.start as usize >= want), "{phrases:?} {text:?} {found:?}");
            if found.is_none() {
                assert_eq!(released, text);
            }
            assert!(text[..want].starts_with(&released), "{phrases:?} {text:?} {released:?}");
            n_texts += 1;
            n_matches += usize::from(found.is_some());
        }
    }
    assert!(n_texts == 200_000 && n_matches > 50_000 && n_matches < 190_000, "{n_matches} matches");
}

const MIXED: [&str; 20] = [
    "a", "b", "e", "é", "\u{301}", "ß", "s", "S", "İ", "i", "\u{307}", "犬", "👩", "\u{200d}", "\u{feff}",
    "\u{ad}", " ", ".", "ﬁ", "ẞ",
];

/// As above with characters of several bytes, joiners, marks and foldings, cut between any two bytes.
#[test]
fn characters_of_any_script_are_held_whole_and_compared_folded() {
    let mut r = Random(0xD1B5_4A32_D192_ED03);
    let mut n_matches = 0;
    for _ in 0..300 {
        let n = 1 + r.below(3);
        let phrases: Vec<Phrase> = (0..n)
            .map(|_| Phrase {
                text: format!(
                    "{}{}",
                    r.pick(&["a", "é", "ß", "İ", "犬", "👩\u{200d}", "s", "."]),
                    r.text(&MIXED, 3)
                ),
                boundary: if r.below(3) > 0 { Boundary::Word } else { Boundary::None },
                ..Phrase::default()
            })
            .collect();
        let Ok(fresh) = HoldBack::new(&phrases) else { continue };
        let w = Wording { exclude: phrases.clone(), ..Wording::default() };
        for _ in 0..100 {
            let hint = if r.below(2) == 0 { phrases[0].text.as_str() } else { "" };
            let text = format!("{}{hint}{}", r.text(&MIXED, 5), r.text(&MIXED, 4));
            if is_ambiguous(&w, &text) {
                continue;
            }
            let (mut filter, mut released, mut at, mut found) = (fresh.clone(), String::new(), 0, None);
            while at < text.len() && found.is_none() {
                let to = (at + 1 + r.below(4)).min(text.len());
                found = filter.push(&text.as_bytes()[at..to], &mut released);
                at = to;
                assert!(
                    text.as_bytes()[..at].starts_with(released.as_bytes()),
                    "{phrases:?} {text:?} {released:?}"
                );
                assert!(!is_banned(&w, &released, false), "{phrases:?} {text:?} {released:?}");
                assert_eq!(released.len() as u64, filter.n_released());
            }
            found = found.or_else(|| filter.finish(&mut released));
            let truth = is_banned(&w, &text, true);
            assert_eq!(found.is_some(), truth, "{phrases:?} {text:?}");
            n_matches += usize::from(truth);
            match found {
                None => assert_eq!(released, text),
                Some(f) => {
                    let (start, end) = (f.start as usize, f.end as usize);
                    assert!(released.len() <= start, "{phrases:?} {text:?} {f:?}");
                    assert!(
                        is_banned(
                            &Wording { exclude: vec![phrases[f.phrase].clone()], ..Wording::default() },
                            &text[start..end],
                            true
                        ),
                        "{phrases:?} {text:?} {f:?}"
                    );
                }
            }
        }
    }
    assert!(n_matches > 5_000, "{n_matches} matches");
}

/// Text is cut back and goes on differently: as if it had been so from the beginning.
#[test]
fn rewinding_leaves_no_trace() {
    let mut r = Random(0x2545_F491_4F6C_DD1D);
    for _ in 0..200 {
        let phrases = ascii_phrases(&mut r);
        let fresh = HoldBack::new(&phrases).unwrap();
        for _ in 0..50 {
            let (mut filter, mut released, mut text) = (fresh.clone(), String::new(), String::new());
            for _ in 0..12 {
                let more = format!("{}{}", r.text(&ASCII, 3), r.pick(&["", "", "é", "犬"]));
                text.push_str(&more);
                filter.push(more.as_bytes(), &mut released);
                let from = filter.n_released() as usize;
                if r.below(2) == 0 {
                    let mut to = from + r.below(text.len() - from + 1);
                    while !text.is_char_boundary(to) {
                        to += 1;
                    }
                    filter.rewind(to as u64).unwrap();
                    text.truncate(to);
                } else if let Some(m) = filter.push(b"", &mut released) {
                    let to = (m.start as usize).max(from);
                    filter.rewind(to as u64).unwrap();
                    text.truncate(to);
                }
                assert!(text.starts_with(&released) && filter.n_seen() as usize == text.len());
                // the same text without a past
                let (mut other, mut out) = (fresh.clone(), String::new());
                let a = other.push(text.as_bytes(), &mut out);
                let b = filter.push(b"", &mut released);
                assert_eq!(a, b, "{phrases:?} {text:?}");
                if a.is_none() {
                    assert!(released.len() >= out.len(), "{phrases:?} {text:?}");
                }
                if filter.push(b"", &mut released).is_some() {
                    break;
                }
            }
        }
    }
    let mut filter = HoldBack::new(&["bad".into()]).unwrap();
    let mut out = String::new();
    filter.push(b"so b", &mut out);
    assert_eq!(out, "so ");
    assert!(filter.rewind(2).is_err() && filter.rewind(9).is_err());
    filter.push("é".as_bytes(), &mut out);
    filter.rewind(5).unwrap_or_default(); // inside the character
}

#[test]
fn damaged_bytes_come_out_marked_and_separate_words() {
    let mut filter = HoldBack::new(&["bad".into()]).unwrap();
    let mut out = String::new();
    assert_eq!(filter.push(b"x\xFFb\xE2\x28a\xC3", &mut out), None);
    assert_eq!(filter.finish(&mut out), None);
    assert_eq!(out, "x\u{fffd}b\u{fffd}(a\u{fffd}");
    let mut filter = HoldBack::new(&["bad".into()]).unwrap();
    let found = filter.push(b"\xF0\x9Fbad\xFF", &mut String::new()).unwrap();
    assert_eq!((found.start, found.end), (2, 5));
}

/// The usual wrong filter looks at each chunk alone; the tests above must be able to tell.
#[test]
fn a_filter_that_looks_at_chunks_alone_leaks() {
    let mut r = Random(7);
    let (mut violating, mut missed) = (0, 0);
    for _ in 0..20_000 {
        let text: String = (0..12).map(|_| r.pick(&["a", "b"])).collect();
        if text.contains("abab") {
            violating += 1;
            missed += usize::from(!text.as_bytes().chunks(3).any(|c| c.windows(4).any(|w| w == b"abab")));
        }
    }
    assert_eq!(missed, violating, "chunks of three bytes never hold four");
    let phrase = Phrase { text: "abab".into(), boundary: Boundary::None, ..Phrase::default() };
    let fresh = HoldBack::new(&[phrase]).unwrap();
    let (mut filter, mut out) = (fresh, String::new());
    let found = b"bbaababb".chunks(3).find_map(|c| filter.push(c, &mut out));
    assert_eq!((out.as_str(), found.map(|f| (f.start, f.end))), ("bba", Some((3, 7))));
}
