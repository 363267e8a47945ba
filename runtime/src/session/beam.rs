//! Beam search under a constraint: several texts side by side, kept apart by what they have said already.
//!
//! A mask alone makes a model say what it must when nothing else is left, at the end. Here texts that have said
//! more compete only with texts that have said as much, so words come where they fit: each step extends every
//! text by its likeliest tokens and by those that lead to what is missing, puts the results in banks by how many
//! clauses are met, and fills the beam from the banks in turn. One forward pass a step for all texts.
//! Cost: as many rows a token as there are beams; nothing is streamed before the end. It loses where diversity is
//! wanted: it is deterministic and ignores sampling settings.
//! Source: dynamic beam allocation, Post and Vilar, arXiv 1804.06609, with an automaton in place of token counts.

use super::conditioned::text_of;
use super::{AlignPlan, Event, Exactness, Finish, Outcome, Report, Setting, Source, Timings};
use crate::align::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels;
use crate::sampling::{BatchItem, NextLogits, Want};
use crate::token::{TokenId, TokenSet};
use std::time::Instant;

/// Most beams.
pub const MAX_BEAMS: usize = 32;
/// Exponent of the length that a text's log-probability is divided by; as in A*esque decoding, arXiv 2112.08726.
const LENGTH_PENALTY: f64 = 0.2;
/// No text says the same so many tokens twice: likeliest texts repeat themselves otherwise.
const NO_REPEAT: usize = 3;

/// A text on its way.
struct Beam<B> {
    branch: B,
    constraint: Box<dyn Constraint>,
    ids: Vec<TokenId>,
    logprob: f64,
    row: Vec<f32>,
}

/// A beam with one token more.
#[derive(Clone, Copy)]
struct Next {
    beam: usize,
    token: TokenId,
    logprob: f64,
    n_met: u32,
    is_end: bool,
}

/// A finished text.
struct Finished {
    ids: Vec<TokenId>,
    logprob: f64,
    is_ended: bool,
}

impl Finished {
    fn score(&self) -> f64 {
        self.logprob / (self.ids.len() as f64 + 1.0).powf(LENGTH_PENALTY)
    }
}

/// The best text that `n_beams` beams find. `sink` gets it whole.
/// # Errors `InvalidArgument` for no beam or more than [`MAX_BEAMS`]; `Unsatisfiable` if every beam met a dead end;
/// as [`super::run`].
pub fn beam<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    plan: &AlignPlan,
    source: Source<L::Branch>,
    n_beams: usize,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    if !(1..=MAX_BEAMS).contains(&n_beams) {
        let message = format!("expected 1 to {MAX_BEAMS} beams, found {n_beams}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let (started, evals) = (Instant::now(), lm.n_evals());
    let mut search = Search::new(lm, setting, plan, source, n_beams)?;
    let prefill_s = started.elapsed().as_secs_f64();
    while search.step()? {}
    let (n_prompt, best) = (search.n_prompt, search.best()?);
    let text = text_of(setting, &best.ids);
    let report = Report {
        guard: None,
        finish: if best.is_ended { Finish::Eos } else { Finish::Length },
        stop: None,
        n_prompt,
        n_cached: 0,
        n_generated: best.ids.len(),
        n_forced: 0,
        n_backtracks: 0,
        n_evals: lm.n_evals() - evals,
        logprob: best.logprob,
        removed_nats: None,
        exactness: Exactness::Biased,
        exact: None,
        constraints: plan.judge().verdict(&text).ok(),
        search: None,
        nudge: None,
        seed: 0,
        model: setting.model_id.clone(),
        timings: Timings {
            prefill_s,
            decode_s: started.elapsed().as_secs_f64() - prefill_s,
            ..Timings::default()
        },
    };
    let outcome = Outcome { text, ids: best.ids, report };
    sink(Event::Text(&outcome.text));
    sink(Event::Done(&outcome));
    Ok(outcome)
}

struct Search<'m, L: NextLogits> {
    lm: &'m mut L,
    beams: Vec<Beam<L::Branch>>,
    finished: Vec<Finished>,
    ends: TokenSet,
    n_beams: usize,
    max_tokens: usize,
    n_prompt: usize,
    mask: TokenSet,
    scratch: Vec<f64>,
}

