//! One way of comparing, with its phrases, running over the letters of the alphabet.

use rustc_hash::{FxHashMap, FxHashSet};

use super::chartypes::{Kind, Types};
use super::fold::{Folding, Norm, ccc};
use super::matcher::{FIRST_FOREIGN, FIRST_OWN, MARKER, Matcher, Pattern, ROOT, StateId, Symbol};
use crate::error::{Error, ErrorKind, Result};
use crate::grammar::{CharSet, Letter};

/// Most combining marks of phrases that may follow one base character. Text with more has no match
/// there, which is exact as long as no phrase has more either.
pub(super) const MAX_MARKS: usize = 3;
/// More marks than that, or one that no phrase has.
const FOREIGN_MARKS: u8 = MAX_MARKS as u8 + 1;

/// A phrase as a lane gets it.
#[derive(Clone, Debug)]
pub(super) struct LanePhrase {
    pub text: String,
    pub on_words: bool,
    /// As in [`Pattern`].
    pub clauses: u64,
    /// Where the caller has it: number of the clause and of the phrase in it; (0, number) if excluded.
    pub origin: (usize, usize),
}

/// One folded character of a letter's expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Step {
    symbol: Symbol,
    kind: Kind,
    /// Combining class.
    class: u8,
}

/// A lane before the alphabet is known: its symbols, and which characters it must tell apart.
pub(super) struct Draft {
    folding: Folding,
    is_bare: bool,
    symbols: FxHashMap<char, Symbol>,
    matcher: Matcher,
    outlines: Vec<Outline>,
    has_marks: bool,
    /// Expansions that occur, each with the characters that have it.
    groups: Vec<(Vec<Step>, CharSet)>,
}

/// What a lane does on the way through a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// One more symbol is behind it: of this character, or a mark of those before (`late`).
    Symbol { late: bool },
    /// An excluded phrase of so many symbols ends with the last symbol; `n_late` of them are marks that
    /// are still held.
    Banned { phrase: usize, n_symbols: usize, n_late: usize },
}

/// What a lane of phrases to include does on the way through a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// As [`Event::Symbol`].
    Symbol { late: bool },
    /// What ends at `at` counts: phrases on words if `on_words`, the others if `anywhere`.
    Ends { at: StateId, on_words: bool, anywhere: bool },
}

/// A phrase as the matcher goes through it.
pub(super) struct Outline {
    pub origin: (usize, usize),
    on_words: bool,
    is_excluded: bool,
    /// For each of its characters, the state after it and the bytes of the phrase up to its end.
    path: Vec<(StateId, u32)>,
}

impl Outline {
    /// Number of its symbols.
    pub fn n_symbols(&self) -> usize {
        self.path.len()
    }

    /// The state in which it is complete: phrases that compare as equal share it.
    pub fn last(&self) -> StateId {
        self.path.last().map_or(ROOT, |p| p.0)
    }
}

/// See the module. Its states are [`LaneState`]s.
pub(super) struct Lane {
    pub matcher: Matcher,
    outlines: Vec<Outline>,
    /// Symbols of the longest phrase: asked for at every character.
    longest: usize,
    /// Range of `steps` for each letter.
    expansions: Vec<(u32, u32)>,
    steps: Vec<Step>,
    /// Combining class of each symbol.
    classes: Vec<u8>,
    has_marks: bool,
}

/// Where a lane is in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LaneState {
    pub at: StateId,
    /// Kind of the last character.
    pub before: Kind,
    n_marks: u8,
    /// Marks since the last base character, in canonical order, not yet given to the matcher.
    marks: [Symbol; MAX_MARKS],
}

impl LaneState {
    /// Back to the root, but for the kind of the last character.
    pub fn forget(&mut self) {
        *self = Self { before: self.before, ..Self::default() };
    }
}

/// What a step found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Clauses completed, as bits.
    pub clauses: u64,
    /// An excluded phrase is complete.
    pub banned: bool,
}

impl Found {
    fn add(&mut self, other: Found) {
        self.clauses |= other.clauses;
        self.banned |= other.banned;
    }
}

