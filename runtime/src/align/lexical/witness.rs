//! Texts that are known to satisfy a wording from wherever the text is: what the limit rule rests on.
//!
//! Clauses first, each by the rest of a phrase that has begun or by a whole phrase after a separator;
//! then whatever the lower limits still ask for, by plain filler. Every piece is run through the
//! automaton, and one that is refused, or that undoes what waited at the end of the text, is replaced by the
//! next; so what comes out is a proof. It need not be the shortest, and failing to find one proves nothing.
//! Cost: about a microsecond for a few clauses; bounded by `MAX_TRIES` pieces.

use super::automaton::{WordingAutomaton, WordingState};
use super::matcher::{ROOT, StateId};
use super::spec::{Phrase, Unit};
use crate::grammar::Automaton;

/// Pieces tried before giving up, fillers not counted.
const MAX_TRIES: usize = 4096;
/// Most pieces of filler.
const MAX_FILLERS: usize = 1 << 16;

/// What may stand between the text and a phrase.
const SEPARATORS: [&str; 6] = ["", " ", ", ", ". ", "\n", "-"];
/// Filler that adds a word, if possible one that nobody bans.
const WORDS: [&str; 8] = [" a", " it", " so", " we", " 1", "a", " q7", " A"];
/// Filler that begins or ends a sentence. None ends like an abbreviation or initial, after which no sentence
/// could begin; the last ones begin one where the text itself ends like that.
const SENTENCES: [&str; 9] = [".", "!", " It.", " A!", " Q7!", " -!", " 1!", "! It.", "! Q7!"];
/// Filler that only makes the text longer.
const PADDING: [&str; 9] = [" a", " it", " ", "a", "-", "q", "!", "\n", "e\u{301}"];

/// See [`Automaton::complete`].
pub(super) fn complete(a: &WordingAutomaton, state: WordingState, out: &mut Vec<u8>) -> bool {
    let from = out.len();
    let mut search = Search { a, out, tries: MAX_TRIES };
    let found = search.finish_character(state);
    if !found {
        out.truncate(from);
    }
    found
}

/// See [`Automaton::leads`]: the rests of phrases that have begun, and whole phrases, where they would count.
pub(super) fn leads(a: &WordingAutomaton, state: WordingState, emit: &mut dyn FnMut(&[u8])) {
    let (mut out, mut text) = (Vec::new(), Vec::new());
    let search = Search { a, out: &mut out, tries: 0 };
    let before = search.judged(&state);
    let n = if a.wording.ordered { 1 } else { usize::MAX };
    for clause in open_clauses(a, before.met).take(n) {
        let phrases = &a.wording.include[clause].any;
        let begun = search.begun(&state, clause);
        let rests = begun.iter().filter_map(|&(p, at)| Some(("", phrases.get(p)?.text.get(at..)?)));
        let whole = ["", " "].into_iter().flat_map(|s| phrases.iter().map(move |p| (s, p.text.as_str())));
        for (separator, phrase) in rests.chain(whole) {
            text.clear();
            text.extend_from_slice(separator.as_bytes());
            text.extend_from_slice(phrase.as_bytes());
            if a.run(state, &text).is_some_and(|next| search.advances(&before, &next, clause)) {
                emit(&text);
            }
        }
    }
}

/// Clauses met if the text ends here, as bits.
pub(super) fn met(a: &WordingAutomaton, state: WordingState) -> u64 {
    a.ended(&state).unwrap_or(state).met & a.all
}

