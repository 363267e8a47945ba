//! Token by token: the likeliest tokens are followed ahead, their outlooks scored, and the best is kept.
//!
//! Exact pruning: a candidate is dropped when what it could reach at best, its log-probability plus the reward's
//! upper bound, is no more than what enough others have already; so the result is that of the naive search, ties
//! included. An outlook whose reward is decided is not followed further either.

use super::path::{Grower, Path};
use super::value::{self, Estimate, Rollout};
use super::{Choose, Ended, Help, Judge, RollPlan, SearchMethod, SearchParams, SearchStatus, Step};
use crate::error::Result;
use crate::reward::{Candidate, Score};
use crate::sampling::{NextLogits, Random};
use crate::token::TokenId;

/// Tokens between two looks at the bounds of growing outlooks.
const CHECK_EVERY: usize = 4;

/// A text that is kept: the first `n` tokens of a path, whose rest is the outlook it was chosen for.
struct Hypothesis<B> {
    path: Path<B>,
    n: usize,
    score: f64,
}

impl<B> Hypothesis<B> {
    fn is_closed(&self) -> bool {
        self.path.is_closed() && self.n == self.path.n_tokens()
    }
}

/// A token that may extend a hypothesis, or a finished hypothesis that competes.
struct Contender<B> {
    hypothesis: usize,
    token: TokenId,
    /// Log-probability of the text with it.
    g: f64,
    logprob: (f64, f64),
    /// Its outlook; none yet, or none needed.
    path: Option<Path<B>>,
    /// Reward of the outlook and what it competes with, once known.
    known: Option<(f64, f64)>,
    is_dropped: bool,
    is_closed_text: bool,
}

struct Lookahead<'s, 'a, 'h, L: NextLogits> {
    grower: &'s mut Grower<'a, L>,
    judge: &'s mut Judge<'h>,
    params: &'s SearchParams,
    lambda: f64,
    alive: Vec<Hypothesis<L::Branch>>,
    n_pruned: u64,
    ess: Option<f64>,
    warnings: Vec<&'static str>,
}

pub(super) fn run<L: NextLogits>(
    grower: &mut Grower<'_, L>,
    start: Path<L::Branch>,
    judge: &mut Judge<'_>,
    params: &SearchParams,
    help: &mut Help<'_>,
) -> Result<Ended<L::Branch>> {
    let lambda = params.lambda_for(judge.reward.step());
    let first_eval = grower.lm.n_evals();
    let alive = vec![Hypothesis { path: start, n: 0, score: 0.0 }];
    let (n_pruned, ess, warnings) = (0, None, Vec::new());
    let mut search = Lookahead { grower, judge, params, lambda, alive, n_pruned, ess, warnings };
    let mut status = None;
    while !search.is_over() {
        let spent = search.grower.lm.n_evals() - first_eval;
        if params.budget_evals.is_some_and(|most| spent >= most) {
            search.finish_greedily()?;
            status = Some(SearchStatus::Budget);
            break;
        }
        let step = search.step(help)?;
        if let Some(observe) = help.observe.as_deref_mut() {
            observe(&step);
        }
    }
    search.into_ended(status)
}

