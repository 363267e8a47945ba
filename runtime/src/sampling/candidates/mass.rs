//! Truncation by share of the mass. A dense set is first cut down to the few tokens that can matter, by
//! thresholds that widen until they hold enough mass; only those are sorted.

use super::{Candidates, weigh};
use crate::kernels::Candidate;

/// A sum over a list must pass its target by this factor to be trusted: the sum over the row, from which
/// the target comes, is rounded differently.
const MARGIN: f64 = 1.000_01;

impl Candidates<'_> {
    /// Leaves the smallest set of best tokens whose share of the mass is at least `p`, but at least
    /// `min_keep` (and one).
    pub(in crate::sampling) fn keep_mass(&mut self, p: f64, min_keep: usize) {
        let target = p * self.total();
        if !self.listed {
            self.collect_mass(target, min_keep);
        }
        self.sort();
        self.weigh();
        let mut mass = 0.0;
        let enough = self.ws.weights.iter().enumerate().position(|(i, w)| {
            mass += f64::from(*w);
            mass >= target && i + 1 >= min_keep
        });
        if let Some(last) = enough {
            self.ws.list.truncate(last + 1);
        }
    }

    /// Makes a list of best tokens that reaches `target` mass, without going deeper than needed.
    fn collect_mass(&mut self, target: f64, min_keep: usize) {
        let (best, scale) = (self.best(), self.scale);
        for depth in [3.0, 6.0, 12.0, 24.0] {
            self.collect(best - depth / scale);
            self.weigh();
            if self.ws.list.len() >= min_keep && sum(&self.ws.weights) > target * MARGIN {
                return;
            }
            self.uncollect();
        }
        self.collect(f32::NEG_INFINITY);
    }

    /// Leaves the tokens whose information `-ln p` is nearest to the entropy, until their share of the
    /// mass exceeds `p`, but at least `min_keep`. Ties by lowest id.
    pub(in crate::sampling) fn keep_typical(&mut self, p: f64, min_keep: usize) {
        let (log_z, entropy) = self.entropy();
        // In units of `(logit - best) * scale`, where `-ln p` equals the entropy.
        let centre = log_z - entropy;
        let target = p * log_z.exp();
        if !self.listed {
            self.collect_band(centre, target, min_keep);
        }
        self.weigh();
        let (best, scale) = (self.best(), self.scale);
        let ws = &mut *self.ws;
        let distance = |c: &Candidate| (f64::from((c.logit - best) * scale) - centre).abs();
        ws.scores.clear();
        ws.scores.extend(ws.list.iter().map(|c| (distance(c), *c)));
        ws.scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.id.cmp(&b.1.id)));
        ws.list.clear();
        ws.list.extend(ws.scores.iter().map(|s| s.1));
        weigh(&ws.list, best, scale, &mut ws.weights);
        let mut mass = 0.0;
        let enough = ws.weights.iter().enumerate().position(|(i, w)| {
            mass += f64::from(*w);
            mass > target && i + 1 >= min_keep
        });
        if let Some(last) = enough {
            ws.list.truncate(last + 1);
        }
        (self.sorted, self.best) = (false, None);
    }

    /// Makes a list of the tokens around `centre` that exceeds `target` mass.
    fn collect_band(&mut self, centre: f64, target: f64, min_keep: usize) {
        let (best, scale) = (self.best(), self.scale);
        for width in [1.0, 4.0, 16.0] {
            let at = |d: f64| (f64::from(best) + d / f64::from(scale)) as f32;
            let (low, high) = (at(centre - width), at(centre + width));
            self.collect(low);
            self.ws.list.retain(|c| c.logit <= high);
            weigh(&self.ws.list, best, scale, &mut self.ws.weights);
            if self.ws.list.len() >= min_keep && sum(&self.ws.weights) > target * MARGIN {
                return;
            }
            self.uncollect();
        }
        self.collect(f32::NEG_INFINITY);
    }

    /// Takes out every token with probability at least `threshold` but the least of them, unless fewer
    /// than `min_keep` would be left.
    pub(in crate::sampling) fn drop_top_choices(&mut self, threshold: f64, min_keep: usize) {
        let n = self.n_possible();
        let log_z = self.total().ln();
        let least = f64::from(self.best()) + (threshold.ln() + log_z) / f64::from(self.scale);
        if self.listed {
            self.sort();
            let top = self.ws.list.iter().take_while(|c| f64::from(c.logit) >= least).count();
            if top > 1 && n - (top - 1) >= min_keep {
                self.ws.list.drain(..top - 1);
                self.best = None;
            }
            return;
        }
        self.collect(least as f32);
        self.sort();
        let top = self.ws.list.len();
        self.listed = false;
        if top > 1 && n - (top - 1) >= min_keep {
            self.mask_out_nothing();
            let ws = &mut *self.ws;
            for c in &ws.list[..top - 1] {
                ws.allowed.remove(c.id);
            }
            let dropped = &ws.list[..top - 1];
            ws.edits.retain(|e| dropped.iter().all(|c| c.id != e.id));
            self.best = None;
        }
        self.uncollect();
    }
}

fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|w| f64::from(*w)).sum()
}
