//! Beam search under a constraint: several texts side by side, kept apart by what they have said already.
//!
//! A mask alone makes a model say what it must when nothing else is left, at the end. Here texts that have said
//! more compete only with texts that have said as much, so words come where they fit: each step extends every
//! text by its likeliest tokens and by those that lead to what is missing, puts the results in banks by which
//! clauses are met, and fills the beam from the banks in turn. With a look-ahead twice as many texts are tried a
//! step, and within a bank those come first after which something missing is likely soon ([`outlook`]).
//! Cost: as many rows a token as there are beams, or `2 · beams · lookahead`; nothing is streamed before the end.
//! It loses where diversity is wanted: it is deterministic and ignores sampling settings.
//! Source: dynamic beam allocation, Post and Vilar, arXiv 1804.06609; groups by the set of met clauses, NeuroLogic,
//! arXiv 2010.12884; both with an automaton in place of token counts.

mod outlook;

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
/// Steps without a better finished text after which the search is over.
const PATIENCE: usize = 12;
/// No text says the same so many tokens twice: likeliest texts repeat themselves otherwise.
const NO_REPEAT: usize = 3;

/// What leads to something missing is tried among so many of the likeliest tokens: a word where it does not fit is not.
const RANK_LIMIT: usize = 50;
/// Texts this many clauses behind the best are given up.
const TOLERANCE: u32 = 2;
/// Texts tried a step for each that is kept, with a look-ahead.
const TRIED: usize = 2;

/// How many texts, and how far they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeamParams {
    /// Texts kept side by side, 1 to [`MAX_BEAMS`].
    pub n_beams: usize,
    /// Tokens each text tried is continued by before it is ranked; 0: ranked as it is.
    pub lookahead: usize,
}

impl BeamParams {
    /// Texts side by side where nothing is said.
    pub const DEFAULT_BEAMS: usize = 8;
    /// Tokens looked ahead where nothing is said.
    pub const DEFAULT_LOOKAHEAD: usize = 5;
    /// Most tokens looked ahead.
    pub const MAX_LOOKAHEAD: usize = 64;

    /// # Errors `InvalidArgument` naming what is out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { n_beams, lookahead } = self;
        let message = match () {
            () if !(1..=MAX_BEAMS).contains(n_beams) => {
                format!("expected 1 to {MAX_BEAMS} beams, found {n_beams}")
            }
            () if *lookahead > Self::MAX_LOOKAHEAD => {
                format!("expected a lookahead of at most {} tokens, found {lookahead}", Self::MAX_LOOKAHEAD)
            }
            () => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Branches the search holds at once.
    pub fn n_branches(&self) -> usize {
        match self.lookahead {
            0 => 2 * self.n_beams + 1,
            _ => (2 * TRIED + 1) * self.n_beams + 1,
        }
    }

    fn n_tried(&self) -> usize {
        if self.lookahead == 0 { self.n_beams } else { TRIED * self.n_beams }
    }
}

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
    /// What the text is ranked by among those that have said the same.
    rank: f64,
    /// Which clauses are met, as bits.
    met: u64,
    is_end: bool,
}

/// A finished text.
struct Finished {
    ids: Vec<TokenId>,
    logprob: f64,
    is_ended: bool,
}

impl Finished {
    /// Log-probability a token, the end counted: by their whole log-probability lists of words would win.
    fn score(&self) -> f64 {
        self.logprob / (self.ids.len() as f64 + 1.0)
    }
}

/// The best text that the beams find. `sink` gets it whole.
/// # Errors `InvalidArgument` as [`BeamParams::validate`]; `Unsatisfiable` if every beam met a dead end; as
/// [`super::run`].
pub fn beam<L: NextLogits>(
    lm: &mut L,
    setting: &Setting<'_>,
    plan: &AlignPlan,
    source: Source<L::Branch>,
    params: BeamParams,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    params.validate()?;
    let (started, evals) = (Instant::now(), lm.n_evals());
    let mut search = Search::new(lm, setting, plan, source, params)?;
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
    params: BeamParams,
    max_tokens: usize,
    n_prompt: usize,
    /// Score of the best finished text, and steps since it was found.
    best: f64,
    n_idle: usize,
    mask: TokenSet,
    scratch: Vec<f64>,
}

