//! What one request asks of its text, step by step: the mask before each draw, what is taken, what is taken
//! back, and what may be shown.
//!
//! The mask of the next token is computed as soon as the last one is taken: if only one token is left it is
//! forced, and a run of forced tokens costs the model one pass. Cost: that of the constraint's mask, and one
//! pass over the mask's words. Forcing loses nothing but the freedom to spell what is forced in another way
//! where the constraint allows a single spelling anyway.

use super::StopFilter;
use crate::align::{Constraint, HoldBack, Judge, Match};
use crate::error::Result;
use crate::guard::Watch;
use crate::token::{TokenId, TokenSet};
use crate::vocab::Utf8Stream;
use std::sync::Arc;

/// What happens when an excluded phrase has been completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMatch {
    /// The text goes back to where the phrase began and takes another way.
    Backtrack,
    /// The text ends before the phrase.
    Stop,
}

/// Phrases that are found in the text as it comes, instead of being masked.
#[derive(Clone, Debug)]
pub struct Bans {
    /// The filter; nothing that may still become a phrase passes it.
    pub filter: HoldBack,
    /// What a match does.
    pub on_match: OnMatch,
}

/// What a request asks of its text. By default nothing.
#[derive(Default)]
pub struct Aligned {
    /// The mask of every token.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Phrases found as they come. With a constraint that excludes them anyway, only holds their beginnings.
    pub bans: Option<Bans>,
    /// What is added, in logits, to tokens on the way to what must still be said when the limit is reached; at most
    /// twice that where the model would have ended the text before.
    pub pressure: f32,
    /// Bytes at the start of the text that belong to the prompt, by token healing: they are not shown.
    pub n_healed: usize,
    /// Judges the finished text, for the report.
    pub judge: Option<Arc<Judge>>,
    /// What watches the answer as it is decoded.
    pub watch: Option<Watch>,
    /// Beginning of the answer that the caller gives and the guards judge. Not part of the text.
    pub prefix: Vec<TokenId>,
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aligned")
            .field("constraint", &self.constraint.is_some())
            .field("bans", &self.bans)
            .field("pressure", &self.pressure)
            .finish_non_exhaustive()
    }
}

impl From<Box<dyn Constraint>> for Aligned {
    fn from(constraint: Box<dyn Constraint>) -> Self {
        Self { constraint: Some(constraint), ..Self::default() }
    }
}

/// Pressure after an end that the model wanted and may not have yet, and how much it grows with each token from there,
/// in units of the profile's `pressure`.
const DENIED: f32 = 0.2;
const DENIED_GROWTH: f32 = 0.1;
/// Most such units.
const MOST_DENIED: f32 = 2.0;
/// Times a text is taken back before it is given up.
pub(super) const MAX_BACKTRACKS: u32 = 64;

/// A token that must not come at a place.
#[derive(Clone, Copy)]
struct Refused {
    at: usize,
    token: TokenId,
    /// It only began a phrase: it is let in again if nothing else leads on.
    is_begin: bool,
    /// Whether it was let in again.
    is_lifted: bool,
}

/// Tokens with which things end.
pub(super) struct Endings {
    /// Those that end a text.
    pub text: Vec<TokenId>,
    /// The one that ends a sentence.
    pub sentence: Option<TokenId>,
}

/// The tokens that may come next.
pub(super) struct Masks {
    pub constraint: Option<Box<dyn Constraint>>,
    allowed: TokenSet,
    /// End tokens that are never wanted.
    forbidden: Vec<TokenId>,
    /// Tokens that led to a dead end or a phrase.
    refused: Vec<Refused>,
    is_masked: bool,
    pressure: f32,
    advancing: Vec<TokenId>,
    /// Where the model would first have ended the text since something was last said that must be said, and what had
    /// been said.
    denied: Option<(usize, u64)>,
    endings: Endings,
    /// Tokens left when the request began; 0 without a limit.
    budget: usize,
}

