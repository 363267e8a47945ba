//! Finds special tokens in text: the longest token first over the whole text, not leftmost first.
//!
//! One overlapping pass of an automaton finds all occurrences; they are taken in order of length, then id, then
//! place, as far as they are free. Tokens that repeat one character (gemma has 31 lengths of runs of blanks and
//! of newlines) would occur at every place in every length, so runs are cut greedily instead: the time stays
//! linear in the text.

use super::TokenKind;
use super::pieces::Pieces;
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, MatchKind};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::OnceLock;

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Ordinary text, as a range of bytes; never empty.
    Text(Range<usize>),
    /// A special token.
    Token(TokenId),
}

/// The special tokens of a vocabulary: control, unknown and user-defined ones.
pub(super) struct Specials {
    ids: Vec<TokenId>,
    /// Tokens that swallow the white space after them, sorted.
    swallowing: Vec<TokenId>,
    /// Finds user-defined tokens. Built when first asked for, as is `all`.
    plain: OnceLock<Result<Finder, String>>,
    all: OnceLock<Result<Finder, String>>,
}

impl Specials {
    /// `ids`: the special tokens, ascending; `swallowing`: those of them that swallow white space, ascending.
    pub(super) fn new(ids: Vec<TokenId>, swallowing: Vec<TokenId>) -> Self {
        Self { ids, swallowing, plain: OnceLock::new(), all: OnceLock::new() }
    }

    /// The special token that is spelled `text`.
    pub(super) fn find(&self, pieces: &Pieces, text: &[u8]) -> Option<TokenId> {
        self.ids.iter().copied().find(|id| pieces.get(*id) == text)
    }

    /// Cuts `text` at special tokens: at user-defined ones everywhere, at the others within `trusted` ranges
    /// (ascending, not touching each other).
    /// # Errors  `TooComplex` if the tokens overlap each other too often in this text.
    pub(super) fn cut(&self, pieces: &Pieces, text: &str, trusted: &[Range<usize>]) -> Result<Vec<Fragment>> {
        let all = !trusted.is_empty();
        let slot = if all { &self.all } else { &self.plain };
        let finder = slot
            .get_or_init(|| Finder::new(pieces, &self.ids, all))
            .as_ref()
            .map_err(|e| Error::new(ErrorKind::TooComplex, e.clone()).at("special tokens"))?;
        let mut cutter = Cutter {
            finder,
            pieces,
            swallowing: &self.swallowing,
            text,
            taken: Vec::new(),
            parts: Vec::new(),
            queue: BinaryHeap::new(),
        };
        cutter.find(trusted)?;
        Ok(cutter.cut())
    }
}

/// Finds a set of special tokens.
struct Finder {
    automaton: Option<AhoCorasick>,
    /// Token of each pattern.
    ids: Vec<TokenId>,
    /// Tokens that repeat one character, by character, the longest first.
    runs: Vec<RunToken>,
    /// First bytes of the characters in `runs`.
    run_starts: [bool; 256],
}

#[derive(Clone, Copy)]
struct RunToken {
    c: char,
    /// How often `c` stands in it.
    n: usize,
    id: TokenId,
}

impl Finder {
    fn new(pieces: &Pieces, ids: &[TokenId], all: bool) -> Result<Self, String> {
        let mut finder =
            Self { automaton: None, ids: Vec::new(), runs: Vec::new(), run_starts: [false; 256] };
        for &id in ids {
            let user = pieces.kind(id) == TokenKind::UserDefined;
            if user || all {
                finder.add(id, pieces.get(id), user);
            }
        }
        finder.runs.sort_unstable_by_key(|r| (r.c, Reverse(r.n)));
        if !finder.ids.is_empty() {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .prefilter(false)
                .build(finder.ids.iter().map(|id| pieces.get(*id)));
            finder.automaton = Some(built.map_err(|e| e.to_string())?);
        }
        Ok(finder)
    }

    fn add(&mut self, id: TokenId, piece: &[u8], user: bool) {
        match repeated(piece) {
            Some((c, n)) if user => {
                if let Some(first) = piece.first() {
                    self.run_starts[*first as usize] = true;
                }
                self.runs.push(RunToken { c, n, id });
            }
            _ if piece.is_empty() => {}
            _ => self.ids.push(id),
        }
    }

    /// The longest token of at most `n` times `c`.
    fn longest_run(&self, c: char, n: usize) -> Option<RunToken> {
        let at = self.runs.partition_point(|r| (r.c, Reverse(r.n)) < (c, Reverse(n)));
        self.runs.get(at).copied().filter(|r| r.c == c)
    }
}

/// The character that `piece` repeats, and how often.
fn repeated(piece: &[u8]) -> Option<(char, usize)> {
    let text = std::str::from_utf8(piece).ok()?;
    let c = text.chars().next()?;
    text.chars().all(|d| d == c).then(|| (c, text.len() / c.len_utf8()))
}

