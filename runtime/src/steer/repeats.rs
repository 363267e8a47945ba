//! What a nudged text must not do: repeat itself, or end within a character.

/// A repeated end of at least so many characters is cut off.
const REPEATED_CHARS: usize = 30;

/// The characters that are complete; half a one at the end is held back.
pub(super) fn whole_characters(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let unfinished = e.utf8_error().error_len().is_none();
            let valid = e.utf8_error().valid_up_to();
            let bytes = e.into_bytes();
            String::from_utf8_lossy(if unfinished { &bytes[..valid] } else { &bytes }).into_owned()
        }
    }
}

/// Whether `part` stands in `text`; nothing stands nowhere.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|w| w == part)
}

/// Bytes of `text` that stay whatever follows: its end may be the beginning of a repetition, which is cut off.
pub(super) fn n_settled(text: &str) -> usize {
    let bytes = text.as_bytes();
    let n = bytes.len();
    let same = |distance: usize| {
        let pairs = bytes[..n - distance].iter().rev().zip(bytes.iter().rev());
        pairs.take(distance).take_while(|(a, b)| a == b).count()
    };
    let held = (REPEATED_CHARS..n).map(same).max().unwrap_or(0);
    let at = n - held;
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// `text` without an end of [`REPEATED_CHARS`] or more that stands before itself.
pub(super) fn without_repeated_end(mut text: &str) -> &str {
    'again: loop {
        let n = text.len();
        for size in REPEATED_CHARS..=n / 2 {
            let (from, before) = (n - size, n - 2 * size);
            if text.is_char_boundary(from)
                && text.as_bytes()[before..from] == text.as_bytes()[from..]
                && text[from..].chars().count() >= REPEATED_CHARS
            {
                text = &text[..from];
                continue 'again;
            }
        }
        return text;
    }
}