impl<'m, L: NextLogits> Search<'m, L> {
    fn new(
        lm: &'m mut L,
        setting: &Setting<'_>,
        plan: &AlignPlan,
        source: Source<L::Branch>,
        params: BeamParams,
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
            params,
            max_tokens,
            n_prompt,
            best: f64::NEG_INFINITY,
            n_idle: 0,
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
        next.sort_by(|a, b| b.rank.total_cmp(&a.rank).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token)));
        for end in next.iter().filter(|n| n.is_end) {
            let ids = self.beams[end.beam].ids.clone();
            self.finished.push(Finished { ids, logprob: end.logprob, is_ended: true });
        }
        next.retain(|n| !n.is_end);
        let tried = allocate(&next, self.params.n_tried());
        let grown = self.grow(&tried)?;
        self.beams = self.keep(tried, grown)?;
        Ok(!self.beams.is_empty() && !self.is_settled())
    }

    /// Whether enough texts are finished, and no better one was for some time.
    fn is_settled(&mut self) -> bool {
        let best = self.finished.iter().map(Finished::score).fold(f64::NEG_INFINITY, f64::max);
        self.n_idle = if best > self.best { 0 } else { self.n_idle + 1 };
        self.best = self.best.max(best);
        self.finished.len() >= self.params.n_beams && self.n_idle >= PATIENCE
    }

    /// Of the texts tried, `grown`, those to go on with: by their outlook, if they look ahead.
    fn keep(&mut self, mut tried: Vec<Next>, grown: Vec<Beam<L::Branch>>) -> Result<Vec<Beam<L::Branch>>> {
        let BeamParams { n_beams, lookahead } = self.params;
        if lookahead == 0 || grown.len() <= n_beams {
            return Ok(grown);
        }
        let outlooks = outlook::outlooks(self.lm, &grown, lookahead)?;
        for (i, (next, outlook)) in tried.iter_mut().zip(outlooks).enumerate() {
            next.rank += outlook::ALPHA * outlook;
            next.beam = i;
        }
        tried.sort_by(|a, b| b.rank.total_cmp(&a.rank).then(a.beam.cmp(&b.beam)));
        let kept = allocate(&tried, n_beams);
        let mut grown: Vec<_> = grown.into_iter().map(Some).collect();
        Ok(kept.iter().filter_map(|next| grown[next.beam].take()).collect())
    }

    /// Candidates of beam `i`: its likeliest tokens, those that lead to what is missing, and the end.
    fn extend(&mut self, i: usize, next: &mut Vec<Next>) -> Result<()> {
        let beam = &mut self.beams[i];
        self.mask.fill();
        beam.constraint.mask(&mut self.mask)?;
        let norm = kernels::log_sum_exp(&beam.row, None, &mut self.scratch);
        let mut leads = Vec::new();
        beam.constraint.advancing(&mut leads);
        let near = likeliest(&beam.row, &self.mask, RANK_LIMIT);
        let n_likely = 2 * (self.params.n_beams + 1);
        let tokens = near.iter().enumerate().filter(|(i, t)| *i < n_likely || leads.contains(t));
        let tokens: Vec<TokenId> = tokens.map(|(_, &t)| t).collect();
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
            let (is_end, met) = (self.ends.contains(token), beam.constraint.met());
            let rank = logprob / (beam.ids.len() as f64 + 1.0);
            next.push(Next { beam: i, token, logprob, rank, met, is_end });
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

/// Fills `n` places from banks of candidates that have met the same clauses, the fullest bank first, one from each in
/// turn; of equally full banks that with the better first. `next` is sorted, best first.
fn allocate(next: &[Next], n: usize) -> Vec<Next> {
    let most = next.iter().map(|n| n.met.count_ones()).max().unwrap_or(0);
    let mut banks: Vec<(u64, Vec<Next>)> = Vec::new();
    for candidate in next.iter().filter(|n| n.met.count_ones() + TOLERANCE >= most) {
        match banks.iter_mut().find(|(met, _)| *met == candidate.met) {
            Some((_, bank)) => bank.push(*candidate),
            None => banks.push((candidate.met, vec![*candidate])),
        }
    }
    banks.sort_by_key(|(met, _)| std::cmp::Reverse(met.count_ones())); // stable: the better first among equals
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
        let next = |token, met, logprob| Next { beam: 0, token, logprob, rank: logprob, met, is_end: false };
        let all = [next(1, 0, -1.0), next(2, 0, -2.0), next(3, 6, -3.0), next(4, 1, -4.0), next(5, 0, -5.0)];
        let chosen = |n| allocate(&all, n).iter().map(|c| c.token).collect::<Vec<_>>();
        assert_eq!(chosen(3), [3, 4, 1]);
        assert_eq!(chosen(4), [3, 4, 1, 2]);
        assert_eq!(chosen(9), [3, 4, 1, 2, 5]);
        // what was said matters, not how much of it; and who is far behind is given up
        let sets = [next(1, 1, -1.0), next(2, 1, -2.0), next(3, 2, -3.0), next(4, 7, -9.0), next(5, 0, -0.5)];
        let tokens = |n| allocate(&sets, n).iter().map(|c| c.token).collect::<Vec<_>>();
        assert_eq!(tokens(9), [4, 1, 3, 2]);
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