/// See [`Automaton::at_most_within`]: no proof, but as long as nothing is tight, what `complete` finds.
pub(super) fn bound(a: &WordingAutomaton, s: &WordingState, n_bytes: usize) -> u32 {
    let (mut bytes, mut words, mut clauses) = (16u32, 0u32, 0u32);
    for i in open_clauses(a, s.met) {
        let Some(clause) = a.wording.include.get(i) else { continue };
        let least = clause.any.iter().map(|p| p.text.len() as u32).min().unwrap_or(0);
        let times = clause.at_least;
        bytes = bytes.saturating_add(least.saturating_add(2).saturating_mul(times));
        words = words.saturating_add(times.saturating_mul(1 + least / 2));
        clauses += 1;
    }
    let missing = |unit| a.counter.missing(&s.units, unit);
    words = words.max(missing(Unit::Words));
    for (unit, width) in
        [(Unit::Words, 4u32), (Unit::Sentences, 8), (Unit::Chars, 4), (Unit::Graphemes, 4), (Unit::Bytes, 1)]
    {
        bytes = bytes.saturating_add(missing(unit).saturating_mul(width));
    }
    let n = u32::try_from(n_bytes).unwrap_or(u32::MAX);
    let has_room = |unit, need: u32| a.counter.room(&s.units, unit) >= need.saturating_add(n);
    let is_roomy = has_room(Unit::Bytes, bytes)
        && has_room(Unit::Chars, bytes)
        && has_room(Unit::Graphemes, bytes)
        && a.counter.room(&s.units, Unit::Words)
            >= words.saturating_add(2 + a.token_units[Unit::Words as usize].min(n))
        && (clauses == 0 || a.counter.room(&s.units, Unit::Sentences) > 0);
    if is_roomy { bytes } else { u32::MAX }
}

/// Numbers of the clauses not in `met`.
fn open_clauses(a: &WordingAutomaton, met: u64) -> impl Iterator<Item = usize> {
    let mut open = a.all & !met;
    std::iter::from_fn(move || {
        let i = open.trailing_zeros() as usize;
        (open != 0).then(|| {
            open &= open - 1;
            i
        })
    })
}

struct Search<'a> {
    a: &'a WordingAutomaton,
    out: &'a mut Vec<u8>,
    tries: usize,
}