impl Masks {
    pub fn new(
        constraint: Option<Box<dyn Constraint>>,
        pressure: f32,
        n_vocab: usize,
        forbidden: Vec<TokenId>,
        endings: Endings,
        budget: usize,
    ) -> Self {
        Self {
            is_masked: constraint.is_some() || !forbidden.is_empty(),
            constraint,
            allowed: TokenSet::all(n_vocab),
            forbidden,
            refused: Vec::new(),
            pressure,
            advancing: Vec::new(),
            denied: None,
            endings,
            budget,
        }
    }

    /// Computes the mask after `n` tokens. Returns the only allowed token, if there is just one.
    pub fn prepare(&mut self, n: usize) -> Result<Option<TokenId>> {
        let Some(constraint) = &mut self.constraint else {
            if self.is_masked {
                self.reset(n);
            }
            return Ok(None);
        };
        self.allowed.fill();
        constraint.mask(&mut self.allowed)?;
        self.strike(n);
        Ok(single(&self.allowed))
    }

    fn reset(&mut self, n: usize) {
        self.allowed.fill();
        self.strike(n);
    }

    fn strike(&mut self, n: usize) {
        let Self { allowed, forbidden, refused, .. } = self;
        forbidden.iter().for_each(|&t| allowed.remove(t));
        refused.iter().filter(|r| r.at == n && !r.is_lifted).for_each(|r| allowed.remove(r.token));
    }

    /// The mask, if anything is masked.
    pub fn allowed(&self) -> Option<&TokenSet> {
        self.is_masked.then_some(&self.allowed)
    }

    /// Whether nothing may come next.
    pub fn is_dead_end(&self) -> bool {
        self.is_masked && self.allowed.is_empty()
    }

    /// Gives the drawn token to the constraint. False if it refuses it; the mask is then without it.
    pub fn take(&mut self, token: TokenId) -> Result<bool> {
        let taken = match &mut self.constraint {
            Some(constraint) => constraint.accept(token)?,
            None => true,
        };
        if !taken {
            self.allowed.remove(token);
        }
        Ok(taken)
    }

    /// Cuts the text to `n` of `len` tokens and refuses `token` there from now on; `is_begin`: because a phrase
    /// began with it. What was refused behind is forgotten.
    pub fn cut(&mut self, n: usize, len: usize, token: TokenId, is_begin: bool) -> Result<()> {
        self.cut_freely(n, len)?;
        self.refused.push(Refused { at: n, token, is_begin, is_lifted: false });
        self.is_masked = true;
        Ok(())
    }

    /// As [`Masks::cut`], without refusing anything anew.
    pub fn cut_freely(&mut self, n: usize, len: usize) -> Result<()> {
        if let Some(constraint) = &mut self.constraint {
            constraint.rollback(len - n)?;
        }
        self.denied = self.denied.filter(|d| d.0 < n);
        self.refused.retain(|r| r.at <= n);
        Ok(())
    }

    /// Whether a phrase that begins at place `n` was already taken back to there.
    pub fn has_avoided(&self, n: usize) -> bool {
        self.refused.iter().any(|r| r.at == n && r.is_begin)
    }

    /// Lets in again, at place `n`, what was refused because a phrase began with it. False if nothing was.
    pub fn lift(&mut self, n: usize) -> Result<bool> {
        let mut any = false;
        for r in self.refused.iter_mut().filter(|r| r.at == n && r.is_begin && !r.is_lifted) {
            (r.is_lifted, any) = (true, true);
        }
        if any {
            self.prepare(n)?;
        }
        Ok(any)
    }