/// Something to take: longer first, then the lower id, then the earlier place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    len: usize,
    id: Reverse<TokenId>,
    start: Reverse<usize>,
    /// For a run of one character: which, and how often it stands there.
    run: Option<(char, usize)>,
}

struct Cutter<'a> {
    finder: &'a Finder,
    pieces: &'a Pieces,
    swallowing: &'a [TokenId],
    text: &'a str,
    /// A bit for each byte that is no longer free.
    taken: Vec<u64>,
    /// Tokens, and swallowed white space as `None`, in the order they were taken.
    parts: Vec<(Range<usize>, Option<TokenId>)>,
    queue: BinaryHeap<Claim>,
}

/// Occurrences beyond which a text is refused, for each byte of it: real vocabularies stay below one.
const MAX_HITS_PER_BYTE: usize = 4;
const MIN_HITS: usize = 1 << 16;

impl Cutter<'_> {
    fn find(&mut self, trusted: &[Range<usize>]) -> Result<()> {
        let mut claims = Vec::new();
        self.find_runs(&mut claims);
        if let Some(automaton) = &self.finder.automaton {
            let limit = self.text.len().saturating_mul(MAX_HITS_PER_BYTE).max(MIN_HITS);
            let input = aho_corasick::Input::new(self.text).anchored(Anchored::No);
            let hits = automaton.try_find_overlapping_iter(input);
            let hits = hits.map_err(|e| Error::new(ErrorKind::Internal, "special tokens").because(e))?;
            for (n, hit) in hits.enumerate() {
                if n >= limit {
                    let message = format!("special tokens overlap more than {limit} times in a text");
                    return Err(Error::new(ErrorKind::TooComplex, message));
                }
                let Some(&id) = self.finder.ids.get(hit.pattern().as_usize()) else { continue };
                if self.pieces.kind(id) == TokenKind::UserDefined || inside(trusted, hit.range()) {
                    claims.push(Claim {
                        len: hit.len(),
                        id: Reverse(id),
                        start: Reverse(hit.start()),
                        run: None,
                    });
                }
            }
        }
        self.queue = claims.into();
        Ok(())
    }

    /// Claims all maximal runs of characters that have tokens.
    fn find_runs(&self, claims: &mut Vec<Claim>) {
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while let Some(&first) = bytes.get(at) {
            if !self.finder.run_starts[first as usize] {
                at += 1;
                continue;
            }
            let Some(c) = self.text.get(at..).and_then(|t| t.chars().next()) else {
                at += 1; // inside a character
                continue;
            };
            let n = self.text[at..].chars().take_while(|d| *d == c).count();
            claims.extend(self.claim_run(c, at, n));
            at += n * c.len_utf8();
        }
    }

    /// The longest token that fits `n` times `c` at `start`.
    fn claim_run(&self, c: char, start: usize, n: usize) -> Option<Claim> {
        let token = self.finder.longest_run(c, n)?;
        Some(Claim {
            len: token.n * c.len_utf8(),
            id: Reverse(token.id),
            start: Reverse(start),
            run: Some((c, n)),
        })
    }

    /// Takes what is free, best claim first, and orders the result by place.
    fn cut(mut self) -> Vec<Fragment> {
        if self.queue.is_empty() {
            return if self.text.is_empty() { Vec::new() } else { vec![Fragment::Text(0..self.text.len())] };
        }
        self.taken = vec![0; self.text.len().div_ceil(64)];
        while let Some(claim) = self.queue.pop() {
            match claim.run {
                None => self.take_hit(&claim),
                Some((c, n)) => self.take_run(&claim, c, n),
            }
        }
        self.parts.sort_unstable_by_key(|p| p.0.start);
        let mut fragments = Vec::with_capacity(2 * self.parts.len() + 1);
        let mut at = 0;
        let end = self.text.len();
        for (place, token) in self.parts.into_iter().chain([(end..end, None)]) {
            if at < place.start {
                fragments.push(Fragment::Text(at..place.start));
            }
            fragments.extend(token.map(Fragment::Token));
            at = place.end;
        }
        fragments
    }

    /// Everything taken before is at least as long as this, so looking at both ends is enough.
    fn take_hit(&mut self, claim: &Claim) {
        let (start, end) = (claim.start.0, claim.start.0 + claim.len);
        if !self.is_taken(start) && !self.is_taken(end - 1) {
            self.take(start..end, claim.id.0);
        }
    }

    /// Takes as many tokens as fit if the whole run is free; else the free parts of it become claims.
    fn take_run(&mut self, claim: &Claim, c: char, n: usize) {
        let (start, width) = (claim.start.0, c.len_utf8());
        let end = start + n * width;
        if self.first_taken(start..end) < end {
            self.claim_free_parts(c, start, n);
            return;
        }
        let k = claim.len / width;
        let swallows = self.swallowing.binary_search(&claim.id.0).is_ok();
        let times = if swallows { 1 } else { n / k };
        for i in 0..times {
            let at = start + i * claim.len;
            self.take(at..at + claim.len, claim.id.0);
        }
        self.queue.extend(self.claim_run(c, start + times * claim.len, n - times * k));
    }

    /// Claims the maximal free parts of a run that is free only in part.
    fn claim_free_parts(&mut self, c: char, start: usize, n: usize) {
        let width = c.len_utf8();
        let mut i = 0;
        while i < n {
            let m = (i..n).take_while(|j| self.is_free(start + j * width, width)).count();
            self.queue.extend(self.claim_run(c, start + i * width, m));
            i += m.max(1);
        }
    }

    fn take(&mut self, place: Range<usize>, id: TokenId) {
        self.mark(place.clone());
        let end = place.end;
        self.parts.push((place, Some(id)));
        if self.swallowing.binary_search(&id).is_ok() {
            let rest = self.text.as_bytes().get(end..).unwrap_or(&[]).iter().zip(end..);
            let space = |b: u8| b.is_ascii_whitespace() || b == 0x0b;
            let n = rest.take_while(|(b, at)| space(**b) && !self.is_taken(*at)).count();
            if n > 0 {
                self.mark(end..end + n);
                self.parts.push((end..end + n, None));
            }
        }
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 == 1)
    }

    fn is_free(&self, at: usize, n: usize) -> bool {
        (at..at + n).all(|i| !self.is_taken(i))
    }

    /// The first place in `range` that is taken, or its end.
    fn first_taken(&self, range: Range<usize>) -> usize {
        let mut at = range.start;
        while at < range.end {
            let rest = self.taken.get(at / 64).map_or(0, |w| w >> (at % 64));
            if rest != 0 {
                return range.end.min(at + rest.trailing_zeros() as usize);
            }
            at = (at / 64 + 1) * 64;
        }
        range.end
    }

    fn mark(&mut self, range: Range<usize>) {
        for at in range {
            if let Some(w) = self.taken.get_mut(at / 64) {
                *w |= 1 << (at % 64);
            }
        }
    }
}

