//! A vocabulary made ready for constraints, shared by all of them.

use std::sync::{Arc, OnceLock};

use super::guided::Guide;
use super::trie::{TokenBytes, TokenTrie};
use crate::error::Result;

/// The tokens of a vocabulary in the forms that constraints walk. Keep one per vocabulary: the prefix tree takes
/// 10 to 100 ms, the tables for JSON Schema and Lark 0.1 to 0.7 s when first asked for.
#[derive(Debug)]
pub struct Lexicon {
    trie: Arc<TokenTrie>,
    guide: OnceLock<Arc<Guide>>,
}

impl Lexicon {
    /// The lexicon of `vocab`.
    pub fn new(vocab: Arc<dyn TokenBytes>) -> Self {
        Self { trie: Arc::new(TokenTrie::new(vocab)), guide: OnceLock::new() }
    }

    /// The prefix tree of the tokens.
    pub fn trie(&self) -> &Arc<TokenTrie> {
        &self.trie
    }

    /// The tables for JSON Schema and Lark.
    /// # Errors As [`Guide::new`].
    pub fn guide(&self) -> Result<Arc<Guide>> {
        if let Some(guide) = self.guide.get() {
            return Ok(Arc::clone(guide));
        }
        let guide = Arc::new(Guide::new(Arc::clone(&self.trie))?);
        Ok(Arc::clone(self.guide.get_or_init(|| guide)))
    }
}
