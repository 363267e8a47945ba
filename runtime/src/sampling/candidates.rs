//! The tokens still in play during one step of a chain.
//!
//! They start *dense*: the logits row as the model wrote it, a mask, and a short list of edited logits
//! (penalties, bias). Nothing is copied or sorted until a sampler truncates; then they are a *list*,
//! usually of a few dozen. Temperature is a factor kept aside. So temperature alone costs two passes
//! over the row, top-k or min-p one scan, and only a sampler that really keeps most of the vocabulary
//! (a flat law under top-p) pays for sorting it. Buffers live in [`Workspace`] and are reused.

mod draw;
mod mass;

pub(super) use draw::{pick, pick_block};

use super::params::bad;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels::{self, BLOCK, Candidate};
use crate::token::{TokenId, TokenSet};

/// Buffers of a chain, reused from step to step.
#[derive(Debug)]
pub(super) struct Workspace {
    allowed: TokenSet,
    /// Tokens of the dense set with a logit of their own, by id; their bits in `allowed` are 0.
    edits: Vec<Candidate>,
    list: Vec<Candidate>,
    weights: Vec<f32>,
    scores: Vec<(f64, Candidate)>,
    sums: Vec<f64>,
    /// The greatest logit of the row at hand, if known.
    row_best: Option<f32>,
}

impl Workspace {
    pub(super) fn new(n_vocab: usize) -> Self {
        Self {
            allowed: TokenSet::none(n_vocab),
            edits: Vec::new(),
            // Address space, not memory: pages are touched only by laws that keep many tokens.
            list: Vec::with_capacity(n_vocab + 4 * BLOCK),
            weights: Vec::with_capacity(n_vocab),
            scores: Vec::new(),
            sums: vec![0.0; n_vocab.div_ceil(BLOCK)],
            row_best: None,
        }
    }

    /// Room for `n` edited logits.
    pub(super) fn reserve_edits(&mut self, n: usize) {
        self.edits.reserve(n);
    }

    /// `ln Σ exp` of the row the last [`Candidates`] were made of.
    pub(super) fn log_sum_exp(&mut self, row: &[f32]) -> f64 {
        match self.row_best {
            Some(best) => f64::from(best) + kernels::exp_sums(row, None, best, 1.0, &mut self.sums).ln(),
            None => kernels::log_sum_exp(row, None, &mut self.sums),
        }
    }

    /// `ln Σ exp` of the allowed logits.
    pub(super) fn masked_log_sum_exp(&mut self, row: &[f32], mask: &TokenSet) -> f64 {
        kernels::log_sum_exp(row, Some(mask), &mut self.sums)
    }
}

/// The tokens in play: see the module. Logits are stored unscaled; `scale` multiplies all of them.
pub(super) struct Candidates<'a> {
    row: &'a [f32],
    ws: &'a mut Workspace,
    /// Whether `ws.allowed` restricts the row.
    masked: bool,
    /// Whether the candidates are `ws.list`.
    listed: bool,
    /// Whether `ws.list` is in order, best first.
    sorted: bool,
    scale: f32,
    /// The greatest unscaled logit, if known.
    best: Option<f32>,
}

impl<'a> Candidates<'a> {
    /// All tokens of `row` that `mask` allows.
    /// # Errors `VocabMismatch`, `Unsatisfiable` if the mask is empty, `InvalidArgument` if a logit is
    /// plus infinity or none is above minus infinity.
    pub(super) fn new(row: &'a [f32], mask: Option<&TokenSet>, ws: &'a mut Workspace) -> Result<Self> {
        let n_vocab = ws.allowed.n_vocab();
        if row.len() != n_vocab {
            return Err(mismatch("logits", n_vocab, row.len()));
        }
        ws.edits.clear();
        ws.list.clear();
        if let Some(mask) = mask {
            if mask.n_vocab() != n_vocab {
                return Err(mismatch("mask", n_vocab, mask.n_vocab()));
            }
            ws.allowed.words_mut().copy_from_slice(mask.words());
        }
        let (masked, scale) = (mask.is_some(), 1.0);
        let mut all = Self { row, ws, masked, listed: false, sorted: false, scale, best: None };
        all.check()?;
        all.ws.row_best = all.best.filter(|_| !masked);
        Ok(all)
    }

