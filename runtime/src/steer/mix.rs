//! Several models of one vocabulary as one: their logits are put together row by row.
//!
//! The result is a [`NextLogits`], so that sampling, constraints and search run on it unchanged. Each model follows
//! its own prompt: the first one's is what the caller evaluates, and where that ends the others have read theirs.

use crate::align::TokenBytes;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// How rows become one. `z` are logits, `p` probabilities; the first model is the one that writes.
#[derive(Clone, Debug, PartialEq)]
pub enum MixRule {
    /// `z0 + α(z1 − z2)`: base, a small tuned model, the same untuned.
    Proxy {
        /// Strength.
        alpha: f32,
    },
    /// `ln p0 − ln p1` among tokens with `p0 ≥ a·max p0`, the others forbidden: expert, amateur.
    Contrastive {
        /// Share of the best probability that a token needs.
        a: f32,
    },
    /// `(1 + b)·z0 − b·z1`: expert, amateur.
    SoftContrastive {
        /// Strength.
        b: f32,
    },
    /// `Σ w ln p`: every model may veto.
    Product {
        /// Weights, one a model.
        weights: Vec<f32>,
    },
    /// `ln Σ w p`: any model may propose.
    Mixture {
        /// Weights, one a model, above 0.
        weights: Vec<f32>,
    },
}

impl MixRule {
    /// Models it takes.
    pub fn n_models(&self) -> usize {
        match self {
            Self::Proxy { .. } => 3,
            Self::Contrastive { .. } | Self::SoftContrastive { .. } => 2,
            Self::Product { weights } | Self::Mixture { weights } => weights.len(),
        }
    }

    fn validate(&self) -> Result<()> {
        let number = |name, x: f32, is_good: bool| match x.is_finite() && is_good {
            true => Ok(()),
            false => Err(crate::reward::bad(name, "a number in its range", x)),
        };
        match self {
            Self::Proxy { alpha } => number("alpha", *alpha, true),
            Self::Contrastive { a } => number("a", *a, *a > 0.0 && *a <= 1.0),
            Self::SoftContrastive { b } => number("b", *b, *b >= 0.0),
            Self::Product { weights } => weights.iter().try_for_each(|w| number("weights", *w, true)),
            Self::Mixture { weights } => weights.iter().try_for_each(|w| number("weights", *w, *w > 0.0)),
        }
    }

    /// Writes the row of `rows`, each `[n_vocab]`, to `out`. `norms`: `ln Σ exp` of each.
    pub fn join(&self, rows: &[&[f32]], norms: &[f64], out: &mut [f32]) {
        let z = |m: usize, i: usize| rows[m][i];
        let logp = |m: usize, i: usize| rows[m][i] - norms[m] as f32;
        let best = kernels::max(rows[0], None);
        for (i, o) in out.iter_mut().enumerate() {
            let joined = match self {
                Self::Proxy { alpha } => z(0, i) + alpha * (z(1, i) - z(2, i)),
                Self::Contrastive { a } if z(0, i) < best + a.ln() => f32::NEG_INFINITY,
                Self::Contrastive { .. } => logp(0, i) - logp(1, i).max(LEAST_LOGPROB),
                Self::SoftContrastive { b } => (1.0 + b) * z(0, i) - b * z(1, i),
                Self::Product { weights } => weights.iter().enumerate().map(|(m, w)| w * logp(m, i)).sum(),
                Self::Mixture { weights } => {
                    let sum: f32 = weights.iter().enumerate().map(|(m, w)| w * logp(m, i).exp()).sum();
                    sum.ln()
                }
            };
            // what is impossible for the first model stays so: infinities must not meet
            *o = match self {
                Self::Mixture { .. } => joined,
                _ if z(0, i) == f32::NEG_INFINITY || joined.is_nan() => f32::NEG_INFINITY,
                _ => joined,
            };
        }
    }
}

/// An amateur's log-probability counts as no less: a token it cannot say would win at once.
const LEAST_LOGPROB: f32 = -50.0;

/// Models with their prompts.
pub struct Mix<'a, L: NextLogits> {
    members: Vec<(&'a mut L, Vec<TokenId>)>,
    rule: MixRule,
    n_vocab: usize,
    rows: Vec<f32>,
    scratch: Vec<f64>,
}