impl<'m, L: NextLogits> Search<'m, L> {
    fn new(
        lm: &'m mut L,
        setting: &Setting<'_>,
        plan: &AlignPlan,
        source: Source<L::Branch>,
        n_beams: usize,
    ) -> Result<Self> {
        let n_prompt = lm.len(&source.branch) + source.tokens.len();
        if n_prompt >= setting.n_ctx || source.tokens.is_empty() {
            let message = format!("expected a prompt of 1 to {} tokens, found {n_prompt}", setting.n_ctx - 1);
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        let max_tokens = source.max_tokens.min(setting.n_ctx - n_prompt);
        let aligned = plan.aligned(max_tokens)?;
        let Some(constraint) = aligned.constraint.filter(|_| aligned.bans.is_none()) else {
            return Err(Error::new(
                ErrorKind::BadProfile,
                "beam search needs a constraint, and on_exclude = \"mask\"",
            ));
        };
        lm.eval(&[BatchItem { branch: &source.branch, tokens: &source.tokens, want: Want::Last }])?;
        let n_vocab = lm.n_vocab();
        let row = lm.row(0).to_vec();
        let mut ends = TokenSet::none(n_vocab);
        setting.vocab.eog_ids().iter().for_each(|&t| ends.insert(t));
        Ok(Self {
            lm,
            beams: vec![Beam { branch: source.branch, constraint, ids: Vec::new(), logprob: 0.0, row }],
            finished: Vec::new(),
            ends,
            n_beams,
            max_tokens,
            n_prompt,
            mask: TokenSet::none(n_vocab),
            scratch: vec![0.0; n_vocab.div_ceil(kernels::BLOCK)],
        })
    }

    /// One token more for the best texts. False when the search is over.
    fn step(&mut self) -> Result<bool> {
        let mut next = Vec::new();
        for i in 0..self.beams.len() {
            self.extend(i, &mut next)?;
        }
        // the order of equal candidates must not depend on anything but themselves
        next.sort_by(|a, b| {
            b.logprob.total_cmp(&a.logprob).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token))
        });
        for end in next.iter().filter(|n| n.is_end) {
            let ids = self.beams[end.beam].ids.clone();
            self.finished.push(Finished { ids, logprob: end.logprob, is_ended: true });
        }
        next.retain(|n| !n.is_end);
        let chosen = allocate(&next, self.n_beams);
        let grown = self.grow(&chosen)?;
        self.beams = grown;
        Ok(!self.beams.is_empty() && !self.is_settled())
    }

    /// Whether enough texts are finished, and none on its way is better than the best of them.
    fn is_settled(&self) -> bool {
        let best = self.finished.iter().map(Finished::score).fold(f64::NEG_INFINITY, f64::max);
        let open = self
            .beams
            .iter()
            .map(|b| b.logprob / (b.ids.len() as f64 + 1.0).powf(LENGTH_PENALTY))
            .fold(f64::NEG_INFINITY, f64::max);
        self.finished.len() >= self.n_beams && open < best
    }

    /// Candidates of beam `i`: its likeliest tokens, those that lead to what is missing, and the end.
    fn extend(&mut self, i: usize, next: &mut Vec<Next>) -> Result<()> {
        let beam = &mut self.beams[i];
        self.mask.fill();
        beam.constraint.mask(&mut self.mask)?;
        let norm = kernels::log_sum_exp(&beam.row, None, &mut self.scratch);
        let mut tokens = Vec::new();
        beam.constraint.advancing(&mut tokens);
        tokens.retain(|&t| self.mask.contains(t));
        let wanted = self.n_beams + 1;
        for token in likeliest(&beam.row, &self.mask, 2 * wanted) {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let is_last = beam.ids.len() + 1 >= self.max_tokens;
        let may_follow = |t: TokenId| match is_last {
            true => self.ends.contains(t),
            false => !repeats(&beam.ids, t),
        };
        for token in tokens.into_iter().filter(|&t| may_follow(t)) {
            let logprob = beam.logprob + f64::from(beam.row[token as usize]) - norm;
            if !beam.constraint.accept(token)? {
                continue;
            }
            let is_end = self.ends.contains(token);
            next.push(Next { beam: i, token, logprob, n_met: beam.constraint.met().count_ones(), is_end });
            beam.constraint.rollback(1)?;
        }
        Ok(())
    }

    /// The chosen candidates as beams, evaluated together.
    fn grow(&mut self, chosen: &[Next]) -> Result<Vec<Beam<L::Branch>>> {
        let mut grown = Vec::with_capacity(chosen.len());
        for next in chosen {
            let from = &self.beams[next.beam];
            let branch = self.lm.fork(&from.branch)?;
            let mut constraint = from.constraint.fork();
            if !constraint.accept(next.token)? {
                return Err(Error::new(ErrorKind::Internal, "a token that was accepted is refused"));
            }
            let ids = from.ids.iter().copied().chain([next.token]).collect();
            grown.push(Beam { branch, constraint, ids, logprob: next.logprob, row: Vec::new() });
        }
        if grown.is_empty() {
            return Ok(grown);
        }
        let items: Vec<_> = grown
            .iter()
            .map(|b| BatchItem {
                branch: &b.branch,
                tokens: b.ids.last_chunk::<1>().map_or(&[][..], |t| t),
                want: Want::Last,
            })
            .collect();
        self.lm.eval(&items)?;
        drop(items);
        for (i, beam) in grown.iter_mut().enumerate() {
            beam.row = self.lm.row(i).to_vec();
        }
        Ok(grown)
    }

    fn best(mut self) -> Result<Finished> {
        if self.finished.is_empty() {
            // only without a limit in force: what is there, unfinished
            let open =
                self.beams.drain(..).map(|b| Finished { ids: b.ids, logprob: b.logprob, is_ended: false });
            self.finished.extend(open);
        }
        let better = |a: &Finished, b: &Finished| a.score().total_cmp(&b.score());
        self.finished.into_iter().max_by(better).ok_or_else(|| {
            Error::new(ErrorKind::Unsatisfiable, "expected a beam to end, found only dead ends")
        })
    }
}