    /// Fails if no token can be chosen.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.best() {
            f32::INFINITY => Err(bad("logits", "finite numbers", "plus infinity")),
            f32::NEG_INFINITY if self.masked && self.n() == 0 => {
                Err(Error::new(ErrorKind::Unsatisfiable, "expected an allowed token, found an empty mask"))
            }
            f32::NEG_INFINITY => {
                Err(bad("logits", "a logit above minus infinity among the allowed tokens", "none"))
            }
            _ => Ok(()),
        }
    }

    fn mask(&self) -> Option<&TokenSet> {
        self.masked.then_some(&self.ws.allowed)
    }

    /// Number of tokens in play, those at minus infinity included while dense.
    pub(super) fn n(&self) -> usize {
        match (self.listed, self.masked) {
            (true, _) => self.ws.list.len(),
            (false, true) => self.ws.allowed.len() + self.ws.edits.len(),
            (false, false) => self.row.len(),
        }
    }

    /// Number of tokens in play that are not at minus infinity.
    pub(super) fn n_possible(&self) -> usize {
        let dense = if self.listed { 0 } else { kernels::moment(self.row, self.mask(), 0.0, false).1 };
        dense as usize + self.few().iter().filter(|c| c.logit > f32::NEG_INFINITY).count()
    }

    /// The greatest unscaled logit.
    pub(super) fn best(&mut self) -> f32 {
        if let Some(best) = self.best {
            return best;
        }
        let dense = if self.listed { f32::NEG_INFINITY } else { kernels::max(self.row, self.mask()) };
        let best = self.few().iter().fold(dense, |m, c| if c.logit > m { c.logit } else { m });
        self.best = Some(best);
        best
    }

    /// The tokens with a logit of their own: the list, or the edits of the dense set.
    fn few(&self) -> &[Candidate] {
        if self.listed { &self.ws.list } else { &self.ws.edits }
    }

    /// What multiplies the stored logits.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// Divides all logits by `temperature`, which is above 0.
    pub(super) fn divide_by(&mut self, temperature: f32) {
        // A subnormal temperature must not make the factor infinite: 0 * inf is NaN.
        self.scale = (self.scale / temperature).min(f32::MAX);
    }

    /// Replaces the (scaled) logit of every token in `items` that is in play by `f(logit, what)`.
    /// `items` ascend by id.
    pub(super) fn edit<A: Copy>(&mut self, items: &[(TokenId, A)], f: impl Fn(f32, A) -> f32) {
        let scale = self.scale;
        let edited = |c: &mut Candidate, a: A| {
            let x = f(c.logit * scale, a) / scale;
            c.logit = if x.is_nan() { f32::NEG_INFINITY } else { x.min(f32::MAX) };
        };
        if items.is_empty() {
            return;
        }
        self.best = None;
        self.sorted = false;
        if self.listed {
            for c in &mut self.ws.list {
                if let Ok(i) = items.binary_search_by_key(&c.id, |item| item.0) {
                    edited(c, items[i].1);
                }
            }
            return;
        }
        self.mask_out_nothing();
        for &(id, a) in items {
            match self.ws.edits.binary_search_by_key(&id, |c| c.id) {
                Ok(i) => edited(&mut self.ws.edits[i], a),
                Err(i) if self.ws.allowed.contains(id) => {
                    let mut c = Candidate { id, logit: self.row[id as usize] };
                    edited(&mut c, a);
                    self.ws.allowed.remove(id);
                    self.ws.edits.insert(i, c);
                }
                Err(_) => {}
            }
        }
    }

    /// Makes the mask explicit, so that bits can be taken out.
    fn mask_out_nothing(&mut self) {
        if !self.masked {
            self.ws.allowed.fill();
            self.masked = true;
        }
    }

    /// Leaves the best token alone; the lowest id if several are best.
    pub(super) fn keep_best(&mut self) {
        let best = self.best();
        let dense = match self.listed {
            true => None,
            false => kernels::first_at_least(self.row, self.mask(), best),
        };
        let few = self.few().iter().filter(|c| c.logit >= best).map(|c| c.id).min();
        let id = dense.into_iter().chain(few).min();
        self.ws.list.clear();
        self.ws.list.extend(id.map(|id| Candidate { id, logit: best }));
        (self.listed, self.sorted) = (true, true);
    }

    /// Leaves the `k` best tokens.
    pub(super) fn keep_top(&mut self, k: usize) {
        if k >= self.n() {
            return;
        }
        if !self.listed {
            let ws = &mut *self.ws;
            kernels::top_k(self.row, self.masked.then_some(&ws.allowed), k, &mut ws.list);
            self.take_edits(f32::NEG_INFINITY);
        }
        self.best_to_front(k);
        self.ws.list.truncate(k);
    }

    /// Turns the dense set into a list: what was collected, and the edits above `threshold`.
    fn take_edits(&mut self, threshold: f32) {
        let ws = &mut *self.ws;
        let kept = ws.edits.iter().filter(|c| c.logit >= threshold && c.logit > f32::NEG_INFINITY);
        ws.list.extend(kept);
        (self.listed, self.sorted) = (true, false);
    }

    /// Moves the `k` best of the list to its front, in any order.
    fn best_to_front(&mut self, k: usize) {
        if !self.sorted && 0 < k && k < self.ws.list.len() {
            self.ws.list.select_nth_unstable_by(k - 1, Candidate::best_first);
        }
    }

    /// Leaves the tokens whose unscaled logit is at least `threshold`, but the `min_keep` best anyway.
    pub(super) fn keep_above(&mut self, threshold: f32, min_keep: usize) {
        if self.listed {
            let n = self.ws.list.iter().filter(|c| c.logit >= threshold).count().max(min_keep);
            self.keep_top(n);
            return;
        }
        self.collect(threshold);
        if self.ws.list.len() < min_keep {
            self.uncollect();
            self.keep_top(min_keep);
        }
    }

    /// Turns the dense set into the list of its tokens with an unscaled logit of at least `threshold`.
    fn collect(&mut self, threshold: f32) {
        let ws = &mut *self.ws;
        kernels::collect_above(self.row, self.masked.then_some(&ws.allowed), threshold, &mut ws.list);
        self.take_edits(threshold);
    }

    /// Undoes [`Self::collect`].
    fn uncollect(&mut self) {
        self.ws.list.clear();
        self.listed = false;
    }

    /// Makes the candidates a list, best first.
    fn sort(&mut self) {
        if !self.listed {
            self.collect(f32::NEG_INFINITY);
        }
        if !self.sorted {
            self.ws.list.sort_unstable_by(Candidate::best_first);
            self.sorted = true;
        }
    }

    /// Weights `exp((logit - best) * scale)` of the list, in its order, into `ws.weights`.
    fn weigh(&mut self) {
        let best = self.best();
        weigh(&self.ws.list, best, self.scale, &mut self.ws.weights);
    }

    /// `Σ exp((logit - best) * scale)` over all candidates. While dense, leaves the sum of each block
    /// in `ws.sums`.
    pub(super) fn total(&mut self) -> f64 {
        let (best, scale) = (self.best(), self.scale);
        if self.listed {
            self.weigh();
            return self.ws.weights.iter().map(|w| f64::from(*w)).sum();
        }
        let ws = &mut *self.ws;
        let mask = self.masked.then_some(&ws.allowed);
        kernels::exp_sums(self.row, mask, best, scale, &mut ws.sums);
        for c in &ws.edits {
            ws.sums[c.id as usize / BLOCK] += f64::from(kernels::exp_one((c.logit - best) * scale));
        }
        ws.sums.iter().sum()
    }

    /// `ln Z` of the candidates relative to the best one, and their entropy, both in nats.
    pub(super) fn entropy(&mut self) -> (f64, f64) {
        let (best, scale) = (self.best(), self.scale);
        let (mut w, mut wd) = match self.listed {
            true => (0.0, 0.0),
            false => kernels::entropy_sums(self.row, self.mask(), best, scale),
        };
        for c in self.few() {
            let d = (c.logit - best) * scale;
            let e = f64::from(kernels::exp_one(d));
            if e > 0.0 {
                (w, wd) = (w + e, wd + e * f64::from(d));
            }
        }
        (w.ln(), w.ln() - wd / w)
    }

    /// Mean and standard deviation of the finite unscaled logits.
    pub(super) fn mean_and_deviation(&mut self) -> (f64, f64) {
        let (sum, n) = self.moment(0.0, false);
        let mean = sum / n;
        let (squares, _) = self.moment(mean as f32, true);
        (mean, (squares / n).sqrt())
    }

    fn moment(&self, shift: f32, square: bool) -> (f64, f64) {
        let (mut sum, n) = match self.listed {
            true => (0.0, 0),
            false => kernels::moment(self.row, self.mask(), shift, square),
        };
        let mut n = n as f64;
        for c in self.few().iter().filter(|c| c.logit.is_finite()) {
            let d = f64::from(c.logit) - f64::from(shift);
            sum += if square { d * d } else { d };
            n += 1.0;
        }
        (sum, n)
    }
}

fn mismatch(what: &str, expected: usize, found: usize) -> Error {
    Error::new(ErrorKind::VocabMismatch, format!("expected {expected} tokens, found {found}")).at(what)
}

/// `exp((logit - best) * scale)` of every candidate, in order.
fn weigh(list: &[Candidate], best: f32, scale: f32, weights: &mut Vec<f32>) {
    weights.clear();
    for chunk in list.chunks(64) {
        let (mut x, mut w) = ([0f32; 64], [0f32; 64]);
        for (x, c) in x.iter_mut().zip(chunk) {
            *x = c.logit;
        }
        kernels::exp_into(&x[..chunk.len()], None, best, scale, &mut w[..chunk.len()]);
        weights.extend_from_slice(&w[..chunk.len()]);
    }
}