/// The characters of `phrase` as compared, each with the bytes of `phrase` up to its end.
fn compared(folding: Folding, is_bare: bool, phrase: &str) -> Vec<(char, u32)> {
    let types = Types::get();
    let mut out: Vec<(char, u32)> = Vec::new();
    for (at, c) in phrase.char_indices().filter(|(_, c)| !is_bare || !types.ignorable.contains(*c)) {
        folding.expand(c, &mut |d| out.push((d, (at + c.len_utf8()) as u32)));
    }
    if folding.norm != Norm::None {
        for run in out.chunk_by_mut(|_, b| ccc(b.0) > 0) {
            let from = usize::from(run.first().is_some_and(|c| ccc(c.0) == 0));
            run[from..].sort_by_key(|c| ccc(c.0));
        }
    }
    out
}

impl Draft {
    /// `is_bare`: characters that show as nothing are left out, in phrases and in text.
    /// # Errors `BadProfile` if a phrase compares as empty; `TooComplex`, `Unsupported` beyond limits.
    pub fn new(folding: Folding, is_bare: bool, phrases: &[LanePhrase]) -> Result<Self> {
        let types = Types::get();
        let mut symbols: FxHashMap<char, Symbol> = FxHashMap::default();
        let (mut patterns, mut ends) = (Vec::new(), Vec::new());
        let mut has_marks = false;
        for phrase in phrases {
            let chars = compared(folding, is_bare, &phrase.text);
            if chars.is_empty() {
                return Err(Error::new(
                    ErrorKind::BadProfile,
                    "empty phrase: nothing is left of it after normalisation",
                )
                .at(format!("phrase {:?}", phrase.text)));
            }
            let refuse = |what: String| {
                Error::new(ErrorKind::Unsupported, what).at(format!("phrase {:?}", phrase.text))
            };
            if folding.norm != Norm::None && ccc(chars[0].0) > 0 {
                return Err(refuse("a phrase cannot begin with a combining mark".to_owned()));
            }
            let mut pattern =
                Pattern { symbols: Vec::new(), on_words: phrase.on_words, clauses: phrase.clauses };
            let (mut before, mut run) = (None, 0);
            for &(c, _) in &chars {
                let kind = types.kind(c);
                if before.is_some_and(|b| kind.begins_after(b)) {
                    pattern.symbols.push(MARKER);
                }
                let fresh = FIRST_OWN as usize + symbols.len();
                let symbol = *symbols.entry(c).or_insert(Symbol::try_from(fresh).map_err(|_| too_many())?);
                pattern.symbols.push(symbol);
                before = Some(kind);
                run = if ccc(c) > 0 { run + 1 } else { 0 };
                has_marks |= run > 0;
                if run > MAX_MARKS {
                    return Err(refuse(format!("more than {MAX_MARKS} combining marks on one character")));
                }
            }
            patterns.push(pattern);
            ends.push(chars);
        }
        let matcher = Matcher::new(&patterns, symbols.len())?;
        let has_marks = has_marks && folding.norm != Norm::None;
        let outlines = phrases.iter().zip(patterns).zip(ends).map(|((phrase, pattern), ends)| Outline {
            origin: phrase.origin,
            on_words: phrase.on_words,
            is_excluded: phrase.clauses == 0,
            path: matcher.path(&pattern).into_iter().zip(ends).map(|(s, (_, end))| (s, end)).collect(),
        });
        let outlines = outlines.collect();
        let mut this = Self { folding, is_bare, symbols, matcher, outlines, has_marks, groups: Vec::new() };
        this.groups = this.find_groups();
        Ok(this)
    }

    fn step_of(&self, c: char) -> Step {
        let kind = Types::get().kind(c);
        let foreign = FIRST_FOREIGN + kind.index() as Symbol;
        Step { symbol: self.symbols.get(&c).copied().unwrap_or(foreign), kind, class: ccc(c) }
    }

    /// What `chars` do to the matcher, repetitions without effect left out.
    fn steps_of(&self, chars: &[char]) -> Vec<Step> {
        let mut steps: Vec<Step> = chars.iter().map(|&c| self.step_of(c)).collect();
        steps.dedup_by(|b, a| a.symbol < FIRST_OWN && a.symbol == b.symbol && (a.class > 0) == (b.class > 0));
        steps
    }

