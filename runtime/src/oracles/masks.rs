//! The constraint of an instance, as exact samplers see it.

use super::exact::Exact;
use super::instance::Instance;
use crate::error::Result;
use crate::sampling::exact::MaskSource;
use crate::token::{TokenId, TokenSet};

/// Masks of an instance, counted.
#[derive(Clone, Debug)]
pub struct Masks<'a> {
    exact: &'a Exact<'a>,
    instance: &'a Instance,
    ends: TokenSet,
    viable: bool,
    n_calls: u64,
}

impl<'a> Masks<'a> {
    /// Exactly the tokens with which the text can still end in the language within the budget.
    pub fn viable(exact: &'a Exact<'a>) -> Self {
        let instance = exact.instance();
        let mut ends = TokenSet::none(instance.tokens.len() + 1);
        ends.insert(instance.eos());
        Self { exact, instance, ends, viable: true, n_calls: 0 }
    }

    /// The tokens the automaton survives: dead ends and the budget are not seen coming.
    pub fn loose(exact: &'a Exact<'a>) -> Self {
        Self { viable: false, ..Self::viable(exact) }
    }

    /// Masks asked for so far.
    pub fn n_calls(&self) -> u64 {
        self.n_calls
    }

    fn survivors(&self, prefix: &[TokenId]) -> TokenSet {
        let mut set = TokenSet::none(self.ends.n_vocab());
        let Some(state) = self.instance.dfa.run(0, &self.instance.bytes(prefix)) else { return set };
        for (t, bytes) in self.instance.tokens.iter().enumerate() {
            if self.instance.dfa.run(state, bytes).is_some() {
                set.insert(t as TokenId);
            }
        }
        if self.instance.dfa.accepts(state) {
            set.insert(self.instance.eos());
        }
        set
    }
}

impl MaskSource for Masks<'_> {
    fn ends(&self) -> &TokenSet {
        &self.ends
    }

    fn mask(&mut self, prefix: &[TokenId], set: &mut TokenSet) -> Result<()> {
        self.n_calls += 1;
        set.intersect(&if self.viable { self.exact.mask(prefix) } else { self.survivors(prefix) });
        Ok(())
    }
}
