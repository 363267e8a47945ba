//! A reading of whole texts that shares no code with the automata but the character types.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::chartypes::{Kind, Types};
use super::*;

/// Folded characters of `text`, with their kinds.
pub(super) fn folded(text: &str, bare: bool) -> Vec<(char, Kind)> {
    let types = Types::get();
    let visible: String = text.chars().filter(|&c| !bare || !types.ignorable.contains(c)).collect();
    let fold =
        |c: char| if c == 'ẞ' { "ss".into() } else { c.to_uppercase().collect::<String>().to_lowercase() };
    // `to_lowercase` of a whole string knows final sigma; folding does not
    let folded: String = visible.nfkd().map(fold).collect::<String>().replace('ς', "σ");
    folded.nfkd().map(|c| (c, types.kind(c))).collect()
}

/// Places (start, end) of `phrase` in `text`, and whether what follows is known to let it count.
pub(super) fn places(text: &[(char, Kind)], phrase: &Phrase, bare: bool, ended: bool) -> Vec<(usize, usize)> {
    let want: Vec<char> = folded(&phrase.text, bare).iter().map(|c| c.0).collect();
    let n = want.len();
    (0..(text.len() + 1).saturating_sub(n))
        .filter(|&i| text[i..i + n].iter().map(|c| c.0).eq(want.iter().copied()))
        .filter(|&i| {
            let before = i.checked_sub(1).map_or(Kind::default(), |j| text[j].1);
            let follows = text.get(i + n).map(|c| c.1);
            match phrase.boundary {
                Boundary::Word => {
                    text[i].1.begins_after(before) && follows.map_or(ended, |k| k.ends(text[i + n - 1].1))
                }
                Boundary::None => follows.map_or(ended, |k| !k.has(Kind::MARK)),
            }
        })
        .map(|i| (i, i + n))
        .collect()
}

pub(super) fn is_banned(w: &Wording, text: &str, ended: bool) -> bool {
    w.exclude.iter().any(|p| {
        [false, true].iter().any(|&bare| {
            let text = folded(text, bare);
            // without a boundary a ban does not wait for what follows
            !places(&text, p, bare, ended || p.boundary == Boundary::None).is_empty()
        })
    })
}

pub(super) fn counted(clause: &Clause, text: &[(char, Kind)], ended: bool) -> u32 {
    let mut ends: Vec<usize> =
        clause.any.iter().flat_map(|p| places(text, p, false, ended)).map(|p| p.1).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.len() as u32
}

pub(super) fn said(w: &Wording, text: &str) -> bool {
    let text = folded(text, false);
    if !w.ordered {
        return w.include.iter().all(|c| {
            let n = counted(c, &text, true);
            n >= c.at_least && c.at_most.is_none_or(|m| n <= m)
        });
    }
    let mut from = 0;
    for clause in &w.include {
        for _ in 0..clause.at_least {
            let found = clause
                .any
                .iter()
                .flat_map(|p| places(&text, p, false, true))
                .filter(|p| p.0 >= from)
                .map(|p| p.1)
                .min();
            let Some(end) = found else { return false };
            from = end;
        }
    }
    true
}

pub(super) fn words_in(text: &str) -> u32 {
    let types = Types::get();
    let (mut n, mut in_word, mut after_ideograph) = (0, false, false);
    for c in text.chars() {
        let (word, mark, ideograph) =
            (types.word.contains(c), types.mark.contains(c), types.ideograph.contains(c));
        if mark && (in_word || after_ideograph) {
            continue; // belongs to what stands before it
        }
        n += u32::from(ideograph || word && !in_word);
        (in_word, after_ideograph) = (word && !ideograph, ideograph);
    }
    n
}

pub(super) fn lengths(text: &str) -> [u32; 3] {
    [text.chars().count() as u32, text.graphemes(true).count() as u32, text.len() as u32]
}

pub(super) fn within(w: &Wording, text: &str) -> bool {
    let [chars, graphemes, bytes] = lengths(text);
    let n = [words_in(text), 0, chars, graphemes, bytes];
    w.length.iter().zip(n).all(|(r, n)| n >= r.min && r.max.is_none_or(|m| n <= m))
}

pub(super) fn below(w: &Wording, text: &str) -> bool {
    let upper = Wording { length: w.length.map(|r| Range { min: 0, ..r }), ..Wording::default() };
    within(&upper, text)
}

/// A ban without a boundary that a combining mark follows: refused at once by the automaton, while a
/// reading of the whole text may see another character.
pub(super) fn is_ambiguous(w: &Wording, text: &str) -> bool {
    w.exclude.iter().filter(|p| p.boundary == Boundary::None).any(|p| {
        [false, true].iter().any(|&bare| {
            let text = folded(text, bare);
            let want: Vec<char> = folded(&p.text, bare).iter().map(|c| c.0).collect();
            (0..text.len().saturating_sub(want.len())).any(|i| {
                text[i..i + want.len()].iter().map(|c| c.0).eq(want.iter().copied())
                    && text[i + want.len()].1.has(Kind::MARK)
            })
        })
    })
}

pub(super) fn over_quota(w: &Wording, text: &str) -> bool {
    let text = folded(text, false);
    w.include.iter().any(|c| c.at_most.is_some_and(|m| counted(c, &text, false) > m))
}