    /// What to add to which of the `logits`, `n` tokens into the text. Pressure to say what is asked for grows as room
    /// gets scarce, and where the model has nothing more to say: without it that piles up at the end. Once all is
    /// said the pressure is on the end of the sentence, and where one has ended (`is_closed`), of the text.
    pub fn press(
        &mut self,
        n: usize,
        logits: &[f32],
        is_closed: bool,
    ) -> impl Iterator<Item = (TokenId, f32)> + '_ {
        self.advancing.clear();
        let mut weight = 0.0;
        if self.is_pressed()
            && let Some(constraint) = &mut self.constraint
            && let Some(need) = constraint.witness_len()
        {
            let slack = self.budget.saturating_sub(n).saturating_sub(need) as f64;
            let scarcity = (1.0 - slack / self.budget as f64) as f32;
            let met = constraint.met();
            self.denied = self.denied.filter(|d| d.1 == met);
            let may_end = constraint.may_end();
            if self.denied.is_none() && !may_end && wants_end(logits, &self.endings.text) {
                self.denied = Some((n, met));
            }
            let denied = self.denied.map_or(0.0, |(at, _)| DENIED + (n - at) as f32 * DENIED_GROWTH);
            weight = self.pressure * denied.min(MOST_DENIED).max(scarcity);
            match may_end {
                false => constraint.advancing(&mut self.advancing),
                true if met == 0 => {}
                true if is_closed => self.advancing.extend(&self.endings.text),
                true => {
                    weight *= scarcity; // a sentence in the middle of the text has the better part of its room
                    self.advancing.extend(self.endings.sentence);
                }
            }
        }
        self.advancing.iter().map(move |&t| (t, weight))
    }

    /// Whether pressure may ever be put on.
    pub fn is_pressed(&self) -> bool {
        self.pressure > 0.0 && self.budget > 0
    }
}

/// Whether an end token is the likeliest. Seldom looks at many logits: the first larger one decides.
fn wants_end(logits: &[f32], ends: &[TokenId]) -> bool {
    let end = ends.iter().filter_map(|&e| logits.get(e as usize)).copied().fold(f32::NEG_INFINITY, f32::max);
    end > f32::NEG_INFINITY && !logits.iter().any(|&l| l > end)
}

fn single(set: &TokenSet) -> Option<TokenId> {
    let mut found = None;
    for (i, &word) in set.words().iter().enumerate().filter(|(_, w)| **w != 0) {
        if found.is_some() || !word.is_power_of_two() {
            return None;
        }
        found = Some((i * 64) as TokenId + word.trailing_zeros());
    }
    found
}

/// Turns token bytes into text that may be shown: whole characters, no beginning of an excluded phrase, no
/// beginning of a stop string, in this order.
#[derive(Clone)]
pub(super) struct Outlet {
    utf8: Utf8Stream,
    bans: Option<Bans>,
    stop: StopFilter,
    /// Text between the two filters.
    passed: String,
    /// Raw bytes seen.
    n_seen: u64,
    /// Bytes at the start that are part of the prompt.
    n_healed: u64,
    pub released: String,
}

impl Outlet {
    pub fn new(bans: Option<Bans>, stop: StopFilter, n_healed: usize) -> Self {
        Self {
            utf8: Utf8Stream::default(),
            bans,
            stop,
            passed: String::new(),
            n_seen: 0,
            n_healed: n_healed as u64,
            released: String::with_capacity(256),
        }
    }

