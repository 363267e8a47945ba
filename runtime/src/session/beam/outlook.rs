//! How soon what is missing may be said: the look-ahead of A*esque decoding.
//!
//! Each text is continued greedily for a few tokens, on forks, all together. Where one of the tokens that lead to what
//! is missing is likely at some of these places, the text is worth keeping though it is not the likeliest. The next
//! token on the way stands for a phrase: the automaton knows what leads on, whatever the spelling.
//! Cost: `lookahead - 1` forward passes of a row for each text. It loses where the model never
//! leads to the missing words by itself: all outlooks are alike then, and the pressure of banks alone is left.
//! Source: Lu et al., NeuroLogic A*esque decoding, arXiv 2112.08726: `f = log P / length + α · max h`, with
//! `h` the log-probability of a missing phrase at an offset of the continuation.

use super::Beam;
use crate::error::Result;
use crate::kernels;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::{TokenId, TokenSet};

/// Weight of the outlook; of a greedy continuation, arXiv 2112.08726.
pub(super) const ALPHA: f64 = 0.25;

/// The worst outlook: no way leads to what is missing.
const UNLIKELY: f64 = -100.0;

/// Tokens tried at a place of the continuation before it is given up.
const MAX_TRIES: usize = 4;

/// A text's greedy continuation.
struct Path<'b, B> {
    beam: &'b Beam<B>,
    branch: Option<B>,
    constraint: Box<dyn crate::align::Constraint>,
    row: Vec<f32>,
    /// Log-probability of the likeliest lead so far; none: nothing is missing.
    best: Option<f64>,
    is_over: bool,
}

/// For each beam, whose rows follow its last token: the log-probability, natural, of the likeliest token that leads to
/// something missing, over the next `lookahead` places of its greedy continuation; 0 if nothing is missing.
/// # Errors Those of the constraint and the executor.
pub(super) fn outlooks<L: NextLogits>(
    lm: &mut L,
    beams: &[Beam<L::Branch>],
    lookahead: usize,
) -> Result<Vec<f64>> {
    let all = TokenSet::all(lm.n_vocab());
    let mut scratch = vec![0.0; lm.n_vocab().div_ceil(kernels::BLOCK)];
    let mut paths: Vec<_> = beams.iter().map(Path::new).collect();
    for offset in 0..lookahead {
        let mut tokens: Vec<TokenId> = Vec::new();
        for path in paths.iter_mut().filter(|path| !path.is_over) {
            let next = path.look(&all, &mut scratch)?;
            tokens.extend(next.filter(|_| offset + 1 < lookahead));
        }
        if tokens.is_empty() {
            break;
        }
        extend(lm, &mut paths, &tokens)?;
    }
    Ok(paths.into_iter().map(|path| path.best.unwrap_or(0.0)).collect())
}

