//! Mixing with a safer expert while the first tokens of an answer are drawn.
//!
//! Whether an answer refuses is settled in its first tokens. There the model is asked twice: as it is, and as an
//! expert, the same weights under a safety system message or under an adapter. Among the tokens that both rank
//! highly, `P' = P + α(P_expert − P)`; others are out of reach. The result is a [`NextLogits`], so sampling,
//! constraints and guards run on it unchanged, and cuts and forks take the expert along. Cost: the expert's prompt
//! and one more row for each of the first tokens. It cannot help once more tokens than that were forced, and an
//! expert that is no safer than the model adds nothing.
//! Source: Xu et al. 2024, arXiv 2402.08983 (SafeDecoding).

use crate::error::{Error, ErrorKind, Result};
use crate::kernels;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;
use std::sync::Arc;

/// Least probability of a token that both know.
const FLOOR: f64 = 1e-8;
/// What tokens outside the common ones lose, in nats: only a mask that leaves nothing else lets them come.
const FAR: f32 = 60.0;

/// How strongly the expert counts, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertRule {
    /// Strength; 0 is off, bit for bit.
    pub alpha: f32,
    /// Tokens of the answer that are mixed.
    pub n_tokens: usize,
    /// Fewest common tokens.
    pub least: usize,
}

impl Default for ExpertRule {
    /// The authors' settings.
    fn default() -> Self {
        Self { alpha: 3.0, n_tokens: 2, least: 5 }
    }
}

impl ExpertRule {
    /// # Errors `InvalidArgument` naming the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if !(self.alpha.is_finite() && self.alpha >= 0.0) {
            return bad(format!("expert: alpha: expected a number of at least 0, found {}", self.alpha));
        }
        match self.least {
            0 => bad("expert: least: expected at least 1 common token, found 0".into()),
            _ => Ok(()),
        }
    }

    /// Whether it changes anything.
    pub fn is_on(&self) -> bool {
        self.alpha != 0.0 && self.n_tokens > 0
    }

    /// Writes the mixed row of natural logs to `out`. `base`, `expert`: logits, `[n_vocab]`.
    pub fn mix(&self, base: &[f32], expert: &[f32], out: &mut [f32]) {
        let (top, z) = norm(base);
        let (top_e, z_e) = norm(expert);
        for (o, x) in out.iter_mut().zip(base) {
            *o = (f64::from(*x) - top - z) as f32 - FAR;
        }
        let common = common(base, expert, self.least);
        let alpha = f64::from(self.alpha);
        let mixed = |&t: &TokenId| {
            let p = (f64::from(base[t as usize]) - top - z).exp();
            let e = (f64::from(expert[t as usize]) - top_e - z_e).exp();
            (p + alpha * (e - p)).max(FLOOR)
        };
        let sum: f64 = common.iter().map(mixed).sum();
        for t in &common {
            out[*t as usize] = (mixed(t) / sum).ln() as f32;
        }
    }
}

/// The highest logit and the log of the sum of what is below it.
fn norm(row: &[f32]) -> (f64, f64) {
    let top = f64::from(kernels::max(row, None));
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - top).exp()).filter(|p| p.is_finite()).sum();
    (top, sum.ln())
}

/// The smallest intersection of both rows' `k` best tokens with at least `least` members.
fn common(a: &[f32], b: &[f32], least: usize) -> Vec<TokenId> {
    let least = least.min(a.len());
    let mut depth = (4 * least).min(a.len());
    loop {
        let (of_a, of_b) = (best(a, depth), best(b, depth));
        let mut found = Vec::with_capacity(least + 1);
        for k in 0..depth {
            // what is new at depth k + 1: a's token if b has it so far, and the other way round
            if of_b[..=k].contains(&of_a[k]) {
                found.push(of_a[k]);
            }
            if of_b[k] != of_a[k] && of_a[..=k].contains(&of_b[k]) {
                found.push(of_b[k]);
            }
            if found.len() >= least {
                return found;
            }
        }
        if depth == a.len() {
            return found;
        }
        depth = (4 * depth).min(a.len());
    }
}

