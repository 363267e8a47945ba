//! Tokens to text.

use super::{TokenKind, Vocab};
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;

impl Vocab {
    /// The text of `ids` as bytes, with control tokens spelled out if `with_special`, the way the model's
    /// published decoder writes it: without the blank that some models put before a text, and for some models
    /// without blanks before punctuation. For text that is streamed or must come back exactly, join
    /// [`token_bytes`](Self::token_bytes).
    /// # Errors  `InvalidArgument` for an id outside the vocabulary, naming it and its place.
    pub fn detokenize(&self, ids: &[TokenId], with_special: bool) -> Result<Vec<u8>> {
        let mut text = Vec::with_capacity(ids.len() * 4);
        let mut at_start = self.add_space_prefix;
        for (i, &id) in ids.iter().enumerate() {
            if id as usize >= self.len() {
                let message = format!("expected token ids below {}, found {id} at place {i}", self.len());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            let hidden = matches!(self.kind(id), TokenKind::Control | TokenKind::Unknown);
            if hidden && !with_special {
                continue;
            }
            let piece = self.token_piece(id);
            text.extend_from_slice(match piece.strip_prefix(b" ") {
                Some(rest) if at_start => rest,
                _ => piece,
            });
            at_start = false;
        }
        if self.clean_spaces {
            clean_up(&mut text);
        }
        Ok(text)
    }
}

/// Drops blanks before `? ! . ,`, around a lone apostrophe, and before `'s 'm 're 've`, in that order.
///
/// The clean-up of Hugging Face tokenizers as llama.cpp does it.
fn clean_up(text: &mut Vec<u8>) {
    drop_blanks(text, |rest| matches!(rest, [b'?' | b'!' | b'.' | b',', ..]).then_some(0));
    drop_blanks(text, |rest| matches!(rest, [b'\'', b' ', ..]).then_some(1));
    drop_blanks(text, |rest| {
        let dropped = matches!(rest, [b'\'', b's' | b'm', ..] | [b'\'', b'r' | b'v', b'e', ..]);
        dropped.then_some(0)
    });
}

/// Drops each blank for which `rule` answers when shown what follows it; the answer is how many bytes to drop
/// after the one that follows.
fn drop_blanks(text: &mut Vec<u8>, rule: impl Fn(&[u8]) -> Option<usize>) {
    let mut kept = 0;
    let mut at = 0;
    let mut after_blank = false;
    while at < text.len() {
        let more = if after_blank { rule(&text[at..]) } else { None };
        kept -= usize::from(more.is_some()); // the blank was kept just before
        let byte = text[at];
        text[kept] = byte;
        kept += 1;
        at += 1 + more.unwrap_or(0);
        after_blank = byte == b' ';
    }
    text.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_dropped_where_the_published_decoders_do() {
        let cases = [
            ("Hello , world !", "Hello, world!"),
            ("a  ? b", "a ? b"),
            (" .", "."),
            ("it 's we 're you 've I 'm", "it's we're you've I'm"),
            ("they 'll don 't he 'd", "they 'll don 't he 'd"),
            ("rock ' n ' roll", "rock'n'roll"),
            ("a ' ' b", "a'' b"),
            ("x '", "x '"),
            ("", ""),
            (" ", " "),
        ];
        for (text, expected) in cases {
            let mut bytes = text.as_bytes().to_vec();
            clean_up(&mut bytes);
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{text:?}");
        }
    }
}
