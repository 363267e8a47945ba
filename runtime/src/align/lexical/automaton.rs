//! The wording of a text as an automaton over bytes.
//!
//! One step decodes UTF-8 to a letter (a class of characters nobody tells apart), moves each lane's
//! Aho-Corasick state and the counters. Nothing is multiplied out: the state holds them side by side.
//! Cost: a few nanoseconds a byte.

use super::chartypes::{Kind, Types};
use super::fold::Folding;
use super::grapheme;
use super::lane::{Draft, Lane, LanePhrase, LaneState};
use super::matcher::ROOT;
use super::sentence::{self, LetterCase};
use super::spec::{Boundary, Clause, Phrase, Range, Unit, Wording};
use super::units::{Counter, Counts, UnitLetter};
use crate::align::trie::TokenTrie;
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{Alphabet, Automaton, ByteSet, CharSet, Completion, Decoded, Letter};
use crate::token::TokenId;

/// Most ways of comparing at once, those of excluded phrases counted twice.
pub(super) const MAX_LANES: usize = 4;
/// Most clauses: one bit each in a state.
pub(super) const MAX_CLAUSES: usize = 64;

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Include,
    Exclude,
    /// Excluded phrases in the text without what shows as nothing.
    ExcludeBare,
}

/// How a clause is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    pub at_least: u32,
    pub at_most: Option<u32>,
    /// Place of its counter in [`WordingState::counts`], if one bit is not enough.
    slot: Option<(u32, u32)>, // shift, mask
}

/// A [`Wording`] that was checked and compiled.
pub struct WordingAutomaton {
    pub(super) wording: Wording,
    pub(super) alphabet: Alphabet,
    available: ByteSet,
    lanes: Vec<(Role, Lane)>,
    letters: Vec<UnitLetter>,
    pub(super) counter: Counter,
    pub(super) quotas: Vec<Quota>,
    /// Bits of all clauses that must be met.
    pub(super) all: u64,
    /// The most of each unit that one token can add.
    pub(super) token_units: [u32; Unit::COUNT],
    has_at_most: bool,
}

/// Where a text is with respect to a wording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WordingState {
    lanes: [LaneState; MAX_LANES],
    /// Inside a character: its decoder node plus 1.
    node: u16,
    /// Clauses met, as bits.
    pub(super) met: u64,
    /// Counters of clauses that want more than one, packed.
    counts: u128,
    pub(super) units: Counts,
}

impl WordingAutomaton {
    /// Clauses met whatever follows, as bits: a word at the end may still become another one.
    pub fn met_for_good(&self, state: WordingState) -> u64 {
        state.met & self.all
    }

    /// # Errors `BadProfile` for phrases that compare as empty; `TooComplex` beyond 64 clauses or the
    /// size limits; `Unsupported` for phrases with piled-up marks. What can be read but not satisfied is
    /// found by [`WordingAutomaton::gate`].
    pub fn new(wording: &Wording, available: &ByteSet) -> Result<Self> {
        if wording.include.len() > MAX_CLAUSES {
            let n = wording.include.len();
            return Err(Error::new(
                ErrorKind::TooComplex,
                format!("{n} clauses to include, at most {MAX_CLAUSES} are handled"),
            ));
        }
        let drafts = drafts(wording)?;
        let types = Types::get();
        let counter = Counter::new(wording.length);
        let mut sets: Vec<CharSet> =
            vec![types.word.clone(), types.mark.clone(), types.spaceless.clone(), types.ignorable.clone()];
        let unit_sets = unit_sets(&counter);
        sets.extend(unit_sets.iter().map(|(_, set)| set.clone()));
        let lanes_from = sets.len();
        sets.extend(drafts.iter().flat_map(|(_, d)| d.sets().cloned()));
        let (alphabet, letters_of) = Alphabet::new(&sets, available)?;
        let n_letters = alphabet.n_letters();
        let mut kinds = vec![Kind::default(); n_letters];
        for (bit, letters) in [Kind::WORD, Kind::MARK, Kind::SPACELESS].into_iter().zip(&letters_of) {
            letters.iter().for_each(|&l| kinds[usize::from(l)] = kinds[usize::from(l)].with(bit, true));
        }
        let mut letters: Vec<UnitLetter> = kinds
            .iter()
            .map(|k| UnitLetter {
                is_word: k.has(Kind::WORD),
                is_mark: k.has(Kind::MARK),
                ..UnitLetter::default()
            })
            .collect();
        for ((mark, _), set) in unit_sets.iter().zip(&letters_of[4..]) {
            set.iter().for_each(|&l| mark(&mut letters[usize::from(l)]));
        }
        let mut at = lanes_from;
        let mut lanes = Vec::new();
        for (role, draft) in drafts {
            let n = draft.sets().count();
            lanes.push((role, draft.finish(&kinds, &letters_of[3], &letters_of[at..at + n])));
            at += n;
        }
        let quotas = quotas(&wording.include)?;
        let all =
            quotas.iter().enumerate().filter(|(_, q)| q.at_least > 0).fold(0, |all, (i, _)| all | 1 << i);
        Ok(Self {
            wording: wording.clone(),
            alphabet,
            available: *available,
            lanes,
            letters,
            counter,
            has_at_most: quotas.iter().any(|q| q.at_most.is_some()),
            quotas,
            all,
            token_units: [u32::MAX; Unit::COUNT],
        })
    }