/// The `k` best tokens, the best first; equal ones by number.
fn best(row: &[f32], k: usize) -> Vec<TokenId> {
    let key = |t: &TokenId| -> (std::cmp::Reverse<i64>, TokenId) {
        let x = row[*t as usize];
        let x = if x.is_nan() { f32::NEG_INFINITY } else { x };
        // order-preserving integers of the floats
        let bits = i64::from(x.to_bits() as i32);
        (std::cmp::Reverse(if bits < 0 { i64::from(i32::MIN) - bits } else { bits }), *t)
    };
    let mut ids: Vec<TokenId> = (0..row.len() as TokenId).collect();
    if k < ids.len() && k > 0 {
        ids.select_nth_unstable_by_key(k - 1, key);
        ids.truncate(k);
    }
    ids.sort_unstable_by_key(key);
    ids
}

/// A branch with the expert's beside it.
#[derive(Debug)]
pub struct Advised<B> {
    base: B,
    /// Tokens before the answer.
    n_prompt: usize,
    expert: Option<(B, Arc<[TokenId]>)>,
}

impl<B> Advised<B> {
    /// `base` holds the beginning of a prompt of `n_prompt` tokens; `expert`: an empty branch, and the expert's
    /// prompt; none: nothing is mixed.
    pub fn new(base: B, n_prompt: usize, expert: Option<(B, Vec<TokenId>)>) -> Self {
        let expert = expert.filter(|(_, tokens)| !tokens.is_empty());
        Self { base, n_prompt, expert: expert.map(|(branch, tokens)| (branch, tokens.into())) }
    }

    /// The model's own branch.
    pub fn into_base(self) -> B {
        self.base
    }
}

/// A model whose first tokens of each answer are mixed with an expert's.
pub struct ExpertMix<'l, L: NextLogits> {
    lm: &'l mut L,
    rule: ExpertRule,
    /// Rows that are mixed: their number, ascending; and the rows, `[mixed][n_vocab]`.
    mixed: Vec<usize>,
    rows: Vec<f32>,
}

impl<'l, L: NextLogits> ExpertMix<'l, L> {
    /// # Errors Those of [`ExpertRule::validate`].
    pub fn new(lm: &'l mut L, rule: ExpertRule) -> Result<Self> {
        rule.validate()?;
        Ok(Self { lm, rule, mixed: Vec::new(), rows: Vec::new() })
    }

    /// What the expert is fed beside `item`, and the place in the answer of the first of its rows. It holds all of
    /// its prompt but the last token, at least.
    fn feed(&self, item: &BatchItem<'_, Advised<L::Branch>>) -> Option<(Vec<TokenId>, usize)> {
        let branch = item.branch;
        let (expert, prompt) = branch.expert.as_ref().filter(|_| self.rule.is_on())?;
        let from = self.lm.len(&branch.base);
        let n_answered = (from + item.tokens.len()).checked_sub(branch.n_prompt)?;
        let held = self.lm.len(expert);
        let mut tokens = prompt.get(held..).unwrap_or_default().to_vec();
        // the expert has the same tokens of the answer, as long as their rows are mixed
        let has = held.saturating_sub(prompt.len());
        let skip = (branch.n_prompt + has).saturating_sub(from);
        let more = n_answered.min(self.rule.n_tokens - 1).saturating_sub(has);
        tokens.extend(item.tokens.iter().skip(skip).take(more));
        (!tokens.is_empty()).then(|| (tokens, (held + 1).saturating_sub(prompt.len())))
    }

