//! Text to tokens.

use super::bpe::BpeMerges;
use super::merge::{Merges, merge};
use super::partition::Fragment;
use super::rules::Pre;
use super::spm::{BLANK, SpmMerges};
use super::{Model, Vocab};
use crate::error::{Error, ErrorKind, Result};
use crate::token::TokenId;
use std::ops::{Deref, Range};
use std::sync::atomic::Ordering::Relaxed;

/// What to do about special tokens. The default is neither: plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// Add the begin- and end-of-text tokens that the model expects.
    pub add_bos_eos: bool,
    /// Take control tokens out of the text where it spells them. Never for text from a user.
    pub parse_special: bool,
}

impl Specials {
    /// Plain text.
    pub const NONE: Self = Self { add_bos_eos: false, parse_special: false };
    /// A whole prompt as written by a template.
    pub const ALL: Self = Self { add_bos_eos: true, parse_special: true };
}

/// A part of a text, and who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The text.
    pub text: &'a str,
    /// Whether control tokens may be taken out of it: true for templates, false for what users wrote.
    pub parse_special: bool,
}

/// The tokens of a text. Reads as a slice of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The ids.
    pub ids: Vec<TokenId>,
    /// Bytes that no token writes, with their offsets in the text: they are missing from `ids`. Some models
    /// lack tokens for a few control characters; empty otherwise.
    pub unencodable: Vec<(usize, u8)>,
}

impl Tokens {
    /// The ids, if they write the whole text.
    /// # Errors  `Unencodable`, naming the first byte that is missing and how many are.
    pub fn complete(self) -> Result<Vec<TokenId>> {
        match self.unencodable.first() {
            None => Ok(self.ids),
            Some((at, byte)) => Err(Error::new(
                ErrorKind::Unencodable,
                format!(
                    "the vocabulary has no token for byte 0x{byte:02x} at offset {at} ({} such bytes)",
                    self.unencodable.len()
                ),
            )),
        }
    }
}

impl Deref for Tokens {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        &self.ids
    }
}

impl Vocab {
    /// The tokens of `text`. Text that the vocabulary cannot write is not an error: what is lost is reported in
    /// [`Tokens::unencodable`].
    /// # Errors  `InvalidArgument` for a text of 4 GiB or more; `TooComplex` if the vocabulary's special tokens
    /// overlap absurdly in this text.
    pub fn tokenize(&self, text: &str, specials: Specials) -> Result<Tokens> {
        self.tokenize_parts(&[Part { text, parse_special: specials.parse_special }], specials.add_bos_eos)
    }

