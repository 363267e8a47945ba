//! Texts and blocks that are drawn, and the best kept: best of N, block-wise best of K, rejection.
//!
//! A text that cannot be the best any more is given up while it grows; which text is returned does not change.

use super::path::{Grower, Path};
use super::value;
use super::{Draft, Ended, Judge, SearchMethod, SearchParams, SearchStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::reward::{Calibration, Candidate, Exponential, Score, Status};
use crate::sampling::{Chain, Extras, NextLogits, Purpose, Random};
use crate::token::TokenId;

/// Tokens between two looks at what growing texts can still reach.
const CHECK_EVERY: usize = 8;
/// Texts drawn together by rejection: only the first that is accepted counts.
const TRIES_AT_ONCE: usize = 4;

struct Drawing<'s, 'a, 'h, L: NextLogits> {
    grower: &'s mut Grower<'a, L>,
    judge: &'s mut Judge<'h>,
    params: &'s SearchParams,
    first_eval: u64,
    n_pruned: u64,
}

/// A drawn text with its score; none if it was given up.
type Drawn<B> = (Path<B>, Option<Score>);

pub(super) fn run<L: NextLogits>(
    grower: &mut Grower<'_, L>,
    mut start: Path<L::Branch>,
    prompt: &[TokenId],
    judge: &mut Judge<'_>,
    params: &SearchParams,
) -> Result<Ended<L::Branch>> {
    let mut chain = Chain::new(&params.sampling, grower.lm.n_vocab())?;
    chain.set_extras(Extras { logprob: true, log_z: true });
    prompt.iter().try_for_each(|&t| chain.accept(t))?;
    start.chain = Some(chain);
    let first_eval = grower.lm.n_evals();
    let mut drawing = Drawing { grower, judge, params, first_eval, n_pruned: 0 };
    let mut ended = match params.method {
        SearchMethod::BestOf => drawing.best_of(start),
        SearchMethod::Block => drawing.blocks(start),
        _ => drawing.reject(start),
    }?;
    ended.n_pruned = drawing.n_pruned;
    Ok(ended)
}

