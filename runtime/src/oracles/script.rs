//! A model that says what it is told to: oracle O3.

use super::law::Law;
use crate::token::TokenId;
use std::collections::BTreeMap;

/// Plays a fixed byte script through any tokenisation: whatever prefix of the script has been said, every
/// token that goes on with it is likely, longer ones more so. At the end of the script, or once off it, the
/// text ends. Single positions can be overridden.
#[derive(Clone, Debug)]
pub struct Script {
    /// Bytes of each token; the end token has the next id and none.
    tokens: Vec<Vec<u8>>,
    script: Vec<u8>,
    /// Position in tokens, and the token that is said there whatever the script wants.
    overrides: BTreeMap<usize, TokenId>,
}

impl Script {
    /// Weight of a token that does not go on with the script, against 1 for the shortest that does.
    const OFF: f64 = 1e-6;

    /// Plays `script` with `tokens`; the end token gets the id `tokens.len()`.
    pub fn new(tokens: Vec<Vec<u8>>, script: &[u8]) -> Self {
        Self { tokens, script: script.to_vec(), overrides: BTreeMap::new() }
    }

    /// Says `token` at the position `n_before` tokens into the text.
    #[must_use]
    pub fn with_override(mut self, n_before: usize, token: TokenId) -> Self {
        self.overrides.insert(n_before, token);
        self
    }

    /// What is left to say after `prefix`; none if it left the script.
    fn rest(&self, prefix: &[TokenId]) -> Option<&[u8]> {
        prefix
            .iter()
            .try_fold(&self.script[..], |rest, t| rest.strip_prefix(&self.tokens.get(*t as usize)?[..]))
    }

    fn wants_end(&self, prefix: &[TokenId]) -> bool {
        self.rest(prefix).is_none_or(<[u8]>::is_empty)
    }

    /// Weight of a text token after `prefix`.
    fn weight(&self, prefix: &[TokenId], token: &[u8]) -> f64 {
        match self.rest(prefix) {
            Some(rest) if !token.is_empty() && rest.starts_with(token) => token.len() as f64,
            _ => Self::OFF,
        }
    }
}

impl Law for Script {
    fn n_vocab(&self) -> usize {
        self.tokens.len() + 1
    }

    fn eos(&self) -> TokenId {
        self.tokens.len() as TokenId
    }

    fn probs(&self, prefix: &[TokenId], out: &mut [f64]) {
        let eos = self.tokens.len();
        for (p, token) in out.iter_mut().zip(&self.tokens) {
            *p = self.weight(prefix, token);
        }
        out[eos] = if self.wants_end(prefix) { 1.0 } else { Self::OFF };
        if let Some(t) = self.overrides.get(&prefix.len()) {
            out.fill(Self::OFF);
            out[*t as usize % (eos + 1)] = 1.0;
        }
        let total: f64 = out.iter().sum();
        out.iter_mut().for_each(|p| *p /= total);
    }
}