impl<L: NextLogits> Lookahead<'_, '_, '_, L> {
    fn is_over(&self) -> bool {
        self.alive.iter().all(Hypothesis::is_closed)
    }

    fn into_ended(mut self, status: Option<SearchStatus>) -> Result<Ended<L::Branch>> {
        let scores: Vec<f64> = self.alive.iter().map(|h| h.score).collect();
        let mut best = self.alive.swap_remove(value::best(&scores));
        self.grower.cut(&mut best.path, best.n)?;
        Ok(Ended {
            status,
            lambda: Some(self.lambda),
            n_pruned: self.n_pruned,
            ess: self.ess,
            warnings: self.warnings,
            ..Ended::new(best.path)
        })
    }

    /// The best text goes on by its likeliest tokens.
    fn finish_greedily(&mut self) -> Result<()> {
        let scores: Vec<f64> = self.alive.iter().map(|h| h.score).collect();
        let mut best = self.alive.swap_remove(value::best(&scores));
        self.grower.cut(&mut best.path, best.n)?;
        grow(self.grower, &mut [&mut best.path], usize::MAX)?;
        best.n = best.path.n_tokens();
        self.alive = vec![best];
        Ok(())
    }

    /// One token more, or as many as are to be committed.
    fn step(&mut self, help: &mut Help<'_>) -> Result<Step> {
        self.need_menus()?;
        let mut contenders = self.contenders();
        let n_tried = contenders.len();
        let is_weighed = help.guide.is_some()
            || self.params.rollouts > 1
            || !matches!(
                self.params.method,
                SearchMethod::Deal | SearchMethod::DealBlock | SearchMethod::Args
            );
        if n_tried > 1 {
            match is_weighed {
                true => self.weigh(&mut contenders, help)?,
                false => self.score_by_waves(&mut contenders)?,
            }
        }
        let chosen = self.choose(&contenders);
        let first = chosen.first().map(|&i| &contenders[i]);
        let step = Step {
            n_tried,
            n_pruned: contenders.iter().filter(|c| c.is_dropped).count(),
            logprob: first.map_or(0.0, |c| c.g),
            reward: first.and_then(|c| c.known).map(|(h, _)| h),
            score: first.and_then(|c| c.known).map(|(_, c)| c),
        };
        self.n_pruned += step.n_pruned as u64;
        self.commit(contenders, &chosen)?;
        Ok(step)
    }

    /// Every open hypothesis knows what may come next.
    fn need_menus(&mut self) -> Result<()> {
        for h in &mut self.alive {
            if !h.is_closed() && h.path.menu_at(h.n).is_none() {
                self.grower.cut(&mut h.path, h.n)?;
            }
        }
        let unknown = |h: &&mut Hypothesis<L::Branch>| !h.is_closed() && h.path.menu_at(h.n).is_none();
        let mut paths: Vec<_> = self.alive.iter_mut().filter(unknown).map(|h| &mut h.path).collect();
        self.grower.feed(&mut paths)
    }

    /// The likeliest extensions of all hypotheses, likeliest text first, behind finished ones.
    fn contenders(&self) -> Vec<Contender<L::Branch>> {
        let mut closed = Vec::new();
        let mut open = Vec::new();
        for (hypothesis, h) in self.alive.iter().enumerate() {
            let contender = |token, g, logprob, known, is_closed_text| Contender {
                hypothesis,
                token,
                g,
                logprob,
                path: None,
                known,
                is_dropped: false,
                is_closed_text,
            };
            if h.is_closed() {
                closed.push(contender(0, h.path.logprob(h.n), (0.0, 0.0), Some((0.0, h.score)), true));
                continue;
            }
            let Some(menu) = h.path.menu_at(h.n) else { continue };
            let g = h.path.logprob(h.n);
            let sure = menu.best.first().is_some_and(|(_, l)| self.params.gate.is_some_and(|p| l.exp() >= p));
            let k = if sure { 1 } else { self.params.candidates };
            let all = menu.best.iter().take(k);
            open.extend(all.map(|&(t, l)| contender(t, g + l, (l, menu.log_z), None, false)));
        }
        open.sort_by(|a, b| b.g.total_cmp(&a.g)); // stable: equal ones in order of hypothesis and rank
        closed.extend(open);
        closed
    }

    /// Follows contenders and scores their outlooks: the first ones, then those that can still win.
    fn score_by_waves(&mut self, contenders: &mut [Contender<L::Branch>]) -> Result<()> {
        if !self.params.prunes {
            return self.score_some(contenders, |_| true);
        }
        let first: Vec<usize> = (0..contenders.len())
            .filter(|&i| contenders[i].known.is_none())
            .take(self.params.beams)
            .collect();
        self.score_some(contenders, |i| first.contains(&i))?;
        let (_, most) = self.judge.reward.range();
        for i in 0..contenders.len() {
            if contenders[i].known.is_none() && self.cannot_win(contenders, i, most) {
                contenders[i].is_dropped = true;
            }
        }
        self.score_some(contenders, |_| true)
    }

    /// Whether enough others are known to be chosen before contender `i`, if its reward is at most `hi`.
    fn cannot_win(&self, contenders: &[Contender<L::Branch>], i: usize, hi: f64) -> bool {
        let bound = self.joined(&contenders[i], hi);
        let before = |(j, c): (usize, &Contender<L::Branch>)| {
            c.known.is_some_and(|(_, score)| score > bound || score == bound && j < i)
        };
        let n = contenders.iter().enumerate().filter(|&(j, c)| before((j, c))).count();
        n >= self.params.beams
    }

    /// What a contender with reward `h` competes with.
    fn joined(&self, c: &Contender<L::Branch>, h: f64) -> f64 {
        let gain = if self.lambda == 0.0 { 0.0 } else { self.lambda * h };
        let length = self.alive.get(c.hypothesis).map_or(0, |h| h.n) + 1;
        if self.params.is_normed { c.g / length as f64 + gain } else { c.g + gain }
    }

    /// The outlook of a contender, as far as it is there already.
    fn outlook(&mut self, c: &Contender<L::Branch>) -> Result<Path<L::Branch>> {
        let Hypothesis { path, n, .. } = &self.alive[c.hypothesis];
        let follows = path.n_tokens() > *n
            && match path.token(*n) {
                Some(token) => token == c.token,
                // its next token is an ending one: so is this, and menus name one ending token at most once
                None => path.menu_at(*n).and_then(|m| m.best.first()).is_some_and(|(t, _)| *t == c.token),
            };
        if follows && self.params.reuses {
            return self.grower.fork(path, path.n_tokens());
        }
        let mut path = self.grower.fork(path, *n)?;
        self.grower.push(&mut path, c.token, c.logprob)?;
        Ok(path)
    }

    /// Follows and scores the contenders that `wanted` picks and that are neither known nor dropped.
    fn score_some(
        &mut self,
        contenders: &mut [Contender<L::Branch>],
        wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let picked: Vec<usize> = (0..contenders.len())
            .filter(|&i| wanted(i) && contenders[i].known.is_none() && !contenders[i].is_dropped)
            .collect();
        let mut paths = Vec::with_capacity(picked.len());
        let mut targets = Vec::with_capacity(picked.len());
        for &i in &picked {
            paths.push(self.outlook(&contenders[i])?);
            targets.push(self.alive[contenders[i].hypothesis].n + 1 + self.params.lookahead);
        }
        let mut settled: Vec<Option<Score>> = vec![None; picked.len()];
        let mut dropped = vec![false; picked.len()];
        let looks = self.params.prunes && self.judge.reward.is_cheap() && !self.judge.reward.needs_closed();
        for turn in 0.. {
            let active: Vec<usize> = (0..picked.len())
                .filter(|&p| settled[p].is_none() && !dropped[p])
                .filter(|&p| !paths[p].is_closed() && paths[p].n_tokens() < targets[p])
                .collect();
            if active.is_empty() {
                break;
            }
            if looks && turn % CHECK_EVERY == 0 {
                let seen: Vec<&Path<L::Branch>> = active.iter().map(|&p| &paths[p]).collect();
                for (&p, score) in active.iter().zip(self.judge.score_paths(&seen)?) {
                    settled[p] = Some(score).filter(Score::is_decided);
                    dropped[p] = self.cannot_win(contenders, picked[p], score.hi);
                }
            }
            let mut growing: Vec<&mut Path<L::Branch>> = paths
                .iter_mut()
                .enumerate()
                .filter(|(p, _)| active.contains(p) && settled[*p].is_none() && !dropped[*p])
                .map(|(_, path)| path)
                .collect();
            one_more(self.grower, &mut growing)?;
        }
        let unscored: Vec<usize> =
            (0..picked.len()).filter(|&p| settled[p].is_none() && !dropped[p]).collect();
        let seen: Vec<&Path<L::Branch>> = unscored.iter().map(|&p| &paths[p]).collect();
        for (&p, score) in unscored.iter().zip(self.judge.score_paths(&seen)?) {
            settled[p] = Some(score);
        }
        for (p, path) in paths.into_iter().enumerate() {
            let i = picked[p];
            contenders[i].is_dropped = dropped[p];
            if let Some(score) = settled[p].filter(|_| !dropped[p]) {
                let h = if score.is_decided() { score.lo } else { score.value };
                contenders[i].known = Some((h, self.joined(&contenders[i], h)));
                contenders[i].path = Some(path);
            }
        }
        Ok(())
    }

    /// Weighs contenders by several continuations each, drawn here or given by the guide.
    fn weigh(&mut self, contenders: &mut [Contender<L::Branch>], help: &mut Help<'_>) -> Result<()> {
        let Some(h) = self.alive.first() else { return Ok(()) };
        let tokens: Vec<TokenId> = contenders.iter().map(|c| c.token).collect();
        let plan = RollPlan {
            n: h.n,
            n_tokens: self.params.lookahead,
            rollouts: self.params.rollouts,
            seed: self.params.sampling.seed,
            max_tokens: self.params.max_tokens,
        };
        let rolled = match help.guide.as_deref_mut() {
            Some(guide) => guide.roll(&h.path.ids[..h.n], &tokens, &plan)?,
            None => super::guide::roll(self.grower, &h.path, &tokens, &plan)?,
        };
        for (i, texts) in rolled.iter().enumerate() {
            let seen: Vec<Candidate<'_>> =
                texts.iter().map(|t| Candidate { text: &t.text, is_closed: t.is_closed }).collect();
            let rewards = self.judge.score(&seen)?;
            let baselines = match help.baseline.as_deref_mut() {
                Some(baseline) => baseline.score_all(self.judge.prompt, &seen)?,
                None => Vec::new(),
            };
            let rollouts: Vec<Rollout> = rewards
                .iter()
                .enumerate()
                .map(|(j, r)| Rollout {
                    weight: 1.0,
                    reward: r.value,
                    baseline: baselines.get(j).map_or(0.0, |b| b.value),
                })
                .collect();
            let nats = self.estimated(&rollouts);
            contenders[i].known = Some((nats / self.lambda.max(f64::MIN_POSITIVE), contenders[i].g + nats));
        }
        Ok(())
    }

    /// The value in nats; the plain mean where too few of the weighted continuations count.
    fn estimated(&mut self, rollouts: &[Rollout]) -> f64 {
        let beta = self.params.beta;
        let estimate = match self.params.method {
            SearchMethod::TransferQIndirect => Estimate::Weighted { beta },
            SearchMethod::TransferQExact => Estimate::Exact { beta },
            _ => return Estimate::Mean.nats(rollouts, self.lambda),
        };
        let ess = estimate.ess(rollouts, self.lambda);
        self.ess = Some(self.ess.map_or(ess, |e| e.min(ess)));
        if ess < 2.0 && rollouts.len() > 1 && self.params.method == SearchMethod::TransferQIndirect {
            self.warn("low_ess");
            return Estimate::Mean.nats(rollouts, self.lambda);
        }
        estimate.nats(rollouts, self.lambda)
    }

    fn warn(&mut self, what: &'static str) {
        if !self.warnings.contains(&what) {
            self.warnings.push(what);
        }
    }

    /// Indices of the contenders that are kept, the best first.
    fn choose(&mut self, contenders: &[Contender<L::Branch>]) -> Vec<usize> {
        if contenders.len() == 1 {
            return vec![0];
        }
        let mut known: Vec<(usize, f64)> =
            contenders.iter().enumerate().filter_map(|(i, c)| Some((i, c.known?.1))).collect();
        if self.params.choose == Choose::Draw {
            let weights: Vec<f64> = known.iter().map(|(_, w)| *w).collect();
            let place = self.alive.first().map_or(0, |h| h.n);
            let random = Random::new(self.params.sampling.seed);
            let at = value::pick(&value::law(&weights, self.params.tau), random, place);
            return known.get(at).map(|(i, _)| vec![*i]).unwrap_or_default();
        }
        known.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable: of equal ones the first
        known.into_iter().take(self.params.beams).map(|(i, _)| i).collect()
    }

    /// Makes the chosen contenders the hypotheses.
    fn commit(&mut self, contenders: Vec<Contender<L::Branch>>, chosen: &[usize]) -> Result<()> {
        let mut kept = Vec::with_capacity(chosen.len());
        let mut contenders: Vec<Option<Contender<L::Branch>>> = contenders.into_iter().map(Some).collect();
        for &i in chosen {
            let Some(mut c) = contenders[i].take() else { continue };
            if c.is_closed_text {
                let h = &self.alive[c.hypothesis];
                let path = self.grower.fork(&h.path, h.n)?;
                kept.push(Hypothesis { path, n: h.n, score: h.score });
                continue;
            }
            let mut path = match c.path.take() {
                Some(path) => path,
                None => self.outlook(&c)?,
            };
            let n = self.alive[c.hypothesis].n + self.params.commit;
            // an outlook that was decided early is shorter than what is kept of it
            grow(self.grower, &mut [&mut path], n)?;
            let n = n.min(path.n_tokens());
            if !self.params.reuses {
                self.grower.cut(&mut path, n)?;
            }
            Grower::<L>::settle(&mut path, n);
            kept.push(Hypothesis { path, n, score: c.known.map_or(c.g, |(_, s)| s) });
        }
        self.alive = kept;
        Ok(())
    }
}

/// One likeliest token more for every open path.
fn one_more<L: NextLogits>(grower: &mut Grower<'_, L>, paths: &mut [&mut Path<L::Branch>]) -> Result<()> {
    grower.feed(paths)?;
    for path in paths.iter_mut().filter(|p| !p.is_closed()) {
        let next = path.menu().and_then(|m| Some((*m.best.first()?, m.log_z)));
        if let Some(((token, logprob), log_z)) = next {
            grower.push(path, token, (logprob, log_z))?;
        }
    }
    Ok(())
}

/// Grows paths by their likeliest tokens to `target` tokens or their ends.
pub(super) fn grow<L: NextLogits>(
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
        one_more(grower, &mut active)?;
    }
}