    /// Counts a completion of the clauses `done`. False if one is now too many.
    fn credit(&self, s: &mut WordingState, mut done: u64) -> bool {
        let mut fits = true;
        while done != 0 {
            let i = done.trailing_zeros() as usize;
            done &= done - 1;
            let quota = self.quotas[i];
            let n = match quota.slot {
                None => 1,
                Some((shift, mask)) => {
                    let n = (s.counts >> shift) as u32 & mask;
                    let next = (n + 1).min(mask);
                    s.counts = s.counts & !(u128::from(mask) << shift) | u128::from(next) << shift;
                    next
                }
            };
            s.met |= u64::from(n >= quota.at_least) << i;
            fits &= quota.at_most.is_none_or(|m| n <= m);
        }
        fits
    }

    /// How often `clause` was met, as far as it matters.
    pub(super) fn times(&self, s: &WordingState, clause: usize) -> u32 {
        match self.quotas[clause].slot {
            None => (s.met >> clause & 1) as u32,
            Some((shift, mask)) => (s.counts >> shift) as u32 & mask,
        }
    }

    /// The clauses that a completion may count for now, in an ordered list: the first one not yet met.
    fn expected(&self, s: &WordingState) -> u64 {
        let open = self.all & !s.met;
        open & open.wrapping_neg()
    }

    fn letter(&self, s: &mut WordingState, letter: Letter) -> bool {
        let mut fits = self.counter.letter(&mut s.units, &self.letters[usize::from(letter)]);
        for (i, (role, lane)) in self.lanes.iter().enumerate() {
            let mut state = s.lanes[i];
            let found = match role {
                Role::Include => lane.read(&mut state, letter, |done| {
                    if self.wording.ordered {
                        let done = done & self.expected(s);
                        fits &= self.credit(s, done);
                        return done != 0;
                    }
                    fits &= self.credit(s, done);
                    false
                }),
                _ => lane.read(&mut state, letter, |_| false),
            };
            s.lanes[i] = state;
            fits &= !found.banned;
        }
        fits
    }

    /// The state if the text ends here: what waited for a boundary is counted. `None` if an excluded
    /// phrase is complete then, a clause is over its limit, or a character is unfinished.
    pub(super) fn ended(&self, state: &WordingState) -> Option<WordingState> {
        if state.node != 0 {
            return None;
        }
        let mut s = *state;
        for (i, (role, lane)) in self.lanes.iter().enumerate() {
            let found = lane.finish(s.lanes[i]);
            match role {
                Role::Include => {
                    let done =
                        if self.wording.ordered { found.clauses & self.expected(&s) } else { found.clauses };
                    if !self.credit(&mut s, done) {
                        return None;
                    }
                }
                _ if found.banned => return None,
                _ => {}
            }
        }
        Some(s)
    }

    /// The decoder's node, if the text ends inside a character.
    pub(super) fn node(&self, state: &WordingState) -> Option<u16> {
        state.node.checked_sub(1)
    }

    pub(super) fn include_lanes(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes
            .iter()
            .enumerate()
            .filter(|(_, (role, _))| *role == Role::Include)
            .map(|(i, (_, l))| (i, l))
    }

    /// The lanes of excluded phrases, with their numbers.
    pub(super) fn exclude_lanes(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes
            .iter()
            .enumerate()
            .filter(|(_, (role, _))| *role != Role::Include)
            .map(|(i, (_, l))| (i, l))
    }

