//! Words that will probably be said: evaluated ahead, several in a pass.
//!
//! A model that decodes reads all its weights for one token; a pass over eight tokens costs two or three times one
//! token's. Where a text can be guessed, evaluating the guess at once is cheaper, and as every row depends on its own
//! past alone, the text stays what it was. The guess here is a proposal: where the text has left it, it is taken up
//! again behind the last word that both have. Cost of a wrong guess: the rows. So fewer are guessed after each wrong
//! one, more after each right one.
//! Source: the idea of Ge et al. 2022, arXiv 2205.10350 (input-guided decoding), with a proposal as the input.

use crate::token::TokenId;

/// Tokens guessed at once. Up to four rows cost a quarter more than one, eight a half more, sixteen three times as
/// much (measured on both catalog models): so three are always worth a try, and more than seven never.
const LEAST: usize = 3;
const MOST: usize = 7;

/// Tokens that may come, and how many of them to believe.
#[derive(Clone, Debug)]
pub struct Draft {
    ids: Vec<TokenId>,
    width: usize,
}

impl Default for Draft {
    fn default() -> Self {
        Self { ids: Vec::new(), width: MOST }
    }
}

impl Draft {
    /// Takes `ids`, a whole text, for what will be said.
    pub fn set(&mut self, ids: &[TokenId]) {
        self.ids.clear();
        self.ids.extend_from_slice(ids);
    }

    /// What may follow `said`.
    pub fn after(&self, said: &[TokenId]) -> &[TokenId] {
        let same = self.ids.iter().zip(said).take_while(|(a, b)| a == b).count();
        let from = if same == said.len() { same } else { self.taken_up(said, same) };
        let rest = self.ids.get(from..).unwrap_or(&[]);
        &rest[..rest.len().min(self.width)]
    }

    /// Behind the last token of `said` as it comes first behind the `same` tokens that both have.
    fn taken_up(&self, said: &[TokenId], same: usize) -> usize {
        let Some(last) = said.last() else { return self.ids.len() };
        let found = self.ids[same..].iter().position(|id| id == last);
        found.map_or(self.ids.len(), |at| same + at + 1)
    }

    /// Learns that `n_right` of `n_guessed` came.
    pub fn learn(&mut self, n_right: usize, n_guessed: usize) {
        self.width = match n_right {
            _ if n_guessed == 0 => self.width,
            n if n >= n_guessed => (self.width * 2).min(MOST),
            n => (n + 1).max(LEAST),
        };
    }
}