/// Whether `range` lies within one of `ranges`, which ascend.
fn inside(ranges: &[Range<usize>], range: Range<usize>) -> bool {
    let i = ranges.partition_point(|r| r.end < range.end);
    ranges.get(i).is_some_and(|r| r.start <= range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Special tokens from texts; ids count from 0. `swallowing` are indices.
    fn specials(tokens: &[(&str, TokenKind)], swallowing: &[TokenId]) -> (Pieces, Specials) {
        let mut pieces = Pieces::default();
        for (text, kind) in tokens {
            pieces.push(*kind, |blob| blob.extend_from_slice(text.as_bytes())).unwrap();
        }
        let ids = (0..tokens.len() as TokenId).collect();
        (pieces, Specials::new(ids, swallowing.to_vec()))
    }

    /// The definition: token by token, longest first, each cut out of every text that is left.
    fn naive(pieces: &Pieces, swallowing: &[TokenId], text: &str, trusted: &[Range<usize>]) -> Vec<Fragment> {
        let mut order: Vec<TokenId> = (0..pieces.len() as TokenId).collect();
        order.sort_by_key(|id| Reverse(pieces.get(*id).len()));
        let mut fragments = vec![Fragment::Text(0..text.len())];
        for id in order {
            let token = std::str::from_utf8(pieces.get(id)).unwrap();
            let mut next = Vec::new();
            for fragment in fragments {
                let Fragment::Text(Range { mut start, end }) = fragment else {
                    next.push(fragment);
                    continue;
                };
                let mut search = start;
                while let Some(at) = text[search..end].find(token).map(|at| search + at) {
                    let place = at..at + token.len();
                    if pieces.kind(id) != TokenKind::UserDefined
                        && !trusted.iter().any(|r| r.start <= place.start && place.end <= r.end)
                    {
                        search = at + text[at..].chars().next().unwrap().len_utf8();
                        continue;
                    }
                    next.push(Fragment::Text(start..at));
                    next.push(Fragment::Token(id));
                    start = place.end;
                    if swallowing.contains(&id) {
                        start = end - text[start..end].trim_ascii_start().len();
                    }
                    search = start;
                }
                next.push(Fragment::Text(start..end));
            }
            next.retain(|f| !matches!(f, Fragment::Text(r) if r.is_empty()));
            fragments = next;
        }
        fragments
    }

    fn cut(tokens: &[&str], text: &str) -> Vec<Fragment> {
        let tokens: Vec<_> = tokens.iter().map(|t| (*t, TokenKind::UserDefined)).collect();
        let (pieces, specials) = specials(&tokens, &[]);
        specials.cut(&pieces, text, &[]).unwrap()
    }

    #[test]
    fn longer_tokens_win_over_earlier_ones() {
        use Fragment::{Text, Token};
        assert_eq!(cut(&["ab", "bcd"], "abcd"), [Text(0..1), Token(1)]);
        assert_eq!(cut(&["aa", "aaa"], "aaaaaaaa"), [Token(1), Token(1), Token(0)]);
        assert_eq!(cut(&["\n\n", "\n"], "x\n\n\ny"), [Text(0..1), Token(0), Token(1), Text(4..5)]);
        assert_eq!(cut(&["éé"], "ééé"), [Token(0), Text(4..6)]);
        assert_eq!(cut(&["x"], ""), []);
    }

    #[test]
    fn control_tokens_are_found_only_in_trusted_ranges() {
        use Fragment::{Text, Token};
        let (pieces, specials) =
            specials(&[("<e>", TokenKind::Control), ("  ", TokenKind::UserDefined)], &[]);
        let text = "<e>  <e>  <e>";
        assert_eq!(
            specials.cut(&pieces, text, &[]).unwrap(),
            [Text(0..3), Token(1), Text(5..8), Token(1), Text(10..13)]
        );
        let trusted = [0..5, 6..text.len()];
        assert_eq!(
            specials.cut(&pieces, text, &trusted).unwrap(),
            [Token(0), Token(1), Text(5..8), Token(1), Token(0)]
        );
    }

    /// Every length of a run is a token, so runs have a quadratic number of occurrences. This text is cut in one
    /// pass or not at all.
    #[test]
    fn long_runs_take_linear_time_and_memory() {
        let lengths: Vec<String> = (1..600).map(|n| " ".repeat(n)).collect();
        let (head, tail) = (format!("<a>{}", " ".repeat(700)), format!("{}<b>", " ".repeat(650)));
        let tokens = lengths.iter().map(String::as_str).chain([head.as_str(), tail.as_str()]);
        let tokens: Vec<&str> = tokens.collect();
        let n = 3_000_000;
        let fragments = cut(&tokens, &format!("<a>{}<b>", " ".repeat(n)));
        let (times, rest) = ((n - 1350) / 599, (n - 1350) % 599);
        assert!(rest > 0);
        // Ids count lengths from 0.
        let middle = std::iter::repeat_n(598, times).chain([rest as TokenId - 1]);
        let expected = [599].into_iter().chain(middle).chain([600]).map(Fragment::Token);
        assert_eq!(fragments, expected.collect::<Vec<_>>());
    }

    #[test]
    fn absurd_overlaps_are_refused() {
        let lengths: Vec<String> = (1..200).map(|n| "ab".repeat(n)).collect();
        let tokens: Vec<&str> = lengths.iter().map(String::as_str).collect();
        let tokens: Vec<_> = tokens.iter().map(|t| (*t, TokenKind::UserDefined)).collect();
        let (pieces, specials) = specials(&tokens, &[]);
        let error = specials.cut(&pieces, &"ab".repeat(100_000), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooComplex);
    }

    proptest! {
        #[test]
        fn any_text_is_cut_as_defined(
            texts in proptest::collection::btree_set("[ab ]{1,4}|a{1,6}| {1,5}|é{1,3}", 1..8),
            kinds in proptest::collection::vec(any::<bool>(), 8),
            swallow in proptest::collection::vec(any::<bool>(), 8),
            text in "[ab é]{0,40}",
            borders in proptest::collection::btree_set(0usize..40, 0..5),
        ) {
            // Tokens of one length are taken by id; the order among them is by text here.
            let kind = |user: bool| if user { TokenKind::UserDefined } else { TokenKind::Control };
            let tokens: Vec<_> = texts.iter().zip(kinds).map(|(t, u)| (t.as_str(), kind(u))).collect();
            let swallowing: Vec<TokenId> =
                (0..tokens.len() as TokenId).filter(|id| swallow[*id as usize]).collect();
            let (pieces, specials) = specials(&tokens, &swallowing);
            let borders: Vec<usize> = borders.into_iter().filter(|b| text.is_char_boundary(*b)).collect();
            let trusted: Vec<_> = borders.chunks_exact(2).map(|b| b[0]..b[1]).collect();
            #[expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
            for trusted in [&[][..], &[0..text.len()][..], &trusted] {
                let found = specials.cut(&pieces, &text, trusted).unwrap();
                prop_assert_eq!(found, naive(&pieces, &swallowing, &text, trusted), "{:?} {:?}", tokens, text);
            }
        }
    }
}
