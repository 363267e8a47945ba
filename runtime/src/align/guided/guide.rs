//! What grammars need of a vocabulary, built once and shared.

use std::sync::{Arc, OnceLock};

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::super::trie::{TokenBytes, TokenTrie};
use crate::error::{Error, ErrorKind, Result};

/// Longest token the engine's tree is given, in bytes; a longer one is never allowed.
const MAX_TOKEN_BYTES: usize = 1000;
/// The engine packs a token id into 24 bits.
const MAX_VOCAB: usize = (1 << 24) - 2;
/// Id of the end in the vocabulary of single bytes.
pub(super) const BYTE_END: u32 = 256;

type Factory = OnceLock<std::result::Result<ParserFactory, String>>;

/// A vocabulary made ready for grammars: keep one per vocabulary and share it.
///
/// Nothing is built before the first grammar asks for it. Building takes 0.1 s for 49 152 tokens and
/// 0.7 s for 262 144.
pub struct Guide {
    trie: Arc<TokenTrie>,
    single_bytes: [bool; 256],
    env: OnceLock<TokEnv>,
    plain: Factory,
    json: Factory,
}

impl Guide {
    /// A guide over the vocabulary of `trie`.
    /// # Errors `Unsupported` if no token ends a text, or there are more than 2^24 - 2 tokens.
    pub fn new(trie: Arc<TokenTrie>) -> Result<Self> {
        let vocab = trie.vocab();
        let n = vocab.n_vocab();
        if n > MAX_VOCAB {
            return Err(unsupported(format!("expected at most {MAX_VOCAB} tokens, found {n}")));
        }
        if !vocab.eog_ids().iter().any(|&t| (t as usize) < n) {
            return Err(unsupported("expected a token that ends the text, found none".into()));
        }
        let single_bytes = trie.single_bytes();
        Ok(Self { trie, single_bytes, env: OnceLock::new(), plain: OnceLock::new(), json: OnceLock::new() })
    }

    /// The tree of the vocabulary.
    pub fn trie(&self) -> &Arc<TokenTrie> {
        &self.trie
    }

    /// Whether each byte of `text` has a token of its own, so that `text` needs no more tokens than bytes.
    pub(super) fn spells(&self, text: &[u8]) -> bool {
        text.iter().all(|&b| self.single_bytes[usize::from(b)])
    }

    /// `wide`: with the tables that speed up masks in which nearly every token is allowed, as in JSON
    /// strings and free text. They are most of the memory and of the building time.
    pub(super) fn factory(&self, wide: bool) -> Result<&ParserFactory> {
        let (cell, slices) = match wide {
            true => (&self.json, SlicedBiasComputer::json_slices()),
            false => (&self.plain, Vec::new()),
        };
        let env = self.env.get_or_init(|| environment(self.trie.vocab()));
        cell.get_or_init(|| factory(env, &slices)).as_ref().map_err(|e| Error::new(ErrorKind::Internal, e))
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").field("trie", &self.trie).finish_non_exhaustive()
    }
}

/// The vocabulary whose tokens are the bytes `0..=254` and one end. (255 marks control tokens in the
/// engine; no text in UTF-8 holds it.)
pub(super) fn bytes_factory() -> Result<&'static ParserFactory> {
    static BYTES: Factory = OnceLock::new();
    let build = || {
        let words: Vec<Vec<u8>> =
            (0..=BYTE_END).map(|b| if b < 255 { vec![b as u8] } else { Vec::new() }).collect();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, BYTE_END), &words);
        factory(&(Arc::new(ApproximateTokEnv::new(trie)) as TokEnv), &[])
    };
    BYTES.get_or_init(build).as_ref().map_err(|e| Error::new(ErrorKind::Internal, e))
}

/// Raw bytes of the tokens that write text; nothing for the others, which are therefore never allowed.
/// The environment is declared not canonical: every spelling of a forced text stays allowed, as exact
/// sampling needs.
fn environment(vocab: &dyn TokenBytes) -> TokEnv {
    let n = vocab.n_vocab() as u32;
    let eog: Vec<u32> = vocab.eog_ids().iter().copied().filter(|&t| t < n).collect();
    let word = |t: u32| {
        let bytes = vocab.bytes(t);
        let is_text = bytes.len() <= MAX_TOKEN_BYTES && bytes.first() != Some(&0xFF) && !eog.contains(&t);
        if is_text { bytes.to_vec() } else { Vec::new() }
    };
    let words: Vec<Vec<u8>> = (0..n).map(word).collect();
    let first = eog.first().copied().unwrap_or(0);
    let trie = TokTrie::from(&TokRxInfo::new(n, first), &words);
    let trie = if eog.len() > 1 { trie.with_eos_tokens(&eog) } else { trie };
    Arc::new(ApproximateTokEnv::new(trie))
}

fn factory(env: &TokEnv, slices: &[String]) -> std::result::Result<ParserFactory, String> {
    let mut f =
        ParserFactory::new(env, InferenceCapabilities::default(), slices).map_err(|e| e.to_string())?;
    f.quiet();
    *f.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
    Ok(f)
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message).at("vocabulary")
}

/// A matcher must be able to move between threads with its constraint.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Matcher>();
};
