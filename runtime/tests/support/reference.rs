//! A naive executor: the generic forward in plain `f32`, a row at a time, with weights turned to `f32`.
//! It proves the table of architectures by itself, and it is the twin that fast executors are held to.

use super::dequant::floats;
use std::collections::HashMap;
use std::sync::Arc;
use truing::gguf::Tensor;
use truing::model::spec::*;
use truing::model::{CancelFlag, Executor, PAGE_TOKENS, Step, StepOut};
use truing::{Error, ErrorKind, Result};

pub struct Reference {
    spec: Arc<ModelSpec>,
    weights: HashMap<Arc<str>, Vec<f32>>,
    /// Keys and values of one token, `[layer][cell]`.
    keys: Vec<Vec<Vec<f32>>>,
    values: Vec<Vec<Vec<f32>>>,
    n_pages: usize,
    max_rows: usize,
}

/// What one row sees of its branch: cells of positions `0..=pos`.
struct Past<'a> {
    pages: &'a [u32],
    pos: usize,
}

impl Past<'_> {
    fn cell(&self, pos: usize) -> usize {
        self.pages[pos / PAGE_TOKENS] as usize * PAGE_TOKENS + pos % PAGE_TOKENS
    }
}

impl Reference {
    /// `None` if a tensor has a type that is not read here.
    pub fn new(spec: &Arc<ModelSpec>, n_pages: usize, max_rows: usize) -> Option<Self> {
        let n_cells = n_pages * PAGE_TOKENS;
        let empty = vec![vec![Vec::new(); n_cells]; spec.layers.len()];
        let mut me = Self {
            spec: Arc::clone(spec),
            weights: HashMap::new(),
            keys: empty.clone(),
            values: empty,
            n_pages,
            max_rows,
        };
        for t in tensors(spec) {
            if !me.weights.contains_key(&t.name) {
                me.weights.insert(Arc::clone(&t.name), floats(t)?);
            }
        }
        Some(me)
    }

    fn w(&self, t: &Tensor) -> &[f32] {
        &self.weights[&t.name]
    }

