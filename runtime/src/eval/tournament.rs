//! Who answers best: a knock-out for each prompt, and strengths fitted to all its matches.
//!
//! `N` prompts and `M` systems take `N·(M − 1)` comparisons, where comparing all pairs takes `N·M·(M − 1)/2`; the
//! draw is new for each prompt, so that every pair meets. It loses where few prompts must tell near equals apart.
//! Source: Son et al. 2024 (Varco Arena), arXiv 2411.01281; Bradley and Terry, Biometrika 39 (1952); Hunter,
//! Annals of Statistics 32 (2004) for the fit.

use super::stats::Estimate;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{Purpose, Random};
use serde::Serialize;

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Match {
    /// Number of the prompt.
    pub prompt: usize,
    /// The system that goes on.
    pub winner: usize,
    /// The one that is out.
    pub loser: usize,
    /// Whether it was a tie, and the draw decided.
    pub is_tie: bool,
}

/// A knock-out between `n` systems over one prompt, in an order drawn from `seed`. `better(a, b)`: above 0 if `a`
/// answers better than `b`, 0 for a tie. The last match is the final.
/// # Errors those of `better`.
pub fn knock_out(
    prompt: usize,
    n: usize,
    seed: u64,
    better: &mut dyn FnMut(usize, usize) -> Result<f64>,
) -> Result<Vec<Match>> {
    let random = Random::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let u = random.uniform_at(prompt as u64, Purpose::Search, i as u32);
        order.swap(i, (u * (i + 1) as f64) as usize);
    }
    play(prompt, order, better)
}

/// The knock-out in a given order; the first ones go on unchallenged where places are left.
fn play(
    prompt: usize,
    mut left: Vec<usize>,
    better: &mut dyn FnMut(usize, usize) -> Result<f64>,
) -> Result<Vec<Match>> {
    let mut matches = Vec::with_capacity(left.len().saturating_sub(1));
    let mut n_byes = left.len().next_power_of_two() - left.len();
    while left.len() > 1 {
        let mut next: Vec<usize> = left.drain(..n_byes).collect();
        n_byes = 0;
        for pair in left.chunks(2) {
            let &[a, b] = pair else { continue };
            let odds = better(a, b)?;
            let (winner, loser) = if odds < 0.0 { (b, a) } else { (a, b) };
            matches.push(Match { prompt, winner, loser, is_tie: odds == 0.0 });
            next.push(winner);
        }
        left = next;
    }
    Ok(matches)
}

/// Points that make a system ten times as likely to win.
const SCALE: f64 = 400.0;
/// Pulls strengths towards equal ones, so that a system that never lost has a finite one.
const RIDGE: f64 = 1e-3;
const N_ROUNDS: usize = 200;
const N_RESAMPLES: u32 = 1000;

