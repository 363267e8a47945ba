//! Cuts text into the pieces that byte-pair merges stay within.
//!
//! The rules are alternations of short sequences of character runs, so a matcher of runs replaces a regular
//! expression engine: nothing is compiled at start-up and a piece costs a table load for each character.
//! A run gives back characters one by one when what follows it does not fit; no rule nests two unbounded
//! runs that could both give back, and none rescans what it did not take (one memo sees to that), so the
//! time is linear in the text.

use super::chars::{BREAK, Chars, DIGIT, LETTER, MARK, NUMBER, SPACE};
use super::rule_sets::{Item, Stage};
use std::ops::Range;

/// Calls `sink` with the pieces of `text`, in order and without gaps; none is empty.
pub(super) fn split(stages: &[Stage], text: &str, sink: &mut impl FnMut(Range<usize>)) {
    let all = 0..text.len();
    let mut matcher = Matcher { chars: Chars::get(), text, end: text.len(), spaces: Spaces::default() };
    matcher.stage(stages, all, sink);
}

/// White space that a search for line breaks has seen: its extent, the end of the piece it was seen in, and
/// the end of its last break.
#[derive(Default)]
struct Spaces {
    seen: Range<usize>,
    piece_end: usize,
    last_break: usize,
}

struct Matcher<'a> {
    chars: &'static Chars,
    text: &'a str,
    /// End of the piece being cut; rules see nothing beyond it.
    end: usize,
    spaces: Spaces,
}

/// What a stage has cut off its piece so far, and where the pieces go.
struct Cutter<'s, F> {
    from: usize,
    rest: &'s [Stage],
    sink: &'s mut F,
}

impl<F: FnMut(Range<usize>)> Cutter<'_, F> {
    /// Ends a piece at `at`, unless it would be empty.
    fn cut(&mut self, matcher: &mut Matcher<'_>, at: usize) {
        if at > self.from {
            let piece = self.from..at;
            self.from = at;
            if self.rest.is_empty() {
                (self.sink)(piece);
            } else {
                matcher.stage(self.rest, piece, self.sink);
            }
        }
    }
}

