//! Hidden states of many texts in few forward passes.
//!
//! Texts begin alike (a template's header), so what all share is evaluated once and forked. The rest goes
//! into packs, longest first into the first pack with room; a pack is one forward pass in which each text
//! sees itself alone. Cost: the tokens of all texts, each once. It loses when texts are longer than a pack:
//! they get one of their own.
//! Source: Zhao et al. 2024, arXiv 2404.09529 (prepacking); first-fit decreasing.

use super::super::probe::Position;
use crate::error::Result;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::TokenId;

/// Tokens of one forward pass.
pub const PACK_TOKENS: usize = 512;

/// A text to read: a prompt, and an answer to it where the probe reads answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The whole prompt, up to where the answer begins; at least two tokens.
    pub prompt: Vec<TokenId>,
    /// The answer; for [`Position::Prompt`] it is not read.
    pub response: Vec<TokenId>,
    /// Whether it is a positive example.
    pub label: bool,
}

impl Sample {
    fn n_tokens(&self) -> usize {
        self.prompt.len() + self.response.len()
    }
}

/// A hidden state of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the sample.
    pub sample: usize,
    /// Index in its answer; 0 for prompts and headers.
    pub token: usize,
}

/// Reads the states of `samples` at `position` and hands each to `visit`: where it is, and for each of `layers`
/// the state, `[n_embd]`. `header`: the tokens after the answer for [`Position::Header`]. `progress` gets the
/// number of samples just done.
/// # Errors Those of the model; its taps are taken away in any case.
pub fn read_states<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    (position, header): (Position, &[TokenId]),
    layers: &[u32],
    visit: &mut dyn FnMut(Place, &[&[f32]]),
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    lm.set_taps(layers)?;
    let done = read_all(lm, samples, (position, header), layers.len(), visit, progress);
    lm.set_taps(&[])?;
    done
}

fn read_all<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    (position, header): (Position, &[TokenId]),
    n_layers: usize,
    visit: &mut dyn FnMut(Place, &[&[f32]]),
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let shared = shared_prefix(samples);
    let trunk = lm.root()?;
    if let Some(first) = samples.first().filter(|_| shared > 0) {
        lm.eval(&[BatchItem { branch: &trunk, tokens: &first.prompt[..shared], want: Want::Nothing }])?;
    }
    for pack in packs(samples, shared) {
        let branches = pack.iter().map(|_| lm.fork(&trunk)).collect::<Result<Vec<_>>>()?;
        let prompts: Vec<&[TokenId]> = pack.iter().map(|&i| &samples[i].prompt[shared..]).collect();
        let answers: Vec<&[TokenId]> = pack.iter().map(|&i| &samples[i].response[..]).collect();
        match position {
            Position::Prompt => {
                let rows = eval(lm, &branches, &prompts, Want::Last)?;
                hand_over(lm, &pack, &rows, n_layers, visit);
            }
            Position::Response => {
                eval(lm, &branches, &prompts, Want::Nothing)?;
                let rows = eval(lm, &branches, &answers, Want::All)?;
                hand_over(lm, &pack, &rows, n_layers, visit);
            }
            Position::Header => {
                eval(lm, &branches, &prompts, Want::Nothing)?;
                let ends: Vec<Vec<TokenId>> = answers.iter().map(|a| [a, header].concat()).collect();
                let ends: Vec<&[TokenId]> = ends.iter().map(Vec::as_slice).collect();
                let rows = eval(lm, &branches, &ends, Want::Last)?;
                hand_over(lm, &pack, &rows, n_layers, visit);
            }
        }
        progress(pack.len());
    }
    Ok(())
}

/// Reads the row of logits after each prompt and hands it to `visit` with the sample's number. `progress` gets the
/// number of samples just done.
/// # Errors Those of the model.
pub fn read_rows<L: NextLogits>(
    lm: &mut L,
    samples: &[Sample],
    visit: &mut dyn FnMut(usize, &[f32]),
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let shared = shared_prefix(samples);
    let trunk = lm.root()?;
    if let Some(first) = samples.first().filter(|_| shared > 0) {
        lm.eval(&[BatchItem { branch: &trunk, tokens: &first.prompt[..shared], want: Want::Nothing }])?;
    }
    for pack in packs(samples, shared) {
        let branches = pack.iter().map(|_| lm.fork(&trunk)).collect::<Result<Vec<_>>>()?;
        let prompts: Vec<&[TokenId]> = pack.iter().map(|&i| &samples[i].prompt[shared..]).collect();
        eval(lm, &branches, &prompts, Want::Last)?;
        pack.iter().enumerate().for_each(|(row, &i)| visit(i, lm.row(row)));
        progress(pack.len());
    }
    Ok(())
}

/// Appends the tokens of each branch that has some. Rows each branch gets.
fn eval<L: NextLogits>(
    lm: &mut L,
    branches: &[L::Branch],
    tokens: &[&[TokenId]],
    want: Want,
) -> Result<Vec<usize>> {
    let items: Vec<BatchItem<'_, L::Branch>> = branches
        .iter()
        .zip(tokens)
        .filter(|(_, tokens)| !tokens.is_empty())
        .map(|(branch, tokens)| BatchItem { branch, tokens, want })
        .collect();
    if !items.is_empty() {
        lm.eval(&items)?;
    }
    let rows = |n: usize| match want {
        Want::Nothing => 0,
        Want::Last => n.min(1),
        Want::All => n,
    };
    Ok(tokens.iter().map(|t| rows(t.len())).collect())
}

fn hand_over<L: NextLogits>(
    lm: &L,
    pack: &[usize],
    rows: &[usize],
    n_layers: usize,
    visit: &mut dyn FnMut(Place, &[&[f32]]),
) {
    let mut row = 0;
    for (&sample, &n) in pack.iter().zip(rows) {
        for token in 0..n {
            let states: Option<Vec<&[f32]>> = (0..n_layers).map(|tap| lm.hidden(tap, row)).collect();
            if let Some(states) = states {
                visit(Place { sample, token }, &states);
            }
            row += 1;
        }
    }
}

/// Length of the beginning that all prompts share, leaving each at least its last token.
fn shared_prefix(samples: &[Sample]) -> usize {
    let [first, rest @ ..] = samples else { return 0 };
    let common = |s: &Sample| first.prompt.iter().zip(&s.prompt).take_while(|(a, b)| a == b).count();
    let shortest = samples.iter().map(|s| s.prompt.len().saturating_sub(1)).min().unwrap_or(0);
    rest.iter().map(common).min().unwrap_or(shortest).min(shortest)
}

/// Numbers of the samples of each forward pass.
fn packs(samples: &[Sample], shared: usize) -> Vec<Vec<usize>> {
    let size = |i: usize| samples[i].n_tokens() - shared;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(size(i)));
    let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in order {
        match packs.iter_mut().find(|(n, _)| n + size(i) <= PACK_TOKENS) {
            Some((n, pack)) => {
                *n += size(i);
                pack.push(i);
            }
            None => packs.push((size(i), vec![i])),
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}