    /// Characters whose effect is not that of a plain character of their kind.
    fn find_groups(&self) -> Vec<(Vec<Step>, CharSet)> {
        let mut groups: FxHashMap<Vec<Step>, Vec<(u32, u32)>> = FxHashMap::default();
        let table = self.folding.table();
        let mut seen: FxHashSet<u32> = FxHashSet::default();
        let mut add = |c: char, steps: Vec<Step>| {
            groups.entry(steps).or_default().push((u32::from(c), u32::from(c)));
        };
        for &c in self.symbols.keys() {
            seen.extend(table.containing.get(&c).into_iter().flatten());
            let mut changes = false;
            self.folding.expand(c, &mut |d| changes |= d != c);
            if !changes {
                add(c, vec![self.step_of(c)]);
            }
        }
        for &i in &seen {
            let (c, to) = &table.entries[i as usize];
            add(*c, self.steps_of(to));
        }
        let foreign = |&(kind, is_mark): &(Kind, bool)| plain(kind, is_mark);
        let mut out: Vec<(Vec<Step>, CharSet)> = table
            .mixed
            .iter()
            .map(|(kinds, set)| (kinds.iter().map(foreign).collect(), set.clone()))
            .collect();
        // those that hold characters of phrases come last: they replace what is said of them before
        let own = out.len();
        out.extend(groups.into_iter().map(|(steps, ranges)| (steps, CharSet::new(ranges))));
        out[own..].sort_by(|a, b| a.0.cmp(&b.0));
        out
    }

    /// The sets the alphabet must be able to express for this lane.
    pub fn sets(&self) -> impl Iterator<Item = &CharSet> {
        self.groups.iter().map(|(_, set)| set)
    }

    /// The lane over an alphabet in which letter `l` is a plain character of kind `kinds[l]` unless it is in
    /// one of `letters`, the letters of [`Draft::sets`]; letters of `ignorable` show as nothing.
    pub fn finish(self, kinds: &[Kind], ignorable: &[Letter], letters: &[Box<[Letter]>]) -> Lane {
        let mut by_letter: Vec<Vec<Step>> =
            kinds.iter().map(|&k| vec![plain(k, k.has(Kind::MARK))]).collect();
        for ((steps, _), letters) in self.groups.iter().zip(letters) {
            letters.iter().for_each(|&l| by_letter[usize::from(l)].clone_from(steps));
        }
        if self.is_bare {
            ignorable.iter().for_each(|&l| by_letter[usize::from(l)].clear());
        }
        let (mut steps, mut expansions) = (Vec::new(), Vec::new());
        for expansion in by_letter {
            let from = steps.len() as u32;
            steps.extend(expansion);
            expansions.push((from, steps.len() as u32));
        }
        let mut classes = vec![0; FIRST_OWN as usize + self.symbols.len()];
        self.symbols.iter().for_each(|(&c, &s)| classes[usize::from(s)] = ccc(c));
        Lane {
            classes,
            matcher: self.matcher,
            longest: self.outlines.iter().map(|o| o.path.len()).max().unwrap_or(0),
            outlines: self.outlines,
            expansions,
            steps,
            has_marks: self.has_marks,
        }
    }
}

/// A character of no phrase.
fn plain(kind: Kind, is_mark: bool) -> Step {
    Step { symbol: FIRST_FOREIGN + kind.index() as Symbol, kind, class: u8::from(is_mark) }
}

fn too_many() -> Error {
    Error::new(ErrorKind::TooComplex, "the phrases hold more than 65000 different characters")
}

