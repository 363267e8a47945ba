//! Turns a stream of token bytes into text that never holds half a character.

use heapless::Vec as Held;

/// Longest UTF-8 sequence in bytes.
const LONGEST: usize = 4;

/// Collects bytes until they are characters.
///
/// Tokens end anywhere, also inside a character. This holds back at most three bytes, hands on everything else
/// at once, and turns what can no longer become a character into U+FFFD, one for each maximal part as the
/// Unicode standard recommends (and as `String::from_utf8_lossy` does): however the bytes are cut, the text is
/// the same. It allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    held: Held<u8, LONGEST>,
}

const REPLACEMENT: &str = "\u{fffd}";

impl Utf8Stream {
    /// A stream that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and calls `sink` with the text that is complete, in order, in any number of parts.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        let mut rest = bytes;
        while !self.held.is_empty() {
            let Some((&first, after)) = rest.split_first() else { return };
            if self.take(first, &mut sink) {
                rest = after;
            }
        }
        self.pass(rest, &mut sink);
    }

    /// As [`push`](Self::push), but appends to `text`.
    pub fn push_to(&mut self, bytes: &[u8], text: &mut String) {
        self.push(bytes, |part| text.push_str(part));
    }

    /// Ends the stream: calls `sink` with U+FFFD if a character is unfinished. The stream is then as new.
    pub fn flush(&mut self, mut sink: impl FnMut(&str)) {
        if !self.held.is_empty() {
            self.held.clear();
            sink(REPLACEMENT);
        }
    }

    /// The bytes held back: the beginning of a character, or nothing.
    pub fn pending(&self) -> &[u8] {
        &self.held
    }

    /// Adds a byte to the unfinished character. False if it does not belong there; the character is then given
    /// up and nothing is held.
    fn take(&mut self, byte: u8, sink: &mut impl FnMut(&str)) -> bool {
        let mut sequence = self.held.clone();
        let fits = sequence.push(byte).is_ok();
        match std::str::from_utf8(&sequence) {
            Ok(c) if fits => {
                sink(c);
                self.held.clear();
            }
            Err(e) if fits && e.error_len().is_none() => self.held = sequence,
            _ => {
                self.held.clear();
                sink(REPLACEMENT);
                return false;
            }
        }
        true
    }

    /// Hands on `bytes`, of which an unfinished character at the end is held.
    fn pass(&mut self, bytes: &[u8], sink: &mut impl FnMut(&str)) {
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                sink(chunk.valid());
            }
            let bad = chunk.invalid();
            let unfinished = std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
            if unfinished && bad.as_ptr_range().end == bytes.as_ptr_range().end {
                self.held = Held::from_slice(bad).unwrap_or_default(); // at most three bytes
            } else if !bad.is_empty() {
                sink(REPLACEMENT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(bytes: &[u8], cuts: &[usize]) -> String {
        let mut text = String::new();
        let mut s = Utf8Stream::new();
        let mut at = 0;
        for cut in cuts {
            let end = (at + cut).min(bytes.len());
            s.push_to(&bytes[at..end], &mut text);
            assert!(s.pending().len() < LONGEST);
            at = end;
        }
        s.push_to(&bytes[at..], &mut text);
        s.flush(|part| text.push_str(part));
        assert!(s.pending().is_empty());
        text
    }

    #[test]
    fn half_a_character_waits_for_its_end() {
        let mut s = Utf8Stream::new();
        let mut seen = Vec::new();
        for b in "é\u{1f44d}".bytes() {
            s.push(&[b], |part| seen.push(part.to_owned()));
        }
        assert_eq!(seen, ["é", "\u{1f44d}"]);
        s.push(&[0xe2, 0x82], |_| panic!("not a character yet"));
        s.flush(|part| seen.push(part.to_owned()));
        assert_eq!(seen.last().unwrap(), REPLACEMENT);
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_whole(
            // Lead and continuation bytes are frequent, so that sequences break in every way.
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), 0xc0u8..=0xff, 0x80u8..=0xbf, Just(0xf0u8), Just(0xe2u8)], 0..40),
            cuts in proptest::collection::vec(0usize..6, 0..40),
        ) {
            prop_assert_eq!(stream(&bytes, &cuts), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn text_comes_through_unchanged(text in "\\PC{0,40}", cuts in proptest::collection::vec(0usize..4, 0..60)) {
            prop_assert_eq!(stream(text.as_bytes(), &cuts), text);
        }
    }
}
