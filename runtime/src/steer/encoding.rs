//! The tokens of a text that grows at its end.

use crate::align::TokenBytes;
use crate::error::Result;
use crate::token::TokenId;
use crate::vocab::{Specials, Vocab};

/// Text to tokens and back.
pub trait Tokenizer: TokenBytes {
    /// The tokens of `text`; what it says is never taken for control tokens.
    /// # Errors `Unencodable` if the vocabulary cannot write it.
    fn encode(&self, text: &str) -> Result<Vec<TokenId>>;
}

impl Tokenizer for Vocab {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        self.tokenize(text, Specials::NONE)?.complete()
    }
}

impl<T: Tokenizer + ?Sized> Tokenizer for &T {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        (**self).encode(text)
    }
}

impl<T: TokenBytes + ?Sized> TokenBytes for &T {
    fn n_vocab(&self) -> usize {
        (**self).n_vocab()
    }
    fn bytes(&self, id: TokenId) -> &[u8] {
        (**self).bytes(id)
    }
    fn eog_ids(&self) -> &[TokenId] {
        (**self).eog_ids()
    }
}

/// A text with its tokens. Appending encodes again from a safe place near the end only, and gives the tokens of the
/// whole text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    text: String,
    ids: Vec<TokenId>,
    /// Byte offset before each token.
    starts: Vec<usize>,
}

/// Tokens at the end that what follows may still change.
const UNSAFE_TOKENS: usize = 2;

impl Encoding {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its tokens.
    pub fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    /// This text with `more` behind it.
    /// # Errors as [`Tokenizer::encode`].
    pub fn with<T: Tokenizer + ?Sized>(&self, tokenizer: &T, more: &str) -> Result<Self> {
        let mut text = self.text.clone();
        text.push_str(more);
        let keep = self.safe();
        let from = self.starts.get(keep).copied().unwrap_or(0);
        let keep = if from == 0 { 0 } else { keep };
        let tail = tokenizer.encode(&text[from..])?;
        let mut ids = self.ids[..keep].to_vec();
        let mut starts = self.starts[..keep].to_vec();
        let mut at = from;
        for id in tail {
            ids.push(id);
            starts.push(at);
            at += tokenizer.bytes(id).len();
        }
        Ok(Self { text, ids, starts })
    }

    /// The first token that may be encoded again by itself: it begins with the first white space after a word, and
    /// is not among the last ones.
    fn safe(&self) -> usize {
        let bytes = self.text.as_bytes();
        let is_safe = |i: &usize| {
            let at = self.starts[*i];
            let is_space = |b: Option<&u8>| b.is_some_and(u8::is_ascii_whitespace);
            at > 0 && is_space(bytes.get(at)) && !is_space(bytes.get(at - 1)) && bytes[at - 1].is_ascii()
        };
        (0..self.ids.len().saturating_sub(UNSAFE_TOKENS)).rev().find(is_safe).unwrap_or(0)
    }
}
