//! A constraint as the exact samplers see it: masks by prefix instead of by step.
//!
//! Exact samplers jump between prefixes of one prompt. The constraint follows: it takes back what two
//! prefixes do not share and takes the rest, so neighbouring questions cost a token or two.

use super::constraint::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::exact::MaskSource;
use crate::token::{TokenId, TokenSet};

/// Masks of a constraint for [`Cars`](crate::sampling::exact::Cars) and its kin.
pub struct ConstraintMasks {
    constraint: Box<dyn Constraint>,
    ends: TokenSet,
    /// Tokens accepted since the constraint was handed over.
    held: Vec<TokenId>,
}

impl ConstraintMasks {
    /// Texts begin where `constraint` stands. `ends`: the tokens that end a text.
    /// # Errors `VocabMismatch` if an end is not in the constraint's vocabulary.
    pub fn new(constraint: Box<dyn Constraint>, ends: &[TokenId]) -> Result<Self> {
        let n_vocab = constraint.n_vocab();
        if let Some(t) = ends.iter().find(|t| **t as usize >= n_vocab) {
            let message = format!("expected end tokens below {n_vocab}, found {t}");
            return Err(Error::new(ErrorKind::VocabMismatch, message));
        }
        let mut set = TokenSet::none(n_vocab);
        ends.iter().for_each(|t| set.insert(*t));
        Ok(Self { constraint, ends: set, held: Vec::new() })
    }

    /// Leads the constraint to `prefix`. False if it refuses one of the tokens: no text goes on from there.
    fn go_to(&mut self, prefix: &[TokenId]) -> Result<bool> {
        let shared = self.held.iter().zip(prefix).take_while(|(a, b)| a == b).count();
        self.constraint.rollback(self.held.len() - shared)?;
        self.held.truncate(shared);
        for token in &prefix[shared..] {
            if !self.constraint.accept(*token)? {
                return Ok(false);
            }
            self.held.push(*token);
        }
        Ok(true)
    }
}

impl MaskSource for ConstraintMasks {
    fn ends(&self) -> &TokenSet {
        &self.ends
    }

    fn mask(&mut self, prefix: &[TokenId], set: &mut TokenSet) -> Result<()> {
        if self.go_to(prefix)? {
            return self.constraint.mask(set);
        }
        set.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::{Bytewise, Limits, ListVocab, TokenTrie};
    use crate::grammar::Grammar;
    use crate::oracles::{Exact, Toy, cell_test, r1};
    use crate::sampling::exact::{Cars, CarsParams, Start};
    use crate::sampling::{BatchItem, NextLogits, Want};
    use std::sync::Arc;

    /// R1's language as a production grammar: two to six bytes, an even number of `a`, never `cb`.
    fn constraint(max_tokens: Option<usize>) -> Box<dyn Constraint> {
        let grammar = Grammar::regex(&r1_pattern()).expect("pattern");
        let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(r1().tokens))));
        let machine = grammar.compile(&trie.single_bytes()).expect("automaton");
        Box::new(
            Bytewise::new(machine, trie, Limits { max_tokens, ..Limits::default() }).expect("satisfiable"),
        )
    }

    /// All words of the language, as one alternation: independent of any automaton.
    fn r1_pattern() -> String {
        let mut words = vec![String::new()];
        let mut all = Vec::new();
        for _ in 0..6 {
            words = words.iter().flat_map(|w| ["a", "b", "c"].map(|c| format!("{w}{c}"))).collect();
            all.extend(words.iter().cloned());
        }
        let even = |w: &str| w.matches('a').count().is_multiple_of(2);
        all.retain(|w| w.len() >= 2 && even(w) && !w.contains("cb"));
        all.join("|")
    }

    #[test]
    fn exact_draws_under_a_production_constraint_have_the_conditioned_law() {
        let instance = r1();
        let exact = Exact::new(&instance);
        let all = exact.sequences();
        let mut model = Toy::new(instance.model.clone());
        let branch = model.root().expect("root");
        model.eval(&[BatchItem { branch: &branch, tokens: &[7], want: Want::Last }]).expect("eval");
        let logits = model.row(0).to_vec();
        let start = Start { branch: &branch, logits: &logits };
        // With the budget known to the constraint, and without.
        for max_tokens in [Some(5), None] {
            let mut masks = ConstraintMasks::new(constraint(max_tokens), &[7]).expect("in vocabulary");
            let mut counts = vec![0; all.len()];
            for seed in 0..5_000 {
                let params = CarsParams { seed, max_tokens: 5, max_draws: 10_000, ..CarsParams::default() };
                let mut cars = Cars::new(params, 8).expect("valid");
                let s = cars.sample(&mut model, &start, &mut masks).expect("sample");
                let i = all.binary_search_by(|e| e.tokens.cmp(&s.tokens)).expect("in the language");
                counts[i] += 1;
            }
            let law = |f: fn(&crate::oracles::Sequence) -> f64| all.iter().map(f).collect::<Vec<_>>();
            cell_test(&counts, &law(|s| s.target), 1e-8).expect("target law");
            assert!(cell_test(&counts, &law(|s| s.masked), 1e-8).is_err());
        }
    }

    #[test]
    fn masks_depend_on_the_prefix_alone() {
        let instance = r1();
        let exact = Exact::new(&instance);
        let mut masks = ConstraintMasks::new(constraint(Some(5)), &[7]).expect("in vocabulary");
        let prefixes: [&[TokenId]; 8] = [&[], &[0, 0], &[0], &[4, 5], &[2, 1, 0], &[4, 5, 0], &[2], &[]];
        for prefix in prefixes {
            let mut set = TokenSet::all(8);
            masks.mask(prefix, &mut set).expect("mask");
            assert_eq!(set, exact.mask(prefix), "{prefix:?}");
        }
        assert!(ConstraintMasks::new(constraint(None), &[8]).is_err());
    }
}