    /// Takes the bytes of one token.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Match> {
        let n_healed = self.n_healed.saturating_sub(self.n_seen).min(bytes.len() as u64);
        self.n_seen += bytes.len() as u64;
        let bytes = bytes.get(n_healed as usize..).unwrap_or_default();
        let Self { utf8, bans, stop, passed, released, .. } = self;
        let Some(bans) = bans else {
            utf8.push(bytes, |text| stop.push(text, released));
            return None;
        };
        let found = bans.filter.push(bytes, passed);
        stop.push(passed, released);
        passed.clear();
        self.placed(found)
    }

    /// A match with its place in the raw text.
    fn placed(&self, found: Option<Match>) -> Option<Match> {
        found.map(|m| Match { start: m.start + self.n_healed, ..m })
    }

    /// The text ends here: what was held is let out, unless a phrase is completed by the end.
    pub fn finish(&mut self) -> Option<Match> {
        let Self { utf8, bans, stop, passed, released, .. } = self;
        match bans {
            None => utf8.flush(|text| stop.push(text, released)),
            Some(bans) => {
                let found = bans.filter.finish(passed);
                stop.push(passed, released);
                passed.clear();
                if found.is_some() {
                    return self.placed(found);
                }
            }
        }
        stop.finish(released);
        None
    }

    /// The text ends before what is held: an excluded phrase or a stop string.
    pub fn stop(&self) -> &StopFilter {
        &self.stop
    }

    /// What a match does; none without bans.
    pub fn on_match(&self) -> Option<OnMatch> {
        self.bans.as_ref().map(|b| b.on_match)
    }

    /// Raw bytes of the text so far.
    pub fn n_seen(&self) -> u64 {
        self.n_seen
    }

    /// Raw bytes that cannot be taken back.
    pub fn n_final(&self) -> u64 {
        self.bans.as_ref().map_or(self.n_seen, |b| self.n_healed + b.filter.n_released())
    }

    /// Takes back the text behind `n_bytes`.
    pub fn rewind(&mut self, n_bytes: u64) -> Result<()> {
        if let Some(bans) = &mut self.bans {
            bans.filter.rewind(n_bytes.saturating_sub(self.n_healed))?;
            self.n_seen = n_bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::{Bytewise, Clause, Limits, ListVocab, TokenTrie, Wording, WordingAutomaton};

    const BUDGET: usize = 40;
    const PRESSURE: f32 = 10.0;
    const DOG: TokenId = 4;
    const END: TokenId = 7;
    const N_VOCAB: usize = 8;

    /// Asks for the word dog.
    fn masks() -> Masks {
        let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(["a", " ", ".", "d", " dog", "o", "g"]))));
        let wording = Wording { include: vec![Clause::any(["dog"])], ..Wording::default() };
        let automaton = WordingAutomaton::for_vocab(&wording, &trie).expect("phrases");
        let limits = Limits { max_tokens: Some(BUDGET), ..Limits::default() };
        let constraint = Bytewise::new(automaton, trie, limits).expect("satisfiable");
        Masks::new(
            Some(Box::new(constraint)),
            PRESSURE,
            N_VOCAB,
            Vec::new(),
            Endings { text: vec![END], sentence: Some(2) },
            BUDGET,
        )
    }

    /// A row in which `token` is the likeliest.
    fn wants(token: TokenId) -> Vec<f32> {
        (0..N_VOCAB as TokenId).map(|t| if t == token { 3.0 } else { 0.0 }).collect()
    }

    fn pressed(masks: &mut Masks, n: usize, top: TokenId, is_closed: bool) -> Vec<(TokenId, f32)> {
        masks.press(n, &wants(top), is_closed).collect()
    }

    /// The pressure on the way to the word.
    fn on_word(found: &[(TokenId, f32)]) -> f32 {
        let weight = found.iter().find(|f| f.0 == DOG).expect("the word is on its way").1;
        assert!(found.iter().all(|f| f.1 == weight && f.0 != END), "{found:?}");
        weight
    }

    #[test]
    fn pressure_grows_after_an_end_that_came_too_early() {
        let mut m = masks();
        assert!(on_word(&pressed(&mut m, 0, 0, false)) < 2.0);
        for n in 0..8 {
            assert!(m.take(0).expect("accepted"));
            // the model would stop after the first token, and says no more of it later
            let top = if n == 0 { END } else { 0 };
            let want = (DENIED + n as f32 * DENIED_GROWTH) * PRESSURE;
            let found = on_word(&pressed(&mut m, n + 1, top, false));
            assert!((found - want).abs() < 1e-5, "{n}: {found}, {want}");
        }
        // what was denied behind a cut is forgotten
        m.cut_freely(1, 8).expect("cut");
        assert!(on_word(&pressed(&mut m, 1, 0, false)) < 2.0);
    }

    #[test]
    fn pressure_is_on_the_end_once_all_is_said() {
        let mut m = masks();
        assert!(m.take(DOG).expect("accepted"));
        let [(token, weight)] = pressed(&mut m, 20, 0, false)[..] else { panic!("the sentence has to end") };
        assert!(token == 2 && weight < 0.5 * PRESSURE, "{token} {weight}");
        assert!(m.take(2).expect("accepted"));
        let early = pressed(&mut m, 2, 0, true);
        let late = pressed(&mut m, 30, 0, true);
        assert!(matches!((&early[..], &late[..]), ([(END, a)], [(END, b)]) if a < b), "{early:?} {late:?}");
    }

    #[test]
    fn without_pressure_nothing_is_added() {
        let mut m = masks();
        m.pressure = 0.0;
        assert_eq!(pressed(&mut m, 30, END, true), []);
    }
}
