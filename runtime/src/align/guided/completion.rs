//! Finds a short text that completes what has been written, by driving the grammar's matcher over single bytes.
//!
//! The engine knows what may come next, not how far the end is. So the end is searched for: take what is
//! forced, then the byte that most likely closes something, until the text may end. In JSON that finds the shortest
//! text nearly always: quotes, brackets and braces close as soon as they may, optional properties are
//! left out, numbers have one digit. Where a preference runs in circles (`/a*b/`), another one is tried that takes each
//! byte in turn. The result is checked by construction: it was accepted byte by byte.
//! Cost: 3 to 6 µs a byte. It loses to exact distances where a grammar hides its exit among many equal
//! choices; then no completion is found and the text is refused, never left open.

use llguidance::Matcher;

use super::guard::NumberGuard;
use super::guide::BYTE_END;

/// How the next byte is chosen where the grammar leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preference {
    /// What closes, then digits, then letters.
    Close,
    /// As `Close`, but a number rather than a string.
    Digits,
    /// As `Close`, digits and letters from the last to the first: large numbers meet a lower bound soonest.
    Last,
    /// What closes, else the byte taken least often so far.
    Rarest,
    /// As `Rarest`, punctuation first.
    Marks,
}

const ALL: [Preference; 5] =
    [Preference::Close, Preference::Digits, Preference::Last, Preference::Rarest, Preference::Marks];

/// What a search needs to know of the grammar.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// The marker before JSON text; empty without one.
    pub marker: Vec<u8>,
    /// Contents of strings that satisfy one of the patterns each, quoted for JSON, shortest first.
    pub strings: Vec<Vec<u8>>,
    /// Whether to look one byte ahead for the end, as grammars other than JSON need.
    pub looks_ahead: bool,
}

/// Searches for completions of a matcher over [`super::guide::bytes_factory`].
pub(super) struct Search<'a> {
    pub matcher: &'a Matcher,
    /// Longest completion of interest.
    pub max_bytes: usize,
    /// Where the text stands in JSON.
    pub guard: NumberGuard,
    pub hints: &'a Hints,
}

impl Search<'_> {
    /// The first completion found.
    pub fn first(&self) -> Option<Vec<u8>> {
        ALL.into_iter().find_map(|p| self.with(p, self.max_bytes))
    }

    /// The completion that costs least; of those found later, only ones with fewer bytes are considered, and the
    /// last resorts only if there is none.
    pub fn cheapest(&self, cost: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let (mut best, mut max_bytes) = (None::<(usize, Vec<u8>)>, self.max_bytes);
        for p in ALL {
            if best.is_some() && matches!(p, Preference::Rarest | Preference::Marks) {
                break;
            }
            let Some(text) = self.with(p, max_bytes) else { continue };
            let Some(n) = cost(&text) else { continue };
            max_bytes = text.len().saturating_sub(1);
            if best.as_ref().is_none_or(|(least, _)| n < *least) {
                best = Some((n, text));
            }
        }
        best.map(|(_, text)| text)
    }

    fn with(&self, preference: Preference, max_bytes: usize) -> Option<Vec<u8>> {
        let mut run = Run {
            m: self.matcher.clone(),
            guard: self.guard,
            taken: [0; 256],
            preference,
            hints: self.hints,
            hinted: false,
            n_steps: 0,
        };
        let max_bytes = if self.hints.looks_ahead { max_bytes.min(MAX_GENERAL) } else { max_bytes };
        let mut text = Vec::new();
        while !run.m.is_accepting().ok()? {
            let more = run.next()?;
            text.extend_from_slice(&more);
            if text.len() > max_bytes {
                return None;
            }
        }
        Some(text)
    }
}

/// One search under way.
struct Run<'a> {
    m: Matcher,
    guard: NumberGuard,
    /// How often each byte was taken.
    taken: [u16; 256],
    preference: Preference,
    hints: &'a Hints,
    /// Whether the present string was completed by a hint, in vain.
    hinted: bool,
    n_steps: usize,
}