impl Matcher<'_> {
    fn stage<F: FnMut(Range<usize>)>(&mut self, stages: &[Stage], piece: Range<usize>, sink: &mut F) {
        let Some((first, rest)) = stages.split_first() else { return sink(piece) };
        let mut cutter = Cutter { from: piece.start, rest, sink };
        match first {
            Stage::Find(rule) => self.cut_matches(rule, &piece, &mut cutter),
            Stage::Newlines => self.cut_newlines(&piece, &mut cutter),
            Stage::TrailingSpace => {
                let body = self.text[piece.clone()].trim_end().len();
                cutter.cut(self, piece.start + body);
            }
            Stage::Thousands => {
                self.cut_digits(NUMBER, &piece, &mut cutter, |i, n| i > 0 && (n - i).is_multiple_of(3));
            }
            Stage::AsciiThousands => {
                self.cut_digits(DIGIT, &piece, &mut cutter, |i, n| i < n && (n - i).is_multiple_of(3));
            }
        }
        cutter.cut(self, piece.end);
    }

    fn cut_matches<F>(&mut self, rule: &[&[Item]], piece: &Range<usize>, cutter: &mut Cutter<'_, F>)
    where
        F: FnMut(Range<usize>),
    {
        let mut at = piece.start;
        while at < piece.end {
            self.end = piece.end; // a later stage may have narrowed it
            match rule.iter().find_map(|items| self.items(items, at)) {
                Some(end) if end > at => {
                    cutter.cut(self, at);
                    cutter.cut(self, end);
                    at = end;
                }
                _ => at = self.next(at),
            }
        }
    }

    fn cut_newlines<F>(&mut self, piece: &Range<usize>, cutter: &mut Cutter<'_, F>)
    where
        F: FnMut(Range<usize>),
    {
        let bytes = self.text.as_bytes();
        for at in piece.start + 1..piece.end {
            if (bytes[at - 1] == b'\n') != (bytes[at] == b'\n') {
                cutter.cut(self, at);
            }
        }
    }

    /// Cuts runs of `n` characters with property `digit` before the `i`th character (or, for `i = n`, after the
    /// last) where `here(i, n)`.
    fn cut_digits<F>(
        &mut self,
        digit: u16,
        piece: &Range<usize>,
        cutter: &mut Cutter<'_, F>,
        here: impl Fn(usize, usize) -> bool,
    ) where
        F: FnMut(Range<usize>),
    {
        let mut at = piece.start;
        while at < piece.end {
            self.end = piece.end;
            let (n, end) = self.count(at, usize::MAX, |bits, _| bits & digit != 0);
            for i in 0..=n {
                if n > 0 && here(i, n) {
                    cutter.cut(self, at);
                }
                at = if i < n { self.next(at) } else { at };
            }
            at = if n == 0 { self.next(at) } else { end };
        }
    }

    /// The end of the longest match of `items` from `at`, as a backtracking engine finds it.
    fn items(&mut self, items: &[Item], at: usize) -> Option<usize> {
        let Some((first, rest)) = items.split_first() else { return Some(at) };
        match first {
            Item::Run { class, ranges: [], min, max, .. } => {
                let (n, end) = self.count(at, *max, |bits, _| class.has(bits));
                self.give_back(rest, n, *min, end)
            }
            Item::Run { class, ranges, inside, min, max } => {
                let (n, end) = self.count(at, *max, |bits, c| {
                    class.has(bits) && ranges.iter().any(|r| r.0 <= c && c <= r.1) == *inside
                });
                self.give_back(rest, n, *min, end)
            }
            Item::Literal(text) => {
                let here = self.text.as_bytes().get(at..self.end)?;
                let end = here.starts_with(text.as_bytes()).then_some(at + text.len())?;
                self.items(rest, end)
            }
            Item::Contraction { any_case, optional } => match self.contraction(at, *any_case) {
                Some(end) => self.items(rest, end),
                None if *optional => self.items(rest, at),
                None => None,
            },
            Item::LineBreaks => self.line_breaks(at),
            Item::JoinedWords => self.joined_words(at),
            Item::BeforeSpace => match self.bits(at) {
                Some(bits) if bits & SPACE == 0 => None,
                _ => self.items(rest, at),
            },
        }
    }

    /// Matches `rest` after a run of `n` characters that ends at `end`, or after fewer, down to `min`.
    fn give_back(&mut self, rest: &[Item], mut n: usize, min: usize, mut end: usize) -> Option<usize> {
        while n >= min {
            if let Some(end) = self.items(rest, end) {
                return Some(end);
            }
            n = n.checked_sub(1)?;
            end = self.text[..end].char_indices().next_back()?.0;
        }
        None
    }

    /// How many characters from `at` on, at most `max`, are wanted, and where they end.
    #[inline]
    fn count(&self, at: usize, max: usize, wanted: impl Fn(u16, char) -> bool) -> (usize, usize) {
        let (mut n, mut end) = (0, at);
        for c in self.text[at..self.end].chars() {
            if n == max || !wanted(self.chars.bits(c), c) {
                break;
            }
            n += 1;
            end += c.len_utf8();
        }
        (n, end)
    }

    /// The properties of the character at `at`; `None` at the piece's end.
    fn bits(&self, at: usize) -> Option<u16> {
        self.text[at..self.end].chars().next().map(|c| self.chars.bits(c))
    }

    /// The start of the character after the one at `at`.
    fn next(&self, at: usize) -> usize {
        at + self.text[at..].chars().next().map_or(1, char::len_utf8)
    }

    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        let [b'\'', letters @ ..] = self.text.as_bytes().get(at..self.end)? else { return None };
        let letter = |i: usize| {
            let b = letters.get(i).copied().unwrap_or(0);
            if any_case { b.to_ascii_lowercase() } else { b }
        };
        match (letter(0), letter(1)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            _ => None,
        }
    }

    fn line_breaks(&mut self, at: usize) -> Option<usize> {
        if !self.spaces.seen.contains(&at) || self.spaces.piece_end != self.end {
            let mut last_break = 0;
            let mut end = at;
            for c in self.text[at..self.end].chars() {
                let bits = self.chars.bits(c);
                if bits & SPACE == 0 {
                    break;
                }
                end += c.len_utf8();
                last_break = if bits & BREAK != 0 { end } else { last_break };
            }
            self.spaces = Spaces { seen: at..end, piece_end: self.end, last_break };
        }
        (self.spaces.last_break > at).then_some(self.spaces.last_break)
    }

    fn joined_words(&self, at: usize) -> Option<usize> {
        let mut end = at;
        let mut chars = self.text[at..self.end].chars().peekable();
        while let Some(c) = chars.next() {
            let bits = self.chars.bits(c);
            let mut next_is_letter = || chars.peek().is_some_and(|c| self.chars.bits(*c) & LETTER != 0);
            if bits & LETTER != 0 || end > at && (bits & MARK != 0 || c == ' ' && next_is_letter()) {
                end += c.len_utf8();
            } else {
                break;
            }
        }
        (end > at).then_some(end)
    }
}
