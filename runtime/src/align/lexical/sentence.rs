//! Where sentences begin and end: one automaton for enforcing and for checking.
//!
//! A sentence ends at a run of `. ! ? …` with closing quotes or brackets, then white space or the end of
//! the text; after `。！？` no white space is needed. No end after the titles and abbreviations below,
//! after a single capital letter (but `I`), or where one full stop is followed by a lower-case letter. An
//! empty line always ends one. The count rises when a sentence begins.
//! It loses on text without punctuation, and on `etc.` or `a.m.` at the end of a sentence that goes on in
//! capitals; external segmenters are better readers, but cannot say beforehand what may come next.

/// Words whose full stop ends nothing, without that stop.
const ABBREVIATIONS: &[&str] = &[
    "Mr", "Mrs", "Ms", "Mx", "Dr", "Prof", "St", "Rev", "Hon", "Gen", "Col", "Maj", "Capt", "Lt", "Sgt",
    "Gov", "Sen", "Rep", "Pres", "Mt", "Fr", "Fig", "Figs", "Eq", "Vol", "pp", "vs", "cf", "ca", "e.g",
    "i.e", "approx", "Jan", "Feb", "Mar", "Apr", "Aug", "Sept", "Oct", "Nov", "Dec",
];

/// What a character is to a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Anything else, digits and punctuation included.
    #[default]
    Other,
    /// A letter, with its ASCII code if it is in an abbreviation, else 0.
    Letter(LetterCase, u8),
    Space,
    Newline,
    Dot,
    /// `!`, `?`, `…`
    Stop,
    /// A stop that needs no white space after it.
    WideStop,
    /// A closing quote or bracket.
    Closer,
}

/// The case of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LetterCase {
    Lower,
    Upper,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    /// Between sentences.
    #[default]
    Start,
    Inside,
    /// Inside, at the end of a line.
    InsideNewline,
    /// After one full stop.
    Dot,
    /// After one full stop and white space.
    DotSpace,
    DotNewline,
    /// After the full stop of an abbreviation.
    Abbreviation,
    Stop,
    WideStop,
}

/// Where in a sentence the text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sentence {
    phase: Phase,
    /// The beginning of an abbreviation that the word so far is: a node of [`Words`] plus 1; 0 if none.
    word: u8,
    /// Whether the word so far is one capital letter.
    is_initial: bool,
    in_word: bool,
}

/// The abbreviations as a tree: nodes are prefixes.
pub(super) struct Words {
    /// By node: (character, node), and whether it is a whole word.
    nodes: Vec<(Vec<(u8, u8)>, bool)>,
}

impl Words {
    pub fn new() -> Self {
        let mut nodes: Vec<(Vec<(u8, u8)>, bool)> = vec![(Vec::new(), false)];
        for word in ABBREVIATIONS {
            let mut at = 0;
            for byte in word.bytes() {
                let known = nodes[at].0.iter().find(|(b, _)| *b == byte).map(|&(_, n)| usize::from(n));
                at = known.unwrap_or_else(|| {
                    let fresh = nodes.len();
                    nodes.push((Vec::new(), false));
                    nodes[at].0.push((byte, fresh as u8)); // fewer than 255 letters in the list
                    fresh
                });
            }
            nodes[at].1 = true;
        }
        Self { nodes }
    }

    fn step(&self, word: u8, byte: u8) -> u8 {
        let Some((edges, _)) = word.checked_sub(1).and_then(|n| self.nodes.get(usize::from(n))) else {
            return 0;
        };
        edges.iter().find(|(b, _)| *b == byte).map_or(0, |&(_, n)| n + 1)
    }

    fn is_whole(&self, word: u8) -> bool {
        word.checked_sub(1).and_then(|n| self.nodes.get(usize::from(n))).is_some_and(|n| n.1)
    }
}

impl Sentence {
    /// Reads a character; true if a sentence begins with it.
    pub fn read(&mut self, words: &Words, class: Class) -> bool {
        let (phase, begins) = self.next(words, class);
        self.phase = phase;
        self.spell(words, class);
        begins
    }

    /// Whether the text may end here without leaving a sentence open.
    pub fn is_closed(self) -> bool {
        !matches!(self.phase, Phase::Inside | Phase::InsideNewline)
    }

