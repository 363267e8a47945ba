//! The vocabulary of a model: what its tokens write, and how text becomes tokens.
//!
//! Everything comes from the metadata of the GGUF file; there is no other tokenizer file. Two algorithms cover
//! the models that generate text: byte-pair encoding (`gpt2`, `gemma4`) with the pre-tokenizer rules that
//! `tokenizer.ggml.pre` names, and SentencePiece's scored merging (`llama`). Ids agree with llama.cpp's for
//! every text that is UTF-8; WordPiece, Unigram and RWKV vocabularies are refused by name.
//!
//! Cost: about 20 bytes a token and 40 a merge; text at tens of MB/s, since most words are found whole. Words
//! of any length take at most `n log n` steps. It loses to a cache of words where a text repeats few long ones.

mod bpe;
mod build;
mod chars;
mod chars_table;
mod decode;
mod encode;
mod merge;
mod partition;
mod pieces;
mod pretokenize;
#[cfg(test)]
mod pretokenize_tests;
mod rule_sets;
mod rules;
mod special;
mod spm;
#[cfg(test)]
mod tests;
mod utf8;

pub use encode::{Part, Specials, Tokens};
pub use special::SpecialIds;
pub use utf8::Utf8Stream;

use crate::token::TokenId;
use bpe::Bpe;
use pieces::{Index, Pieces};
use rules::Pre;
use spm::Spm;
use std::borrow::Cow;
use std::sync::atomic::AtomicU8;

/// What a token is for (`tokenizer.ggml.token_type`, corrected where the text says otherwise).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for text the vocabulary cannot write.
    Unknown,
    /// Marks structure, such as the end of a turn. Never made from plain text, never shown.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Not in use.
    Unused,
    /// One byte.
    Byte,
    /// The file does not say.
    #[default]
    Undefined,
}

/// The vocabulary of a model. `Send + Sync`; shared by reference between threads.
pub struct Vocab {
    pieces: Pieces,
    index: Index,
    model: Model,
    /// Token for each byte of what is no token; `None` where there is none and the byte is lost.
    bytes: Box<[Option<TokenId>; 256]>,
    /// Whether merging a token's own text gives that token: 0 not tried, 1 yes, 2 no. A cache, filled as text
    /// comes by; each value depends on the vocabulary alone.
    whole: Box<[AtomicU8]>,
    specials: partition::Specials,
    ids: SpecialIds,
    /// Tokens that end generation, ascending.
    eog: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    clean_spaces: bool,
    model_name: String,
    pre_name: Option<String>,
    warnings: Vec<String>,
}

enum Model {
    /// Byte-pair encoding with its rule set.
    Bpe(Bpe, &'static Pre),
    Spm(Spm),
}

impl Vocab {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is no token. Never true for a vocabulary that was loaded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What token `id` is for; `Undefined` outside the vocabulary.
    pub fn kind(&self, id: TokenId) -> TokenKind {
        self.pieces.kind(id)
    }

    /// The bytes that `id` adds to generated text. Empty for control, unknown and unused tokens and outside
    /// the vocabulary. Not always UTF-8: a character may be spread over several tokens. Two tokens can have
    /// the same bytes.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        match self.kind(id) {
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => self.pieces.get(id),
            _ => &[],
        }
    }

    /// The bytes of `id` with control tokens spelled out, as `<|im_end|>`. Empty for unused tokens and outside
    /// the vocabulary.
    pub fn token_piece(&self, id: TokenId) -> &[u8] {
        match self.kind(id) {
            TokenKind::Unused | TokenKind::Undefined => &[],
            _ => self.pieces.get(id),
        }
    }

    /// [`token_piece`](Self::token_piece) for display: what is not UTF-8 becomes U+FFFD.
    pub fn token_text(&self, id: TokenId) -> Cow<'_, str> {
        String::from_utf8_lossy(self.token_piece(id))
    }

    /// The token that writes exactly `text`: a special token by its spelling, any other by its bytes (of
    /// several, the one that merging would make).
    pub fn find(&self, text: &str) -> Option<TokenId> {
        self.index
            .get(&self.pieces, text.as_bytes())
            .or_else(|| self.specials.find(&self.pieces, text.as_bytes()))
    }

    /// The token of a single byte that has no better one (byte fallback).
    pub fn byte_token(&self, byte: u8) -> Option<TokenId> {
        self.bytes[byte as usize]
    }

    /// Ids of tokens with a role.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Begin of text.
    pub fn bos(&self) -> Option<TokenId> {
        self.ids.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<TokenId> {
        self.ids.eos
    }

    /// End of turn.
    pub fn eot(&self) -> Option<TokenId> {
        self.ids.eot
    }

    /// Whether `id` ends generation.
    pub fn is_eog(&self, id: TokenId) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// The tokens that end generation, ascending.
    pub fn eog_ids(&self) -> &[TokenId] {
        &self.eog
    }

    /// Whether the model expects a begin-of-text token before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model expects an end-of-text token after a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether the model expects a blank before a text that does not follow other text.
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// The file's `tokenizer.ggml.model`.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// The file's `tokenizer.ggml.pre`.
    pub fn pre_name(&self) -> Option<&str> {
        self.pre_name.as_deref()
    }

    /// What was odd about the file but no reason to refuse it. For a log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl std::fmt::Debug for Vocab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocab")
            .field("model", &self.model_name)
            .field("pre", &self.pre_name)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