    fn row(&mut self, token: u32, past: &Past<'_>, tap: &mut impl FnMut(usize, &[f32])) -> Vec<f32> {
        let spec = Arc::clone(&self.spec);
        let n = spec.n_embd;
        let mut x: Vec<f32> = self.w(&spec.tok_embd)[token as usize * n..][..n].to_vec();
        x.iter_mut().for_each(|v| *v *= spec.embd_scale);
        if let Some(p) = &spec.pos_embd {
            add(&mut x, &self.w(p)[past.pos * n..][..n], 1.0);
        }
        if let Some(norm) = &spec.embd_norm {
            x = self.norm(norm, &x);
        }
        for (il, layer) in spec.layers.iter().enumerate() {
            self.layer(il, layer, &mut x, past);
            tap(il, &x);
        }
        x
    }

    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let spec = &self.spec;
        let mut logits = matmul(self.w(&spec.output), &self.norm(&spec.output_norm, x));
        if let Some(b) = &spec.output_bias {
            add(&mut logits, self.w(b), 1.0);
        }
        logits.iter_mut().for_each(|l| *l = softcap(*l * spec.logit_scale, spec.logit_softcap));
        logits
    }

    fn layer(&mut self, il: usize, layer: &Layer, x: &mut [f32], past: &Past<'_>) {
        let h = self.maybe_norm(&layer.attn_norm, x);
        let attn = self.attention(il, &layer.attn, &h, past);
        let attn = self.maybe_norm(&layer.attn_post_norm, &attn);
        let before = x.to_vec();
        add(x, &attn, layer.residual_scale);
        let input = match layer.residual {
            Residual::Sequential => self.maybe_norm(&layer.ffn_norm, x),
            Residual::Parallel => self.maybe_norm(&layer.ffn_norm, &before),
            Residual::ParallelShared => h,
        };
        let ffn = match &layer.ffn {
            Ffn::Dense(f) => self.dense(f, &input),
            Ffn::Moe(m) => self.moe(m, &input),
        };
        add(x, &self.maybe_norm(&layer.ffn_post_norm, &ffn), layer.residual_scale);
    }

    fn attention(&mut self, il: usize, a: &Attention, h: &[f32], past: &Past<'_>) -> Vec<f32> {
        let (nq, nk) = (a.n_head * a.head_dim_k, a.n_head_kv * a.head_dim_k);
        let (mut q, mut k, mut v) = match &a.qkv {
            Qkv::Separate { q, k, v } => (self.linear(q, h), self.linear(k, h), self.linear(v, h)),
            Qkv::Fused(all) => {
                let mut q = self.linear(all, h);
                let mut k = q.split_off(nq);
                let v = k.split_off(nk);
                (q, k, v)
            }
        };
        if let Some(c) = a.clamp {
            [&mut q, &mut k, &mut v].into_iter().flatten().for_each(|x| *x = x.clamp(-c, c));
        }
        for (heads, norm) in [(&mut q, &a.q_norm), (&mut k, &a.k_norm)] {
            let rope = |heads: &mut Vec<f32>| {
                if let Some(r) = &a.rope {
                    heads.chunks_mut(a.head_dim_k).for_each(|head| self.turn(r, head, past.pos));
                }
            };
            if a.norm_after_rope {
                rope(heads);
            }
            if let Some(norm) = norm {
                self.head_norm(norm, heads, a.head_dim_k);
            }
            if !a.norm_after_rope {
                rope(heads);
            }
        }
        if let Some(t) = a.q_temperature {
            let factor = 1.0 + t.scale * (1.0 + (past.pos / t.every) as f32).ln();
            q.iter_mut().for_each(|x| *x *= factor);
        }
        self.keys[il][past.cell(past.pos)] = k;
        self.values[il][past.cell(past.pos)] = v;
        let heads: Vec<f32> = (0..a.n_head).flat_map(|i| self.head(il, a, i, &q, past)).collect();
        self.linear(&a.output, &self.maybe_norm(&a.sub_norm, &heads))
    }

    /// What one head gathers.
    fn head(&self, il: usize, a: &Attention, i: usize, q: &[f32], past: &Past<'_>) -> Vec<f32> {
        let q = &q[i * a.head_dim_k..][..a.head_dim_k];
        let kv = i / (a.n_head / a.n_head_kv);
        let first = a.window.map_or(0, |w| (past.pos + 1).saturating_sub(w));
        let mut scores: Vec<f32> = (first..=past.pos)
            .map(|p| {
                let k = &self.keys[il][past.cell(p)][kv * a.head_dim_k..][..a.head_dim_k];
                softcap(dot(q, k) * a.scale, a.softcap)
            })
            .collect();
        let sink = a.sinks.as_ref().map(|t| self.w(t)[i]);
        scores.extend(sink);
        let probs = softmax(&scores);
        let mut out = vec![0.0; a.head_dim_v];
        for (p, prob) in (first..=past.pos).zip(probs) {
            add(&mut out, &self.values[il][past.cell(p)][kv * a.head_dim_v..][..a.head_dim_v], prob);
        }
        out
    }

    fn head_norm(&self, n: &HeadNorm, heads: &mut [f32], head_dim: usize) {
        match n.over {
            HeadNormOver::Whole => heads.copy_from_slice(&self.norm(&n.norm, heads)),
            HeadNormOver::PerHead => {
                for (i, head) in heads.chunks_mut(head_dim).enumerate() {
                    normalise(n.norm.kind, n.norm.eps, head);
                    for (t, plus) in [(&n.norm.weight, false), (&n.norm.bias, true)] {
                        let Some(t) = t else { continue };
                        let w = self.w(t);
                        let w = if w.len() == head_dim { w } else { &w[i * head_dim..][..head_dim] };
                        let apply = |(x, w): (&mut f32, &f32)| if plus { *x += w } else { *x *= w };
                        head.iter_mut().zip(w).for_each(apply);
                    }
                }
            }
        }
    }

    fn turn(&self, r: &Rope, head: &mut [f32], pos: usize) {
        let factors = r.freq_factors.as_ref().map(|t| self.w(t));
        let half = r.n_rot / 2;
        for i in 0..half {
            let (a, b) = match r.pairing {
                RopePairing::Adjacent => (2 * i, 2 * i + 1),
                RopePairing::Halves => (i, i + half),
            };
            let plain = pos as f32 * r.freq_base.powf(-2.0 * i as f32 / r.n_rot as f32);
            let (angle, magnitude) = yarn(r, i, plain / factors.map_or(1.0, |f| f[i]));
            let (sin, cos) = angle.sin_cos();
            let (x, y) = (head[a], head[b]);
            head[a] = (x * cos - y * sin) * magnitude;
            head[b] = (x * sin + y * cos) * magnitude;
        }
    }

    fn dense(&self, f: &DenseFfn, x: &[f32]) -> Vec<f32> {
        let mut up = self.linear(&f.up, x);
        let gate = match &f.gate {
            Some(g) => Some(self.linear(g, x)),
            None if f.fused_gate => {
                let tail = up.split_off(up.len() / 2);
                Some(std::mem::replace(&mut up, tail))
            }
            None => None,
        };
        let inner = activate(&f.act, gate, up);
        self.linear(&f.down, &self.maybe_norm(&f.sub_norm, &inner))
    }

    fn moe(&self, m: &MoeFfn, x: &[f32]) -> Vec<f32> {
        let scores = self.linear(&m.router, x);
        let probs: Vec<f32> = match m.gating {
            Gating::Softmax => softmax(&scores),
            Gating::Sigmoid => scores.iter().map(|s| sigmoid(*s)).collect(),
            Gating::SoftmaxAfterTopK => scores,
        };
        let bias = m.choice_bias.as_ref().map(|t| self.w(t));
        let rank = |i: usize| probs[i] + bias.map_or(0.0, |b| b[i]);
        let mut chosen: Vec<usize> = (0..m.n_expert).collect();
        chosen.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
        chosen.truncate(m.n_used);
        let mut weights: Vec<f32> = chosen.iter().map(|i| probs[*i]).collect();
        if m.gating == Gating::SoftmaxAfterTopK {
            weights = softmax(&weights);
        }
        if m.normalise {
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        let mut out = vec![0.0; x.len()];
        for (expert, weight) in chosen.into_iter().zip(weights) {
            let gate = self.expert(&m.gate, expert, m.n_expert, x);
            let inner = activate(&m.act, Some(gate), self.expert(&m.up, expert, m.n_expert, x));
            add(&mut out, &self.expert(&m.down, expert, m.n_expert, &inner), weight * m.weight_scale);
        }
        if let Some(shared) = &m.shared {
            let gate = m.shared_gate.as_ref().map_or(1.0, |t| sigmoid(dot(self.w(t), x)));
            add(&mut out, &self.dense(shared, x), gate);
        }
        out
    }

    fn expert(&self, l: &Linear, i: usize, n: usize, x: &[f32]) -> Vec<f32> {
        let part = |w: &'_ [f32]| (i * w.len() / n)..((i + 1) * w.len() / n);
        let all = self.w(&l.weight);
        self.finish(l, matmul(&all[part(all)], x), |b| part(b))
    }

    fn linear(&self, l: &Linear, x: &[f32]) -> Vec<f32> {
        self.finish(l, matmul(self.w(&l.weight), x), |b| 0..b.len())
    }

    fn finish(
        &self,
        l: &Linear,
        mut y: Vec<f32>,
        part: impl Fn(&[f32]) -> std::ops::Range<usize>,
    ) -> Vec<f32> {
        y.iter_mut().for_each(|v| *v *= l.scale);
        if let Some(t) = &l.bias {
            let b = self.w(t);
            add(&mut y, &b[part(b)], 1.0);
        }
        y
    }

    fn norm(&self, n: &Norm, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        normalise(n.kind, n.eps, &mut x);
        if let Some(w) = &n.weight {
            x.iter_mut().zip(self.w(w)).for_each(|(x, w)| *x *= w);
        }
        if let Some(b) = &n.bias {
            add(&mut x, self.w(b), 1.0);
        }
        x
    }

    fn maybe_norm(&self, n: &Option<Norm>, x: &[f32]) -> Vec<f32> {
        n.as_ref().map_or_else(|| x.to_vec(), |n| self.norm(n, x))
    }
}