impl Run<'_> {
    /// The next bytes, already taken.
    fn next(&mut self) -> Option<Vec<u8>> {
        let marker = self.guard.missing(&self.hints.marker);
        let more = match fits(&mut self.m, marker) {
            true => marker.to_vec(),
            false => self.m.compute_ff_bytes(),
        };
        let more = if more.is_empty() { self.choose()? } else { more };
        self.guard = self.guard.advance(&more, &self.hints.marker)?;
        self.hinted &= self.guard.is_in_string();
        for &b in &more {
            self.taken[usize::from(b)] = self.taken[usize::from(b)].saturating_add(1);
            self.m.consume_token(u32::from(b)).ok()?;
        }
        Some(more)
    }

    fn choose(&mut self) -> Option<Vec<u8>> {
        let mask = self.m.compute_mask_or_eos().ok()?;
        let allowed = || mask.iter().filter(|&t| t < BYTE_END).map(|t| t as u8);
        if self.guard.is_in_string() && !self.hinted && !mask.is_allowed(u32::from(b'"')) {
            self.hinted = true;
            let m = &mut self.m;
            let whole = self.hints.strings.iter().map(|h| [h, &b"\""[..]].concat());
            if let Some(whole) = whole.into_iter().find(|w| fits(m, w)) {
                return Some(whole);
            }
        }
        self.n_steps += 1;
        if self.hints.looks_ahead && self.n_steps <= MAX_LOOKS {
            let ends = |&b: &u8| {
                let mut m = self.m.clone();
                m.consume_token(u32::from(b)).is_ok() && m.is_accepting().unwrap_or(false)
            };
            if let Some(b) = allowed().take(MAX_LOOK_AHEAD).find(ends) {
                return Some(vec![b]);
            }
        }
        allowed().min_by_key(|&b| self.rank(b)).map(|b| vec![b])
    }

    /// Lower is tried earlier: by times taken where that counts, then by kind.
    fn rank(&self, b: u8) -> (u16, u16) {
        match b {
            b'"' if self.guard.is_in_string() => (0, 0),
            b'}' | b']' | b')' if self.guard.is_in_string() => (self.times(b), 1000 + u16::from(b)),
            b'}' => (0, 0),
            b']' => (0, 1),
            b')' => (0, 2),
            // what ends a number comes before what would go on with it
            b',' if self.guard.is_in_number() => (0, 3),
            _ => (self.times(b), kind(self.preference, b)),
        }
    }

    fn times(&self, b: u8) -> u16 {
        match self.preference {
            Preference::Rarest | Preference::Marks => 1 + self.taken[usize::from(b)],
            _ => 1,
        }
    }
}

/// Whether `bytes`, some at least, may come next: a marker may not inside a character.
fn fits(m: &mut Matcher, bytes: &[u8]) -> bool {
    let ids: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
    !ids.is_empty() && m.validate_tokens(&ids).is_ok_and(|n| n == ids.len())
}

/// Bytes tried at one place when looking ahead, and places where that is done: each try copies the matcher.
const MAX_LOOK_AHEAD: usize = 64;
const MAX_LOOKS: usize = 64;
/// Longest completion looked for in grammars other than JSON: a search in circles must end soon.
const MAX_GENERAL: usize = 2048;

/// Lower is tried earlier.
fn kind(preference: Preference, b: u8) -> u16 {
    let b16 = u16::from(b);
    match b {
        b'0'..=b'9' if preference == Preference::Digits => 10 + b16,
        b'"' => 100,
        _ if preference == Preference::Marks && b.is_ascii_punctuation() && !matches!(b, b'[' | b'{') => 101,
        b'0'..=b'9' if preference == Preference::Last => 200 - b16,
        b'0'..=b'9' => 110 + b16,
        b'n' if preference != Preference::Last => 200,
        b'a'..=b'z' | b'A'..=b'Z' if preference == Preference::Last => 400 - b16,
        b'a'..=b'z' => 300 + b16,
        b'A'..=b'Z' => 500 + b16,
        0x80.. => 2000 + b16,
        b' ' | b'\t' | b'\r' | b'\n' => 1600 + b16,
        b'[' => 1500,
        b'{' => 1501,
        _ => 1000 + b16,
    }
}