impl<L: NextLogits> Drawing<'_, '_, '_, L> {
    fn is_spent(&self) -> bool {
        self.params.budget_evals.is_some_and(|most| self.grower.lm.n_evals() - self.first_eval >= most)
    }

    /// Copies of `base`, numbered from `first`, that go their own ways.
    fn forks(&mut self, base: &Path<L::Branch>, first: usize, n: usize) -> Result<Vec<Path<L::Branch>>> {
        let mut forks = Vec::with_capacity(n);
        for i in first..first + n {
            let mut fork = self.grower.fork(base, base.n_tokens())?;
            fork.draw_no = i as u32 + 1;
            forks.push(fork);
        }
        Ok(forks)
    }

    /// Draws the paths to `target` tokens or their ends. `gives_up`: leaves those that cannot be the best.
    fn grow(&mut self, paths: &mut [Path<L::Branch>], target: usize, gives_up: bool) -> Result<Vec<bool>> {
        let mut given_up = vec![false; paths.len()];
        let mut closed: Vec<Option<Score>> = vec![None; paths.len()];
        let looks = gives_up && self.params.prunes && self.judge.reward.is_cheap();
        for turn in 0.. {
            let is_active =
                |p: &Path<L::Branch>, gone: bool| !gone && !p.is_closed() && p.n_tokens() < target;
            if looks && turn % CHECK_EVERY == CHECK_EVERY - 1 {
                self.give_up(paths, &mut closed, &mut given_up)?;
            }
            if gives_up && self.is_spent() {
                stop_all(paths, &mut given_up);
            }
            let mut active: Vec<&mut Path<L::Branch>> = paths
                .iter_mut()
                .zip(&given_up)
                .filter(|(p, gone)| is_active(p, **gone))
                .map(|(p, _)| p)
                .collect();
            if active.is_empty() {
                break;
            }
            self.grower.feed(&mut active)?;
            self.grower.draw(&mut active)?;
        }
        Ok(given_up)
    }

    fn give_up(
        &mut self,
        paths: &[Path<L::Branch>],
        closed: &mut [Option<Score>],
        given_up: &mut [bool],
    ) -> Result<()> {
        let fresh: Vec<usize> = (0..paths.len()).filter(|&i| !given_up[i] && closed[i].is_none()).collect();
        let seen: Vec<&Path<L::Branch>> = fresh.iter().map(|&i| &paths[i]).collect();
        let scores = self.judge.score_paths(&seen)?;
        for (&i, score) in fresh.iter().zip(&scores).filter(|(i, _)| paths[**i].is_closed()) {
            closed[i] = Some(*score);
        }
        let (_, most) = self.judge.reward.range();
        for (&i, score) in fresh.iter().zip(&scores).filter(|(i, _)| !paths[**i].is_closed()) {
            let mut done = closed.iter().enumerate().filter_map(|(j, s)| Some((j, (*s)?.value)));
            // of equal ones the first is kept, and only nothing can be better than the most
            if done.any(|(j, r)| r > score.hi || r == score.hi && r == most && j < i) {
                given_up[i] = true;
                self.n_pruned += 1;
            }
        }
        Ok(())
    }

    /// Scores those that were not given up.
    fn scored(&mut self, paths: Vec<Path<L::Branch>>, given_up: &[bool]) -> Result<Vec<Drawn<L::Branch>>> {
        let seen: Vec<&Path<L::Branch>> =
            paths.iter().zip(given_up).filter(|(_, gone)| !**gone).map(|(p, _)| p).collect();
        let mut scores = self.judge.score_paths(&seen)?.into_iter();
        let score = |gone: &bool| if *gone { None } else { scores.next() };
        let scores: Vec<Option<Score>> = given_up.iter().map(score).collect();
        Ok(paths.into_iter().zip(scores).collect())
    }

    fn best_of(&mut self, start: Path<L::Branch>) -> Result<Ended<L::Branch>> {
        let mut paths = self.forks(&start, 0, self.params.samples)?;
        let gives_up = self.params.calibrate.is_none();
        let given_up = self.grow(&mut paths, usize::MAX, gives_up)?;
        let is_spent = self.is_spent();
        let drawn = self.scored(paths, &given_up)?;
        let values = match self.params.calibrate {
            None => drawn.iter().map(|(_, s)| s.map_or(f64::NEG_INFINITY, |s| s.value)).collect(),
            Some(t) => self.calibrated(&drawn, Exponential::new(t)?)?,
        };
        let mut ended = keep(drawn, value::best(&values));
        if is_spent {
            ended.status = Some(SearchStatus::Budget);
        }
        if values.iter().all(|v| *v == values[0]) && values.len() > 1 {
            ended.warnings.push("flat_reward");
        }
        Ok(ended)
    }

    /// Each reward's quantile among the samples, the sample itself left out, through the transform, weighted.
    fn calibrated(&mut self, drawn: &[Drawn<L::Branch>], transform: Exponential) -> Result<Vec<f64>> {
        let names = self.judge.reward.part_names();
        let mut rewards: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
        for (path, _) in drawn {
            let text = path.text();
            let parts =
                self.judge.reward.parts(self.judge.prompt, Candidate { text: &text, is_closed: true })?;
            rewards.iter_mut().zip(parts).for_each(|(list, s)| list.push(s.value));
        }
        let mut values = vec![0.0; drawn.len()];
        for (list, (_, weight)) in rewards.iter().zip(names) {
            let calibration = Calibration::new(list)?;
            for (value, r) in values.iter_mut().zip(list) {
                *value += weight * transform.apply(calibration.quantile_without(*r));
            }
        }
        Ok(values)
    }

    fn blocks(&mut self, start: Path<L::Branch>) -> Result<Ended<L::Branch>> {
        let (mut path, mut n_draws, mut warnings) = (start, 0, Vec::new());
        let mut status = None;
        while !path.is_closed() {
            let n = if self.is_spent() { 1 } else { self.params.samples };
            status = status.or((n < self.params.samples).then_some(SearchStatus::Budget));
            self.grower.feed(&mut [&mut path])?;
            let mut blocks = self.forks(&path, n_draws, n)?;
            let target = path.n_tokens().saturating_add(self.params.block);
            self.grow(&mut blocks, target, false)?;
            n_draws += n;
            let given_up = vec![false; n];
            let drawn = self.scored(blocks, &given_up)?;
            let mut values: Vec<f64> = drawn.iter().map(|(_, s)| s.map_or(0.0, |s| s.value)).collect();
            if values.iter().all(|v| *v == values[0]) && n > 1 {
                values = drawn.iter().map(|(p, _)| p.raw_logprob()).collect();
                warnings = vec!["flat_reward"];
            }
            let kept = value::best(&values);
            path = keep(drawn, kept).path;
        }
        Ok(Ended { n_draws: Some(n_draws), status, warnings, ..Ended::new(path) })
    }

    fn reject(&mut self, start: Path<L::Branch>) -> Result<Ended<L::Branch>> {
        let is_exact = self.params.method == SearchMethod::RejectionExact;
        let (_, most) = self.judge.reward.range();
        if is_exact && !most.is_finite() {
            let message = "rejection_exact: expected a reward with an upper bound, found none";
            return Err(Error::new(ErrorKind::Reward, message));
        }
        let mut all: Vec<Drawn<L::Branch>> = Vec::new();
        while all.len() < self.params.max_tries && (all.is_empty() || !self.is_spent()) {
            let n = TRIES_AT_ONCE.min(self.params.max_tries - all.len());
            let mut paths = self.forks(&start, all.len(), n)?;
            self.grow(&mut paths, usize::MAX, false)?;
            let first = all.len();
            all.extend(self.scored(paths, &vec![false; n])?);
            for i in first..all.len() {
                let Some(score) = all[i].1 else { continue };
                if self.accepts(score, i, is_exact, most)? {
                    return Ok(Ended { n_draws: Some(i + 1), ..keep(all, i) });
                }
            }
        }
        let values: Vec<f64> = all.iter().map(|(_, s)| s.map_or(f64::NEG_INFINITY, |s| s.value)).collect();
        let status = if self.is_spent() { SearchStatus::Budget } else { SearchStatus::Unsatisfied };
        let (n, best) = (all.len(), value::best(&values));
        Ok(Ended { n_draws: Some(n), status: Some(status), ..keep(all, best) })
    }

    fn accepts(&self, score: Score, draw: usize, is_exact: bool, most: f64) -> Result<bool> {
        if !is_exact {
            return Ok(score.status == Status::Satisfied);
        }
        if score.value > most {
            let message = format!("expected a reward of at most {most}, found {}", score.value);
            return Err(Error::new(ErrorKind::Reward, message));
        }
        let u = Random::new(self.params.sampling.seed).with_draw(draw as u32).uniform(0, Purpose::Accept);
        let lambda = self.params.lambda_for(self.judge.reward.step());
        Ok(u < ((score.value - most) * lambda).exp())
    }
}

/// The budget is spent: only finished texts count, or the first one if there is none.
fn stop_all<B>(paths: &[Path<B>], given_up: &mut [bool]) {
    let has_closed = paths.iter().zip(&*given_up).any(|(p, gone)| p.is_closed() && !gone);
    for (i, path) in paths.iter().enumerate() {
        given_up[i] |= !path.is_closed() && (has_closed || i > 0);
    }
}

/// Path `i`, with all texts for the report.
fn keep<B>(drawn: Vec<Drawn<B>>, i: usize) -> Ended<B> {
    let draft = |(p, s): &Drawn<B>| {
        s.map(|s| Draft { text: p.text().into_owned(), logprob: p.raw_logprob(), reward: s.value })
    };
    let drafts = drawn.iter().filter_map(draft).collect();
    let n = drawn.len();
    let mut paths: Vec<Path<B>> = drawn.into_iter().map(|(p, _)| p).collect();
    Ended { n_draws: Some(n), drafts, ..Ended::new(paths.swap_remove(i)) }
}