impl Executor for Reference {
    fn n_pages(&self) -> usize {
        self.n_pages
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn forward(&mut self, step: &Step<'_>, cancel: &CancelFlag, out: &mut StepOut) -> Result<()> {
        out.logits.clear();
        let mut taps = vec![Vec::new(); step.taps.len()];
        for span in step.spans {
            for i in 0..span.n_rows {
                if cancel.is_cancelled() {
                    return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
                }
                let row = span.first_row + i;
                let wanted = step.outputs.contains(&(row as u32));
                let past = Past { pages: span.pages, pos: span.first_pos + i };
                let x = self.row(step.tokens[row], &past, &mut |il, x| {
                    let tap = step.taps.iter().position(|t| *t as usize == il);
                    tap.filter(|_| wanted).into_iter().for_each(|t| taps[t].extend_from_slice(x));
                });
                if wanted {
                    out.logits.extend(self.logits(&x));
                }
            }
        }
        out.hidden = taps.concat();
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32, n_cells: usize) -> Result<()> {
        for store in self.keys.iter_mut().chain(&mut self.values) {
            for i in 0..n_cells {
                let cell = store[from as usize * PAGE_TOKENS + i].clone();
                store[to as usize * PAGE_TOKENS + i] = cell;
            }
        }
        Ok(())
    }

    fn memory_bytes(&self) -> (usize, usize) {
        (0, 0)
    }
}

fn add(x: &mut [f32], y: &[f32], scale: f32) {
    assert_eq!(x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y * scale);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

fn matmul(w: &[f32], x: &[f32]) -> Vec<f32> {
    w.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn normalise(kind: NormKind, eps: f32, x: &mut [f32]) {
    let n = x.len() as f32;
    if kind == NormKind::Layer {
        let mean = x.iter().sum::<f32>() / n;
        x.iter_mut().for_each(|v| *v -= mean);
    }
    let scale = 1.0 / (x.iter().map(|v| v * v).sum::<f32>() / n + eps).sqrt();
    x.iter_mut().for_each(|v| *v *= scale);
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softcap(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |c| c * (x / c).tanh())
}

/// Angle and magnitude of pair `i`, whose angle without scaling is `plain`.
fn yarn(r: &Rope, i: usize, plain: f32) -> (f32, f32) {
    let scaled = plain * r.freq_scale;
    if r.ext_factor == 0.0 {
        return (scaled, r.attn_factor);
    }
    let dim = |beta: f32| {
        let turns = r.n_ctx_orig as f32 / (beta * std::f32::consts::TAU);
        r.n_rot as f32 * turns.ln() / (2.0 * r.freq_base.ln())
    };
    let low = dim(r.beta_fast).floor().max(0.0);
    let high = dim(r.beta_slow).ceil().min(r.n_rot as f32 - 1.0);
    let ramp = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
    let mix = (1.0 - ramp) * r.ext_factor;
    (scaled * (1.0 - mix) + plain * mix, r.attn_factor * (1.0 + 0.1 * (1.0 / r.freq_scale).ln()))
}

/// `act(gate)·up`, or `act(up)` without a gate.
fn activate(act: &Activation, gate: Option<Vec<f32>>, up: Vec<f32>) -> Vec<f32> {
    if let (Activation::SwigluOai { alpha, limit }, Some(gate)) = (act, &gate) {
        let one = |(g, u): (&f32, &f32)| {
            let g = g.min(*limit);
            g * sigmoid(alpha * g) * (u.clamp(-limit, *limit) + 1.0)
        };
        return gate.iter().zip(&up).map(one).collect();
    }
    match gate {
        Some(gate) => gate.iter().zip(&up).map(|(g, u)| curve(act, *g) * u).collect(),
        None => up.iter().map(|u| curve(act, *u)).collect(),
    }
}

fn curve(act: &Activation, x: f32) -> f32 {
    let softplus = |a: f32| a.exp().ln_1p();
    match act {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::SwigluOai { .. } => panic!("needs a gate"),
        Activation::Xielu { alpha_p, beta, .. } if x > 0.0 => softplus(*alpha_p) * x * x + beta * x,
        Activation::Xielu { alpha_n, beta, eps, .. } => {
            (x.min(*eps).exp_m1() - x) * (beta + softplus(*alpha_n)) + beta * x
        }
    }
}

/// Every tensor of the spec.
fn tensors(spec: &ModelSpec) -> Vec<&Tensor> {
    let mut all = vec![&spec.tok_embd, &spec.output];
    all.extend(spec.pos_embd.iter().chain(&spec.output_bias));
    norms(&mut all, spec.embd_norm.iter().chain([&spec.output_norm]));
    for layer in &spec.layers {
        let l = layer;
        let a = &l.attn;
        norms(
            &mut all,
            [&l.attn_norm, &l.attn_post_norm, &l.ffn_norm, &l.ffn_post_norm].into_iter().flatten(),
        );
        norms(&mut all, a.q_norm.iter().chain(&a.k_norm).map(|n| &n.norm).chain(&a.sub_norm));
        match &a.qkv {
            Qkv::Separate { q, k, v } => linears(&mut all, [q, k, v]),
            Qkv::Fused(qkv) => linears(&mut all, [qkv]),
        }
        linears(&mut all, [&a.output]);
        all.extend(a.sinks.iter().chain(a.rope.iter().flat_map(|r| &r.freq_factors)));
        match &l.ffn {
            Ffn::Dense(f) => dense(&mut all, f),
            Ffn::Moe(m) => {
                linears(&mut all, [&m.router, &m.gate, &m.up, &m.down]);
                all.extend(m.choice_bias.iter().chain(&m.shared_gate));
                m.shared.iter().for_each(|f| dense(&mut all, f));
            }
        }
    }
    all
}

fn dense<'a>(all: &mut Vec<&'a Tensor>, f: &'a DenseFfn) {
    linears(all, f.gate.iter().chain([&f.up, &f.down]));
    norms(all, &f.sub_norm);
}

fn norms<'a>(all: &mut Vec<&'a Tensor>, norms: impl IntoIterator<Item = &'a Norm>) {
    norms.into_iter().for_each(|n| all.extend(n.weight.iter().chain(&n.bias)));
}

fn linears<'a>(all: &mut Vec<&'a Tensor>, linears: impl IntoIterator<Item = &'a Linear>) {
    linears.into_iter().for_each(|l| all.extend([&l.weight].into_iter().chain(&l.bias)));
}