/// A branch of each model.
#[derive(Debug)]
pub struct MixBranch<B>(Vec<B>);

impl<'a, L: NextLogits> Mix<'a, L> {
    /// `members`: each model with its prompt, at least one token; the caller evaluates the first one's.
    /// # Errors `InvalidArgument` for a wrong number of models, an empty prompt, a strength out of range;
    /// `VocabMismatch` if a model has fewer tokens than the first. More, as padded vocabularies have, are cut off.
    pub fn new(members: Vec<(&'a mut L, Vec<TokenId>)>, rule: MixRule) -> Result<Self> {
        rule.validate()?;
        if members.len() != rule.n_models() || members.is_empty() {
            return Err(crate::reward::bad("models", &rule.n_models().to_string(), members.len()));
        }
        if members.iter().any(|(_, prompt)| prompt.is_empty()) {
            return Err(crate::reward::bad("prompt", "at least one token for each model", 0));
        }
        let n_vocab = members.first().map_or(0, |(lm, _)| lm.n_vocab());
        if let Some((lm, _)) = members.iter().find(|(lm, _)| lm.n_vocab() < n_vocab) {
            let message = format!("expected {n_vocab} tokens, found {}", lm.n_vocab());
            return Err(Error::new(ErrorKind::VocabMismatch, message));
        }
        let most = members.iter().map(|(lm, _)| lm.n_vocab()).max().unwrap_or(n_vocab);
        let scratch = vec![0.0; most.div_ceil(kernels::BLOCK)];
        Ok(Self { members, rule, n_vocab, rows: Vec::new(), scratch })
    }

    /// Tokens that model `m` holds where the first one holds `len`.
    fn len_of(&self, m: usize, len: usize) -> usize {
        let (first, own) = (self.members[0].1.len(), self.members[m].1.len());
        match len {
            0 => 0,
            _ if len >= first => own + (len - first),
            _ => own.saturating_sub(first - len),
        }
    }

    /// The tokens of `item` as model `m` reads them.
    fn tokens_of(&self, m: usize, item: &BatchItem<'_, MixBranch<L::Branch>>) -> Vec<TokenId> {
        let from = self.len(item.branch);
        let to = from + item.tokens.len();
        let (first, own) = (self.members[0].1.len(), &self.members[m].1);
        let mut tokens = own.get(self.len_of(m, from).min(own.len())..).unwrap_or_default().to_vec();
        tokens.truncate(self.len_of(m, to).saturating_sub(self.len_of(m, from)));
        tokens.extend_from_slice(&item.tokens[first.saturating_sub(from).min(item.tokens.len())..]);
        tokens
    }

    /// Evaluates `batch` on model `m`; returns its wanted rows, one after the other, `[n][n_vocab]`.
    fn eval_member(&mut self, m: usize, batch: &[BatchItem<'_, MixBranch<L::Branch>>]) -> Result<Vec<f32>> {
        let tokens: Vec<Vec<TokenId>> = batch.iter().map(|item| self.tokens_of(m, item)).collect();
        let items: Vec<BatchItem<'_, L::Branch>> = batch
            .iter()
            .zip(&tokens)
            .filter(|(_, tokens)| !tokens.is_empty())
            .map(|(item, tokens)| BatchItem { branch: &item.branch.0[m], tokens, want: item.want })
            .collect();
        let mut rows = Vec::new();
        if items.is_empty() {
            return Ok(rows);
        }
        let n_vocab = self.n_vocab;
        let lm = &mut self.members[m].0;
        lm.eval(&items)?;
        let mut row = 0;
        for (item, original) in items.iter().zip(batch) {
            let n = match item.want {
                Want::Nothing => 0,
                Want::Last => 1,
                Want::All => item.tokens.len(),
            };
            // of all rows those of the caller's tokens
            let wanted = if item.want == Want::All { original.tokens.len().min(n) } else { n };
            for i in row + n - wanted..row + n {
                rows.extend_from_slice(&lm.row(i)[..n_vocab]);
            }
            row += n;
        }
        Ok(rows)
    }
}

impl<L: NextLogits> NextLogits for Mix<'_, L> {
    type Branch = MixBranch<L::Branch>;

    fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    fn root(&mut self) -> Result<Self::Branch> {
        self.members.iter_mut().map(|(lm, _)| lm.root()).collect::<Result<_>>().map(MixBranch)
    }

    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch> {
        let forks = self.members.iter_mut().zip(&branch.0).map(|((lm, _), b)| lm.fork(b));
        forks.collect::<Result<_>>().map(MixBranch)
    }

    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()> {
        let lens: Vec<usize> = (0..self.members.len()).map(|m| self.len_of(m, len)).collect();
        for ((lm, _), (branch, len)) in self.members.iter_mut().zip(branch.0.iter().zip(lens)) {
            lm.truncate(branch, len)?;
        }
        Ok(())
    }

    fn len(&self, branch: &Self::Branch) -> usize {
        self.members.first().zip(branch.0.first()).map_or(0, |((lm, _), b)| lm.len(b))
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()> {
        let first = self.members[0].1.len();
        let early = |i: &&BatchItem<'_, Self::Branch>| {
            let to = self.len(i.branch) + i.tokens.len();
            i.want == Want::Last && to < first || i.want == Want::All && self.len(i.branch) + 1 < first
        };
        if batch.iter().any(|item| early(&item)) {
            let message = "mixed models: rows inside the prompt are not defined, their prompts differ";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let lens: Vec<usize> = batch.iter().map(|item| self.len(item.branch)).collect();
        let mut all = Vec::with_capacity(self.members.len());
        // the first model last: the others' tokens depend on the length it has
        for m in (0..self.members.len()).rev() {
            match self.eval_member(m, batch) {
                Ok(rows) => all.push(rows),
                Err(e) => {
                    for done in m + 1..self.members.len() {
                        for (item, &len) in batch.iter().zip(&lens) {
                            let len = self.len_of(done, len);
                            self.members[done].0.truncate(&item.branch.0[done], len)?;
                        }
                    }
                    return Err(e);
                }
            }
        }
        all.reverse();
        let n_rows = all.first().map_or(0, |rows| rows.len() / self.n_vocab.max(1));
        self.rows.clear();
        self.rows.resize(n_rows * self.n_vocab, 0.0);
        for r in 0..n_rows {
            let place = r * self.n_vocab..(r + 1) * self.n_vocab;
            let rows: Vec<&[f32]> = all.iter().filter_map(|rows| rows.get(place.clone())).collect();
            if rows.len() < all.len() {
                return Err(Error::new(ErrorKind::Internal, "mixed models gave different numbers of rows"));
            }
            let norms: Vec<f64> =
                rows.iter().map(|row| kernels::log_sum_exp(row, None, &mut self.scratch)).collect();
            self.rule.join(&rows, &norms, &mut self.rows[place]);
        }
        Ok(())
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.n_vocab..(i + 1) * self.n_vocab]
    }

    fn n_evals(&self) -> u64 {
        self.members.iter().map(|(lm, _)| lm.n_evals()).sum()
    }
}

/// Whether the tokens of `base` are those of `other`, which may have more behind them.
/// # Errors `VocabMismatch` naming the first token that differs.
pub fn same_vocabulary(base: &dyn TokenBytes, other: &dyn TokenBytes) -> Result<()> {
    if other.n_vocab() < base.n_vocab() {
        let message =
            format!("vocabularies differ: expected {} tokens, found {}", base.n_vocab(), other.n_vocab());
        return Err(Error::new(ErrorKind::VocabMismatch, message));
    }
    let differs = |id: &TokenId| base.bytes(*id) != other.bytes(*id);
    match (0..base.n_vocab() as TokenId).find(differs) {
        None => Ok(()),
        Some(id) => {
            let text = |v: &dyn TokenBytes| String::from_utf8_lossy(v.bytes(id)).into_owned();
            let message = format!(
                "vocabularies differ: token {id}: expected {:?}, found {:?}",
                text(base),
                text(other)
            );
            Err(Error::new(ErrorKind::VocabMismatch, message))
        }
    }
}
