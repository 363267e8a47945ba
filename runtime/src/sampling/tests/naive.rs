//! Every sampler by its definition, in double precision, sorting everything.

use super::super::*;
use crate::token::{TokenId, TokenSet};

/// One step to be taken.
pub struct Case<'a> {
    pub params: &'a SamplingParams,
    pub logits: &'a [f32],
    pub mask: Option<&'a TokenSet>,
    pub history: &'a [TokenId],
    pub breakers: &'a DryBreakers,
    pub pos: u64,
}

/// The law, and how near the closest decision was.
pub struct Law {
    pub law: Vec<(TokenId, f64)>,
    pub margin: f64,
}

/// Candidates `(id, logit)` and the margin so far.
struct Naive {
    c: Vec<(TokenId, f64)>,
    margin: f64,
}

/// The law by definition; none if nothing can be drawn.
pub fn naive_law(case: &Case<'_>) -> Option<Law> {
    let p = case.params;
    let all = case.logits.iter().enumerate().map(|(i, l)| (i as TokenId, f64::from(*l)));
    let allowed = all.filter(|(id, _)| case.mask.is_none_or(|m| m.contains(*id)));
    // NaN counts as minus infinity, and that as absent.
    let mut n = Naive { c: allowed.filter(|e| e.1 > f64::NEG_INFINITY).collect(), margin: f64::INFINITY };
    n.drawable()?;
    for (id, bias) in &p.logit_bias {
        n.each(*id, |l| l + f64::from(*bias));
    }
    if let Some(m) = &p.mirostat {
        n.temperature(f64::from(p.temperature));
        n.drawable()?;
        let mu = 2.0 * f64::from(m.tau);
        n.keep_if_or_best(|p| -p.log2() - mu);
    } else {
        for kind in &p.samplers {
            n.drawable()?;
            n.apply(*kind, case);
        }
    }
    n.drawable()?;
    n.c.sort_by_key(|e| e.0);
    let law = n.c.iter().map(|e| e.0).zip(n.probs()).collect();
    Some(Law { law, margin: n.margin })
}

impl Naive {
    /// Forgets what has become impossible; none if nothing is left.
    fn drawable(&mut self) -> Option<()> {
        self.c.retain(|e| e.1 > f64::NEG_INFINITY);
        (!self.c.is_empty()).then_some(())
    }

    fn best(&self) -> f64 {
        self.c.iter().fold(f64::NEG_INFINITY, |m, e| m.max(e.1))
    }

    fn probs(&self) -> Vec<f64> {
        let w: Vec<f64> = self.c.iter().map(|e| (e.1 - self.best()).exp()).collect();
        let total: f64 = w.iter().sum();
        w.iter().map(|w| w / total).collect()
    }

    fn sort(&mut self) {
        self.c.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN").then(a.0.cmp(&b.0)));
    }

    fn each(&mut self, id: TokenId, f: impl Fn(f64) -> f64) {
        self.c.iter_mut().filter(|e| e.0 == id).for_each(|e| e.1 = f(e.1));
    }

    /// Notes a decision at distance `d`.
    fn near(&mut self, d: f64) {
        self.margin = self.margin.min(d.abs());
    }

    fn cut(&mut self, n: usize) {
        // Equal in double precision may differ in single, and the other way round.
        if let Some(w) = self.c.get(n.wrapping_sub(1)..=n)
            && w[0].1 != w[1].1
        {
            self.near(w[0].1 - w[1].1);
        }
        self.c.truncate(n);
    }

    fn temperature(&mut self, t: f64) {
        if t > 0.0 {
            self.c.iter_mut().for_each(|e| e.1 /= t);
        } else {
            self.sort();
            self.cut(1);
        }
    }

    /// Keeps tokens for which `excess(p) <= 0`, or the best.
    fn keep_if_or_best(&mut self, excess: impl Fn(f64) -> f64) {
        self.sort();
        let excesses: Vec<f64> = self.probs().into_iter().map(excess).collect();
        let keep = excesses.iter().take_while(|x| **x <= 0.0).count().max(1);
        excesses.iter().for_each(|x| self.near(*x));
        self.c.truncate(keep);
    }

    fn apply(&mut self, kind: SamplerKind, case: &Case<'_>) {
        let p = case.params;
        let min_keep = p.min_keep.max(1);
        match kind {
            SamplerKind::Penalties => self.penalties(&p.penalties, case.history),
            SamplerKind::Dry => self.dry(&p.dry, case),
            SamplerKind::TopK if p.top_k > 0 => {
                self.sort();
                self.cut(p.top_k);
            }
            SamplerKind::TopP if p.top_p < 1.0 => self.top_p(f64::from(p.top_p), min_keep),
            SamplerKind::MinP if p.min_p > 0.0 => self.min_p(f64::from(p.min_p), min_keep),
            SamplerKind::TypicalP if p.typical_p < 1.0 => self.typical(f64::from(p.typical_p), min_keep),
            SamplerKind::TopNSigma if p.top_n_sigma > 0.0 => self.sigma(f64::from(p.top_n_sigma)),
            SamplerKind::Xtc => {
                let u = Random::new(p.seed).uniform(case.pos, Purpose::Xtc);
                if p.xtc.probability > 0.0 && p.xtc.threshold <= 0.5 && u < f64::from(p.xtc.probability) {
                    self.xtc(f64::from(p.xtc.threshold), p.min_keep);
                }
            }
            SamplerKind::Temperature if p.dynatemp.range > 0.0 => self.dynamic(p),
            SamplerKind::Temperature => self.temperature(f64::from(p.temperature)),
            _ => {}
        }
    }