    fn next(&self, words: &Words, class: Class) -> (Phase, bool) {
        use Phase::*;
        let inside = match class {
            Class::Dot if self.is_initial || words.is_whole(self.word) => Abbreviation,
            Class::Dot => Dot,
            Class::Stop => Stop,
            Class::WideStop => WideStop,
            Class::Newline => InsideNewline,
            _ => Inside,
        };
        let begun = if inside == Abbreviation { Dot } else { inside };
        match (self.phase, class) {
            (Start, Class::Space | Class::Newline) => (Start, false),
            (Start, _) => (begun, true),
            (InsideNewline, Class::Space) => (InsideNewline, false),
            (InsideNewline, Class::Newline) => (Start, false),
            (Inside | InsideNewline, _) => (inside, false),
            (Dot | Abbreviation, Class::Dot) => (Stop, false),
            (Dot, Class::Closer) => (Dot, false),
            (Dot, Class::Space) => (DotSpace, false),
            (Dot, Class::Newline) => (DotNewline, false),
            (Abbreviation, Class::Closer) => (Abbreviation, false),
            (Dot | Abbreviation, _) => (inside, false),
            (DotSpace | DotNewline, Class::Space) => (self.phase, false),
            (DotSpace, Class::Newline) => (DotNewline, false),
            (DotNewline, Class::Newline) => (Start, false),
            (DotSpace | DotNewline, Class::Letter(LetterCase::Lower, _)) => (Inside, false),
            (DotSpace | DotNewline, _) => (begun, true),
            (Stop | WideStop, Class::Dot | Class::Stop | Class::WideStop | Class::Closer) => {
                (if class == Class::WideStop { WideStop } else { self.phase }, false)
            }
            (Stop | WideStop, Class::Space | Class::Newline) => (Start, false),
            (Stop, _) => (inside, false),
            (WideStop, _) => (begun, true),
        }
    }

    /// Follows the word the character belongs to.
    fn spell(&mut self, words: &Words, class: Class) {
        match class {
            Class::Letter(case, ascii) => {
                let from = if self.in_word { self.word } else { self.word.max(1) };
                self.is_initial = !self.in_word && case == LetterCase::Upper && ascii != b'I';
                self.word = words.step(from, ascii);
                self.in_word = true;
            }
            Class::Dot => {
                self.word = words.step(self.word, b'.');
                (self.in_word, self.is_initial) = (false, false);
            }
            _ => (self.word, self.in_word, self.is_initial) = (0, false, false),
        }
    }
}

/// The class of a character that is a letter (`case`), white space, or neither.
pub(super) fn class_of(c: char, case: Option<LetterCase>, is_space: bool) -> Class {
    match (c, case) {
        ('\n', _) => Class::Newline,
        ('.', _) => Class::Dot,
        ('!' | '?' | '…', _) => Class::Stop,
        ('。' | '！' | '？', _) => Class::WideStop,
        ('"' | '\'' | ')' | ']' | '}' | '»' | '’' | '”' | '」' | '』' | '）', _) => Class::Closer,
        (_, Some(case)) => Class::Letter(case, if singled_out(c) { c as u8 } else { 0 }),
        _ if is_space => Class::Space,
        _ => Class::Other,
    }
}

/// Characters whose class is not that of all letters of their case or all other characters.
pub(super) fn special() -> impl Iterator<Item = char> {
    let marks = "\n.!?…。！？\"')]}»’”」』）";
    marks.chars().chain(('A'..='z').filter(|&c| singled_out(c)))
}

fn singled_out(c: char) -> bool {
    c == 'I' || (c.is_ascii_alphabetic() && ABBREVIATIONS.iter().any(|w| w.contains(c)))
}

/// Number of sentences in `text`, and whether the last one is closed.
#[cfg(test)]
fn count(text: &str) -> (usize, bool) {
    let (words, mut s) = (Words::new(), Sentence::default());
    let case = |c: char| match c {
        _ if c.is_lowercase() => Some(LetterCase::Lower),
        _ if c.is_uppercase() => Some(LetterCase::Upper),
        _ => c.is_alphabetic().then_some(LetterCase::None),
    };
    let n = text.chars().filter(|&c| s.read(&words, class_of(c, case(c), c.is_whitespace()))).count();
    (n, s.is_closed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_counted_as_read() {
        for (text, n, closed) in [
            ("", 0, true),
            ("Hello", 1, false),
            ("Hello.", 1, true),
            ("Hello. World.", 2, true),
            ("Hello. World", 2, false),
            ("Dr. Smith met Mr. J. R. Jones at 3.14 p.m. today.", 1, true),
            ("We use it, e.g. Here. Done.", 2, true),
            ("It cost 5 ft. of wire. Yes!", 2, true),
            ("Really?! \"Yes.\" She left.", 3, true),
            ("(He left.) She stayed.", 2, true),
            ("No. That is wrong.", 2, true),
            ("Do I? I do.", 2, true),
            ("So do I. Then we agree.", 2, true),
            ("Title\n\nText.", 2, true),
            ("A line\nand more.", 1, true),
            ("First.\nSecond.\n\n\nThird.", 3, true),
            ("犬。猫！鳥", 3, false),
            ("「犬。」猫。", 2, true),
            ("Wait... What?", 2, true),
            ("a.b c.d", 1, false),
            ("  . ", 1, true),
            ("Go to example.com now.", 1, true),
        ] {
            assert_eq!(count(text), (n, closed), "{text:?}");
        }
    }
}
