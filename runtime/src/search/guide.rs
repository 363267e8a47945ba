//! Continuations behind a token: from the searched model itself, or from another one that shares its vocabulary.

use super::lookahead::grow;
use super::path::{Grower, Path};
use super::plain_sampling;
use crate::align::TokenBytes;
use crate::error::Result;
use crate::sampling::{Chain, Extras, NextLogits};
use crate::token::TokenId;

/// A text behind a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolled {
    /// The whole text, from its beginning.
    pub text: String,
    /// Whether it is over.
    pub is_closed: bool,
}

/// What continuations are wanted.
#[derive(Clone, Copy, Debug)]
pub struct RollPlan {
    /// Tokens of the text so far.
    pub n: usize,
    /// Tokens behind the tried one, at most.
    pub n_tokens: usize,
    /// How many; a single one takes the likeliest tokens, several are drawn from the model's law.
    pub rollouts: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Longest text.
    pub max_tokens: usize,
}

/// Says what could follow.
pub trait Guide {
    /// For each of `tokens`, texts that begin with `ids` and that token. A text that ends is given once.
    /// # Errors those of the model.
    fn roll(&mut self, ids: &[TokenId], tokens: &[TokenId], plan: &RollPlan) -> Result<Vec<Vec<Rolled>>>;

    /// Rows evaluated so far.
    fn n_evals(&self) -> u64;
}

/// Another model with the searched model's vocabulary, behind its own prompt.
pub struct GuideModel<'a, L: NextLogits> {
    grower: Grower<'a, L>,
    path: Path<L::Branch>,
}

impl<'a, L: NextLogits> GuideModel<'a, L> {
    /// `branch`, `tokens`: the prompt, as of [`super::SearchJob`].
    /// # Errors those of the model.
    pub fn new(
        lm: &'a mut L,
        vocab: &'a dyn TokenBytes,
        (branch, tokens): (L::Branch, &[TokenId]),
        stops: &[String],
    ) -> Result<Self> {
        let mut grower = Grower::new(lm, vocab, stops, (usize::MAX, 1));
        let path = grower.start(branch, tokens, None)?;
        Ok(Self { grower, path })
    }
}

impl<L: NextLogits> Guide for GuideModel<'_, L> {
    fn roll(&mut self, ids: &[TokenId], tokens: &[TokenId], plan: &RollPlan) -> Result<Vec<Vec<Rolled>>> {
        let same = self.path.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.grower.max_tokens = usize::MAX;
        self.grower.cut(&mut self.path, same)?;
        for &token in &ids[same..] {
            self.grower.push(&mut self.path, token, (0.0, 0.0))?;
        }
        self.grower.max_tokens = plan.max_tokens;
        self.grower.feed(&mut [&mut self.path])?;
        roll(&mut self.grower, &self.path, tokens, plan)
    }

    fn n_evals(&self) -> u64 {
        self.grower.lm.n_evals()
    }
}

/// Most paths grown in one pass.
const MAX_ROWS: usize = 64;

/// Continuations of the first `plan.n` tokens of `path` behind each of `tokens`.
pub(super) fn roll<L: NextLogits>(
    grower: &mut Grower<'_, L>,
    path: &Path<L::Branch>,
    tokens: &[TokenId],
    plan: &RollPlan,
) -> Result<Vec<Vec<Rolled>>> {
    let chain = match plan.rollouts {
        1 => None,
        _ => {
            let mut chain = Chain::new(&plain_sampling(plan.seed), grower.lm.n_vocab())?;
            chain.set_extras(Extras { logprob: true, log_z: true });
            Some(chain)
        }
    };
    let mut all = Vec::with_capacity(tokens.len());
    for (i, &token) in tokens.iter().enumerate() {
        let mut paths = Vec::new();
        for j in 0..plan.rollouts {
            let mut copy = grower.fork(path, plan.n)?;
            grower.push(&mut copy, token, (0.0, 0.0))?;
            copy.chain = chain.as_ref().map(Chain::fork);
            copy.draw_no = ((plan.n * tokens.len() + i) * plan.rollouts + j + 1) as u32;
            let is_over = copy.is_closed();
            paths.push(copy);
            if is_over {
                break;
            }
        }
        all.push(paths);
    }
    let mut flat: Vec<&mut Path<L::Branch>> = all.iter_mut().flatten().collect();
    for chunk in flat.chunks_mut(MAX_ROWS) {
        let target = plan.n + 1 + plan.n_tokens;
        match chain {
            None => grow(grower, chunk, target)?,
            Some(_) => draw(grower, chunk, target)?,
        }
    }
    let text = |p: &Path<L::Branch>| Rolled { text: p.text().into_owned(), is_closed: p.is_closed() };
    Ok(all.iter().map(|paths| paths.iter().map(text).collect()).collect())
}

/// Draws paths to `target` tokens or their ends.
fn draw<L: NextLogits>(
    grower: &mut Grower<'_, L>,
    paths: &mut [&mut Path<L::Branch>],
    target: usize,
) -> Result<()> {
    loop {
        let mut active: Vec<&mut Path<L::Branch>> =
            paths.iter_mut().filter(|p| !p.is_closed() && p.n_tokens() < target).map(|p| &mut **p).collect();
        if active.is_empty() {
            return Ok(());
        }
        grower.feed(&mut active)?;
        grower.draw(&mut active)?;
    }
}