    /// Reads the experts' prompts, all but the last token, for items that come to their answers.
    fn read_prompts(&mut self, batch: &[BatchItem<'_, Advised<L::Branch>>]) -> Result<()> {
        let due = batch.iter().filter_map(|item| {
            let (branch, prompt) = item.branch.expert.as_ref()?;
            let reaches = self.lm.len(&item.branch.base) + item.tokens.len() >= item.branch.n_prompt;
            let tokens = &prompt[..prompt.len() - 1];
            let is_due = reaches && self.lm.len(branch) == 0 && !tokens.is_empty();
            is_due.then_some(BatchItem { branch, tokens, want: Want::Nothing })
        });
        let due: Vec<_> = due.collect();
        match due.is_empty() || !self.rule.is_on() {
            true => Ok(()),
            false => self.lm.eval(&due),
        }
    }

    /// Mixes the rows that the last evaluation gave. `fed`: what each item's expert was fed.
    fn mix(&mut self, batch: &[BatchItem<'_, Advised<L::Branch>>], fed: &[Option<(Vec<TokenId>, usize)>]) {
        let n_vocab = self.lm.n_vocab();
        let mut theirs: usize = batch.iter().map(|i| n_rows(i.want, i.tokens.len())).sum();
        let mut row = 0;
        for (item, fed) in batch.iter().zip(fed) {
            let n = n_rows(item.want, item.tokens.len());
            if let Some((tokens, first)) = fed {
                let end = self.lm.len(&item.branch.base);
                for i in 0..n {
                    // how many tokens of the answer stand before this row
                    let Some(place) = (end + i + 1).checked_sub(n + item.branch.n_prompt) else { continue };
                    let at = place.checked_sub(*first).filter(|at| *at < tokens.len());
                    let Some(at) = at.filter(|_| place < self.rule.n_tokens) else { continue };
                    let from = self.rows.len();
                    self.rows.resize(from + n_vocab, 0.0);
                    let (base, expert) = (self.lm.row(row + i), self.lm.row(theirs + at));
                    self.rule.mix(base, expert, &mut self.rows[from..]);
                    self.mixed.push(row + i);
                }
                theirs += tokens.len();
            }
            row += n;
        }
    }
}

fn n_rows(want: Want, n_tokens: usize) -> usize {
    match want {
        Want::Nothing => 0,
        Want::Last => 1,
        Want::All => n_tokens,
    }
}

impl<L: NextLogits> NextLogits for ExpertMix<'_, L> {
    type Branch = Advised<L::Branch>;

    fn n_vocab(&self) -> usize {
        self.lm.n_vocab()
    }

    fn root(&mut self) -> Result<Self::Branch> {
        Ok(Advised::new(self.lm.root()?, 0, None))
    }

    fn fork(&mut self, branch: &Self::Branch) -> Result<Self::Branch> {
        let base = self.lm.fork(&branch.base)?;
        let expert = match &branch.expert {
            Some((expert, prompt)) => Some((self.lm.fork(expert)?, Arc::clone(prompt))),
            None => None,
        };
        Ok(Advised { base, n_prompt: branch.n_prompt, expert })
    }

    fn truncate(&mut self, branch: &Self::Branch, len: usize) -> Result<()> {
        self.lm.truncate(&branch.base, len)?;
        let Some((expert, prompt)) = &branch.expert else { return Ok(()) };
        let keep = match len.checked_sub(branch.n_prompt) {
            Some(answered) => prompt.len() + answered,
            // the row after the prompt will be asked for again
            None => prompt.len().saturating_sub(1),
        };
        let held = self.lm.len(expert);
        self.lm.truncate(expert, keep.min(held))
    }

    fn len(&self, branch: &Self::Branch) -> usize {
        self.lm.len(&branch.base)
    }

    fn eval(&mut self, batch: &[BatchItem<'_, Self::Branch>]) -> Result<()> {
        self.mixed.clear();
        self.rows.clear();
        self.read_prompts(batch)?;
        let fed: Vec<_> = batch.iter().map(|item| self.feed(item)).collect();
        let own = batch.iter().map(|i| BatchItem { branch: &i.branch.base, tokens: i.tokens, want: i.want });
        let theirs = batch.iter().zip(&fed).filter_map(|(item, fed)| {
            let (branch, _) = item.branch.expert.as_ref()?;
            Some(BatchItem { branch, tokens: &fed.as_ref()?.0, want: Want::All })
        });
        let items: Vec<_> = own.chain(theirs).collect();
        self.lm.eval(&items)?;
        drop(items);
        if fed.iter().any(Option::is_some) {
            self.mix(batch, &fed);
        }
        Ok(())
    }

    fn row(&self, i: usize) -> &[f32] {
        match self.mixed.binary_search(&i) {
            Ok(at) => &self.rows[at * self.lm.n_vocab()..][..self.lm.n_vocab()],
            Err(_) => self.lm.row(i),
        }
    }

    fn n_evals(&self) -> u64 {
        self.lm.n_evals()
    }

    fn set_taps(&mut self, layers: &[u32]) -> Result<()> {
        self.lm.set_taps(layers)
    }

    fn hidden(&self, tap: usize, row: usize) -> Option<&[f32]> {
        self.lm.hidden(tap, row)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