/// Strengths of `n` systems by maximum likelihood, in points with mean 0: `P(i beats j) = 1/(1 + 10^((j − i)/400))`.
/// A tie is half a win for each.
/// # Errors `InvalidArgument` if some systems never met, even through others: their strengths cannot be compared.
pub fn strengths(n: usize, matches: &[Match]) -> Result<Vec<f64>> {
    if !is_connected(n, matches) {
        let message = "expected every system to have met every other one, directly or through others";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(fit(n, &wins(n, matches)))
}

/// Wins of each over each.
fn wins(n: usize, matches: &[Match]) -> Vec<Vec<f64>> {
    let mut wins = vec![vec![0.0; n]; n];
    for m in matches {
        let share = if m.is_tie { 0.5 } else { 1.0 };
        wins[m.winner][m.loser] += share;
        wins[m.loser][m.winner] += 1.0 - share;
    }
    wins
}

/// Newton's method, one system at a time, on the log-likelihood with a small quadratic pull.
fn fit(n: usize, wins: &[Vec<f64>]) -> Vec<f64> {
    let mut theta = vec![0.0f64; n];
    for _ in 0..N_ROUNDS {
        let mut most = 0.0f64;
        for i in 0..n {
            let (mut slope, mut bend) = (-RIDGE * theta[i], -RIDGE);
            for j in (0..n).filter(|&j| j != i) {
                let met = wins[i][j] + wins[j][i];
                let p = 1.0 / (1.0 + (theta[j] - theta[i]).exp());
                slope += wins[i][j] - met * p;
                bend -= met * p * (1.0 - p);
            }
            let step = (-slope / bend).clamp(-1.0, 1.0);
            theta[i] += step;
            most = most.max(step.abs());
        }
        if most < 1e-10 {
            break;
        }
    }
    let mean = theta.iter().sum::<f64>() / n.max(1) as f64;
    theta.iter().map(|t| (t - mean) * SCALE / std::f64::consts::LN_10).collect()
}

fn is_connected(n: usize, matches: &[Match]) -> bool {
    let mut seen = vec![false; n];
    let mut open = vec![0];
    while let Some(i) = open.pop() {
        if std::mem::replace(&mut seen[i], true) {
            continue;
        }
        for m in matches {
            open.extend((m.winner == i).then_some(m.loser));
            open.extend((m.loser == i).then_some(m.winner));
        }
    }
    n > 0 && seen.iter().all(|s| *s)
}

/// Strengths with 95 % intervals, from resampling prompts 1000 times: matches of one prompt belong together.
/// # Errors as [`strengths`].
pub fn strengths_with_intervals(n: usize, matches: &[Match], seed: u64) -> Result<Vec<Estimate>> {
    let values = strengths(n, matches)?;
    let n_prompts = matches.iter().map(|m| m.prompt + 1).max().unwrap_or(0);
    let mut by_prompt: Vec<Vec<Match>> = vec![Vec::new(); n_prompts];
    matches.iter().for_each(|m| by_prompt[m.prompt].push(*m));
    let mut resampled: Vec<Vec<f64>> = vec![Vec::with_capacity(N_RESAMPLES as usize); n];
    for round in 0..N_RESAMPLES {
        let random = Random::new(seed).with_draw(round);
        let pick = |i: usize| {
            let at = (random.uniform(i as u64, Purpose::Report) * n_prompts as f64) as usize;
            by_prompt[at.min(n_prompts - 1)].iter().copied()
        };
        let drawn: Vec<Match> = (0..n_prompts).flat_map(pick).collect();
        let fitted = fit(n, &wins(n, &drawn));
        resampled.iter_mut().zip(fitted).for_each(|(list, s)| list.push(s));
    }
    let interval = |(value, mut list): (f64, Vec<f64>)| {
        list.sort_by(f64::total_cmp);
        let at = |q: f64| list.get((q * (list.len() - 1) as f64).round() as usize).copied().unwrap_or(value);
        Estimate { value, lo: at(0.025).min(value), hi: at(0.975).max(value) }
    };
    Ok(values.into_iter().zip(resampled).map(interval).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The lower number is always better.
    fn ordered(a: usize, b: usize) -> Result<f64> {
        Ok(b as f64 - a as f64)
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![Vec::new()];
        }
        let shorter = permutations(n - 1);
        shorter
            .iter()
            .flat_map(|p| {
                (0..n).map(move |at| {
                    let mut longer = p.clone();
                    longer.insert(at, n - 1);
                    longer
                })
            })
            .collect()
    }

    #[test]
    fn brackets_of_four_and_eight_have_their_counts() {
        let all = permutations(4);
        let (mut finals, mut n_matches) = (0, [0; 4]);
        for order in &all {
            let matches = play(0, order.clone(), &mut ordered).unwrap();
            assert_eq!(matches.len(), 3);
            let last = matches.last().unwrap();
            assert_eq!(last.winner, 0, "the best always wins");
            finals += usize::from(last.loser == 1);
            for m in &matches {
                n_matches[m.winner] += 1;
                n_matches[m.loser] += 1;
            }
        }
        assert_eq!((all.len(), finals), (24, 16));
        assert_eq!(n_matches.map(|n| f64::from(n) / 24.0), [2.0, 5.0 / 3.0, 4.0 / 3.0, 1.0]);
        let second = permutations(8)
            .into_iter()
            .filter(|order| play(0, order.clone(), &mut ordered).unwrap().last().unwrap().loser == 1)
            .count();
        assert_eq!(second, 40320 * 4 / 7);
    }

    #[test]
    fn byes_leave_out_no_one() {
        for n in 1..9 {
            for prompt in 0..20 {
                let matches = knock_out(prompt, n, 1, &mut ordered).unwrap();
                assert_eq!(matches.len(), n - 1);
                assert!(matches.last().is_none_or(|m| m.winner == 0));
            }
        }
        let orders: std::collections::HashSet<Vec<usize>> = (0..60)
            .map(|p| knock_out(p, 3, 1, &mut ordered).unwrap().iter().map(|m| m.loser).collect())
            .collect();
        assert!(orders.len() > 1, "the draw is new for each prompt");
    }

    #[test]
    fn fitted_strengths_find_true_ones() {
        let truth = [120.0f64, 40.0, -20.0, -140.0];
        let mut matches = Vec::new();
        for prompt in 0..2000 {
            let mut n = 0;
            let mut noisy = |a: usize, b: usize| {
                n += 1;
                let p = 1.0 / (1.0 + 10f64.powf((truth[b] - truth[a]) / SCALE));
                Ok(p - Random::new(9).uniform_at(prompt as u64, Purpose::Report, n))
            };
            matches.extend(knock_out(prompt, 4, 3, &mut noisy).unwrap());
        }
        let found = strengths_with_intervals(4, &matches, 5).unwrap();
        for (e, t) in found.iter().zip(truth) {
            assert!((e.value - t).abs() < 20.0 && e.lo < t + 5.0 && t - 5.0 < e.hi, "{found:?}");
        }
        // with everything decided, the order is the true one and the numbers are finite
        let sure: Vec<Match> = (0..40).flat_map(|p| knock_out(p, 4, 3, &mut ordered).unwrap()).collect();
        let found = strengths(4, &sure).unwrap();
        assert!(found.is_sorted_by(|a, b| a > b) && found.iter().all(|s| s.is_finite()), "{found:?}");
        let ties: Vec<Match> =
            (0..40).flat_map(|p| knock_out(p, 3, 3, &mut |_, _| Ok(0.0)).unwrap()).collect();
        assert!(strengths(3, &ties).unwrap().iter().all(|s| s.abs() < 1e-6));
        let apart = [Match { prompt: 0, winner: 0, loser: 1, is_tie: false }];
        assert_eq!(strengths(3, &apart).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