/// Whether `token` would end the second occurrence of some [`NO_REPEAT`] tokens.
fn repeats(ids: &[TokenId], token: TokenId) -> bool {
    let Some(at) = ids.len().checked_sub(NO_REPEAT - 1) else { return false };
    let tail = &ids[at..];
    ids.windows(NO_REPEAT).any(|w| w[..NO_REPEAT - 1] == *tail && w[NO_REPEAT - 1] == token)
}

/// Fills `n` places from banks of candidates with equally many clauses met, the fullest bank first, one from
/// each in turn. `next` is sorted, best first.
fn allocate(next: &[Next], n: usize) -> Vec<Next> {
    let mut banks: Vec<(u32, Vec<Next>)> = Vec::new();
    for candidate in next {
        match banks.iter_mut().find(|(n_met, _)| *n_met == candidate.n_met) {
            Some((_, bank)) => bank.push(*candidate),
            None => banks.push((candidate.n_met, vec![*candidate])),
        }
    }
    banks.sort_by_key(|(n_met, _)| std::cmp::Reverse(*n_met));
    let longest = banks.iter().map(|(_, bank)| bank.len()).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|i| banks.iter().filter_map(move |(_, bank)| bank.get(i)));
    turns.take(n).copied().collect()
}

/// The `n` likeliest tokens of `mask`, best first; of equal ones the lower id.
fn likeliest(row: &[f32], mask: &TokenSet, n: usize) -> Vec<TokenId> {
    let mut best: Vec<TokenId> = Vec::with_capacity(n + 1);
    let order = |a: &TokenId, b: &TokenId| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    for token in mask.iter() {
        let last = best.last().map_or(f32::NEG_INFINITY, |&t| row[t as usize]);
        if best.len() < n || row[token as usize] > last {
            let at = best.partition_point(|t| order(t, &token).is_lt());
            best.insert(at, token);
            best.truncate(n);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_take_turns_the_fullest_first() {
        let next = |token, n_met, logprob| Next { beam: 0, token, logprob, n_met, is_end: false };
        let all = [next(1, 0, -1.0), next(2, 0, -2.0), next(3, 2, -3.0), next(4, 1, -4.0), next(5, 0, -5.0)];
        let chosen = |n| allocate(&all, n).iter().map(|c| c.token).collect::<Vec<_>>();
        assert_eq!(chosen(3), [3, 4, 1]);
        assert_eq!(chosen(4), [3, 4, 1, 2]);
        assert_eq!(chosen(9), [3, 4, 1, 2, 5]);
    }

    #[test]
    fn repeated_runs_are_seen() {
        assert!(repeats(&[1, 2, 3, 9, 1, 2], 3) && !repeats(&[4, 4], 4) && repeats(&[4, 4, 4], 4));
        assert!(!repeats(&[1, 2, 3, 9, 1, 2], 9) && !repeats(&[1], 1) && !repeats(&[], 1));
    }

    #[test]
    fn likeliest_tokens_come_best_first_within_the_mask() {
        let row = [0.5, 3.0, 1.0, 3.0, 2.0, 9.0];
        let mut mask = TokenSet::all(row.len());
        mask.remove(5);
        assert_eq!(likeliest(&row, &mask, 3), [1, 3, 4]);
        assert_eq!(likeliest(&row, &mask, 9), [1, 3, 4, 2, 0]);
    }
}
