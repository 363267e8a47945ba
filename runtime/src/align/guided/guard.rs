//! Keeps numbers in JSON text short enough for every reader.
//!
//! A grammar of JSON numbers allows digits without end, and a weak model that has begun to repeat a digit
//! goes on until the limit; no parser reads the result back, and long before that an integer is read as a float. So
//! a number has at most [`MAX_RUN`] bytes, [`MAX_WHOLE`] digits before the point, and an exponent at most two. The bounds
//! are loose enough that a number can always end when it meets them: the last bytes may be digits only.

/// Longest number, in bytes. A 64-bit float needs at most 24.
const MAX_RUN: u8 = 32;
/// From here on only digits may follow, so that the number can end at `MAX_RUN`.
const LAST_MARK: u8 = 28;
/// Most digits before the point: such integers fit into 64 bits.
const MAX_WHOLE: u8 = 18;
/// Longest exponent, in digits.
const MAX_EXPONENT: u8 = 2;

/// Where in the JSON text the guard is. `marker` before which it does not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberGuard {
    /// Bytes of the marker matched so far, `None` inside the JSON text.
    waiting: Option<u16>,
    in_string: bool,
    escaped: bool,
    depth: u32,
    /// Bytes of the number so far; 0 outside one.
    run: u8,
    /// Digits before the point or the exponent.
    whole: u8,
    in_fraction: bool,
    /// Digits of the exponent; `None` before one.
    exponent: Option<u8>,
    done: bool,
}

impl NumberGuard {
    /// `after_marker`: the JSON text begins behind a marker.
    pub fn new(after_marker: bool) -> Self {
        Self {
            waiting: after_marker.then_some(0),
            in_string: false,
            escaped: false,
            depth: 0,
            run: 0,
            whole: 0,
            in_fraction: false,
            exponent: None,
            done: false,
        }
    }

    /// No guard.
    pub fn off() -> Self {
        Self { done: true, ..Self::new(false) }
    }

    /// Whether the text is inside a JSON string.
    pub fn is_in_string(&self) -> bool {
        self.in_string && !self.done
    }

    /// Whether the text ends in a number, which may go on.
    pub fn is_in_number(&self) -> bool {
        self.run > 0 && !self.done
    }

    /// What is missing of the marker, before it.
    pub fn missing<'m>(&self, marker: &'m [u8]) -> &'m [u8] {
        self.waiting.and_then(|n| marker.get(usize::from(n)..)).unwrap_or_default()
    }

    /// The state behind `bytes`; `None` if a number becomes too long.
    pub fn advance(mut self, bytes: &[u8], marker: &[u8]) -> Option<Self> {
        for &b in bytes {
            if self.done {
                break;
            }
            match self.waiting {
                Some(n) => self.waiting = next_match(marker, n, b),
                None => self.json(b)?,
            }
        }
        Some(self)
    }

    fn json(&mut self, b: u8) -> Option<()> {
        if self.in_string {
            (self.in_string, self.escaped) = (self.escaped || b != b'"', !self.escaped && b == b'\\');
            return Some(());
        }
        if matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') && (self.run > 0 || b < b'A') {
            return self.number(b);
        }
        (self.run, self.whole, self.in_fraction, self.exponent) = (0, 0, false, None);
        match b {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.done = self.depth == 0;
            }
            _ => {}
        }
        Some(())
    }

    fn number(&mut self, b: u8) -> Option<()> {
        self.run += 1;
        let is_digit = b.is_ascii_digit();
        match (&mut self.exponent, b) {
            (Some(n), b'0'..=b'9') => *n += 1,
            (None, b'0'..=b'9') => self.whole += u8::from(!self.in_fraction),
            (None, b'.') => self.in_fraction = true,
            (e @ None, b'e' | b'E') => *e = Some(0),
            _ => {}
        }
        let fits = self.run <= MAX_RUN
            && self.whole <= MAX_WHOLE
            && (is_digit || self.run <= LAST_MARK)
            && self.exponent.is_none_or(|n| n <= MAX_EXPONENT);
        fits.then_some(())
    }
}

/// Bytes of `marker` that end the text after one more byte; `None` once all of it was read.
/// Markers are short: trying each border is quick enough.
fn next_match(marker: &[u8], matched: u16, b: u8) -> Option<u16> {
    let n = usize::from(matched);
    let mut seen = marker.get(..n).unwrap_or_default().to_vec();
    seen.push(b);
    let k = (0..=seen.len().min(marker.len())).rev().find(|&k| seen.ends_with(&marker[..k]));
    match k.unwrap_or(0) {
        k if k == marker.len() => None,
        k => Some(k as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) -> bool {
        NumberGuard::new(false).advance(text.as_bytes(), b"").is_some()
    }

    #[test]
    fn numbers_end_before_no_reader_can_read_them() {
        let cases = [
            ("[1.5, -2e10, -123456789012345678, 123456789012345678.123456789]", true),
            (&format!("[{}]", "9".repeat(19)), false),
            (&format!("[0.{}]", "0".repeat(30)), true),
            (&format!("[\"{}\"]", "9".repeat(99)), true),
            (&format!("[\"\\\"{}\"]", "9".repeat(99)), true),
            (&format!("[0.{}]", "0".repeat(31)), false),
            ("1e99", true),
            ("1e100", false),
            (&format!("[1.{}e5]", "1".repeat(29)), false),
            (&format!("{{\"e\":[]}}{}", "7".repeat(99)), true),
        ];
        for (text, want) in cases {
            assert_eq!(fits(text), want, "{text}");
        }
    }

    #[test]
    fn nothing_is_counted_before_the_marker() {
        let text = format!("{} <think></thin</think>{{\"a\":1}}", "3".repeat(50));
        let g = NumberGuard::new(true);
        assert!(g.advance(text.as_bytes(), b"</think>").is_some_and(|g| g.done));
        let long = text.replace(":1", &format!(":{}", "1".repeat(40)));
        assert!(g.advance(long.as_bytes(), b"</think>").is_none());
        assert_eq!(g.advance(b"a</</thi", b"</think>").and_then(|g| g.waiting), Some(5));
    }
}