    fn penalties(&mut self, p: &Penalties, history: &[TokenId]) {
        let window = if p.last_n < 0 { history.len() } else { (p.last_n as usize).min(history.len()) };
        let window = &history[history.len() - window..];
        for (id, l) in &mut self.c {
            let n = window.iter().filter(|t| *t == id).count() as f64;
            if n > 0.0 {
                *l = if *l <= 0.0 { *l * f64::from(p.repeat) } else { *l / f64::from(p.repeat) };
                *l -= n * f64::from(p.frequency) + f64::from(p.presence);
            }
        }
    }

    fn dry(&mut self, dry: &Dry, case: &Case<'_>) {
        let n = if dry.last_n < 0 { case.history.len() } else { case.history.len().min(dry.last_n as usize) };
        let w = &case.history[case.history.len() - n..];
        if dry.multiplier == 0.0 || n <= dry.allowed_length as usize {
            return;
        }
        // Tokens 5, (6 1 2) and (6 1) break: see `breakers` in the parent.
        let tails: [(TokenId, &[TokenId]); 3] = [(5, &[]), (6, &[1, 2]), (6, &[1])];
        let mut limit = n;
        for i in (0..n).rev() {
            let fits = |(head, tail): &&(TokenId, &[TokenId])| w[i] == *head && w[i + 1..].starts_with(tail);
            if let Some((_, tail)) = tails.iter().filter(fits).max_by_key(|t| t.1.len()) {
                limit = n - 1 - i - tail.len();
                break;
            }
        }
        assert!(!format!("{:?}", case.breakers).is_empty());
        let mut longest = std::collections::BTreeMap::<TokenId, usize>::new();
        for end in 1..n {
            let same = w[..end].iter().rev().zip(w.iter().rev()).take_while(|(a, b)| a == b).count();
            let len = same.min(limit);
            if len >= dry.allowed_length as usize && limit >= dry.allowed_length as usize {
                let e = longest.entry(w[end]).or_default();
                *e = (*e).max(len);
            }
        }
        for (token, len) in longest.into_iter().filter(|(t, _)| *t != 5) {
            let power = len as i32 - dry.allowed_length as i32;
            self.each(token, |l| l - f64::from(dry.multiplier) * f64::from(dry.base).powi(power));
        }
    }

    fn top_p(&mut self, p: f64, min_keep: usize) {
        self.sort();
        let mut mass = 0.0;
        for (i, q) in self.probs().into_iter().enumerate() {
            mass += q;
            self.near(mass - p);
            if mass >= p && i + 1 >= min_keep {
                return self.cut(i + 1);
            }
        }
    }

    fn min_p(&mut self, p: f64, min_keep: usize) {
        self.sort();
        let least = self.best() + p.ln();
        let keep = self.c.iter().take_while(|e| e.1 >= least).count().max(min_keep);
        for i in 0..self.c.len() {
            self.near(self.c[i].1 - least);
        }
        self.cut(keep);
    }

    fn typical(&mut self, p: f64, min_keep: usize) {
        let probs = self.probs();
        let entropy: f64 = probs.iter().filter(|q| **q > 0.0).map(|q| -q * q.ln()).sum();
        let best = self.best();
        let log_z = self.c.iter().map(|e| (e.1 - best).exp()).sum::<f64>().ln();
        let distance = |l: f64| (log_z - (l - best) - entropy).abs();
        let mut scored: Vec<_> = probs.iter().zip(&self.c).map(|(q, c)| (distance(c.1), *q, *c)).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.0.cmp(&b.2.0)));
        // Order among near-equal distances of unequal logits is up to rounding.
        for w in scored.windows(2) {
            if w[0].2.1 != w[1].2.1 {
                self.near(w[0].0 - w[1].0);
            }
        }
        let (mut mass, mut keep) = (0.0, scored.len());
        for (i, s) in scored.iter().enumerate() {
            mass += s.1;
            self.near(mass - p);
            if mass > p && i + 1 >= min_keep {
                keep = i + 1;
                break;
            }
        }
        self.c = scored.iter().take(keep).map(|s| s.2).collect();
    }

    fn sigma(&mut self, n: f64) {
        if self.c.len() <= 1 {
            return;
        }
        let finite: Vec<f64> = self.c.iter().map(|e| e.1).filter(|l| l.is_finite()).collect();
        let mean = finite.iter().sum::<f64>() / finite.len() as f64;
        let variance = finite.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / finite.len() as f64;
        let least = self.best() - n * variance.sqrt();
        finite.iter().for_each(|l| self.near(l - least));
        self.c.retain(|e| e.1 >= least);
    }

    fn xtc(&mut self, threshold: f64, min_keep: usize) {
        self.sort();
        let probs = self.probs();
        probs.iter().for_each(|q| self.near((q - threshold) / threshold));
        let top = probs.iter().take_while(|q| **q >= threshold).count();
        if top > 1 && self.c.len() - (top - 1) >= min_keep {
            self.c.drain(..top - 1);
        }
    }

    fn dynamic(&mut self, p: &SamplingParams) {
        if self.c.len() <= 1 {
            return;
        }
        let entropy: f64 = self.probs().iter().filter(|q| **q > 0.0).map(|q| -q * q.ln()).sum();
        let (t, r) = (f64::from(p.temperature), f64::from(p.dynatemp.range));
        let low = (t - r).max(0.0);
        let share = entropy / (self.c.len() as f64).ln();
        self.temperature(low + (t + r - low) * share.clamp(0.0, 1.0).powf(f64::from(p.dynatemp.exponent)));
    }
}