impl Lane {
    /// Reads one character. `reset` is asked about completed clauses and says whether the lane must forget
    /// what it has seen, as when the phrases of a list must not overlap.
    pub fn read(&self, s: &mut LaneState, letter: Letter, mut reset: impl FnMut(u64) -> bool) -> Found {
        let steps = self.steps(letter);
        let mut found = Found::default();
        for (i, step) in steps.iter().enumerate() {
            if step.class > 0 && self.has_marks {
                self.hold(s, *step);
                continue;
            }
            found.add(self.flush(s));
            let ends = self.matcher.ends(s.at);
            let mut done = if step.kind.ends(s.before) { ends.on_words } else { 0 };
            done |= if step.kind.has(Kind::MARK) { 0 } else { ends.anywhere };
            found.banned |= ends.bans_on_words && step.kind.ends(s.before);
            found.clauses |= done;
            if done != 0 && reset(done) {
                s.at = ROOT;
            }
            s.at = self.advance(s, *step);
            // a character that only becomes another one by its own mark does not end a phrase
            let is_whole = steps.get(i + 1).is_none_or(|next| next.class == 0);
            found.banned |= is_whole && self.matcher.ends(s.at).bans;
        }
        if s.n_marks > 0 {
            found.banned |= self.flush(&mut s.clone()).banned;
        }
        found
    }

    /// Keeps a mark, in canonical order, until the next base character.
    fn hold(&self, s: &mut LaneState, step: Step) {
        let n = usize::from(s.n_marks);
        if step.symbol < FIRST_OWN || n >= MAX_MARKS {
            (s.n_marks, s.marks) = (FOREIGN_MARKS, [0; MAX_MARKS]);
            return;
        }
        let class = |symbol: Symbol| self.classes.get(usize::from(symbol)).copied().unwrap_or(0);
        let at = s.marks[..n].iter().position(|&m| class(m) > step.class).unwrap_or(n);
        s.marks.copy_within(at..n, at + 1);
        s.marks[at] = step.symbol;
        s.n_marks += 1;
    }

    fn steps(&self, letter: Letter) -> &[Step] {
        let (from, to) = self.expansions[usize::from(letter)];
        &self.steps[from as usize..to as usize]
    }

    /// As [`Lane::read`] of a character, or the end of the text, saying what came of it one by one.
    pub fn trace(&self, s: &mut LaneState, letter: Option<Letter>, mut event: impl FnMut(Event)) {
        let steps = letter.map_or(&[][..], |l| self.steps(l));
        for (i, step) in steps.iter().enumerate() {
            if step.class > 0 && self.has_marks {
                self.hold(s, *step);
                continue;
            }
            self.trace_flush(s, &mut event);
            if step.kind.ends(s.before) {
                self.report(s.at, true, 0, &mut event);
            }
            s.at = self.advance(s, *step);
            event(Event::Symbol { late: false });
            if steps.get(i + 1).is_none_or(|next| next.class == 0) {
                self.report(s.at, false, 0, &mut event);
            }
        }
        if letter.is_none() {
            self.trace_flush(s, &mut event);
            self.report(s.at, true, 0, &mut event);
            self.report(s.at, false, 0, &mut event);
        } else if s.n_marks > 0 {
            let mut ahead = *s;
            if self.flush(&mut ahead).banned {
                self.report(ahead.at, false, usize::from(s.n_marks), &mut event);
            }
        }
    }

    fn trace_flush(&self, s: &mut LaneState, event: &mut impl FnMut(Event)) {
        let n = if s.n_marks == FOREIGN_MARKS { 0 } else { s.n_marks };
        let banned = self.flush(s).banned;
        (0..n).for_each(|_| event(Event::Symbol { late: true }));
        if banned {
            self.report(s.at, false, 0, event);
        }
    }

    /// Reports the excluded phrases that end at `at`, longest first, of those on words or of the others.
    fn report(&self, at: StateId, on_words: bool, n_late: usize, event: &mut impl FnMut(Event)) {
        self.matcher.each_pattern(at, |i| {
            if let Some(o) = self.outlines.get(i).filter(|o| o.on_words == on_words && o.is_excluded) {
                event(Event::Banned { phrase: o.origin.1, n_symbols: o.path.len(), n_late });
            }
        });
    }