    pub(super) fn lane_state<'a>(&self, s: &'a WordingState, lane: usize) -> &'a LaneState {
        &s.lanes[lane]
    }

    /// The excluded phrase that is complete in `text` standing alone, by number.
    pub(super) fn banned_in(&self, text: &str) -> Option<usize> {
        for (_, lane) in self.lanes.iter().filter(|(r, _)| *r != Role::Include) {
            let mut s = LaneState::default();
            let mut node = None;
            let mut seen = Vec::new();
            for byte in text.bytes() {
                match self.alphabet.step(node, byte) {
                    Decoded::Inside(n) => node = Some(n),
                    Decoded::Invalid => return None,
                    Decoded::Letter(letter) => {
                        node = None;
                        seen.push(s.at);
                        if lane.read(&mut s, letter, |_| false).banned {
                            seen.push(s.at);
                            return lane.banned_at(&seen);
                        }
                    }
                }
            }
            if lane.finish(s).banned {
                return lane.banned_at(&[s.at]);
            }
        }
        None
    }

    /// As [`Wording::compile`] for the vocabulary of `trie`: knowing what single tokens can add to the length, the
    /// automaton can tell when a limit is near.
    /// # Errors As [`Wording::compile`].
    pub fn for_vocab(wording: &Wording, trie: &TokenTrie) -> Result<Self> {
        let mut this = wording.compile(&trie.single_bytes())?;
        if wording.length.iter().any(|r| r.max.is_some()) {
            this.token_units = *trie.most_units(|| most_units(trie));
        }
        Ok(this)
    }
}

impl Automaton for WordingAutomaton {
    type State = WordingState;
    const COMPLETION: Completion = Completion::Checked;
    const HAS_COSTLY_STEPS: bool = true;

    fn start(&self) -> WordingState {
        WordingState::default()
    }

    fn step(&self, state: WordingState, byte: u8) -> Option<WordingState> {
        let mut s = state;
        if !self.counter.byte(&mut s.units) {
            return None;
        }
        s.node = 0;
        match self.alphabet.step(state.node.checked_sub(1), byte) {
            Decoded::Invalid => None,
            Decoded::Inside(node) => {
                s.node = node + 1;
                Some(s)
            }
            Decoded::Letter(letter) => self.letter(&mut s, letter).then_some(s),
        }
    }

    fn accepts(&self, state: WordingState) -> bool {
        self.ended(&state).is_some_and(|s| s.met & self.all == self.all && self.counter.may_end(&s.units))
    }

    fn at_least(&self, state: WordingState) -> u32 {
        let open = u32::from(!self.accepts(state));
        self.counter
            .missing(&state.units, Unit::Bytes)
            .max(self.counter.missing(&state.units, Unit::Chars))
            .max(open)
    }

    fn complete(&self, state: WordingState, out: &mut Vec<u8>) -> bool {
        super::witness::complete(self, state, out)
    }

    fn may_write(&self, byte: u8) -> bool {
        self.available[usize::from(byte)]
    }

    fn probes(&self, out: &mut Vec<u8>) {
        let phrases = self.wording.include.iter().flat_map(|c| &c.any).flat_map(|p| p.text.bytes());
        out.extend(phrases.chain(*b" a.,!?1-\n"));
    }

    fn at_most_within(&self, state: WordingState, n_bytes: usize) -> u32 {
        super::witness::bound(self, &state, n_bytes)
    }

    fn horizon(&self, state: WordingState, _n_bytes: usize) -> WordingState {
        let mut s = state;
        s.units = self.counter.horizon(&s.units, &self.token_units);
        if !self.has_at_most {
            for (i, _) in self.include_lanes() {
                s.lanes[i] = LaneState::default();
            }
            (s.met, s.counts) = (0, 0);
        }
        s
    }

    fn leads(&self, state: WordingState, emit: &mut dyn FnMut(&[u8])) {
        super::witness::leads(self, state, emit);
    }

    fn met(&self, state: WordingState) -> u64 {
        super::witness::met(self, state)
    }

    /// Nothing remembered of any phrase: what has begun one differs only along that phrase.
    fn neutral(&self, state: WordingState) -> WordingState {
        let mut s = state;
        s.lanes.iter_mut().for_each(LaneState::forget);
        s
    }
}

impl WordingState {
    /// Whether no lane remembers the beginning of a phrase.
    pub(super) fn is_idle(&self) -> bool {
        self.node == 0 && self.lanes.iter().all(|l| l.at == ROOT)
    }
}