/// Evaluates `tokens`, one for each path that goes on.
fn extend<L: NextLogits>(lm: &mut L, paths: &mut [Path<'_, L::Branch>], tokens: &[TokenId]) -> Result<()> {
    for path in paths.iter_mut().filter(|path| !path.is_over && path.branch.is_none()) {
        path.branch = Some(lm.fork(&path.beam.branch)?);
    }
    let open = || paths.iter().filter(|path| !path.is_over).filter_map(|path| path.branch.as_ref());
    let items: Vec<_> = open()
        .zip(tokens.chunks(1))
        .map(|(branch, tokens)| BatchItem { branch, tokens, want: Want::Last })
        .collect();
    lm.eval(&items)?;
    drop(items);
    for (i, path) in paths.iter_mut().filter(|path| !path.is_over).enumerate() {
        path.row.clear();
        path.row.extend_from_slice(lm.row(i));
    }
    Ok(())
}

impl<'b, B> Path<'b, B> {
    fn new(beam: &'b Beam<B>) -> Self {
        let constraint = beam.constraint.fork();
        Self { beam, branch: None, constraint, row: beam.row.clone(), best: None, is_over: false }
    }

    /// Weighs the leads at this place and takes the likeliest token of `all` that may come. None, and over, if nothing
    /// is missing, the text ends, or none of the likeliest may come.
    fn look(&mut self, all: &TokenSet, scratch: &mut [f64]) -> Result<Option<TokenId>> {
        self.is_over = true;
        let mut leads = Vec::new();
        self.constraint.advancing(&mut leads);
        if leads.is_empty() {
            return Ok(None);
        }
        let top = leads.iter().map(|&t| self.row[t as usize]).fold(f32::NEG_INFINITY, f32::max);
        let logprob = match top > f32::NEG_INFINITY {
            true => f64::from(top) - kernels::log_sum_exp(&self.row, None, scratch),
            false => UNLIKELY,
        };
        self.best = Some(self.best.unwrap_or(UNLIKELY).max(logprob));
        // a whole mask would cost more than the row
        for token in super::likeliest(&self.row, all, MAX_TRIES) {
            if self.constraint.accept(token)? {
                self.is_over = self.constraint.has_ended();
                return Ok(Some(token).filter(|_| !self.is_over));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::align::{
        Boundary, Bytewise, Clause, Constraint, Limits, ListVocab, Phrase, TokenTrie, Wording,
        WordingAutomaton,
    };
    use crate::oracles::{Law, Toy, toy_b};
    use std::sync::Arc;

    const B: [&str; 4] = ["x", "y", "m", "k"];
    const BRANCHES: [TokenId; 2] = [0, 1];

    /// Asks for a k anywhere, within four tokens.
    fn constraint() -> Box<dyn Constraint> {
        let trie = Arc::new(TokenTrie::new(Arc::new(ListVocab::new(B))));
        let k = Phrase { boundary: Boundary::None, ..Phrase::from("k") };
        let wording = Wording { include: vec![Clause::any([k])], ..Wording::default() };
        let automaton = WordingAutomaton::for_vocab(&wording, &trie).unwrap();
        let limits = Limits { max_tokens: Some(4), ..Limits::default() };
        Box::new(Bytewise::new(automaton, trie, limits).unwrap())
    }

    /// The outlooks of the texts `x` and `y`. After `xm` the text ends, after `ym` there is a `k` with 0.8.
    fn outlooks_of_b(lookahead: usize) -> Vec<f64> {
        let law = toy_b();
        let end = law.eos();
        let mut lm = Toy::new(law);
        let mut beams = Vec::new();
        for token in BRANCHES {
            let branch = lm.root().unwrap();
            lm.eval(&[BatchItem { branch: &branch, tokens: &[end, token], want: Want::Last }]).unwrap();
            let mut constraint = constraint();
            assert!(constraint.accept(token).unwrap());
            let row = lm.row(0).to_vec();
            beams.push(Beam { branch, constraint, ids: vec![token], logprob: 0.0, row });
        }
        let found = outlooks(&mut lm, &beams, lookahead).unwrap();
        assert!(
            beams.iter().all(|b| lm.len(&b.branch) == 2 && b.constraint.len() == 1),
            "texts are left as they are"
        );
        found
    }

    #[test]
    fn only_a_look_two_tokens_ahead_sees_the_way() {
        let [x, y] = outlooks_of_b(1)[..] else { unreachable!() };
        assert!(x == y && x <= -20.0, "{x} {y}");
        for lookahead in [2, 3, 5] {
            let [x, y] = outlooks_of_b(lookahead)[..] else { unreachable!() };
            assert!(x <= -20.0 && (y - 0.8f64.ln()).abs() < 1e-6, "{lookahead}: {x} {y}");
        }
    }

    #[test]
    fn nothing_missing_is_the_best_outlook() {
        let mut lm = Toy::new(toy_b());
        let branch = lm.root().unwrap();
        let mut constraint = constraint();
        assert!(constraint.accept(3).unwrap());
        let row = vec![0.0; lm.n_vocab()];
        let beams = [Beam { branch, constraint, ids: vec![3], logprob: 0.0, row }];
        assert_eq!(outlooks(&mut lm, &beams, 4).unwrap(), [0.0]);
        assert_eq!(lm.n_evals(), 0);
    }
}