impl Search<'_> {
    /// First the character the text may end in, then the rest.
    fn finish_character(&mut self, s: WordingState) -> bool {
        let Some(node) = self.a.node(&s) else { return self.meet_clauses(s) };
        let from = self.out.len();
        for &letter in self.a.alphabet.reach(node) {
            self.a.alphabet.finish(node, &[letter], self.out);
            let next = self.a.run(s, &self.out[from..]);
            if next.is_some_and(|next| self.meet_clauses(next)) {
                return true;
            }
            self.out.truncate(from);
            if self.tries == 0 {
                return false;
            }
        }
        false
    }

    /// The state to judge `s` by: what waits for the end of the text counts, if the text may end.
    fn judged(&self, s: &WordingState) -> WordingState {
        self.a.ended(s).unwrap_or(*s)
    }

    /// Meets the open clauses, then fills up: depth first over the pieces that may come next.
    fn meet_clauses(&mut self, s: WordingState) -> bool {
        let mut stack = vec![self.level(s)];
        while let Some(level) = stack.last_mut() {
            self.out.truncate(level.from);
            let Some(clause) = level.clause else {
                let s = level.state;
                if self.fill(s) {
                    return true;
                }
                stack.pop();
                continue;
            };
            let phrases = &self.a.wording.include[clause].any;
            let Some((separator, text)) = level.piece(phrases) else {
                stack.pop();
                continue;
            };
            if self.tries == 0 {
                return false;
            }
            self.tries -= 1;
            self.out.extend_from_slice(separator.as_bytes());
            self.out.extend_from_slice(text.as_bytes());
            let before = level.judged;
            let next = self.a.run(level.state, &self.out[level.from..]);
            if let Some(next) = next.filter(|next| self.advances(&before, next, clause)) {
                let next = self.level(next);
                stack.push(next);
            }
        }
        false
    }

    fn level(&self, state: WordingState) -> Level {
        let judged = self.judged(&state);
        let clause = self.next_clause(&state, judged.met);
        let begun = clause.map(|c| self.begun(&state, c)).unwrap_or_default();
        Level { state, judged, clause, begun, tried: 0, from: self.out.len() }
    }

    /// Whether something was gained for `clause` and no other one lost.
    fn advances(&self, before: &WordingState, next: &WordingState, clause: usize) -> bool {
        let after = self.judged(next);
        after.met & before.met == before.met && self.a.times(&after, clause) > self.a.times(before, clause)
    }

    /// A clause that has begun, else the first one.
    fn next_clause(&self, s: &WordingState, met: u64) -> Option<usize> {
        let first = open_clauses(self.a, met).next()?;
        if self.a.wording.ordered || s.is_idle() {
            return Some(first);
        }
        Some(open_clauses(self.a, met).find(|&i| !self.begun(s, i).is_empty()).unwrap_or(first))
    }

    /// Phrases of `clause` whose beginning the text ends with: the phrase and the bytes of it that are there.
    fn begun(&self, s: &WordingState, clause: usize) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        if s.is_idle() {
            return out;
        }
        for (i, lane) in self.a.include_lanes() {
            let mut at: StateId = self.a.lane_state(s, i).at;
            while at != ROOT {
                for (phrase, bytes) in lane.begun(at, clause) {
                    out.push((phrase, bytes));
                }
                at = lane.matcher.shorter(at);
            }
        }
        let phrases = &self.a.wording.include[clause].any;
        out.retain(|&(p, at)| {
            phrases.get(p).is_some_and(|p| at < p.text.len() && p.text.is_char_boundary(at))
        });
        out.sort_by_key(|&(p, at)| phrases[p].text.len() - at);
        out.dedup();
        out
    }

    /// Adds filler until the text may end.
    fn fill(&mut self, mut s: WordingState) -> bool {
        for _ in 0..MAX_FILLERS {
            if self.a.accepts(s) {
                return true;
            }
            let (lack, met) = (self.lack(&s), self.judged(&s).met);
            let from = self.out.len();
            let lists: [&[&str]; 3] = match lack {
                (_, sentences, words, _) if words > 0 && sentences <= 1 => [&WORDS, &SENTENCES, &PADDING],
                (_, sentences, ..) if sentences > 0 => [&SENTENCES, &WORDS, &PADDING],
                _ => [&PADDING, &SENTENCES, &WORDS],
            };
            let next = lists.into_iter().flatten().find_map(|text| {
                let next = self.a.run(s, text.as_bytes())?;
                (self.lack(&next) < lack && self.judged(&next).met & met == met).then_some((next, text))
            });
            let Some((next, text)) = next else {
                self.out.truncate(from);
                return false;
            };
            self.out.extend_from_slice(text.as_bytes());
            s = next;
        }
        false
    }

    /// What keeps the text from ending: a complete excluded phrase, sentences, words, and length.
    fn lack(&self, s: &WordingState) -> (bool, u32, u32, u32) {
        let missing = |unit| self.a.counter.missing(&s.units, unit);
        let is_open = self.a.counter.is_active(Unit::Sentences) && !s.units.sentence.is_closed();
        let length = missing(Unit::Chars)
            .saturating_add(missing(Unit::Graphemes))
            .saturating_add(missing(Unit::Bytes));
        (
            self.a.ended(s).is_none(),
            missing(Unit::Sentences).saturating_mul(2).saturating_add(u32::from(is_open)),
            missing(Unit::Words),
            length,
        )
    }
}

/// One clause on the way, and the pieces tried for it.
struct Level {
    state: WordingState,
    /// `state` with what waits for the end counted.
    judged: WordingState,
    /// The clause to meet here; `None` once all are met.
    clause: Option<usize>,
    /// Its phrases that the text ends inside of: number, and the bytes that are there.
    begun: Vec<(usize, usize)>,
    tried: usize,
    /// Length of the output before this level.
    from: usize,
}

impl Level {
    /// The next piece to try: rests of begun phrases, then whole phrases after each separator.
    fn piece<'p>(&mut self, phrases: &'p [Phrase]) -> Option<(&'static str, &'p str)> {
        let i = self.tried;
        self.tried += 1;
        if let Some(&(phrase, at)) = self.begun.get(i) {
            return Some(("", &phrases.get(phrase)?.text[at..]));
        }
        let i = i - self.begun.len();
        let separator = SEPARATORS.get(i / phrases.len().max(1))?;
        Some((separator, &phrases.get(i % phrases.len().max(1))?.text))
    }
}