/// The lanes a wording needs: one a way of comparing for included phrases, two for excluded ones.
fn drafts(wording: &Wording) -> Result<Vec<(Role, Draft)>> {
    let mut wanted: Vec<(Role, Folding, Vec<LanePhrase>)> = Vec::new();
    let mut add = |role: Role, phrase: &Phrase, clauses: u64, origin: (usize, usize)| {
        let folding = Folding { norm: phrase.norm, case: phrase.case };
        let item = LanePhrase {
            text: phrase.text.clone(),
            on_words: phrase.boundary == Boundary::Word,
            clauses,
            origin,
        };
        match wanted.iter_mut().find(|(r, f, _)| *r == role && *f == folding) {
            Some((_, _, list)) => list.push(item),
            None => wanted.push((role, folding, vec![item])),
        }
    };
    for (i, clause) in wording.include.iter().enumerate() {
        clause.any.iter().enumerate().for_each(|(j, p)| add(Role::Include, p, 1 << i, (i, j)));
    }
    for (i, phrase) in wording.exclude.iter().enumerate() {
        add(Role::Exclude, phrase, 0, (0, i));
        add(Role::ExcludeBare, phrase, 0, (0, i));
    }
    if wanted.len() > MAX_LANES {
        return Err(Error::new(
            ErrorKind::TooComplex,
            format!(
                "the phrases ask for {} ways of comparing at once, at most {MAX_LANES} are handled",
                wanted.len()
            ),
        ));
    }
    wanted
        .into_iter()
        .map(|(role, folding, phrases)| Ok((role, Draft::new(folding, role == Role::ExcludeBare, &phrases)?)))
        .collect()
}

/// The most of each unit that one token of the vocabulary can add, wherever it stands.
fn most_units(trie: &TokenTrie) -> [u32; Unit::COUNT] {
    let counted =
        Wording { length: [Range { min: 0, max: Some(u32::MAX - 1) }; Unit::COUNT], ..Wording::default() };
    let Ok(a) = WordingAutomaton::new(&counted, &[true; 256]) else { return [u32::MAX; Unit::COUNT] };
    let vocab = trie.vocab();
    let mut most = [0; Unit::COUNT];
    for bytes in (0..vocab.n_vocab() as TokenId).map(|t| vocab.bytes(t)) {
        // what is not UTF-8 here may complete a character begun before
        let mut s = a.start();
        for &byte in bytes {
            s = a.step(s, byte).unwrap_or(WordingState { node: 0, ..s });
        }
        most.iter_mut().zip(s.units.n).for_each(|(m, n)| *m = n.max(*m));
    }
    most.map(|n| n + 1)
}

type Mark = Box<dyn Fn(&mut UnitLetter)>;

/// Sets of characters that the running counters tell apart, each with what it means.
fn unit_sets(counter: &Counter) -> Vec<(Mark, CharSet)> {
    let types = Types::get();
    let mut sets: Vec<(Mark, CharSet)> = Vec::new();
    if counter.is_active(Unit::Words) {
        sets.push((Box::new(|l| l.is_ideograph = true), types.ideograph.clone()));
    }
    if counter.is_active(Unit::Sentences) {
        let mut class =
            |class: sentence::Class, set: CharSet| sets.push((Box::new(move |l| l.sentence = class), set));
        class(sentence::class_of('\0', Some(LetterCase::None), false), types.letter.clone());
        class(sentence::class_of('\0', Some(LetterCase::Lower), false), types.lower.clone());
        class(sentence::class_of('\0', Some(LetterCase::Upper), false), types.upper.clone());
        class(sentence::class_of('\0', None, true), types.space.clone());
        for c in sentence::special() {
            let case = c.is_alphabetic().then_some(if c.is_lowercase() {
                LetterCase::Lower
            } else {
                LetterCase::Upper
            });
            class(sentence::class_of(c, case, c.is_whitespace()), CharSet::one(c));
        }
    }
    if counter.is_active(Unit::Graphemes) {
        for (class, set) in grapheme::classes() {
            sets.push((Box::new(move |l| l.grapheme = *class), set.clone()));
        }
    }
    sets
}

fn quotas(clauses: &[Clause]) -> Result<Vec<Quota>> {
    let mut used = 0;
    let mut out = Vec::new();
    for clause in clauses {
        let top = clause.at_most.map_or(clause.at_least, |m| m.saturating_add(1)).max(clause.at_least);
        let bits = u32::BITS - top.leading_zeros();
        let slot = (top > 1).then(|| (used, u32::MAX >> (u32::BITS - bits)));
        used += if top > 1 { bits } else { 0 };
        out.push(Quota { at_least: clause.at_least, at_most: clause.at_most, slot });
    }
    if used > u128::BITS {
        return Err(Error::new(
            ErrorKind::TooComplex,
            format!("the clauses' counts take {used} bits together, at most {} are kept", u128::BITS),
        ));
    }
    Ok(out)
}