    /// As [`tokenize`](Self::tokenize) for a text in parts, of which only some may hold control tokens. Words
    /// go on across the parts' borders; control tokens do not go on into a part that may not hold them.
    /// Offsets count from the start of the first part.
    /// # Errors  As for `tokenize`.
    pub fn tokenize_parts(&self, parts: &[Part<'_>], add_bos_eos: bool) -> Result<Tokens> {
        let joined: String;
        let text = match parts {
            [one] => one.text,
            _ => {
                joined = parts.iter().map(|p| p.text).collect();
                &joined
            }
        };
        if u32::try_from(text.len()).is_err() {
            let message = format!("a text of {} bytes; at most {} can be tokenized", text.len(), u32::MAX);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let fragments = self.specials.cut(&self.pieces, text, &trusted(parts))?;
        let mut out = Tokens::default();
        out.ids.reserve(text.len() / 4 + 2);
        if add_bos_eos && self.add_bos {
            out.ids.extend(self.ids.bos);
        }
        let mut after_text = false;
        for fragment in fragments {
            match fragment {
                Fragment::Text(place) => {
                    self.encode(text, place, !after_text, &mut out);
                    after_text = true;
                }
                Fragment::Token(id) => {
                    out.ids.push(id);
                    after_text = false;
                }
            }
        }
        if add_bos_eos && self.add_eos {
            out.ids.extend(self.ids.eos);
        }
        Ok(out)
    }

    /// Adds the tokens of `text[place]`, which holds no special token and, if `first`, follows no other text.
    fn encode(&self, text: &str, place: Range<usize>, first: bool, out: &mut Tokens) {
        let plain = &text[place.clone()];
        let (escapes, prefixes) = match &self.model {
            Model::Bpe(_, pre) => (pre.plain_text, false),
            Model::Spm(_) => (true, self.add_space_prefix),
        };
        let lead = if first && prefixes { " " } else { "" };
        if lead.is_empty() && !(escapes && plain.contains(BLANK)) {
            return self.encode_escaped(plain, place.start, out);
        }
        let lost = out.unencodable.len();
        let escaped = lead.to_owned() + &plain.replace(BLANK, " ");
        self.encode_escaped(&escaped, 0, out);
        restore_offsets(plain, place.start, lead.len(), &mut out.unencodable[lost..]);
    }

    /// Adds the tokens of `text`, whose first byte is reported as offset `base`.
    fn encode_escaped(&self, text: &str, base: usize, out: &mut Tokens) {
        let Self { pieces, index, .. } = self;
        match &self.model {
            Model::Bpe(bpe, pre) => {
                let merges = BpeMerges { bpe, pieces, index };
                super::pretokenize::split(pre.stages, text, &mut |place: Range<usize>| {
                    let word = &text.as_bytes()[place.clone()];
                    self.encode_word(&merges, word, base + place.start, takes_whole(pre, word), out);
                });
            }
            Model::Spm(spm) => {
                let merges = SpmMerges { spm, pieces, index };
                spm.words(text.as_bytes(), |at, word| {
                    self.encode_word(&merges, word, base + at, false, out);
                });
            }
        }
    }

    /// Adds the tokens of a word. `take_whole`: if the word is a token, that is all.
    fn encode_word(&self, merges: &impl Merges, word: &[u8], at: usize, take_whole: bool, out: &mut Tokens) {
        let Some(id) = self.index.get(&self.pieces, word) else {
            return merge(merges, word, &mut |piece, place| {
                self.emit(piece, &word[place.clone()], at + place.start, out);
            });
        };
        let state = self.whole.get(id as usize);
        if take_whole || state.is_some_and(|s| s.load(Relaxed) == 1) {
            return out.ids.push(id);
        }
        let before = out.ids.len();
        merge(merges, word, &mut |piece, place| {
            self.emit(piece, &word[place.clone()], at + place.start, out);
        });
        if let Some(state) = state.filter(|s| s.load(Relaxed) == 0) {
            let whole = out.ids.get(before..) == Some(&[id][..]);
            state.store(if whole { 1 } else { 2 }, Relaxed);
        }
    }

    /// Adds a symbol that merging has left: its token, or one for each of its bytes.
    fn emit(&self, piece: u32, bytes: &[u8], at: usize, out: &mut Tokens) {
        if (piece as usize) < self.len() {
            return out.ids.push(piece);
        }
        if let Some(id) = self.index.get(&self.pieces, bytes) {
            return out.ids.push(id);
        }
        for (i, byte) in bytes.iter().enumerate() {
            match self.bytes[*byte as usize] {
                Some(id) => out.ids.push(id),
                None => out.unencodable.push((at + i, *byte)),
            }
        }
    }
}

/// Whether `word` is taken whole if it is a token: where the rule set says so, and for line breaks in the
/// models that have tokens but no merges for them.
fn takes_whole(pre: &Pre, word: &[u8]) -> bool {
    pre.ignore_merges || pre.gemma && word.iter().all(|b| *b == b'\n')
}

/// Ranges of the joined text that may hold control tokens, neighbours joined.
fn trusted(parts: &[Part<'_>]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for part in parts {
        let end = at + part.text.len();
        match ranges.last_mut() {
            _ if !part.parse_special || at == end => {}
            Some(last) if last.end == at => last.end = end,
            _ => ranges.push(at..end),
        }
        at = end;
    }
    ranges
}

/// Turns offsets in escaped text, which begins with `lead` bytes of its own, into offsets in the text. `lost`
/// ascends.
fn restore_offsets(plain: &str, base: usize, lead: usize, lost: &mut [(usize, u8)]) {
    let mut chars = plain.char_indices().map(|(start, c)| {
        let escaped = if c == BLANK { 1 } else { c.len_utf8() };
        (start, escaped)
    });
    let (mut start, mut from, mut to) = (0, lead, lead);
    for (at, _) in lost {
        // Goes on to the character that holds escaped offset `at`.
        while *at >= to {
            let Some((next, escaped)) = chars.next() else { break };
            (start, from, to) = (next, to, to + escaped);
        }
        *at = base + start + at.saturating_sub(from);
    }
}