    /// As [`Lane::read`] of a character, or the end of the text, in a lane of phrases to include, saying what
    /// came of it one by one. What `event` answers to [`Said::Ends`] is whether the lane must forget what it
    /// has seen.
    pub fn trace_included(
        &self,
        s: &mut LaneState,
        letter: Option<Letter>,
        mut event: impl FnMut(Said) -> bool,
    ) {
        for step in letter.map_or(&[][..], |l| self.steps(l)) {
            if step.class > 0 && self.has_marks {
                self.hold(s, *step);
                continue;
            }
            self.say_marks(s, &mut event);
            let (on_words, anywhere) = (step.kind.ends(s.before), !step.kind.has(Kind::MARK));
            if s.at != ROOT && event(Said::Ends { at: s.at, on_words, anywhere }) {
                s.at = ROOT;
            }
            s.at = self.advance(s, *step);
            event(Said::Symbol { late: false });
        }
        if letter.is_none() {
            self.say_marks(s, &mut event);
            event(Said::Ends { at: s.at, on_words: true, anywhere: true });
        }
    }

    fn say_marks(&self, s: &mut LaneState, event: &mut impl FnMut(Said) -> bool) {
        let n = if s.n_marks == FOREIGN_MARKS { 0 } else { s.n_marks };
        self.flush(s);
        (0..n).for_each(|_| {
            event(Said::Symbol { late: true });
        });
    }

    /// Calls `f` with each phrase that ends at `at`, longest first, and whether it wants word boundaries;
    /// of phrases that compare as equal, with one.
    pub fn each_phrase(&self, at: StateId, mut f: impl FnMut(&Outline, bool)) {
        self.matcher.each_pattern(at, |i| {
            if let Some(outline) = self.outlines.get(i) {
                f(outline, outline.on_words);
            }
        });
    }

    /// All phrases of this lane.
    pub fn outlines(&self) -> &[Outline] {
        &self.outlines
    }

    /// Most symbols that are ever remembered.
    pub fn longest(&self) -> usize {
        self.longest
    }

    fn advance(&self, s: &mut LaneState, step: Step) -> StateId {
        let mut at = s.at;
        if step.kind.begins_after(s.before) {
            at = self.matcher.step(at, MARKER);
        }
        s.before = step.kind;
        self.matcher.step(at, step.symbol)
    }

    /// Gives held marks to the matcher.
    fn flush(&self, s: &mut LaneState) -> Found {
        let mut found = Found::default();
        if s.n_marks == 0 {
            return found;
        }
        let kind = Kind::WORD.with(Kind::MARK, true);
        if s.n_marks == FOREIGN_MARKS {
            (s.at, s.before) = (ROOT, kind);
        } else {
            for i in 0..usize::from(s.n_marks) {
                s.at = self.advance(s, Step { symbol: s.marks[i], kind, class: 1 });
            }
            found.banned = self.matcher.ends(s.at).bans;
        }
        (s.n_marks, s.marks) = (0, [0; MAX_MARKS]);
        found
    }

    /// Phrases of `clause` that begin with what state `at` remembers: their numbers in the clause, and the
    /// bytes of them that are there.
    pub fn begun(&self, at: StateId, clause: usize) -> impl Iterator<Item = (usize, usize)> {
        let last = (self.matcher.depth(at) as usize).saturating_sub(1);
        self.outlines.iter().filter(move |o| o.origin.0 == clause).filter_map(move |o| {
            o.path.get(last).filter(|(state, _)| *state == at).map(|&(_, bytes)| (o.origin.1, bytes as usize))
        })
    }

    /// The excluded phrase, by number, that ends at the last of `states` where one does.
    pub fn banned_at(&self, states: &[StateId]) -> Option<usize> {
        states.iter().rev().find_map(|&at| {
            let mut found = None;
            self.matcher.each_pattern(at, |i| found = found.or(Some(i)));
            found.and_then(|i| self.outlines.get(i)).map(|o| o.origin.1)
        })
    }

    /// What is complete if the text ends here.
    pub fn finish(&self, mut s: LaneState) -> Found {
        let mut found = self.flush(&mut s);
        let ends = self.matcher.ends(s.at);
        found.add(Found { clauses: ends.on_words | ends.anywhere, banned: ends.bans_on_words || ends.bans });
        found
    }
}
