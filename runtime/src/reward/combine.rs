//! Several rewards as one.

use super::{Candidate, Reward, RewardUnit, Score, Status, Transform, bad, check_finite};
use crate::error::Result;
use serde::Deserialize;

/// How rewards become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// `Σ w·r`.
    Sum,
    /// `Σ w·ln P`: a logical and, if the rewards are independent. Probabilities below [`FLOOR`] count as that.
    #[default]
    And,
    /// The least `w·r`.
    Min,
    /// The first reward must be satisfied; else [`GATE_CLOSED`], and the others are not asked.
    Gate,
}

/// Least probability whose logarithm is taken.
pub const FLOOR: f64 = 1e-3;
/// The value of a text that a gate refuses.
pub const GATE_CLOSED: f64 = -1e4;

/// A reward with its weight and scale.
pub struct Part {
    /// The reward.
    pub reward: Box<dyn Reward>,
    /// Its weight; below 0 to avoid what it rewards.
    pub weight: f64,
    /// Applied before the weight.
    pub transform: Transform,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("reward", &self.reward.name())
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// Rewards combined. A single one with `Sum` is that reward times its weight.
pub struct Combined {
    parts: Vec<Part>,
    combine: Combine,
}

impl Combined {
    /// # Errors `InvalidArgument` without rewards or for a weight that is no number.
    pub fn new(parts: Vec<Part>, combine: Combine) -> Result<Self> {
        if parts.is_empty() {
            return Err(bad("reward", "at least one", 0));
        }
        if let Some(part) = parts.iter().find(|p| !p.weight.is_finite()) {
            return Err(bad("weight", "a finite number", part.weight).at(part.reward.name().to_owned()));
        }
        Ok(Self { parts, combine })
    }

    /// The scores of one part, transformed and weighted.
    fn weighted(&self, i: usize, score: Score) -> Score {
        let Part { reward, weight, transform } = &self.parts[i];
        let takes_log =
            self.combine == Combine::And && reward.unit() == RewardUnit::Probability && !transform.is_log();
        let map = |r: f64| {
            let r = transform.apply(r);
            weight * if takes_log { r.max(FLOOR).ln() } else { r }
        };
        let (a, b) = (map(score.lo), map(score.hi));
        Score { value: map(score.value), lo: a.min(b), hi: a.max(b), ..score }
    }

    fn join(&self, scores: &[Score]) -> Score {
        let fold = |of: fn(&Score) -> f64| match self.combine {
            Combine::Min => scores.iter().map(of).fold(f64::INFINITY, f64::min),
            _ => scores.iter().map(of).sum(),
        };
        Score { value: fold(|s| s.value), lo: fold(|s| s.lo), hi: fold(|s| s.hi), status: status(scores) }
    }

    fn score_part(&mut self, i: usize, prompt: &str, candidates: &[Candidate<'_>]) -> Result<Vec<Score>> {
        let reward = &mut self.parts[i].reward;
        let scores = reward.score_all(prompt, candidates)?;
        let name = reward.name().to_owned();
        let checked = scores.into_iter().zip(candidates).map(|(s, c)| check_finite(&name, s, c.text));
        checked.map(|s| s.map(|s| self.weighted(i, s))).collect()
    }

    fn gated(&mut self, prompt: &str, candidates: &[Candidate<'_>]) -> Result<Vec<Score>> {
        let gate = self.score_part(0, prompt, candidates)?;
        let open: Vec<usize> = (0..gate.len()).filter(|&i| gate[i].status != Status::Violated).collect();
        let left: Vec<Candidate<'_>> = open.iter().map(|&i| candidates[i]).collect();
        let mut rest: Vec<Vec<Score>> = vec![Vec::new(); candidates.len()];
        for part in 1..self.parts.len() {
            let scores = self.score_part(part, prompt, &left)?;
            open.iter().zip(scores).for_each(|(&i, s)| rest[i].push(s));
        }
        let closed = Score::fixed(GATE_CLOSED, false);
        let of = |(gate, rest): (&Score, &Vec<Score>)| match gate.status {
            Status::Violated => closed,
            Status::Satisfied => self.join(rest),
            // what follows may still close the gate
            Status::Open => Score { lo: GATE_CLOSED, status: Status::Open, ..self.join(rest) },
        };
        Ok(gate.iter().zip(&rest).map(of).collect())
    }
}

/// Satisfied if all are, violated if any is.
fn status(scores: &[Score]) -> Status {
    match scores {
        _ if scores.iter().any(|s| s.status == Status::Violated) => Status::Violated,
        _ if scores.iter().all(|s| s.status == Status::Satisfied) => Status::Satisfied,
        _ => Status::Open,
    }
}

impl Reward for Combined {
    fn name(&self) -> &str {
        match &self.parts[..] {
            [one] => one.reward.name(),
            _ => "combined",
        }
    }

    fn unit(&self) -> RewardUnit {
        RewardUnit::Raw
    }

    fn range(&self) -> (f64, f64) {
        let ranges = (0..self.parts.len()).map(|i| {
            let (lo, hi) = self.parts[i].reward.range();
            self.weighted(i, Score::open(lo, (lo, hi)))
        });
        let scores: Vec<Score> = ranges.collect();
        let joined = self.join(if self.combine == Combine::Gate { &scores[1..] } else { &scores });
        if self.combine == Combine::Gate {
            (GATE_CLOSED.min(joined.lo), joined.hi)
        } else {
            (joined.lo, joined.hi)
        }
    }

    fn step(&self) -> f64 {
        let step = |p: &Part| {
            let step = p.reward.step();
            let takes_log = self.combine == Combine::And && p.reward.unit() == RewardUnit::Probability;
            p.weight.abs() * if takes_log { -(1.0 - step).max(FLOOR).ln() } else { step }
        };
        self.parts.iter().map(step).filter(|s| *s > 0.0).fold(f64::INFINITY, f64::min)
    }

    fn is_cheap(&self) -> bool {
        self.parts.iter().all(|p| p.reward.is_cheap())
    }

    fn needs_closed(&self) -> bool {
        self.parts.iter().any(|p| p.reward.needs_closed())
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Score> {
        let scores = self.score_all(prompt, &[candidate])?;
        Ok(scores.first().copied().unwrap_or(Score::open(0.0, self.range())))
    }

    fn score_all(&mut self, prompt: &str, candidates: &[Candidate<'_>]) -> Result<Vec<Score>> {
        if self.combine == Combine::Gate {
            return self.gated(prompt, candidates);
        }
        let mut rows: Vec<Vec<Score>> = vec![Vec::with_capacity(self.parts.len()); candidates.len()];
        for i in 0..self.parts.len() {
            let scores = self.score_part(i, prompt, candidates)?;
            rows.iter_mut().zip(scores).for_each(|(row, s)| row.push(s));
        }
        Ok(rows.iter().map(|row| self.join(row)).collect())
    }

    fn part_names(&self) -> Vec<(String, f64)> {
        self.parts.iter().map(|p| (p.reward.name().to_owned(), p.weight)).collect()
    }

    fn parts(&mut self, prompt: &str, candidate: Candidate<'_>) -> Result<Vec<Score>> {
        self.parts.iter_mut().map(|p| p.reward.score(prompt, candidate)).collect()
    }
}
